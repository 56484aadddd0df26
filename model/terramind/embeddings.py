"""Embeddings of the inputs: pixels or token ids to tokens with a position and a modality vector.

Notation: B batch, N tokens, D width of a token, C channels, h x w the grid of patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind import fused_linear
from model.terramind.architectures import Architecture
from model.terramind.input_validation import check_token_ids
from model.terramind.layers import (
    Float32Module,
    resize_position_table,
    sincos_grid,
    sincos_sequence,
)
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    RasterModality,
    TokenModality,
    band_indices,
)

_MAX_CACHED_TABLES = 8


class Embedding(Float32Module):
    """Base of all embeddings: a position table and one learned vector of the modality."""

    pos_emb: Tensor
    mod_emb: nn.Parameter

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.mod_emb = nn.Parameter(torch.zeros(1, 1, table.shape[2], dtype=torch.float32))
        self.register_buffer("pos_emb", table)
        self._resized_tables: dict[tuple[object, ...], Tensor] = {}

    def position_table(self, rows: int, columns: int) -> Tensor:
        """Return the position table of a grid, (1, rows * columns, D), resized if need be.

        The last few resized tables are cached.
        """
        side = math.isqrt(self.pos_emb.shape[1])
        if (rows, columns) == (side, side):
            return self.pos_emb
        key = (rows, columns, self.pos_emb.device, self.pos_emb.dtype)
        if key not in self._resized_tables:
            while len(self._resized_tables) >= _MAX_CACHED_TABLES:
                self._resized_tables.pop(next(iter(self._resized_tables)), None)
            with torch.inference_mode(mode=False), torch.no_grad():
                # ^ a table made in inference mode could not be used in training afterwards
                resized = resize_position_table(self.pos_emb, rows, columns)
            self._resized_tables[key] = resized.to(self.pos_emb.dtype)
        return self._resized_tables[key]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._resized_tables.clear()
        super()._load_from_state_dict(*args, **kwargs)
        # ^ the stored table changes, so the resized ones are stale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._resized_tables.clear()
        return super()._apply(fn, recurse)
        # ^ another device or number format


class RasterEmbedding(Embedding):
    """Pixels to tokens: patches of 16 x 16 pixels times a matrix, without bias."""

    is_sequence = False

    def __init__(self, bands: tuple[str, ...], dim: int, image_size: int) -> None:
        side = image_size // PATCH_SIZE
        super().__init__(sincos_grid(side, side, dim))
        self.bands = bands
        self.proj = nn.Linear(PATCH_SIZE * PATCH_SIZE * len(bands), dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (B, h * w, D) of images (B, C, H, W)."""
        patches = self.to_patches(x.to(self.proj.weight.dtype))  # (B, h * w, 256 * C)
        tokens = fused_linear.linear(self.proj, patches)
        return tokens + self.position_table(*self.patch_grid(x)) + self.mod_emb

    def to_patches(self, x: Tensor) -> Tensor:
        """Cut images (B, C, H, W) into patches, flattened channel-fastest, (B, h * w, 256 * C)."""
        batch, channels, height, width = x.shape
        rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
        blocks = x.reshape(batch, channels, rows, PATCH_SIZE, columns, PATCH_SIZE)
        return blocks.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)

    def patch_grid(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of the tokens of images (B, C, H, W)."""
        return x.shape[2] // PATCH_SIZE, x.shape[3] // PATCH_SIZE

    def token_count(self, x: Tensor) -> int:
        """Return the number of tokens of an image (B, C, H, W)."""
        return math.prod(self.patch_grid(x))

    def position_and_modality(self, x: Tensor) -> Tensor:
        """Return what `forward` adds to the projected patches, (1, h * w, D)."""
        return self.position_table(*self.patch_grid(x)) + self.mod_emb

    def check_input(self, name: str, value: Tensor) -> None:
        """Refuse a value that is not (B, C, H, W) with this embedding's channels.

        Raises:
            ModelError: another shape, or sides that are not multiples of 16.
        """
        shape = tuple(value.shape)
        if len(shape) != 4 or shape[1] != len(self.bands):
            raise ModelError(
                f"{name}: (B, {len(self.bands)}, H, W) expected, not {shape}: "
                f"{join_names(self.bands)}"
            )
        if shape[2] % PATCH_SIZE or shape[3] % PATCH_SIZE or not shape[2] * shape[3]:
            raise ModelError(
                f"{name}: height and width must be multiples of {PATCH_SIZE}, not {shape[2:]}"
            )

    def select_bands(self, modality: RasterModality, bands: Sequence[str]) -> None:
        """Keep only some bands, in this order, with the weights that they have.

        Raises:
            ModelError: an unknown band, or one that this embedding does not have.
        """
        indices = band_indices(modality, bands)
        current = [modality.band_index(band) for band in self.bands]
        if not set(indices) <= set(current):
            raise ModelError(f"{modality.name} was already reduced to {join_names(self.bands)}")
        positions = tuple(current.index(index) for index in indices)
        weight = self.select_band_weights(self.proj.weight.detach(), positions)
        self.bands = tuple(modality.bands[index] for index in indices)
        self.proj.weight = nn.Parameter(weight)
        self.proj.in_features = weight.shape[1]

    def select_band_weights(self, weight: Tensor, channels: tuple[int, ...]) -> Tensor:
        """Return the columns of a projection's weight that belong to some of its channels."""
        dim = weight.shape[0]
        per_pixel = weight.reshape(dim, PATCH_SIZE * PATCH_SIZE, -1)
        return per_pixel[:, :, list(channels)].reshape(dim, -1).contiguous()


class TokenEmbedding(Embedding):
    """Token ids on the patch grid to tokens."""

    is_sequence = False

    def __init__(self, vocab_size: int, dim: int, image_size: int) -> None:
        side = image_size // PATCH_SIZE
        super().__init__(sincos_grid(side, side, dim))
        self.token_emb = nn.Embedding(vocab_size, dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the tokens (B, h * w, D) of ids (B, h, w)."""
        tokens: Tensor = self.token_emb(ids.long().flatten(1))
        return tokens + self.position_table(*self.patch_grid(ids)) + self.mod_emb

    def patch_grid(self, ids: Tensor) -> tuple[int, int]:
        """Return the rows and columns of ids (B, h, w)."""
        return ids.shape[1], ids.shape[2]

    def token_count(self, ids: Tensor) -> int:
        """Return the number of tokens of ids (B, h, w)."""
        return math.prod(self.patch_grid(ids))

    def position_and_modality(self, ids: Tensor) -> Tensor:
        """Return what `forward` adds to the vectors of the ids, (1, h * w, D)."""
        return self.position_table(*self.patch_grid(ids)) + self.mod_emb

    def check_input(self, name: str, value: Tensor) -> None:
        """Refuse a value that is not ids (B, h, w) of the vocabulary.

        Raises:
            ModelError: another shape, not whole numbers, or outside the vocabulary.
        """
        if value.ndim != 3:
            raise ModelError(
                f"{name}: token ids (B, rows, columns) expected, not {tuple(value.shape)}; for "
                "rasters build the model with tokenizers={…}"
            )
        check_token_ids(name, value, self.token_emb.num_embeddings)


class SequenceEmbedding(Embedding):
    """Token ids in a sequence (coordinates) to tokens."""

    is_sequence = True
    max_length = 512

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__(sincos_sequence(self.max_length, dim))
        self.token_emb = nn.Embedding(vocab_size, dim, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the tokens (B, L, D) of ids (B, L)."""
        tokens: Tensor = self.token_emb(ids.long())
        return tokens + self.pos_emb[:, : ids.shape[1]] + self.mod_emb

    def token_count(self, ids: Tensor) -> int:
        """Return the number of tokens of ids (B, L)."""
        return ids.shape[1]

    def position_and_modality(self, ids: Tensor) -> Tensor:
        """Return what `forward` adds to the vectors of the ids, (1, L, D)."""
        return self.pos_emb[:, : ids.shape[1]] + self.mod_emb

    def check_input(self, name: str, value: Tensor) -> None:
        """Refuse a value that is not ids (B, L) of the vocabulary.

        Raises:
            ModelError: another shape, too long, not whole numbers, or outside the vocabulary.
        """
        shape = tuple(value.shape)
        if len(shape) != 2 or not 1 <= shape[1] <= self.max_length:
            raise ModelError(f"{name}: token ids (B, L), L <= {self.max_length}, not {shape}")
        check_token_ids(name, value, self.token_emb.num_embeddings)


InputEmbedding = RasterEmbedding | TokenEmbedding | SequenceEmbedding


def build_embeddings(
    keys: Mapping[str, str],
    new_channels: Mapping[str, int],
    architecture: Architecture,
    image_size: int,
) -> dict[str, nn.Module]:
    """Build the embedding of each modality, by official key.

    Args:
        keys: official keys by name, see `declarations.resolve_modality_keys`.
        new_channels: number of channels of new modalities, by name.
        architecture: of the encoder.
        image_size: side of the images that the position tables are made for, px.
    """
    embeddings: dict[str, nn.Module] = {}
    for name, key in keys.items():
        modality = MODALITIES_BY_KEY.get(key)
        if name in new_channels:
            bands = tuple(f"{index + 1}" for index in range(new_channels[name]))
            embeddings[key] = RasterEmbedding(bands, architecture.dim, image_size)
        elif isinstance(modality, RasterModality):
            embeddings[key] = RasterEmbedding(modality.bands, architecture.dim, image_size)
        elif isinstance(modality, TokenModality) and modality.is_sequence:
            embeddings[key] = SequenceEmbedding(modality.vocab_size, architecture.dim)
        elif isinstance(modality, TokenModality):
            embeddings[key] = TokenEmbedding(modality.vocab_size, architecture.dim, image_size)
    return embeddings
