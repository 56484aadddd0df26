"""Run the benchmarks: ``make bench``, or ``python -m tests.benchmarks reading predictor``."""

from __future__ import annotations

import importlib
import sys

NAMED = ("reading", "warping", "predictor")


def main() -> None:
    for name in sys.argv[1:] or NAMED:
        print(f"## {name}")
        for line in importlib.import_module(f"tests.benchmarks.{name}").run():
            print(line, flush=True)


if __name__ == "__main__":
    main()
