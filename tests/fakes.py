"""A predictor without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from pipeline.predict import Predictor


class Brightness:
    """Calls bright pixels bare and dark ones water, by themselves: no context, no seams."""

    task = "land_cover"
    window = 32
    inputs: Mapping[str, tuple[str, ...]] = {"S2L2A": ("B02",)}
    class_names: tuple[str, ...] = ("water", "bare", "clouds")
    bands: tuple[str, ...] = ()
    modality: str | None = None
    unit: str | None = None
    cell = 1
    digest = hashlib.sha256(b"brightness").hexdigest()

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, chips):
        values = chips["S2L2A"][:, 0]
        self.calls.append(len(values))
        bright = np.clip(np.nan_to_num(values) / 10_000, 0, 1)
        cloud = np.where(bright > 0.9, 1.0, 0.0)
        return np.stack([(1 - bright) * (1 - cloud), bright * (1 - cloud), cloud], axis=1).astype(
            np.float32
        )


class Edgy(Brightness):
    """Answers by the place in the window: whatever blends it badly shows seams."""

    def __call__(self, chips):
        count = len(next(iter(chips.values())))
        ramp = np.broadcast_to(np.linspace(0, 1, self.window, dtype=np.float32), (32, 32))
        answer = np.stack([ramp, 1 - ramp, 0 * ramp])
        return np.repeat(answer[None], count, axis=0).astype(np.float32)


class Patches(Brightness):
    """Answers once per patch of 8 pixels: mean, place in the window, and a constant."""

    task = "embedding"
    class_names = ()
    bands = ("e000", "e001", "e002")
    cell = 8

    def __call__(self, chips):
        values = np.nan_to_num(chips["S2L2A"][:, 0])
        self.calls.append(len(values))
        side = self.window // self.cell
        mean = values.reshape(-1, side, self.cell, side, self.cell).mean(axis=(2, 4))
        place = np.broadcast_to(np.arange(side, dtype=np.float32), mean.shape)
        return np.stack([mean, place, np.full_like(mean, 7)], axis=1).astype(np.float32)


class Painter(Brightness):
    """Makes a vegetation index of the brightness, and of the place in the window."""

    task = "generate"
    class_names = ()
    bands = ("NDVI",)
    modality = "NDVI"
    unit = "1"

    def __call__(self, chips):
        values = np.nan_to_num(chips["S2L2A"])
        self.calls.append(len(values))
        place = np.linspace(0, 0.1, self.window, dtype=np.float32)
        return (values / 10_000 - place).astype(np.float32)


_: type[Predictor] = Brightness
