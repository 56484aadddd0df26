"""Segmentation models of a few thousand weights, and their checkpoints as Lightning stores them."""

from __future__ import annotations

import torch

import model
from model.terratorch import segmentation_model
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


def build_model(
    architecture,
    modalities,
    num_classes,
    necks=None,
    decoder="UNetDecoder",
    decoder_options=None,
    head_options=None,
    merge="mean",
    bands=None,
):
    """Build a segmentation model without weights; see `segmentation.assemble_model`."""
    encoder = model.backbone(architecture, modalities, bands=bands, merge=merge)
    return segmentation_model.assemble_model(
        encoder, num_classes, necks, decoder, decoder_options, head_options
    )


def whole_model(seed=0, **changes):
    """Build a small segmentation model with random weights."""
    options = {"num_classes": 3, "necks": PYRAMID, "decoder_options": {"channels": [16, 12, 8, 8]}}
    built = build_model(SIZE, ["S2L2A", "S1GRD"], **(options | changes))
    return loading.initialise(built, seed)


def as_stored(network, args=None, **options):
    """Return the content of a Lightning checkpoint of a segmentation model."""
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    hyper_parameters = {"task": "segmentation", "model_factory": "EncoderDecoderFactory", **options}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "hyper_parameters": hyper_parameters | {"model_args": ARGS | (args or {})},
    }


def random_inputs(height=64, width=64, seed=1):
    """Return standardised rasters of two windows."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, channels, height, width, generator=generator)
        for name, channels in (("S2L2A", 12), ("S1GRD", 2))
    }


def load(content, **options):
    """Load a fine-tuned model."""
    return model.fine_tuned(content, config=SIZE, **options)


def same_outputs(first, second):
    """Return whether two models give the same logits."""
    inputs = random_inputs()
    with torch.inference_mode():
        return torch.equal(first(inputs), second(inputs))
