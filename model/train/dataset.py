"""Training data: labelled mosaics on the device, from which crops are drawn.

All random numbers come from one NumPy generator on the CPU, so the same seed draws the same crops
on every device.
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
from model.train import augmentation

IGNORE_INDEX = 255
"""Label of a pixel that does not enter the loss."""

_MAX_POSITIONS = 4096
"""Maximum number of sampled positions per class and mosaic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledMosaic:
    """Aligned rasters with their labels."""

    inputs: Mapping[str, NDArray[np.float32]]
    """(C, H, W) by modality, in the predictor's units: DN, dB, m; NaN = missing."""

    labels: NDArray[np.uint8]
    """(H, W), index of the class in the model's order; IGNORE_INDEX where unknown."""

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
    """Return mean and standard deviation per band over all valid pixels of the mosaics.

    Raises:
        ModelError: a band without valid pixels.
    """
    statistics: dict[str, Statistics] = {}
    for name in mosaics[0].inputs:
        stack = [mosaic.inputs[name] for mosaic in mosaics if name in mosaic.inputs]
        valid = [np.isfinite(values).sum(axis=(1, 2), dtype=np.float64) for values in stack]
        count = np.sum(valid, axis=0)
        if not (count > 1).all():
            raise ModelError(f"{name}: a band has no valid pixels to compute statistics from")
        sums = [np.nansum(values, axis=(1, 2), dtype=np.float64) for values in stack]
        mean = np.sum(sums, axis=0) / count
        squares = [np.nansum((values - mean[:, None, None]) ** 2, axis=(1, 2)) for values in stack]
        std = np.sqrt(np.sum(squares, axis=0) / count)
        statistics[name] = Statistics(
            mean=tuple(round(float(value), 4) for value in mean),
            std=tuple(round(float(value), 4) for value in std),
        )
    return statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBatch:
    """A batch of crops."""

    planes: Tensor
    """(B, all bands of all modalities, h, w), standardised, NaN = missing."""

    labels: Tensor
    """(B, h, w) int64."""


class CropSampler:
    """Draws crops from standardised mosaics on the device."""

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
        self.planes = [standardise(mosaic, channels, statistics).to(device) for mosaic in mosaics]
        self.labels = [torch.from_numpy(mosaic.labels).to(device) for mosaic in mosaics]
        self.class_counts = _count_classes(mosaics, classes)
        self._class_positions = [
            _sample_positions(mosaic.labels, classes, rng) for mosaic in mosaics
        ]
        self._mosaics_by_class = [
            [
                index
                for index, positions in enumerate(self._class_positions)
                if class_index in positions
            ]
            for class_index in range(classes)
        ]

    def class_weights(self, power: float) -> Tensor:
        """Return class weights (share ** -power), with a mean of one over the pixels."""
        share = self.class_counts.sum(axis=0) / self.class_counts.sum()
        weight = np.where(share > 0, np.maximum(share, 1e-4) ** -power, 1.0)
        return torch.tensor(weight / (weight * share).sum(), dtype=torch.float32)

    def draw_crops(self, batch: int, crop: int, balanced: float) -> CropBatch:
        """Draw crops around pixels of all mosaics.

        Args:
            batch: number of crops.
            crop: their side, px.
            balanced: share of the crops whose centre is of a class drawn with equal probabilities;
                the others are drawn by area.
        """
        planes, labels = [], []
        for _ in range(batch):
            mosaic_index, row, column = self._draw_centre(balanced)
            height, width = self.labels[mosaic_index].shape
            top = self._draw_start(row, height, crop)
            left = self._draw_start(column, width, crop)
            symmetry = int(self.rng.integers(augmentation.SYMMETRIES))
            window = (..., slice(top, top + crop), slice(left, left + crop))
            planes.append(augmentation.apply_symmetry(self.planes[mosaic_index][window], symmetry))
            labels.append(augmentation.apply_symmetry(self.labels[mosaic_index][window], symmetry))
        return CropBatch(planes=torch.stack(planes), labels=torch.stack(labels).long())

    def _draw_centre(self, balanced: float) -> tuple[int, int, int]:
        """Draw the index of a mosaic, and a row and a column in it."""
        if self.rng.random() < balanced:
            present = [index for index, mosaics in enumerate(self._mosaics_by_class) if mosaics]
            class_index = int(self.rng.choice(present))
            mosaic_index = int(self.rng.choice(self._mosaics_by_class[class_index]))
        else:
            shares = self.class_counts.ravel() / self.class_counts.sum()
            mosaic_index, class_index = divmod(
                int(self.rng.choice(shares.size, p=shares)), self.class_counts.shape[1]
            )
        positions = self._class_positions[mosaic_index][class_index]
        row, column = positions[int(self.rng.integers(len(positions)))]
        return mosaic_index, int(row), int(column)

    def _draw_start(self, centre: int, size: int, crop: int) -> int:
        start = centre - int(self.rng.integers(crop))
        return min(max(start, 0), size - crop)


def check_sizes(mosaics: Sequence[LabelledMosaic], crop: int) -> None:
    """Check that no mosaic is smaller than a crop.

    Raises:
        ModelError: one is.
    """
    for index, mosaic in enumerate(mosaics):
        if min(mosaic.labels.shape) < crop:
            raise ModelError(
                f"mosaic {index} is {mosaic.labels.shape}, smaller than a crop of {crop}"
            )


def standardise(
    mosaic: LabelledMosaic, channels: Mapping[str, int], statistics: Mapping[str, Statistics]
) -> Tensor:
    """Return the standardised bands of all modalities (C, H, W); a missing modality is NaN.

    Args:
        mosaic: the rasters.
        channels: number of bands by modality, in the order of the output.
        statistics: mean and standard deviation by modality.

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
    counts = np.stack(
        [np.bincount(mosaic.labels.ravel(), minlength=256)[:256] for mosaic in mosaics]
    )
    invalid = counts[:, classes:IGNORE_INDEX].sum()
    if invalid or not counts[:, :classes].sum():
        raise ModelError(
            f"labels must be 0..{classes - 1} or {IGNORE_INDEX} (ignored), and not all ignored; "
            f"{invalid} pixels hold another value"
        )
    return counts[:, :classes].astype(np.int64)


def _sample_positions(
    labels: NDArray[np.uint8], classes: int, rng: np.random.Generator
) -> dict[int, NDArray[np.int64]]:
    """Draw rows and columns (N, 2) of pixels by class."""
    positions: dict[int, NDArray[np.int64]] = {}
    flat = labels.ravel()
    for class_index in range(classes):
        pixels = np.flatnonzero(flat == class_index)
        if pixels.size:
            drawn = rng.choice(pixels, min(_MAX_POSITIONS, pixels.size), replace=False)
            positions[class_index] = np.stack(np.unravel_index(drawn, labels.shape), axis=1)
    return positions
