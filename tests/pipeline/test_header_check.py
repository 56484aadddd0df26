"""What a catalog states is settled by the headers of files: used, told, or refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from catalogs import providers
from catalogs.errors import InvalidInputError
from catalogs.scene import Asset, RejectedScene, StatedValues
from catalogs.stac.footprint_check import raster_area
from catalogs.stac.projection import AssetProjection
from pipeline.grid.grid import Grid
from pipeline.quality import header_check
from pipeline.quality.header_check import SettledScene
from pipeline.reading import asset_opener, cube, raster_header, raster_reader
from pipeline.reading.raster_header import RasterHeader
from tests.support import small_worlds

EPSG, LEFT, TOP = small_worlds.EPSG, small_worlds.LEFT, small_worlds.TOP
TRANSFORM = (10.0, 0.0, LEFT, 0.0, -10.0, TOP)
WKT = rasterio.CRS.from_epsg(EPSG).to_wkt()
HEADER = RasterHeader(
    bands=1, crs_wkt=WKT, transform=TRANSFORM, shape=(64, 64), dtype="uint16", nodata=0.0
)
UNTAGGED = replace(HEADER, nodata=None)
AREA = raster_area(AssetProjection(epsg=EPSG, transform=TRANSFORM, shape=(64, 64)))
UNITS = {"S2L2A": small_worlds.REFLECTANCE, "S1RTC": small_worlds.POWER, "DEM": small_worlds.METRE}
BANDS = {"S2L2A": "B02", "S1RTC": "VV", "DEM": "DEM"}
COLLECTIONS = {"S2L2A": "sentinel-2-l2a", "S1RTC": "sentinel-1-rtc", "DEM": "cop-dem-glo-30"}


def _scene(modality="S2L2A", *, stated=None, provider="planetary-computer", **changes):
    """Return a scene of one asset, as a catalog that agrees with HEADER states it."""
    band = BANDS[modality]
    fields = {name: changes.pop(name) for name in ("footprint", "bbox") if name in changes}
    baseline = changes.pop("baseline", "02.14")
    asset = Asset(
        **{
            "band": band,
            "href": f"/data/{band}.tif",
            "radiometry": UNITS[modality],
            "epsg": EPSG,
            "transform": TRANSFORM,
            "shape": (64, 64),
            "nodata": 0.0 if modality == "S2L2A" else None,
            "stated": StatedValues(**(stated or {})),
        }
        | changes
    )
    footprint = fields.get("footprint", AREA)
    return small_worlds.Scene(
        id="S",
        collection=COLLECTIONS[modality],
        provider=provider,
        modality=modality,
        datetime=small_worlds.dt.datetime(2024, 6, 1, 10, tzinfo=small_worlds.dt.UTC),
        footprint=shapely.geometry.mapping(footprint),
        bbox=fields.get("bbox", footprint.bounds),
        baseline=baseline,
        assets={band: asset},
    )


def _settle(scene, header=HEADER):
    (band,) = scene.assets
    return header_check.settle_scene(scene, {band: header}, region=AREA)


def _settled_asset(scene, header=HEADER):
    """Return the settled asset, and the caveats as one text."""
    result = _settle(scene, header)
    assert isinstance(result, SettledScene), result
    (asset,) = result.scene.assets.values()
    return asset, " ".join(result.caveats)


def _refusal(scene, header=HEADER):
    result = _settle(scene, header)
    assert isinstance(result, RejectedScene)
    return result.reason


def test_a_catalog_that_agrees_with_its_files_leaves_a_scene_as_it_is():
    scene = _scene(stated={"scale": 1e-4, "offset": 0.0, "nodata": 0.0, "dtype": "uint16"})
    for header in (HEADER, UNTAGGED, replace(HEADER, scale=1e-4)):
        result = _settle(scene, header)
        assert isinstance(result, SettledScene)
        assert result.scene.to_dict() == scene.to_dict()
        assert (result.caveats, result.offset_doubt) == ((), None)


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"transform": (LEFT, 10.0, 0.0, TOP, 0.0, -10.0)}, "transform"),  # GDAL's order
        ({"transform": (20.0, 0.0, LEFT, 0.0, -20.0, TOP)}, "transform"),  # CDSE: B07 at 60 m
        ({"transform": (10.0, 0.0, LEFT + 5, 0.0, -10.0, TOP - 5)}, "transform"),  # pixel centres
        ({"transform": (10.0, 0.0, LEFT, 0.0, 10.0, TOP)}, "transform"),
        ({"transform": (10.0, 0.0, LEFT + 0.05, 0.0, -10.0, TOP)}, ""),
        ({"transform": None}, ""),
        ({"shape": (10980, 10980)}, "shape"),
        ({"shape": None}, ""),
        ({"epsg": 32733}, "EPSG:32733"),  # HLS: the southern zone
        ({"epsg": 10857}, "EPSG:10857"),  # Brazil Data Cube: no code of EPSG
    ],
)
def test_the_georeference_is_that_of_the_file(stated, told):
    asset, caveats = _settled_asset(_scene(**stated))
    assert (asset.epsg, asset.shape) == (EPSG, (64, 64))
    assert asset.transform == TRANSFORM
    assert (told in caveats) if told else not caveats


def test_statements_that_differ_in_late_digits_are_told_with_them():
    shifted = (10.0, 0.0, LEFT, 0.0, -10.0, TOP + 0.2)
    for scene, header, pattern in (
        (_scene(stated={"nodata": -3.4028235e38}, nodata=-3.4028235e38),
         replace(HEADER, nodata=-3.4028234663852886e38, dtype="float32"),
         r"nodata (\S+), the file has (\S+)$"),
        (_scene(stated={"scale": 1e-4}), replace(HEADER, scale=1.000002e-4),
         r"scale (\S+), the file has (\S+)$"),
        (_scene(transform=shifted), HEADER, r"transform (\[.*\]), the file has (\[.*\])$"),
    ):  # fmt: skip
        _, caveats = _settled_asset(scene, header)
        stated, actual = re.search(pattern, caveats).groups()
        assert stated != actual


def test_a_rounded_transform_is_that_of_the_catalog_only_where_no_digit_counts():
    rounded = (10.0, 0.0, LEFT + 1e-7, 0.0, -10.0, TOP)
    asset, _ = _settled_asset(_scene(transform=rounded))
    assert asset.transform == rounded


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (replace(HEADER, bands=3), r"its B02 \(/data/B02.tif\) has 3 bands"),
        (replace(HEADER, dtype="complex_int16"), "holds complex numbers"),
        (replace(HEADER, crs_wkt=None), r"its B02 \(/data/B02.tif\) has no coordinate system"),
        (replace(HEADER, description="B08"), "is the band B08 by its own description"),
        (replace(HEADER, transform=(10.0, 0, 700_000.0, 0, -10.0, TOP)), "outside of"),
    ],
)
def test_files_that_are_no_such_raster_are_refused_by_name(header, reason):
    assert re.search(reason, _refusal(_scene(), header))


@pytest.mark.parametrize(
    ("modality", "stated", "header", "nodata"),
    [
        ("S2L2A", 32767.0, replace(HEADER, dtype="int16", nodata=32767.0), (32767.0, None)),
        ("S2L2A", None, replace(HEADER, dtype="int16", nodata=-9999.0), (-9999.0, None)),
        ("S2L2A", 65535.0, replace(HEADER, nodata=65535.0), (65535.0, 0.0)),
        ("S2L2A", 300.0, HEADER, (0.0, None)),
        ("S2L2A", 0.0, UNTAGGED, (0.0, None)),
        ("S2L2A", 32767.0, UNTAGGED, (0.0, 32767.0)),
        ("S2L2A", -9999.0, replace(UNTAGGED, dtype="int16"), (0.0, -9999.0)),
        ("S2L2A", -9999.0, UNTAGGED, (0.0, None)),  # no pixel can hold it
        ("S2L2A", float("nan"), replace(UNTAGGED, dtype="float32"), (0.0, None)),
        ("DEM", -9999.0, replace(UNTAGGED, dtype="float32"), (-9999.0, None)),
        ("S1RTC", 0.0, replace(UNTAGGED, dtype="float32"), (-32768.0, 0.0)),
    ],
)
def test_nodata_is_that_of_the_file_or_no_possible_measurement(modality, stated, header, nodata):
    used = {"S2L2A": 0.0, "DEM": stated, "S1RTC": stated}[modality]
    asset, caveats = _settled_asset(
        _scene(modality, stated={"nodata": stated}, nodata=used), header
    )
    assert (asset.nodata, asset.second_nodata) == nodata
    differs = header.nodata is not None and stated != header.nodata
    assert ("nodata" in caveats) == differs


@pytest.mark.parametrize(("modality", "stated"), [("S2L2A", 300.0), ("DEM", 0.0), ("S2L2A", 1.0)])
def test_a_nodata_value_that_could_be_a_measurement_is_refused_unless_a_table_confirms_it(
    modality, stated, tmp_path
):
    scene = _scene(modality, stated={"nodata": stated})
    assert "nodata: " in _refusal(scene, replace(UNTAGGED, dtype="int16")).replace("`", "") + " "
    asset, _ = _settled_asset(
        replace(scene, provider=_write_table(tmp_path, modality, f"nodata: {stated}")),
        replace(UNTAGGED, dtype="int16"),
    )
    assert asset.nodata == stated


def _write_table(folder, modality, line):
    path = folder / "mine.yaml"
    path.write_text(
        f"collections:\n  {COLLECTIONS[modality]}:\n    modality: {modality}\n"
        f"    names: {{{BANDS[modality]}: {BANDS[modality]}}}\n    {line}\n"
    )
    assert providers.get(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("modality", "stated", "header", "scale"),
    [
        ("DEM", None, replace(UNTAGGED, dtype="int16", scale=0.1), 0.1),
        ("DEM", 1.0, replace(UNTAGGED, dtype="int16", scale=0.01), 0.01),
        ("S1RTC", None, replace(UNTAGGED, dtype="float32"), 1.0),
        ("S2L2A", 1e-4, replace(HEADER, scale=9.99999974e-05), 1e-4),  # rounded to 32 bits
    ],
)
def test_the_scale_is_that_of_the_file(modality, stated, header, scale):
    used = UNITS[modality].scale if stated is None else stated
    radiometry = replace(UNITS[modality], scale=used)
    asset, caveats = _settled_asset(
        _scene(modality, stated={"scale": stated}, radiometry=radiometry), header
    )
    assert asset.radiometry.scale == scale
    assert ("scale" in caveats) == (scale != used)


@pytest.mark.parametrize(
    ("modality", "key", "stated"),
    [
        ("DEM", "scale", 0.1),
        ("S1RTC", "scale", 1e-4),
        ("S2L2A", "scale", 1.0),
        ("S2L2A", "offset", -1000.0),
        ("DEM", "offset", 40.0),
    ],
)
def test_scale_and_offset_that_only_the_catalog_states_are_refused_until_a_table_says_them(
    modality, key, stated, tmp_path
):
    radiometry = replace(UNITS[modality], **{key: stated})
    scene = _scene(modality, stated={key: stated}, radiometry=radiometry)
    header = replace(UNTAGGED, dtype="int16")
    reason = _refusal(scene, header)
    assert f"the {key} of its {BANDS[modality]}" in reason
    assert f"set `{key}:` of the collection in a provider table" in reason
    table = _write_table(tmp_path, modality, f"{key}: {stated}")
    asset, _ = _settled_asset(replace(scene, provider=table), header)
    assert getattr(asset.radiometry, key) == stated


def test_an_offset_that_contradicts_the_baseline_needs_the_pixels():
    stated = replace(small_worlds.REFLECTANCE, offset=-0.1)
    result = _settle(_scene(stated={"offset": -0.1}, radiometry=stated))
    assert "baseline 02.14 implies 0" in result.offset_doubt
    result = _settle(_scene(stated={"offset": -0.1}, radiometry=stated, baseline="05.10"))
    assert result.offset_doubt is None


def test_an_offset_tag_does_not_bring_back_what_a_collection_has_removed():
    scene = replace(
        _scene(stated={"offset": -0.1}, baseline="05.10"), provider="earth-search"
    )  # Earth Search states it in items, and some of its files do
    asset, caveats = _settled_asset(scene, replace(HEADER, offset=-0.1, scale=1e-4))
    assert asset.radiometry.offset == 0
    assert not caveats


@pytest.mark.parametrize(
    ("modality", "header", "reason"),
    [
        ("DEM", replace(UNTAGGED, unit="ft"), "heights in ft"),
        (
            "DEM",
            replace(UNTAGGED, crs_wkt=rasterio.CRS.from_string("EPSG:32633+6360").to_wkt()),
            "heights in US survey foot",
        ),
        ("S1RTC", replace(UNTAGGED, dtype="float32", unit="dB"), "is dB by its own tag"),
    ],
)
def test_unit_tags_that_contradict_the_unit_are_refused(modality, header, reason):
    assert reason in _refusal(_scene(modality), header)


@pytest.mark.parametrize(
    ("dtype", "nodata", "settled"),
    [
        ("uint16", 0.0, None),
        ("uint8", None, None),
        ("int16", -9999.0, "int16"),
        ("uint16", 65535.0, "uint16"),
        ("float32", 0.0, "float32"),
        ("int32", 0.0, "int32"),
    ],
)
def test_the_type_of_a_cube_is_that_of_the_files_and_not_of_the_scale(dtype, nodata, settled):
    asset, _ = _settled_asset(_scene(), replace(HEADER, dtype=dtype, nodata=nodata))
    assert asset.dtype == settled
    assert Asset.from_dict(asset.to_dict()) == asset
    assert ("dtype" in asset.to_dict()) == (settled is not None)


def test_a_footprint_beyond_the_files_becomes_their_extent():
    wide = AREA.buffer(1.0, join_style="mitre")
    result = _settle(_scene(footprint=wide))
    assert shapely.geometry.shape(result.scene.footprint).bounds == pytest.approx(AREA.bounds)
    assert result.scene.bbox == pytest.approx(AREA.bounds)
    assert "footprint that the catalog states reaches to" in " ".join(result.caveats)


def read_bounds(caveats):
    """Return the bounds that caveats state of the footprint and of the file, as text."""
    pattern = r"reaches to (\[[^]]*\]), the file to (\[[^]]*\])"
    return re.search(pattern, " ".join(caveats)).groups()


def test_a_footprint_just_beyond_the_files_is_told_with_digits_that_differ():
    west, south, east, north = AREA.bounds
    result = _settle(_scene(footprint=shapely.box(west, south, east + 0.0005, north)))
    stated, actual = read_bounds(result.caveats)
    assert stated != actual
    assert "corners lie up to 38.1 m outside of the file" in " ".join(result.caveats)


def test_a_footprint_whose_bounds_are_those_of_the_file_is_told_with_the_distance():
    """The bounding box of a granule far from the meridian of its zone leaves it at the corners."""
    transform, shape = (10.0, 0.0, 300_000.0, 0.0, -10.0, 6_200_000.0), (1098, 1098)
    area = raster_area(AssetProjection(epsg=EPSG, transform=transform, shape=shape))
    scene = _scene(transform=transform, shape=shape, footprint=shapely.box(*area.bounds))
    header = replace(HEADER, transform=transform, shape=shape)
    (caveat,) = header_check.settle_scene(scene, {"B02": header}, region=area).caveats
    stated, actual = read_bounds([caveat])
    assert stated == actual
    assert re.search(r"corners lie up to [1-9]\d\d m outside of the file$", caveat), caveat


def test_a_distance_in_a_geographic_system_is_in_degrees():
    transform, shape = (1e-4, 0.0, 15.0, 0.0, -1e-4, 47.0), (100, 100)
    wkt = rasterio.CRS.from_epsg(4326).to_wkt()
    header = replace(HEADER, crs_wkt=wkt, transform=transform, shape=shape, dtype="float32")
    area = shapely.box(15.0, 46.99, 15.01, 47.0)
    scene = _scene("DEM", epsg=4326, transform=transform, shape=shape,
                   footprint=shapely.box(15.0, 46.99, 15.02, 47.0))  # fmt: skip
    (caveat,) = header_check.settle_scene(scene, {"DEM": header}, region=area).caveats
    assert "lie up to 0.01 ° outside" in caveat


def test_a_file_that_covers_a_part_is_told_with_its_extent_and_share():
    scene = _scene()
    truncated = replace(scene.assets["B02"], band="B04", href="/data/B04.tif", shape=(40, 64))
    scene = replace(scene, assets=scene.assets | {"B04": truncated})
    headers = {"B02": HEADER, "B04": replace(HEADER, shape=(40, 64))}
    west, south, east, north = AREA.bounds
    half = shapely.box(west, south, east, (south + north) / 2)
    shares = []
    for mapped_region in (None, half):
        result = header_check.settle_scene(scene, headers, region=AREA, mapped_region=mapped_region)
        (caveat,) = result.caveats
        assert "B04: the footprint" in caveat
        assert "B02" not in caveat
        extent = raster_area(AssetProjection(epsg=EPSG, transform=TRANSFORM, shape=(40, 64)))
        stated, actual = (
            [float(number) for number in text[1:-1].split(",")] for text in read_bounds([caveat])
        )
        assert stated == pytest.approx(AREA.bounds, abs=1e-3)
        assert actual == pytest.approx(extent.bounds, abs=1e-3)
        assert "lie up to 240 m outside of the file" in caveat
        shares.append(re.search(r"covers (\S+) % of the region, the footprint (\S+) %", caveat))
    assert [float(share[1]) for share in shares] == pytest.approx([62.5, 25], abs=0.2)
    assert [share[2] for share in shares] == ["100", "100"]


def test_a_bbox_without_its_footprint_becomes_that_of_the_footprint():
    result = _settle(_scene(bbox=(0.0, 0.0, 1.0, 1.0)))
    assert result.scene.bbox == pytest.approx(AREA.bounds)
    assert "the bbox [0, 0, 1, 1], but its geometry reaches to [15" in " ".join(result.caveats)


def test_bands_that_lie_in_different_places_are_refused():
    scene = _scene()
    other = replace(scene.assets["B02"], band="B04", href="/data/B04.tif")
    scene = replace(scene, assets=scene.assets | {"B04": other})
    elsewhere = replace(HEADER, transform=(10.0, 0.0, LEFT + 3000, 0.0, -10.0, TOP))
    result = header_check.settle_scene(scene, {"B02": HEADER, "B04": elsewhere}, region=AREA)
    assert isinstance(result, RejectedScene)
    assert "its B04 (/data/B04.tif) lies at" in result.reason


def test_an_unused_asset_with_another_extent_does_not_place_the_scene():
    scene = _scene()
    coarse = {"transform": (20.0, 0.0, LEFT, 0.0, -20.0, TOP), "shape": (32, 32)}
    right = replace(scene.assets["B02"], band="B11", **coarse)
    wrong = replace(right, band="B12", transform=(20.0, 0.0, LEFT + 100_000, 0.0, -20.0, TOP))
    scene = replace(scene, assets=scene.assets | {"B11": right, "B12": wrong})
    result = header_check.settle_scene(scene, {"B02": HEADER}, region=AREA)
    assert set(result.scene.assets) == {"B02", "B11"}


# -- reading -------------------------------------------------------------------------------------


def _grid(shift=0, size=32):
    return Grid(epsg=EPSG, resolution=10, left=LEFT + shift, top=TOP, height=size, width=size)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"left": LEFT + 10}, "its transform is"),
        ({"epsg": 32632}, "it is in EPSG:32632"),
        ({"nodata": 7}, "its nodata tag is 7 and not 0"),
        ({"size": 48}, "its shape is"),
    ],
)
def test_a_file_that_was_replaced_after_planning_is_an_error_and_no_pixels(tmp_path, change, fact):
    values = np.full((32, 32), 500, np.uint16)
    scene = small_worlds.optical(tmp_path, "S", {"B02": values})
    size = change.pop("size", 32)
    path = small_worlds.raster(
        tmp_path / "S" / "B02.tif", np.full((size, size), 500, np.uint16), **change
    )
    with pytest.raises(InvalidInputError) as caught:
        cube.load([scene], ["B02"], _grid(), stored=True).compute()
    assert f"S: B02 ({path}) is not as planned: {fact}" in str(caught.value)
    with pytest.raises(InvalidInputError, match="not as planned"):
        raster_reader.read_thumbnail(
            str(path), asset_opener.AssetInfo.from_scene(scene, scene.assets["B02"]), size=16
        )


@pytest.mark.parametrize("resampling", [Resampling.bilinear, Resampling.average])
@pytest.mark.parametrize("resolution", [7.0, 10.0, 30.0])
def test_both_nodata_values_of_an_untagged_file_are_kept_out_of_a_warp(
    tmp_path, resampling, resolution
):
    values = np.full((64, 64), 500, np.int16)
    values[10:20, 10:20] = 0
    values[40:50, 10:20] = -9999
    path = small_worlds.raster(tmp_path / "B02.tif", values)
    asset = replace(
        small_worlds.asset(path, "B02", small_worlds.REFLECTANCE, 0.0),
        second_nodata=-9999.0,
        dtype="int16",
    )
    scene = small_worlds.scene("S", "S2L2A", {"B02": asset})
    info = asset_opener.AssetInfo.from_scene(scene, asset)
    grid = Grid(epsg=EPSG, resolution=resolution, left=LEFT + 3, top=TOP - 3, height=20, width=20)
    read = raster_reader.read(
        str(path), info, grid, resampling=resampling, dtype=np.float32, fill_value=np.nan
    )
    assert set(np.unique(read[np.isfinite(read)])) == {500}
    assert np.isnan(read).any()
    thumbnail = raster_reader.read_thumbnail(str(path), info, size=64)
    assert np.isnan(thumbnail).sum() == 200


def test_a_warped_value_does_not_depend_on_the_type_of_the_other_scenes(tmp_path):
    values = np.random.default_rng(3).integers(1, 5000, (64, 64)).astype(np.uint16)
    scene = small_worlds.optical(tmp_path, "S", {"B02": values})
    signed = small_worlds.optical(tmp_path, "T", {"B02": values.astype(np.int16)})
    signed = replace(signed, assets={"B02": replace(signed.assets["B02"], dtype="int16")})
    grid = Grid(epsg=EPSG, resolution=15, left=LEFT + 4, top=TOP - 4, height=40, width=40)
    alone = cube.load([scene], ["B02"], grid, stored=True)
    beside = cube.load([scene, signed], ["B02"], grid, stored=True)
    assert (alone.dtype, beside.dtype) == (np.uint16, np.float32)
    assert np.array_equal(alone[0].values, np.nan_to_num(beside[0].values))


def test_the_header_of_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "dem.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
        path, "w", driver="GTiff", height=4, width=6, count=1, dtype="int16", nodata=-9999,
        crs=f"EPSG:{EPSG}", transform=from_origin(LEFT, TOP, 10, 10),
    ) as file:  # fmt: skip
        file.write(np.ones((4, 6), np.int16), 1)
        file.write_mask(np.ones((4, 6), np.bool_))
        file.scales, file.offsets, file.units = (0.1,), (5.0,), ("m",)
        file.set_band_description(1, "height")
    info = asset_opener.AssetInfo(scene_id="S", provider="demo", nodata=None)
    header = raster_header.read_header(str(path), info)
    assert header == RasterHeader(
        bands=1,
        crs_wkt=header.crs_wkt,
        transform=TRANSFORM,
        shape=(4, 6),
        dtype="int16",
        nodata=-9999.0,
        scale=0.1,
        offset=5.0,
        unit="m",
        description="height",
        has_mask=True,
    )
    assert header.epsg == EPSG
