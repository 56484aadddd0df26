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
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model import units
from model.acceleration import optimised
from model.errors import ModelError, listed
from model.modalities import PATCH, RAW, Statistics
from model.precision import resolve

Chips = Mapping[str, NDArray[np.float32]]
Holes = Literal["refuse", "fill"]

_CHUNK = {"cpu": 1, "cuda": 16}
# ^ one window already fills a CPU's caches; a GPU wants more to do at a time


def device_of(name: str) -> torch.device:
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
    if device.type not in _CHUNK:
        raise ModelError(f"device {name!r} is not supported; known are auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} is not here: {torch.cuda.device_count()} CUDA devices")
    return device


@functools.cache
def _one_thread_each() -> ThreadPoolExecutor:
    """Return threads that compute one window each, side by side.

    One window spread over several cores would have other bits on another number of cores: sums
    are cut where the threads meet.
    """
    cores = len(os.sched_getaffinity(0))
    return ThreadPoolExecutor(cores, "window", initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where and how a predictor computes, and what it does about missing pixels."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: str = "auto"
    """auto, fp32 or bf16."""

    batch: int | None = None
    """Windows at a time on the device; None = one on a CPU, 16 on a GPU."""

    holes: Holes = "refuse"
    """What NaN in the chips means: an error, or a missing pixel that is taken as the mean."""

    def __post_init__(self) -> None:
        if self.holes not in ("refuse", "fill"):
            raise ModelError(f"holes {self.holes!r}: refuse or fill")
        if self.batch is not None and self.batch < 1:
            raise ModelError(f"batch {self.batch}: at least one window at a time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a predictor takes and what it answers, in plain values."""

    task: str
    """land_cover, embedding or generate."""

    window: int
    """Side of one input, px."""

    inputs: Mapping[str, tuple[str, ...]]
    """Bands by modality, in the order of the channels."""

    statistics: Mapping[str, Statistics]
    """Of the inputs, per band, in the modality's own unit."""

    digest: str
    """sha256 over configuration, weights, statistics, and everything else that decides numbers."""

    class_names: tuple[str, ...] = ()
    """Names of the probabilities of a land_cover answer, in order."""

    bands: tuple[str, ...] = ()
    """Names of the channels of any other answer."""

    modality: str | None = None
    """What is generated."""

    unit: str | None = None
    """Of what is generated: DN, dB, m, or 1 for a ratio."""

    cell: int = 1
    """Pixels along a side of one cell of the answer."""


class Predictor(ABC):
    """A network on a device, behind numpy; its kinds stand in `model.prediction.tasks`."""

    def __init__(self, network: nn.Module, contract: Contract, running: Running) -> None:
        self.contract, self.running = contract, running
        self.device = device_of(running.device)
        self.dtype = resolve(running.precision, self.device)
        self.batch = running.batch or _CHUNK[self.device.type]
        self.network = optimised(network.to(self.device), running.precision)
        self._each: Callable[..., Iterable[Any]] = (
            map if self.device.type != "cpu" else _one_thread_each().map
        )
        self._scales = {name: self._scale(contract.statistics[name]) for name in contract.inputs}

    @abstractmethod
    def answer(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return (B, K, h, w) for standardised (B, C, H, W) by modality; NaN = missing."""

    @property
    def task(self) -> str:
        """land_cover, embedding or generate."""
        return self.contract.task

    @property
    def window(self) -> int:
        """Side of one input, px."""
        return self.contract.window

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Bands by modality, in the order of the channels."""
        return self.contract.inputs

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the probabilities, in order; empty unless the task is land_cover."""
        return self.contract.class_names

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the answer's channels; empty if the task is land_cover."""
        return self.contract.bands

    @property
    def modality(self) -> str | None:
        """What is generated, else None."""
        return self.contract.modality

    @property
    def unit(self) -> str | None:
        """Unit of what is generated, else None."""
        return self.contract.unit

    @property
    def cell(self) -> int:
        """Pixels along a side of one cell of the answer."""
        return self.contract.cell

    @property
    def digest(self) -> str:
        """sha256 over configuration, weights and statistics."""
        return self.contract.digest

    @property
    def precision(self) -> str:
        """Name of the number format that the model computes in."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def __call__(self, chips: Chips) -> NDArray[np.float32]:
        """Return (B, K, H / cell, W / cell): probabilities summing to one, or values by channel.

        Args:
            chips: (B, C, H, W) by modality; S2 in DN without offset, S1 in dB, DEM in metres. A
                modality may be absent. Where holes are filled NaN = missing: such pixels are taken
                as the mean, and a modality that is missing in a whole window is left out of that
                window's token sequence. A window without any data gets equal probabilities, or
                NaN.

        Raises:
            ModelError: an unknown input, a wrong shape or unit, holes where they are refused, or
                an answer that is not finite.
        """
        count, height, width = self._checked(chips)
        channels = len(self.class_names or self.bands)
        blank = 1 / channels if self.class_names else np.nan
        shape = (count, channels, height // self.cell, width // self.cell)
        result = np.full(shape, blank, np.float32)
        parts = [
            (names, rows[start : start + self.batch])
            for names, rows in self._groups(chips, count)
            for start in range(0, len(rows), self.batch)
        ]
        answers = self._each(lambda part: self._run(chips, *part), parts)
        for (_, rows), answer in zip(parts, answers, strict=True):
            if not np.isfinite(answer).all():
                raise ModelError(
                    f"the model's answer is not finite (precision {self.precision}): the weights "
                    "are damaged, or made for other inputs"
                )
            result[rows] = answer
        return result

    def _checked(self, chips: Chips) -> tuple[int, int, int]:
        unknown = [name for name in chips if name not in self.inputs]
        if unknown or not chips:
            raise ModelError(
                f"inputs {listed(chips)}: the model was loaded for {listed(self.inputs)}"
            )
        shapes = {name: np.shape(value) for name, value in chips.items()}
        for name, shape in shapes.items():
            _check_shape(name, self.inputs[name], shape)
        batch, _, height, width = next(iter(shapes.values()))
        if any((s[0], *s[2:]) != (batch, height, width) for s in shapes.values()):
            raise ModelError(f"the inputs differ in number or size: {shapes}")
        if height % PATCH or width % PATCH or not height * width:
            raise ModelError(f"windows must be multiples of {PATCH}, not {height} x {width}")
        for name, values in chips.items():
            if name in RAW:
                units.check(RAW[name], np.asarray(values))
            if self.running.holes == "refuse" and not np.isfinite(values).all():
                raise ModelError(
                    f"{name} holds NaN: every pixel is expected to have a value. Leave out a "
                    "modality that is missing, fill the pixels, or load the model with "
                    'holes="fill", which takes NaN as the mean of the training data'
                )
        return batch, height, width

    def _groups(
        self, chips: Chips, count: int
    ) -> Iterator[tuple[tuple[str, ...], NDArray[np.intp]]]:
        """Yield the modalities that are there, and the windows where exactly these are."""
        names = [name for name in self.inputs if name in chips]
        there = np.zeros((count, len(names)), bool)
        for column, name in enumerate(names):
            there[:, column] = np.isfinite(chips[name]).any(axis=(1, 2, 3))
        for pattern in np.unique(there, axis=0):
            if pattern.any():
                chosen = tuple(name for name, here in zip(names, pattern, strict=True) if here)
                yield chosen, np.flatnonzero((there == pattern).all(axis=1))

    def _run(
        self, chips: Chips, names: Sequence[str], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        filled = np.resize(rows, self.batch)
        # ^ always the same number of windows: the surplus repeats and is dropped
        with torch.inference_mode():
            given = {name: self._standardised(name, chips[name][filled]) for name in names}
            answer: NDArray[np.float32] = self.answer(given).float()[: len(rows)].cpu().numpy()
        return answer

    def _standardised(self, name: str, values: NDArray[np.float32]) -> Tensor:
        mean, std = self._scales[name]
        plain = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device)
        return ((plain - mean) / std).to(self.dtype)

    def _scale(self, entry: Statistics) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
            for values in (entry.mean, entry.std)
        )
        return mean, std


def _check_shape(name: str, bands: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if len(shape) == 4 and shape[1] == len(bands):
        return
    if len(shape) in (3, 4) and shape[-1] == len(bands):
        hint = ". The channels stand last: move them before height and width"
    elif len(shape) == 3 and shape[0] == len(bands):
        hint = ". One window is a batch of one: values[None]"
    else:
        hint = ""
    raise ModelError(
        f"{name}: (B, {len(bands)}, H, W) expected, not {shape}: {listed(bands, 13)}{hint}"
    )
