"""From arrays of windows to arrays of answers: what every predictor of the pipeline has in common.

Notable: the answer for a window does not depend on its neighbours in the batch. Windows that have
the same modalities run together in chunks of one fixed size, the last one filled up, because the
bits of a matrix product can depend on the number of its rows.
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
from model.predictor import arrays
from model.predictor.arrays import Chips, NanPolicy
from model.predictor.optimise import optimise_for_inference
from model.predictor.spec import OutputSpec, PredictorSpec
from model.terramind.modalities import Statistics
from model.terramind.precision import resolve_dtype

Rasters = tuple[NDArray[np.float32], ...]
WindowOrigin = tuple[int, int]
"""Row and column of a window's first pixel, counted from the origin of the CRS."""


_DEFAULT_BATCH_SIZES = {"cpu": 1, "cuda": 16}
# ^ one window already fills a CPU's caches; a GPU wants more to do at a time


def resolve_device(name: str) -> torch.device:
    """Resolve auto, cpu, cuda or cuda:N to a device that is here.

    Raises:
        ModelError: unknown or absent.
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
        raise ModelError(f"device {name!r} is not here: {torch.cuda.device_count()} CUDA devices")
    return device


@functools.cache
def _single_thread_pool() -> ThreadPoolExecutor:
    """Return threads that compute one window each, side by side.

    One window spread over several cores would have other bits on another number of cores: sums
    are cut where the threads meet.
    """
    cores = len(os.sched_getaffinity(0))
    return ThreadPoolExecutor(cores, "window", initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """Where and how a predictor computes, and what it does about missing pixels."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: str = "auto"
    """auto, fp32 or bf16."""

    batch_size: int | None = None
    """Windows at a time on the device; None = one on a CPU, 16 on a GPU."""

    nan_policy: NanPolicy = "refuse"
    """What NaN and infinity in the chips mean: an error, or a pixel that is missing and taken as
    the mean."""

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
    """Of each on the ground, where it is known: noise depends on it."""

    def fill_missing(self) -> dict[str, Tensor]:
        """Return the pixels with what is missing at the mean."""
        return {n: torch.nan_to_num(value, 0.0, 0.0, 0.0) for n, value in self.pixels.items()}


class Predictor(ABC):
    """A network on a device, behind numpy; its kinds stand in `model.predictor.predictors`."""

    def __init__(self, network: nn.Module, spec: PredictorSpec, options: InferenceOptions) -> None:
        self.spec, self.options = spec, options
        self.device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.precision, self.device)
        self.batch_size = options.batch_size or _DEFAULT_BATCH_SIZES[self.device.type]
        self.network = optimise_for_inference(network.to(self.device), options.precision)
        self.load_fp32: Callable[[], Predictor] | None = None
        # ^ makes the same in single precision, from where the weights came from
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
        """Name of the number format that the model computes in."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    @property
    def device_type(self) -> str:
        """Kind of the device, cpu or cuda: another kind has other bits."""
        return self.device.type

    def __call__(self, chips: Chips) -> NDArray[np.float32]:
        """Return (B, K, H / stride, W / stride): probabilities summing to one, or values by channel.

        Args:
            chips: (B, C, H, W) by modality; S2 in DN without offset, S1 in dB, DEM in metres. A
                modality may be absent. Where holes are filled NaN and infinity = missing: such
                pixels are taken as the mean, and a modality that is missing in a whole window is
                left out of that window's token sequence. A window without any data gets equal
                probabilities, or NaN.

        Raises:
            ModelError: an unknown input, a wrong shape or unit, holes where they are refused, an
                answer that is not finite, or several answers (`predict` gives them).
        """
        if len(self.outputs) > 1:
            raise ModelError(
                f"this model gives {len(self.outputs)} outputs: call its predict method"
            )
        (result,) = self.predict(chips)
        there = arrays.compute_data_mask(chips, self.inputs).any(axis=1)
        if np.isnan(result[there]).any():
            raise ModelError(
                f"the model's answer is not finite (precision {self.precision}): the weights "
                "are damaged, or made for other inputs"
            )
        class_names = self.outputs[0].class_names
        if class_names:
            result[~there] = 1 / len(class_names)
        return result

    def predict(self, chips: Chips, places: Sequence[WindowOrigin] | None = None) -> Rasters:
        """Return one (B, K, H / stride, W / stride) for each of `outputs`, all from one encoder pass.

        A window without any data, or whose answer is not finite, is NaN as a whole, and no other
        window is.

        Args:
            chips: as for a call.
            places: row and column of each window's first pixel, counted from the origin of the
                CRS: what starts from noise then starts from that of the ground, and overlapping
                windows see the same. None: all windows start from the same noise.

        Raises:
            ModelError: an unknown input, a wrong shape or unit, holes where they are refused.
        """
        chips, (count, height, width) = arrays.validate_chips(
            chips, self.inputs, self.options.nan_policy
        )
        if places is not None and len(places) != count:
            raise ModelError(f"{len(places)} places for {count} windows: one for each expected")
        results = tuple(
            np.full(
                (count, len(output.channels), height // output.stride, width // output.stride),
                np.nan,
                "f4",
            )
            for output in self.outputs
        )
        parts = [
            (names, rows[start : start + self.batch_size])
            for names, rows in self._group_by_modalities(chips)
            for start in range(0, len(rows), self.batch_size)
        ]
        answers = self._map_batches(lambda part: self._predict_batch(chips, places, *part), parts)
        for (_, rows), every in zip(parts, answers, strict=True):
            for result, answer in zip(results, every, strict=True):
                result[rows] = answer
        for result in results:
            result[~np.isfinite(result).all(axis=(1, 2, 3))] = np.nan
        return results

    @property
    def predict_reference(self) -> Callable[..., Rasters] | None:
        """`predict` in single precision, by a twin that is loaded when it is first called.

        None where this is in single precision already, or where it is not known what the numbers
        were before they were rounded.
        """
        known = self.precision != "fp32" and self.load_fp32 is not None
        return self._predict_fp32 if known else None

    def _predict_fp32(self, chips: Chips, places: Sequence[WindowOrigin] | None = None) -> Rasters:
        return self._fp32_predictor.predict(chips, places)

    @functools.cached_property
    def _fp32_predictor(self) -> Predictor:
        if self.load_fp32 is None:
            raise ModelError("no weights are known in single precision")
        return self.load_fp32()

    def _group_by_modalities(
        self, chips: Chips
    ) -> Iterator[tuple[tuple[str, ...], NDArray[np.intp]]]:
        """Yield the modalities that are there, and the windows where exactly these are."""
        names = [name for name in self.inputs if name in chips]
        there = arrays.compute_data_mask(chips, self.inputs)
        for pattern in np.unique(there, axis=0):
            if pattern.any():
                chosen = tuple(name for name, here in zip(names, pattern, strict=True) if here)
                yield chosen, np.flatnonzero((there == pattern).all(axis=1))

    def _predict_batch(
        self,
        chips: Chips,
        places: Sequence[WindowOrigin] | None,
        names: Sequence[str],
        rows: NDArray[np.intp],
    ) -> Rasters:
        filled = np.resize(rows, self.batch_size)
        # ^ always the same number of windows: the surplus repeats and is dropped
        where = None if places is None else [places[row] for row in filled.tolist()]
        with torch.inference_mode():
            pixels = {name: self._standardise(name, chips[name][filled]) for name in names}
            every = self.forward(WindowBatch(pixels=pixels, origins=where))
            return tuple(one[: len(rows)].float().cpu().numpy() for one in every)

    def _standardise(self, name: str, values: NDArray[np.float32]) -> Tensor:
        mean, std = self._mean_std[name]
        plain = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        if self.device.type == "cuda":
            plain = plain.pin_memory().to(self.device, non_blocking=True)
            # ^ the copy runs beside the host, which goes on to the next modality
        return ((plain - mean) / std).to(self.dtype)

    def _to_mean_std(self, entry: Statistics) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
            for values in (entry.mean, entry.std)
        )
        return mean, std
