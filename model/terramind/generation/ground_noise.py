"""Noise of the ground: the same at a pixel for every window that covers it.

Diffusion starts from noise, and its result depends on it. If each window drew its own, windows that
overlap would get different images of the same ground, with a seam between them. Here a number
depends on seed, modality, channel, row and column only: the coordinates are hashed with the
finaliser of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195, in Stafford's variant 13),
as in counter-based generators (Salmon et al. 2011, doi:10.1145/2063384.2063405), and the hash
becomes a quantile of the normal distribution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_ROW_FACTOR, _COLUMN_FACTOR = 0x9E3779B97F4A7C15 - 2**64, 0xD1B54A32D192ED03 - 2**64
# ^ odd, so that distinct coordinates stay distinct: the golden ratio, and that of the plane
_MIX_FACTOR_1, _MIX_FACTOR_2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_FRACTION_BITS = 53
# ^ of a float64


def make_noise(
    seed: int,
    modality: str,
    channels: int,
    size: tuple[int, int],
    origins: Sequence[tuple[int, int]],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return standard normal noise (B, C, H, W), float32, for windows on the ground.

    Args:
        seed: of the noise; another seed, modality or channel gives other numbers.
        modality: name of the modality that is generated.
        channels: C.
        size: H and W, px.
        origins: row and column of each window's first pixel, counted from the origin of the CRS;
            they may be negative.
        device: where the noise is computed. The hash is the same everywhere; on another kind of
            device the last bit of a number may differ.
    """
    first = torch.tensor(origins, dtype=torch.int64, device=device).view(-1, 2)
    rows, columns = (
        _mix_bits((first[:, axis, None] + torch.arange(size[axis], device=device)) * factor)
        for axis, factor in ((0, _ROW_FACTOR), (1, _COLUMN_FACTOR))
    )
    # ^ (B, H) and (B, W)
    noise = [
        _normal_channel(_hash_channel(seed, modality, channel), rows, columns)
        for channel in range(channels)
    ]
    return torch.stack(noise, dim=1)


def _normal_channel(key: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return one channel (B, H, W), float32, from the hashes of rows (B, H) and columns (B, W)."""
    bits = _mix_bits(_mix_bits(rows ^ key)[:, :, None] ^ columns[:, None])
    uniform = (
        ((bits >> (64 - _FRACTION_BITS)) & (2**_FRACTION_BITS - 1))
        .double()
        .add_(0.5)
        .mul_(2.0**-_FRACTION_BITS)
    )
    # ^ the centres of 2^53 equal intervals: neither zero nor one
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.float()


def _hash_channel(seed: int, modality: str, channel: int) -> int:
    digest = hashlib.sha256(f"{seed} {modality} {channel}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _mix_bits(x: Tensor) -> Tensor:
    """Return a hash of x (int64, wrapping): each bit of x changes about half of its bits."""
    x = (x ^ _shift_right(x, 30)) * _MIX_FACTOR_1
    x = (x ^ _shift_right(x, 27)) * _MIX_FACTOR_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, count: int) -> Tensor:
    """Shift x right and fill with zeros; torch's own operator repeats the sign."""
    return (x >> count) & ((1 << (64 - count)) - 1)
