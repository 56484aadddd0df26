"""Land cover, embeddings and NDVI from one encoder pass, against the land cover alone."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.predictor import registry
from model.predictor.predictor import Predictor
from model.terramind import modalities
from tests.benchmarks.paired_timing import Race

NAME = "terramind_v1_base"
INPUTS = ("S2L2A",)
WINDOWS = {"cpu": 2, "cuda": 64}
ROUNDS = 5
STEPS = 2
"""Of the diffusion, where ten are usual: they are nearly all of the time that NDVI takes."""

WANTED = 1.3
"""At most so many times the encoder time of the land cover alone."""

ASKED: Mapping[str, Mapping[str, Any]] = {
    "land cover": {"task": "land_cover"},
    "embedding": {"task": "embedding"},
    "NDVI": {"task": "generate", "modality": "NDVI", "timesteps": STEPS},
    "all three": {
        "task": ["land_cover", "embedding", "generate"],
        "modality": "NDVI",
        "timesteps": STEPS,
    },
}


class Stopwatch:
    """Seconds inside an encoder: its embeddings, its blocks and its norm.

    On a CPU they are those of the thread that computes, which a busy neighbour hardly changes.
    """

    def __init__(self, predictor: Predictor) -> None:
        network = predictor.network
        encoder = getattr(network, "model", network)
        self.device, self.seconds = predictor.device, 0.0
        self._started: dict[int, float] = {}
        for part in (*encoder.encoder_embeddings.values(), *encoder.encoder, encoder.encoder_norm):
            part.register_forward_pre_hook(self._start)
            part.register_forward_hook(self._stop)

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.thread_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _start(self, _module: nn.Module, _args: Any) -> None:
        self._started[threading.get_ident()] = self._now()

    def _stop(self, _module: nn.Module, _args: Any, _out: Any) -> None:
        self.seconds += self._now() - self._started[threading.get_ident()]


def _chips(count: int, side: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    found = {}
    for name in INPUTS:
        scale = modalities.get_raster_modality(name).statistics
        mean, std = (np.array(v)[:, None, None] for v in (scale.mean, scale.std))
        drawn = 0.5 * rng.standard_normal((count, len(scale.mean), side, side))
        found[name] = (mean + std * drawn).astype(np.float32)
    return found


def run() -> Iterator[str]:
    """Yield the lines of a table: medians for one window, and ratios to the land cover alone."""
    predictors = {
        name: registry.load(NAME, {"random": 0}, inputs=INPUTS, **asked)
        for name, asked in ASKED.items()
    }
    first = predictors["land cover"]
    count = WINDOWS[first.device.type]
    chips = _chips(count, first.window)
    places = [(0, first.window * index) for index in range(count)]
    taken: dict[str, list[float]] = defaultdict(list)

    def way(name: str) -> Any:
        predictor, watch = predictors[name], Stopwatch(predictors[name])

        def go() -> None:
            watch.seconds = 0.0
            predictor.predict(chips, places)
            taken[name].append(watch.seconds)

        return go

    race = Race("one window", {name: way(name) for name in ASKED}, ROUNDS)
    inside = {name: statistics.median(seconds[1:]) / count for name, seconds in taken.items()}
    # ^ the first call warms up
    whole = {name: race.median(name).wall / count for name in ASKED}
    work = {name: race.median(name).cpu / count for name in ASKED}
    yield (
        f"{NAME}, {first.device.type}, {first.precision}, {count} windows of {first.window} px, "
        f"{STEPS} diffusion steps"
    )
    yield "| asked for | encoder, s | ratio | wanted | whole, s | ratio | core time, s |"
    yield "|---|---|---|---|---|---|---|"
    for name in ASKED:
        wanted = f"≤ {WANTED}" if name == "all three" else ""
        yield (
            f"| {name} | {inside[name]:.3f} | {inside[name] / inside['land cover']:.2f} | {wanted} "
            f"| {whole[name]:.3f} | {whole[name] / whole['land cover']:.2f} | {work[name]:.3f} |"
        )
    apart = sum(work[name] for name in ASKED if name != "all three")
    yield f"one after the other the three take {apart / work['all three']:.2f} times the core time"
