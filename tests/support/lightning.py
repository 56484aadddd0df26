"""Segmentation models of a few thousand weights, and their checkpoints as Lightning stores them."""

from __future__ import annotations

import torch

import model
from model.terratorch import segmentation
from model.weights import loading

SIZE = {"dim": 32, "heads": 2, "depth": 4, "gated": False, "bias": True}
SELECT = {"name": "SelectIndices", "indices": [0, 1, 2, 3]}
RESHAPE = {"name": "ReshapeTokensToImage", "remove_cls_token": False}
LEARNED = {"name": "LearnedInterpolateToPyramidal"}
PYRAMID = [SELECT, RESHAPE, LEARNED]
ARGS = {
    "backbone": "micro",
    "backbone_pretrained": True,
    "backbone_modalities": ["S2L2A", "S1GRD"],
    "backbone_merge_method": "mean",
    "num_classes": 3,
    "necks": PYRAMID,
    "decoder": "UNetDecoder",
    "decoder_channels": [16, 12, 8, 8],
    "head_dropout": 0.1,
}


def whole_model(seed=0, **changes):
    options = {"num_classes": 3, "necks": PYRAMID, "decoder_options": {"channels": [16, 12, 8, 8]}}
    built = segmentation.build_model(SIZE, ["S2L2A", "S1GRD"], **(options | changes))
    return loading.initialise(built, seed)


def as_stored(whole, args=None, **told):
    state = {f"model.{key}": value for key, value in whole.state_dict().items()}
    hyper_parameters = {"task": "segmentation", "model_factory": "EncoderDecoderFactory", **told}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "hyper_parameters": hyper_parameters | {"model_args": ARGS | (args or {})},
    }


def inputs_of(height=64, width=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, channels, height, width, generator=generator)
        for name, channels in (("S2L2A", 12), ("S1GRD", 2))
    }


def load(content, **options):
    return model.fine_tuned(content, config=SIZE, **options)


def same(one, other):
    inputs = inputs_of()
    with torch.inference_mode():
        return torch.equal(one(inputs), other(inputs))
