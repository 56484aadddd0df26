"""Predictors without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.grid import window_lattice
from pipeline.inference.batching import WindowStats
from pipeline.inference.tiled import TilePredictor, WindowRow
from pipeline.plan.output_spec import OutputSpec


class Brightness:
    """Calls bright pixels bare and dark ones water, by themselves: no context, no seams."""

    window = 32
    inputs: Mapping[str, tuple[str, ...]] = {"S2L2A": ("B02",)}
    outputs: Sequence[OutputSpec] = (OutputSpec(class_names=("water", "bare", "clouds")),)
    digest = hashlib.sha256(b"brightness").hexdigest()
    predict_reference = None

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.places: list[tuple[int, int]] = []

    def predict(self, chips, places):
        self.calls.append(len(places))
        self.places += places
        return (self.one(chips["S2L2A"], places),)

    def one(self, values, places):
        bright = np.clip(np.nan_to_num(values[:, 0]) / 10_000, 0, 1)
        cloud = np.where(bright > 0.9, 1.0, 0.0)
        return np.stack([(1 - bright) * (1 - cloud), bright * (1 - cloud), cloud], axis=1).astype(
            np.float32
        )


class Edgy(Brightness):
    """Answers by the place in the window: whatever blends it badly shows seams."""

    def one(self, values, places):
        side = self.window
        ramp = np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32), (side, side))
        answer = np.stack([ramp, 1 - ramp, 0 * ramp])
        return np.repeat(answer[None], len(values), axis=0).astype(np.float32)


class Moody(Brightness):
    """Answers by the window's mean beside the pixel: windows disagree about every pixel.

    z = x + 2 * mean of x over the window; the probabilities are softmax(z, -z).
    """

    outputs = (OutputSpec(class_names=("water", "bare")),)

    def __init__(self, window: int = 32) -> None:
        super().__init__()
        self.window = window

    def one(self, values, places):
        plain = np.nan_to_num(values[:, 0], posinf=0, neginf=0)
        z = plain + 2 * plain.mean(axis=(1, 2), keepdims=True)
        p = 1 / (1 + np.exp(-2 * z))
        return np.stack([p, 1 - p], axis=1).astype(np.float32)


class Patches(Brightness):
    """Answers once per patch of 8 pixels: mean, place in the window, and a constant."""

    outputs = (OutputSpec(task="embedding", bands=("e000", "e001", "e002"), stride=8),)

    def one(self, values, places):
        plain = np.nan_to_num(values[:, 0])
        side = self.window // 8
        mean = plain.reshape(-1, side, 8, side, 8).mean(axis=(2, 4))
        place = np.broadcast_to(np.arange(side, dtype=np.float32), mean.shape)
        return np.stack([mean, place, np.full_like(mean, 7)], axis=1).astype(np.float32)


class Painter(Brightness):
    """Makes a vegetation index of the brightness, and of the place in the window."""

    outputs = (OutputSpec(task="generate", bands=("NDVI",), modality="NDVI", unit="1"),)

    def one(self, values, places):
        place = np.linspace(0, 0.1, self.window, dtype=np.float32)
        return (np.nan_to_num(values) / 10_000 - place).astype(np.float32)


class Several(Brightness):
    """Maps, describes and paints in one go."""

    outputs = (*Brightness.outputs, *Patches.outputs, *Painter.outputs)

    def predict(self, chips, places):
        self.calls.append(len(places))
        values = chips["S2L2A"]
        return tuple(fake().one(values, places) for fake in (Brightness, Patches, Painter))


def looks(inputs, observed, placement, side, *, beside=None):
    """Cut arrays that lie in memory into the rows of windows of a placement."""
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


def predict_tile(window_rows, placement, lattice, predictor, *, stats=None, **options):
    """Yield the blended rows of a tile, from rows of windows."""
    with TilePredictor(
        placement, lattice, predictor, stats=stats or WindowStats(), **options
    ) as tile_predictor:
        for window_row in window_rows:
            yield from tile_predictor.predict_and_blend(window_row)
        yield from tile_predictor.finish()


def blend(area, lattice, predictor, ground, *, batch=4, observed=None, **options):
    """Return the blended answers of an area, (channel, y, x) each.

    Args:
        area: grid, in pixels.
        lattice: in pixels.
        predictor: the model.
        ground: grid -> (y, x), the input.
        batch: windows per call.
        observed: grid -> (y, x) of booleans; default all.
        options: of predict.blended.
    """
    placed = window_lattice.place_windows(area, lattice)
    values = ground(placed.context_grid)
    seen = np.ones(values.shape, bool) if observed is None else observed(placed.context_grid)
    shown = {"S2L2A": np.where(seen, values, np.nan)[None].astype(np.float32)}
    parts = list(
        predict_tile(
            looks(shown, seen, placed, lattice.window),
            placed,
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
