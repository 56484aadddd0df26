"""TerraMind and the models built on it. It needs torch, numpy and safetensors, not the pipeline.

The public names are imported at first use, so that importing `model.errors`,
`model.terramind.architectures` or `model.predictor.card_file` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.predictor.compilation import optimise_for_inference
    from model.predictor.registry import load
    from model.terratorch.lightning_checkpoint import fine_tuned
    from model.weights.factory import (
        backbone,
        generator,
        segmenter,
        tim,
    )
    from model.weights.loading import load_state
    from model.weights.tokenizer_loading import captions_tokenizer, coords_tokenizer, tokenizer

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
    "backbone": "model.weights.factory",
    "segmenter": "model.weights.factory",
    "generator": "model.weights.factory",
    "tim": "model.weights.factory",
    "fine_tuned": "model.terratorch.lightning_checkpoint",
    "load": "model.predictor.registry",
    "load_state": "model.weights.loading",
    "optimise_for_inference": "model.predictor.compilation",
    "tokenizer": "model.weights.tokenizer_loading",
    "coords_tokenizer": "model.weights.tokenizer_loading",
    "captions_tokenizer": "model.weights.tokenizer_loading",
}


def __dir__() -> list[str]:
    """Return the public names beside those that are already imported."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
