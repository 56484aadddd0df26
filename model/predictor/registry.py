"""The models that have a name, and the one call that turns a job's `model:` into a predictor.

What a model is asked for decides what is built; for land cover the weights decide as well:

    land_cover   weights with our head (`head.logits.weight` is in them) -> the segmenter
                 any other weights with official names -> zero-shot, by generation
                 {random: SEED} -> zero-shot if the name is published or the configuration has
                 `tokenizer:`, else a segmenter
    embedding    the encoder, of the family's weights or of a segmenter's
    generate     the family's decoder, and the tokenizers of the modalities
    checkpoint   a segmentation model that TerraTorch fine-tuned

Asked for several things, a model gives all of them from one encoder pass over each window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from model import factory
from model.errors import ModelError, join_names
from model.predictor import cards, weight_source
from model.predictor.arrays import NanPolicy
from model.predictor.cards import DEFAULT_INPUTS, Card
from model.predictor.predictor import InferenceOptions, Predictor
from model.predictor.predictors import (
    EmbeddingPredictor,
    FineTunedPredictor,
    GenerativePredictor,
    SegmentationPredictor,
    parse_tasks,
)
from model.segmentation_head import Segmenter
from model.terramind import config
from model.terramind.encoder import Encoder
from model.terramind.generation.generator import Generator
from model.terramind.modalities import RASTER_MODALITIES, get_raster_modality
from model.terramind.tokenizers.config import TokenizerConfig
from model.terratorch import checkpoint as terratorch_checkpoint
from model.terratorch.datamodule import bands_from_yaml, statistics_from_yaml
from model.terratorch.hyperparameters import read_task_arguments
from model.tokenizer_loading import tokenizer
from model.weights import loading
from model.weights.loading import WeightSource

DEMO = "demo"
DEMO_CARD_PATH = Path(__file__).parents[1] / "demo" / "card.json"

MODEL_NAMES = (DEMO, *config.ARCHITECTURES)

_M = TypeVar("_M", bound=nn.Module)


def load(  # noqa: PLR0913
    # ^ the keys of a job's `model:` and what it runs on, each by its name
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
    """Return a predictor, ready to run.

    Args:
        name: a known name, or a .yaml/.json model card.
        weights: None for the model's own, hub, a path (of the family, or of a whole segmenter),
            {path, sha256}, or {random: SEED}.
        task: land_cover, embedding or generate, or several of them: the answers come in this
            order, whatever the order asked in.
        inputs: the modalities that will be given, in any order; default all of the model's.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32 or bf16.
        batch: windows at a time on the device.
        modality: what is generated, one or several: S2L2A, S1GRD, S1RTC, DEM or NDVI.
        checkpoint: a segmentation model from `terratorch fit`, instead of the name and weights;
            a .yaml as the name says what the checkpoint itself does not.
        classes: names of the checkpoint's classes, in its order.
        stats: {modality: {mean, std}} of the inputs, per band, instead of the model's own, or a
            .yaml with it; or the .yaml of the checkpoint's training, which alone holds them and
            the order of bands.
        tokenizers: where the weights of the tokenizers are, by modality; default with the
            model's own.
        timesteps: diffusion steps of what is generated.
        nan_policy: refuse NaN in chips, or fill: NaN = missing, taken as the mean.

    Raises:
        ModelError: unknown name, task, input, device or precision, or options that contradict.
        WeightsError: weights that are absent, damaged, unsafe or do not fit.
    """
    tasks, modalities = parse_tasks(task, modality)
    if checkpoint is not None and tasks != ("land_cover",):
        raise ModelError(
            f"a checkpoint maps land cover, and cannot be asked for {join_names(tasks)}"
        )

    def made(running: InferenceOptions) -> Predictor:
        if checkpoint is not None:
            return _load_fine_tuned(name, checkpoint, classes, stats, inputs, running)
        if classes is not None:
            raise ModelError("classes are given with a checkpoint only; other models know theirs")
        card = _override_statistics(get_card(name, inputs), stats)
        used = _select_inputs(card, inputs)
        source = weight_source.choose_source(name, card, weights)
        whole = tasks != ("generate",) and weight_source.has_head(
            source, name, family=can_generate(name, card)
        )
        if whole and modalities:
            raise ModelError(
                f"{name}: its weights hold a land-cover head and no decoder, and generate "
                f"{join_names(modalities)} not: ask for it in a job of its own, with weights of the "
                "family"
            )
        targets = [*(["LULC"] if "land_cover" in tasks and not whole else []), *modalities]
        weight_source.check_tokenizers(tokenizers, targets)
        if tasks == ("embedding",):
            encoder = _load_encoder(card, source, whole=whole)
            return EmbeddingPredictor(encoder, card, inputs=used, options=running)
        if whole:
            segmenter = _load_weights(build_segmenter(card), source, name)
            return SegmentationPredictor(segmenter, card, tasks=tasks, inputs=used, options=running)
        return GenerativePredictor(
            _load_generator(name, card, used, targets, source, tokenizers),
            card,
            tasks=tasks,
            modalities=modalities,
            timesteps=timesteps,
            inputs=used,
            options=running,
        )

    running = InferenceOptions(
        device=device, precision=precision, batch_size=batch, nan_policy=nan_policy
    )
    predictor = made(running)
    predictor.load_fp32 = lambda: made(replace(running, precision="fp32", batch_size=None))
    return predictor


def get_card(name: str, inputs: Sequence[str] | None = None) -> Card:
    """Return the card of a model, without its weights.

    Raises:
        ModelError: unknown name, or a broken card.
    """
    if name == DEMO:
        return _read_demo_card()
    if config.is_config_file(name):
        card = cards.read(name, inputs)
        if card.tokenizer is not None:
            TokenizerConfig.parse({"modality": "LULC", **card.tokenizer})
            # ^ refuses sizes that cannot be, whatever the task
        return replace(card, weights=_resolve_weights_path(card.weights, Path(name).parent))
    if name == "none":
        raise ModelError("none stands for composites only: there is no model to load")
    if name not in config.ARCHITECTURES:
        raise ModelError(
            f"unknown model {name!r}; known are {join_names(MODEL_NAMES)}, none (composites only), or a "
            ".yaml file with a model card"
        )
    chosen = [get_raster_modality(entry) for entry in inputs or DEFAULT_INPUTS]
    return Card(
        name=name,
        architecture=config.resolve_architecture(name),
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
    """Write weights and card side by side and return the card with the pinned digest."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.float() for name, value in segmenter.state_dict().items()}
    sha256 = loading.write_state_dict(folder / "weights.safetensors", state)
    pinned = replace(card, weights={"path": "weights.safetensors", "sha256": sha256})
    cards.write(folder / "card.json", pinned)
    return pinned


def _read_demo_card() -> Card:
    if not DEMO_CARD_PATH.is_file():
        raise ModelError(
            f"the demo model is not installed ({DEMO_CARD_PATH} is missing): reinstall, or make it "
            "with `terramosaic train`"
        )
    card = cards.read(DEMO_CARD_PATH)
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


def _select_inputs(card: Card, inputs: Sequence[str] | None) -> list[str]:
    if inputs is None:
        return list(card.inputs)
    names = [get_raster_modality(entry).name for entry in inputs]
    wrong = [name for name in names if name not in card.inputs]
    if wrong or not names or len(set(names)) != len(names):
        raise ModelError(
            f"inputs {join_names(inputs)}: the model {card.name} takes {join_names(card.inputs)}, each "
            f"once (TerraMind knows {join_names(RASTER_MODALITIES)})"
        )
    return names


def can_generate(name: str, card: Card) -> bool:
    """Tell a model that can generate from a segmenter."""
    return name in config.ARCHITECTURES or card.tokenizer is not None


def _override_statistics(card: Card, stats: str | Path | Mapping[str, Any] | None) -> Card:
    """Return the card with other statistics of some inputs."""
    if isinstance(stats, str | Path):
        stats = config.read_mapping(stats)
        if "data" in stats:
            raise ModelError("stats: the configuration of a training goes with its checkpoint")
    given = cards.parse_statistics(stats)
    wrong = [name for name in given if name not in card.inputs]
    if wrong:
        raise ModelError(
            f"stats of {join_names(wrong)}: {card.name} takes {join_names(card.inputs)}"
        )
    return replace(card, statistics={**card.statistics, **given})


def _load_encoder(card: Card, source: WeightSource, *, whole: bool) -> Encoder:
    if whole:
        return _load_weights(build_segmenter(card), source, card.name).encoder
    bare = factory.backbone(card.architecture, list(card.inputs), bands=_select_band_subsets(card))
    return _load_weights(bare, source, weight_source.find_published_name(card) or card.name)
    # ^ its bands are chosen already: weights of all bands and of these bands fit


def _load_generator(
    name: str,
    card: Card,
    used: Sequence[str],
    targets: Sequence[str],
    source: WeightSource,
    tokenizers: Mapping[str, WeightSource] | None,
) -> Generator:
    if not can_generate(name, card):
        head = "its weights hold no land-cover head, and " if "LULC" in targets else ""
        raise ModelError(
            f"{name}: {head}a segmenter generates nothing: use {join_names(config.ARCHITECTURES)}, or "
            "a configuration with `tokenizer:` and architecture.decoder_depth"
        )
    if _select_band_subsets(card):
        raise ModelError(f"{name}: a generator takes all bands, but the card leaves some out")
    held: dict[str, Any] = {}
    for target in targets:
        options = {"modality": target, **(card.tokenizer or {})}
        size = TokenizerConfig.parse(options)
        if card.window % size.side_multiple:
            raise ModelError(
                f"window {card.window}: {target} comes in multiples of {size.side_multiple} px"
            )
        weight_source.check_decoder(target, source, name)
        place = weight_source.choose_tokenizer_source(
            target, tokenizers, source, name, card.tokenizer
        )
        held[target] = options if place is None else tokenizer(size, place, part="decoder")
    return factory.generator(
        weight_source.find_published_name(card) or card.architecture,
        inputs=[entry for entry in card.inputs if entry in used],
        outputs=targets,
        weights=source,
        tokenizers=held,
        chained=False,
    )


def _load_fine_tuned(
    name: str,
    checkpoint: str | Path,
    classes: Sequence[str] | None,
    stats: str | Path | Mapping[str, Any] | None,
    inputs: Sequence[str] | None,
    running: InferenceOptions,
) -> FineTunedPredictor:
    bands, training = None, None
    if isinstance(stats, str | Path) and "data" in config.read_mapping(stats):
        training = stats
        bands, stats = bands_from_yaml(stats), statistics_from_yaml(stats)
    architecture = name if config.is_config_file(name) else None
    content = terratorch_checkpoint.read(checkpoint)
    known = "model_args" in read_task_arguments(content.get("hyper_parameters"))
    network = terratorch_checkpoint.fine_tuned(
        content, architecture, hyper_parameters=None if known else training, bands=bands
    )
    if classes is None:
        raise ModelError(
            f"{checkpoint} has {network.num_classes} classes, whose names it does not hold: give "
            "`classes:` in its order"
        )
    card = Card(
        name=Path(checkpoint).stem,
        architecture=network.architecture,
        inputs={get_raster_modality(entry).name: bands for entry, bands in network.inputs.items()},
        statistics={},
        class_names=tuple(classes),
    )
    card = _override_statistics(card, stats)
    return FineTunedPredictor(network, card, inputs=_select_inputs(card, inputs), options=running)


def _load_weights(network: _M, source: WeightSource, name: str) -> _M:
    return loading.load_weights(network, source, name)


def _select_band_subsets(card: Card) -> dict[str, tuple[str, ...]]:
    return {
        name: bands
        for name, bands in card.inputs.items()
        if bands != get_raster_modality(name).bands
    }
