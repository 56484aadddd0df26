"""A region over two UTM zones: each place is mapped once, and the mosaic shows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 (it is the accessor that is wanted)
import shapely
import xarray as xr
import yaml
from pyproj import CRS, Geod, Proj, Transformer

from catalogs import demo as country
from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.orchestration import launch
from flows.run import planning, product_folder, verify
from pipeline import layer_table
from pipeline.plan.plan import Plan, from_geojson
from pipeline.product import stac_item

RESOLUTION = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Map a small country on the grids of both its zones."""
    folder = tmp_path_factory.mktemp("zones")
    built = country.build(folder / "country", seed=11, size=512)
    values = {
        "name": "two",
        "region": {"bbox": list(shapely.geometry.shape(built.region).bounds)},
        "period": "2021-05-10/2021-07-10",
        "catalog": {"path": str(built.catalog), "provider": "demo"},
        "inputs": ["S2L2A", "DEM"],
        "grid": {"crs": "utm", "resolution": RESOLUTION, "mosaic": ["EPSG:3035", "EPSG:32632"]},
        "model": {"name": "none"},
        "output": {"path": "out", "composites": True},
        "execution": {"tile": 64},
    }
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(values))
    result = launch.run_file(
        job, allow_partial=False, max_cost=None, progress=NullProgress()
    ).to_dict()
    assert result["status"] == "complete"
    plan = planning.create_plan(jobs.load(job))
    return plan, product_folder.product_dir(plan), result


def _centres(grid, own):
    rows, columns = np.nonzero(own)
    return (
        grid.left + (columns + 0.5) * grid.resolution,
        grid.top - (rows + 0.5) * grid.resolution,
    )


def _read(home, href):
    with rasterio.open(home / href) as file:
        return file.read(), file.crs.to_epsg(), file.transform


def _own(home, plan, epsg):
    """Return which pixels of a zone's grid belong to it, from its published counts."""
    values, code, transform = _read(home, f"{plan.short_digest}/{epsg}/observations.tif")
    assert (code, transform) == (epsg, plan.grid_for(epsg).transform)
    return values[0] != layer_table.get("observations").nodata


def test_there_is_a_grid_for_each_zone(made):
    plan, _, result = made
    assert [grid.epsg for grid in plan.grids] == [32632, 32633]
    assert [grid.epsg for grid in plan.mosaic_grids] == [3035, 32632]
    assert result["tiles"]["done"] == len(plan.tiles) == len({tile.id for tile in plan.tiles})
    assert Plan.from_dict(plan.to_dict()).digest == plan.digest


def test_the_geodesic_area_of_all_pixels_is_that_of_the_region(made):
    plan, home, _ = made
    total = 0.0
    for grid in plan.grids:
        xs, ys = _centres(grid, _own(home, plan, grid.epsg))
        longitudes, latitudes = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(
            xs, ys
        )
        assert ((longitudes >= 12.0) == (grid.epsg == 32633)).all()
        scale = Proj(CRS.from_epsg(grid.epsg)).get_factors(longitudes, latitudes).areal_scale
        total += float((RESOLUTION**2 / scale).sum())
    dense = shapely.segmentize(from_geojson(plan.region), 0.001)
    area, perimeter = Geod(ellps="WGS84").geometry_area_perimeter(dense)
    assert abs(total - abs(area)) < 1e-4 * abs(area) + perimeter * RESOLUTION / 2
    assert abs(total - abs(area)) < 1e-3 * abs(area)


@pytest.mark.parametrize("epsg", [3035, 32632])
def test_a_mosaic_pixel_is_the_nearest_pixel_of_its_zone(made, epsg):
    plan, home, _ = made
    for name in ("observations", "composite_S2L2A", "composite_DEM"):
        layer = layer_table.get(name)
        values, code, transform = _read(home, f"{plan.short_digest}/mosaic_{epsg}/{name}.tif")
        grid = next(one for one in plan.mosaic_grids if one.epsg == epsg)
        assert (code, transform) == (epsg, grid.transform)
        xs, ys = _centres(grid, np.ones(grid.shape, bool))
        longitudes, latitudes = Transformer.from_crs(epsg, 4326, always_xy=True).transform(xs, ys)
        inside = shapely.contains_xy(from_geojson(plan.region), longitudes, latitudes)
        flat = values.reshape(len(values), -1)
        wider = from_geojson(plan.region).buffer(1e-6)
        # ^ a tenth of a metre: where a straight edge in degrees is a curve on the grid
        outside = flat[:, ~shapely.contains_xy(wider, longitudes, latitudes)]
        assert (np.isnan(outside) if np.isnan(layer.nodata) else outside == layer.nodata).all()
        for zone in plan.grids:
            here = inside & ((longitudes >= 12.0) == (zone.epsg == 32633))
            own = _own(home, plan, zone.epsg)
            source, _, _ = _read(home, f"{plan.short_digest}/{zone.epsg}/{name}.tif")
            x, y = Transformer.from_crs(epsg, zone.epsg, always_xy=True).transform(
                xs[here], ys[here]
            )
            rows = np.floor((zone.top - y) / RESOLUTION).astype(int)
            columns = np.floor((x - zone.left) / RESOLUTION).astype(int)
            within = (rows >= 0) & (rows < zone.height) & (columns >= 0) & (columns < zone.width)
            within[within] = own[rows[within], columns[within]]
            assert within.mean() > 0.97
            # ^ the others lie along an edge, where the nearest centre is on its far side
            expected = source[:, rows[within], columns[within]]
            assert np.array_equal(flat[:, here][:, within], expected, equal_nan=True)
    counts = values_of(home, plan, epsg)
    assert (counts[inside] != layer_table.get("observations").nodata).all()


def values_of(home, plan, epsg):
    return _read(home, f"{plan.short_digest}/mosaic_{epsg}/observations.tif")[0].ravel()


def test_the_item_names_every_part_and_counts_each_once(made):
    plan, home, _result = made
    item = json.loads((home / "item.json").read_text())
    assert {
        "observations",
        "observations_32632",
        "observations_32633",
        "observations_mosaic_32632",
    } <= set(item["assets"])
    assert item["assets"]["observations"]["proj:code"] == "EPSG:3035"
    assert item["assets"]["observations_32632"]["title"].endswith("(EPSG:32632)")
    assert stac_item.PROJECTION in item["stac_extensions"]
    assert item["properties"]["proj:code"] is None
    inside = sum(int(_own(home, plan, grid.epsg).sum()) for grid in plan.grids)
    unseen = sum(
        int((_read(home, f"{plan.short_digest}/{grid.epsg}/observations.tif")[0] == 0).sum())
        for grid in plan.grids
    )
    assert item["properties"]["terramosaic:not_observed_percent"] == pytest.approx(
        100 * unseen / inside, abs=1e-3
    )


def test_each_zone_has_a_group_of_the_cube(made):
    plan, home, _ = made
    cube = home / plan.short_digest / "cube.zarr"
    for grid in plan.grids:
        data = xr.open_zarr(cube / str(grid.epsg), decode_coords="all", mask_and_scale=False)
        assert data.rio.crs.to_epsg() == grid.epsg
        assert data.rio.transform() == grid.transform
        same = xr.open_zarr(cube, group=str(grid.epsg), mask_and_scale=False)
        assert np.array_equal(same.observations.values, data.observations.values)


def test_it_is_done_and_verifies(made):
    _plan, home, _ = made
    again = launch.run_file(
        home.parents[1].parent / "job.yaml",
        allow_partial=False,
        max_cost=None,
        progress=NullProgress(),
    )
    assert again.status == "unchanged"
    assert again.map is None  # no model, no map
    assert verify.verify(home, NullProgress()).ok
