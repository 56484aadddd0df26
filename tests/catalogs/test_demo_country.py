"""The embedded country: deterministic, whole, and with everything that reality contains."""

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

from catalogs import demo, errors, legend
from catalogs.demo import clouds, country, frame, landcover, passes, relief

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
    """Items by collection; every asset gains the absolute ``path`` of its file."""
    found: dict[str, list] = {}
    for collection in sorted(built.land.catalog.parent.glob("*/collection.json")):
        document = json.loads(collection.read_text())
        links = [link["href"] for link in document["links"] if link["rel"] == "item"]
        found[document["id"]] = [
            json.loads((collection.parent / href).read_text()) for href in links
        ]
        for item in found[document["id"]]:
            for asset in item["assets"].values():
                asset["path"] = collection.parent / asset["href"]
    return found


def optical(items, **wanted):
    names = {"tile": "s2:mgrs_tile", "baseline": "s2:processing_baseline"}
    return [
        item
        for item in items["sentinel-2-l2a"]
        if all(item["properties"][names[key]] == value for key, value in wanted.items())
    ]


def read(item, key):
    with rasterio.open(item["assets"][key]["path"]) as source:
        return source.read(1)


def offset(item):
    return 1000 if item["properties"]["s2:processing_baseline"] >= "04.00" else 0


def clearest(items, tile):
    return min(optical(items, tile=tile), key=lambda item: item["properties"]["eo:cloud_cover"])


def digests(folder):
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
    assert digests(tmp_path / "second") == digests(built.folder)


def test_a_built_country_is_found_again_and_never_mistaken(built):
    before = built.land.truth.stat().st_mtime_ns
    assert demo.build(built.folder, seed=SEED, size=SIZE) == built.land
    assert built.land.truth.stat().st_mtime_ns == before
    with pytest.raises(errors.InvalidInputError, match="another folder"):
        demo.build(built.folder, seed=SEED + 1, size=SIZE)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
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
    done = [step for _, step, _ in built.calls]
    assert done == sorted(done)
    assert built.calls[-1] == ("catalog", built.calls[-1][2], built.calls[-1][2])


def test_every_raster_is_a_cog_as_its_item_says(built, items):
    assert cogeo.cog_validate(str(built.land.truth), strict=True)[0]
    for item in (item for group in items.values() for item in group):
        for asset in item["assets"].values():
            valid, wrong, odd = cogeo.cog_validate(str(asset["path"]), strict=True)
            assert valid, (asset["href"], wrong, odd)
            fields = asset if "proj:transform" in asset else item["properties"]
            with rasterio.open(asset["path"]) as source:
                assert list(source.transform)[:6] == fields["proj:transform"][:6]
                assert list(source.shape) == fields["proj:shape"]
                assert source.crs.to_epsg() == item["properties"]["proj:epsg"]


def test_hrefs_are_relative_and_checksums_true(items):
    for item in (item for group in items.values() for item in group):
        for asset in item["assets"].values():
            assert asset["href"].startswith("./")
            body = asset["path"].read_bytes()
            assert asset["file:size"] == len(body)
            assert asset["file:checksum"] == "1220" + hashlib.sha256(body).hexdigest()


def test_the_catalog_stands_by_itself(built, items):
    catalog = pystac.Catalog.from_file(str(built.land.catalog))
    assert {item.id for item in catalog.get_items(recursive=True)} == {
        item["id"] for group in items.values() for item in group
    }
    assert set(items) == {"sentinel-2-l2a", "sentinel-1-rtc", "cop-dem-glo-30"}


def test_sentinel_2_has_its_bands_at_native_resolution(items):
    item = clearest(items, "32UQU")
    assert set(item["assets"]) == BANDS | {"SCL"}
    sides = {key: read(item, key).shape[0] for key in item["assets"]}
    assert sides["B02"] == sides["B08"] == SIZE
    assert sides["B05"] == sides["B12"] == sides["SCL"] == SIZE // 2
    assert sides["B01"] == sides["B09"] == -(-SIZE // 6)
    assert not any("raster:bands" in asset for asset in item["assets"].values())
    # ^ as at the provider: the offset follows from the baseline alone


def test_granules_of_two_zones_overlap(items):
    squares = {
        tile: shapely.geometry.shape(clearest(items, tile)["geometry"])
        for tile in ("32UQU", "32TQT", "33TTN")
    }
    zones = {item["properties"]["proj:epsg"] for item in items["sentinel-2-l2a"]}
    assert zones == {32632, 32633}
    for first, second in (("32UQU", "32TQT"), ("32UQU", "33TTN"), ("32TQT", "33TTN")):
        assert squares[first].intersection(squares[second]).area > 0.01 * squares[first].area
    for item in items["sentinel-2-l2a"]:
        for asset in item["assets"].values():
            step, _, left, _, _, top = asset["proj:transform"]
            assert left % 60 == top % 60 == 0
            assert step in {10, 20, 60}


def test_dates_clouds_and_baselines_are_mixed(items):
    main = optical(items, tile="32UQU")
    dates = {item["properties"]["datetime"][:10] for item in main}
    assert len(dates) >= 6
    cover = [item["properties"]["eo:cloud_cover"] for item in main]
    assert sum(share > 60 for share in cover) >= 2
    assert sum(share < 20 for share in cover) >= 3
    assert {offset(item) for item in main} == {0, 1000}
    for item in main:
        assert date.fromisoformat(item["properties"]["datetime"][:10]) >= passes.PERIOD[0]
        assert date.fromisoformat(item["properties"]["datetime"][:10]) <= passes.PERIOD[1]


def test_one_acquisition_comes_twice(items):
    groups: dict[tuple, list] = {}
    for item in items["sentinel-2-l2a"]:
        facts = item["properties"]
        groups.setdefault((facts["platform"], facts["datetime"], facts["s2:mgrs_tile"]), []).append(
            item
        )
    (twins,) = [group for group in groups.values() if len(group) > 1]
    old, new = sorted(twins, key=lambda item: item["properties"]["s2:processing_baseline"])
    assert (offset(old), offset(new)) == (0, 1000)
    assert old["properties"]["s2:generation_time"] < new["properties"]["s2:generation_time"]
    before, after = read(old, "B04").astype(int), read(new, "B04").astype(int) - 1000
    assert (before != after).mean() > 0.5
    assert np.median(np.abs(before - after)) < 40


def test_one_granule_is_cut_by_the_swath(items):
    cut = [i for i in items["sentinel-2-l2a"] if i["properties"]["s2:nodata_pixel_percentage"] > 0]
    (item,) = cut
    assert item["properties"]["s2:mgrs_tile"] == "33TTN"
    numbers, scl = read(item, "B02"), read(item, "SCL")
    assert 0.1 < (numbers == 0).mean() < 0.7
    assert np.array_equal(scl == 0, numbers[1::2, 1::2] == 0)
    first = (numbers > 0).sum(axis=1)
    assert first[0] > first[-1]
    # ^ a diagonal: the edge moves west towards the south
    square = frame.lay_out(SIZE).granules[2]
    whole = shapely.transform(
        square.outline(), frame.inverse(square.epsg).transform, interleaved=False
    )
    share = shapely.geometry.shape(item["geometry"]).area / whole.area
    assert share == pytest.approx((numbers > 0).mean(), abs=0.01)


def test_no_other_pixel_is_nodata(items):
    for item in items["sentinel-2-l2a"]:
        if item["properties"]["s2:nodata_pixel_percentage"] == 0:
            assert read(item, "B02").min() > 0
            assert read(item, "B12").min() > 0


def test_one_band_is_missing_from_one_item(items):
    gaps = [(BANDS | {"SCL"}) - set(item["assets"]) for item in items["sentinel-2-l2a"]]
    assert [gap for gap in gaps if gap] == [{"B05"}]


def test_cloud_cover_is_that_of_the_classification(items):
    for item in optical(items, tile="32TQT"):
        scl = read(item, "SCL")
        share = 100 * np.isin(scl, (8, 9, 10)).mean()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(share, abs=1e-4)
        assert set(np.unique(scl)) <= set(range(12))


def test_clouds_are_bright_and_their_shadows_dark(items):
    for item in optical(items, tile="32UQU"):
        scl = read(item, "SCL")
        blue, infrared = (
            read(item, key)[::2, ::2].astype(float) - offset(item) for key in ("B02", "B08")
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
    main = [i for i in optical(items, tile="32UQU") if i["properties"]["eo:cloud_cover"] < 40]
    raised, plain = ([i for i in main if offset(i) == value] for value in (1000, 0))
    assert raised
    assert plain
    for item in main:
        dark = np.quantile(read(item, "B12"), 0.005)
        assert (dark > 900) == (offset(item) == 1000)

    def ground(item, key="B03"):
        clear = np.isin(read(item, "SCL"), CLEAR)
        return np.median(read(item, key)[::2, ::2][clear].astype(int) - offset(item))

    levels = [ground(item) for item in main]
    assert max(levels) - min(levels) < 300


def test_the_neighbouring_zone_sees_the_same_water(items):
    pairs = [(clearest(items, "32UQU"), clearest(items, "33TTN"))]
    for first, second in pairs:
        masks = []
        for item in (first, second):
            green, infrared = (read(item, key).astype(int) - offset(item) for key in ("B03", "B08"))
            masks.append((green > infrared).astype(np.uint8) + 1)
        moved = np.zeros_like(masks[0])
        with (
            rasterio.open(first["assets"]["B03"]["path"]) as here,
            rasterio.open(second["assets"]["B03"]["path"]) as there,
        ):
            reproject(
                masks[1],
                moved,
                src_transform=there.transform,
                src_crs=there.crs,
                dst_transform=here.transform,
                dst_crs=here.crs,
                resampling=Resampling.nearest,
            )
        both = moved > 0
        assert both.mean() > 0.02
        assert (moved[both] == masks[0][both]).mean() > 0.97


def test_overlapping_granules_of_a_pass_are_equal(items):
    plan = frame.lay_out(SIZE)
    upper, lower = plan.granules[:2]
    down = round((upper.top - lower.top) / 10)
    first, second = clearest(items, "32UQU"), clearest(items, "32TQT")
    if first["properties"]["datetime"] == second["properties"]["datetime"]:
        assert np.array_equal(read(first, "B04")[down:], read(second, "B04")[: SIZE - down])
    else:
        pytest.fail("the clearest scenes of the two granules are of different passes")


def test_the_radar_looks_both_ways_in_linear_power(items):
    states = {item["properties"]["sat:orbit_state"] for item in items["sentinel-1-rtc"]}
    assert states == {"ascending", "descending"}
    assert len(items["sentinel-1-rtc"]) >= 4
    for item in items["sentinel-1-rtc"]:
        vv, vh = read(item, "vv"), read(item, "vh")
        seen = vv != -32768
        assert seen.mean() > 0.8
        assert np.array_equal(seen, vh != -32768)
        assert vv[seen].min() > 0
        assert -14 < 10 * np.log10(np.mean(vv[seen])) < -6
        assert 4 < 10 * np.log10(np.mean(vv[seen]) / np.mean(vh[seen])) < 9


def test_speckle_has_the_looks_of_the_product(items):
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
        assert source.nodata == legend.NODATA
        assert source.transform == plan.transform
    for entry in legend.CLASSES:
        assert palette[entry.code][:3] == entry.color
    assert np.array_equal(truth > 0, plan.covered)
    check_shares(truth[truth > 0])


@pytest.mark.parametrize("seed", [0, 12345])
def test_other_seeds_hold_every_class_too(seed):
    plan = frame.lay_out(SIZE)
    land = landcover.lay(plan, relief.shape_land(plan, seed), seed)
    check_shares(land.code[plan.covered])


def check_shares(codes):
    share = {entry.name: (codes == entry.code).mean() for entry in legend.CLASSES}
    assert share["nodata"] == share["clouds"] == 0
    for name in ("water", "trees", "crops", "rangeland"):
        assert share[name] >= 0.08, name
    for name in ("built", "bare", "flooded_vegetation", "snow_ice"):
        assert share[name] >= 0.01, name


def test_rivers_run_downhill_and_the_elevation_model_knows_it(items):
    plan = frame.lay_out(SIZE)
    land = relief.shape_land(plan, SEED)
    arcs = land.reaches.bed.reshape(-1, 3 * relief.CELL)
    assert len(arcs) > 50
    assert (np.diff(arcs, axis=1) <= 1e-3).all()
    row, column = land.reaches.row, land.reaches.column
    inside = (row > 8) & (row < plan.height - 8) & (column > 8) & (column < plan.width - 8)
    east, north = plan.transform @ (column[inside], row[inside])
    to_degrees = pyproj.Transformer.from_crs(32632, 4326, always_xy=True)
    points = np.stack(to_degrees.transform(east, north), axis=1)
    found = np.full(len(points), np.nan)
    for item in items["cop-dem-glo-30"]:
        west, south, right, upper = item["bbox"]
        here = (points[:, 0] > west) & (points[:, 0] < right)
        here &= (points[:, 1] > south) & (points[:, 1] < upper)
        with rasterio.open(item["assets"]["data"]["path"]) as source:
            assert source.dtypes == ("float32",)
            found[here] = [value[0] for value in source.sample(points[here])]
    bed = land.reaches.bed[inside]
    assert np.isfinite(found).all()
    assert np.corrcoef(found, bed)[0, 1] > 0.99


def test_the_region_is_what_the_granules_cover(built, items):
    region = shapely.geometry.shape(built.land.region)
    assert region.geom_type == "Polygon"
    assert region.is_valid
    assert region.contains(shapely.Point(12.0, 47.81))
    squares = [
        shapely.geometry.shape(clearest(items, t)["geometry"]) for t in ("32UQU", "32TQT", "33TTN")
    ]
    assert region.symmetric_difference(shapely.unary_union(squares)).area < 1e-6 * region.area


def test_fields_are_many_and_differ(built, items):
    plan = frame.lay_out(SIZE)
    upper = plan.granules[0]
    row, column = plan.offset(upper)
    with rasterio.open(built.land.truth) as source:
        truth = source.read(1)[row : row + SIZE, column : column + SIZE]
    item = clearest(items, "32UQU")
    red, infrared = (read(item, key).astype(float) - offset(item) for key in ("B04", "B08"))
    green = (infrared - red) / (infrared + red)
    fields, woods = green[truth == landcover.CROPS], green[truth == landcover.TREES]
    assert np.ptp(np.quantile(fields, [0.05, 0.95])) > 0.25
    assert np.median(woods) > 0.6
    assert Path(built.folder / "country.json").is_file()
