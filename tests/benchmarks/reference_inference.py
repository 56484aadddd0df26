"""TerraTorch's `tiled_inference` of the demo model over composites that lie in memory.

``python -m tests.benchmarks.reference_inference ROWS COLUMNS``, in the venv of `make reference`.
"""

from __future__ import annotations

import sys

INPUTS = {"S2L2A": (12, 1500.0), "S1RTC": (2, -12.0), "DEM": (1, 400.0)}
"""Bands, and a value that they could have."""


def main(height: int, width: int) -> None:
    """Tile once."""
    import torch

    from model.predictor import registry
    from tests.reference import terramind

    ask = registry.load("demo", device="cpu", nan_policy="fill")
    chips = {
        name: torch.full((1, bands, height, width), value)
        for name, (bands, value) in INPUTS.items()
    }

    def forward(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(ask.predict({k: v.numpy() for k, v in given.items()})[0])

    classes = terramind.tiling().tiled_inference(forward, chips)[0].argmax(dim=0)
    print(tuple(classes.shape))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
