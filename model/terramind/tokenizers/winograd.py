"""Shorter ways to the results of 3 x 3 convolutions with zeros around.

`enlarge` convolves an image of twice the size without making it: 16 products instead of 36, exact
but for rounding. `tiled` is Lavin and Gray 2015, arXiv:1509.09308: 36 products instead of 144 for
4 x 4 results, for four times the memory of the kernel, with errors of 2e-6 of the largest value;
a CPU in single precision needs two thirds of the time for wide layers of large images.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

OUTPUT_TILE = 4
"""Side of the tiles of results."""

MIN_PIXELS = 2048
MIN_CHANNELS = 128
MIN_USES = 4
"""Below them tiles save less than they cost: the kernels must be transformed, and kept."""

_KERNEL_SIZE = 3
_INPUT_TILE = OUTPUT_TILE + _KERNEL_SIZE - 1
_INTERPOLATION_POINTS = np.array([0.0, 1.0, -1.0, 0.5, -2.0])
# ^ where polynomials are evaluated; with 2 instead of 1/2, as is usual, the error triples


def prepare_upsample_kernel(weight: Tensor) -> Tensor:
    """Return a kernel (out, in, 3, 3) as `enlarge` wants it, (4, out, in, 2, 2).

    Of three neighbours in an image of twice the size, two are one place of the original. Which
    two depends on whether the result's row (and column) is even or odd.
    """
    rows = [_pair_weights(weight, 2, odd) for odd in (False, True)]
    both = [_pair_weights(row, 3, odd) for row in rows for odd in (False, True)]
    return torch.stack(both)


def upsample_conv(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of x (B, in, h, w) after each pixel became four, (B, out, 2h, 2w)."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    parts = [
        F.conv2d(padded[:, :, row : row + height + 1, column : column + width + 1], part, bias)
        for part, (row, column) in zip(kernel, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
    ]
    return F.pixel_shuffle(torch.stack(parts, dim=2).flatten(1, 2), 2)


def is_winograd_faster(weight: Tensor, rows: int, columns: int, uses: int) -> bool:
    """Tell whether `tiled` is the quicker way for a kernel (out, in, 3, 3).

    Args:
        weight: the kernel.
        rows: of the image; columns as well.
        columns: of the image.
        uses: how often it is used before it has to be transformed again.
    """
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not (rows % OUTPUT_TILE or columns % OUTPUT_TILE)
        and rows * columns >= MIN_PIXELS
        and min(weight.shape[:2]) >= MIN_CHANNELS
        and uses >= MIN_USES
    )


def prepare_winograd_kernel(weight: Tensor) -> Tensor:
    """Return a kernel (out, in, 3, 3) as `tiled` wants it, (36, out, in)."""
    kernel, _, _ = _winograd_matrices()
    flat = kernel @ weight.reshape(-1, _KERNEL_SIZE**2).T
    return flat.view(-1, *weight.shape[:2])


def winograd_conv(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of x (B, in, h, w), h and w multiples of 4, as (B, out, h, w)."""
    batch, channels, height, width = x.shape
    _, pixels, results = _winograd_matrices()
    windows = (
        F.pad(x, (1, 1, 1, 1))
        .unfold(2, _INPUT_TILE, OUTPUT_TILE)
        .unfold(3, _INPUT_TILE, OUTPUT_TILE)
    )
    flat = windows.permute(4, 5, 1, 0, 2, 3).reshape(_INPUT_TILE**2, -1)
    # ^ (36, in * B * tiles): the place in the window first, so that all else is one long axis
    spread = (pixels @ flat).view(_INPUT_TILE**2, channels, -1)
    products = torch.bmm(kernel, spread).flatten(1)
    # ^ (36, out * B * tiles)
    tiles = (results @ products).view(
        OUTPUT_TILE, OUTPUT_TILE, -1, batch, height // OUTPUT_TILE, width // OUTPUT_TILE
    )
    out = tiles.permute(3, 2, 4, 0, 5, 1).reshape(batch, -1, height, width)
    return out.add_(bias[:, None, None])


def _pair_weights(weight: Tensor, axis: int, is_odd: bool) -> Tensor:
    """Return the three weights along an axis as two, the sum of a pair and the third."""
    first, middle, last = weight.float().unbind(axis)
    pair = (first + middle, last) if is_odd else (first, middle + last)
    return torch.stack(pair, dim=axis).to(weight.dtype)


@cache
def _winograd_matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Return what turns flat squares of kernel (36, 9), pixels (36, 36) and products (16, 36).

    A convolution is a product of polynomials: evaluate both at some points (and at infinity),
    multiply there, and interpolate (Toom and Cook). These are the transposes of these maps, the
    same for rows and for columns.
    """
    kernel = np.zeros((_INPUT_TILE, _KERNEL_SIZE))
    pixels = np.zeros((_INPUT_TILE, _INPUT_TILE))
    results = np.zeros((OUTPUT_TILE, _INPUT_TILE))
    for place, point in enumerate(_INTERPOLATION_POINTS):
        others = np.delete(_INTERPOLATION_POINTS, place)
        kernel[place] = point ** np.arange(_KERNEL_SIZE) / np.prod(point - others)
        pixels[place, :-1] = np.poly(others)[::-1]
        results[:, place] = point ** np.arange(OUTPUT_TILE)
    kernel[-1, -1] = results[-1, -1] = 1.0
    pixels[-1] = np.poly(_INTERPOLATION_POINTS)[::-1]
    both = [torch.from_numpy(np.kron(one, one)).float() for one in (kernel, pixels, results)]
    return both[0], both[1], both[2]
