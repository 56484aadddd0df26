"""TerraMind and what is built on it: torch, numpy and safetensors, and nothing of the pipeline.

The names below are resolved at first use, so that importing `model.errors`, `model.config` or
`model.prediction.cards` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.acceleration import optimised
    from model.assembly import backbone, generator, segmenter, tim
    from model.prediction.known import load
    from model.segmentation.terratorch import fine_tuned
    from model.tokenizers.text import captions_tokenizer, coords_tokenizer
    from model.tokenizers.tokenizer import tokenizer
    from model.weights import load_state

__all__ = [
    "backbone",
    "captions_tokenizer",
    "coords_tokenizer",
    "fine_tuned",
    "generator",
    "load",
    "load_state",
    "optimised",
    "segmenter",
    "tim",
    "tokenizer",
]

_HOMES = {
    "backbone": "model.assembly",
    "segmenter": "model.assembly",
    "generator": "model.assembly",
    "tim": "model.assembly",
    "fine_tuned": "model.segmentation.terratorch",
    "load": "model.prediction.known",
    "load_state": "model.weights",
    "optimised": "model.acceleration",
    "tokenizer": "model.tokenizers.tokenizer",
    "coords_tokenizer": "model.tokenizers.text",
    "captions_tokenizer": "model.tokenizers.text",
}


def __dir__() -> list[str]:
    """Return the public names beside those that are here already."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
