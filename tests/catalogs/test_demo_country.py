"""The embedded country: it is deterministic and complete, with all difficulties of real data."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import shapely
from rasterio.warp import Resampling, reproject
from rio_cogeo import cogeo

from catalogs import demo, errors
from catalogs.demo import clouds, country, frame, landcover, passes, relief
from catalogs.legend import LAND_COVER

SEED, SIZE = 3, 512
BANDS = {"B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"}
CLOUD, CLEAR = (8, 9), (4, 5, 6)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("country") / "first"
    calls = []
    land = demo.build(folder, seed=SEED, size=SIZE, progress=lambda *step: calls.append(step))
    return SimpleNamespace(folder=folder, land=land, calls=calls)


@pytest.fixture(scope="module")
def items(built):
    """Return items by collection; every asset has the absolute ``path`` of its file."""
    items_by_collection: dict[str, list] = {}
    for collection in sorted(built.land.catalog.parent.glob("*/collection.json")):
        document = json.loads(collection.read_text())
        links = [link["href"] for link in document["links"] if link["rel"] == "item"]
        items_by_collection[document["id"]] = [
            json.loads((collection.parent / href).read_text()) for href in links
        ]
        for item in items_by_collection[document["id"]]:
            for asset in item["assets"].values():
                asset["path"] = collection.parent / asset["href"]
    return items_by_collection


def select_optical(items, **properties):
    names = {"tile": "s2:mgrs_tile", "baseline": "s2:processing_baseline"}
    return [
        item
        for item in items["sentinel-2-l2a"]
        if all(item["properties"][names[key]] == value for key, value in properties.items())
    ]


def read_asset(item, key):
    with rasterio.open(item["assets"][key]["path"]) as source:
        return source.read(1)


def get_offset(item):
    return 1000 if item["properties"]["s2:processing_baseline"] >= "04.00" else 0


def find_clearest(items, tile):
    return min(
        select_optical(items, tile=tile), key=lambda item: item["properties"]["eo:cloud_cover"]
    )


def compute_digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(
    built, tmp_path, monkeypatch
):
    monkeypatch.setattr(country, "_THREADS", 1)
    demo.build(tmp_path / "second", seed=SEED, size=SIZE)
    assert compute_digests(tmp_path / "second") == compute_digests(built.folder)


def test_a_built_country_is_reused_only_for_the_same_options(built):
    before = built.land.truth.stat().st_mtime_ns
    assert demo.build(built.folder, seed=SEED, size=SIZE) == built.land
    assert built.land.truth.stat().st_mtime_ns == before
    with pytest.raises(errors.InvalidInputError, match="another folder"):
        demo.build(built.folder, seed=SEED + 1, size=SIZE)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(errors.InvalidInputError, match="empty folder"):
        demo.build(tmp_path, seed=SEED, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("seed", "size"), [(-1, 512), (1, 480), (1, 1568), (1, 1000)])
def test_a_size_or_seed_out_of_range_is_refused(tmp_path, seed, size):
    with pytest.raises(errors.InvalidInputError, match="seed" if seed < 0 else "size"):
        demo.build(tmp_path / "x", seed=seed, size=size)


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def interrupt(stage, _done, _total):
        if stage == "optical":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.build(tmp_path / "x", seed=SEED, size=SIZE, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_up_to_the_end(built):
    counts = [step for _, step, _ in built.calls]
    assert counts == sorted(counts)
    assert built.calls[-1] == ("catalog", built.calls[-1][2], built.calls[-1][2])


def test_every_raster_is_a_cog_as_its_item_says(built, items):
    assert cogeo.cog_validate(str(built.land.truth), strict=True)[0]
    for item in (item for group in items.values() for item in group):
        for asset in item["assets"].values():
            valid, cog_errors, cog_warnings = cogeo.cog_validate(str(asset["path"]), strict=True)
            assert valid, (asset["href"], cog_errors, cog_warnings)
            fields = asset if "proj:transform" in asset else item["properties"]
            with rasterio.open(asset["path"]) as source:
                assert list(source.transform)[:6] == fields["proj:transform"][:6]
                assert list(source.shape) == fields["proj:shape"]
                assert source.crs.to_epsg() == item["properties"]["proj:epsg"]


def test_hrefs_are_relative_and_checksums_correct(items):
    for item in (item for group in items.values() for item in group):
        for asset in item["assets"].values():
            assert asset["href"].startswith("./")
            body = asset["path"].read_bytes()
            assert asset["file:size"] == len(body)
            assert asset["file:checksum"] == "1220" + hashlib.sha256(body).hexdigest()


def test_the_catalog_is_self_contained(built, items):
    catalog = pystac.Catalog.from_file(str(built.land.catalog))
    assert {item.id for item in catalog.get_items(recursive=True)} == {
        item["id"] for group in items.values() for item in group
    }
    assert set(items) == {"sentinel-2-l2a", "sentinel-1-rtc", "cop-dem-glo-30"}


def test_sentinel_2_has_its_bands_at_native_resolution(items):
    item = find_clearest(items, "32UQU")
    assert set(item["assets"]) == BANDS | {"SCL"}
    sides = {key: read_asset(item, key).shape[0] for key in item["assets"]}
    assert sides["B02"] == sides["B08"] == SIZE
    assert sides["B05"] == sides["B12"] == sides["SCL"] == SIZE // 2
    assert sides["B01"] == sides["B09"] == -(-SIZE // 6)
    assert not any("raster:bands" in asset for asset in item["assets"].values())
    # ^ as at the provider: the offset follows from the baseline alone


def test_granules_of_two_zones_overlap(items):
    squares = {
        tile: shapely.geometry.shape(find_clearest(items, tile)["geometry"])
        for tile in ("32UQU", "32TQT", "33TTN")
    }
    zones = {item["properties"]["proj:epsg"] for item in items["sentinel-2-l2a"]}
    assert zones == {32632, 32633}
    for first, second in (("32UQU", "32TQT"), ("32UQU", "33TTN"), ("32TQT", "33TTN")):
        assert squares[first].intersection(squares[second]).area > 0.01 * squares[first].area
    for item in items["sentinel-2-l2a"]:
        for asset in item["assets"].values():
            resolution, _, left, _, _, top = asset["proj:transform"]
            assert left % 60 == top % 60 == 0
            assert resolution in {10, 20, 60}


def test_dates_clouds_and_baselines_are_mixed(items):
    main = select_optical(items, tile="32UQU")
    dates = {item["properties"]["datetime"][:10] for item in main}
    assert len(dates) >= 6
    cover = [item["properties"]["eo:cloud_cover"] for item in main]
    assert sum(percentage > 60 for percentage in cover) >= 2
    assert sum(percentage < 20 for percentage in cover) >= 3
    assert {get_offset(item) for item in main} == {0, 1000}
    for item in main:
        assert date.fromisoformat(item["properties"]["datetime"][:10]) >= passes.PERIOD[0]
        assert date.fromisoformat(item["properties"]["datetime"][:10]) <= passes.PERIOD[1]


def test_one_acquisition_was_processed_twice(items):
    groups: dict[tuple, list] = {}
    for item in items["sentinel-2-l2a"]:
        properties = item["properties"]
        groups.setdefault(
            (properties["platform"], properties["datetime"], properties["s2:mgrs_tile"]), []
        ).append(item)
    (duplicates,) = [group for group in groups.values() if len(group) > 1]
    old, new = sorted(duplicates, key=lambda item: item["properties"]["s2:processing_baseline"])
    assert (get_offset(old), get_offset(new)) == (0, 1000)
    assert old["properties"]["s2:generation_time"] < new["properties"]["s2:generation_time"]
    old_values, new_values = (
        read_asset(old, "B04").astype(int),
        read_asset(new, "B04").astype(int) - 1000,
    )
    assert (old_values != new_values).mean() > 0.5
    assert np.median(np.abs(old_values - new_values)) < 40


def test_one_granule_is_cut_by_the_swath(items):
    cut_items = [
        i for i in items["sentinel-2-l2a"] if i["properties"]["s2:nodata_pixel_percentage"] > 0
    ]
    (item,) = cut_items
    assert item["properties"]["s2:mgrs_tile"] == "33TTN"
    values, scl = read_asset(item, "B02"), read_asset(item, "SCL")
    assert 0.1 < (values == 0).mean() < 0.7
    assert np.array_equal(scl == 0, values[1::2, 1::2] == 0)
    valid_counts = (values > 0).sum(axis=1)
    assert valid_counts[0] > valid_counts[-1]
    # ^ a diagonal: the edge moves west towards the south
    square = frame.lay_out(SIZE).granules[2]
    outline = shapely.transform(
        square.outline(), frame.inverse(square.epsg).transform, interleaved=False
    )
    share = shapely.geometry.shape(item["geometry"]).area / outline.area
    assert share == pytest.approx((values > 0).mean(), abs=0.01)


def test_no_other_pixel_is_nodata(items):
    for item in items["sentinel-2-l2a"]:
        if item["properties"]["s2:nodata_pixel_percentage"] == 0:
            assert read_asset(item, "B02").min() > 0
            assert read_asset(item, "B12").min() > 0


def test_one_band_is_missing_from_one_item(items):
    gaps = [(BANDS | {"SCL"}) - set(item["assets"]) for item in items["sentinel-2-l2a"]]
    assert [gap for gap in gaps if gap] == [{"B05"}]


def test_cloud_cover_is_that_of_the_classification(items):
    for item in select_optical(items, tile="32TQT"):
        scl = read_asset(item, "SCL")
        percentage = 100 * np.isin(scl, (8, 9, 10)).mean()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(percentage, abs=1e-4)
        assert set(np.unique(scl)) <= set(range(12))


def test_clouds_are_bright_and_their_shadows_dark(items):
    for item in select_optical(items, tile="32UQU"):
        scl = read_asset(item, "SCL")
        blue, infrared = (
            read_asset(item, key)[::2, ::2].astype(float) - get_offset(item)
            for key in ("B02", "B08")
        )
        cloud, land = np.isin(scl, CLOUD), np.isin(scl, (4, 5))
        if cloud.sum() > 500 and land.sum() > 500:
            assert np.median(blue[cloud]) > 3 * np.median(blue[land])
        shadow = scl == 3
        if shadow.sum() > 500 and land.sum() > 500:
            assert np.median(infrared[shadow]) < 0.75 * np.median(infrared[land])


def test_shadows_fall_away_from_the_sun():
    row, column = clouds._throw(clouds.Sun(azimuth=150.0, zenith=45.0), 1000.0)
    assert row == round(-100 * np.cos(np.radians(30)))
    assert column == -50
    # ^ the sun stands in the south-east, so the shadow lies to the north (fewer rows) and west
    flight = passes.OPTICAL[3]
    sun = clouds.sun_at(flight.sensed, 12.0, 47.8)
    assert 130 < sun.azimuth < 165
    assert 22 < sun.zenith < 35


def test_scenes_with_and_without_the_offset_agree_on_the_ground(items):
    main = [
        i for i in select_optical(items, tile="32UQU") if i["properties"]["eo:cloud_cover"] < 40
    ]
    with_offset, without_offset = (
        [i for i in main if get_offset(i) == value] for value in (1000, 0)
    )
    assert with_offset
    assert without_offset
    for item in main:
        dark = np.quantile(read_asset(item, "B12"), 0.005)
        assert (dark > 900) == (get_offset(item) == 1000)

    def ground(item, key="B03"):
        clear = np.isin(read_asset(item, "SCL"), CLEAR)
        return np.median(read_asset(item, key)[::2, ::2][clear].astype(int) - get_offset(item))

    levels = [ground(item) for item in main]
    assert max(levels) - min(levels) < 300


def test_the_neighbouring_zone_has_the_same_water(items):
    pairs = [(find_clearest(items, "32UQU"), find_clearest(items, "33TTN"))]
    for first, second in pairs:
        masks = []
        for item in (first, second):
            green, infrared = (
                read_asset(item, key).astype(int) - get_offset(item) for key in ("B03", "B08")
            )
            masks.append((green > infrared).astype(np.uint8) + 1)
        reprojected = np.zeros_like(masks[0])
        with (
            rasterio.open(first["assets"]["B03"]["path"]) as first_file,
            rasterio.open(second["assets"]["B03"]["path"]) as second_file,
        ):
            reproject(
                masks[1],
                reprojected,
                src_transform=second_file.transform,
                src_crs=second_file.crs,
                dst_transform=first_file.transform,
                dst_crs=first_file.crs,
                resampling=Resampling.nearest,
            )
        common = reprojected > 0
        assert common.mean() > 0.02
        assert (reprojected[common] == masks[0][common]).mean() > 0.97


def test_overlapping_granules_of_a_pass_are_equal(items):
    plan = frame.lay_out(SIZE)
    upper, lower = plan.granules[:2]
    row_offset = round((upper.top - lower.top) / 10)
    first, second = find_clearest(items, "32UQU"), find_clearest(items, "32TQT")
    if first["properties"]["datetime"] == second["properties"]["datetime"]:
        assert np.array_equal(
            read_asset(first, "B04")[row_offset:], read_asset(second, "B04")[: SIZE - row_offset]
        )
    else:
        pytest.fail("the clearest scenes of the two granules are of different passes")


def test_the_radar_has_both_orbit_directions_in_linear_power(items):
    states = {item["properties"]["sat:orbit_state"] for item in items["sentinel-1-rtc"]}
    assert states == {"ascending", "descending"}
    assert len(items["sentinel-1-rtc"]) >= 4
    for item in items["sentinel-1-rtc"]:
        vv, vh = read_asset(item, "vv"), read_asset(item, "vh")
        valid = vv != -32768
        assert valid.mean() > 0.8
        assert np.array_equal(valid, vh != -32768)
        assert vv[valid].min() > 0
        assert -14 < 10 * np.log10(np.mean(vv[valid])) < -6
        assert 4 < 10 * np.log10(np.mean(vv[valid]) / np.mean(vh[valid])) < 9


def test_speckle_has_the_number_of_looks_of_the_product(items):
    item = items["sentinel-1-rtc"][0]
    with rasterio.open(item["assets"]["vv"]["path"]) as source:
        vv = source.read(1)
    plan = frame.lay_out(SIZE)
    land = relief.shape_land(plan, SEED)
    lake = land.lake & (vv > 0)
    looks = float(vv[lake].mean() ** 2 / vv[lake].var())
    assert looks == pytest.approx(4.4, rel=0.25)


def test_the_truth_holds_every_class_of_the_legend(built):
    plan = frame.lay_out(SIZE)
    with rasterio.open(built.land.truth) as source:
        truth, palette = source.read(1), source.colormap(1)
        assert source.crs.to_epsg() == built.land.epsg == 32632
        assert source.nodata == LAND_COVER.nodata
        assert source.transform == plan.transform
    for entry in LAND_COVER.classes:
        assert palette[entry.code][:3] == entry.color
    assert np.array_equal(truth > 0, plan.covered)
    check_shares(truth[truth > 0])


@pytest.mark.parametrize("seed", [0, 12345])
def test_other_seeds_hold_every_class_too(seed):
    plan = frame.lay_out(SIZE)
    land = landcover.lay(plan, relief.shape_land(plan, seed), seed)
    check_shares(land.code[plan.covered])


def check_shares(codes):
    shares = {entry.name: (codes == entry.code).mean() for entry in LAND_COVER.classes}
    assert shares["nodata"] == shares["clouds"] == 0
    for name in ("water", "trees", "crops", "rangeland"):
        assert shares[name] >= 0.08, name
    for name in ("built", "bare", "flooded_vegetation", "snow_ice"):
        assert shares[name] >= 0.01, name


def test_rivers_run_downhill_in_the_elevation_model(items):
    plan = frame.lay_out(SIZE)
    land = relief.shape_land(plan, SEED)
    arcs = land.reaches.bed.reshape(-1, 3 * relief.CELL)
    assert len(arcs) > 50
    assert (np.diff(arcs, axis=1) <= 1e-3).all()
    row, column = land.reaches.row, land.reaches.column
    is_inside = (row > 8) & (row < plan.height - 8) & (column > 8) & (column < plan.width - 8)
    east, north = plan.transform @ (column[is_inside], row[is_inside])
    to_degrees = pyproj.Transformer.from_crs(32632, 4326, always_xy=True)
    points = np.stack(to_degrees.transform(east, north), axis=1)
    heights = np.full(len(points), np.nan)
    for item in items["cop-dem-glo-30"]:
        west, south, right, upper = item["bbox"]
        in_bbox = (points[:, 0] > west) & (points[:, 0] < right)
        in_bbox &= (points[:, 1] > south) & (points[:, 1] < upper)
        with rasterio.open(item["assets"]["data"]["path"]) as source:
            assert source.dtypes == ("float32",)
            heights[in_bbox] = [value[0] for value in source.sample(points[in_bbox])]
    bed = land.reaches.bed[is_inside]
    assert np.isfinite(heights).all()
    assert np.corrcoef(heights, bed)[0, 1] > 0.99


def test_the_region_is_the_union_of_the_granules(built, items):
    region = shapely.geometry.shape(built.land.region)
    assert region.geom_type == "Polygon"
    assert region.is_valid
    assert region.contains(shapely.Point(12.0, 47.81))
    squares = [
        shapely.geometry.shape(find_clearest(items, t)["geometry"])
        for t in ("32UQU", "32TQT", "33TTN")
    ]
    assert region.symmetric_difference(shapely.unary_union(squares)).area < 1e-6 * region.area


def test_fields_differ_in_vegetation(built, items):
    plan = frame.lay_out(SIZE)
    upper = plan.granules[0]
    row, column = plan.offset(upper)
    with rasterio.open(built.land.truth) as source:
        truth = source.read(1)[row : row + SIZE, column : column + SIZE]
    item = find_clearest(items, "32UQU")
    red, infrared = (
        read_asset(item, key).astype(float) - get_offset(item) for key in ("B04", "B08")
    )
    ndvi = (infrared - red) / (infrared + red)
    fields, woods = ndvi[truth == landcover.CROPS], ndvi[truth == landcover.TREES]
    assert np.ptp(np.quantile(fields, [0.05, 0.95])) > 0.25
    assert np.median(woods) > 0.6
    assert Path(built.folder / "country.json").is_file()
