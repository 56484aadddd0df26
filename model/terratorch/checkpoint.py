"""Checkpoints of TerraTorch: what `terratorch fit` wrote becomes a model, and no code of it runs.

A Lightning checkpoint holds tensors and the hyper-parameters of the training. The model is built
anew from these (`model.terratorch.hyperparameters`), and then every tensor must fit. Statistics
and the order of bands stand in the training's YAML alone (`model.terratorch.datamodule`).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import ModelError, WeightsError, join_names
from model.factory import backbone, tim
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
from model.terratorch import segmentation
from model.terratorch.datamodule import bands_from_yaml, statistics_from_yaml
from model.terratorch.decoders import DECODERS, LinearDecoder
from model.terratorch.hyperparameters import (
    SegmentationConfig,
    parse_hyper_parameters,
    read_task_arguments,
)
from model.weights import loading

__all__ = ["bands_from_yaml", "fine_tuned", "read", "statistics_from_yaml"]

Config = str | Path | Mapping[str, Any] | Architecture
"""As for `model.backbone`."""

_WRAPPER_NAMES = ("_timm_module", "_orig_mod")
# ^ parts of a key that name nothing: of versions before 1.0, and of torch.compile; as the module.
#   in front that training on several GPUs leaves

_SAMPLER_EMBEDDINGS = "encoder.sampler.model.encoder_embeddings."
_OTHER_BACKBONES = (
    *("prithvi", "timm_", "smp_", "satmae", "scalemae", "clay", "dofa", "resnet", "swin", "vit"),
    *("unet", "mmearth", "ssl4eo", "convnext", "dinov"),
)
# ^ how names of other backbones begin in its registry
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
) -> segmentation.PixelWiseModel:
    """Return a segmentation model that `terratorch fit` has trained, ready for inference.

    Args:
        source: a .ckpt file, or what such a file holds.
        config: an architecture, for a backbone that is no known name.
        hyper_parameters: for a file that holds tensors alone: the .yaml of its training, or
            `model_args` in a mapping.
        bands: other names for the channels of some modalities, in their order.
        sha256: of the file, if it is pinned.

    Raises:
        ModelError: hyper-parameters that are not understood, named.
        WeightsError: absent, damaged or unsafe, or tensors that do not fit, named.
    """
    content = source if isinstance(source, Mapping) else read(source, sha256)
    stored = content.get("hyper_parameters")
    arguments = read_task_arguments(stored if hyper_parameters is None else hyper_parameters)
    tensors = _extract_tensors(content)
    made = _build_model(parse_hyper_parameters(arguments), tensors, config)
    for name, names in (bands or {}).items():
        _rename_bands(made.encoder, name, tuple(names))
    made.hyper_parameters = arguments
    return loading.load_state(made, tensors).eval()


def read(path: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """Return what a checkpoint's file holds: tensors, and plain values.

    Raises:
        WeightsError: absent, damaged, not what the digest says, or it holds more than data.
    """
    stand_in = (AuxiliaryHeadStub, "terratorch.models.model.AuxiliaryHead")
    try:
        with torch.serialization.safe_globals([stand_in]):
            # ^ the name is theirs, the class that is filled is the empty one above
            return loading.read_checkpoint(path, sha256)
    except WeightsError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        raise WeightsError(
            f"the checkpoint {path} holds more than tensors and plain values "
            f"({_reason(error.__cause__)}) and is not opened, because a pickle can run any "
            "program. Where it was trained, save it again with plain values: c = torch.load(path, "
            "weights_only=False); torch.save({'state_dict': c['state_dict']}, path), and give the "
            ".yaml of the training (in a job `stats: fit.yaml`, in Python `hyper_parameters`)"
        ) from error


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line), lines[0])[:160]


def _extract_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors under our keys: encoder, neck, decoder, head."""
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise WeightsError(f"no state dict: {type(state).__name__} found instead of tensors")
    named = {
        _normalise_key(str(key)): value for key, value in state.items() if key != "hyper_parameters"
    }
    model = {key: value for key, value in named.items() if not key.startswith("criterion.")}
    # ^ the loss has tensors of its own
    found = loading.extract_state_dict(model)
    adapted = [key for key in found if any(name in key for name in _ADAPTER_MARKERS)]
    if adapted:
        raise WeightsError(
            f"the checkpoint holds adapters (LoRA, PEFT): {join_names(adapted, 5)}. Merge them where "
            "it was trained (merge_and_unload) and save the whole model"
        )
    temporal = [key for key in found if key.startswith("encoder.encoder.encoder")]
    if temporal:
        raise WeightsError(
            f"the checkpoint's encoder is wrapped for several dates: {join_names(temporal, 5)}. Only "
            "models of one date are read"
        )
    return found


def _normalise_key(key: str) -> str:
    parts = key.removeprefix("module.").split(".")
    return ".".join(part for part in parts if part not in _WRAPPER_NAMES)


def _build_model(
    wanted: SegmentationConfig, tensors: Mapping[str, Tensor], config: Config | None
) -> segmentation.PixelWiseModel:
    encoder = _build_encoder(wanted, tensors, config)
    for name, names in wanted.bands.items():
        _set_bands(encoder, name, names)
    decoder = dict(wanted.decoder_options)
    headless = not any(key.startswith("head.") for key in tensors)
    if headless and DECODERS.get(wanted.decoder) is LinearDecoder:
        decoder.pop("num_classes", None)
        # ^ version 1.2 puts a head on top, others do not: the tensors tell
    made = segmentation.assemble_model(
        encoder, wanted.num_classes, wanted.necks, wanted.decoder, decoder, wanted.head_options
    )
    made.rescale = wanted.rescale
    return made


def _build_encoder(
    wanted: SegmentationConfig, tensors: Mapping[str, Tensor], config: Config | None
) -> Encoder:
    if wanted.backbone.startswith(_OTHER_BACKBONES):
        raise ModelError(
            f"the checkpoint was trained on the backbone {wanted.backbone!r}, which is not "
            "TerraMind: it cannot be run here"
        )
    if config is None and wanted.backbone not in ARCHITECTURES:
        raise ModelError(
            f"backbone {wanted.backbone!r} is none of {join_names(ARCHITECTURES)}: write its dim, "
            "heads and depth into a .yaml, and give that (in a job `name: x.yaml`, in Python "
            "`config`)"
        )
    size = wanted.backbone if config is None else config
    names = [name for name in wanted.modalities if isinstance(name, str)]
    held = [name for name in names if _has_tokenizer(name, tensors)]
    tokenizers = dict.fromkeys(held)
    # ^ None: of the published size, with the weights that are in the checkpoint
    if wanted.tim_modalities is None:
        return backbone(
            size,
            wanted.modalities,
            merge=wanted.merge,
            image_size=wanted.image_size,
            tokenizers=tokenizers,
        )
    if wanted.bands or len(names) < len(wanted.modalities):
        raise ModelError("Thinking in Modalities takes known modalities only, with all bands")
    fed = [f"{_SAMPLER_EMBEDDINGS}{find_target_key(name)}." for name in wanted.tim_modalities]
    return tim(
        size,
        names,
        wanted.tim_modalities,
        wanted.merge,
        tokenizers=tokenizers,
        chained=all(any(key.startswith(start) for key in tensors) for start in fed),
        # ^ versions before 1.2 did not feed one thought to the next; the tensors tell
        image_size=wanted.image_size,
    )


def _has_tokenizer(name: str, tensors: Mapping[str, Tensor]) -> bool:
    key = find_modality_key(name)
    known = MODALITIES_BY_KEY.get(key or "")
    of_grid = isinstance(known, TokenModality) and not known.is_sequence
    return of_grid and any(held.startswith(f"encoder.tokenizer.{key}.") for held in tensors)


def _set_bands(encoder: Encoder, name: str, names: tuple[str, ...]) -> None:
    """Give a modality as many channels as its band list has names.

    A name that TerraMind does not know is a channel that was learned from nothing; the published
    class makes it without a word, and its weights are in the checkpoint like any other.
    """
    embedding = _get_raster_embedding(encoder, name)
    known = MODALITIES_BY_KEY.get(encoder.modality_keys[name])
    if embedding is None or not isinstance(known, RasterModality):
        return
        # ^ new modalities and tokens have no list of bands, there as here
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
        raise ModelError(f"{name} has {count} channels, but {len(names)} names are given")
    embedding.bands = names


def _get_raster_embedding(encoder: Encoder, name: str) -> RasterEmbedding | None:
    if name not in encoder.modality_keys:
        raise ModelError(f"bands of {name!r}: the model has {join_names(encoder.modality_keys)}")
    found = encoder.encoder_embeddings[encoder.modality_keys[name]]
    return found if isinstance(found, RasterEmbedding) else None
