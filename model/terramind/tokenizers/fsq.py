"""Finite scalar quantisation: five numbers in (0, 1), each rounded to a few levels, to one id.

Mentzer et al. 2023, arXiv:2309.15505, with a sigmoid as the bound. No codebook is stored: ids and
codes are computed from each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ModelError
from model.terramind.input_validation import check_token_ids


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Quantiser with a number of levels for each dimension, lowest digit of the id first."""

    levels: tuple[int, ...]

    @property
    def codebook_size(self) -> int:
        """Number of ids."""
        return math.prod(self.levels)

    @property
    def basis(self) -> tuple[int, ...]:
        """Value of one level of each dimension in the id."""
        return tuple(math.prod(self.levels[:index]) for index in range(len(self.levels)))

    def level_indices(self, latents: Tensor) -> Tensor:
        """Return the level of each number of latents (B, 5, h, w), int64, same shape.

        Values half-way between levels go to the even one.

        Raises:
            ModelError: another number of channels.
        """
        if latents.ndim != 4 or latents.shape[1] != len(self.levels):
            raise ModelError(
                f"latents (B, {len(self.levels)}, h, w) expected, not {tuple(latents.shape)}"
            )
        bounded = latents.float().sigmoid()
        # ^ always in float32: bfloat16 has 8 bits, and its rounding of the sigmoid and of the id
        #   below would give other ids for most tokens
        return torch.stack(
            [(bounded[:, i] * (n - 1)).round().long() for i, n in enumerate(self.levels)], dim=1
        )

    def latents_to_ids(self, latents: Tensor) -> Tensor:
        """Return the token ids (B, h, w) int64 of latents (B, 5, h, w)."""
        levels = self.level_indices(latents)
        ids = levels[:, 0]
        for index, step in enumerate(self.basis[1:], start=1):
            ids = ids + levels[:, index] * step
            # ^ Python integers as factors: nothing to copy to the device, nothing to round
        return ids

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        """Return the codes (B, 5, h, w), float32 in [0, 1], of ids (B, h, w).

        Raises:
            ModelError: another shape, not whole numbers, or outside the vocabulary.
        """
        if ids.ndim != 3:
            raise ModelError(f"token ids (B, rows, columns) expected, not {tuple(ids.shape)}")
        check_token_ids("tokens", ids, self.codebook_size)
        dimensions = zip(self.basis, self.levels, strict=True)
        return torch.stack(
            [(ids.long() // step % count).float() / (count - 1) for step, count in dimensions],
            dim=1,
        )
