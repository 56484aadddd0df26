"""TerraMind and what is built on it: torch, numpy and safetensors, and nothing of the pipeline.

The names below are resolved at first use, so that importing `model.errors`, `model.cards` or
`model.config` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.assembly import backbone, segmenter
    from model.known import load
    from model.weights import load_state

__all__ = ["backbone", "load", "load_state", "segmenter"]

_HOMES = {
    "backbone": "model.assembly",
    "segmenter": "model.assembly",
    "load": "model.known",
    "load_state": "model.weights",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
