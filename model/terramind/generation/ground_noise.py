"""Noise that belongs to the ground: at a pixel the same, whichever window looks at it.

Diffusion starts from noise, and what it makes depends on it. Where each window draws its own,
neighbours that overlap make two pictures of the same ground, and a seam between them. Here a number
is a function of its seed, modality, channel, row and column, and of nothing else: the coordinates
are hashed by the finaliser of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195, in
Stafford's variant 13), as counter-based generators do (Salmon et al. 2011,
doi:10.1145/2063384.2063405), and the hash becomes a quantile of the normal distribution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_ROW_FACTOR, _COLUMN_FACTOR = 0x9E3779B97F4A7C15 - 2**64, 0xD1B54A32D192ED03 - 2**64
# ^ odd, so that no two coordinates become one: the golden ratio, and that of the plane
_MIX_FACTOR_1, _MIX_FACTOR_2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_FRACTION_BITS = 53
# ^ of a float64's fraction


def make_noise(
    seed: int,
    modality: str,
    channels: int,
    size: tuple[int, int],
    origins: Sequence[tuple[int, int]],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return standard normal noise (B, C, H, W), float32, of windows on the ground.

    Args:
        seed: another one is another field, as is another modality or channel.
        modality: what is generated.
        channels: C.
        size: H and W, px.
        origins: row and column of each window's first pixel, from the origin of the CRS; negative
            ones too.
        device: where it is made. The hash is the same everywhere; on another kind of device the
            last bit of a number may differ.
    """
    first = torch.tensor(origins, dtype=torch.int64, device=device).view(-1, 2)
    rows, columns = (
        _mix_bits((first[:, axis, None] + torch.arange(size[axis], device=device)) * factor)
        for axis, factor in ((0, _ROW_FACTOR), (1, _COLUMN_FACTOR))
    )
    # ^ (B, H) and (B, W)
    every = [
        _normal_channel(_hash_channel(seed, modality, each), rows, columns)
        for each in range(channels)
    ]
    return torch.stack(every, dim=1)


def _normal_channel(key: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return one channel (B, H, W), float32, of the hashes of rows and columns."""
    bits = _mix_bits(_mix_bits(rows ^ key)[:, :, None] ^ columns[:, None])
    uniform = (
        ((bits >> (64 - _FRACTION_BITS)) & (2**_FRACTION_BITS - 1))
        .double()
        .add_(0.5)
        .mul_(2.0**-_FRACTION_BITS)
    )
    # ^ the middles of 2^53 equal parts: neither zero nor one
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.float()


def _hash_channel(seed: int, modality: str, channel: int) -> int:
    digest = hashlib.sha256(f"{seed} {modality} {channel}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _mix_bits(x: Tensor) -> Tensor:
    """Return 64 bits in which every bit of x (int64, wrapping) changes half of them."""
    x = (x ^ _shift_right(x, 30)) * _MIX_FACTOR_1
    x = (x ^ _shift_right(x, 27)) * _MIX_FACTOR_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, count: int) -> Tensor:
    """Return x shifted right with zeros behind; torch repeats the sign."""
    return (x >> count) & ((1 << (64 - count)) - 1)
