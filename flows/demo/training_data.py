"""Training and test material: countries and real places, composed as a job would compose them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from catalogs import demo, legend, search
from catalogs.search import CatalogSource
from flows.config import job as jobs
from flows.demo import demo as country_flow
from flows.run import planning
from model.train import IGNORE_INDEX, LabelledMosaic
from pipeline.compositing import composite_block
from pipeline.plan.plan import Plan

INPUTS = ("S2L2A", "S1RTC", "DEM")
NO_MODEL = {"name": "none"}


def compose_country(
    folder: Path, *, seed: int, size: int, class_names: Sequence[str], threads: int = 2
) -> LabelledMosaic:
    """Build the country of a seed, or find it in a folder, and compose it without a model.

    Args:
        folder: where the country lies or will lie.
        seed: of the country.
        size: side of a granule, pixels.
        class_names: class names in the model's order.
        threads: threads that read and compose.
    """
    country = demo.build(folder, seed=seed, size=size)
    job = country_flow.write_job(folder, country, tile_size=512, model=NO_MODEL)
    plan = planning.create_plan(jobs.load(job))
    truth = country_flow.read_truth(country.truth, plan.grid)
    seen = composite_block.compose(plan, plan.snapshot.scenes, plan.grid, threads=threads)
    return _to_training_mosaic(plan, seen, _to_class_indices(truth, class_names))


def compose_place(
    catalog: Path,
    allow: Path,
    *,
    reference: Path,
    name: str,
    bbox: Sequence[float],
    period: str,
    class_names: Sequence[str],
) -> LabelledMosaic:
    """Compose a real place and read its land cover.

    Args:
        catalog: a static catalog of Planetary Computer's conventions.
        allow: folder under which the assets lie.
        reference: raster of land cover, indexed as TerraMind's LULC modality.
        name: of the place.
        bbox: west, south, east, north.
        period: date range that holds the scenes of the place.
        class_names: class names in the model's order.
    """
    values: dict[str, Any] = {
        "name": name,
        "region": {"bbox": list(bbox)},
        "period": period,
        "catalog": {"path": str(catalog), "provider": "planetary-computer"},
        "allow": [str(allow)],
        "inputs": list(INPUTS),
        "model": NO_MODEL,
        "output": {"composites": True},
    }
    with tempfile.TemporaryDirectory() as folder:
        plan = planning.create_plan(jobs.parse(values, folder=Path(folder)))
    by_index = {entry.index: entry.code for entry in legend.CLASSES}
    indexed = country_flow.read_truth(reference, plan.grid)
    codes = np.vectorize(lambda index: by_index.get(index, 0), otypes=[np.uint8])(indexed)
    seen = composite_block.compose(plan, plan.snapshot.scenes, plan.grid, threads=2)
    return _to_training_mosaic(plan, seen, _to_class_indices(codes, class_names))


def compose_places(realdata: Path, class_names: Sequence[str]) -> dict[str, LabelledMosaic]:
    """Return the real places that have all inputs and a land cover, by name."""
    root = realdata / "catalog"
    catalog = root / "planetary-computer" / "catalog.json"
    world = shapely.box(-180, -90, 180, 90)
    found = search.find_scenes(
        CatalogSource(provider="planetary-computer", location=str(catalog), allow=(str(realdata),)),
        ("DEM",),
        world,
        None,
    )
    made = {}
    for scene in found.scenes:
        name = scene.id.removeprefix("DEM_TM_")
        reference = Path(scene.assets["DEM"].href).parent / "LULC.tif"
        made[name] = compose_place(
            catalog,
            realdata,
            reference=reference,
            name=name,
            bbox=scene.bbox,
            period="2015-01-01/2024-12-31",
            class_names=class_names,
        )
    return made


def pad_mosaic(mosaic: LabelledMosaic, min_side: int) -> LabelledMosaic:
    """Widen a mosaic with missing pixels until a window fits."""
    height, width = mosaic.labels.shape
    below, right = max(min_side - height, 0), max(min_side - width, 0)
    inputs = {
        key: np.pad(values, ((0, 0), (0, below), (0, right)), constant_values=np.nan)
        for key, values in mosaic.inputs.items()
    }
    labels = np.pad(mosaic.labels, ((0, below), (0, right)), constant_values=IGNORE_INDEX)
    return replace(mosaic, inputs=inputs, labels=labels)


def to_feature_table(
    mosaics: Sequence[LabelledMosaic],
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return every labelled pixel by itself: (pixels, bands) and (pixels,)."""
    tables, labels = [], []
    for mosaic in mosaics:
        stacked = np.concatenate([mosaic.inputs[name] for name in INPUTS])
        there = mosaic.labels != IGNORE_INDEX
        tables.append(stacked[:, there].T)
        labels.append(mosaic.labels[there])
    return np.concatenate(tables), np.concatenate(labels)


def _to_class_indices(codes: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
    table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    for index, name in enumerate(names):
        table[legend.CLASS_BY_NAME[name].code] = index
    indexed: NDArray[np.uint8] = table[codes]
    return indexed


def _to_training_mosaic(
    plan: Plan, seen: composite_block.CompositeBlock, labels: NDArray[np.uint8]
) -> LabelledMosaic:
    inputs = composite_block.to_model_inputs(plan, seen)
    labels = np.where(seen.observations > 0, labels, IGNORE_INDEX).astype(np.uint8)
    # ^ what was not observed is not mapped, hence neither taught nor tested
    return LabelledMosaic(inputs=dict(inputs), labels=labels)
