"""The models that a job can name, told without building them: no torch is imported here."""

from __future__ import annotations

import json
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

from model import config, modalities

RASTERS = ("S2L2A", "S1RTC", "DEM")
"""The inputs that the encoders' parameters are counted with: the default ones of a job."""


def rows() -> list[dict[str, Any]]:
    """List name, parameters (None where there is nothing to count), purpose, and weights' state.

    The state is one of shipped, missing, fetched, on the hub, and none.
    """
    return [_demo(), *map(_encoder, config.ARCHITECTURES), _none()]


def _demo() -> dict[str, Any]:
    files = [
        Path(str(entry))
        for entry in (resources.files("model") / "demo").iterdir()
        if entry.name.endswith(".safetensors")
    ]
    return {
        "name": "demo",
        "parameters": sum(map(_stored, files)) if files else None,
        "about": "small land-cover model, trained on invented countries",
        "weights": "shipped" if files else "missing",
    }


def _stored(path: Path) -> int:
    """Count the numbers in a safetensors file from its header: a length, then JSON."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    tensors = (entry for name, entry in header.items() if name != "__metadata__")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _encoder(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": parameters(config.architecture(name)),
        "about": "TerraMind encoder; wants a head fine-tuned for the task",
        "weights": "fetched" if _is_fetched(name) else "on the hub",
    }


def _none() -> dict[str, Any]:
    return {"name": "none", "parameters": None, "about": "composites only", "weights": "none"}


def parameters(size: config.Architecture) -> int:
    """Count an encoder's parameters with the inputs of RASTERS; position tables are buffers."""
    bands = [len(modalities.get(name).bands) for name in RASTERS]
    patches = sum(size.dim * (modalities.PATCH**2 * count + 1) for count in bands)
    matrices = 4 * size.dim**2 + (3 if size.gated else 2) * size.dim * size.hidden
    biases = 5 * size.dim + size.hidden if size.bias else 0
    norms = 2 * size.dim
    return patches + size.depth * (matrices + biases + norms) + size.dim


def _is_fetched(name: str) -> bool:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    size = name.removeprefix("terramind_v1_")
    pattern = f"models--*--TerraMind-1.0-{size}/snapshots/*/TerraMind_v1_{size}.pt"
    return cache.is_dir() and any(cache.glob(pattern))
