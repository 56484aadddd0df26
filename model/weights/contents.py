"""What a state dict holds, as its keys and shapes tell: kind, parts, modalities, number formats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from model.terramind.modalities import IMAGE_SIZE, KEYS, PATCH
from model.weights.checkpoint import State

Kind = Literal[
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
"""What the first words of keys belong to; any other word is a part of its own."""

RASTER = "raster"
"""The input of a tokenizer, which does not bear its name."""

_PREFIXES: Mapping[Kind, str] = {
    "generator": "sampler.model.",
    "segmenter": "encoder.",
    "terratorch": "encoder.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One modality that a file holds an embedding for."""

    name: str
    """Ours, or the key itself for one that is not of the family."""

    key: str
    tokens: bool
    """Whether it is embedded from token ids, or from pixels."""

    size: int
    """Channels, or entries of the vocabulary."""

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as the command prints them."""
        form = "tokens" if self.tokens else "pixels"
        return {"name": self.name, "form": form, "size": self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in a file."""

    kind: Kind
    parts: Mapping[str, int]
    """Numbers by part, e.g. encoder, decoder, head."""

    dtypes: Mapping[str, int]
    """Numbers by number format."""

    inputs: tuple[Input, ...] = ()
    outputs: tuple[Input, ...] = ()
    image_size: int = IMAGE_SIZE
    """For which the position tables are made, px."""

    width: int | None = None
    """Of the encoder's tokens; None where there is none of the family."""

    broken: tuple[str, ...] = ()
    """Keys of tensors that hold NaN or infinity."""

    @property
    def parameters(self) -> int:
        """All numbers; what is stored once for two keys counts once."""
        return sum(self.dtypes.values())

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as the command prints them."""
        return {
            "kind": self.kind,
            "parameters": self.parameters,
            "dtypes": dict(self.dtypes),
            "parts": dict(self.parts),
            "inputs": [entry.to_mapping() for entry in self.inputs],
            "outputs": [entry.to_mapping() for entry in self.outputs],
            "image_size": self.image_size if self.inputs else None,
            "not_finite": list(self.broken),
        }


def of(tensors: State) -> Contents:
    """Tell what a state dict holds."""
    parts: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    for key, value in _once(tensors):
        parts[part_of(key)] += value.numel()
        dtypes[str(value.dtype).removeprefix("torch.")] += value.numel()
    kind = kind_of(tensors)
    start = _PREFIXES.get(kind, "")
    decoder = "sampler.model." if kind == "tim" else start
    return Contents(
        kind=kind,
        parts=dict(parts),
        dtypes=dict(dtypes),
        inputs=(
            *_embedded(tensors, f"{start}encoder_embeddings."),
            *(_tokenised(tensors) if kind == "tokenizer" else ()),
        ),
        outputs=tuple(_embedded(tensors, f"{decoder}decoder_embeddings.")),
        image_size=_image_size(tensors),
        width=_width(tensors, start),
        broken=tuple(key for key, value in tensors.items() if not is_finite(value)),
    )


def kind_of(keys: Mapping[str, object]) -> Kind:
    """Tell by its keys what a state dict is for."""

    def has(start: str) -> bool:
        return any(key.startswith(start) for key in keys)

    if has("sampler.model."):
        return "tim" if has("encoder_embeddings.") else "generator"
    if has("encoder_embeddings."):
        return "encoder-decoder" if has("decoder_embeddings.") else "encoder"
    if has("quant_proj.") or has("post_quant_proj."):
        return "tokenizer"
    if has("encoder.encoder_embeddings."):
        return "segmenter" if "head.logits.weight" in keys else "terratorch"
    return "unknown"


def part_of(key: str) -> str:
    """Return the part of the model that a key belongs to."""
    word = key.partition(".")[0]
    return next((part for part, words in PARTS.items() if word in words), word)


def _once(tensors: State) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors without those that share another one's memory."""
    seen: set[tuple[int, int]] = set()
    for key, value in tensors.items():
        place = (value.data_ptr(), value.numel())
        if place not in seen or not value.numel():
            seen.add(place)
            yield key, value


def _embedded(tensors: State, prefix: str) -> Iterator[Input]:
    for key in dict.fromkeys(
        name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)
    ):
        pixels = tensors.get(f"{prefix}{key}.proj.weight")
        ids = tensors.get(f"{prefix}{key}.token_emb.weight")
        entry = KEYS.get(key)
        name = entry.name if entry is not None else key
        if pixels is not None and pixels.ndim == 2:
            yield Input(name=name, key=key, tokens=False, size=pixels.shape[1] // PATCH**2)
        elif ids is not None and ids.ndim == 2:
            yield Input(name=name, key=key, tokens=True, size=ids.shape[0])


def _tokenised(tensors: State) -> Iterator[Input]:
    kernel = tensors.get("encoder.proj.weight")
    if kernel is not None and kernel.ndim == 4:
        yield Input(name=RASTER, key="encoder.proj", tokens=False, size=kernel.shape[1])


def _image_size(tensors: State) -> int:
    """Read the side of the images off the first position table of a grid."""
    for key, value in tensors.items():
        if key.endswith("@224.pos_emb") and value.ndim == 3:
            return math.isqrt(value.shape[1]) * PATCH
        if key.endswith("coder.pos_emb") and value.ndim == 4:
            return int(value.shape[2]) * PATCH
    return IMAGE_SIZE


def _width(tensors: State, start: str) -> int | None:
    norm = tensors.get(f"{start}encoder_norm.weight")
    return None if norm is None or norm.ndim != 1 else norm.shape[0]


def is_finite(value: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity; one without memory holds nothing."""
    if not value.numel() or not value.is_floating_point() or value.is_meta:
        return True
    least, most = torch.aminmax(value if value.element_size() > 1 else value.half())
    # ^ NaN spreads to both; one pass, and no copy of the file in memory
    return bool(torch.isfinite(least) & torch.isfinite(most))
