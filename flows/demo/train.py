"""Training of the demo model: countries, composites, fitting and evaluation."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

import model
from catalogs.errors import InvalidInputError
from flows.config import validation_messages, yaml_file
from flows.config.base import ConfigModel, LaxTuple
from flows.demo import training_data
from flows.observe.progress import Progress
from flows.run.command_results import CountryAccuracy, TrainResult
from model.predictor import edge_effect, registry
from model.predictor.card_file import CLASSES, Card
from model.predictor.predictor import InferenceOptions
from model.predictor.task_predictors import SegmentationPredictor
from model.terramind import architectures
from model.terramind.modalities import Statistics, get_raster_modality
from model.terramind.segmentation_head import Segmenter
from model.tools import card_markdown
from model.train import IGNORE_INDEX, LabelledMosaic, Qda, compute_band_statistics, evaluate, fit
from model.train.scores import Scores, compute_scores
from pipeline.runtime import atomic_files

DEFAULT_CONFIG_PATH = Path(registry.DEMO_CARD_PATH).parent / "recipe.yaml"
BASELINE_PIXELS = 400_000
"""Number of pixels that the per-pixel baseline is fitted to."""

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], LaxTuple]


class TrainingConfig(ConfigModel):
    """Training configuration: everything that the weights depend on."""

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


def read_config(path: Path) -> TrainingConfig:
    """Read a training configuration.

    Raises:
        InvalidInputError: The file is missing or invalid.
    """
    try:
        return TrainingConfig.model_validate(yaml_file.read(path))
    except ValidationError as error:
        raise InvalidInputError(
            validation_messages.explain_validation_error(error, TrainingConfig, str(path))
        ) from error


def run(
    job: Path | None,
    *,
    out: Path | None,
    seeds: Sequence[int] | None,
    steps: int | None,
    device: str,
    minutes: float | None,
    progress: Progress,
) -> TrainResult:
    """Train the demo model and write its weights and card.

    Args:
        job: Path of a training configuration; None = the shipped one.
        out: Folder of the result, which also keeps the countries.
        seeds: Seeds of the training countries, instead of the configuration's.
        steps: Optimiser steps, instead of the configuration's.
        device: Device to train on.
        minutes: Time limit of fitting; the learning-rate schedule is shortened to it.
        progress: Progress display.
    """
    recipe = read_config(job or DEFAULT_CONFIG_PATH)
    changes = {"seeds": seeds, "steps": steps}
    recipe = recipe.model_copy(update={key: value for key, value in changes.items() if value})
    if shared := set(recipe.seeds) & set(recipe.test_seeds):
        raise InvalidInputError(
            f"The countries {sorted(shared)} are in both seeds and test_seeds: "
            "remove them from one of the two."
        )
    out = out or Path("terramosaic-train")
    started = time.perf_counter()
    mosaics = load_or_build_countries(out, recipe.seeds, recipe.size, progress)
    data_seconds = round(time.perf_counter() - started, 1)
    network, statistics = build_segmenter(recipe), compute_band_statistics(mosaics)
    progress.start_stage("fit", recipe.steps)
    record = fit(
        network,
        mosaics,
        steps=recipe.steps,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        device=device,
        statistics=statistics,
        time_budget=minutes * 60 if minutes else None,
        progress=lambda step: progress.advance(1, f"loss {step.loss:.3f}"),
    )
    tests = load_or_build_countries(out, recipe.test_seeds, recipe.test_size, progress)
    scores_by_seed = evaluate_models(
        network, statistics, mosaics, dict(zip(recipe.test_seeds, tests, strict=True)), progress
    )
    training = {
        "what": "A small network of TerraMind's architecture, trained on synthetic countries "
        "(catalogs/demo) by `terramosaic train`. It is for trials of terramosaic: it has none of "
        "TerraMind's pre-training and is not suited to real land.",
        "recipe": recipe.model_dump(mode="json"),
        "fit": {
            "steps": record.steps,
            "seconds": record.seconds,
            "device": record.device,
            "threads": record.threads,
            "losses": list(record.losses),
            "machine": platform.machine(),
        },
        "seconds_of_material": data_seconds,
        "test_countries": {
            str(seed): scores.to_mapping() for seed, scores in scores_by_seed.items()
        },
        "real_places": {},
        # ^ the card of the shipped weights also has measurements on real land
    }
    card = _build_card(recipe, network, statistics, training)
    curve = edge_effect.measure(
        SegmentationPredictor(
            network,
            card,
            options=InferenceOptions(device=device, precision="fp32", nan_policy="fill"),
        ),
        [test.inputs for test in tests],
        measured_on=f"countries {', '.join(map(str, recipe.test_seeds))}",
    )
    card = registry.save_segmenter(out, network, replace(card, reach=curve))
    weights = out / "weights.safetensors"
    sha256, size = atomic_files.sha256(weights), weights.stat().st_size
    text = card_markdown.render_demo_card(card, sha256=sha256, size=size)
    atomic_files.write_atomic(out / "card.md", text.encode())
    progress.finish()
    return TrainResult(
        weights=str(weights),
        card=str(out / "card.md"),
        sha256=sha256,
        bytes=size,
        seconds=round(time.perf_counter() - started, 1),
        test_countries={
            str(seed): CountryAccuracy(
                model=round(scores.model.overall, 4),
                model_without_tokens=round(scores.model_without_tokens.overall, 4),
                per_pixel_qda=round(scores.per_pixel_qda.overall, 4),
            )
            for seed, scores in scores_by_seed.items()
        },
        real_places={},
    )


def load_or_build_countries(
    out: Path, seeds: Sequence[int], size: int, progress: Progress
) -> list[LabelledMosaic]:
    """Build and composite countries; those that the folder has already are reused."""
    progress.start_stage("countries", len(seeds))
    mosaics = []
    for seed in seeds:
        folder = out / "countries" / f"{seed}-{size}"
        mosaics.append(
            training_data.compose_country(folder, seed=seed, size=size, class_names=CLASSES)
        )
        progress.advance(1, f"seed {seed}")
    return mosaics


def build_segmenter(training_config: TrainingConfig) -> Segmenter:
    """Build the network with its random initial weights."""
    return model.segmenter(
        training_config.architecture,
        list(training_data.INPUTS),
        len(CLASSES),
        width=training_config.width,
        weights={"random": training_config.seed},
    )


def _build_card(
    training_config: TrainingConfig,
    network: Segmenter,
    statistics: Mapping[str, Statistics],
    training: Mapping[str, Any],
) -> Card:
    return Card(
        name="demo",
        architecture=architectures.resolve_architecture(training_config.architecture),
        inputs={name: get_raster_modality(name).bands for name in training_data.INPUTS},
        statistics=statistics,
        layers=tuple(network.layers),
        width=training_config.width,
        training=training,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CountryScores:
    """Scores of the three classifiers on one country."""

    model: Scores
    model_without_tokens: Scores
    per_pixel_qda: Scores

    def to_mapping(self) -> dict[str, Any]:
        """Return JSON-ready values, as in the model card."""
        return {
            "model": _scores_by_class(self.model),
            "model_without_tokens": _scores_by_class(self.model_without_tokens),
            "per_pixel_qda": _scores_by_class(self.per_pixel_qda),
        }


def evaluate_models(
    network: Segmenter,
    statistics: Mapping[str, Statistics],
    mosaics: Sequence[LabelledMosaic],
    tests: Mapping[int, LabelledMosaic],
    progress: Progress,
) -> dict[int, CountryScores]:
    """Evaluate the network, the network without its tokens, and a per-pixel baseline.

    All three are evaluated on the same test countries.

    Returns:
        The scores by the seed of the country.
    """
    baseline = _fit_baseline(mosaics)
    progress.start_stage("measure", len(tests))
    scores_by_seed: dict[int, CountryScores] = {}
    for seed, test in tests.items():
        scores_by_seed[seed] = CountryScores(
            model=evaluate(network, [test], statistics=statistics),
            model_without_tokens=evaluate(network, [test], statistics=statistics, tokens="zero"),
            per_pixel_qda=_score_baseline(baseline, test),
        )
        progress.advance(1, f"seed {seed}")
    return scores_by_seed


def _fit_baseline(mosaics: Sequence[LabelledMosaic]) -> Qda:
    table, labels = training_data.to_feature_table(mosaics)
    chosen = np.random.default_rng(0).permutation(len(labels))[:BASELINE_PIXELS]
    return Qda.fit(table[chosen], labels[chosen], len(CLASSES))


def _score_baseline(baseline: Qda, test: LabelledMosaic) -> Scores:
    table, _ = training_data.to_feature_table([test])
    predicted = np.zeros(test.labels.shape, dtype=np.int64)
    predicted[test.labels != IGNORE_INDEX] = baseline.predict(table)
    return compute_scores([test.labels], [predicted], len(CLASSES))


def _scores_by_class(measured_scores: Scores) -> dict[str, Any]:
    values = measured_scores.to_mapping()
    by_class = values.pop("by_class")
    if not isinstance(by_class, list):
        raise TypeError("by_class is a list")
    return values | {"f1": dict(zip(CLASSES, by_class, strict=True))}
