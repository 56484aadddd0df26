"""Predictor: windows as numpy arrays in, outputs as numpy arrays out, for every kind of model.

The output for a window does not depend on the other windows of the batch. Windows that have the
same modalities run together in batches of one fixed size, the last one filled up, because the bits
of a matrix product can depend on the number of its rows.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import ModelError
from model.predictor import window_validation
from model.predictor.compilation import optimise_for_inference
from model.predictor.spec import OutputSpec, PredictorSpec
from model.predictor.window_validation import Chips, NanPolicy
from model.terramind.modalities import Statistics
from model.terramind.precision import resolve_dtype

Rasters = tuple[NDArray[np.float32], ...]
WindowOrigin = tuple[int, int]
"""Row and column of a window's first pixel, counted from the origin of the CRS."""


_DEFAULT_BATCH_SIZES = {"cpu": 1, "cuda": 16}
# ^ one window already fills the caches of a CPU core; a GPU needs more work at a time


def resolve_device(name: str) -> torch.device:
    """Resolve auto, cpu, cuda or cuda:N to a device of this machine.

    Raises:
        ModelError: an unknown device, or one that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"unknown device {name!r}; known are auto, cpu, cuda, cuda:N") from error
    if device.type not in _DEFAULT_BATCH_SIZES:
        raise ModelError(f"device {name!r} is not supported; known are auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {name!r} is not available: this machine has {torch.cuda.device_count()} CUDA "
            "devices"
        )
    return device


@functools.cache
def _single_thread_pool() -> ThreadPoolExecutor:
    """Return a pool whose threads compute one window each, with one thread of torch.

    A window computed by several threads would have other bits on another number of cores, because
    the order of sums depends on how the work is divided.
    """
    cores = len(os.sched_getaffinity(0))
    return ThreadPoolExecutor(cores, "window", initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """Device, number format, batch size, and the meaning of NaN."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: str = "auto"
    """auto, fp32 or bf16."""

    batch_size: int | None = None
    """Windows per batch on the device; None = one on a CPU, 16 on a GPU."""

    nan_policy: NanPolicy = "refuse"
    """What NaN and infinity in the chips mean: "refuse" = an error, "fill" = a missing pixel, taken
    as the mean."""

    def __post_init__(self) -> None:
        if self.nan_policy not in ("refuse", "fill"):
            raise ModelError(f"nan_policy {self.nan_policy!r}: refuse or fill")
        if self.batch_size is not None and self.batch_size < 1:
            raise ModelError(f"batch {self.batch_size}: at least one window at a time")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBatch:
    """Windows that have the same modalities, on the device."""

    pixels: Mapping[str, Tensor]
    """Standardised (B, C, H, W) by modality; NaN = missing."""

    origins: Sequence[WindowOrigin] | None
    """Position of each window on the ground, if known: the noise of diffusion depends on it."""

    def fill_missing(self) -> dict[str, Tensor]:
        """Return the pixels, with missing ones at the mean, which is zero."""
        return {
            name: torch.nan_to_num(values, 0.0, 0.0, 0.0) for name, values in self.pixels.items()
        }


class Predictor(ABC):
    """A network on a device that takes and returns numpy arrays.

    Its kinds are in :mod:`model.predictor.task_predictors`.
    """

    def __init__(self, network: nn.Module, spec: PredictorSpec, options: InferenceOptions) -> None:
        self.spec, self.options = spec, options
        self.device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.precision, self.device)
        self.batch_size = options.batch_size or _DEFAULT_BATCH_SIZES[self.device.type]
        self.network = optimise_for_inference(network.to(self.device), options.precision)
        self.load_fp32: Callable[[], Predictor] | None = None
        # ^ loads the same model in fp32 from the source of its weights
        self.overlap: int | None = None
        """Pixels that two windows share where its authors run it; None if not stated."""

        self.notes: tuple[str, ...] = ()
        """What was assumed or converted when it was loaded, for its user."""

        self._map_batches: Callable[..., Iterable[Any]] = (
            map if self.device.type != "cpu" else _single_thread_pool().map
        )
        self._mean_std = {name: self._to_mean_std(spec.statistics[name]) for name in spec.inputs}

    @abstractmethod
    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return (B, K, h, w) for each of `outputs`."""

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """Specifications of the outputs; the first one is the primary one."""
        return self.spec.outputs

    @property
    def window(self) -> int:
        """Side of one input, px."""
        return self.spec.window

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Bands by modality, in the order of the channels."""
        return self.spec.inputs

    @property
    def digest(self) -> str:
        """sha256 over configuration, weights and statistics."""
        return self.spec.digest

    @property
    def precision(self) -> str:
        """Name of the number format that the model computes in: fp32 or bf16."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    @property
    def device_type(self) -> str:
        """Type of the device, cpu or cuda: outputs are bit-identical only on the same type."""
        return self.device.type

    def __call__(self, chips: Chips) -> NDArray[np.float32]:
        """Return (B, K, H / stride, W / stride): probabilities that sum to one, or values.

        Args:
            chips: (B, C, H, W) by modality; S2 in DN without offset, S1 in dB, DEM in metres. A
                modality may be absent. With the NaN policy "fill", NaN and infinity are missing
                pixels: they are taken as the mean, and a modality without any valid pixel in a
                window is left out of that window's token sequence. A window without any data gets
                equal probabilities, or NaN.

        Raises:
            ModelError: an unknown input, a wrong shape or unit, NaN that is refused, an output that
                is not finite, or a model of several outputs (use `predict`).
        """
        if len(self.outputs) > 1:
            raise ModelError(
                f"this model gives {len(self.outputs)} outputs: call its predict method"
            )
        (result,) = self.predict(chips)
        has_data = window_validation.compute_data_mask(chips, self.inputs).any(axis=1)
        if np.isnan(result[has_data]).any():
            raise ModelError(
                f"the model's output is not finite (precision {self.precision}): the weights "
                "are damaged, or made for other inputs"
            )
        class_names = self.outputs[0].class_names
        if class_names:
            result[~has_data] = 1 / len(class_names)
        return result

    def predict(self, chips: Chips, origins: Sequence[WindowOrigin] | None = None) -> Rasters:
        """Return (B, K, H / stride, W / stride) for each of `outputs`, from one encoder pass.

        The output of a window without any data, and one that is not finite, is NaN in all pixels;
        other windows are not affected.

        Args:
            chips: as for a call.
            origins: row and column of each window's first pixel, counted from the origin of the
                CRS. Diffusion then starts from noise that depends on the position on the ground,
                so that overlapping windows agree. None: all windows start from the same noise.

        Raises:
            ModelError: an unknown input, a wrong shape or unit, or NaN that is refused.
        """
        chips, (count, height, width) = window_validation.validate_chips(
            chips, self.inputs, self.options.nan_policy
        )
        if origins is not None and len(origins) != count:
            raise ModelError(f"{len(origins)} origins for {count} windows: expected one for each")
        results = tuple(
            np.full(
                (count, len(spec.channels), height // spec.stride, width // spec.stride),
                np.nan,
                np.float32,
            )
            for spec in self.outputs
        )
        batches = [
            (names, rows[start : start + self.batch_size])
            for names, rows in self._group_by_modalities(chips)
            for start in range(0, len(rows), self.batch_size)
        ]
        predicted = self._map_batches(
            lambda batch: self._predict_batch(chips, origins, *batch), batches
        )
        for (_, rows), outputs in zip(batches, predicted, strict=True):
            for result, output in zip(results, outputs, strict=True):
                result[rows] = output
        for result in results:
            result[~np.isfinite(result).all(axis=(1, 2, 3))] = np.nan
        return results

    @property
    def predict_reference(self) -> Callable[..., Rasters] | None:
        """`predict` in fp32, by a second predictor that is loaded at the first call.

        None where this predictor computes in fp32 itself, or where the source of its weights, from
        which they would be loaded without rounding, is unknown.
        """
        is_available = self.precision != "fp32" and self.load_fp32 is not None
        return self._predict_fp32 if is_available else None

    def _predict_fp32(self, chips: Chips, origins: Sequence[WindowOrigin] | None = None) -> Rasters:
        return self._fp32_predictor.predict(chips, origins)

    @functools.cached_property
    def _fp32_predictor(self) -> Predictor:
        if self.load_fp32 is None:
            raise ModelError("no source of weights in fp32 is known")
        return self.load_fp32()

    def _group_by_modalities(
        self, chips: Chips
    ) -> Iterator[tuple[tuple[str, ...], NDArray[np.intp]]]:
        """Yield sets of modalities, and the rows of the windows that have data of exactly these."""
        names = [name for name in self.inputs if name in chips]
        has_data = window_validation.compute_data_mask(chips, self.inputs)
        for pattern in np.unique(has_data, axis=0):
            if pattern.any():
                present = tuple(
                    name for name, is_present in zip(names, pattern, strict=True) if is_present
                )
                yield present, np.flatnonzero((has_data == pattern).all(axis=1))

    def _predict_batch(
        self,
        chips: Chips,
        origins: Sequence[WindowOrigin] | None,
        names: Sequence[str],
        rows: NDArray[np.intp],
    ) -> Rasters:
        padded = np.resize(rows, self.batch_size)
        # ^ always the same number of windows: the first ones repeat, and what is extra is dropped
        batch_origins = None if origins is None else [origins[row] for row in padded.tolist()]
        with torch.inference_mode():
            pixels = {name: self._standardise(name, chips[name][padded]) for name in names}
            outputs = self.forward(WindowBatch(pixels=pixels, origins=batch_origins))
            return tuple(output[: len(rows)].float().cpu().numpy() for output in outputs)

    def _standardise(self, name: str, values: NDArray[np.float32]) -> Tensor:
        mean, std = self._mean_std[name]
        tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
            # ^ the copy runs while the host prepares the next modality
        return ((tensor - mean) / std).to(self.dtype)

    def _to_mean_std(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
            for values in (statistics.mean, statistics.std)
        )
        return mean, std
