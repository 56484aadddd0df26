"""From arrays of windows to arrays of probabilities: what the pipeline calls.

Notable: the answer for a window does not depend on its neighbours in the batch. Windows that have
the same modalities run together in chunks of one fixed size, the last one filled up, because the
bits of a matrix product can depend on the number of its rows.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import weights
from model.cards import Card
from model.errors import ModelError, listed
from model.heads import Segmenter
from model.modalities import PATCH

Chips = Mapping[str, NDArray[np.float32]]

_PRECISIONS = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}
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


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """Resolve auto, fp32 or bf16: auto is bf16 on CUDA and fp32 elsewhere.

    Raises:
        ModelError: unknown, or float16, whose range ends at 65504.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _PRECISIONS:
        raise ModelError(
            f"precision {name!r}: auto, fp32 or bf16 (float16 overflows in attention and is not "
            "offered)"
        )
    return _PRECISIONS[name]


@functools.cache
def _one_thread_each() -> ThreadPoolExecutor:
    """Return threads that compute one window each, side by side.

    One window spread over several cores would have other bits on another number of cores: sums
    are cut where the threads meet.
    """
    cores = len(os.sched_getaffinity(0))
    return ThreadPoolExecutor(cores, "window", initializer=torch.set_num_threads, initargs=(1,))


class SegmentationPredictor:
    """A segmenter with its card, on a device, behind numpy."""

    def __init__(
        self,
        segmenter: Segmenter,
        card: Card,
        *,
        inputs: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch: int | None = None,
    ) -> None:
        used = list(card.inputs) if inputs is None else list(inputs)
        self.inputs: Mapping[str, tuple[str, ...]] = {
            name: card.inputs[name] for name in card.inputs if name in used
        }
        self.window = card.window
        self.class_names = card.class_names
        state = weights.digest_of_state(segmenter.state_dict())
        self.digest = card.digest(f"{state} {' '.join(self.inputs)}")
        self.device = device_of(device)
        self.dtype = precision_of(precision, self.device)
        self.batch = _CHUNK[self.device.type] if batch is None else batch
        if self.batch < 1:
            raise ModelError(f"batch {batch}: at least one window at a time")
        self._segmenter = segmenter.to(self.device, self.dtype).eval()
        self._each: Callable[..., Iterable[Any]] = (
            map if self.device.type != "cpu" else _one_thread_each().map
        )
        self._scales = {name: self._scale(card, name) for name in self.inputs}

    @property
    def precision(self) -> str:
        """Name of the number format that the model computes in."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def __call__(self, chips: Chips) -> NDArray[np.float32]:
        """Return the probabilities (B, K, H, W) of every class, summing to one.

        Args:
            chips: (B, C, H, W) by modality; S2 in DN without offset, S1 in dB, DEM in metres; NaN
                = missing. A modality that is absent, or missing in a whole window, is left out of
                that window's token sequence. A window without any data gets equal probabilities.

        Raises:
            ModelError: an unknown input or a wrong shape, or an answer that is not finite.
        """
        count, height, width = self._checked(chips)
        result = np.full(
            (count, len(self.class_names), height, width), 1 / len(self.class_names), np.float32
        )
        parts = [
            (names, rows[start : start + self.batch])
            for names, rows in self._groups(chips, count)
            for start in range(0, len(rows), self.batch)
        ]
        answers = self._each(lambda part: self._run(chips, *part), parts)
        for (_, rows), answer in zip(parts, answers, strict=True):
            result[rows] = answer
        if not np.isfinite(result).all():
            raise ModelError(
                f"the model's answer is not finite (precision {self.precision}): the weights are "
                "damaged or the inputs are outside of any physical range"
            )
        return result

    def _checked(self, chips: Chips) -> tuple[int, int, int]:
        unknown = [name for name in chips if name not in self.inputs]
        if unknown or not chips:
            raise ModelError(
                f"inputs {listed(chips)}: the model was loaded for {listed(self.inputs)}"
            )
        shapes = {name: np.shape(value) for name, value in chips.items()}
        for name, shape in shapes.items():
            if len(shape) != 4 or shape[1] != len(self.inputs[name]):
                bands = self.inputs[name]
                raise ModelError(f"{name}: (B, {len(bands)}, H, W) expected, not {shape}: {bands}")
        batch, _, height, width = next(iter(shapes.values()))
        if any((s[0], *s[2:]) != (batch, height, width) for s in shapes.values()):
            raise ModelError(f"the inputs differ in number or size: {shapes}")
        if height % PATCH or width % PATCH or not height * width:
            raise ModelError(f"windows must be multiples of {PATCH}, not {height} x {width}")
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
            probabilities = torch.softmax(self._segmenter(given).float(), dim=1)
            answer: NDArray[np.float32] = probabilities[: len(rows)].cpu().numpy()
        return answer

    def _standardised(self, name: str, values: NDArray[np.float32]) -> Tensor:
        mean, std = self._scales[name]
        plain = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device)
        return ((plain - mean) / std).to(self.dtype)

    def _scale(self, card: Card, name: str) -> tuple[Tensor, Tensor]:
        entry = card.statistics[name]
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
            for values in (entry.mean, entry.std)
        )
        return mean, std
