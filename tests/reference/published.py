"""TerraTorch's models with random weights, and the inputs of both models."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

from model.terramind.modalities import RASTER_MODALITIES
from tests.reference import terramind

needs_terratorch = pytest.mark.skipif(
    not terramind.installed(), reason="terratorch is not installed here: run `make reference`"
)

SIDE = 224


def built(name, module=None, **options):
    """Build one of TerraTorch's models, with every parameter changed from its initial value."""
    random.seed(0)
    torch.manual_seed(0)
    source = terramind.part(module) if module else terramind.register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # ^ it warns that nothing is pre-trained
        network = getattr(source, name)(**options)
    return stirred(network).eval()


def stirred(module):
    """Change parameters that are constant, so that none is tested at zero or one only."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("missing_mod_token"):
                parameter.zero_()
                # ^ it is created from uninitialised memory
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return module


def inputs(modalities, batch, side=SIDE, seed=0):
    """Draw standardised rasters by modality."""
    return {
        name: normal((batch, len(RASTER_MODALITIES[name].bands), side, side), seed + place)
        for place, name in enumerate(modalities)
    }


def normal(shape, seed=0):
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
