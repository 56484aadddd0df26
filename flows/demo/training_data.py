"""Training data of the demo model: composites of synthetic countries with their true classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogs import demo, legend
from flows.config import job as jobs
from flows.demo.demo import read_truth, write_job
from flows.run import planning
from model.train import IGNORE_INDEX, LabelledMosaic
from pipeline.compositing import composite_block

INPUTS = ("S2L2A", "S1RTC", "DEM")
NO_MODEL = {"name": "none"}


def compose_country(
    folder: Path, *, seed: int, size: int, class_names: Sequence[str], threads: int = 2
) -> LabelledMosaic:
    """Build the country of a seed, or open it, and composite it without a model.

    Args:
        folder: Folder of the country.
        seed: Seed of the country.
        size: Side of a scene, pixels.
        class_names: Class names in the model's order.
        threads: Number of threads that read and composite.
    """
    country = demo.build(folder, seed=seed, size=size)
    job = write_job(folder, country, tile_size=512, model=NO_MODEL)
    plan = planning.create_plan(jobs.load(job))
    truth = read_truth(country.truth, plan.grid)
    composite = composite_block.compose(plan, plan.snapshot.scenes, plan.grid, threads=threads)
    labels = np.where(
        composite.observations > 0, _to_class_indices(truth, class_names), IGNORE_INDEX
    )
    # ^ pixels without observations are not mapped, hence neither trained on nor tested
    inputs = composite_block.to_model_inputs(plan, composite)
    return LabelledMosaic(inputs=dict(inputs), labels=labels.astype(np.uint8))


def to_feature_table(
    mosaics: Sequence[LabelledMosaic],
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return features and labels of every labelled pixel: (pixels, bands) and (pixels,)."""
    tables, labels = [], []
    for mosaic in mosaics:
        stacked = np.concatenate([mosaic.inputs[name] for name in INPUTS])
        labelled = mosaic.labels != IGNORE_INDEX
        tables.append(stacked[:, labelled].T)
        labels.append(mosaic.labels[labelled])
    return np.concatenate(tables), np.concatenate(labels)


def _to_class_indices(codes: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
    table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    for index, name in enumerate(names):
        table[legend.LAND_COVER.by_name[name].code] = index
    indexed: NDArray[np.uint8] = table[codes]
    return indexed
