"""Compiled blocks have the outputs of plain ones; a test here, because compiling takes a minute."""

from __future__ import annotations

import shutil

import pytest
import torch

import model
from tests.reference.published import needs_terratorch, normal

SIZE = {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 2}


@needs_terratorch
# ^ not needed here, but then the test runs where a further minute does not matter
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
# ^ the compiler's own
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_blocks(near):
    encoder = model.backbone(SIZE, ["DEM"], weights={"random": 0})
    image = normal((1, 1, 32, 32))
    with torch.inference_mode():
        expected = encoder(image)
        near(model.optimise_for_inference(encoder, "fp32", compiled=True)(image), expected, 1e-5)
