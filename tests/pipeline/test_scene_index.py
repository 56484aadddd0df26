"""The spatial index of scenes, and plans and cost estimates of many tiles."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform_bounds

from catalogs import lonlat_geometry
from catalogs.scene import Asset, Scene
from catalogs.sensors import get_sensor
from catalogs.snapshot import Snapshot
from pipeline import resource_estimate
from pipeline.compositing import strip_reader
from pipeline.grid import scene_index
from pipeline.grid.grid import Grid
from pipeline.plan import plan as plans
from pipeline.plan.settings import RunSettings
from pipeline.storage import plan_file, receipt
from tests.support import large_plan, small_worlds

SYSTEMS = (32632, 32633, 32701, 32660, 3035, 5041, 4326)


def _intersects(scene, grid):
    """Return whether a scene may intersect a grid, without an index."""
    asset = next(
        (
            candidate
            for candidate in scene.assets.values()
            if candidate.epsg and candidate.transform and candidate.shape
        ),
        None,
    )
    if asset is not None and asset.epsg == grid.epsg:
        pixel_width, _, left, _, pixel_height, top = asset.transform
        raster = shapely.box(
            left, top + pixel_height * asset.shape[0], left + pixel_width * asset.shape[1], top
        )
        return raster.intersects(shapely.box(*grid.bounds))
    lonlat = lonlat_geometry.from_bbox(
        transform_bounds(f"EPSG:{grid.epsg}", "EPSG:4326", *grid.bounds)
    )
    return (
        lonlat_geometry.from_bbox(scene.bbox)
        .buffer(scene_index.BBOX_BUFFER_DEGREES)
        .intersects(lonlat)
    )


@st.composite
def grids(draw):
    epsg = draw(st.sampled_from([code for code in SYSTEMS if code != 4326]))
    easting = 3_000_000 if epsg in (3035, 5041) else 500_000
    north = draw(st.integers(100, easting * 2 if epsg in (3035, 5041) else 9_000_000))
    return Grid(
        epsg=epsg,
        resolution=10.0,
        left=float(draw(st.integers(easting // 10, 2 * easting - easting // 10))),
        top=float(north),
        height=draw(st.integers(1, 3000)),
        width=draw(st.integers(1, 3000)),
    )


@st.composite
def scenes(draw, grid):
    """Draw scenes near a grid, some sharing an edge with it, with or without a raster."""
    left, bottom, right, top = grid.bounds
    drawn_scenes = []
    for number in range(draw(st.integers(0, 6))):
        side = draw(st.sampled_from([100.0, 5_000.0, 30_000.0]))
        x = draw(st.sampled_from([left - side, right, left, right - side / 3, right + 0.5]))
        y = draw(st.sampled_from([top + side, bottom, top, bottom + side / 2, bottom - 0.5]))
        box = transform_bounds(f"EPSG:{grid.epsg}", "EPSG:4326", x, y - side, x + side, y)
        shift = draw(st.sampled_from([0.0, 0.0, 0.0097, 0.013, -0.2]))
        bbox = (box[0], box[1] + shift, box[2], box[3] + shift)
        epsg = draw(st.sampled_from([grid.epsg, None, *SYSTEMS]))
        asset = Asset(
            band="B02",
            href=f"/{number}.tif",
            radiometry=small_worlds.REFLECTANCE,
            epsg=epsg,
            transform=(10.0, 0.0, x, 0.0, -10.0, y) if draw(st.booleans()) else None,
            shape=(round(side / 10), round(side / 10)),
        )
        drawn_scenes.append(
            Scene(
                id=f"scene-{number}",
                collection="test",
                provider="demo",
                modality="DEM" if epsg == 4326 else "S2L2A",
                datetime=small_worlds.dt.datetime(2024, 6, 1, tzinfo=small_worlds.dt.UTC),
                footprint=lonlat_geometry.to_geojson(lonlat_geometry.from_bbox(bbox)),
                bbox=bbox,
                assets={} if epsg == 4326 else {"B02": asset},
            )
        )
    return tuple(drawn_scenes)


@settings(max_examples=200)
@given(data=st.data())
def test_the_index_finds_the_same_scenes_as_a_linear_search(data):
    grid = data.draw(grids())
    drawn_scenes = data.draw(scenes(grid))
    assert scene_index.find_intersecting_scenes(drawn_scenes, grid) == tuple(
        scene for scene in drawn_scenes if _intersects(scene, grid)
    )


@given(st.data())
def test_scenes_across_180_degrees_are_found(data):
    epsg, left = data.draw(st.sampled_from([(32701, 150_000.0), (32660, 560_000.0)]))
    grid = Grid(epsg=epsg, resolution=100.0, left=left, top=8.0e6, height=900, width=900)
    west, south, east, north = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *grid.bounds)
    assert west > east
    shift = data.draw(st.floats(-12, 12).filter(lambda x: abs(abs(x) - 6) > 1e-3))
    edge = (-180 + shift) % 360 - 180
    box = (edge, south, edge + 0.5 if edge < 179.5 else edge - 359.5, north)
    scene = Scene(
        id="one",
        collection="test",
        provider="demo",
        modality="DEM",
        datetime=None,
        footprint=lonlat_geometry.to_geojson(lonlat_geometry.from_bbox(box)),
        bbox=box,
        assets={},
    )
    assert bool(scene_index.find_intersecting_scenes((scene,), grid)) == _intersects(scene, grid)


def test_every_tile_of_a_plan_has_its_intersecting_scenes(tmp_path):
    plan = large_plan.plan(tmp_path, 600, days=2)
    assert len(plan.grids) == 2
    for tile in plan.tiles[::7]:
        grid = plan.context_grid(tile)
        expected = [scene for scene in plan.snapshot.scenes if _intersects(scene, grid)]
        assert list(plan.tile_scenes(tile)) == expected
        assert plan.tiles_by_id[tile.id] is tile


def test_a_tile_key_depends_only_on_inputs_of_the_tile(tmp_path):
    plan = large_plan.plan(tmp_path, 300, days=2)
    keys = {tile.id: plan.tile_key(tile) for tile in plan.tiles}
    assert len(set(keys.values())) == len(keys)

    def find_changed_tiles(new_plan):
        assert {tile.id for tile in new_plan.tiles} <= set(keys)
        return {tile.id for tile in new_plan.tiles if new_plan.tile_key(tile) != keys[tile.id]}

    (first_scene, *_) = plan.snapshot.scenes
    changed_scene = dataclasses.replace(
        first_scene,
        assets={
            band: dataclasses.replace(asset, radiometry=small_worlds.REFLECTANCE)
            for band, asset in first_scene.assets.items()
        },
    )
    intersecting_tiles = {tile.id for tile in plan.tiles if first_scene in plan.tile_scenes(tile)}
    other_scenes = tuple(scene for scene in plan.snapshot.scenes if scene is not first_scene)
    assert 0 < len(intersecting_tiles) < len(keys)
    assert (
        find_changed_tiles(dataclasses.replace(plan, snapshot=Snapshot(scenes=other_scenes)))
        == intersecting_tiles
    )
    assert (
        find_changed_tiles(
            dataclasses.replace(plan, snapshot=Snapshot(scenes=(*other_scenes, changed_scene)))
        )
        == intersecting_tiles
    )
    relocated_scene = dataclasses.replace(
        first_scene,
        assets={
            band: dataclasses.replace(asset, href=f"/elsewhere/{band}.tif")
            for band, asset in first_scene.assets.items()
        },
    )
    assert not find_changed_tiles(
        dataclasses.replace(plan, snapshot=Snapshot(scenes=(*other_scenes, relocated_scene)))
    )
    assert not find_changed_tiles(
        dataclasses.replace(plan, name="other", settings=RunSettings(output_dir="/other"))
    )
    for change in (
        {"recipe": dataclasses.replace(plan.recipe, dilate_m=1.0)},
        {"model": dataclasses.replace(plan.model, digest="e" * 64)},
        {"model": None},
    ):
        assert find_changed_tiles(dataclasses.replace(plan, **change)) == set(keys)
    left, bottom, _, top = plans.from_geojson(plan.region).bounds
    smaller_plan = dataclasses.replace(
        plan, region=plans.to_geojson(shapely.box(left, bottom, 12.02, top))
    )
    eastern_tiles = {tile.id for tile in smaller_plan.tiles if tile.epsg == 32633}
    assert find_changed_tiles(smaller_plan) == eastern_tiles
    assert 0 < len(eastern_tiles) < sum(tile.epsg == 32633 for tile in plan.tiles)
    # ^ the part of the western zone is unchanged


@pytest.fixture(scope="module")
def large_plan_path(tmp_path_factory):
    """Return the path of a plan of some ten thousand tiles."""
    folder = tmp_path_factory.mktemp("large")
    plan_file.write_plan_file(folder / "plan.json", large_plan.plan(folder, 10_000))
    return folder / "plan.json"


def test_ten_thousand_tiles_index_each_scene_once(large_plan_path, monkeypatch):
    """Not once per tile; tests.benchmarks.scheduling measures the duration."""
    calls = Counter()

    def count_calls(owner, name):
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    count_calls(scene_index, "_raster_outline")
    count_calls(Scene, "identity")
    plan = plan_file.read_plan_file(large_plan_path)
    estimate = resource_estimate.estimate_resources(plan, workers=2)
    finished = receipt.read_finished(large_plan_path.parent, plan)
    keys = {plan.tile_key(tile) for tile in plan.tiles}
    plan_file.write_plan_file(large_plan_path.with_name("again.json"), plan)
    scenes = len(plan.snapshot.scenes)
    assert len(plan.tiles) == len(plan.tiles_by_id) == len(keys) > 10_000
    assert scenes > 500
    assert calls["_raster_outline"] <= scenes * len(plan.grids)
    assert calls["identity"] <= 2 * scenes
    assert not finished
    assert estimate.requests > len(plan.tiles)
    assert json.loads(large_plan_path.with_name("again.json").read_text()) == json.loads(
        large_plan_path.read_text()
    )


def test_the_estimate_reads_each_asset_once_per_strip(tmp_path):
    plan = large_plan.plan(tmp_path, 60, days=2)
    bands = {"B02", "B03", "B04", "B08", "B11", "B12", "SCL", "DEM"}
    max_bytes = openings = windows = 0
    for tile in plan.tiles:
        grid = plan.context_grid(tile)
        windows += len(plan.window_placement(tile).window_origins)
        scenes = plan.tile_scenes(tile)
        strips = len(strip_reader.split_rows(grid, scenes))
        for scene in scenes:
            for asset in scene.assets.values():
                if asset.band in bands:
                    metres = asset.transform[0] * (1 if asset.epsg > 5000 else 111_000)
                    rows, columns = (side * 10 / metres for side in grid.shape)
                    pixels = (rows + 1024 * strips) * (columns + 1024)
                    max_bytes += (
                        pixels * get_sensor(scene.modality).bytes_per_pixel + strips * 2**15
                    )
                    openings += strips
    estimate = resource_estimate.estimate_resources(plan, workers=1)
    assert max_bytes / 5 < estimate.bytes < max_bytes
    assert openings < estimate.requests < 5 * openings
    assert estimate.seconds > windows * resource_estimate.SECONDS_PER_WINDOW["land_cover"]
    half_estimate = resource_estimate.estimate_resources(plan, workers=1, tiles=plan.tiles[::2])
    assert half_estimate.stored_bytes < estimate.stored_bytes
    assert half_estimate.requests < estimate.requests


def test_an_estimate_of_many_tiles_samples_them(tmp_path, monkeypatch):
    plan = large_plan.plan(tmp_path, 400, days=2)
    full_estimate = resource_estimate.estimate_resources(plan, workers=1)
    monkeypatch.setattr(resource_estimate, "MAX_SAMPLED_TILES", 150)
    sampled_estimate = resource_estimate.estimate_resources(plan, workers=1)
    for name in ("bytes", "requests", "seconds"):
        assert getattr(sampled_estimate, name) == pytest.approx(
            getattr(full_estimate, name), rel=0.1
        ), name


def test_local_files_have_no_network_cost(tmp_path):
    plan = large_plan.plan(tmp_path, 20, days=1)
    remote = resource_estimate.estimate_resources(plan, workers=1)
    scenes = tuple(
        dataclasses.replace(
            scene,
            assets={
                name: dataclasses.replace(asset, href=f"/data/{name}.tif")
                for name, asset in scene.assets.items()
            },
        )
        for scene in plan.snapshot.scenes
    )
    local = resource_estimate.estimate_resources(
        dataclasses.replace(plan, snapshot=dataclasses.replace(plan.snapshot, scenes=scenes)),
        workers=1,
    )
    assert remote.remote_bytes == remote.bytes == local.bytes > 0
    assert (local.remote_bytes, local.requests) == (0, 0)
