"""Weight files of official size that take no disk space, and the command that inspects them.

Each tensor of such a file has its full shape, and one number in memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

import model
from flows.cli import main

ROOT = Path(__file__).parents[2]
TINY, LULC = "terramind_v1_tiny", "terramind_v1_tokenizer_lulc"
COORDS = "terramind_v1_tokenizer_coords"
TOY = {"architecture": {"dim": 32, "heads": 2, "depth": 2}, "inputs": ["DEM"], "width": 8}


@pytest.fixture(autouse=True, name="home")
def own_home(tmp_path, monkeypatch):
    """Isolate a test from this machine's weights and from the hub. Import it to use it."""
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERRAMOSAIC_WEIGHTS", raising=False)
    monkeypatch.delenv("TERRAMOSAIC_DEBUG", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    return tmp_path / "home"


def run(*arguments):
    return main.main(["models", *map(str, arguments)])


def answer(capsys, *arguments, code=0, name=None):
    """Run with --json and return the object, validated against its schema."""
    assert run(*arguments, "--json") == code
    result = json.loads(capsys.readouterr().out)
    schema = json.loads((ROOT / "docs" / "json" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(result)
    return result


def refused(capsys, *arguments):
    """Run a command that fails, and return its one line of error."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    assert "unexpected" not in lines[0]
    return lines[0]


def hollow(path, shapes, prefix=""):
    """Write a state dict of these shapes that takes no disk space."""
    state = {
        f"{prefix}{key}": torch.zeros(1).expand(*shape) if shape else torch.zeros(())
        for key, shape in shapes.items()
    }
    torch.save(state, path)
    return path


def shapes_of(build):
    with torch.device("meta"):
        module = build()
    return {key: list(value.shape) for key, value in module.state_dict().items()}


@pytest.fixture(scope="module", name="tiny_shapes")
def shapes_of_tiny():
    return shapes_of(lambda: model.backbone(TINY, ["S2L2A", "DEM", "LULC"]))
