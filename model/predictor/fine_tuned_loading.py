"""Load a model that TerraTorch fine-tuned, and compare what its files and its user state.

The checkpoint describes the network, the configuration of the training its data, and the user may
add to both. Statements that contradict are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.errors import ModelError, join_names
from model.predictor import card_file, input_statistics
from model.predictor.card_file import Card
from model.predictor.input_statistics import StatedStatistics, parse_stated_statistics
from model.predictor.predictor import InferenceOptions
from model.predictor.task_predictors import FineTunedPredictor
from model.terramind import architectures
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    RASTER_MODALITIES,
    RasterModality,
    find_modality_key,
    get_raster_modality,
)
from model.terratorch import lightning_checkpoint
from model.terratorch.channels import name_channels
from model.terratorch.class_names import (
    UnreadableNamesError,
    choose_class_names,
    find_class_names,
)
from model.terratorch.datamodule import Training, is_training, read_training
from model.terratorch.hyperparameters import (
    SegmentationConfig,
    parse_hyper_parameters,
    read_task_arguments,
)
from model.terratorch.segmentation_model import PixelWiseModel


def load_fine_tuned(
    name: str,
    checkpoint: str | Path,
    classes: Sequence[str] | None,
    stats: str | Path | Mapping[str, Any] | None,
    inputs: Sequence[str] | None,
    options: InferenceOptions,
) -> FineTunedPredictor:
    """Load a checkpoint of TerraTorch with its card; see :func:`model.predictor.registry.load`.

    Raises:
        ModelError: the checkpoint, its training and the request contradict, or one of them is not
            supported.
        WeightsError: the file is absent, damaged or unsafe, or its tensors do not fit.
    """
    card_path = name if architectures.is_config_file(name) else None
    card_values = architectures.read_mapping(card_path) if card_path else {}
    card_file.check_entries(card_values)
    stats = card_values.get("statistics") if stats is None else stats
    training, stated = _read_statistics(stats)
    content = lightning_checkpoint.read(checkpoint)
    has_arguments = "model_args" in read_task_arguments(content.get("hyper_parameters"))
    try:
        network = lightning_checkpoint.fine_tuned(
            content,
            card_path,
            hyper_parameters=training.task if training and not has_arguments else None,
        )
    except ModelError as error:
        origin = f", described by {training.path}" if training and not has_arguments else ""
        raise type(error)(f"{checkpoint}{origin}: {error}") from error
    settings = network.settings
    if settings is None:
        raise ModelError(f"{checkpoint} does not describe its model")
    try:
        if training and has_arguments:
            _check_training(training, settings)
        stated_names = card_values.get("class_names") if classes is None else classes
        try:
            stored_names = find_class_names(network.hyper_parameters, training)
        except UnreadableNamesError:
            if stated_names is None:
                raise
            stored_names = None
        names = choose_class_names(stated_names, stored_names, network.num_classes)
        described = _describe_inputs(network, training, stated)
        selected, notes = _select_inputs(described, inputs, settings, training)
        card = Card(
            name=Path(checkpoint).stem,
            architecture=network.architecture,
            inputs={name: entry.bands for name, entry in described.items()},
            statistics={},
            class_names=names,
            class_colors=tuple(card_values.get("class_colors", ())),
            layer=card_values.get("layer"),
            window=card_values.get("window", settings.window),
        )
        if stats is None:
            notes.append("no statistics are stated: those of TerraMind's pre-training are used")
        else:
            card, converted = _set_statistics(card, described, selected)
            notes += converted
        _check_output_size(network, card)
    except ModelError as error:
        raise ModelError(f"{checkpoint}: {error}") from error
    predictor = FineTunedPredictor(network, card, inputs=selected, options=options)
    predictor.overlap = settings.overlap if card.window == settings.window else None
    predictor.notes = (
        *(entry.note for entry in described.values() if entry.note),
        *notes,
        *_note_renamed_classes(names, stored_names),
    )
    return predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class _DescribedInput:
    """Channels of one input, and the statistics that are stated for it."""

    bands: tuple[str, ...]
    note: str | None
    statistics: StatedStatistics | None


def _read_statistics(
    stats: str | Path | Mapping[str, Any] | None,
) -> tuple[Training | None, Mapping[str, StatedStatistics]]:
    """Return the configuration of the training, or else the statistics that the user states."""
    if not isinstance(stats, str | Path):
        return None, parse_stated_statistics(stats)
    if is_training(stats):
        return read_training(stats), {}
    return None, parse_stated_statistics(architectures.read_mapping(stats))


def _check_training(training: Training, settings: SegmentationConfig) -> None:
    """Check that a configuration can be that of the training which wrote a checkpoint."""
    if "model_args" not in training.task:
        return
    try:
        configured = parse_hyper_parameters(training.task)
    except ModelError:
        return
        # ^ the checkpoint describes the model; of the configuration its data are needed
    for name in ("backbone", "modalities", "num_classes", "decoder"):
        stored_value, value = getattr(settings, name), getattr(configured, name)
        if stored_value != value:
            raise ModelError(
                f"{training.path} is of another training: its {name} is {_describe(value)}, and "
                f"that of the checkpoint is {_describe(stored_value)}. Give the .yaml of the "
                "training that wrote the checkpoint"
            )


def _describe(value: object) -> str:
    return join_names(value) if isinstance(value, tuple) else str(value)


def _describe_inputs(
    network: PixelWiseModel,
    training: Training | None,
    stated: Mapping[str, StatedStatistics],
) -> dict[str, _DescribedInput]:
    """Return names of the channels and statistics of each input of a network."""
    declared = network.settings.bands if network.settings else {}
    described = {}
    for name, channels in network.inputs.items():
        modality = _get_sensor(name, channels)
        statistics = stated.get(modality.name)
        training_input = (
            training.get_input(name, is_only=len(network.inputs) == 1) if training else None
        )
        named = name_channels(
            modality,
            channels,
            declared=name in declared,
            training=training_input,
            stated=statistics.bands if statistics else None,
        )
        described[modality.name] = _DescribedInput(
            bands=named.bands,
            note=named.note,
            statistics=StatedStatistics(
                mean=training_input.mean, std=training_input.std, bands=training_input.bands
            )
            if training_input
            else statistics,
        )
    return described


def _set_statistics(
    card: Card, described: Mapping[str, _DescribedInput], selected: Sequence[str]
) -> tuple[Card, list[str]]:
    """Return the card with the statistics that are stated, and what was converted.

    Raises:
        ModelError: an input that will be given has none, or they do not fit it.
    """
    lacking = [name for name in selected if described[name].statistics is None]
    if lacking:
        raise ModelError(
            f"stats has no statistics of the input {join_names(lacking)}. Add them: "
            f"stats: {{{lacking[0]}: {{mean: […], std: […]}}}}, or give the .yaml of the training"
        )
    statistics = {name: entry.statistics for name, entry in described.items() if entry.statistics}
    return input_statistics.set_statistics(card, statistics)


def _note_renamed_classes(
    names: Sequence[str], stored_names: Sequence[str] | None
) -> Iterator[str]:
    """Yield a note where the classes have other names than in the checkpoint or its training."""
    renamed = [
        f"{stored_name} is {name}"
        for name, stored_name in zip(names, stored_names or (), strict=False)
        if name.strip().casefold() != stored_name.strip().casefold()
    ]
    if renamed:
        yield f"the classes are renamed: {join_names(renamed, 20)}"


def _get_sensor(name: str, channels: Sequence[str]) -> RasterModality:
    """Return the sensor of an input.

    Raises:
        ModelError: the input is not one that a map can give.
    """
    modality = MODALITIES_BY_KEY.get(find_modality_key(name) or "")
    if isinstance(modality, RasterModality):
        return modality
    description = (
        "a map of classes or an index, not an image"
        if modality
        else f"an input of {len(channels)} channels that TerraMind does not know"
    )
    raise ModelError(
        f"the checkpoint takes the input {name!r}, which is {description}, and only "
        f"{join_names(RASTER_MODALITIES)} can be given: use a checkpoint that was trained with "
        "them (backbone_modalities)"
    )


def _select_inputs(
    described: Mapping[str, object],
    inputs: Sequence[str] | None,
    settings: SegmentationConfig,
    training: Training | None,
) -> tuple[list[str], list[str]]:
    """Return the inputs that will be given, and what was assumed.

    Raises:
        ModelError: others than those that the checkpoint takes.
    """
    names = list(described)
    selected = names if inputs is None else [get_raster_modality(name).name for name in inputs]
    missing = [name for name in names if name not in selected]
    drops = settings.has_modality_dropout or (training is not None and training.drops_inputs)
    if not set(selected) - set(names) and selected and (not missing or drops):
        note = (
            f"the checkpoint also takes {join_names(missing)}; its training left out inputs at "
            "random, so that it works without"
        )
        return selected, [note] if missing else []
    advice = (
        "RGB, a picture in bytes, is in no catalog. Use a checkpoint of S2L2A"
        if "RGB" in names
        else f"write inputs: [{', '.join(names)}]"
    )
    raise ModelError(
        f"the checkpoint takes the inputs {join_names(names)}, and is given "
        f"{join_names(selected)}: {advice}"
    )


def _check_output_size(network: PixelWiseModel, card: Card) -> None:
    """Check that a model that does not rescale its logits has one for each pixel.

    Raises:
        ModelError: it has fewer.
    """
    if network.rescale:
        return
    window = (card.window, card.window)
    device = next(network.parameters()).device
    pixels = {
        name: torch.zeros(1, len(bands), *window, device=device)
        for name, bands in network.inputs.items()
    }
    with torch.inference_mode():
        size = tuple(network(pixels).shape[2:])
    if size != window:
        raise ModelError(
            f"`rescale` is false, and the decoder gives {size[0]} x {size[1]} values for a window "
            f"of {window[0]} x {window[1]} px: the model has no class of a single pixel. To "
            "interpolate its logits to pixels, as `rescale: true` does: c = torch.load(path, "
            "weights_only=False); c['hyper_parameters']['model_args']['rescale'] = True; "
            "torch.save(c, path)"
        )
