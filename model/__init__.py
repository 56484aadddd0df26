"""TerraMind and what is built on it: torch, numpy and safetensors, and nothing of the pipeline.

The names below are resolved at first use, so that importing `model.errors`, `model.terramind.config` or
`model.predictor.cards` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.factory import backbone, generator, segmenter, tim
    from model.predictor.optimise import optimise_for_inference
    from model.predictor.registry import load
    from model.terramind.tokenizers.coordinates import captions_tokenizer, coords_tokenizer
    from model.terramind.tokenizers.tokenizer import tokenizer
    from model.terratorch.checkpoint import fine_tuned
    from model.weights.loading import load_state

__all__ = [
    "backbone",
    "captions_tokenizer",
    "coords_tokenizer",
    "fine_tuned",
    "generator",
    "load",
    "load_state",
    "optimise_for_inference",
    "segmenter",
    "tim",
    "tokenizer",
]

_EXPORTS = {
    "backbone": "model.factory",
    "segmenter": "model.factory",
    "generator": "model.factory",
    "tim": "model.factory",
    "fine_tuned": "model.terratorch.checkpoint",
    "load": "model.predictor.registry",
    "load_state": "model.weights.loading",
    "optimise_for_inference": "model.predictor.optimise",
    "tokenizer": "model.terramind.tokenizers.tokenizer",
    "coords_tokenizer": "model.terramind.tokenizers.coordinates",
    "captions_tokenizer": "model.terramind.tokenizers.coordinates",
}


def __dir__() -> list[str]:
    """Return the public names beside those that are here already."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
