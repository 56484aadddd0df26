"""With ``crs: utm``, a region is mapped in the zone of its scenes, if they share one."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from pyproj import Transformer

from catalogs.search import search
from flows.config import job as jobs
from flows.run import planning, scene_search
from pipeline import tile, tile_layers
from pipeline.grid import grid, utm
from pipeline.storage import zarr_store
from tests.support import small_catalogs

EDGE = {32632: (728_113.25, 5_200_407.5), 32633: (271_250.0, 5_200_400.0)}
"""Upper left corners of rasters across the meridian at 12° E, in the zones on either side."""


def _scene(folder, name, epsg=32632, corner=None, when="2024-06-10", **properties):
    left, top = corner or EDGE[epsg]
    values = np.arange(small_catalogs.SIZE**2).reshape(small_catalogs.SIZE, -1) + 1000
    return small_catalogs.an_item(
        folder,
        name,
        {"blue": values, "green": values, "red": values},
        left=left,
        top=top,
        epsg=epsg,
        datetime=f"{when}T10:00:00Z",
        **properties,
    )


def _plan(folder, items, **sections):
    options = {"grid": {"crs": "utm"}, "radiometry": {"proof": "off"}} | sections
    path = small_catalogs.write_job(folder, items, **options)
    return planning.create_plan(jobs.load(path))


def _region(west, east, south=46.914, north=46.916):
    return {"bbox": [west, south, east, north]}


def _caveats(plan):
    """Return the caveats on the grid."""
    return [caveat.text for caveat in plan.caveats if caveat.id.startswith("EPSG:")]


EAST = _region(12.0005, 12.003)
"""A region in zone 33, within the rasters of both zones."""


def test_scenes_of_the_neighbouring_zone_are_not_resampled(tmp_path):
    items = [_scene(tmp_path, "a"), _scene(tmp_path, "b", when="2024-06-12")]
    plan = _plan(tmp_path, items, region=EAST)
    assert plan.grid.epsg == 32632
    assert plan.grid.alignment == pytest.approx((3.25, 7.5))
    text = _caveats(plan)[0]
    zarr_store.create(tmp_path / "store", plan, tile_layers.list_layer_bands(plan))
    for planned in plan.tiles:
        tile.build_tile(plan, planned, None, tmp_path / "store", threads=1)
    values = zarr_store.read_tile(tmp_path / "store", plan, plan.tiles[0], ["composite_S2L2A"])
    composite = values["composite_S2L2A"][0]
    row = round((EDGE[32632][1] - plan.grid.top) / 10)
    column = round((plan.grid.left - EDGE[32632][0]) / 10)
    pixels = np.arange(small_catalogs.SIZE**2).reshape(small_catalogs.SIZE, -1) + 1000
    expected = pixels[row : row + plan.grid.height, column : column + plan.grid.width]
    valid = composite != -32768
    assert valid.mean() > 0.8
    assert len(np.unique((composite - expected)[valid])) == 1
    # ^ copied: resampled rows and columns would be repeated or left out
    assert "not in EPSG:32633" in text
    assert "crs: EPSG:32632" in text

    named = _plan(tmp_path, items, region=EAST, grid={"crs": "EPSG:32632"})
    assert named.grid == plan.grid
    assert named.digest == plan.digest
    # ^ the advice gives the same product


def test_a_region_across_the_meridian_has_one_grid(tmp_path):
    plan = _plan(tmp_path, [_scene(tmp_path, "a")], region=_region(11.9985, 12.003))
    assert [product_grid.epsg for product_grid in plan.grids] == [32632]
    assert plan.mosaic_grids == ()


@pytest.mark.parametrize(
    ("properties", "composite"),
    [({}, {}), ({"eo:cloud_cover": 100}, {"max_cloud_cover": 50})],
    ids=["clear", "left out as cloudy"],
)
def test_scenes_of_several_zones_leave_the_region_in_its_own(tmp_path, properties, composite):
    items = [_scene(tmp_path, "a"), _scene(tmp_path, "b", 32633, **properties)]
    plan = _plan(tmp_path, items, region=EAST, composite=composite)
    assert plan.grid.epsg == 32633
    assert _caveats(plan) == []
    across = _plan(tmp_path, items, region=_region(11.9985, 12.003), composite=composite)
    assert [product_grid.epsg for product_grid in across.grids] == [32632, 32633]


@pytest.mark.parametrize(
    ("section", "epsg"),
    [({"crs": "utm", "align": "multiples"}, 32633), ({"crs": "EPSG:3035"}, 3035)],
)
def test_a_stated_grid_is_kept(tmp_path, section, epsg):
    assert _plan(tmp_path, [_scene(tmp_path, "a")], region=EAST, grid=section).grid.epsg == epsg


def test_scenes_of_their_own_zone_are_searched_once(tmp_path, monkeypatch):
    searches = []
    find_scenes = search.find_scenes

    def count(*arguments):
        searches.append(arguments)
        return find_scenes(*arguments)

    monkeypatch.setattr(scene_search.search, "find_scenes", count)
    plan = _plan(tmp_path, [_scene(tmp_path, "a", 32633)], region=EAST)
    assert plan.grid.epsg == 32633
    assert _caveats(plan) == []
    assert len(searches) == 1


def test_a_month_with_scenes_of_the_neighbouring_zone_alone_keeps_the_grid(tmp_path):
    """Else the grid of a series would change from month to month."""
    items = [
        _scene(tmp_path, "june"),
        _scene(tmp_path, "march", 32633, when="2024-03-01"),
    ]
    plan = _plan(tmp_path, items, region=EAST)
    assert plan.grid.epsg == 32633
    (text,) = _caveats(plan)
    assert "EPSG:32632 and are resampled" in text
    assert _plan(tmp_path, items, region=EAST, period="2024-03").grid.epsg == 32633
    assert (
        _plan(
            tmp_path,
            [_scene(tmp_path, "june"), _scene(tmp_path, "old", 32633, when="2022-06-01")],
            region=EAST,
        ).grid.epsg
        == 32632
    )


def test_radar_decides_without_optical_scenes(tmp_path):
    left, top = EDGE[32632]
    items = [
        small_catalogs.an_item(
            tmp_path,
            "radar",
            {"vv": 0.1, "vh": 0.02},
            collection="sentinel-1-rtc",
            left=left,
            top=top,
            epsg=32632,
        )
    ]
    for item in items:
        item["properties"] |= {"sat:orbit_state": "ascending", "platform": "sentinel-1a"}
    plan = _plan(
        tmp_path,
        items,
        region=EAST,
        inputs=["S1RTC"],
        catalog={"path": str(tmp_path / "catalog.json"), "provider": "planetary-computer"},
    )
    assert plan.grid.epsg == 32632


@pytest.mark.parametrize(
    ("place", "scenes", "own", "expected"),
    [
        ((13.9, 46.9), 32632, 32633, 32633),
        ((-179.99, 10.0), 32660, 32601, 32660),
        ((33.0, -0.05), 32636, 32736, 32636),
        ((33.0, -4.0), 32636, 32736, 32736),
        ((4.5, 60.5), 32631, 32632, 32631),
        ((8.9, 60.5), 32631, 32632, 32632),
        ((6.05, 60.5), 32633, 32632, 32632),
        ((9.1, 78.0), 32631, 32633, 32631),
    ],
    ids=[
        "too far",
        "antimeridian",
        "equator",
        "far from the equator",
        "Norway",
        "Norway, too far",
        "not a neighbour",
        "Svalbard",
    ],
)
def test_granules_reach_a_granule_into_the_neighbouring_zone(
    tmp_path, place, scenes, own, expected
):
    longitude, latitude = place
    to_zone = Transformer.from_crs(4326, scenes, always_xy=True)
    x, y = to_zone.transform(longitude, latitude)
    corner = (round(x / 10) * 10 - 320.0, round(y / 10) * 10 + 320.0)
    region = shapely.Point(longitude, latitude).buffer(0.001)
    assert utm.find_zones(region) == (own,)
    assert utm.is_in_reach(region, own)
    assert utm.is_in_reach(region, scenes) == (expected == scenes)
    items = [_scene(tmp_path, "a", scenes, corner)]
    plan = _plan(tmp_path, items, region={"bbox": list(map(float, region.bounds))})
    assert plan.grid.epsg == expected


def test_scenes_without_a_stated_code_leave_the_region_in_its_zone(tmp_path):
    item = _scene(tmp_path, "a")
    del item["properties"]["proj:epsg"]
    assert grid.find_scene_zones([], shapely.box(0, 0, 1, 1)) == frozenset()
    stated = _scene(tmp_path, "b", when="2024-06-11")
    assert _plan(tmp_path, [stated, item], region=EAST).grid.epsg in (32632, 32633)
