"""Faster computation of 3 x 3 convolutions with zero padding.

`upsample_conv` convolves an image enlarged twice without enlarging it: 16 products instead of 36,
exact but for rounding. `winograd_conv` is Lavin and Gray 2015, arXiv:1509.09308: 36 products
instead of 144 for 4 x 4 outputs, with four times the memory of the kernel and errors of 2e-6 of the
largest value; in fp32 a CPU needs two thirds of the time for wide layers of large images.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OUTPUT_TILE = 4
"""Side of the tiles of outputs."""

MIN_PIXELS = 2048
MIN_CHANNELS = 128
MIN_USES = 4
"""Limits below which the transform of the kernels costs more than it saves."""

_KERNEL_SIZE = 3
_INPUT_TILE = OUTPUT_TILE + _KERNEL_SIZE - 1
_INTERPOLATION_POINTS = np.array([0.0, 1.0, -1.0, 0.5, -2.0])
# ^ where polynomials are evaluated; the usual 2 instead of 1/2 would triple the error


def prepare_upsample_kernel(weight: Tensor) -> Tensor:
    """Transform a kernel (out, in, 3, 3) for `upsample_conv`, (4, out, in, 2, 2).

    Of three neighbours in the enlarged image, two are the same pixel of the original. Which two
    depends on whether the row (and column) of the output is even or odd.
    """
    rows = [_pair_weights(weight, 2, odd) for odd in (False, True)]
    kernels = [_pair_weights(row, 3, odd) for row in rows for odd in (False, True)]
    return torch.stack(kernels)


def upsample_conv(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of x (B, in, h, w) enlarged twice, (B, out, 2h, 2w)."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    parts = [
        F.conv2d(padded[:, :, row : row + height + 1, column : column + width + 1], part, bias)
        for part, (row, column) in zip(kernel, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
    ]
    return F.pixel_shuffle(torch.stack(parts, dim=2).flatten(1, 2), 2)


def is_winograd_faster(weight: Tensor, rows: int, columns: int, uses: int) -> bool:
    """Return whether `winograd_conv` is faster than a plain convolution.

    Args:
        weight: the kernel (out, in, 3, 3).
        rows: of the image.
        columns: of the image.
        uses: number of convolutions for one transform of the kernel.
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
    """Transform a kernel (out, in, 3, 3) for `winograd_conv`, (36, out, in)."""
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
    # ^ (36, in * B * tiles): the position in the window first, and one axis for all the rest
    transformed = (pixels @ flat).view(_INPUT_TILE**2, channels, -1)
    products = torch.bmm(kernel, transformed).flatten(1)
    # ^ (36, out * B * tiles)
    tiles = (results @ products).view(
        OUTPUT_TILE, OUTPUT_TILE, -1, batch, height // OUTPUT_TILE, width // OUTPUT_TILE
    )
    out = tiles.permute(3, 2, 4, 0, 5, 1).reshape(batch, -1, height, width)
    return out.add_(bias[:, None, None])


def _pair_weights(weight: Tensor, axis: int, is_odd: bool) -> Tensor:
    """Return the three weights along an axis as two: the sum of a pair, and the third."""
    first, middle, last = weight.float().unbind(axis)
    pair = (first + middle, last) if is_odd else (first, middle + last)
    return torch.stack(pair, dim=axis).to(weight.dtype)


@cache
def _winograd_matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Return the transforms of flattened kernels (36, 9), pixels (36, 36) and products (16, 36).

    A convolution is a product of polynomials: evaluate both at some points (and at infinity),
    multiply there, and interpolate (Toom and Cook). The matrices are the transposes of these maps,
    the same for rows and for columns.
    """
    kernel = np.zeros((_INPUT_TILE, _KERNEL_SIZE))
    pixels = np.zeros((_INPUT_TILE, _INPUT_TILE))
    results = np.zeros((OUTPUT_TILE, _INPUT_TILE))
    for index, point in enumerate(_INTERPOLATION_POINTS):
        roots = np.delete(_INTERPOLATION_POINTS, index)
        kernel[index] = point ** np.arange(_KERNEL_SIZE) / np.prod(point - roots)
        pixels[index, :-1] = np.poly(roots)[::-1]
        results[:, index] = point ** np.arange(OUTPUT_TILE)
    kernel[-1, -1] = results[-1, -1] = 1.0
    pixels[-1] = np.poly(_INTERPOLATION_POINTS)[::-1]
    squares = [torch.from_numpy(np.kron(m, m)).float() for m in (kernel, pixels, results)]
    return squares[0], squares[1], squares[2]
