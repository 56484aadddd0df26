"""A plan over two UTM zones with any number of tiles, of scenes that exist on no disk."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from pathlib import Path

import shapely
from pyproj import Transformer

from catalogs.scene import Asset, Scene
from catalogs.sensors import SENSORS
from catalogs.snapshot import Snapshot
from pipeline.grid import grid, utm
from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.plan import Plan, to_geojson
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.plan.settings import ExecutionSettings, RunSettings
from tests.support import small_worlds

TILE = 512
SIDE, STEP = 109_800.0, 100_000.0
"""Side of a Sentinel-2 tile, and distance between two, metres."""

SIZES = dict.fromkeys(("B01", "B09"), 60) | dict.fromkeys(("B02", "B03", "B04", "B08"), 10)
"""Metres of a pixel; 20 for all other bands."""

SOUTH, MIDDLE = 36.0, 12.0
"""Degrees: the southern edge of the region, and the meridian between its two zones."""

MODEL = ModelSpec(
    name="fake",
    digest="d" * 64,
    window=224,
    inputs={"S2L2A": ("B02", "B03", "B04", "B08", "B11", "B12"), "DEM": ("DEM",)},
    precision="fp32",
    batch=4,
    outputs=(OutputSpec(class_names=("water", "bare")),),
)
RECIPE = Recipe(
    inputs=("S2L2A", "DEM"),
    clear_scl=(4, 5, 6),
    dilate_m=60.0,
    method="median",
    stride=208,
    margin=0,
    probabilities=False,
    composites=False,
)


def plan(folder: Path, tiles: int, *, days: int = 10) -> Plan:
    """Plan tiles of 512 px on both sides of the meridian at 12 degrees east.

    Args:
        folder: where the product would be written.
        tiles: approximate number of tiles.
        days: number of Sentinel-2 scenes of each point.
    """
    area = tiles * (TILE * 0.01) ** 2
    # ^ km²; one degree is some 111 km, and 80 km along a parallel here
    width = min(math.sqrt(area) / 80, 11.8)
    height = area / (width * 80) / 111
    region = shapely.box(MIDDLE - width / 2, SOUTH, MIDDLE + width / 2, SOUTH + height)
    zones = {code: utm.clip_to_zone(region, code) for code in utm.find_zones(region)}
    scenes = [scene for code, part in zones.items() for scene in _optical(code, part, days)]
    return Plan(
        name="expanse",
        period=("2024-06-01", "2024-06-30"),
        region=to_geojson(region),
        grids=tuple(
            grid.build_covering_grid(part, code, 10.0, (0.0, 0.0)) for code, part in zones.items()
        ),
        tile_size=TILE,
        snapshot=Snapshot(scenes=(*scenes, *_heights(region))),
        recipe=RECIPE,
        model=MODEL,
        settings=RunSettings(output_dir=str(folder), execution=ExecutionSettings(device="cpu")),
    )


def _optical(epsg: int, region: shapely.Polygon, days: int) -> Iterator[Scene]:
    """Yield the scenes of each Sentinel-2 tile that intersects a region."""
    west, south, east, north = grid.project(region, epsg).bounds
    back = Transformer.from_crs(epsg, 4326, always_xy=True)
    for column in range(math.floor(west / STEP), math.ceil(east / STEP)):
        for row in range(math.floor(south / STEP), math.ceil(north / STEP)):
            left, top = column * STEP, row * STEP + SIDE
            outline = shapely.transform(
                shapely.box(left, top - SIDE, left + SIDE, top), back.transform, interleaved=False
            )
            for day in range(days):
                yield _scene(
                    f"S2_{epsg}_{column:03d}_{row:03d}_{day:02d}",
                    "S2L2A",
                    outline,
                    {
                        band: _asset(band, epsg, float(SIZES.get(band, 20)), left, top, SIDE)
                        for band in SENSORS["S2L2A"].bands
                        if band != "CLD"
                    },
                    when=dt.datetime(2024, 6, 1, 10, tzinfo=dt.UTC) + dt.timedelta(days=3 * day),
                )


def _heights(region: shapely.Polygon) -> Iterator[Scene]:
    """Yield elevation models of one degree each, in longitude and latitude."""
    west, south, east, north = (math.floor(edge) for edge in region.bounds)
    for x in range(west, east + 1):
        for y in range(south, north + 1):
            assets = {"DEM": _asset("DEM", 4326, 1 / 3600, float(x), y + 1.0, 1.0)}
            yield _scene(f"DEM_{x}_{y}", "DEM", shapely.box(x, y, x + 1, y + 1), assets)


def _asset(band: str, epsg: int, size: float, left: float, top: float, side: float) -> Asset:
    pixels = round(side / size)
    units = {"SCL": small_worlds.CLASS, "DEM": small_worlds.METRE}
    return Asset(
        band=band,
        href=f"https://store.example/{epsg}/{left:.0f}/{top:.0f}/{band}.tif",
        radiometry=units.get(band, small_worlds.SHIFTED),
        epsg=epsg,
        transform=(size, 0.0, left, 0.0, -size, top),
        shape=(pixels, pixels),
        nodata=0.0,
    )


def _scene(
    identity: str,
    modality: str,
    outline: shapely.Polygon,
    assets: dict[str, Asset],
    when: dt.datetime | None = None,
) -> Scene:
    return Scene(
        id=identity,
        collection=modality.lower(),
        provider="planetary-computer",
        modality=modality,
        datetime=when,
        footprint=to_geojson(outline),
        bbox=outline.bounds,
        assets=assets,
    )
