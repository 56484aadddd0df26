"""A plan of a few tiles over scenes with random pixels, and the models of fake predictors."""

from __future__ import annotations

import dataclasses

import numpy as np
import shapely
from pyproj import Transformer

from catalogs.snapshot import Snapshot
from pipeline.grid import grid
from pipeline.plan.plan import Plan, to_geojson
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.plan.settings import RunSettings
from tests.support import small_worlds
from tests.support.fake_predictors import Brightness, Painter, Patches, Several

RECIPE = Recipe(
    inputs=("S2L2A",),
    clear_scl=(4, 5),
    dilate_m=0.0,
    method="median",
    stride=20,
    margin=2,
    probabilities=False,
    composites=True,
)
MODEL = ModelSpec(
    name="fake",
    digest="d" * 64,
    window=32,
    inputs={"S2L2A": ("B02",)},
    precision="fp32",
    batch=4,
    outputs=(*Brightness.outputs,),
)
FEATURES = dataclasses.replace(MODEL, outputs=(*Patches.outputs,))
NDVI = dataclasses.replace(MODEL, outputs=(*Painter.outputs,))
SEVERAL = dataclasses.replace(MODEL, outputs=(*Several.outputs,))


def make_plan(folder, *, scenes=2, model=MODEL, tile=32, size=80, area=None):
    """Plan a product of scenes with random pixels.

    Args:
        folder: where scenes and product go.
        scenes: number of scenes.
        model: model of the plan.
        tile: side of a tile, pixels.
        size: side of the scenes, pixels.
        area: the region, projected; a rectangle by default.
    """
    rng = np.random.default_rng(5)
    optical_scenes = tuple(
        small_worlds.optical(
            folder,
            f"scene-{number}",
            {"B02": rng.integers(1, 8000, (size, size)).astype(np.uint16)},
            rng.choice([4, 9], (size // 2, size // 2), p=[0.9, 0.1]).astype(np.uint8),
            when=f"2024-06-{number + 1:02d}T10:00:00+00:00",
        )
        for number in range(scenes)
    )
    box = shapely.box(
        small_worlds.LEFT + 53,
        small_worlds.TOP - 707,
        small_worlds.LEFT + 703,
        small_worlds.TOP - 67,
    )
    to_lonlat = Transformer.from_crs(small_worlds.EPSG, 4326, always_xy=True)
    region = shapely.transform(area or box, to_lonlat.transform, interleaved=False)
    finest, coarsest = (model.output_stride, model.max_output_stride) if model else (1, 1)
    lattice = {"stride": 20, "margin": 2} if coarsest == 1 else {"stride": 24, "margin": 0}
    coarse_grid = grid.build_covering_grid(region, small_worlds.EPSG, 10.0, (0.0, 0.0)).coarsen(
        coarsest
    )
    return Plan(
        name="test",
        period=("2024-06-01", "2024-06-30"),
        region=to_geojson(region),
        grids=(coarse_grid.refine(coarsest // finest),),
        tile_size=tile // finest,
        snapshot=Snapshot(scenes=optical_scenes),
        recipe=dataclasses.replace(RECIPE, **(lattice if model else {"stride": 0, "margin": 0})),
        model=model,
        settings=RunSettings(output_dir=str(folder)),
    )
