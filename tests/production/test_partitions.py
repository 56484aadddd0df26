"""Whoever makes the tiles, in whatever order: the same bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import yaml

from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.run import stored_plan
from pipeline.storage import plan_file, zarr_store
from tests.support import partitions
from tests.support.small_model import CARD

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
    return partitions.create_plan(
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
    tiles = plan_file.read_plan_file(source).tiles
    assert len(tiles) >= 6
    return partitions.build_product(source, folder, tiles, engine="threads", workers=1)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_bytes_whoever_makes_them_in_whatever_order(source, reference, way, tmp_path):
    tiles = list(plan_file.read_plan_file(source).tiles)
    random.Random(way).shuffle(tiles)
    made = partitions.build_product(source, tmp_path / "made", tiles, **WAYS[way])
    assert made.files == reference.files
    assert any("/c/" in name for name in made.files)


def _painted(source, folder):
    """Make a plan; return land cover and probabilities, and where on Earth they begin, pixels."""
    plan = plan_file.read_plan_file(source)
    partitions.build_product(source, folder, plan.tiles, engine="threads", workers=2)
    whole = slice(0, plan.grid.height), slice(0, plan.grid.width)
    path = zarr_store.grid_store(folder, plan, plan.grid.epsg)
    values = [zarr_store.read_layer(path, name, *whole) for name in ("land_cover", "probabilities")]
    return np.concatenate([values[0][None], values[1]]), plan.grid.origin_index()


def _replanned(source, folder, region=None, **execution):
    """Freeze the job of a plan once more, for other tiles or another region."""
    folder.mkdir()
    values = yaml.safe_load((source.parent / "job.yaml").read_text())
    values["execution"] |= execution
    if region is not None:
        values["region"] = {"bbox": region}
    path = folder / "plan.json"
    stored_plan.make_plan(jobs.parse(values, folder=source.parent), NullProgress(), path)
    return path


@pytest.mark.parametrize("size", [48, 160, 512])
def test_the_size_of_the_tiles_changes_nothing(source, tmp_path, size):
    one, _ = _painted(source, tmp_path / "one")
    other, _ = _painted(_replanned(source, tmp_path / "plan", tile=size), tmp_path / "other")
    assert len({*np.unique(one[0])}) > 2
    assert np.array_equal(one, other)


def test_four_quarters_are_the_whole(source, tmp_path):
    """Each reads its context beyond its own edge, where there are scenes."""
    whole, (top, left) = _painted(source, tmp_path / "whole")
    job = yaml.safe_load((source.parent / "job.yaml").read_text())
    west, south, east, north = job["region"]["bbox"]
    x, y = (west + east) / 2, (south + north) / 2
    seen = np.zeros(whole.shape[1:], bool)
    corners = [(west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north)]
    for number, corner in enumerate(corners):
        plan = _replanned(source, tmp_path / f"plan-{number}", region=list(corner))
        part, (row, column) = _painted(plan, tmp_path / f"made-{number}")
        into = (
            slice(row - top, row - top + part.shape[1]),
            slice(column - left, column - left + part.shape[2]),
        )
        inside = part[0] != 0
        assert np.array_equal(part[:, inside], whole[(slice(None), *into)][:, inside])
        assert not (seen[into] & inside).any()
        seen[into] |= inside
    assert np.array_equal(seen, whole[0] != 0)
