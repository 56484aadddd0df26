"""A region from scenes to map: `terramosaic run` beside the script that a user writes today.

Both are whole processes on the same scenes, region, period and model (random weights, S2L2A to
land cover), in turns: ``python -m tests.benchmarks.endtoend --size 4096``. The script runs in the
venv of `make reference`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks import mirrored_country, paired_timing, process_measurement
from tests.benchmarks.mirrored_country import Ground

THEIRS = process_measurement.ROOT / ".venv-reference" / "bin" / "python"
INPUTS = ["S2L2A"]
_WEIGHTS = """
from model.predictor import registry
made = registry.load({name!r}, {{"random": 0}}, inputs=["S2L2A"], device="cpu")
print(made.precision, sum(one.nbytes for one in made.network.state_dict().values()))
"""


def ours(land: Ground, name: str, out: Path, precision: str, tile: int | None) -> dict[str, Any]:
    """Run a job as a user does."""
    shutil.rmtree(out, ignore_errors=True)
    execution: dict[str, Any] = {"precision": precision}
    job = land.job(
        out.name,
        out,
        inputs=INPUTS,
        model={"name": name, "weights": {"random": 0}},
        execution=execution | ({"tile": tile} if tile else {}),
    )
    ended = process_measurement.mapped(job)
    told = json.loads(ended.out)["seconds"]
    rest = ended.seconds - told["tiles"] - told["publish"]
    gaps = told["tiles"] - told["tile"]
    # ^ tiles that overlap in time make it negative: then nobody waited for the scheduling
    return {
        "seconds": ended.seconds,
        "peak": ended.peak,
        "stages": told,
        "overhead": rest + max(gaps, 0.0),
    }


def theirs(
    land: Ground, name: str, out: Path, python: Path, *, autocast: bool = False
) -> dict[str, Any]:
    """Run the script."""
    script = str(process_measurement.ROOT / "tests" / "benchmarks" / "baseline.py")
    where = [*map(str, land.bounds), land.period, "--model", name]
    how = ["--autocast"] if autocast else []
    ended = process_measurement.watched(
        [str(python), script, str(land.catalog), str(out), *where, *how]
    )
    told = json.loads(ended.out.splitlines()[-1])
    return {
        "seconds": ended.seconds,
        "peak": ended.peak,
        "stages": told["seconds"],
        "weights": told["weights"] / 2**20,
    }


def _weights(name: str) -> tuple[str, float]:
    """Return our precision by itself, and MiB of weights at it."""
    code = _WEIGHTS.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=process_measurement.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    precision, size = done.stdout.split()
    return precision, int(size) / 2**20


def run(given: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a table."""
    yield from paired_timing.told(paired_timing.circumstances())
    land = mirrored_country.lay(given.folder / f"{given.size}x{given.size}", given.size, given.size)
    precision, size = _weights(given.model)
    ways = {
        "TerraTorch script": lambda: theirs(
            land, given.model, given.folder / "theirs.tif", given.theirs
        ),
        f"terramosaic run ({precision}, auto)": lambda: {
            **ours(land, given.model, given.folder / "ours", "auto", given.tile),
            "weights": size,
        },
    }
    if given.all:
        ways["TerraTorch script, autocast bf16"] = lambda: theirs(
            land, given.model, given.folder / "theirs.tif", given.theirs, autocast=True
        )
        ways["terramosaic run (fp32)"] = lambda: {
            **ours(land, given.model, given.folder / "ours32", "fp32", given.tile),
            "weights": size * (2 if precision == "bf16" else 1),
        }
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            taken[name].append(way())
            print(name, json.dumps(taken[name][-1]), file=sys.stderr, flush=True)
    yield f"{given.model}, random weights, {given.size}² px, {given.rounds} rounds in turn"
    yield "| way | s | times as fast | peak, MiB | beyond the weights, MiB | share | overhead |"
    yield "|---|---|---|---|---|---|---|"
    middle = {name: _middle(turns) for name, turns in taken.items()}
    first = next(iter(middle.values()))
    for name, one in middle.items():
        beyond = one["peak"] - one["weights"]
        share = beyond / (first["peak"] - first["weights"])
        over = f"{one['overhead'] / one['seconds']:.1%}" if "overhead" in one else ""
        yield (
            f"| {name} | {one['seconds']:.1f} | **{first['seconds'] / one['seconds']:.2f}** "
            f"| {one['peak']:.0f} | {beyond:.0f} | {share:.0%} | {over} |"
        )
    for name, turns in taken.items():
        yield f"{name}: {json.dumps(turns[-1]['stages'])}"


def _middle(turns: list[dict[str, Any]]) -> dict[str, float]:
    return {
        key: statistics.median(one[key] for one in turns)
        for key, value in turns[0].items()
        if isinstance(value, float)
    }


def places(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where things are."""
    parser.add_argument("--theirs", type=Path, default=THEIRS, help="a python with TerraTorch")
    parser.add_argument("--folder", type=Path, help="where scenes lie and results go")


def placed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options, with a folder that exists."""
    given = parser.parse_args()
    given.folder = given.folder or Path(tempfile.gettempdir()) / f"terramosaic-bench-{os.getuid()}"
    given.folder.mkdir(parents=True, exist_ok=True)
    return given


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="side of the region, px")
    parser.add_argument("--model", default="terramind_v1_base")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tile", type=int, help="px; default that of a job")
    parser.add_argument("--all", action="store_true", help="bf16 for theirs, fp32 for ours too")
    places(parser)
    for line in run(placed(parser)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
