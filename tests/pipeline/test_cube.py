"""The one call of stackstac against plain rasterio."""

from __future__ import annotations

import math

import dask
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.windows import Window

from catalogs.errors import InvalidInputError
from catalogs.scene import Asset, Radiometry
from catalogs.sensors import SENSORS
from pipeline.grid.grid import Grid
from pipeline.reading import cube, units
from tests.support import worlds

GRID = Grid(
    epsg=worlds.EPSG,
    resolution=10.0,
    left=worlds.LEFT + 100,
    top=worlds.TOP - 50,
    height=30,
    width=40,
)


def _scenes(folder):
    rng = np.random.default_rng(0)
    return [
        worlds.optical(
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
    stack = cube.stack(scenes, ["B02", "B11"], GRID, dtype="uint16", fill_value=0)
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


def test_pixel_centres_are_where_they_should_be(tmp_path):
    stack = cube.stack(_scenes(tmp_path), ["B02"], GRID, dtype="uint16", fill_value=0)
    assert stack.x.values[0] == GRID.left + 5
    assert stack.y.values[0] == GRID.top - 5
    assert stack.rio.transform() == GRID.transform


def test_a_cube_is_written_and_read_back_in_its_place(tmp_path):
    stack = cube.stack(_scenes(tmp_path), ["B02", "B11"], GRID, dtype="uint16", fill_value=0)
    values = stack[0].compute(scheduler="synchronous")
    values.rio.write_crs(GRID.epsg).rio.to_raster(tmp_path / "back.tif")
    with rasterio.open(tmp_path / "back.tif") as file:
        assert file.transform == GRID.transform
        assert file.bounds == GRID.bounds
        assert file.crs.to_epsg() == GRID.epsg
        assert np.array_equal(file.read(), values)


def test_a_cube_as_stored_has_no_unit(tmp_path):
    stack = cube.stack(_scenes(tmp_path), ["B02"], GRID, dtype="uint16", fill_value=0)
    for unit in {sensor.unit for sensor in SENSORS.values()}:
        with pytest.raises(InvalidInputError):
            units.check_unit(stack, unit)


def test_nothing_is_read_before_it_is_needed(tmp_path):
    scenes = _scenes(tmp_path)
    for scene in scenes:
        for one in scene.assets.values():
            (tmp_path / one.href).unlink()
    stack = cube.stack(scenes, ["B02"], GRID, dtype="uint16", fill_value=0)
    with pytest.raises(Exception, match="cannot be read"):
        stack.compute(scheduler="synchronous")


def test_a_band_that_a_scene_lacks_is_missing_there_only(tmp_path):
    scenes = _scenes(tmp_path)
    scenes[0] = scenes[0].select_bands(["B02"])
    values = cube.stack(scenes, ["B02", "B11"], GRID, dtype="uint16", fill_value=0).compute(
        scheduler="synchronous"
    )
    assert (values[0].sel(band="B11") == 0).all()
    assert (values[1].sel(band="B11") > 0).all()
    assert (values[0].sel(band="B02") > 0).all()


@pytest.mark.parametrize("away", [["far"], ["near", "far"], ["far", "near"]])
def test_a_scene_beside_the_grid_is_empty_and_not_forgotten(tmp_path, away):
    values = np.full((40, 40), 7, np.uint16)
    scenes = [
        worlds.optical(
            tmp_path,
            name,
            {"B02": values},
            left=worlds.LEFT + (90_000 if name == "far" else 0),
        )
        for name in away
    ]
    stack = cube.stack(scenes, ["B02", "B11"], GRID, dtype="uint16", fill_value=0)
    assert stack["id"].values.tolist() == away
    sums = stack.sum(("y", "x")).compute(scheduler="synchronous")
    assert [bool(one) for one in sums.sel(band="B02")] == [name == "near" for name in away]
    assert (sums.sel(band="B11") == 0).all()


def test_a_layer_does_not_depend_on_the_scenes_beside_it(tmp_path):
    own = _scenes(tmp_path)[0]
    rng = np.random.default_rng(9)
    other = worlds.optical(
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
    alone = cube.stack([own], bands, GRID, dtype="uint16", fill_value=0)[0]
    beside = cube.stack([other, own], bands, GRID, dtype="uint16", fill_value=0)[1]
    assert np.array_equal(
        alone.compute(scheduler="synchronous"), beside.compute(scheduler="synchronous")
    )


def test_no_signature_in_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("catalogs.signing.sign", lambda href, _: f"{href}?sig=CANARY")
    stack = cube.stack(_scenes(tmp_path), ["B02"], GRID, dtype="uint16", fill_value=0)
    import cloudpickle

    assert b"CANARY" not in cloudpickle.dumps(dask.optimize(stack))


def _asset(unit, size, epsg=worlds.EPSG):
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
        # classes and what goes with them, and logarithms: never mixed
        *(
            (unit, size, 32633, NEAREST)
            for unit in cube.NEAREST_UNITS
            for size in (5.0, 10.0, 60.0)
        ),
        *((unit, size, 4326, NEAREST) for unit in cube.NEAREST_UNITS for size in (5.0, 30.0)),
        ("reflectance", 60.0, 32633, NEAREST),
        ("reflectance", 10.0, 32633, NEAREST),
        ("reflectance", 5.0, 32633, AVERAGE),
        ("reflectance", 20.0, 32632, BILINEAR),
        ("reflectance", 5.0, 32632, AVERAGE),
        ("power", 10.0, 32633, BILINEAR),
        ("power", 5.0, 32633, AVERAGE),
        ("m", 30.0, 4326, BILINEAR),
        ("m", 30.0, 9707, BILINEAR),
        # ^ degrees under a height: 0.0003 is not finer than 10 m
        ("m", 5.0, 4326, AVERAGE),
        ("m", 5.0, 9707, AVERAGE),
        ("m", 30.0, 99999, BILINEAR),
    ],
)
def test_the_asset_decides_how_it_is_resampled(unit, size, epsg, kernel):
    assert cube._choose_resampling(_asset(unit, size, epsg), GRID) is kernel


def test_bands_of_other_origins_fall_where_they_lie(tmp_path):
    rng = np.random.default_rng(4)
    scene = worlds.scene(
        "S",
        "S2L2A",
        {
            band: worlds.asset(
                worlds.raster(
                    tmp_path / f"{band}.tif",
                    rng.integers(1, 9000, (90 // int(size / 10),) * 2).astype(np.uint16),
                    resolution=size,
                    left=worlds.LEFT - shift,
                    top=worlds.TOP + shift,
                ),
                band,
                worlds.REFLECTANCE,
                0.0,
            )
            for band, size, shift in (("B02", 10.0, 0.0), ("B05", 20.0, 10.0), ("B09", 60.0, 10.0))
        },
    )
    stack = cube.stack([scene], ["B02", "B05", "B09"], GRID, dtype="uint16", fill_value=0)[0]
    values = stack.compute(scheduler="synchronous")
    for band, size, shift in (("B02", 10, 0), ("B05", 20, 10), ("B09", 60, 10)):
        with rasterio.open(scene.assets[band].href) as file:
            stored = file.read(1)
        rows = (50 + shift + 10 * np.arange(30) + 5) // size
        columns = (100 + shift + 10 * np.arange(40) + 5) // size
        assert np.array_equal(values.sel(band=band), stored[np.ix_(rows, columns)])


def _height(path, **place):
    values = np.random.default_rng(8).integers(1, 4000, (300, 400)).astype(np.float32)
    asset = worlds.asset(worlds.raster(path, values, **place), "DEM", worlds.METRE, None)
    return worlds.scene(path.stem, "DEM", {"DEM": asset})


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("place", "epsg", "longitude", "latitude"),
    [
        # its northern edge is a curve there, and the corners lie beyond the middle
        ({"left": 9.0, "top": 46.0, "resolution": 0.03}, 32633, 15.0, 45.99),
        ({"left": -180.0, "top": 90.0, "resolution": 0.9}, 3413, 100.0, 89.5),
        ({"left": -180.0, "top": -60.0, "resolution": 0.1}, 32760, 180.0, -65.0),
    ],
    ids=["curved", "pole", "antimeridian"],
)
def test_no_asset_is_dropped_by_its_corners(tmp_path, place, epsg, longitude, latitude):
    scene = _height(tmp_path / "DEM.tif", epsg=4326, **place)
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude, latitude)
    grid = Grid(
        epsg=epsg, resolution=30.0, left=round(x) - 150, top=round(y) + 150, height=10, width=10
    )
    found = cube.stack([scene], ["DEM"], grid, dtype="float32", fill_value=np.nan)
    assert np.isfinite(found.compute(scheduler="synchronous")).mean() > 0.4


def test_scenes_of_one_name_are_two(tmp_path):
    first, _ = _scenes(tmp_path / "a")
    second, _ = _scenes(tmp_path / "b")
    other = worlds.optical(tmp_path / "c", first.id, {"B02": np.full((80, 80), 3, np.uint16)})
    stack = cube.stack([first, other, second], ["B02"], GRID, dtype="uint16", fill_value=0)
    values = stack.compute(scheduler="synchronous").values
    assert (values[1] == 3).all()
    assert np.array_equal(values[0], values[2])
    assert not (values[0] == 3).all()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Return scenes of several systems, sizes, origins and units over one place."""
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(11)

    def noise(shape):
        values = rng.integers(1, 9000, shape).astype(np.uint16)
        values[rng.random(shape) < 0.05] = 0
        return values

    places = {
        "own": {},
        "off": {"left": worlds.LEFT + 4.0382, "top": worlds.TOP - 2.9174},
        "beside": {"epsg": 32632, "left": 957_000.0, "top": 5_217_600.0},
        "far": {"left": worlds.LEFT + 90_000},
    }
    made = {
        name: worlds.optical(
            folder,
            name,
            {"B02": noise((120, 120)), "B05": noise((60, 60)), "B09": noise((20, 20))},
            rng.integers(0, 12, (60, 60)).astype(np.uint8),
            sizes={"B05": 20.0, "B09": 60.0},
            **place,
        )
        for name, place in places.items()
    }
    made["few"] = made["own"].select_bands(["B05"])
    return made


BANDS = ["B02", "B05", "B09", "SCL"]


@settings(max_examples=8)
@given(
    names=st.lists(st.sampled_from(["own", "off", "beside", "far", "few"]), min_size=1, max_size=4),
    resolution=st.sampled_from([3.7, 10.0, 20.0, 25.0, 60.0]),
    offset=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    data=st.data(),
)
def test_a_part_of_any_cube_is_the_cube_of_the_part(scenes, names, resolution, offset, size, data):
    height, width = size
    grid = Grid(
        epsg=worlds.EPSG,
        resolution=resolution,
        left=worlds.LEFT + 300 + offset[0],
        top=worlds.TOP - 300 + offset[1],
        height=height,
        width=width,
    )
    row = data.draw(st.integers(0, height - 1))
    column = data.draw(st.integers(0, width - 1))
    part = grid.window(
        row=row,
        column=column,
        height=data.draw(st.integers(1, height - row)),
        width=data.draw(st.integers(1, width - column)),
    )
    chosen = [scenes[name] for name in names]
    whole = cube.stack(chosen, BANDS, grid, dtype="uint16", fill_value=0).compute(
        scheduler="synchronous"
    )
    found = cube.stack(chosen, BANDS, part, dtype="uint16", fill_value=0).compute(
        scheduler="synchronous"
    )
    expected = whole[:, :, row : row + part.height, column : column + part.width]
    assert np.array_equal(found, expected)
    assert math.isclose(found.x.values[0], expected.x.values[0])
    assert set(np.unique(whole.sel(band="SCL"))) <= set(range(12))
    alone = cube.stack(chosen[-1:], BANDS, grid, dtype="uint16", fill_value=0)[0]
    assert np.array_equal(alone.compute(scheduler="synchronous"), whole[-1])
