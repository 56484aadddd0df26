"""Which scenes a tile meets, and plans of many tiles: the same answers, at the price of few."""

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
from pipeline import cost_model
from pipeline.compositing import stream
from pipeline.grid import scene_index
from pipeline.grid.grid import Grid
from pipeline.plan import plan as plans
from pipeline.storage import plan_file, receipt
from tests.support import expanse, worlds

SYSTEMS = (32632, 32633, 32701, 32660, 3035, 5041, 4326)


def _meets(scene, area):
    """Ask each scene by itself, as plainly as it can be asked."""
    known = next((a for a in scene.assets.values() if a.epsg and a.transform and a.shape), None)
    if known is not None and known.epsg == area.epsg:
        a, _, left, _, e, top = known.transform
        raster = shapely.box(left, top + e * known.shape[0], left + a * known.shape[1], top)
        return raster.intersects(shapely.box(*area.bounds))
    lonlat = lonlat_geometry.from_bbox(
        transform_bounds(f"EPSG:{area.epsg}", "EPSG:4326", *area.bounds)
    )
    return (
        lonlat_geometry.from_bbox(scene.bbox)
        .buffer(scene_index.BBOX_BUFFER_DEGREES)
        .intersects(lonlat)
    )


@st.composite
def grids(draw):
    epsg = draw(st.sampled_from([code for code in SYSTEMS if code != 4326]))
    far = 3_000_000 if epsg in (3035, 5041) else 500_000
    north = draw(st.integers(100, far * 2 if epsg in (3035, 5041) else 9_000_000))
    return Grid(
        epsg=epsg,
        resolution=10.0,
        left=float(draw(st.integers(far // 10, 2 * far - far // 10))),
        top=float(north),
        height=draw(st.integers(1, 3000)),
        width=draw(st.integers(1, 3000)),
    )


@st.composite
def scenes(draw, area):
    """Draw scenes near a grid, edge to edge with it now and then, with or without a raster."""
    left, bottom, right, top = area.bounds
    found = []
    for number in range(draw(st.integers(0, 6))):
        side = draw(st.sampled_from([100.0, 5_000.0, 30_000.0]))
        x = draw(st.sampled_from([left - side, right, left, right - side / 3, right + 0.5]))
        y = draw(st.sampled_from([top + side, bottom, top, bottom + side / 2, bottom - 0.5]))
        box = transform_bounds(f"EPSG:{area.epsg}", "EPSG:4326", x, y - side, x + side, y)
        shift = draw(st.sampled_from([0.0, 0.0, 0.0097, 0.013, -0.2]))
        bbox = (box[0], box[1] + shift, box[2], box[3] + shift)
        epsg = draw(st.sampled_from([area.epsg, None, *SYSTEMS]))
        asset = Asset(
            band="B02",
            href=f"/{number}.tif",
            radiometry=worlds.REFLECTANCE,
            epsg=epsg,
            transform=(10.0, 0.0, x, 0.0, -10.0, y) if draw(st.booleans()) else None,
            shape=(round(side / 10), round(side / 10)),
        )
        found.append(
            Scene(
                id=f"scene-{number}",
                collection="test",
                provider="demo",
                modality="DEM" if epsg == 4326 else "S2L2A",
                datetime=worlds.dt.datetime(2024, 6, 1, tzinfo=worlds.dt.UTC),
                footprint=lonlat_geometry.to_geojson(lonlat_geometry.from_bbox(bbox)),
                bbox=bbox,
                assets={} if epsg == 4326 else {"B02": asset},
            )
        )
    return tuple(found)


@settings(max_examples=200)
@given(data=st.data())
def test_trees_find_what_asking_each_scene_finds(data):
    area = data.draw(grids())
    some = data.draw(scenes(area))
    assert scene_index.find_intersecting_scenes(some, area) == tuple(
        one for one in some if _meets(one, area)
    )


@given(st.data())
def test_across_180_degrees_too(data):
    epsg, left = data.draw(st.sampled_from([(32701, 150_000.0), (32660, 560_000.0)]))
    area = Grid(epsg=epsg, resolution=100.0, left=left, top=8.0e6, height=900, width=900)
    west, south, east, north = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *area.bounds)
    assert west > east
    shift = data.draw(st.floats(-12, 12).filter(lambda x: abs(abs(x) - 6) > 1e-3))
    made = (-180 + shift) % 360 - 180
    box = (made, south, made + 0.5 if made < 179.5 else made - 359.5, north)
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
    assert bool(scene_index.find_intersecting_scenes((scene,), area)) == _meets(scene, area)


def test_every_tile_of_a_plan_meets_the_same_scenes_as_before(tmp_path):
    plan = expanse.plan(tmp_path, 600, days=2)
    assert len(plan.grids) == 2
    for tile in plan.tiles[::7]:
        wanted = [scene for scene in plan.snapshot.scenes if _meets(scene, plan.context_grid(tile))]
        assert list(plan.tile_scenes(tile)) == wanted
        assert plan.tiles_by_id[tile.id] is tile


def test_a_key_covers_what_decides_a_tile_and_nothing_else(tmp_path):
    plan = expanse.plan(tmp_path, 300, days=2)
    keys = {tile.id: plan.tile_key(tile) for tile in plan.tiles}
    assert len(set(keys.values())) == len(keys)

    def changed(other):
        assert [tile.id for tile in other.tiles] == list(keys)
        return {tile.id for tile in other.tiles if other.tile_key(tile) != keys[tile.id]}

    (first, *_) = plan.snapshot.scenes
    moved = dataclasses.replace(
        first,
        assets={
            band: dataclasses.replace(asset, radiometry=worlds.REFLECTANCE)
            for band, asset in first.assets.items()
        },
    )
    near = {tile.id for tile in plan.tiles if first in plan.tile_scenes(tile)}
    others = tuple(scene for scene in plan.snapshot.scenes if scene is not first)
    assert 0 < len(near) < len(keys)
    assert changed(dataclasses.replace(plan, snapshot=Snapshot(scenes=others))) == near
    assert changed(dataclasses.replace(plan, snapshot=Snapshot(scenes=(*others, moved)))) == near
    elsewhere = dataclasses.replace(
        first,
        assets={
            band: dataclasses.replace(asset, href=f"/elsewhere/{band}.tif")
            for band, asset in first.assets.items()
        },
    )
    assert not changed(dataclasses.replace(plan, snapshot=Snapshot(scenes=(*others, elsewhere))))
    assert not changed(dataclasses.replace(plan, name="other", job={"output": {}}))
    for change in (
        {"recipe": dataclasses.replace(plan.recipe, dilate_m=1.0)},
        {"model": dataclasses.replace(plan.model, digest="e" * 64)},
        {"model": None},
    ):
        assert changed(dataclasses.replace(plan, **change)) == set(keys)
    left, bottom, _, top = plans.from_geojson(plan.region).bounds
    smaller = dataclasses.replace(
        plan, region=plans.to_geojson(shapely.box(left, bottom, 12.02, top))
    )
    of_the_east = {tile.id for tile in plan.tiles if tile.epsg == 32633}
    assert changed(smaller) == of_the_east
    # ^ the ground of the western zone is what it was


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return the file of a plan of some ten thousand tiles."""
    folder = tmp_path_factory.mktemp("large")
    plan_file.write_plan_file(folder / "plan.json", expanse.plan(folder, 10_000))
    return folder / "plan.json"


def test_ten_thousand_tiles_look_at_each_scene_once(large, monkeypatch):
    """Not at every scene for every tile; tests.benchmarks.scheduling has the seconds."""
    calls = Counter()

    def counted(owner, name):
        real = getattr(owner, name)

        def count(*arguments, **options):
            calls[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, count)

    counted(scene_index, "_raster_outline")
    counted(Scene, "identity")
    plan = plan_file.read_plan_file(large)
    need = cost_model.estimate_cost(plan, workers=2)
    done = receipt.read_finished(large.parent, plan)
    keys = {plan.tile_key(tile) for tile in plan.tiles}
    plan_file.write_plan_file(large.with_name("again.json"), plan)
    scenes = len(plan.snapshot.scenes)
    assert len(plan.tiles) == len(plan.tiles_by_id) == len(keys) > 10_000
    assert scenes > 500
    assert calls["_raster_outline"] <= scenes * len(plan.grids)
    assert calls["identity"] <= 2 * scenes
    assert not done
    assert need.requests > len(plan.tiles)
    assert json.loads(large.with_name("again.json").read_text()) == json.loads(large.read_text())


def test_the_estimate_reads_each_asset_once_per_strip(tmp_path):
    plan = expanse.plan(tmp_path, 60, days=2)
    bands = {"B02", "B03", "B04", "B08", "B11", "B12", "SCL", "DEM"}
    most = openings = windows = 0
    for tile in plan.tiles:
        area = plan.context_grid(tile)
        windows += len(plan.window_placement(tile).window_origins)
        scenes = plan.tile_scenes(tile)
        strips = len(stream.split_rows(area, scenes))
        for scene in scenes:
            for asset in scene.assets.values():
                if asset.band in bands:
                    metres = asset.transform[0] * (1 if asset.epsg > 5000 else 111_000)
                    rows, columns = (side * 10 / metres for side in area.shape)
                    pixels = (rows + 1024 * strips) * (columns + 1024)
                    most += pixels * get_sensor(scene.modality).bytes_per_pixel + strips * 2**15
                    openings += strips
    need = cost_model.estimate_cost(plan, workers=1)
    assert most / 5 < need.bytes < most
    assert openings < need.requests < 5 * openings
    assert need.seconds > windows * cost_model.SECONDS_PER_WINDOW["land_cover"]
    some = cost_model.estimate_cost(plan, workers=1, tiles=plan.tiles[::2])
    assert some.stored_bytes < need.stored_bytes
    assert some.requests < need.requests


def test_an_estimate_of_many_tiles_looks_at_some(tmp_path, monkeypatch):
    plan = expanse.plan(tmp_path, 400, days=2)
    whole = cost_model.estimate_cost(plan, workers=1)
    monkeypatch.setattr(cost_model, "MAX_SAMPLED_TILES", 150)
    some = cost_model.estimate_cost(plan, workers=1)
    for name in ("bytes", "requests", "seconds"):
        assert getattr(some, name) == pytest.approx(getattr(whole, name), rel=0.1), name


def test_files_of_this_machine_cost_no_network(tmp_path):
    plan = expanse.plan(tmp_path, 20, days=1)
    far = cost_model.estimate_cost(plan, workers=1)
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
    near = cost_model.estimate_cost(
        dataclasses.replace(plan, snapshot=dataclasses.replace(plan.snapshot, scenes=scenes)),
        workers=1,
    )
    assert far.remote_bytes == far.bytes == near.bytes > 0
    assert (near.remote_bytes, near.requests) == (0, 0)
