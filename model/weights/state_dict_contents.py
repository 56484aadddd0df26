"""Summarise a state dict by its keys and shapes: kind, parts, modalities, number formats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.terramind.keys import DECODER_EMBEDDINGS, ENCODER_EMBEDDINGS, SAMPLER_PREFIX
from model.terramind.modalities import IMAGE_SIZE, MODALITIES_BY_KEY, PATCH_SIZE
from model.weights.checkpoint_file import StateDict

WeightsKind = Literal[
    "encoder", "encoder-decoder", "generator", "tim", "tokenizer", "segmenter", "terratorch",
    "vocabulary", "unknown",
]  # fmt: skip


PARTS: Mapping[str, tuple[str, ...]] = {
    "encoder": (
        *("encoder_embeddings", "encoder", "encoder_norm", "missing_mod_token"),
        "quant_proj",
    ),
    "decoder": (
        *("decoder_embeddings", "decoder", "decoder_norm", "decoder_proj_context", "mask_token"),
        "post_quant_proj",
    ),
}
"""First words of keys by part; any other word is a part of its own."""

RASTER = "raster"
"""Name of a tokenizer's input, whose modality is not in its keys."""

_KEY_PREFIXES: Mapping[WeightsKind, str] = {
    "generator": SAMPLER_PREFIX,
    "segmenter": "encoder.",
    "terratorch": "encoder.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedModality:
    """A modality that a state dict holds an embedding for."""

    name: str
    """Its name, or the key itself for a modality that is not of TerraMind."""

    key: str
    is_tokens: bool
    """Whether its inputs are token ids, and not pixels."""

    size: int
    """Number of channels, or of ids in the vocabulary."""

    @property
    def form(self) -> Literal["pixels", "tokens"]:
        """What the embedding takes."""
        return "tokens" if self.is_tokens else "pixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsContents:
    """Contents of a state dict."""

    kind: WeightsKind
    parts: Mapping[str, int]
    """Number of parameters by part: encoder, decoder, head …"""

    dtypes: Mapping[str, int]
    """Number of parameters by number format."""

    inputs: tuple[EmbeddedModality, ...] = ()
    outputs: tuple[EmbeddedModality, ...] = ()
    image_size: int = IMAGE_SIZE
    """Side of the images that the position tables are made for, px."""

    width: int | None = None
    """Width of the encoder's tokens; None where there is no TerraMind encoder."""

    non_finite_keys: tuple[str, ...] = ()
    """Keys of tensors with NaN or infinity."""

    @property
    def parameters(self) -> int:
        """Number of all parameters; a tensor that two keys share counts once."""
        return sum(self.dtypes.values())


def summarise_state_dict(tensors: StateDict) -> WeightsContents:
    """Return the contents of a state dict."""
    parts: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    for key, value in _iter_unique_tensors(tensors):
        parts[find_part(key)] += value.numel()
        dtypes[str(value.dtype).removeprefix("torch.")] += value.numel()
    kind = detect_kind(tensors)
    prefix = _KEY_PREFIXES.get(kind, "")
    decoder_prefix = SAMPLER_PREFIX if kind == "tim" else prefix
    return WeightsContents(
        kind=kind,
        parts=dict(parts),
        dtypes=dict(dtypes),
        inputs=(
            *_find_embeddings(tensors, prefix + ENCODER_EMBEDDINGS),
            *(_find_tokenizer_input(tensors) if kind == "tokenizer" else ()),
        ),
        outputs=tuple(_find_embeddings(tensors, decoder_prefix + DECODER_EMBEDDINGS)),
        image_size=_infer_image_size(tensors),
        width=_infer_width(tensors, prefix),
        non_finite_keys=tuple(key for key, value in tensors.items() if not is_finite(value)),
    )


def detect_kind(keys: Mapping[str, object]) -> WeightsKind:
    """Return the kind of a state dict, by its keys."""

    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in keys)

    if has(SAMPLER_PREFIX):
        return "tim" if has(ENCODER_EMBEDDINGS) else "generator"
    if has(ENCODER_EMBEDDINGS):
        return "encoder-decoder" if has(DECODER_EMBEDDINGS) else "encoder"
    if has("quant_proj.") or has("post_quant_proj."):
        return "tokenizer"
    if has("encoder.encoder_embeddings."):
        return "segmenter" if "head.logits.weight" in keys else "terratorch"
    if has("encoder.base_model.model.encoder_embeddings."):
        return "terratorch"
        # ^ with adapters that are not merged
    return "unknown"


def find_part(key: str) -> str:
    """Return the part of the model that a key belongs to."""
    word = key.partition(".")[0]
    return next((part for part, words in PARTS.items() if word in words), word)


def _iter_unique_tensors(tensors: StateDict) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors, but of those that share memory only the first."""
    addresses: set[tuple[int, int]] = set()
    for key, value in tensors.items():
        address = (value.data_ptr(), value.numel())
        if address not in addresses or not value.numel():
            addresses.add(address)
            yield key, value


def _find_embeddings(tensors: StateDict, prefix: str) -> Iterator[EmbeddedModality]:
    for key in dict.fromkeys(
        name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)
    ):
        pixels = tensors.get(f"{prefix}{key}.proj.weight")
        ids = tensors.get(f"{prefix}{key}.token_emb.weight")
        modality = MODALITIES_BY_KEY.get(key)
        name = modality.name if modality is not None else key
        if pixels is not None and pixels.ndim == 2:
            yield EmbeddedModality(
                name=name, key=key, is_tokens=False, size=pixels.shape[1] // PATCH_SIZE**2
            )
        elif ids is not None and ids.ndim == 2:
            yield EmbeddedModality(name=name, key=key, is_tokens=True, size=ids.shape[0])


def _find_tokenizer_input(tensors: StateDict) -> Iterator[EmbeddedModality]:
    kernel = tensors.get("encoder.proj.weight")
    if kernel is not None and kernel.ndim == 4:
        yield EmbeddedModality(
            name=RASTER, key="encoder.proj", is_tokens=False, size=kernel.shape[1]
        )


def _infer_image_size(tensors: StateDict) -> int:
    """Return the side of the images that the first position table of a grid is made for, px."""
    for key, value in tensors.items():
        if key.endswith("@224.pos_emb") and value.ndim == 3:
            return math.isqrt(value.shape[1]) * PATCH_SIZE
        if key.endswith("coder.pos_emb") and value.ndim == 4:
            return int(value.shape[2]) * PATCH_SIZE
    return IMAGE_SIZE


def _infer_width(tensors: StateDict, prefix: str) -> int | None:
    norm = tensors.get(f"{prefix}encoder_norm.weight")
    return None if norm is None or norm.ndim != 1 else norm.shape[0]


def is_finite(value: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity; true for one on the meta device."""
    if not value.numel() or not value.is_floating_point() or value.is_meta:
        return True
    least, most = torch.aminmax(value if value.element_size() > 1 else value.half())
    # ^ NaN propagates to both; one pass, and no copy of the tensor in memory
    return bool(torch.isfinite(least) & torch.isfinite(most))
