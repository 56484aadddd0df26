"""Seeded random fields: the raw material of relief, texture and clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Field = NDArray[np.float32]


def stream(seed: int, *name: int | str) -> np.random.Generator:
    """Return the generator that belongs to a seed and a name.

    Each field draws from a stream of its own, so that neither the order of the work nor the
    number of threads changes a value.
    """
    words = [
        int.from_bytes(part.encode(), "little") if isinstance(part, str) else part for part in name
    ]
    return np.random.Generator(np.random.SFC64([seed, *words]))


def fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    wavelength: float,
    finest: float = 2.0,
    roughness: float = 0.5,
) -> Field:
    """Sum octaves of smooth noise; the result has mean 0 and standard deviation 1.

    Args:
        rng: where the numbers come from.
        shape: rows and columns.
        wavelength: spacing of the coarsest octave in pixels, rounded to a power of two.
        finest: spacing below which no octave is added.
        roughness: amplitude of an octave over that of the one before.

    """
    levels = max(0, round(float(np.log2(wavelength))))
    field = _normal(rng, _lattice(shape, levels))
    amplitude = 1.0
    for level in range(levels - 1, -1, -1):
        rows, columns = _lattice(shape, level)
        field = _double(_double(field).T).T[:rows, :columns]
        amplitude *= roughness
        if 2**level >= finest:
            field = field + np.float32(amplitude) * _normal(rng, (rows, columns))
    field = np.ascontiguousarray(field[: shape[0], : shape[1]])
    field -= field.mean(dtype=np.float64).astype(np.float32)
    field /= field.std(dtype=np.float64).astype(np.float32)
    return field


def white(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Draw independent normal numbers."""
    return _normal(rng, shape)


def _lattice(shape: tuple[int, int], level: int) -> tuple[int, int]:
    return -(-shape[0] // 2**level) + 2, -(-shape[1] // 2**level) + 2


def _normal(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    return rng.standard_normal(shape, dtype=np.float32)


def _double(field: Field) -> Field:
    """Halve the spacing of the rows by quadratic B-spline subdivision (Chaikin's corners)."""
    first, second = field[:-1], field[1:]
    out = np.empty((2 * len(first), field.shape[1]), np.float32)
    out[0::2] = 0.75 * first + 0.25 * second
    out[1::2] = 0.25 * first + 0.75 * second
    return out


def smoothstep(field: Field, low: float, high: float) -> Field:
    """Rise from 0 at ``low`` to 1 at ``high`` without a kink."""
    t = np.clip((field - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def block_mean(field: Field, factor: int) -> Field:
    """Average blocks of ``factor`` × ``factor`` pixels; the shape must be a multiple of it."""
    rows, columns = field.shape[0] // factor, field.shape[1] // factor
    means = field.reshape(rows, factor, columns, factor).mean(axis=(1, 3), dtype=np.float32)
    return np.asarray(means)


def refine(field: Field, factor: int) -> Field:
    """Spread the means of blocks of ``factor`` pixels (a power of two) smoothly over the pixels."""
    out = np.pad(field, 1, mode="edge")
    for _ in range(factor.bit_length() - 1):
        out = _double(_double(out).T).T
    start = (out.shape[0] - field.shape[0] * factor) // 2
    return np.ascontiguousarray(
        out[start : start + field.shape[0] * factor, start : start + field.shape[1] * factor]
    )


def voronoi(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing: int,
    warp: tuple[Field, Field] | None = None,
) -> tuple[NDArray[np.int32], Field]:
    """Cut the plane into cells around one jittered point per square of ``spacing`` pixels.

    Returns:
        the number of the cell at each pixel, and the distance of the nearest point but one
        minus that of the nearest (twice the distance from the border, near the border).

    """
    rows, columns = shape[0] // spacing + 4, shape[1] // spacing + 4
    centre_y = (
        np.arange(rows)[:, None] - 1.5 + rng.uniform(-0.42, 0.42, (rows, columns))
    ) * spacing
    centre_x = (
        np.arange(columns)[None] - 1.5 + rng.uniform(-0.42, 0.42, (rows, columns))
    ) * spacing
    y = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
    x = np.broadcast_to(np.arange(shape[1], dtype=np.float32)[None], shape)
    if warp is not None:
        limit = 0.9 * spacing
        y, x = y + np.clip(warp[0], -limit, limit), x + np.clip(warp[1], -limit, limit)
    at_y = np.clip((y / spacing).astype(np.int32) + 2, 1, rows - 2)
    at_x = np.clip((x / spacing).astype(np.int32) + 2, 1, columns - 2)
    home = at_y * columns + at_x
    flat_y, flat_x = centre_y.ravel().astype(np.float32), centre_x.ravel().astype(np.float32)
    first = np.full(shape, np.inf, np.float32)
    second = np.full(shape, np.inf, np.float32)
    cell = np.zeros(shape, np.int32)
    for step in (0, 1, -1, columns, -columns, columns + 1, columns - 1, 1 - columns, -columns - 1):
        candidate = home + step
        distance = np.hypot(y - flat_y[candidate], x - flat_x[candidate])
        nearer = distance < first
        np.minimum(second, np.where(nearer, first, distance), out=second)
        cell[nearer] = candidate[nearer]
        np.minimum(first, distance, out=first)
    return cell, second - first
