"""Small generators, with weights so large that the likeliest tokens depend on the inputs."""

from __future__ import annotations

import functools

import torch

import model
from model.terramind import modalities
from model.terramind.tokenizers.coordinates import CoordsTokenizer

MICRO = {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 2}
TOKENIZER = {
    "dim": 32,
    "depth": 1,
    "heads": 2,
    "unet": {"channels": 32, "blocks": 1, "multipliers": [1, 1], "attention": [2]},
}
RAW = ("S2L2A", "S1GRD", "DEM")
WORDS = {"[EOS]": 3, "lat=1.50": 10, "lon=-7.25": 11, "lat=0.00": 12, "lon=0.00": 13}
COORDS = CoordsTokenizer(WORDS)


def set_large_weights(module, seed=3):
    """Give every parameter values so large that the likeliest tokens depend on the inputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if is_norm else 0.3 * noise)
    return module


@functools.cache
def make(inputs=RAW, outputs=("LULC", "NDVI"), **options):
    names = [n for n in {*inputs, *outputs} if n in ("LULC", "NDVI", "DEM", "S1GRD", "S2L2A")]
    needed = [n for n in names if n in outputs or n in ("LULC", "NDVI")]
    tokenizers = dict.fromkeys(needed, TOKENIZER)
    if "Coords" in inputs + outputs:
        tokenizers["Coords"] = COORDS
    return set_large_weights(
        model.generator(MICRO, list(inputs), list(outputs), tokenizers=tokenizers, **options)
    )


def rasters(names=RAW, height=32, width=32, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(
            batch, len(modalities.get_raster_modality(n).bands), height, width, generator=generator
        )
        for n in names
    }


def raw(names=RAW, **options):
    """Return rasters in their physical units."""
    values = {}
    for name, x in rasters(names, **options).items():
        scale = modalities.get_raster_modality(name).statistics
        mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (scale.mean, scale.std))
        values[name] = x * std / 3 + mean
    return values


def are_equal(first, second):
    """Return whether two dicts hold the same keys and equal tensors."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def record_batch_sizes(module):
    """Record the number of samples of each run of a module."""
    batch_sizes = []
    module.register_forward_pre_hook(lambda _, args: batch_sizes.append(len(args[0])))
    return batch_sizes
