"""Seams of our tiling against TerraTorch's, both in this run, on a network that shows them."""

from __future__ import annotations

import pytest

from pipeline.grid.window_lattice import Lattice
from tests.benchmarks import seams
from tests.reference.published import needs_terratorch


@pytest.fixture(scope="module")
def theirs():
    return seams.theirs()


def _line(one, base):
    return (
        f"{one.way}: {one.density:.3f} windows per km², largest step {one.mean:.2f} medians, "
        f"{one.mean / base.mean:.2f} times TerraTorch's"
    )


@needs_terratorch
@pytest.mark.parametrize(
    ("stride", "density", "most"),
    [(192, 0.2713, 0.4), (205, 0.24, 0.7)],
    ids=["as-dense-as-theirs", "sparser"],
)
def test_seams_are_a_fraction_of_terratorch_s(stride, density, most, theirs, record_property):
    lattice = Lattice(window=seams.WINDOW, stride=stride, context_width=0)
    measured = seams.ours(lattice)
    record_property("lines", [_line(theirs, theirs), _line(measured, theirs)])
    assert measured.density <= density
    assert theirs.density == pytest.approx(0.2713, abs=1e-4)
    assert measured.mean <= most * theirs.mean


@needs_terratorch
def test_their_windows_are_those_that_they_run(theirs):
    assert theirs.used == 49
    assert theirs.used / (seams.SIDE / 100) ** 2 == pytest.approx(theirs.density, rel=1e-3)
    assert len(theirs.steps) == 2 * seams.SEEDS
    assert min(theirs.steps) > 3
    # ^ their lines show: else there would be nothing to compare with
