"""Windows a second and agreement of the demo model, by device and precision."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from model.predictor import registry

WINDOWS = 64
REPEATS = 5
Chips = Mapping[str, NDArray[np.float32]]


def _chips(count: int, side: int) -> Chips:
    """Draw smooth chips around the training statistics: the same for every device."""
    rng = np.random.default_rng(0)
    chips = {}
    for name, scale in registry.get_card("demo").statistics.items():
        coarse = rng.standard_normal((count, len(scale.mean), side // 16, side // 16))
        fine = coarse.repeat(16, 2).repeat(16, 3) + 0.3 * rng.standard_normal(
            (count, len(scale.mean), side, side)
        )
        mean = np.array(scale.mean)[None, :, None, None]
        std = np.array(scale.std)[None, :, None, None]
        chips[name] = (mean + 0.5 * std * fine).astype(np.float32)
    return chips


def _places() -> list[tuple[str, str, int]]:
    found = [("cpu", "fp32", 4)]
    if torch.cuda.is_available():
        found += [("cuda", "fp32", 64), ("cuda", "bf16", 64)]
    return found


def run() -> Iterator[str]:
    """Yield the lines of a table; agreement is that of the class with the first line's."""
    yield f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    yield "| device | precision | windows/s | ratio | same class |"
    yield "|---|---|---|---|---|"
    first: tuple[float, NDArray[np.int64]] | None = None
    for device, precision, batch in _places():
        predictor = registry.load("demo", device=device, precision=precision)
        chips = _chips(WINDOWS, predictor.window)
        taken, classes = [], None
        for repeat in range(REPEATS if device == "cuda" else 2):
            started = time.perf_counter()
            answers = [
                predictor({name: values[at : at + batch] for name, values in chips.items()})
                for at in range(0, WINDOWS, batch)
            ]
            if repeat:
                taken.append(time.perf_counter() - started)
            # ^ the first pass warms up
            classes = np.concatenate(answers).argmax(axis=1)
        rate = WINDOWS / statistics.median(taken)
        first = first or (rate, classes)
        same = float((classes == first[1]).mean())
        yield f"| {device} | {precision} | {rate:.1f} | {rate / first[0]:.1f} | {same:.4%} |"
