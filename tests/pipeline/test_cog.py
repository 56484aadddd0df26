"""COGs: valid, complete, equal to the pixels written, and readable with class names."""

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rio_cogeo.cogeo import cog_validate

from catalogs.errors import TerramosaicError
from catalogs.legend import LAND_COVER
from pipeline import layer_table
from pipeline.grid.grid import Grid
from pipeline.runtime import atomic_files
from pipeline.storage import band_statistics, cog

CODES = [entry.code for entry in LAND_COVER.classes]
SHAPES = [(1, 1), (300, 7), (512, 512), (513, 40), (900, 1300)]


def make_grid(height, width, resolution=10.0):
    return Grid(
        epsg=32632,
        resolution=resolution,
        left=790236.04,
        top=6290000.0,
        height=height,
        width=width,
    )


def make_pixels(layer, bands, height, width, seed=0):
    rng = np.random.default_rng(seed)
    shape = (bands, height, width)
    if layer.has_legend:
        blocks = rng.choice(CODES, (bands, -(-height // 9), -(-width // 9)))
        return blocks.repeat(9, 1).repeat(9, 2)[:, :height, :width].astype(layer.dtype)
    if layer.dtype == "float32":
        values = rng.integers(0, 9, shape).astype("float32") / 16
        values[:, : height // 3] = np.nan
        return values
    values = rng.integers(0, 101, shape).astype(layer.dtype)
    values[:, :, : width // 4] = layer.fill_value
    return values


def write_layer(path, layer, values, **options):
    names = layer.bands or tuple(f"band_{number}" for number in range(len(values)))
    if layer.bands:
        options.setdefault("bands", ())
    options.setdefault("bands", names)
    return cog.write_cog(
        path.parent,
        path.name,
        make_grid(*values.shape[1:]),
        layer,
        lambda first, last: values[:, first:last],
        **options,
    )


@pytest.mark.parametrize("layer", layer_table.list_layers(), ids=lambda layer: layer.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_layer_and_shape_is_a_strictly_valid_cog_with_its_pixels(tmp_path, layer, shape):
    values = make_pixels(layer, len(layer.bands) or 3, *shape)
    path = tmp_path / f"{layer.name}.tif"
    info = write_layer(path, layer, values)
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as source:
        assert np.array_equal(source.read(), values, equal_nan=layer.dtype == "float32")
        assert source.crs.to_epsg() == 32632
        assert source.transform == make_grid(*shape).transform
        assert source.dtypes[0] == layer.dtype
        assert source.nodata == layer.nodata or np.isnan([source.nodata, layer.nodata]).all()
        assert source.scales == (layer.scale,) * len(values)
        assert source.descriptions == (layer.bands or ("band_0", "band_1", "band_2"))
        assert source.tags()["LAYER"] == layer.name
        assert bool(source.overviews(1)) == (max(shape) > 512)
    assert info.sha256 == atomic_files.sha256(path)
    assert info.size == path.stat().st_size


def test_colours_and_nodata_are_read_back(tmp_path):
    layer = layer_table.get("land_cover")
    write_layer(tmp_path / "map.tif", layer, make_pixels(layer, 1, 700, 700))
    with rasterio.open(tmp_path / "map.tif") as source:
        table = source.colormap(1)
        assert source.colorinterp[0] == rasterio.enums.ColorInterp.palette
        for level in range(len(source.overviews(1))):
            with rasterio.open(tmp_path / "map.tif", overview_level=level) as overview:
                assert overview.colormap(1) == table
    for entry in LAND_COVER.classes:
        assert table[entry.code] == (*entry.color, 255 if entry.code else 0)


@pytest.mark.parametrize("name", ["land_cover", "second_class", "last_observed", "inputs_used"])
def test_overviews_of_labels_hold_only_labels_of_the_full_map(tmp_path, name):
    layer = layer_table.get(name)
    rng = np.random.default_rng(5)
    values = rng.choice([0, 2, 5, 11], (1, 1030, 700)).astype(layer.dtype)
    path = tmp_path / "map.tif"
    write_layer(path, layer, values)
    with rasterio.open(path) as source:
        levels = len(source.overviews(1))
    assert levels == 2
    for level in range(levels):
        with rasterio.open(path, overview_level=level) as overview:
            assert set(np.unique(overview.read())) <= set(np.unique(values))


def test_a_labels_overview_is_the_most_frequent_label(tmp_path):
    layer = layer_table.get("land_cover")
    quarter = np.array([[5, 5], [5, 2]], "uint8")
    values = np.tile(quarter, (400, 400))[None]
    write_layer(tmp_path / "map.tif", layer, values)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as overview:
        assert (overview.read() == 5).all()


@pytest.mark.parametrize("name", ["confidence", "observations", "probabilities", "composite_DEM"])
def test_overviews_average_without_nodata(tmp_path, name):
    layer = layer_table.get(name)
    quarter = np.full((2, 2), 40, layer.dtype)
    quarter[0, 0] = layer.fill_value
    values = np.tile(quarter, (400, 400))[None]
    write_layer(tmp_path / "map.tif", layer, values)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as overview:
        assert (overview.read() == 40).all()


def test_the_same_pixels_give_the_same_bytes(tmp_path):
    for name in ("land_cover", "probabilities", "composite_S1RTC"):
        layer = layer_table.get(name)
        values = make_pixels(layer, len(layer.bands) or 2, 530, 600)
        first = write_layer(tmp_path / "a" / "x.tif", layer, values, tags={"B": "2", "A": "1"})
        second = write_layer(tmp_path / "b" / "x.tif", layer, values, tags={"A": "1", "B": "2"})
        assert first == second
        values[0, 3, 400] = 7
        third = write_layer(tmp_path / "a" / "x.tif", layer, values, tags={"B": "2", "A": "1"})
        assert third.sha256 != first.sha256


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=hnp.arrays(
        "int16",
        st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
        elements=st.integers(-32768, 32767),
    )
)
def test_pixels_and_statistics_equal_those_written(tmp_path, values):
    layer = layer_table.get("composite_S2L2A")
    info = write_layer(tmp_path / "x.tif", layer, values)
    with rasterio.open(tmp_path / "x.tif") as source:
        assert np.array_equal(source.read(), values)
    for band, statistics in zip(values, info.statistics, strict=True):
        valid = band[band != -32768].astype(float)
        assert (statistics.valid, statistics.total) == (valid.size, band.size)
        if valid.size:
            actual = (statistics.minimum, statistics.maximum, statistics.mean, statistics.stddev)
            expected = (valid.min(), valid.max(), valid.mean(), valid.std())
            assert actual == pytest.approx(expected, rel=1e-9, abs=1e-9)
        else:
            assert statistics.minimum is None


def test_statistics_over_many_strips(tmp_path):
    layer = layer_table.get("composite_S1RTC")
    values = make_pixels(layer, 2, 1300, 60)
    info = write_layer(tmp_path / "x.tif", layer, values)
    for band, statistics in zip(values.astype(float), info.statistics, strict=True):
        actual = (statistics.mean, statistics.stddev)
        assert actual == pytest.approx((np.nanmean(band), np.nanstd(band)), rel=1e-9)
        assert statistics.valid_percent == pytest.approx(100 * np.isfinite(band).mean())
        assert band_statistics.BandStatistics.from_dict(statistics.to_dict()) == statistics


def test_strips_are_read_once_each_from_top_to_bottom(tmp_path):
    strips = []

    def read_strip(first, last):
        strips.append((first, last))
        return np.zeros((1, last - first, 5), "uint8")

    cog.write_cog(tmp_path, "x.tif", make_grid(1100, 5), layer_table.get("land_cover"), read_strip)
    assert strips == [(0, 512), (512, 1024), (1024, 1100)]


def test_a_strip_of_wrong_shape_or_type_is_refused_and_leaves_no_file(tmp_path):
    layer = layer_table.get("land_cover")
    for strip in (np.zeros((1, 4, 9), "uint8"), np.zeros((1, 5, 5), "int16")):
        with pytest.raises(ValueError, match=r"needed are uint8 \(1, 5, 5\)"):
            cog.write_cog(tmp_path, "x.tif", make_grid(5, 5), layer, lambda *_, strip=strip: strip)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_reads_back_differently_is_refused_and_leaves_no_file(tmp_path, monkeypatch):
    layer = layer_table.get("confidence")
    convert = cog._convert_to_cog

    def convert_spoilt_draft(draft, finished, layer, side):
        with rasterio.open(draft, "r+") as source:
            source.write(np.full((1, 1, 1), 9, "uint8"), window=((0, 1), (0, 1)))
        convert(draft, finished, layer, side)

    monkeypatch.setattr(cog, "_convert_to_cog", convert_spoilt_draft)
    with pytest.raises(TerramosaicError, match="differ from those written"):
        write_layer(tmp_path / "x.tif", layer, make_pixels(layer, 1, 20, 20))
    assert list(tmp_path.iterdir()) == []


KILLED_WRITER = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from pipeline.grid.grid import Grid
    from pipeline import layer_table
    from pipeline.runtime import atomic_files
    from pipeline.storage import cog

    where, folder = sys.argv[1], Path(sys.argv[2])
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    grid = Grid(epsg=32632, resolution=10, left=0, top=0, height=1100, width=60)
    def read(first, last):
        if where == "strip" and first:
            die()
        return np.ones((1, last - first, 60), "uint8")
    if where == "check":
        cog._verify_cog = die
    if where == "promote":
        atomic_files.move_into_place = die
    cog.write_cog(folder, "x.tif", grid, layer_table.get("confidence"), read)
""")


@pytest.mark.parametrize("stage", ["strip", "check", "promote"])
def test_a_killed_writer_leaves_no_file_under_the_final_name(tmp_path, stage):
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, stage, str(tmp_path)],
        cwd=root,
        check=False,
        timeout=60,
    )
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "x.tif").exists()
    assert all(path.name.startswith(atomic_files.TEMP_PREFIX) for path in tmp_path.iterdir())
    assert atomic_files.remove_leftovers(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_attribute_table_counts_every_class(tmp_path):
    layer = layer_table.get("land_cover")
    values = np.array([[[0, 1, 1, 2], [5, 5, 5, 5]]], "uint8")
    info = write_layer(tmp_path / "x.tif", layer, values)
    sidecar = tmp_path / "x.tif.aux.xml"
    assert info.sidecar_sha256 == atomic_files.sha256(sidecar)
    table = ET.parse(sidecar).find(".//GDALRasterAttributeTable")
    field_names = [column.findtext("Name") for column in table.iter("FieldDefn")]
    rows = [
        dict(zip(field_names, [cell.text for cell in row], strict=True))
        for row in table.iter("Row")
    ]
    assert [int(row["Value"]) for row in rows] == CODES
    assert [row["Class_name"] for row in rows] == [entry.title for entry in LAND_COVER.classes]
    assert {int(row["Value"]): int(row["Count"]) for row in rows if row["Count"] != "0"} == {
        0: 1,
        1: 2,
        2: 1,
        5: 4,
    }
    crops = next(row for row in rows if row["Value"] == "5")
    assert float(crops["Area_km2"]) == pytest.approx(4 * 100 / 1e6)
    assert float(crops["Area_perc"]) == pytest.approx(100 * 4 / 7, abs=1e-4)
    assert sum(float(row["Area_perc"]) for row in rows) == pytest.approx(100, abs=1e-3)


def test_gdal_finds_class_names_and_attribute_table(tmp_path):
    folder = Path(rasterio.__file__).parents[1] / "rasterio.libs"
    libraries = sorted(folder.glob("libgdal*.so*"))
    if not libraries:
        pytest.skip("rasterio was not installed from a wheel: no GDAL library beside it")
    gdal = ctypes.CDLL(str(libraries[0]))
    for name, result, arguments in (
        ("GDALOpen", ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)),
        ("GDALGetRasterBand", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)),
        ("GDALGetRasterCategoryNames", ctypes.POINTER(ctypes.c_char_p), (ctypes.c_void_p,)),
        ("GDALGetDefaultRAT", ctypes.c_void_p, (ctypes.c_void_p,)),
        ("GDALRATGetRowCount", ctypes.c_int, (ctypes.c_void_p,)),
        (
            "GDALRATGetValueAsString",
            ctypes.c_char_p,
            (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
        ),
        ("GDALClose", None, (ctypes.c_void_p,)),
    ):
        function = getattr(gdal, name)
        function.restype, function.argtypes = result, arguments
    layer = layer_table.get("land_cover")
    write_layer(tmp_path / "x.tif", layer, make_pixels(layer, 1, 30, 30))
    gdal.GDALAllRegister()
    dataset = gdal.GDALOpen(os.fsencode(tmp_path / "x.tif"), 0)
    band = gdal.GDALGetRasterBand(dataset, 1)
    table = gdal.GDALGetDefaultRAT(band)
    names = gdal.GDALGetRasterCategoryNames(band)
    # ^ in this order: GDAL opens the sidecar at the first request for a table or metadata
    rows = {
        int(gdal.GDALRATGetValueAsString(table, row, 0)): gdal.GDALRATGetValueAsString(
            table, row, 2
        ).decode()
        for row in range(gdal.GDALRATGetRowCount(table))
    }
    categories = {entry.code: names[entry.code].decode() for entry in LAND_COVER.classes}
    gdal.GDALClose(dataset)
    titles = {entry.code: entry.title for entry in LAND_COVER.classes}
    assert categories == titles
    assert rows == titles


def test_layers_state_their_properties():
    for layer in layer_table.list_layers():
        assert layer_table.get(layer.name) is layer
        assert layer.fill_value.dtype == layer.dtype
        assert layer.is_categorical == (layer.has_legend or layer.overview_resampling == "mode")
        assert layer.valid_mask(np.array([layer.fill_value, 1], layer.dtype)).tolist() == [
            False,
            True,
        ]
    with pytest.raises(ValueError, match="the layers are: land_cover, confidence"):
        layer_table.get("elevation")
    with pytest.raises(ValueError, match="pass their names"):
        layer_table.get("probabilities").band_names()
    with pytest.raises(ValueError, match="has the bands"):
        layer_table.get("margin").band_names(("other",))


def test_files_are_written_completely_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    atomic_files.write_json(path, {"area": "Århus"})
    assert path.read_text(encoding="utf-8") == '{\n  "area": "Århus"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_files.write_json(path, {"share": float("nan")})
    monkeypatch.setattr(
        atomic_files, "fsync", lambda path: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        atomic_files.write_atomic(path, b"half")
    assert b"rhus" in path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("count", "side"), [(3, 512), (16, 512), (17, 256), (65, 128), (768, 128)])
def test_files_of_many_bands_have_small_blocks(tmp_path, count, side):
    layer = layer_table.get("embedding")
    assert cog.block_size(layer, count) == side
    if count > 65:
        return
    values = np.random.default_rng(1).normal(size=(count, 140, 150)).astype("float32")
    values[:, :3] = np.nan
    path = tmp_path / "e.tif"
    names = [f"e{index:03d}" for index in range(count)]
    cog.write_cog(
        path.parent,
        path.name,
        make_grid(140, 150),
        layer,
        lambda first, last: values[:, first:last],
        names,
    )
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(path) as source:
        assert source.block_shapes == [(side, side)] * count
        assert np.array_equal(source.read(), values, equal_nan=True)
