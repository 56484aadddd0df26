"""Checkpoints of TerraTorch's tasks give the logits that they give there, or are refused.

They are written anew by `tests.reference.checkpoints`. `TERRAMOSAIC_CHECKPOINTS` may name a folder
with others: NAME.ckpt beside NAME.npz, with the inputs `in_…` and the logits `out`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model.errors import ModelError, WeightsError
from tests.reference import checkpoints

LIMIT = 1e-5
FOLDER = os.environ.get("TERRAMOSAIC_CHECKPOINTS")
REASONS = ("task", "dates", "merge_and_unload")
"""Words of the messages with which checkpoints of the folder may be refused."""

SAMPLED = ("tim",)
"""Checkpoints of models that sample at random in TerraTorch: their logits differ at each call."""

needs_tasks = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("terratorch", "lightning", "torchgeo", "peft"))),
    reason="TerraTorch's tasks are not installed: make reference-checkpoints",
)


def _write(folder, *arguments):
    command = [sys.executable, "-m", "tests.reference.checkpoints", str(folder), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with all variants."""
    path = tmp_path_factory.mktemp("checkpoints")
    _write(path)
    return path


def _read(path):
    stored = np.load(path)
    inputs = {key[3:]: torch.from_numpy(stored[key]) for key in stored if key.startswith("in_")}
    return inputs, torch.from_numpy(stored["out"])


def _compare(near, checkpoint, stored):
    inputs, expected = _read(stored)
    network = model.fine_tuned(checkpoint)
    with torch.inference_mode():
        near(network(inputs), expected, LIMIT)
    return network


@needs_tasks
@pytest.mark.parametrize("name", [*checkpoints.LOADED, *checkpoints.COARSE])
def test_logits_equal_those_of_terratorch(folder, near, name):
    network = _compare(near, folder / f"{name}.ckpt", folder / f"{name}.npz")
    if "bands" in name or name == "hls6":
        bands = ("B02", "B03", "B04", "B8A", "B11", "B12")
        assert network.inputs["S2L2A"] == bands[: len(network.inputs["S2L2A"])]
    if name == "unet":
        assert network.class_names == ("Others", "Burned", "Clouds")


@needs_tasks
@pytest.mark.parametrize("name", ["lora_split", "lora_patterns", "lora_lengths"])
def test_adapters_change_the_logits(folder, name):
    content = torch.load(folder / f"{name}.ckpt", weights_only=True)
    inputs, expected = _read(folder / f"{name}.npz")
    for key, value in content["state_dict"].items():
        if "lora_B" in key:
            value.zero_()
    with torch.inference_mode():
        error = (model.fine_tuned(content)(inputs) - expected).abs().max() / expected.abs().max()
    assert error > 100 * LIMIT


@needs_tasks
@pytest.mark.parametrize("name", checkpoints.UNMERGED)
def test_other_adapters_are_loaded_after_the_advice_is_followed(folder, near, name):
    with pytest.raises(WeightsError) as error:
        model.fine_tuned(folder / f"{name}.ckpt")
    advice = str(error.value).partition("save the result: ")[2]
    for merged in (name, "lora_split"):
        # ^ also after the same advice for LoRA, which needs none
        _write(folder, merged, "--run", advice)
        _compare(near, folder / "merged.ckpt", folder / f"{merged}.npz")


@pytest.mark.parametrize(
    "path", sorted(Path(FOLDER).glob("*.ckpt")) if FOLDER else [], ids=lambda path: path.stem
)
def test_checkpoints_of_a_folder_are_loaded_or_refused(near, path):
    try:
        network = model.fine_tuned(path)
    except ModelError as error:
        assert any(word in str(error) for word in REASONS)  # noqa: PT017
        return
    inputs, expected = _read(path.with_suffix(".npz"))
    if path.stem in SAMPLED:
        return
    with torch.inference_mode():
        near(network(inputs), expected, LIMIT)
