"""The recipe of the demo weights: countries, composites, fitting, and an honest measurement."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

import model
from catalogs.errors import Wrong
from flows.config import error_messages, yaml_file
from flows.config.base import Listed, Part
from flows.demo import training_data
from flows.observe.progress import Progress
from model.cards import demo_card
from model.predictor import edge_effect, registry
from model.predictor.cards import CLASSES, Card
from model.predictor.predictor import Running
from model.predictor.predictors import SegmentationPredictor
from model.segmenter import Segmenter
from model.terramind import config
from model.terramind.modalities import Statistics, get
from model.train import IGNORE, Mosaic, Qda, band_statistics, evaluate, fit
from model.train.metrics import Scores, scores
from pipeline.runtime import atomic_files

RECIPE = Path(registry.DEMO_CARD).parent / "recipe.yaml"
PIXELS = 400_000
"""Pixels that the per-pixel baseline learns from."""

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Listed]


class Recipe(Part):
    """Everything that the weights depend on."""

    seeds: Seeds = Field(min_length=1, description="a list of whole numbers")
    test_seeds: Seeds = Field(min_length=1, description="a list of whole numbers")
    size: int = Field(ge=512, le=1536, description="pixels, 512 to 1536")
    test_size: int = Field(ge=512, le=1536, description="pixels, 512 to 1536")
    architecture: dict[str, int | bool] = Field(description="dim, heads, depth, …")
    width: int = Field(ge=4, description="channels")
    steps: int = Field(ge=1, description="a whole number from 1")
    batch: int = Field(ge=1, description="a whole number from 1")
    learning_rate: float = Field(gt=0, description="a number above 0")
    seed: int = Field(ge=0, description="a whole number")


def read(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        Wrong: something in it is wrong.
    """
    try:
        return Recipe.model_validate(yaml_file.read(path))
    except ValidationError as error:
        raise Wrong(error_messages.explain(error, Recipe, str(path))) from error


def run(
    job: Path | None,
    *,
    out: Path | None,
    seeds: Sequence[int] | None,
    steps: int | None,
    device: str,
    minutes: float | None,
    progress: Progress,
) -> dict[str, Any]:
    """Train by a recipe and write weights and card.

    Args:
        job: the recipe; None = the shipped one.
        out: folder of the result; the countries stay in it.
        seeds: countries to learn from, instead of the recipe's.
        steps: instead of the recipe's.
        device: where to train.
        minutes: of fitting at most; the schedule is compressed.
        progress: who is told.
    """
    recipe = read(job or RECIPE)
    changes = {"seeds": seeds, "steps": steps}
    recipe = recipe.model_copy(update={key: value for key, value in changes.items() if value})
    if twice := set(recipe.seeds) & set(recipe.test_seeds):
        raise Wrong(
            f"Countries {sorted(twice)} would be learnt from and tested on. "
            "Take them out of seeds or of test_seeds."
        )
    out = out or Path("terramosaic-train")
    started = time.perf_counter()
    chips = countries(out, recipe.seeds, recipe.size, progress)
    made = round(time.perf_counter() - started, 1)
    built, scales = segmenter(recipe), band_statistics(chips)
    progress.stage("fit", recipe.steps)
    record = fit(
        built,
        chips,
        steps=recipe.steps,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        device=device,
        statistics=scales,
        time_budget=minutes * 60 if minutes else None,
        progress=lambda now: progress.advance(1, f"loss {now.loss:.3f}"),
    )
    tests = countries(out, recipe.test_seeds, recipe.test_size, progress)
    measured = measure(
        built, scales, chips, dict(zip(recipe.test_seeds, tests, strict=True)), progress
    )
    training = {
        "what": "A small network of TerraMind's architecture, trained on invented countries "
        "(catalogs/demo) by `terramosaic train`. It shows the machinery; it holds none of "
        "TerraMind's pre-training, and it is no product for real land.",
        "recipe": recipe.model_dump(mode="json"),
        "fit": {
            "steps": record.steps,
            "seconds": record.seconds,
            "device": record.device,
            "threads": record.threads,
            "losses": list(record.losses),
            "machine": platform.machine(),
        },
        "seconds_of_material": made,
        **measured,
    }
    card = _card(recipe, built, scales, training)
    curve = edge_effect.measure(
        SegmentationPredictor(
            built, card, running=Running(device=device, precision="fp32", holes="fill")
        ),
        [test.inputs for test in tests],
        on=f"countries {', '.join(map(str, recipe.test_seeds))}",
    )
    card = registry.ship(out, built, replace(card, reach=curve))
    weights = out / "weights.safetensors"
    sha256, size = atomic_files.sha256(weights), weights.stat().st_size
    text = demo_card.card(card, sha256=sha256, size=size)
    atomic_files.write_atomic(out / "card.md", text.encode())
    progress.finish()
    return {
        "weights": str(weights),
        "card": str(out / "card.md"),
        "sha256": sha256,
        "bytes": size,
        "seconds": round(time.perf_counter() - started, 1),
        **_summary(measured),
    }


def countries(out: Path, seeds: Sequence[int], size: int, progress: Progress) -> list[Mosaic]:
    """Build and compose countries; what lies in the folder is used again."""
    progress.stage("countries", len(seeds))
    made = []
    for seed in seeds:
        folder = out / "countries" / f"{seed}-{size}"
        made.append(training_data.of_country(folder, seed=seed, size=size, names=CLASSES))
        progress.advance(1, f"seed {seed}")
    return made


def segmenter(recipe: Recipe) -> Segmenter:
    """Build the recipe's network with its initial weights."""
    return model.segmenter(
        recipe.architecture,
        list(training_data.INPUTS),
        len(CLASSES),
        width=recipe.width,
        weights={"random": recipe.seed},
    )


def _card(
    recipe: Recipe,
    built: Segmenter,
    scales: Mapping[str, Statistics],
    training: Mapping[str, Any],
) -> Card:
    return Card(
        name="demo",
        architecture=config.architecture(recipe.architecture),
        inputs={name: get(name).bands for name in training_data.INPUTS},
        statistics=scales,
        layers=tuple(built.layers),
        width=recipe.width,
        training=training,
    )


def measure(
    built: Segmenter,
    scales: Mapping[str, Statistics],
    chips: Sequence[Mosaic],
    tests: Mapping[int, Mosaic],
    progress: Progress,
) -> dict[str, Any]:
    """Score the network, the network without its tokens, and a per-pixel baseline.

    All three see the same countries, none of which was learnt from.
    """
    baseline = _baseline(chips)
    progress.stage("measure", len(tests) + 1)
    result: dict[str, Any] = {}
    for seed, test in tests.items():
        result[str(seed)] = {
            "model": _named(evaluate(built, [test], statistics=scales)),
            "model_without_tokens": _named(
                evaluate(built, [test], statistics=scales, tokens="zero")
            ),
            "per_pixel_qda": _named(_score_baseline(baseline, test)),
        }
        progress.advance(1, f"seed {seed}")
    realdata = os.environ.get("TERRAMOSAIC_REALDATA")
    places = training_data.places(Path(realdata), CLASSES) if realdata else {}
    real = {
        name: _named(evaluate(built, [training_data.padded(place, 224)], statistics=scales))
        for name, place in places.items()
    }
    progress.advance(1, "real places")
    return {"test_countries": result, "real_places": real}


def _baseline(chips: Sequence[Mosaic]) -> Qda:
    table, labels = training_data.features(chips)
    chosen = np.random.default_rng(0).permutation(len(labels))[:PIXELS]
    return Qda.fit(table[chosen], labels[chosen], len(CLASSES))


def _score_baseline(baseline: Qda, test: Mosaic) -> Scores:
    table, _ = training_data.features([test])
    answer = np.zeros(test.labels.shape, dtype=np.int64)
    answer[test.labels != IGNORE] = baseline.predict(table)
    return scores([test.labels], [answer], len(CLASSES))


def _named(found: Scores) -> dict[str, Any]:
    values = found.to_mapping()
    by_class = values.pop("by_class")
    if not isinstance(by_class, list):
        raise TypeError("by_class is a list")
    return values | {"f1": dict(zip(CLASSES, by_class, strict=True))}


def _summary(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        group: {
            name: {kind: scored["overall"] for kind, scored in entry.items()}
            if group == "test_countries"
            else entry["overall"]
            for name, entry in measured[group].items()
        }
        for group in ("test_countries", "real_places")
    }
