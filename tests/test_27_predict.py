"""Windows to blended probabilities: whoever asks gets the same answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import answers, cells, predict, windows
from pipeline.grid import Grid, Tile
from pipeline.recipe import Model
from pipeline.windows import Lattice
from tests.fakes import Brightness, Edgy, Patches

LATTICE = Lattice(window=32, stride=20, margin=2)
GRID = Grid(epsg=32633, resolution=10.0, left=430.0, top=910.0, height=100, width=90)
GROUND = np.random.default_rng(3).uniform(0, 8000, (400, 400)).astype(np.float32)


def _ground(area):
    """Return the ground under a grid: a function of the place alone."""
    row, column = area.origin_index()
    return GROUND[row + 150 : row + 150 + area.height, column + 100 : column + 100 + area.width]


def _map(grid, part, predictor, *, batch=4, observed=None):
    placed = windows.place(grid, part, LATTICE)
    values = _ground(placed.context)
    seen = np.ones(values.shape, bool) if observed is None else observed(placed.context)
    return predict.blended(
        {"S2L2A": np.where(seen, values, np.nan)[None]},
        seen,
        part,
        placed,
        LATTICE,
        predictor,
        batch=batch,
    )


def _whole(grid):
    return Tile(id="t", row=0, column=0, height=grid.height, width=grid.width, epsg=grid.epsg)


def test_a_pixelwise_model_is_not_changed_by_blending():
    found = _map(GRID, _whole(GRID), Brightness())
    assert found.sum(axis=0) == pytest.approx(1.0, abs=1e-5)
    assert found[1] == pytest.approx(_ground(GRID) / 10_000, abs=1e-5)


@settings(max_examples=25)
@given(
    st.integers(0, 80),
    st.integers(0, 70),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 9),
)
def test_every_crop_gives_the_same_pixels(row, column, height, width, batch):
    whole = _map(GRID, _whole(GRID), Edgy())
    crop = GRID.window(row=row, column=column, height=height, width=width)
    part = _map(crop, _whole(crop), Edgy(), batch=batch)
    assert np.array_equal(part, whole[:, row : row + height, column : column + width])


def test_tiles_join_without_a_seam():
    whole = _map(GRID, _whole(GRID), Edgy())
    for column in (0, 32, 64):
        part = Tile(
            id="t", row=16, column=column, height=40, width=min(32, 90 - column), epsg=32633
        )
        assert np.array_equal(
            _map(GRID, part, Edgy()), whole[:, 16:56, column : column + part.width]
        )


def test_windows_without_any_observation_are_not_computed():
    fake = Brightness()

    def observed(area):
        column = area.origin_index()[1]
        return np.broadcast_to(np.arange(area.width) + column < 80, area.shape)

    found = _map(GRID, _whole(GRID), fake, observed=observed)
    everything = Brightness()
    _map(GRID, _whole(GRID), everything)
    assert 0 < sum(fake.calls) < sum(everything.calls)
    assert np.isfinite(found[:, :, :37]).all()
    assert np.isnan(found[:, :, 70:]).all()


def test_every_batch_has_the_same_size():
    fake = Brightness()
    _map(GRID, _whole(GRID), fake, batch=7)
    assert set(fake.calls) == {7}


def test_nothing_seen_gives_no_answer():
    found = _map(GRID, _whole(GRID), Brightness(), observed=lambda area: np.zeros(area.shape, bool))
    assert np.isnan(found).all()


def test_classes_confidence_and_margin():
    shares = np.array([[[0.7]], [[0.2]], [[0.1]]], np.float32)
    found = answers.classify(shares, ("water", "bare", "clouds"), np.ones((1, 1), bool))
    assert {name: int(values.ravel()[0]) for name, values in found.items()} == {
        "land_cover": 1,
        "confidence": 70,
        "second_class": 8,
        "margin": 50,
        "probabilities": 140,
    }


@pytest.mark.parametrize(
    ("shares", "observed"),
    [((0.1, 0.1, 0.8), True), ((0.7, 0.2, 0.1), False), ((np.nan,) * 3, True)],
)
def test_clouds_and_the_unseen_have_no_class(shares, observed):
    values = np.array(shares, np.float32).reshape(3, 1, 1)
    found = answers.classify(values, ("water", "bare", "clouds"), np.full((1, 1), observed))
    assert found["land_cover"][0, 0] == 0
    assert found["second_class"][0, 0] == 0
    assert found["confidence"][0, 0] == 255
    assert found["margin"][0, 0] == 255
    assert (found["probabilities"] == 255).all()


COARSE = Grid(epsg=32633, resolution=80.0, left=400.0, top=960.0, height=12, width=11)
PATCHES = Lattice(window=4, stride=3, margin=0)


def _features(grid, part, *, batch=4):
    placed = windows.place(grid, part, PATCHES)
    values = _ground(placed.context.refined(8))
    return predict.blended(
        {"S2L2A": values[None]},
        np.ones(values.shape, bool),
        part,
        placed,
        PATCHES,
        Patches(),
        batch=batch,
    )


def test_a_cell_is_the_answer_of_its_own_pixels():
    found = _features(COARSE, _whole(COARSE))
    means = cells.mean(_ground(COARSE.refined(8)), 8)
    assert found[0] == pytest.approx(means, rel=1e-5)
    assert found[2] == pytest.approx(7)


@settings(max_examples=25)
@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 5),
)
def test_every_crop_gives_the_same_cells(row, column, height, width, batch):
    whole = _features(COARSE, _whole(COARSE))
    crop = COARSE.window(row=row, column=column, height=height, width=width)
    part = _features(crop, _whole(crop), batch=batch)
    assert np.array_equal(part, whole[:, row : row + height, column : column + width])


def test_an_answer_of_another_shape_is_refused():
    class Wide(Patches):
        cell = 4

        def __call__(self, chips):
            return Patches()(chips)

    placed = windows.place(COARSE, _whole(COARSE), PATCHES)
    values = _ground(placed.context.refined(8))
    with pytest.raises(AssertionError, match="instead of"):
        predict.blended(
            {"S2L2A": values[None]},
            np.ones(values.shape, bool),
            _whole(COARSE),
            placed,
            Lattice(window=8, stride=3, margin=2),
            Wide(),
            batch=2,
        )


def test_features_and_values_stay_where_something_was_seen():
    model = Model(
        name="fake",
        digest="d",
        window=32,
        inputs={"S2L2A": ("B02",)},
        class_names=(),
        precision="fp32",
        batch=1,
        task="generate",
        bands=("NDVI",),
        modality="NDVI",
        unit="1",
    )
    blended = np.array([[[0.25, 0.5, np.nan]]], np.float32)
    observed = np.array([[True, False, True]])
    found = answers.of(model, blended, observed, probabilities=False)
    assert list(found) == ["generated_NDVI"]
    assert np.array_equal(found["generated_NDVI"], [[0.25, np.nan, np.nan]], equal_nan=True)
    with pytest.raises(ValueError, match="holds '1'"):
        answers.variables(replace(model, unit="percent"), probabilities=False)
