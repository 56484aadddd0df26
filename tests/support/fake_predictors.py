"""Predictors without a network, and a function that runs them on arrays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.grid import window_lattice
from pipeline.inference.batching import WindowStats
from pipeline.inference.tiled_inference import TilePredictor, WindowRow
from pipeline.plan.output_spec import OutputSpec


class Brightness:
    """Predict bare ground for bright pixels and water for dark ones, without any context."""

    window = 32
    inputs: Mapping[str, tuple[str, ...]] = {"S2L2A": ("B02",)}
    outputs: Sequence[OutputSpec] = (OutputSpec(class_names=("water", "bare", "clouds")),)
    digest = hashlib.sha256(b"brightness").hexdigest()
    predict_reference = None

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.origins: list[tuple[int, int]] = []

    def predict(self, chips, places):
        self.calls.append(len(places))
        self.origins += places
        return (self.predict_values(chips["S2L2A"], places),)

    def predict_values(self, values, places):
        bright = np.clip(np.nan_to_num(values[:, 0]) / 10_000, 0, 1)
        cloud = np.where(bright > 0.9, 1.0, 0.0)
        return np.stack([(1 - bright) * (1 - cloud), bright * (1 - cloud), cloud], axis=1).astype(
            np.float32
        )


class Edgy(Brightness):
    """Predict from the position in the window, so that a wrong blend has seams."""

    def predict_values(self, values, places):
        side = self.window
        ramp = np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32), (side, side))
        probabilities = np.stack([ramp, 1 - ramp, 0 * ramp])
        return np.repeat(probabilities[None], len(values), axis=0).astype(np.float32)


class Moody(Brightness):
    """Predict from the pixel and the mean of its window, so that windows differ in every pixel.

    z = x + 2 * mean of x over the window; the probabilities are softmax(z, -z).
    """

    outputs = (OutputSpec(class_names=("water", "bare")),)

    def __init__(self, window: int = 32) -> None:
        super().__init__()
        self.window = window

    def predict_values(self, values, places):
        finite = np.nan_to_num(values[:, 0], posinf=0, neginf=0)
        z = finite + 2 * finite.mean(axis=(1, 2), keepdims=True)
        p = 1 / (1 + np.exp(-2 * z))
        return np.stack([p, 1 - p], axis=1).astype(np.float32)


class Patches(Brightness):
    """Predict features per patch of 8 pixels: mean, column in the window, and a constant."""

    outputs = (OutputSpec(task="embedding", bands=("e000", "e001", "e002"), stride=8),)

    def predict_values(self, values, places):
        finite = np.nan_to_num(values[:, 0])
        side = self.window // 8
        mean = finite.reshape(-1, side, 8, side, 8).mean(axis=(2, 4))
        column = np.broadcast_to(np.arange(side, dtype=np.float32), mean.shape)
        return np.stack([mean, column, np.full_like(mean, 7)], axis=1).astype(np.float32)


class Painter(Brightness):
    """Generate a vegetation index from the brightness and the column in the window."""

    outputs = (OutputSpec(task="generate", bands=("NDVI",), modality="NDVI", unit="1"),)

    def predict_values(self, values, places):
        column = np.linspace(0, 0.1, self.window, dtype=np.float32)
        return (np.nan_to_num(values) / 10_000 - column).astype(np.float32)


class Several(Brightness):
    """Predict land cover, features and a vegetation index in one pass."""

    outputs = (*Brightness.outputs, *Patches.outputs, *Painter.outputs)

    def predict(self, chips, places):
        self.calls.append(len(places))
        values = chips["S2L2A"]
        return tuple(
            fake().predict_values(values, places) for fake in (Brightness, Patches, Painter)
        )


def window_rows(inputs, observed, placement, side, *, beside=None):
    """Cut arrays in memory into the rows of windows of a placement.

    Args:
        inputs: modality -> (band, y, x) of the context.
        observed: (y, x) of the context.
        placement: the windows.
        side: side of a window.
        beside: (row, column) of a sample window beside the lattice.
    """
    rows = [(row, placement.window_columns, False) for row in placement.window_rows]
    if beside is not None:
        rows.append((beside[0], (beside[1],), True))
    for row, columns, sample in sorted(rows):
        part = slice(row, row + side)
        yield WindowRow(
            row=row,
            columns=columns,
            inputs={name: values[:, part] for name, values in inputs.items()},
            observed=observed[part],
            is_sample=sample,
        )


def predict_tile(rows, placement, lattice, predictor, *, stats=None, **options):
    """Yield the blended rows of a tile, from rows of windows."""
    with TilePredictor(
        placement, lattice, predictor, stats=stats or WindowStats(), **options
    ) as tile_predictor:
        for window_row in rows:
            yield from tile_predictor.predict_and_blend(window_row)
        yield from tile_predictor.finish()


def blend(area, lattice, predictor, ground, *, batch=4, observed=None, **options):
    """Return the blended outputs of an area, (channel, y, x) each.

    Args:
        area: grid of the area.
        lattice: lattice of the windows, in pixels.
        predictor: the model.
        ground: function grid -> (y, x) values of the input.
        batch: windows per call.
        observed: function grid -> (y, x) mask of observed pixels; None = all are.
        options: further arguments of TilePredictor.
    """
    placement = window_lattice.place_windows(area, lattice)
    values = ground(placement.context_grid)
    mask = np.ones(values.shape, bool) if observed is None else observed(placement.context_grid)
    inputs = {"S2L2A": np.where(mask, values, np.nan)[None].astype(np.float32)}
    parts = list(
        predict_tile(
            window_rows(inputs, mask, placement, lattice.window),
            placement,
            lattice,
            predictor,
            batch_size=batch,
            **options,
        )
    )
    edges = [0, *(part.stop for part in parts)]
    assert edges == [*(part.start for part in parts), area.height]
    return tuple(
        np.concatenate([part.values[index] for part in parts], axis=1)
        for index in range(len(predictor.outputs))
    )
