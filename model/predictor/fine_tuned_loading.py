"""Load a model that TerraTorch fine-tuned, and compare what its files and its user state.

The checkpoint describes the network, the configuration of the training its data, and the user may
add to both. Statements that contradict are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model.errors import ModelError
from model.predictor import card_file
from model.predictor.card_file import Card
from model.predictor.predictor import InferenceOptions
from model.predictor.task_predictors import FineTunedPredictor
from model.terramind import config
from model.terramind.modalities import get_raster_modality
from model.terratorch import lightning_checkpoint
from model.terratorch.class_names import choose_class_names, find_class_names
from model.terratorch.datamodule import bands_from_yaml, statistics_from_yaml
from model.terratorch.hyperparameters import read_task_arguments
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
    bands, training = None, None
    if isinstance(stats, str | Path) and "data" in config.read_mapping(stats):
        training = stats
        bands, stats = bands_from_yaml(stats), statistics_from_yaml(stats)
    architecture = name if config.is_config_file(name) else None
    stated = config.read_mapping(name) if architecture else {}
    content = lightning_checkpoint.read(checkpoint)
    has_arguments = "model_args" in read_task_arguments(content.get("hyper_parameters"))
    network = lightning_checkpoint.fine_tuned(
        content, architecture, hyper_parameters=None if has_arguments else training, bands=bands
    )
    try:
        names = choose_class_names(
            stated.get("class_names") if classes is None else classes,
            find_class_names(network.hyper_parameters, training),
            network.num_classes,
        )
    except ModelError as error:
        raise ModelError(f"{checkpoint}: {error}") from error
    card = Card(
        name=Path(checkpoint).stem,
        architecture=network.architecture,
        inputs={get_raster_modality(name).name: bands for name, bands in network.inputs.items()},
        statistics={},
        class_names=names,
        class_colors=tuple(stated.get("class_colors", ())),
        layer=stated.get("layer"),
    )
    card = card_file.override_statistics(card, stats)
    _check_output_size(network, card)
    return FineTunedPredictor(network, card, inputs=inputs, options=options)


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
