"""Tiled inference, ours beside TerraTorch's `tiled_inference`, with the same network.

``python -m tests.benchmarks.tiling`` in the venv of `make reference`: a table on a network that
makes seams show, and one on TerraMind (random weights, S2L2A to land cover), where each way is a
process of its own that has the model loaded before its memory is looked at.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.predictor import registry
from model.predictor.predictor import Predictor
from pipeline.grid import window_lattice
from pipeline.grid.grid import Grid
from pipeline.grid.window_lattice import Lattice
from pipeline.inference import batching
from tests.benchmarks import paired_timing, seams
from tests.reference import terramind
from tests.support import fake_predictors

LATTICE = Lattice(window=224, stride=192, context_width=0)
AROUND = 224
BATCH = 16
"""Windows at a time: TerraTorch's default."""


def _image(side: int) -> np.ndarray:
    """Return reflectances with structure at all sizes, DN, (12, side + 2 around, ...)."""
    whole = side + 2 * AROUND
    rng = np.random.default_rng(0)
    plain = sum(
        np.kron(
            rng.standard_normal((12, -(-whole // step), -(-whole // step))), np.ones((step,) * 2)
        )[:, :whole, :whole]
        for step in (1, 4, 16, 64, 256)
    )
    return (1500 + 300 * plain).clip(1, 9000).astype(np.float32)


def _ours(image: np.ndarray, side: int, ask: Predictor) -> dict[str, Any]:
    area = Grid(epsg=32632, resolution=10.0, left=0.0, top=0.0, height=side, width=side)
    placement = window_lattice.place_windows(area, LATTICE)
    row, column = (AROUND - place for place in placement.tile_offset)
    height, width = placement.context_grid.shape
    values = image[:, row : row + height, column : column + width]
    looks = fake_predictors.window_rows(
        {"S2L2A": values}, np.ones((height, width), bool), placement, 224
    )
    count, classes = batching.WindowStats(), np.empty((side, side), np.uint8)
    for part in fake_predictors.predict_tile(
        looks, placement, LATTICE, ask, batch_size=BATCH, stats=count
    ):
        classes[part.start : part.stop] = part.values[0].argmax(axis=0)
    blends = [seams.our_blends(LATTICE, 0, side)] * 2
    return {"used": count.used, "density": seams.density_of(192), "seam": _changes(classes, blends)}


def _theirs(image: np.ndarray, side: int, ask: Predictor) -> dict[str, Any]:
    import torch

    tiling = terramind.tiling()
    inner = torch.from_numpy(image[None, :, AROUND:-AROUND, AROUND:-AROUND].copy())
    used = 0

    def forward(chips: torch.Tensor) -> torch.Tensor:
        nonlocal used
        used += len(chips)
        return torch.from_numpy(ask.predict({"S2L2A": chips.numpy()})[0])

    answer = tiling.tiled_inference(forward, inner, batch_size=BATCH)
    classes = answer[0].argmax(dim=0).to(torch.uint8).numpy()
    chips = tiling.prepare_tiled_inference_input(inner)[0]
    blends = [seams.their_blends(chips, axis, 8) for axis in (0, 1)]
    return {"used": used, "density": seams.density_of(192), "seam": _changes(classes, blends)}


def _changes(classes: np.ndarray, blends: list[list[tuple[int, int]]]) -> float:
    """Return the largest share of class changes across a line of a blend, over the median."""
    changes = [
        (np.diff(classes.astype(np.int16), axis=axis) != 0).mean(axis=1 - axis) for axis in (0, 1)
    ]
    pairs = zip(changes, blends, strict=True)
    return statistics.mean(seams.largest(share, one) for share, one in pairs)


WAYS: dict[str, Callable[..., dict[str, Any]]] = {"ours": _ours, "TerraTorch": _theirs}


def _memory(mark: str) -> float:
    """Return a mark of the kernel's for this process, MiB."""
    text = Path("/proc/self/status").read_text()
    return float(text.partition(f"{mark}:")[2].split()[0]) / 2**10


def turn(way: str, name: str, side: int) -> dict[str, Any]:
    """Tile once in this process."""
    ask = registry.load(
        name, {"random": 0}, inputs=["S2L2A"], device="cpu", precision="fp32", batch=1
    )
    image = _image(side)
    ask.predict({"S2L2A": image[None, :, :224, :224]})
    # ^ kernels are chosen, weights are packed
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    # ^ the mark of the peak begins anew
    started = time.perf_counter()
    done = WAYS[way](image, side, ask)
    return done | {
        "way": way,
        "seconds": time.perf_counter() - started,
        "peak": _memory("VmHWM") - before,
    }


def run(name: str, side: int, rounds: int) -> Iterator[str]:
    """Yield the lines of both tables."""
    yield from paired_timing.told(paired_timing.circumstances())
    yield from seams.told()
    yield ""
    taken: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, turns in taken.items():
            arguments = ["--turn", way, "--model", name, "--side", str(side)]
            said = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.tiling", *arguments],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            turns.append(json.loads(said.splitlines()[-1]))
    yield f"{name}, random weights, S2L2A to land cover, {side}² px, {rounds} rounds in turn"
    yield (
        "| tiling | windows per km² | run here | s | s a window | beyond the loaded model, MiB "
        "| class changes at a line over the median |"
    )
    yield "|---|---|---|---|---|---|---|"
    for way, turns in taken.items():
        seconds, peak = (
            statistics.median(one[key] for one in turns) for key in ("seconds", "peak")
        )
        one = turns[0]
        yield (
            f"| {way} | {one['density']:.3f} | {one['used']} | {seconds:.1f} "
            f"| {seconds / one['used']:.2f} | {peak:.0f} "
            f"| {one['seam']:.2f} |"
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turn", choices=list(WAYS))
    parser.add_argument("--model", default="terramind_v1_base")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.turn:
        print(json.dumps(turn(given.turn, given.model, given.side)))
        return
    for line in run(given.model, given.side, given.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
