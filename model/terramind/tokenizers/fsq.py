"""Finite scalar quantisation: five numbers in (0, 1), each rounded to a few levels, are one id.

Mentzer et al. 2023, arXiv:2309.15505, with a sigmoid as the bound. There is no codebook: ids and
codes are computed from each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ModelError
from model.terramind.layers import check_ids


@dataclass(frozen=True, slots=True)
class Quantizer:
    """The levels of each of the code's numbers, lowest digit of the id first."""

    levels: tuple[int, ...]

    @property
    def codebook_size(self) -> int:
        """Number of ids."""
        return math.prod(self.levels)

    @property
    def basis(self) -> tuple[int, ...]:
        """What one step of each number adds to the id."""
        return tuple(math.prod(self.levels[:place]) for place in range(len(self.levels)))

    def level_indices(self, latents: Tensor) -> Tensor:
        """Return the level of each number, (B, 5, h, w) int64, of latents (B, 5, h, w).

        Half-way values go to the even level.

        Raises:
            ModelError: another number of channels.
        """
        if latents.ndim != 4 or latents.shape[1] != len(self.levels):
            raise ModelError(
                f"latents (B, {len(self.levels)}, h, w) expected, not {tuple(latents.shape)}"
            )
        bounded = latents.float().sigmoid()
        # ^ in single precision whatever comes in: bfloat16 has 8 bits, and its rounding of the
        #   sigmoid and of the sum below would give other ids for most tokens
        return torch.stack(
            [(bounded[:, i] * (n - 1)).round().long() for i, n in enumerate(self.levels)], dim=1
        )

    def latents_to_ids(self, latents: Tensor) -> Tensor:
        """Return the token ids (B, h, w) int64 of latents (B, 5, h, w)."""
        digits = self.level_indices(latents)
        total = digits[:, 0]
        for place, step in enumerate(self.basis[1:], start=1):
            total = total + digits[:, place] * step
            # ^ Python integers as factors: nothing to copy to the device, nothing to round
        return total

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        """Return the codes (B, 5, h, w), float32 in [0, 1], of ids (B, h, w).

        Raises:
            ModelError: another shape, not whole numbers, or outside the vocabulary.
        """
        if ids.ndim != 3:
            raise ModelError(f"token ids (B, rows, columns) expected, not {tuple(ids.shape)}")
        plain = check_ids(ids, self.codebook_size)
        pairs = zip(self.basis, self.levels, strict=True)
        return torch.stack(
            [(plain // step % count).float() / (count - 1) for step, count in pairs], dim=1
        )
