"""Seconds of each stage of a run over the least that this machine could take for it.

The floors: bytes over the bandwidth of disk or memory, operations over the rate of the matrix
product, all measured here first. ``python -m tests.benchmarks.roofline --size 1024 --model demo``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from flows.config import job as jobs
from flows.run import planning
from model.predictor import registry
from pipeline.compositing import composite_block
from pipeline.plan.plan import Plan
from pipeline.reading import asset_opener, cube
from tests.benchmarks import (
    endtoend,
    mirrored_country,
    paired_timing,
    process_measurement,
)

LARGE = 256 * 2**20
"""Bytes that a bandwidth is measured with."""

BANDS = 13
"""Assets of a Sentinel-2 scene that are read: the bands and the scene classification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine can do at most, bytes and operations a second."""

    load: float
    """From files that lie in the page cache."""

    save: float
    """To the disk, until it says that it has them."""

    memory: float
    """Through memory, all cores, in and out."""

    product: Mapping[str, float]
    """Operations of a matrix product, all cores, by precision."""


def machine(folder: Path) -> Machine:
    """Measure this machine."""
    path, block = folder / "bandwidth", np.random.default_rng(0).bytes(LARGE)
    written = _best(lambda: _save(path, block))
    read = _best(path.read_bytes)
    path.unlink()
    one, other = torch.ones(LARGE // 4), torch.empty(LARGE // 4)
    copied = _best(lambda: other.copy_(one))
    return Machine(
        load=LARGE / read,
        save=LARGE / written,
        memory=2 * LARGE / copied,
        product={"fp32": _product(torch.float32), "bf16": _product(torch.bfloat16)},
    )


def _save(path: Path, block: bytes) -> None:
    with path.open("wb") as file:
        file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _product(kind: torch.dtype, side: int = 2048) -> float:
    one, other = (torch.randn(side, side).to(kind) for _ in range(2))
    return 2 * side**3 / _best(lambda: one @ other)


def _best(work: Callable[[], object], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _reading(plan: Plan, threads: int) -> dict[str, float]:
    """Return seconds of reading and of composing the whole grid, and the bytes of both."""
    area = plan.grids[0]
    scenes = tuple(one for one in plan.snapshot.scenes if one.modality == "S2L2A")
    bands = [*plan.bands("S2L2A"), "SCL"]
    stacked = cube.load(scenes, bands, area, stored=True)
    started = time.perf_counter()
    values = np.empty(stacked.shape, np.uint16)
    workers = asset_opener.count_read_threads(scenes, threads)
    dask.array.store(stacked.data, values, lock=False, scheduler="threads", num_workers=workers)
    read = time.perf_counter() - started
    started = time.perf_counter()
    composite_block.compose(plan, scenes, area, threads=threads)
    both = time.perf_counter() - started
    files = {asset.href for one in scenes for band, asset in one.assets.items() if band in bands}
    around = mirrored_country.AROUND
    share = area.height * area.width / ((area.height + 2 * around) * (area.width + 2 * around))
    size = sum(Path(href.removeprefix("file://")).stat().st_size for href in files) * share
    moved = values.size * 4 + 4 * (len(bands) - 1) * area.height * area.width
    # ^ every observation comes in as float32, and one composite goes out
    return {"read": read, "compose": max(both - read, 0.0), "bytes": size, "moved": moved}


def _operations(name: str, weights: Any, inputs: list[str], precision: str) -> float:
    """Return the floating-point operations of one window."""
    ask = registry.load(name, weights, inputs=inputs, device="cpu", precision=precision, batch=1)
    chips = {
        key: np.zeros((1, len(b), ask.window, ask.window), "f4") for key, b in ask.inputs.items()
    }
    ask._map_batches = map
    # ^ the counter sees its own thread alone
    with FlopCounterMode(display=False) as counter:
        ask.predict(chips)
    return float(counter.get_total_flops())


def _size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def run(given: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a table."""
    yield from paired_timing.told(paired_timing.circumstances(("torch",)))
    limits = machine(given.folder)
    yield (
        f"read {limits.load / 1e9:.2f} GB/s, write {limits.save / 1e9:.2f} GB/s, memory "
        f"{limits.memory / 1e9:.1f} GB/s, products of {limits.product['fp32'] / 1e9:.0f} GFLOP/s "
        f"in fp32 and {limits.product['bf16'] / 1e9:.0f} in bf16"
    )
    land = mirrored_country.lay(given.folder / f"{given.size}x{given.size}", given.size, given.size)
    out, weights = given.folder / "roofline", None if given.model == "demo" else {"random": 0}
    inputs = ["S2L2A"]
    shutil.rmtree(out, ignore_errors=True)
    job = land.job(
        "roofline",
        out,
        inputs=inputs,
        model={"name": given.model} | ({"weights": weights} if weights else {}),
        execution={"workers": 1},
    )
    ended = process_measurement.mapped(job)
    told = json.loads(ended.out)
    seconds = told["seconds"]
    folder = Path(told["item"]).parent
    plan = planning.create_plan(jobs.load(job))
    precision = plan.model.precision
    found = _reading(plan, 2)
    proofs = [json.loads(path.read_text()) for path in folder.glob("*/receipts/**/*.json")]
    windows = sum(one["samples"]["windows"] - one["samples"]["shared"] for one in proofs)
    operations = windows * _operations(given.model, weights, inputs, precision)
    stored = sum(_size(path, "*") for path in folder.glob("*/*.zarr"))
    published = _size(folder, "*.tif")
    stages = {
        "read": (found["read"], found["bytes"] / limits.load, f"{found['bytes'] / 1e6:.0f} MB"),
        "compose": (
            found["compose"],
            found["moved"] / limits.memory,
            f"{found['moved'] / 1e6:.0f} MB through memory",
        ),
        "predict": (
            seconds["predict"],
            operations / limits.product[precision],
            f"{operations / 1e12:.2f} TFLOP in {windows:.0f} windows, {precision}",
        ),
        "write": (seconds["write"], stored / limits.save, f"{stored / 1e6:.1f} MB"),
        "publish": (
            seconds["publish"],
            stored / limits.load + published / limits.save,
            f"{stored / 1e6:.1f} MB in, {published / 1e6:.1f} MB out",
        ),
    }
    yield f"{given.model}, {given.size}² px, one worker; all: {ended.seconds:.1f} s, {seconds}"
    yield "| stage | s | of | floor, s | times the floor |"
    yield "|---|---|---|---|---|"
    for name, (taken, floor, what) in stages.items():
        yield f"| {name} | {taken:.2f} | {what} | {floor:.3f} | {taken / floor:.1f} |"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="side of the region, px")
    parser.add_argument("--model", default="terramind_v1_base")
    endtoend.places(parser)
    for line in run(endtoend.placed(parser)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
