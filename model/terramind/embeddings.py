"""What a caller may hand to an encoder: names that become keys, rasters that become token ids.

A modality is declared by its name, and each has an embedding of one of three kinds: pixels, ids on
the patch grid, ids in a row. Where a tokenizer is at hand, the raster itself can be given in place
of its ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind.config import Architecture
from model.terramind.layers import (
    CheckpointModule,
    RasterEmbedding,
    SequenceEmbedding,
    TokenEmbedding,
)
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    RASTER_MODALITIES,
    TOKEN_MODALITIES,
    RasterModality,
    TokenModality,
    find_modality_key,
)
from model.terramind.tokenizers.tokenizer import Tokenizer

ModalityDeclaration = str | Mapping[str, int]
"""A modality's name, or {new name: number of channels}."""

InputEmbedding = RasterEmbedding | TokenEmbedding | SequenceEmbedding


class CoordsTokenizerProtocol(Protocol):
    """The tokenizer of coordinates."""

    def encode(self, lonlat: Tensor, /) -> Tensor:
        """Return the ids (B, 3) of latitude, longitude and the end, of degrees (B, 2) lon, lat."""
        ...

    def decode(self, ids: Tensor, /) -> Tensor:
        """Return degrees (B, 2) lon, lat; NaN where the ids are no coordinates."""
        ...


class Tokenizers(nn.ModuleDict):
    """The tokenizers that a model carries, by official key; state-dict keys as published."""

    def __init__(
        self,
        rasters: Mapping[str, Tokenizer] | None = None,
        coordinates: CoordsTokenizerProtocol | None = None,
    ) -> None:
        super().__init__(dict(rasters or {}))
        self.coordinates = coordinates

    def get_raster_tokenizer(self, key: str) -> Tokenizer | None:
        """Return the tokenizer of a raster modality, or None if there is none here."""
        if key not in self:
            return None
        found = self[key]
        return found if isinstance(found, Tokenizer) else None

    def tokenize(self, name: str, key: str, value: Tensor) -> Tensor:
        """Return token ids for what was given of a token modality.

        Args:
            name: as the caller calls it.
            key: its official key.
            value: a standardised raster where there is a tokenizer for it, class indices or one
                channel a class for LULC; degrees (B, 2) lon, lat for coordinates; else ids.

        Raises:
            ModelError: degrees without a tokenizer of coordinates, or what the tokenizer refuses.
        """
        known = MODALITIES_BY_KEY.get(key)
        if not isinstance(known, TokenModality):
            return value
        if known.is_sequence:
            return self._tokenize_coords(name, value)
        tokenizer = self.get_raster_tokenizer(key)
        return value if tokenizer is None else tokenizer.encode(value)

    def checkpoint_parts(self, prefix: str) -> dict[str, CheckpointModule]:
        """Return the tokenizers by the beginning of their keys in the state dict."""
        every = ((f"{prefix}{key}.", self.get_raster_tokenizer(key)) for key in self)
        return {start: part for start, part in every if part is not None}

    def add_missing_tensors(self, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Return a checkpoint with our own tensors for each tokenizer that it lacks altogether.

        The published encoder-decoders come without tokenizers, which are files of their own.
        """
        result = dict(tensors)
        for start, part in self.checkpoint_parts(prefix).items():
            if not any(key.startswith(start) for key in tensors):
                result |= {start + key: value for key, value in part.state_dict().items()}
        return result

    def _tokenize_coords(self, name: str, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        if self.coordinates is None:
            raise ModelError(
                f"{name}: degrees are given, but this model has no tokenizer of coordinates; "
                "build it with tokenizers={'Coords': …}, or give token ids"
            )
        if value.ndim != 2 or value.shape[1] != 2:
            raise ModelError(f"{name}: degrees (B, 2) lon, lat expected, not {tuple(value.shape)}")
        return self.coordinates.encode(value).to(value.device)


def resolve_modality_keys(modalities: Sequence[ModalityDeclaration]) -> dict[str, str]:
    """Return the official key of each declared modality, by the name it was declared with.

    Raises:
        ModelError: none, an unknown one, or one twice.
    """
    if isinstance(modalities, str) or not modalities:
        raise ModelError(
            f"give a list of modalities; known are {join_names([*RASTER_MODALITIES, *TOKEN_MODALITIES], 9)}"
        )
    keys: dict[str, str] = {}
    for entry in modalities:
        for name in [entry] if isinstance(entry, str) else entry:
            key = find_modality_key(name) if isinstance(entry, str) else name
            if key is None:
                raise ModelError(
                    f"unknown modality {name!r}; known are {join_names([*RASTER_MODALITIES, *TOKEN_MODALITIES], 9)}, "
                    "or {name: channels} for a new one"
                )
            if name in keys or key in keys.values() or "." in key:
                raise ModelError(f"modality {name!r} is declared twice or holds a dot")
            keys[name] = key
    return keys


def new_modality_channels(modalities: Sequence[ModalityDeclaration]) -> dict[str, int]:
    """Return the number of channels of each new modality.

    Raises:
        ModelError: not a positive whole number.
    """
    new: dict[str, int] = {}
    for entry in modalities:
        if isinstance(entry, Mapping):
            new.update(entry)
    for name, count in new.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ModelError(f"{name}: the number of channels must be positive, not {count!r}")
    return new


def build_embeddings(
    keys: Mapping[str, str],
    new_channels: Mapping[str, int],
    architecture: Architecture,
    image_size: int,
) -> dict[str, nn.Module]:
    """Return a fresh embedding for each modality, by official key."""
    made: dict[str, nn.Module] = {}
    for name, key in keys.items():
        known = MODALITIES_BY_KEY.get(key)
        if name in new_channels:
            bands = tuple(f"{index + 1}" for index in range(new_channels[name]))
            made[key] = RasterEmbedding(bands, architecture.dim, image_size)
        elif isinstance(known, RasterModality):
            made[key] = RasterEmbedding(known.bands, architecture.dim, image_size)
        elif isinstance(known, TokenModality):
            made[key] = (
                SequenceEmbedding(known.vocab_size, architecture.dim)
                if known.is_sequence
                else TokenEmbedding(known.vocab_size, architecture.dim, image_size)
            )
    return made


def check_finite(inputs: Mapping[str, Tensor]) -> None:
    """Refuse pixels that are not finite.

    Raises:
        ModelError: with the modality's name, and what to do.
    """
    for name, value in inputs.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"{name} holds NaN or infinite pixels: attention would spread them to every "
                "token; fill them first (0 after standardisation = the mean)"
            )


def check_shape(name: str, embedding: InputEmbedding, value: Tensor) -> None:
    """Refuse a value whose shape the embedding cannot take.

    Raises:
        ModelError: with the shape expected.
    """
    shape = tuple(value.shape)
    if isinstance(embedding, SequenceEmbedding):
        if value.ndim != 2 or not 1 <= shape[1] <= embedding.max_length:
            raise ModelError(f"{name}: token ids (B, L), L <= {embedding.max_length}, not {shape}")
    elif isinstance(embedding, TokenEmbedding):
        if value.ndim != 3:
            raise ModelError(
                f"{name}: token ids (B, rows, columns) expected, not {shape}; for rasters build "
                "the model with tokenizers={…}"
            )
    else:
        _check_raster(name, embedding.bands, shape)


def _check_raster(name: str, bands: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or shape[1] != len(bands):
        raise ModelError(
            f"{name}: (B, {len(bands)}, H, W) expected, not {shape}: {join_names(bands)}"
        )
    if shape[2] % PATCH_SIZE or shape[3] % PATCH_SIZE or not shape[2] * shape[3]:
        raise ModelError(
            f"{name}: height and width must be multiples of {PATCH_SIZE}, not {shape[2:]}"
        )
