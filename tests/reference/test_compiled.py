"""Compiled blocks give what the plain ones give; here, because compiling takes a minute."""

from __future__ import annotations

import shutil

import pytest
import torch

import model
from tests.reference.published import needs_terratorch, normal

SIZE = {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 2}


@needs_terratorch
# ^ which it does not need, but then it runs where a minute more does not matter
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
# ^ the compiler's own
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile wants a C++ compiler here")
def test_compiled_blocks(near):
    made = model.backbone(SIZE, ["DEM"], weights={"random": 0})
    image = normal((1, 1, 32, 32))
    with torch.inference_mode():
        wanted = made(image)
        near(model.optimise_for_inference(made, "fp32", compiled=True)(image), wanted, 1e-5)
