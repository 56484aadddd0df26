"""Load checkpoints that `terratorch fit` wrote, without running code from them.

A Lightning checkpoint holds tensors and the hyper-parameters of the training. The model is built
from the hyper-parameters (`model.terratorch.hyperparameters`), and every tensor must fit it.
Statistics, and often bands, are in the YAML of the training (`model.terratorch.datamodule`).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from model.errors import ModelError, WeightsError, join_names
from model.terramind.architectures import ARCHITECTURES, Architecture
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
from model.terratorch import inert_objects, segmentation_model
from model.terratorch.adapters import merge_adapters
from model.terratorch.channels import translate_band
from model.terratorch.decoders import DECODERS, LinearDecoder
from model.terratorch.hyperparameters import (
    SegmentationConfig,
    parse_hyper_parameters,
    read_task_arguments,
)
from model.weights import loading
from model.weights.factory import backbone, tim

Config = str | Path | Mapping[str, Any] | Architecture
"""As for `model.backbone`."""

_WRAPPER_NAMES = (
    *("_timm_module", "_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module"),
    "_checkpoint_wrapped_module",
)
# ^ parts of keys that wrappers add: versions before 1.0, torch.compile, and training on several
#   GPUs

_STATE_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys under which programs save the state dict: Lightning's first."""

_MODEL_PREFIX = "model."
_AVERAGE_PREFIXES = ("ema_model.", "model_ema.", "ema.", "averaged_model.", "average_model.")
# ^ a second set of weights, the moving average of the first

_SAMPLER_EMBEDDINGS = "encoder.sampler.model.encoder_embeddings."
_OTHER_BACKBONES = (
    *("prithvi", "timm_", "smp_", "satmae", "scalemae", "clay", "dofa", "resnet", "swin", "vit"),
    *("unet", "mmearth", "ssl4eo", "convnext", "dinov"),
)
# ^ prefixes of the names of other backbones in TerraTorch's registry


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
    settings = parse_hyper_parameters(arguments)
    tensors = merge_adapters(_extract_tensors(content), settings.peft_config)
    _check_class_count(settings, tensors)
    network = _build_model(settings, tensors, config)
    for name, names in (bands or {}).items():
        _rename_bands(network.encoder, name, tuple(names))
    network.hyper_parameters, network.settings = arguments, settings
    return loading.load_state(network, tensors).eval()


def read(path: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors and plain values.

    Raises:
        WeightsError: the file is absent or damaged, has another checksum, or holds objects.
    """
    try:
        return inert_objects.read_inert(path, lambda: loading.read_checkpoint(path, sha256))
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


def read_tensors(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file, which may hold what :func:`read` reads.

    Raises:
        WeightsError: as for :func:`read`; or the file holds no state dict.
    """
    content = read(path, sha256)
    try:
        return loading.extract_state_dict(content)
    except WeightsError as error:
        raise WeightsError(f"weights {path}: {error}") from error


def _find_reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line), lines[0])[:160]


def _extract_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors under our keys: encoder, neck, decoder, head."""
    state = next((content[key] for key in _STATE_KEYS if key in content), content)
    if not isinstance(state, Mapping):
        raise WeightsError(f"no state dict: {type(state).__name__} found instead of tensors")
    normalised = {
        _normalise_key(str(key)): value for key, value in state.items() if key != "hyper_parameters"
    }
    averages = [prefix for prefix in _AVERAGE_PREFIXES if _has_prefix(normalised, prefix)]
    if averages:
        raise WeightsError(
            f"the checkpoint holds a moving average of the weights, {averages[0]}…, beside others: "
            "save it with the set to use. For the average: c = torch.load(path, "
            "weights_only=False); c['state_dict'] = "
            f"{{k.removeprefix('{averages[0]}'): v for k, v in c['state_dict'].items() if "
            f"k.startswith('{averages[0]}')}}; torch.save(c, path)"
        )
    if _has_prefix(normalised, _MODEL_PREFIX):
        normalised = {
            key: value for key, value in normalised.items() if key.startswith(_MODEL_PREFIX)
        }
        # ^ beside the model are the loss and metrics
    without_loss = {
        key: value for key, value in normalised.items() if not key.startswith("criterion.")
    }
    tensors = loading.extract_state_dict(without_loss)
    temporal = [key for key in tensors if key.startswith("encoder.encoder.encoder")]
    if temporal:
        raise WeightsError(
            f"the checkpoint's encoder is wrapped for several dates: {join_names(temporal, 5)}. "
            "Only models of one date are supported"
        )
    return tensors


def _has_prefix(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _normalise_key(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPER_NAMES)


def _check_class_count(settings: SegmentationConfig, tensors: Mapping[str, Tensor]) -> None:
    """Check the number of classes against the last layer of the head."""
    last = tensors.get("head.head.2.weight")
    if last is None or settings.num_classes in (1, last.shape[0]):
        return
        # ^ a single class is refused when the model is built
    raise WeightsError(
        f"the head of the checkpoint gives {last.shape[0]} classes, but its hyper-parameters state "
        f"num_classes {settings.num_classes}: the two are of different trainings. Use the "
        "hyper-parameters of the training that wrote the tensors"
    )


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
    embedding.bands = tuple(translate_band(known, band) for band in names)


def _rename_bands(encoder: Encoder, name: str, names: tuple[str, ...]) -> None:
    embedding = _get_raster_embedding(encoder, name)
    if embedding is None or len(embedding.bands) != len(names):
        count = 0 if embedding is None else len(embedding.bands)
        raise ModelError(f"{name} has {count} channels, but {len(names)} band names")
    known = MODALITIES_BY_KEY.get(encoder.modality_keys[name])
    embedding.bands = (
        tuple(translate_band(known, band) for band in names)
        if isinstance(known, RasterModality)
        else names
    )


def _get_raster_embedding(encoder: Encoder, name: str) -> RasterEmbedding | None:
    if name not in encoder.modality_keys:
        raise ModelError(f"bands of {name!r}: the model has {join_names(encoder.modality_keys)}")
    embedding = encoder.encoder_embeddings[encoder.modality_keys[name]]
    return embedding if isinstance(embedding, RasterEmbedding) else None
