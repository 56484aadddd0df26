"""Cubes of scenes: equal to rasterio, lazy, with coordinates, in any process."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import dask
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.windows import Window

from catalogs.errors import InvalidInputError
from catalogs.scene import Asset, Radiometry
from catalogs.sensors import DN, POWER, SENSORS
from pipeline.compositing import modality_composite
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import Recipe
from pipeline.reading import cube, resampling, units
from tests.support import small_worlds

GRID = Grid(
    epsg=small_worlds.EPSG,
    resolution=10.0,
    left=small_worlds.LEFT + 100,
    top=small_worlds.TOP - 50,
    height=30,
    width=40,
)


def _scenes(folder):
    rng = np.random.default_rng(0)
    return [
        small_worlds.optical(
            folder,
            name,
            {
                "B02": rng.integers(1, 9000, (80, 80)).astype(np.uint16),
                "B11": rng.integers(1, 9000, (40, 40)).astype(np.uint16),
            },
            rng.integers(0, 12, (40, 40)).astype(np.uint8),
            sizes={"B11": 20.0},
        )
        for name in ("first", "second")
    ]


def test_the_cube_equals_rasterio(tmp_path):
    scenes = _scenes(tmp_path)
    stack = cube.load(scenes, ["B02", "B11"], GRID, stored=True)
    assert stack.dims == ("time", "band", "y", "x")
    assert stack.shape == (2, 2, 30, 40)
    values = stack.compute(scheduler="synchronous")
    for index, scene in enumerate(scenes):
        with rasterio.open(scene.assets["B02"].href) as file:
            expected = file.read(1, window=Window(10, 5, 40, 30))
        assert np.array_equal(values[index].sel(band="B02"), expected)
        with rasterio.open(scene.assets["B11"].href) as file:
            fine = np.kron(file.read(1), np.ones((2, 2), np.uint16))
        assert np.array_equal(values[index].sel(band="B11"), fine[5:35, 10:50])


def test_pixel_centres_match_the_grid(tmp_path):
    stack = cube.load(_scenes(tmp_path), ["B02"], GRID, stored=True)
    assert stack.x.values[0] == GRID.left + 5
    assert stack.y.values[0] == GRID.top - 5
    assert stack.rio.transform() == GRID.transform


def test_a_cube_survives_writing_to_a_raster(tmp_path):
    stack = cube.load(_scenes(tmp_path), ["B02", "B11"], GRID, stored=True)
    values = stack[0].compute(scheduler="synchronous")
    values.rio.to_raster(tmp_path / "back.tif")
    with rasterio.open(tmp_path / "back.tif") as file:
        assert file.transform == GRID.transform
        assert file.bounds == GRID.bounds
        assert file.crs.to_epsg() == GRID.epsg
        assert np.array_equal(file.read(), values)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("stored", [True, False])
def test_a_cube_written_as_zarr_is_decoded_by_cf(tmp_path, stored):
    """An attribute NaN is no JSON; readers in other languages refuse the whole store."""
    scenes = _scenes(tmp_path)
    outside = dataclasses.replace(GRID, left=GRID.left - 200)
    array = cube.load(scenes, ["B02"], outside, stored=stored)
    array.to_dataset(name="cube").to_zarr(tmp_path / "cube.zarr")
    for path in (tmp_path / "cube.zarr").rglob("zarr.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    with xr.open_zarr(tmp_path / "cube.zarr", decode_coords="all") as reopened:
        assert reopened.rio.crs.to_epsg() == outside.epsg
        assert reopened.rio.transform() == outside.transform
        for axis in ("x", "y"):
            attributes = reopened[axis].attrs
            assert attributes["standard_name"] == f"projection_{axis}_coordinate"
            assert attributes["units"] == "metre"
        values = array.values.astype(np.float32)
        expected = np.where(values == 0, np.nan, values) if stored else values
        assert np.array_equal(reopened["cube"].values, expected, equal_nan=True)
        assert np.isnan(expected).any()


def test_a_cube_as_stored_has_no_unit(tmp_path):
    stack = cube.load(_scenes(tmp_path), ["B02"], GRID, stored=True)
    for unit in {sensor.unit for sensor in SENSORS.values()}:
        with pytest.raises(InvalidInputError):
            units.check_unit(stack, unit)


def test_nothing_is_read_before_computation(tmp_path):
    scenes = _scenes(tmp_path)
    for scene in scenes:
        for asset in scene.assets.values():
            (tmp_path / asset.href).unlink()
    stack = cube.load(scenes, ["B02"], GRID, stored=True)
    with pytest.raises(Exception, match="cannot be read"):
        stack.compute(scheduler="synchronous")


def test_a_band_missing_from_a_scene_is_empty_in_that_scene_only(tmp_path):
    scenes = _scenes(tmp_path)
    scenes[0] = scenes[0].select_bands(["B02"])
    values = cube.load(scenes, ["B02", "B11"], GRID, stored=True).compute(scheduler="synchronous")
    assert (values[0].sel(band="B11") == 0).all()
    assert (values[1].sel(band="B11") > 0).all()
    assert (values[0].sel(band="B02") > 0).all()


@pytest.mark.parametrize("names", [["far"], ["near", "far"], ["far", "near"]])
def test_a_scene_outside_the_grid_is_kept_as_an_empty_layer(tmp_path, names):
    values = np.full((40, 40), 7, np.uint16)
    scenes = [
        small_worlds.optical(
            tmp_path,
            name,
            {"B02": values},
            left=small_worlds.LEFT + (90_000 if name == "far" else 0),
        )
        for name in names
    ]
    stack = cube.load(scenes, ["B02", "B11"], GRID, stored=True)
    assert stack["id"].values.tolist() == names
    sums = stack.sum(("y", "x")).compute(scheduler="synchronous")
    assert [bool(value) for value in sums.sel(band="B02")] == [name == "near" for name in names]
    assert (sums.sel(band="B11") == 0).all()


def test_a_layer_does_not_depend_on_the_other_scenes(tmp_path):
    scene = _scenes(tmp_path)[0]
    rng = np.random.default_rng(9)
    other = small_worlds.optical(
        tmp_path,
        "other",
        {
            "B02": rng.integers(1, 9000, (400, 400)).astype(np.uint16),
            "B11": np.ones((200, 200), "u2"),
        },
        sizes={"B11": 20.0},
        epsg=32632,
        left=955_000.0,
        top=5_215_000.0,
    )
    bands = ["B02", "B11"]
    alone = cube.load([scene], bands, GRID, stored=True)[0]
    with_other = cube.load([other, scene], bands, GRID, stored=True)[1]
    assert np.array_equal(
        alone.compute(scheduler="synchronous"), with_other.compute(scheduler="synchronous")
    )


def test_no_signature_in_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("catalogs.signing.sign", lambda href, _: f"{href}?sig=CANARY")
    stack = cube.load(_scenes(tmp_path), ["B02"], GRID, stored=True)
    import cloudpickle

    assert b"CANARY" not in cloudpickle.dumps(dask.optimize(stack))


def _scenes_of_two_platforms(folder):
    """Return three scenes of two platforms, with and without an offset; the first is of 2023."""
    rng = np.random.default_rng(5)
    first, second, third = (
        small_worlds.optical(
            folder,
            name,
            {"B02": rng.integers(1, 9000, (80, 80)).astype(np.uint16)},
            rng.integers(0, 12, (80, 80)).astype(np.uint8),
            radiometry=radiometry,
            when=when,
        )
        for name, radiometry, when in (
            ("A", small_worlds.REFLECTANCE, "2023-12-31T23:30:00+00:00"),
            ("B", small_worlds.SHIFTED, "2024-06-01T10:00:00+00:00"),
            ("C", small_worlds.REFLECTANCE, "2024-06-01T10:00:14.024+00:00"),
        )
    )
    return [
        dataclasses.replace(
            first, platform="sentinel-2a", baseline="05.10", relative_orbit=22, cloud_cover=3.5
        ),
        dataclasses.replace(second, platform="sentinel-2b", orbit_state="descending"),
        third.select_bands(["SCL"]),
    ]


def test_coordinates_state_the_metadata_of_each_scene(tmp_path):
    array = cube.load(_scenes_of_two_platforms(tmp_path), ["B02"], GRID)
    assert array.name == "S2L2A"
    assert array.time.dtype == "datetime64[ns]"
    assert array.time.values[2] == np.datetime64("2024-06-01T10:00:14.024")
    days = array.solar_day.values.astype("datetime64[D]").astype(str).tolist()
    assert days == ["2024-01-01", "2024-06-01", "2024-06-01"]
    # ^ at 15 degrees east the sun is an hour ahead of UTC
    assert array["id"].values.tolist() == ["A", "B", "C"]
    assert array.platform.values.tolist() == ["sentinel-2a", "sentinel-2b", ""]
    assert array.orbit_state.values.tolist() == ["", "descending", ""]
    assert array.relative_orbit.values.tolist() == [22, 0, 0]
    assert array.baseline.values.tolist() == ["05.10", "", ""]
    assert np.array_equal(array.cloud_cover, [3.5, np.nan, np.nan], equal_nan=True)
    assert array.band.values.tolist() == ["B02"]
    assert "scale" not in array.coords
    assert array.attrs["units"] == DN
    assert math.isnan(array.rio.nodata)


def test_stored_values_come_with_their_scale_offset_and_unit(tmp_path):
    array = cube.load(_scenes_of_two_platforms(tmp_path), ["B02", "SCL"], GRID, stored=True)
    assert array.dtype == np.uint16
    assert array.rio.nodata == 0
    assert np.array_equal(array.scale, [[1e-4, 1], [1e-4, 1], [np.nan, 1]], equal_nan=True)
    assert np.array_equal(array.offset, [[0, 0], [-0.1, 0], [np.nan, 0]], equal_nan=True)
    assert array.unit.values.tolist() == [
        ["reflectance", "class"],
        ["reflectance", "class"],
        ["", "class"],
    ]


def test_physical_values_are_the_converted_stored_values(tmp_path):
    scenes = _scenes_of_two_platforms(tmp_path)
    physical = cube.load(scenes, ["B02"], GRID)
    stored = cube.load(scenes, ["B02"], GRID, stored=True).compute(scheduler="synchronous")
    assert physical.dtype == np.float32
    values = physical.compute(scheduler="synchronous")
    assert np.array_equal(values[0], stored[0])
    assert np.array_equal(values[1], stored[1].astype(int) - 1000)
    assert np.isnan(values[2]).all()
    reflectance = stored * stored.scale + stored.offset
    assert np.allclose(values[:2] * 1e-4, reflectance[:2], atol=1e-6)


def test_one_clear_scene_is_its_own_composite(tmp_path):
    (scene,) = _scenes(tmp_path)[:1]
    recipe = Recipe(
        inputs=(),
        clear_scl=tuple(range(12)),
        dilate_m=0.0,
        method="median",
        stride=1,
        margin=0,
        probabilities=False,
        composites=True,
    )
    bare = scene.select_bands(["B02", "B11"])
    result = modality_composite.compose_modality(
        "S2L2A", [bare], ["B02", "B11"], GRID, recipe=recipe
    )
    array = cube.load([bare], ["B02", "B11"], GRID)
    assert np.array_equal(
        result.values.compute(scheduler="synchronous"), array[0].compute(scheduler="synchronous")
    )


def test_power_and_heights_are_physical_and_heights_have_no_time(tmp_path):
    decibel = Radiometry(scale=1.0, offset=0.0, unit="dB")
    values = np.full((80, 80), -10.0, np.float32)
    path = small_worlds.raster(tmp_path / "VV.tif", values)
    radar = small_worlds.scene("R", "S1RTC", {"VV": small_worlds.asset(path, "VV", decibel, None)})
    array = cube.load([radar], ["VV", "VH"], GRID).compute(scheduler="synchronous")
    assert np.allclose(array.sel(band="VV"), 0.1)
    assert np.isnan(array.sel(band="VH")).all()
    assert array.attrs["units"] == POWER
    path = small_worlds.raster(tmp_path / "DEM.tif", values * -50)
    terrain = small_worlds.scene(
        "D", "DEM", {"DEM": small_worlds.asset(path, "DEM", small_worlds.METRE, None)}
    )
    terrain = dataclasses.replace(terrain, datetime=None)
    array = cube.load([terrain], ["DEM"], GRID).compute(scheduler="synchronous")
    assert (array == 500).all()
    assert np.isnat(array.time.values[0])
    assert np.isnat(array.solar_day.values[0])


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (None, ((1, 1), (1, 1), (30,), (40,))),
        (16, ((1, 1), (1, 1), (16, 14), (16, 16, 8))),
        ({"time": -1, "y": 10}, ((2,), (1, 1), (10, 10, 10), (40,))),
        ({"band": 2, "time": 2}, ((2,), (2,), (30,), (40,))),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_chunks_are_as_requested_and_do_not_change_values(tmp_path, chunks, expected, stored):
    scenes, bands = _scenes(tmp_path), ["B02", "B11"]
    scenes[1] = scenes[1].select_bands(["B11"])
    array = cube.load(scenes, bands, GRID, chunks=chunks, stored=stored)
    assert array.chunks == expected
    whole = cube.load(scenes, bands, GRID, stored=stored).compute(scheduler="synchronous")
    xr.testing.assert_identical(array.compute(scheduler="synchronous"), whole)


def test_a_pickled_cube_gives_the_same_values(tmp_path):
    array = cube.load(_scenes(tmp_path), ["B02", "B11"], GRID, chunks=20)
    copy = pickle.loads(pickle.dumps(array))
    xr.testing.assert_identical(
        copy.compute(scheduler="synchronous"), array.compute(scheduler="synchronous")
    )


def test_a_cube_is_clipped_to_a_region(tmp_path):
    array = cube.load(_scenes(tmp_path), ["B02"], GRID)
    left, top = GRID.left + 100, GRID.top - 100
    region = shapely.Polygon([(left, top), (left + 84, top), (left, top - 84)])
    clipped = array.rio.clip([region])
    assert clipped.chunks is not None
    # ^ clipping is lazy, too
    assert clipped.shape == (2, 1, 8, 8)
    assert clipped.rio.crs.to_epsg() == GRID.epsg
    assert clipped.rio.transform() == GRID.window(row=10, column=10, height=8, width=8).transform
    values = clipped.compute(scheduler="synchronous").values
    xs, ys = np.meshgrid(clipped.x, clipped.y)
    inside = shapely.contains_xy(region, xs, ys)
    whole = array[:, :, 10:18, 10:18].compute(scheduler="synchronous").values
    assert np.array_equal(values[..., inside], whole[..., inside])
    assert np.isnan(values[..., xs - left + top - ys > 84]).all()
    degrees = Transformer.from_crs(GRID.epsg, 4326, always_xy=True)
    outline = shapely.transform(region, degrees.transform, interleaved=False)
    assert array.rio.clip([outline], crs=4326).shape == clipped.shape


def test_days_are_grouped_by_solar_day(tmp_path):
    array = cube.load(_scenes_of_two_platforms(tmp_path), ["B02"], GRID)
    daily = array.groupby("solar_day").mean().compute(scheduler="synchronous")
    assert daily.sizes["solar_day"] == 2
    assert np.array_equal(daily[1], array[1].compute(scheduler="synchronous"))


@pytest.mark.parametrize(
    ("bands", "options", "message"),
    [
        (["B99"], {}, "S2L2A has no band B99"),
        ([], {}, "no band"),
        (["SCL"], {}, "stored=True"),
        (["B02"], {"chunks": {"rows": 5}}, "chunks names 'rows'"),
    ],
)
def test_an_invalid_request_is_refused_immediately(tmp_path, bands, options, message):
    with pytest.raises(InvalidInputError, match=message):
        cube.load(_scenes(tmp_path), bands, GRID, **options)


def test_a_cube_holds_one_modality(tmp_path):
    scenes = _scenes(tmp_path)
    with pytest.raises(InvalidInputError, match="one modality, not no scene"):
        cube.load([], ["B02"], GRID)
    other = dataclasses.replace(scenes[0], modality="S2L1C", assets={})
    with pytest.raises(InvalidInputError, match="one modality, not S2L1C, S2L2A"):
        cube.load([*scenes, other], ["B02"], GRID)


def _asset(unit, size, epsg=small_worlds.EPSG):
    step = size / 111_320 if epsg in (4326, 9707) else size
    return Asset(
        band="any",
        href="any.tif",
        radiometry=Radiometry(scale=1.0, offset=0.0, unit=unit),
        epsg=epsg,
        transform=None if size is None else (step, 0.0, 15.0, 0.0, -step, 47.0),
        shape=(100, 100),
    )


NEAREST, BILINEAR, AVERAGE = Resampling.nearest, Resampling.bilinear, Resampling.average


@pytest.mark.parametrize(
    ("unit", "size", "epsg", "kernel"),
    [
        # classes, values derived from them, and logarithms are never interpolated
        *(
            (unit, size, 32633, NEAREST)
            for unit in resampling.NEAREST_UNITS
            for size in (5.0, 10.0, 60.0)
        ),
        *((unit, size, 4326, NEAREST) for unit in resampling.NEAREST_UNITS for size in (5.0, 30.0)),
        ("reflectance", 60.0, 32633, NEAREST),
        ("reflectance", 10.0, 32633, NEAREST),
        ("reflectance", 5.0, 32633, AVERAGE),
        ("reflectance", 20.0, 32632, BILINEAR),
        ("reflectance", 5.0, 32632, AVERAGE),
        ("power", 10.0, 32633, BILINEAR),
        ("power", 5.0, 32633, AVERAGE),
        ("m", 30.0, 4326, BILINEAR),
        ("m", 30.0, 9707, BILINEAR),
        # ^ degrees, with a vertical axis or without: 0.0003 is not finer than 10 m
        ("m", 5.0, 4326, AVERAGE),
        ("m", 5.0, 9707, AVERAGE),
        ("m", 30.0, 99999, BILINEAR),
    ],
)
def test_resampling_is_chosen_from_unit_and_resolution_of_the_asset(unit, size, epsg, kernel):
    assert resampling.choose_resampling(_asset(unit, size, epsg), GRID) is kernel


def test_bands_with_other_origins_are_aligned(tmp_path):
    rng = np.random.default_rng(4)
    scene = small_worlds.scene(
        "S",
        "S2L2A",
        {
            band: small_worlds.asset(
                small_worlds.raster(
                    tmp_path / f"{band}.tif",
                    rng.integers(1, 9000, (90 // int(size / 10),) * 2).astype(np.uint16),
                    resolution=size,
                    left=small_worlds.LEFT - shift,
                    top=small_worlds.TOP + shift,
                ),
                band,
                small_worlds.REFLECTANCE,
                0.0,
            )
            for band, size, shift in (("B02", 10.0, 0.0), ("B05", 20.0, 10.0), ("B09", 60.0, 10.0))
        },
    )
    stack = cube.load([scene], ["B02", "B05", "B09"], GRID, stored=True)[0]
    values = stack.compute(scheduler="synchronous")
    for band, size, shift in (("B02", 10, 0), ("B05", 20, 10), ("B09", 60, 10)):
        with rasterio.open(scene.assets[band].href) as file:
            stored = file.read(1)
        rows = (50 + shift + 10 * np.arange(30) + 5) // size
        columns = (100 + shift + 10 * np.arange(40) + 5) // size
        assert np.array_equal(values.sel(band=band), stored[np.ix_(rows, columns)])


def _dem_scene(path, **georeference):
    values = np.random.default_rng(8).integers(1, 4000, (300, 400)).astype(np.float32)
    asset = small_worlds.asset(
        small_worlds.raster(path, values, **georeference), "DEM", small_worlds.METRE, None
    )
    return small_worlds.scene(path.stem, "DEM", {"DEM": asset})


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("georeference", "epsg", "longitude", "latitude"),
    [
        # the northern edge is a curve in UTM, and its corners lie farther north than its middle
        ({"left": 9.0, "top": 46.0, "resolution": 0.03}, 32633, 15.0, 45.99),
        ({"left": -180.0, "top": 90.0, "resolution": 0.9}, 3413, 100.0, 89.5),
        ({"left": -180.0, "top": -60.0, "resolution": 0.1}, 32760, 180.0, -65.0),
    ],
    ids=["curved", "pole", "antimeridian"],
)
def test_no_asset_is_dropped_because_of_its_corners(
    tmp_path, georeference, epsg, longitude, latitude
):
    scene = _dem_scene(tmp_path / "DEM.tif", epsg=4326, **georeference)
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude, latitude)
    grid = Grid(
        epsg=epsg, resolution=30.0, left=round(x) - 150, top=round(y) + 150, height=10, width=10
    )
    array = cube.load([scene], ["DEM"], grid, stored=True)
    assert np.isfinite(array.compute(scheduler="synchronous")).mean() > 0.4


def test_scenes_with_the_same_id_are_kept_apart(tmp_path):
    first, _ = _scenes(tmp_path / "a")
    second, _ = _scenes(tmp_path / "b")
    other = small_worlds.optical(tmp_path / "c", first.id, {"B02": np.full((80, 80), 3, np.uint16)})
    stack = cube.load([first, other, second], ["B02"], GRID, stored=True)
    values = stack.compute(scheduler="synchronous").values
    assert (values[1] == 3).all()
    assert np.array_equal(values[0], values[2])
    assert not (values[0] == 3).all()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Return scenes in several CRSs, resolutions, origins and bands over the same location."""
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(11)

    def make_noise(shape):
        values = rng.integers(1, 9000, shape).astype(np.uint16)
        values[rng.random(shape) < 0.05] = 0
        return values

    georeferences = {
        "own": {},
        "off": {"left": small_worlds.LEFT + 4.0382, "top": small_worlds.TOP - 2.9174},
        "beside": {"epsg": 32632, "left": 957_000.0, "top": 5_217_600.0},
        "far": {"left": small_worlds.LEFT + 90_000},
    }
    scenes_by_name = {
        name: small_worlds.optical(
            folder,
            name,
            {
                "B02": make_noise((120, 120)),
                "B05": make_noise((60, 60)),
                "B09": make_noise((20, 20)),
            },
            rng.integers(0, 12, (60, 60)).astype(np.uint8),
            sizes={"B05": 20.0, "B09": 60.0},
            **georeference,
        )
        for name, georeference in georeferences.items()
    }
    scenes_by_name["few"] = scenes_by_name["own"].select_bands(["B05"])
    return scenes_by_name


BANDS = ["B02", "B05", "B09", "SCL"]


@settings(max_examples=8)
@given(
    names=st.lists(st.sampled_from(["own", "off", "beside", "far", "few"]), min_size=1, max_size=4),
    resolution=st.sampled_from([3.7, 10.0, 20.0, 25.0, 60.0]),
    offset=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    data=st.data(),
)
def test_a_window_of_a_cube_equals_the_cube_of_the_window(
    scenes, names, resolution, offset, size, data
):
    height, width = size
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=resolution,
        left=small_worlds.LEFT + 300 + offset[0],
        top=small_worlds.TOP - 300 + offset[1],
        height=height,
        width=width,
    )
    row = data.draw(st.integers(0, height - 1))
    column = data.draw(st.integers(0, width - 1))
    window = grid.window(
        row=row,
        column=column,
        height=data.draw(st.integers(1, height - row)),
        width=data.draw(st.integers(1, width - column)),
    )
    chosen = [scenes[name] for name in names]
    whole = cube.load(chosen, BANDS, grid, stored=True).compute(scheduler="synchronous")
    actual = cube.load(chosen, BANDS, window, stored=True).compute(scheduler="synchronous")
    expected = whole[:, :, row : row + window.height, column : column + window.width]
    assert np.array_equal(actual, expected)
    assert math.isclose(actual.x.values[0], expected.x.values[0])
    assert set(np.unique(whole.sel(band="SCL"))) <= set(range(12))
    alone = cube.load(chosen[-1:], BANDS, grid, stored=True)[0]
    assert np.array_equal(alone.compute(scheduler="synchronous"), whole[-1])
