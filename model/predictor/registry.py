"""Registry of named models, and the function that loads a predictor from a job's `model:`.

The requested task decides what is built; for land cover the weights decide as well:

    land_cover   weights with our head (`head.logits.weight` is in them) -> the segmenter
                 any other weights with official names -> zero-shot, by generation
                 {random: SEED} -> zero-shot if the name is published or the configuration has
                 `tokenizer:`, else a segmenter
    embedding    the encoder, from weights of TerraMind or of a segmenter
    generate     TerraMind's decoder, and the tokenizers of the modalities
    checkpoint   a segmentation model that TerraTorch fine-tuned

Several tasks are computed from one encoder pass over each window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from model.errors import ModelError, join_names
from model.predictor import card_file, fine_tuned_loading, input_statistics, weight_source
from model.predictor.card_file import DEFAULT_INPUTS, Card
from model.predictor.predictor import InferenceOptions, Predictor
from model.predictor.spec import select_inputs
from model.predictor.task_options import parse_tasks
from model.predictor.task_predictors import (
    EmbeddingPredictor,
    GenerativePredictor,
    SegmentationPredictor,
)
from model.predictor.window_validation import NanPolicy
from model.terramind import architectures
from model.terramind.encoder import Encoder
from model.terramind.generation.generator import Generator
from model.terramind.modalities import get_raster_modality
from model.terramind.segmentation_head import Segmenter
from model.terramind.tokenizers.config import TokenizerConfig
from model.weights import factory, loading
from model.weights.loading import WeightSource
from model.weights.tokenizer_loading import tokenizer

DEMO = "demo"
DEMO_CARD_PATH = Path(__file__).parents[1] / "demo" / "card.json"

MODEL_NAMES = (DEMO, *architectures.ARCHITECTURES)

_M = TypeVar("_M", bound=nn.Module)


def load(  # noqa: PLR0913
    # ^ the keys of a job's `model:` and of its execution, each by its name
    name: str,
    weights: WeightSource = None,
    task: str | Sequence[str] = "land_cover",
    inputs: Sequence[str] | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch: int | None = None,
    modality: str | Sequence[str] | None = None,
    checkpoint: str | Path | None = None,
    classes: Sequence[str] | None = None,
    stats: str | Path | Mapping[str, Any] | None = None,
    tokenizers: Mapping[str, WeightSource] | None = None,
    timesteps: int = 10,
    nan_policy: NanPolicy = "refuse",
) -> Predictor:
    """Load a predictor, ready to run.

    Args:
        name: a known name, or a .yaml/.json model card.
        weights: None for the model's own, hub, a path (of TerraMind, or of a whole segmenter),
            {path, sha256}, or {random: SEED}.
        task: land_cover, embedding or generate, or several of them: the outputs come in this
            order, whatever the order of the request.
        inputs: the modalities that will be given, in any order; default all of the model's.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32 or bf16.
        batch: windows at a time on the device.
        modality: what to generate, one or several: S2L2A, S1GRD, S1RTC, DEM or NDVI.
        checkpoint: a segmentation model from `terratorch fit`, instead of the weights; the name
            may be a .yaml with the architecture, which the checkpoint does not hold.
        classes: names of the checkpoint's classes, in its order; by default those of the model
            card, of the checkpoint or of its training.
        stats: {modality: {mean, std}} of the inputs, per band, instead of the model's own, or a
            .yaml with it; `bands` and `unit` may stand beside mean and std. Or the .yaml of the
            checkpoint's training, which holds them and often the bands, where the checkpoint does
            not.
        tokenizers: sources of the tokenizers' weights by modality; default beside the model's.
        timesteps: diffusion steps of generated modalities.
        nan_policy: "refuse" NaN in chips, or "fill": NaN = missing, taken as the mean.

    Raises:
        ModelError: unknown name, task, input, device or precision, or options that contradict.
        WeightsError: weights that are absent, damaged, unsafe or do not fit.
    """
    tasks, modalities = parse_tasks(task, modality)
    if checkpoint is not None and tasks != ("land_cover",):
        raise ModelError(
            f"a checkpoint gives land cover only: it cannot be loaded for {join_names(tasks)}"
        )

    notes: list[str] = []

    def build(options: InferenceOptions) -> Predictor:
        if checkpoint is not None:
            return fine_tuned_loading.load_fine_tuned(
                name, checkpoint, classes, stats, inputs, options
            )
        if classes is not None:
            raise ModelError(
                "classes are given with a checkpoint only; other models have their own"
            )
        card, notes[:] = input_statistics.override_statistics(
            input_statistics.check_card(get_card(name, inputs)), stats
        )
        selected = list(select_inputs(card, inputs))
        source = weight_source.choose_source(name, card, weights)
        has_head = tasks != ("generate",) and weight_source.has_head(
            source, name, is_terramind=can_generate(name, card)
        )
        if has_head and modalities:
            raise ModelError(
                f"{name}: its weights hold a land-cover head and no decoder, so they cannot "
                f"generate {join_names(modalities)}: request it in a job of its own, with weights "
                "of TerraMind"
            )
        targets = [*(["LULC"] if "land_cover" in tasks and not has_head else []), *modalities]
        weight_source.check_tokenizers(tokenizers, targets)
        if tasks == ("embedding",):
            encoder = _load_encoder(card, source, has_head=has_head)
            return EmbeddingPredictor(encoder, card, inputs=selected, options=options)
        if has_head:
            segmenter = _load_weights(build_segmenter(card), source, name)
            return SegmentationPredictor(
                segmenter, card, tasks=tasks, inputs=selected, options=options
            )
        return GenerativePredictor(
            _load_generator(name, card, selected, targets, source, tokenizers),
            card,
            tasks=tasks,
            modalities=modalities,
            timesteps=timesteps,
            inputs=selected,
            options=options,
        )

    options = InferenceOptions(
        device=device, precision=precision, batch_size=batch, nan_policy=nan_policy
    )
    predictor = build(options)
    predictor.notes += tuple(notes)
    predictor.load_fp32 = lambda: build(replace(options, precision="fp32", batch_size=None))
    return predictor


def get_card(name: str, inputs: Sequence[str] | None = None) -> Card:
    """Return the card of a model; no weights are read.

    Args:
        name: a known name, or a .yaml/.json model card.
        inputs: modalities of a TerraMind model whose card names none.

    Raises:
        ModelError: unknown name, or an invalid card.
    """
    if name == DEMO:
        return _read_demo_card()
    if architectures.is_config_file(name):
        card = card_file.read(name, inputs)
        if card.tokenizer is not None:
            TokenizerConfig.parse({"modality": "LULC", **card.tokenizer})
            # ^ refuses impossible sizes, whatever the task
        return replace(card, weights=_resolve_weights_path(card.weights, Path(name).parent))
    if name == "none":
        raise ModelError("the model none means composites only: there is no model to load")
    if name not in architectures.ARCHITECTURES:
        raise ModelError(
            f"unknown model {name!r}; known are {join_names(MODEL_NAMES)}, none (composites only), "
            "or a .yaml file with a model card"
        )
    chosen = [get_raster_modality(modality) for modality in inputs or DEFAULT_INPUTS]
    return Card(
        name=name,
        architecture=architectures.resolve_architecture(name),
        inputs={modality.name: modality.bands for modality in chosen},
        statistics={},
    )


def build_segmenter(card: Card) -> Segmenter:
    """Build the segmenter of a card, without weights."""
    return factory.segmenter(
        card.architecture,
        list(card.inputs),
        len(card.class_names),
        bands=_select_band_subsets(card),
        layers=card.layers,
        width=card.width,
    )


def save_segmenter(folder: str | Path, segmenter: Segmenter, card: Card) -> Card:
    """Write weights and card into a folder; return the card with the weights' checksum."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.float() for key, tensor in segmenter.state_dict().items()}
    sha256 = loading.write_state_dict(folder / "weights.safetensors", state)
    pinned = replace(card, weights={"path": "weights.safetensors", "sha256": sha256})
    card_file.write(folder / "card.json", pinned)
    return pinned


def _read_demo_card() -> Card:
    if not DEMO_CARD_PATH.is_file():
        raise ModelError(
            f"the demo model is not installed ({DEMO_CARD_PATH} is missing): reinstall, or train "
            "it with `terramosaic train`"
        )
    card = card_file.read(DEMO_CARD_PATH)
    return replace(card, weights=_resolve_weights_path(card.weights, DEMO_CARD_PATH.parent))


def _resolve_weights_path(
    source: Mapping[str, Any] | str | None, folder: Path
) -> Mapping[str, Any] | str | None:
    """Make a card's relative path to its weights absolute."""
    if isinstance(source, str) and source != "hub":
        return str(folder / source)
    if isinstance(source, Mapping) and "path" in source:
        return {**source, "path": str(folder / str(source["path"]))}
    return source


def can_generate(name: str, card: Card) -> bool:
    """Tell whether a model is a TerraMind model, which can generate, and not a segmenter."""
    return name in architectures.ARCHITECTURES or card.tokenizer is not None


def _load_encoder(card: Card, source: WeightSource, *, has_head: bool) -> Encoder:
    if has_head:
        return _load_weights(build_segmenter(card), source, card.name).encoder
    encoder = factory.backbone(
        card.architecture, list(card.inputs), bands=_select_band_subsets(card)
    )
    return _load_weights(encoder, source, weight_source.find_published_name(card) or card.name)
    # ^ its bands are selected already: weights of all bands and of these bands fit


def _load_generator(
    name: str,
    card: Card,
    inputs: Sequence[str],
    targets: Sequence[str],
    source: WeightSource,
    tokenizers: Mapping[str, WeightSource] | None,
) -> Generator:
    if not can_generate(name, card):
        head = "its weights hold no land-cover head, and " if "LULC" in targets else ""
        raise ModelError(
            f"{name}: {head}a segmenter generates nothing: use "
            f"{join_names(architectures.ARCHITECTURES)}, or a configuration with `tokenizer:` and "
            "architecture.decoder_depth"
        )
    if _select_band_subsets(card):
        raise ModelError(
            f"{name}: a generator takes all bands of its inputs, but the card leaves some out"
        )
    target_tokenizers: dict[str, Any] = {}
    for target in targets:
        options = {"modality": target, **(card.tokenizer or {})}
        size = TokenizerConfig.parse(options)
        if card.window % size.side_multiple:
            raise ModelError(
                f"window {card.window}: {target} is generated in multiples of "
                f"{size.side_multiple} px"
            )
        weight_source.check_decoder(target, source, name)
        tokenizer_source = weight_source.choose_tokenizer_source(
            target, tokenizers, source, name, card.tokenizer
        )
        target_tokenizers[target] = (
            options
            if tokenizer_source is None
            else tokenizer(size, tokenizer_source, part="decoder")
        )
    return factory.generator(
        weight_source.find_published_name(card) or card.architecture,
        inputs=[modality for modality in card.inputs if modality in inputs],
        outputs=targets,
        weights=source,
        tokenizers=target_tokenizers,
        chained=False,
    )


def _load_weights(network: _M, source: WeightSource, name: str) -> _M:
    return loading.load_weights(network, source, name)


def _select_band_subsets(card: Card) -> dict[str, tuple[str, ...]]:
    return {
        name: bands
        for name, bands in card.inputs.items()
        if bands != get_raster_modality(name).bands
    }
