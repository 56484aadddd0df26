"""Peak memory of generators, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.reference import terramind

_COMMON = "import torch; torch.set_num_threads(2); torch.manual_seed(0)"
_PEAK = "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
# ^ the kernel's high-water mark; that of getrusage starts at the parent process's
_WARM = "torch.nn.Linear(64, 64)(torch.zeros(1, 64))"
# ^ memory that every process with torch needs
_CHIPS = 'chips = {"S2L2A": torch.randn(1, 12, 224, 224)}'

_WAYS = {
    "TerraTorch": (
        "from tests.reference import terramind; register = terramind.register()",
        "made = register.{size}_generate(modalities=['S2L2A'], output_modalities={outputs}).eval()",
        "with torch.inference_mode(): made(chips, timesteps=4)",
    ),
} | {
    precision: (
        "import model, model.weights.factory, model.predictor.compilation",
        (
            "made = model.generator('{size}', ['S2L2A'], {outputs}, {{'random': 0}}, "
            f"precision='{precision}'); model.optimise_for_inference(made, '{precision}')"
        ),
        "made.generate(chips, standardize=False, timesteps=4)",
    )
    for precision in ("fp32", "bf16")
}


def measured(size: str) -> list[dict[str, Any]]:
    """Return peak resident memory in MiB: of the whole process, and beyond its imports."""
    rows = []
    for outputs in (["LULC"], ["LULC", "DEM"]):
        for name, (load, build, use) in _WAYS.items():
            if name == "TerraTorch" and not terramind.installed():
                continue
            bare = _peak([_COMMON, load, _WARM, _PEAK])
            build_statement = build.format(size=size, outputs=outputs)
            peak = _peak([_COMMON, load, _CHIPS, build_statement, use, _PEAK])
            rows.append(
                {"outputs": outputs, "way": name, "process": peak, "generator": peak - bare}
            )
    return rows


def told(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the rows of a table; shares are of the first way with the same outputs."""
    yield "| peak memory of | way | process, MiB | share | beyond imports, MiB | share |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        first = next(r for r in rows if r["outputs"] == row["outputs"])
        shares = [f"{row[what] / first[what]:.0%}" for what in ("process", "generator")]
        yield (
            f"| S2L2A to {' and '.join(row['outputs'])} | {row['way']} | {row['process']:.0f} | "
            f"{shares[0]} | {row['generator']:.0f} | {shares[1]} |"
        )


def _peak(statements: list[str]) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(statements)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1]) / 2**10
