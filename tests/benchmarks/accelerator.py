"""Chips per second on a GPU, and the share of the fastest matrix product that this is."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import model
from tests.reference import terramind

PAIR = ("S2L2A", "S1GRD")
BANDS = {"S2L2A": 12, "S1GRD": 2}
SIDE = 224
Chips = Mapping[str, Tensor]
Way = Callable[[Chips], object]
Row = dict[str, Any]


def measured(device: str = "cuda", *, quick: bool = False) -> Iterator[tuple[str, Row]]:
    """Yield a line and its figures for each size, way and batch.

    All shares are of the fastest bf16 product, so that they can be compared.
    """
    ceiling = 0.0
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        ceiling = _fastest_product(kind, device, sides=(256,) if quick else (4096, 8192, 16384))
        row = {"what": f"{name} product", "tflops": ceiling / 1e12}
        yield f"{_name(device)}, {row['what']}: {row['tflops']:.1f} TFLOP/s", row
    head = ("model", "way", "batch", "chips/s", "times the first", "share of the product", "GiB")
    yield f"| {' | '.join(head)} |", {}
    yield "|" + "---|" * len(head), {}
    for size in ("tiny",) if quick else ("base", "large"):
        work = _operations(size)
        first: dict[int, float] = {}
        for name, build in _ways(size, device, quick=quick).items():
            way = build()
            for batch in (1, 2) if quick else (1, 8, 32, 128, 256):
                rate, peak = _rate(way, batch, device)
                row = {
                    "model": size,
                    "way": name,
                    "batch": batch,
                    "chips_per_second": rate,
                    "times": rate / first.setdefault(batch, rate),
                    "share": work * rate / ceiling,
                    "peak_gib": peak,
                }
                yield _line(row), row
            del way
            gc.collect()


def _ways(size: str, device: str, *, quick: bool) -> dict[str, Callable[[], Way]]:
    name = f"terramind_v1_{size}"

    def ours(precision: str, *, compiled: bool | str = False) -> Way:
        encoder = model.backbone(name, PAIR, weights={"random": 0}).to(device)
        optimised = model.optimise_for_inference(encoder, precision, compiled=compiled)
        return lambda chips: optimised.forward_layers(chips, [-1])

    def theirs(*, short: bool) -> Way:
        encoder = getattr(terramind.register(), name)(modalities=list(PAIR)).eval().to(device)

        def run(chips: Chips) -> object:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=short):
                return encoder(dict(chips))

        return run

    ways: dict[str, Callable[[], Way]] = {}
    if terramind.installed():
        ways["TerraTorch fp32"] = partial(theirs, short=False)
        ways["TerraTorch autocast"] = partial(theirs, short=True)
    ways |= {"fp32": partial(ours, "fp32"), "bf16": partial(ours, "bf16")}
    if not quick:
        ways["bf16, compiled"] = partial(ours, "bf16", compiled=True)
        ways["bf16, graphs"] = partial(ours, "bf16", compiled="reduce-overhead")
    return ways


def _rate(way: Way, batch: int, device: str) -> tuple[float, float]:
    """Return chips a second, and the peak of memory in GiB."""
    chips = {name: torch.randn(batch, BANDS[name], SIDE, SIDE, device=device) for name in PAIR}
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(partial(way, chips), device)
    return batch / seconds, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def _operations(size: str) -> float:
    """Return the floating-point operations of one chip."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        chip = {name: torch.empty(1, BANDS[name], SIDE, SIDE) for name in PAIR}
        model.backbone(f"terramind_v1_{size}", PAIR).forward_layers(chip, [-1])
    return float(counter.get_total_flops())


def _fastest_product(kind: torch.dtype, device: str, sides: Sequence[int]) -> float:
    """Return the highest rate of a square product, operations a second."""
    best = 0.0
    for side in sides:
        first, second = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        best = max(best, 2 * side**3 / _seconds(partial(torch.mm, first, second), device))
    return best


def _seconds(way: Callable[[], object], device: str, repeats: int = 20) -> float:
    """Return the median time of one call."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    times = []
    with torch.inference_mode():
        for _ in range(3):
            way()
        for _ in range(repeats):
            wait()
            started = time.perf_counter()
            way()
            wait()
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device


def _line(row: Row) -> str:
    return (
        f"| {row['model']} | {row['way']} | {row['batch']} | {row['chips_per_second']:.1f} | "
        f"{row['times']:.2f} | {row['share']:.0%} | {row['peak_gib']:.1f} |"
    )
