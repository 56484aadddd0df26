"""Tokenizers of a few thousand weights, and random inputs for them."""

from __future__ import annotations

import torch

import model

MICRO = {"dim": 32, "depth": 1, "heads": 2, "image_size": 64}
UNET = {"channels": 32, "blocks": 1}


def make_tokenizer(modality="DEM", unet=UNET, **options):
    size = MICRO | {"modality": modality} | ({} if modality == "LULC" else {"unet": unet})
    return model.tokenizer(size, **({"weights": {"random": 3}} | options))


def make_ids(tokenizer, batch=1, rows=4, columns=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tokenizer.vocab_size, (batch, rows, columns), generator=generator)


def make_pixels(tokenizer, batch=1, height=32, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokenizer.channels, height, width, generator=generator)


def make_class_raster(batch=2, height=32, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, (batch, height, width), generator=generator)
