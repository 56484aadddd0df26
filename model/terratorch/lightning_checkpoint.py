"""Load checkpoints that `terratorch fit` wrote, without running code from them.

A Lightning checkpoint holds tensors and the hyper-parameters of the training. The model is built
from the hyper-parameters (`model.terratorch.hyperparameters`), and every tensor must fit it.
Statistics and the order of bands are in the YAML of the training (`model.terratorch.datamodule`).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import ModelError, WeightsError, join_names
from model.terramind.config import ARCHITECTURES, Architecture
from model.terramind.embeddings import RasterEmbedding
from model.terramind.encoder import Encoder
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    RasterModality,
    TokenModality,
    find_modality_key,
    find_target_key,
)
from model.terratorch import segmentation_model
from model.terratorch.datamodule import bands_from_yaml, statistics_from_yaml
from model.terratorch.decoders import DECODERS, LinearDecoder
from model.terratorch.hyperparameters import (
    SegmentationConfig,
    parse_hyper_parameters,
    read_task_arguments,
)
from model.weights import loading
from model.weights.factory import backbone, tim

__all__ = ["bands_from_yaml", "fine_tuned", "read", "statistics_from_yaml"]

Config = str | Path | Mapping[str, Any] | Architecture
"""As for `model.backbone`."""

_WRAPPER_NAMES = ("_timm_module", "_orig_mod")
# ^ parts of keys that wrappers add: versions before 1.0, and torch.compile. Training on several
#   GPUs adds a prefix, `module.`

_SAMPLER_EMBEDDINGS = "encoder.sampler.model.encoder_embeddings."
_OTHER_BACKBONES = (
    *("prithvi", "timm_", "smp_", "satmae", "scalemae", "clay", "dofa", "resnet", "swin", "vit"),
    *("unet", "mmearth", "ssl4eo", "convnext", "dinov"),
)
# ^ prefixes of the names of other backbones in TerraTorch's registry
_ADAPTER_MARKERS = ("lora_", "base_model.", "modules_to_save.", "ia3_", "vera_lambda")


class AuxiliaryHeadStub:
    """Stand-in for TerraTorch's description of an auxiliary head: data, no code."""


AuxiliaryHeadStub.__name__ = "Auxiliary"
# ^ `to_plain_values` writes this name, and digests of fine-tuned models cover what it writes


def fine_tuned(
    source: str | Path | Mapping[str, Any],
    config: Config | None = None,
    *,
    hyper_parameters: str | Path | Mapping[str, Any] | None = None,
    bands: Mapping[str, Sequence[str]] | None = None,
    sha256: str | None = None,
) -> segmentation_model.PixelWiseModel:
    """Load a segmentation model that `terratorch fit` trained, ready for inference.

    Args:
        source: a .ckpt file, or the content of one.
        config: an architecture, for a backbone whose name is not known.
        hyper_parameters: for a file of tensors alone: the .yaml of its training, or `model_args`
            in a mapping.
        bands: other names for the channels of some modalities, in their order.
        sha256: expected checksum of the file, if any.

    Raises:
        ModelError: hyper-parameters that are not supported; the message names them.
        WeightsError: the file is absent, damaged or unsafe, or tensors do not fit.
    """
    content = source if isinstance(source, Mapping) else read(source, sha256)
    stored = content.get("hyper_parameters")
    arguments = read_task_arguments(stored if hyper_parameters is None else hyper_parameters)
    tensors = _extract_tensors(content)
    network = _build_model(parse_hyper_parameters(arguments), tensors, config)
    for name, names in (bands or {}).items():
        _rename_bands(network.encoder, name, tuple(names))
    network.hyper_parameters = arguments
    return loading.load_state(network, tensors).eval()


def read(path: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors and plain values.

    Raises:
        WeightsError: the file is absent or damaged, has another checksum, or holds objects.
    """
    stub = (AuxiliaryHeadStub, "terratorch.models.model.AuxiliaryHead")
    try:
        with torch.serialization.safe_globals([stub]):
            # ^ an object of their class is loaded as one of the empty class above
            return loading.read_checkpoint(path, sha256)
    except WeightsError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        raise WeightsError(
            f"the checkpoint {path} holds more than tensors and plain values "
            f"({_find_reason(error.__cause__)}) and is not opened, because a pickle can run any "
            "program. Where it was trained, save it again with plain values: c = torch.load(path, "
            "weights_only=False); torch.save({'state_dict': c['state_dict']}, path), and give the "
            ".yaml of the training (in a job `stats: fit.yaml`, in Python `hyper_parameters`)"
        ) from error


def _find_reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line), lines[0])[:160]


def _extract_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors under our keys: encoder, neck, decoder, head."""
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise WeightsError(f"no state dict: {type(state).__name__} found instead of tensors")
    normalised = {
        _normalise_key(str(key)): value for key, value in state.items() if key != "hyper_parameters"
    }
    without_loss = {
        key: value for key, value in normalised.items() if not key.startswith("criterion.")
    }
    tensors = loading.extract_state_dict(without_loss)
    adapters = [key for key in tensors if any(marker in key for marker in _ADAPTER_MARKERS)]
    if adapters:
        raise WeightsError(
            f"the checkpoint holds adapters (LoRA, PEFT): {join_names(adapters, 5)}. Merge them "
            "where it was trained (merge_and_unload) and save the whole model"
        )
    temporal = [key for key in tensors if key.startswith("encoder.encoder.encoder")]
    if temporal:
        raise WeightsError(
            f"the checkpoint's encoder is wrapped for several dates: {join_names(temporal, 5)}. "
            "Only models of one date are supported"
        )
    return tensors


def _normalise_key(key: str) -> str:
    parts = key.removeprefix("module.").split(".")
    return ".".join(part for part in parts if part not in _WRAPPER_NAMES)


def _build_model(
    settings: SegmentationConfig, tensors: Mapping[str, Tensor], config: Config | None
) -> segmentation_model.PixelWiseModel:
    encoder = _build_encoder(settings, tensors, config)
    for name, names in settings.bands.items():
        _set_bands(encoder, name, names)
    decoder = dict(settings.decoder_options)
    is_headless = not any(key.startswith("head.") for key in tensors)
    if is_headless and DECODERS.get(settings.decoder) is LinearDecoder:
        decoder.pop("num_classes", None)
        # ^ TerraTorch 1.2 adds a head on top, other versions do not; the tensors show which
    network = segmentation_model.assemble_model(
        encoder,
        settings.num_classes,
        settings.necks,
        settings.decoder,
        decoder,
        settings.head_options,
    )
    network.rescale = settings.rescale
    return network


def _build_encoder(
    settings: SegmentationConfig, tensors: Mapping[str, Tensor], config: Config | None
) -> Encoder:
    if settings.backbone.startswith(_OTHER_BACKBONES):
        raise ModelError(
            f"the checkpoint was trained on the backbone {settings.backbone!r}, which is not "
            "TerraMind and is not supported"
        )
    if config is None and settings.backbone not in ARCHITECTURES:
        raise ModelError(
            f"backbone {settings.backbone!r} is none of {join_names(ARCHITECTURES)}: write its "
            "dim, heads and depth into a .yaml, and give that (in a job `name: x.yaml`, in Python "
            "`config`)"
        )
    size = settings.backbone if config is None else config
    names = [name for name in settings.modalities if isinstance(name, str)]
    tokenizers = dict.fromkeys(name for name in names if _has_tokenizer(name, tensors))
    # ^ None: a tokenizer of the published size, with its weights in the checkpoint
    if settings.tim_modalities is None:
        return backbone(
            size,
            settings.modalities,
            merge=settings.merge,
            image_size=settings.image_size,
            tokenizers=tokenizers,
        )
    if settings.bands or len(names) < len(settings.modalities):
        raise ModelError("Thinking in Modalities takes known modalities only, with all bands")
    prefixes = [
        f"{_SAMPLER_EMBEDDINGS}{find_target_key(name)}." for name in settings.tim_modalities
    ]
    return tim(
        size,
        names,
        settings.tim_modalities,
        settings.merge,
        tokenizers=tokenizers,
        chained=all(any(key.startswith(prefix) for key in tensors) for prefix in prefixes),
        # ^ versions before 1.2 did not generate one from another: the tensors show it
        image_size=settings.image_size,
    )


def _has_tokenizer(name: str, tensors: Mapping[str, Tensor]) -> bool:
    key = find_modality_key(name)
    known = MODALITIES_BY_KEY.get(key or "")
    is_grid = isinstance(known, TokenModality) and not known.is_sequence
    prefix = f"encoder.tokenizer.{key}."
    return is_grid and any(tensor_key.startswith(prefix) for tensor_key in tensors)


def _set_bands(encoder: Encoder, name: str, names: tuple[str, ...]) -> None:
    """Replace the embedding of a modality by one with as many channels as there are names.

    A name that TerraMind does not have is a channel trained from scratch; the published class adds
    it as well, and its weights are in the checkpoint.
    """
    embedding = _get_raster_embedding(encoder, name)
    known = MODALITIES_BY_KEY.get(encoder.modality_keys[name])
    if embedding is None or not isinstance(known, RasterModality):
        return
        # ^ new modalities and tokens have no bands
    dim = embedding.proj.out_features
    embedding.proj = nn.Linear(PATCH_SIZE * PATCH_SIZE * len(names), dim, bias=False)
    embedding.bands = tuple(_official_band_name(known, band) for band in names)


def _official_band_name(modality: RasterModality, band: str) -> str:
    try:
        return modality.bands[modality.band_index(band)]
    except ModelError:
        return band


def _rename_bands(encoder: Encoder, name: str, names: tuple[str, ...]) -> None:
    embedding = _get_raster_embedding(encoder, name)
    if embedding is None or len(embedding.bands) != len(names):
        count = 0 if embedding is None else len(embedding.bands)
        raise ModelError(f"{name} has {count} channels, but {len(names)} band names")
    embedding.bands = names


def _get_raster_embedding(encoder: Encoder, name: str) -> RasterEmbedding | None:
    if name not in encoder.modality_keys:
        raise ModelError(f"bands of {name!r}: the model has {join_names(encoder.modality_keys)}")
    embedding = encoder.encoder_embeddings[encoder.modality_keys[name]]
    return embedding if isinstance(embedding, RasterEmbedding) else None
