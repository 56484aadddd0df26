"""Peak memory by the shape of a region: `terramosaic run`, one worker, the demo model.

TerraTorch's `tiled_inference` stands beside it, with the same network on composites that lie in
memory already: ``python -m tests.benchmarks.footprint``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import (
    endtoend,
    mirrored_country,
    process_measurement,
    reference_inference,
)

SHAPES = ("2048x2048", "4096x4096", "8192x2048", "2048x8192")
"""Rows x columns."""


def ours(folder: Path, shape: str, tile: int | None) -> process_measurement.Ended:
    """Run a job with one worker."""
    height, width = map(int, shape.split("x"))
    out = folder / "footprint"
    shutil.rmtree(out, ignore_errors=True)
    execution = {"workers": 1} | ({"tile": tile} if tile else {})
    job = mirrored_country.lay(folder / shape, height, width).job(
        "footprint",
        out,
        inputs=list(reference_inference.INPUTS),
        model={"name": "demo"},
        execution=execution,
    )
    return process_measurement.mapped(job)


def run(given: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| rows x columns | way | s | peak of the worker, MiB | of the first | of all, MiB |"
    yield "|---|---|---|---|---|---|"
    firsts: dict[str, float] = {}
    for shape in given.shapes:
        script = [
            str(given.theirs),
            "-m",
            "tests.benchmarks.reference_inference",
            *shape.split("x"),
        ]
        ways = {
            "terramosaic run": lambda shape=shape: ours(given.folder, shape, given.tile),
            "tiled_inference": lambda script=script: process_measurement.watched(script),
        }
        for name, way in ways.items():
            ended = way()
            first = firsts.setdefault(name, ended.main)
            yield (
                f"| {shape} | {name} | {ended.seconds:.0f} | {ended.main:.0f} "
                f"| {ended.main / first:.2f} | {ended.peak:.0f} |"
            )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=SHAPES, help="rows x columns")
    parser.add_argument("--tile", type=int, help="px; default that of a job")
    endtoend.places(parser)
    given = endtoend.placed(parser)
    for line in run(given):
        print(line, flush=True)


if __name__ == "__main__":
    main()
