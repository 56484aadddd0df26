"""Training material: whole mosaics, held on the device, from which crops are drawn.

Every random number comes from one NumPy generator on the CPU, so the same seed draws the same
crops on every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import ModelError
from model.terramind.modalities import Statistics

IGNORE_INDEX = 255
"""Label of a pixel that teaches nothing."""

_MAX_POSITIONS = 4096
"""Remembered positions per class and mosaic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledMosaic:
    """One aligned scene with its truth."""

    inputs: Mapping[str, NDArray[np.float32]]
    """(C, H, W) by modality, in the predictor's units: DN, dB, m; NaN = missing."""

    labels: NDArray[np.uint8]
    """(H, W), index of the class in the model's order; IGNORE where unknown."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ModelError("a mosaic needs at least one input")
        for name, values in self.inputs.items():
            if values.ndim != 3 or values.shape[1:] != self.labels.shape:
                raise ModelError(
                    f"{name}: (C, {self.labels.shape[0]}, {self.labels.shape[1]}) expected like "
                    f"the labels, not {values.shape}"
                )


def compute_band_statistics(mosaics: Sequence[LabelledMosaic]) -> dict[str, Statistics]:
    """Return mean and deviation per band over all valid pixels of the mosaics.

    Raises:
        ModelError: a band without any valid pixel, or one that is constant.
    """
    found: dict[str, Statistics] = {}
    for name in mosaics[0].inputs:
        stack = [entry.inputs[name] for entry in mosaics if name in entry.inputs]
        valid = [np.isfinite(values).sum(axis=(1, 2), dtype=np.float64) for values in stack]
        count = np.sum(valid, axis=0)
        if not (count > 1).all():
            raise ModelError(f"{name}: a band has no valid pixel to take statistics from")
        mean = np.sum([np.nansum(v, axis=(1, 2), dtype=np.float64) for v in stack], axis=0) / count
        spread = [np.nansum((v - mean[:, None, None]) ** 2, axis=(1, 2)) for v in stack]
        std = np.sqrt(np.sum(spread, axis=0) / count)
        found[name] = Statistics(
            mean=tuple(round(float(value), 4) for value in mean),
            std=tuple(round(float(value), 4) for value in std),
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBatch:
    """A batch drawn from the pool."""

    planes: Tensor
    """(B, all bands of all modalities, h, w), standardised, NaN = missing."""

    labels: Tensor
    """(B, h, w) int64."""


class CropSampler:
    """Mosaics on the device, standardised, with the places of every class."""

    def __init__(
        self,
        mosaics: Sequence[LabelledMosaic],
        channels: Mapping[str, int],
        statistics: Mapping[str, Statistics],
        classes: int,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        if not mosaics:
            raise ModelError("nothing to train on: no mosaic given")
        self.device, self.rng = device, rng
        self.planes = [standardise(entry, channels, statistics).to(device) for entry in mosaics]
        self.labels = [torch.from_numpy(entry.labels).to(device) for entry in mosaics]
        self.class_counts = _count_classes(mosaics, classes)
        self._class_positions = [_sample_positions(entry.labels, classes, rng) for entry in mosaics]
        self._mosaics_by_class = [
            [i for i, p in enumerate(self._class_positions) if c in p] for c in range(classes)
        ]

    def class_weights(self, power: float) -> Tensor:
        """Return weights (share ** -power) whose mean over the pixels is one."""
        share = self.class_counts.sum(axis=0) / self.class_counts.sum()
        weight = np.where(share > 0, np.maximum(share, 1e-4) ** -power, 1.0)
        return torch.tensor(weight / (weight * share).sum(), dtype=torch.float32)

    def draw_crops(self, batch: int, crop: int, balanced: float) -> CropBatch:
        """Draw crops: a share around pixels of a class drawn evenly, the rest by area."""
        planes, labels = [], []
        for _ in range(batch):
            home, row, column = self._draw_centre(balanced)
            height, width = self.labels[home].shape
            top = self._draw_start(row, height, crop)
            left = self._draw_start(column, width, crop)
            turn = int(self.rng.integers(8))
            window = (..., slice(top, top + crop), slice(left, left + crop))
            planes.append(apply_symmetry(self.planes[home][window], turn))
            labels.append(apply_symmetry(self.labels[home][window], turn))
        return CropBatch(planes=torch.stack(planes), labels=torch.stack(labels).long())

    def _draw_centre(self, balanced: float) -> tuple[int, int, int]:
        if self.rng.random() < balanced:
            kinds = [kind for kind, homes in enumerate(self._mosaics_by_class) if homes]
            kind = int(self.rng.choice(kinds))
            home = int(self.rng.choice(self._mosaics_by_class[kind]))
        else:
            flat = self.class_counts.ravel() / self.class_counts.sum()
            home, kind = divmod(int(self.rng.choice(flat.size, p=flat)), self.class_counts.shape[1])
        places = self._class_positions[home][kind]
        row, column = places[int(self.rng.integers(len(places)))]
        return home, int(row), int(column)

    def _draw_start(self, centre: int, size: int, crop: int) -> int:
        wanted = centre - int(self.rng.integers(crop))
        return min(max(wanted, 0), size - crop)


def apply_symmetry(values: Tensor, symmetry: int) -> Tensor:
    """Return one of the eight symmetries of a square, over the last two axes."""
    if symmetry >= 4:
        values = values.transpose(-1, -2)
    return torch.rot90(values, symmetry % 4, (-2, -1))


def check_sizes(mosaics: Sequence[LabelledMosaic], crop: int) -> None:
    """Refuse mosaics that are smaller than a crop.

    Raises:
        ModelError: which.
    """
    for index, entry in enumerate(mosaics):
        if min(entry.labels.shape) < crop:
            raise ModelError(
                f"mosaic {index} is {entry.labels.shape}, smaller than a crop of {crop}"
            )


def standardise(
    mosaic: LabelledMosaic, channels: Mapping[str, int], statistics: Mapping[str, Statistics]
) -> Tensor:
    """Return all bands of all modalities (C, H, W); a modality that is not there is NaN.

    Raises:
        ModelError: a modality with another number of bands than the model's.
    """
    parts = []
    for name, count in channels.items():
        shape = (count, *mosaic.labels.shape)
        values = mosaic.inputs.get(name, np.full(shape, np.nan, np.float32))
        if values.shape != shape:
            raise ModelError(f"{name}: {values.shape[0]} bands, the model takes {count}")
        mean, std = (
            np.asarray(part, np.float32)[:, None, None]
            for part in (statistics[name].mean, statistics[name].std)
        )
        parts.append(torch.from_numpy((values.astype(np.float32) - mean) / std))
    return torch.cat(parts)


def _count_classes(mosaics: Sequence[LabelledMosaic], classes: int) -> NDArray[np.int64]:
    counts = np.stack([np.bincount(e.labels.ravel(), minlength=256)[:256] for e in mosaics])
    strange = counts[:, classes:IGNORE_INDEX].sum()
    if strange or not counts[:, :classes].sum():
        raise ModelError(
            f"labels must be 0..{classes - 1} or {IGNORE_INDEX} (ignored), with some of the former; "
            f"{strange} pixels hold another value"
        )
    return counts[:, :classes].astype(np.int64)


def _sample_positions(
    labels: NDArray[np.uint8], classes: int, rng: np.random.Generator
) -> dict[int, NDArray[np.int64]]:
    found: dict[int, NDArray[np.int64]] = {}
    flat = labels.ravel()
    for kind in range(classes):
        where = np.flatnonzero(flat == kind)
        if where.size:
            chosen = rng.choice(where, min(_MAX_POSITIONS, where.size), replace=False)
            found[kind] = np.stack(np.unravel_index(chosen, labels.shape), axis=1)
    return found
