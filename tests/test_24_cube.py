"""The one call of stackstac against plain rasterio."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
from rasterio.windows import Window

from pipeline import cube
from pipeline.grid import Grid
from tests import worlds

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
    stack = cube.stack(scenes, ["B02", "B11"], GRID, dtype="uint16", fill=0)
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
    stack = cube.stack(_scenes(tmp_path), ["B02"], GRID, dtype="uint16", fill=0)
    assert stack.x.values[0] == GRID.left + 5
    assert stack.y.values[0] == GRID.top - 5
    assert stack.rio.transform() == GRID.transform


def test_nothing_is_read_before_it_is_needed(tmp_path):
    scenes = _scenes(tmp_path)
    for scene in scenes:
        for one in scene.assets.values():
            (tmp_path / one.href).unlink()
    stack = cube.stack(scenes, ["B02"], GRID, dtype="uint16", fill=0)
    with pytest.raises(Exception, match="cannot be read"):
        stack.compute(scheduler="synchronous")


def test_a_band_that_a_scene_lacks_is_missing_there_only(tmp_path):
    scenes = _scenes(tmp_path)
    scenes[0] = scenes[0].only(["B02"])
    values = cube.stack(scenes, ["B02", "B11"], GRID, dtype="uint16", fill=0).compute(
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
    stack = cube.stack(scenes, ["B02", "B11"], GRID, dtype="uint16", fill=0)
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
    alone = cube.stack([own], bands, GRID, dtype="uint16", fill=0)[0]
    beside = cube.stack([other, own], bands, GRID, dtype="uint16", fill=0)[1]
    assert np.array_equal(
        alone.compute(scheduler="synchronous"), beside.compute(scheduler="synchronous")
    )


def test_no_signature_in_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("catalogs.sign.sign", lambda href, _: f"{href}?sig=CANARY")
    stack = cube.stack(_scenes(tmp_path), ["B02"], GRID, dtype="uint16", fill=0)
    import cloudpickle

    assert b"CANARY" not in cloudpickle.dumps(dask.optimize(stack))
