"""Every band of real scenes on its native grid equals what rasterio reads, to the byte."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.windows import Window

from catalogs.scene import Asset, Radiometry, Scene
from pipeline.grid.grid import Grid
from pipeline.reading import cube
from tests.support import real_items

CATALOGS = {
    "earth-search": ("S2L2A",),
    "planetary-computer": ("S2L2A", "S1RTC", "DEM"),
    "cdse": ("S2L2A",),
}
PADDING = 7
"""Pixels that are read around each scene, and must be nodata."""


def _find_scenes(realdata, name):
    scenes = real_items.find_scenes(realdata, name, CATALOGS[name])
    assert scenes
    return scenes


def _load_stored(scene, bands, grid):
    stored = cube.load([scene], bands, grid, stored=True)
    return stored[0].compute(scheduler="synchronous"), stored.rio.nodata


def _fill_nodata(stored, asset, file, fill):
    """Return stored values with the fill in place of nodata, in floating point."""
    nodata = asset.nodata if asset.nodata is not None else file.nodata
    values = stored.astype(float)
    if nodata is not None:
        values[np.isnan(values) if math.isnan(nodata) else values == nodata] = fill
    return values


def _pad_grid(file, padding=PADDING):
    return Grid(
        epsg=file.crs.to_epsg(),
        resolution=file.transform.a,
        left=file.transform.c - padding * file.transform.a,
        top=file.transform.f + padding * file.transform.a,
        height=file.height + 2 * padding,
        width=file.width + 2 * padding,
    )


@pytest.mark.parametrize("name", CATALOGS)
def test_every_band_on_its_native_grid_is_unchanged(realdata, name):
    pixels = 0
    for scene in _find_scenes(realdata, name):
        for band, asset in scene.assets.items():
            with rasterio.open(asset.href) as file:
                grid = _pad_grid(file)
                values, fill = _load_stored(scene, [band], grid)
                inner = _fill_nodata(file.read(1), asset, file, fill)
                expected = np.pad(inner, PADDING, constant_values=fill)
                assert np.array_equal(values[0], expected, equal_nan=True), (scene.id, band)
            pixels += values.size
    assert pixels > 100_000


@pytest.mark.parametrize("name", CATALOGS)
def test_a_window_across_the_edge_is_unchanged(realdata, name):
    for scene in _find_scenes(realdata, name):
        band, asset = next(iter(scene.assets.items()))
        with rasterio.open(asset.href) as file:
            grid = _pad_grid(file)
            third, half = grid.height // 3, grid.width // 2
            window_grid = grid.window(row=third, column=half, height=third, width=half)
            values, fill = _load_stored(scene, [band], window_grid)
            window = Window(half - PADDING, third - PADDING, half, third)
            stored = file.read(1, window=window, boundless=True, fill_value=0)
            empty = np.ones(stored.shape, np.bool_)
            empty[: file.height + PADDING - third, : file.width + PADDING - half] = False
            expected = np.where(empty, fill, _fill_nodata(stored, asset, file, fill))
        assert np.array_equal(values[0], expected, equal_nan=True), scene.id


@pytest.mark.parametrize("name", CATALOGS)
def test_coarser_bands_are_sampled_on_the_finest_grid(realdata, name):
    for scene in _find_scenes(realdata, name):
        if scene.modality != "S2L2A":
            continue
        finest = min(scene.assets.values(), key=lambda asset: abs(asset.transform[0]))
        with rasterio.open(finest.href) as file:
            full_grid = _pad_grid(file, 0)
        grid = full_grid.window(
            row=0, column=0, height=min(full_grid.height, 600), width=min(full_grid.width, 900)
        )
        values, fill = _load_stored(scene, list(scene.assets), grid)
        xs, ys = values.x.values, values.y.values
        for band, asset in scene.assets.items():
            with rasterio.open(asset.href) as file:
                transform = file.transform
                columns = np.floor((xs - transform.c) / transform.a + 1e-6).astype(int)
                rows = np.floor((ys - transform.f) / transform.e + 1e-6).astype(int)
                padding = max(0, -rows.min(), -columns.min(), rows.max() - file.height + 1)
                padding = int(max(padding, columns.max() - file.width + 1))
                stored = np.pad(
                    _fill_nodata(file.read(1), asset, file, fill), padding, constant_values=fill
                )
            expected = stored[np.ix_(rows + padding, columns + padding)]
            assert np.array_equal(values.sel(band=band), expected), (scene.id, band)


def _build_dem_scene(path):
    """Describe a terrain model as a catalog would."""
    with rasterio.open(path) as file:
        asset = Asset(
            band="DEM",
            href=str(path),
            radiometry=Radiometry(scale=1.0, offset=0.0, unit="m"),
            epsg=file.crs.to_epsg(),
            transform=tuple(file.transform)[:6],
            shape=file.shape,
            nodata=file.nodata,
        )
    return Scene(
        id="S",
        collection="c",
        provider="planetary-computer",
        modality="DEM",
        datetime=None,
        footprint=shapely.geometry.mapping(shapely.box(0, 0, 1, 1)),
        bbox=(0, 0, 1, 1),
        assets={"DEM": asset},
    )


def test_an_elevation_model_in_a_compound_crs_is_placed_correctly(realdata):
    """Expected is bilinear interpolation in NumPy, at coordinates computed by pyproj."""
    path = next((realdata / "dem-rome").glob("*.tif"))
    with rasterio.open(path) as file:
        code, heights, transform = file.crs.to_epsg(), file.read(1).astype(float), file.transform
        compound = CRS.from_wkt(file.crs.to_wkt())
        middle = file.transform * (file.width / 2, file.height / 2)
        nodata = file.nodata
    assert compound.is_compound
    assert code == 9707
    scene = _build_dem_scene(path)
    x, y = Transformer.from_crs(4326, 32633, always_xy=True).transform(*middle)
    grid = Grid(
        epsg=32633,
        resolution=10.0,
        left=round(x) - 2000,
        top=round(y) + 2000,
        height=400,
        width=400,
    )
    values, _ = _load_stored(scene, ["DEM"], grid)
    xs, ys = np.meshgrid(values.x.values, values.y.values)
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    column, row = ~transform * to_degrees.transform(xs, ys)
    column, row = column - 0.5, row - 0.5
    left, above = np.floor(column).astype(int), np.floor(row).astype(int)
    expected = sum(
        heights[above + i, left + j]
        * (1 - np.abs(row - above - i))
        * (1 - np.abs(column - left - j))
        for i in (0, 1)
        for j in (0, 1)
    )
    assert nodata is None or not (heights == nodata).any()
    assert np.abs(values[0] - expected).max() < 0.01
    assert float(np.std(expected)) > 5
