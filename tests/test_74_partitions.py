"""Whoever makes the tiles, in whatever order: the same bytes."""

from __future__ import annotations

import random

import pytest
import yaml

from pipeline.plan import Plan
from tests import partitions
from tests.test_70_runs import CARD

WAYS = {
    "two threads": {"engine": "threads", "workers": 2},
    "four threads": {"engine": "threads", "workers": 4},
    "two processes": {"engine": "distributed", "workers": 2},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Freeze a plan of some tiles once."""
    folder = tmp_path_factory.mktemp("source")
    card = CARD | {"inputs": {"S2L2A": CARD["inputs"]["S2L2A"]}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(card))
    return partitions.plan(
        folder,
        size=512,
        tile=64,
        part=0.2,
        inputs=["S2L2A"],
        period="2021-05-10/2021-06-10",
        radiometry={"proof": "off"},
        model={"name": "tiny.yaml", "weights": {"random": 3}},
        output={"path": "out", "probabilities": True, "composites": True},
    )


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """Make it by one thread, in order."""
    folder = tmp_path_factory.mktemp("reference") / "made"
    tiles = Plan.read(source).tiles
    assert len(tiles) >= 6
    return partitions.made(source, folder, tiles, engine="threads", workers=1)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_bytes_whoever_makes_them_in_whatever_order(source, reference, way, tmp_path):
    tiles = list(Plan.read(source).tiles)
    random.Random(way).shuffle(tiles)
    made = partitions.made(source, tmp_path / "made", tiles, **WAYS[way])
    assert made.files == reference.files
    assert any("/c/" in name for name in made.files)
