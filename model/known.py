"""The models that have a name, and the one call that turns a job's `model:` into a predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model import assembly, cards, config, weights
from model.cards import TASKS, Card
from model.errors import ModelError, WeightsError, listed
from model.heads import Segmenter
from model.modalities import RAW, get
from model.predictor import SegmentationPredictor

DEMO = "demo"
DEMO_CARD = Path(__file__).parent / "demo" / "card.json"
DEFAULT_INPUTS = ("S2L2A", "S1RTC", "DEM")

NAMES = (DEMO, *config.ARCHITECTURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the list of models."""

    name: str
    task: str
    inputs: tuple[str, ...]
    parameters: int
    """Of the encoder and the segmentation head."""

    weights: str
    """Where they come from."""

    ready: bool
    """Whether it maps land cover without anything else being given."""


def load(
    name: str,
    weights: weights.Source = None,
    task: str = "land_cover",
    inputs: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch: int | None = None,
) -> SegmentationPredictor:
    """Return a predictor, ready to run.

    Args:
        name: a known name, or a .yaml/.json model card.
        weights: None for the model's own, a path to the weights of a whole segmenter, {path,
            sha256}, or {random: SEED}.
        task: land_cover.
        inputs: the modalities that will be given, in any order; default all of the model's.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32 or bf16.
        batch: windows at a time on the device.

    Raises:
        ModelError: unknown name, task, input, device or precision.
        WeightsError: weights that are absent, damaged, unsafe or do not fit.
    """
    card = card_of(name, inputs, task)
    used = _used(card, inputs)
    segmenter = _filled(name, card, weights)
    return SegmentationPredictor(
        segmenter, card, inputs=used, device=device, precision=precision, batch=batch
    )


def card_of(name: str, inputs: Sequence[str] | None = None, task: str = "land_cover") -> Card:
    """Return the card of a model, without its weights.

    Raises:
        ModelError: unknown name or task, or a broken card.
    """
    if task not in TASKS:
        raise ModelError(f"unknown task {task!r}; known are {listed(TASKS)}")
    if name == DEMO:
        return _demo_card()
    if config.is_file_name(name):
        card = cards.read(name)
        return replace(card, weights=_beside(card.weights, Path(name).parent))
    if name not in config.ARCHITECTURES:
        raise ModelError(
            f"unknown model {name!r}; known are {listed(NAMES)}, none (composites only), or a "
            ".yaml file with a model card"
        )
    chosen = [get(entry) for entry in inputs or DEFAULT_INPUTS]
    return Card(
        name=name,
        architecture=config.architecture(name),
        inputs={modality.name: modality.bands for modality in chosen},
        statistics={},
    )


def build(card: Card) -> Segmenter:
    """Build the segmenter of a card, without weights."""
    return assembly.segmenter(
        card.architecture,
        list(card.inputs),
        len(card.class_names),
        bands={name: bands for name, bands in card.inputs.items() if bands != get(name).bands},
        layers=card.layers,
        width=card.width,
    )


def ship(folder: str | Path, segmenter: Segmenter, card: Card) -> Card:
    """Write weights and card side by side and return the card with the pinned digest."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.float() for name, value in segmenter.state_dict().items()}
    sha256 = weights.write(folder / "weights.safetensors", state)
    pinned = replace(card, weights={"path": "weights.safetensors", "sha256": sha256})
    cards.write(folder / "card.json", pinned)
    return pinned


def entries() -> tuple[Entry, ...]:
    """List the known models; nothing is loaded or downloaded."""
    found = []
    for name in NAMES:
        if name == DEMO and not DEMO_CARD.is_file():
            continue
        card = card_of(name)
        found.append(
            Entry(
                name=name,
                task=card.task,
                inputs=tuple(card.inputs),
                parameters=_count(card),
                weights="shipped" if name == DEMO else weights.HUB[name].page,
                ready=name == DEMO,
            )
        )
    return tuple(found)


def _count(card: Card) -> int:
    with torch.device("meta"):
        # ^ shapes without memory
        return sum(parameter.numel() for parameter in build(card).parameters())


def _demo_card() -> Card:
    if not DEMO_CARD.is_file():
        raise ModelError(
            f"the demo model is not installed ({DEMO_CARD} is missing): reinstall, or make it "
            "with `terramosaic train`"
        )
    card = cards.read(DEMO_CARD)
    return replace(card, weights=_beside(card.weights, DEMO_CARD.parent))


def _beside(source: Mapping[str, Any] | str | None, folder: Path) -> Mapping[str, Any] | str | None:
    """Make a card's relative path to its weights absolute."""
    if isinstance(source, str) and source != "hub":
        return str(folder / source)
    if isinstance(source, Mapping) and "path" in source:
        return {**source, "path": str(folder / str(source["path"]))}
    return source


def _used(card: Card, inputs: Sequence[str] | None) -> list[str]:
    if inputs is None:
        return list(card.inputs)
    names = [get(entry).name for entry in inputs]
    wrong = [name for name in names if name not in card.inputs]
    if wrong or not names or len(set(names)) != len(names):
        raise ModelError(
            f"inputs {listed(inputs)}: the model {card.name} takes {listed(card.inputs)}, each "
            f"once (TerraMind knows {listed(RAW)})"
        )
    return names


def _filled(name: str, card: Card, source: weights.Source) -> Segmenter:
    chosen = card.weights if source is None else source
    if chosen is None or chosen == "hub":
        raise WeightsError(_no_head(name, chosen))
    return weights.obtain(build(card), chosen)


def _no_head(name: str, source: object) -> str:
    what = (
        "the published weights hold the encoder, not a land-cover head"
        if source == "hub"
        else "no weights are given"
    )
    return (
        f"model {name!r} cannot map land cover: {what}. Give `weights:` the path of a fine-tuned "
        "segmenter (.safetensors, as `terramosaic train` writes it), use `name: demo`, or "
        "`weights: {random: SEED}` to try the machinery with a meaningless map"
    )
