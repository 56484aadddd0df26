"""A run on a GPU: chips a second, the share of the bare model's rate, and how busy the GPU was.

``python -m tests.benchmarks.graphics --size 4096``; without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.predictor import registry
from tests.benchmarks import (
    endtoend,
    mirrored_country,
    paired_timing,
    process_measurement,
)

INPUTS = ["S2L2A"]


def _bare(name: str, weights: Any, batch: int, repeats: int = 20) -> float:
    """Return windows a second of the model alone, its input on the device already."""
    ask = registry.load(name, weights, inputs=INPUTS, device="cuda", batch=batch, nan_policy="fill")
    seen: list[tuple[Any, ...]] = []
    plain = ask.forward

    def once(*arguments: Any) -> Any:
        seen.append(arguments)
        return plain(*arguments)

    ask.forward = once
    shape = (batch, len(ask.inputs[INPUTS[0]]), ask.window, ask.window)
    ask.predict({INPUTS[0]: np.full(shape, 1500, np.float32)})
    taken = []
    with torch.inference_mode():
        for _ in range(repeats):
            torch.cuda.synchronize()
            started = time.perf_counter()
            plain(*seen[0])
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
    return batch / statistics.median(taken)


class _Busy(threading.Thread):
    """Asks the driver how busy the GPU is."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over, self.shares = threading.Event(), []

    def run(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.over.wait(0.2):
            said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            self.shares += [float(said.split()[0]) / 100] if said.strip() else []

    def while_mapping(self) -> float:
        """Return the mean from the first to the last moment that the GPU was in use."""
        used = [index for index, share in enumerate(self.shares) if share > 0]
        return statistics.mean(self.shares[used[0] : used[-1] + 1]) if used else 0.0


def run(given: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a table."""
    yield from paired_timing.told(paired_timing.circumstances(("torch",)))
    if not torch.cuda.is_available():
        yield "skipped: no CUDA device is here"
        return
    yield torch.cuda.get_device_name()
    land = mirrored_country.lay(given.folder / f"{given.size}x{given.size}", given.size, given.size)
    weights = None if given.model == "demo" else {"random": 0}
    out = given.folder / "graphics"
    shutil.rmtree(out, ignore_errors=True)
    job = land.job(
        "graphics",
        out,
        inputs=INPUTS,
        model={"name": given.model} | ({"weights": weights} if weights else {}),
        execution={"device": "cuda", "workers": 1},
    )
    busy = _Busy()
    busy.start()
    ended = process_measurement.mapped(job)
    busy.over.set()
    busy.join()
    told = json.loads(ended.out)
    folder = Path(told["item"]).parent
    plan = json.loads(next(folder.glob("*/plan.json")).read_text())
    windows = sum(
        json.loads(path.read_text())["samples"]["windows"]
        for path in folder.glob("*/receipts/**/*.json")
    )
    rate = windows / told["seconds"]["tiles"]
    ceiling = _bare(given.model, weights, plan["model"]["batch"])
    yield f"{given.model}, {given.size}² px, {told['seconds']}"
    yield "| windows | per s, from scenes to stored tiles | the model alone | share | GPU busy |"
    yield "|---|---|---|---|---|"
    yield (
        f"| {windows} | {rate:.1f} | {ceiling:.1f} | {rate / ceiling:.0%} "
        f"| {busy.while_mapping():.0%} |"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="side of the region, px")
    parser.add_argument("--model", default="terramind_v1_base")
    endtoend.places(parser)
    for line in run(endtoend.placed(parser)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
