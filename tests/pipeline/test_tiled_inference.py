"""Blended outputs of windows: equal in every tile that contains a pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.grid import window_lattice
from pipeline.grid.grid import Grid
from pipeline.grid.window_lattice import Lattice
from pipeline.inference import downsample, output_layers, test_time_augmentation
from pipeline.inference.tiled_inference import WindowRow
from tests.support import fake_predictors
from tests.support.fake_predictors import (
    Brightness,
    Edgy,
    Painter,
    Patches,
    Several,
)

LATTICE = Lattice(window=32, stride=20, context_width=2)
GRID = Grid(epsg=32633, resolution=10.0, left=430.0, top=910.0, height=100, width=90)
GROUND = np.random.default_rng(3).uniform(0, 8000, (400, 400)).astype(np.float32)


def _ground(area):
    """Return values that depend on the position on the ground alone."""
    row, column = area.origin_index()
    return GROUND[row + 150 : row + 150 + area.height, column + 100 : column + 100 + area.width]


def _map(area, predictor, **options):
    return fake_predictors.blend(area, LATTICE, predictor, _ground, **options)[0]


def test_a_pixelwise_model_is_not_changed_by_blending():
    found = _map(GRID, Brightness())
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
    whole = _map(GRID, Edgy())
    crop = GRID.window(row=row, column=column, height=height, width=width)
    part = _map(crop, Edgy(), batch=batch)
    assert np.array_equal(part, whole[:, row : row + height, column : column + width])


def test_tiles_join_without_a_seam():
    whole = _map(GRID, Edgy())
    for column in (0, 32, 64):
        part = GRID.window(row=16, column=column, height=40, width=min(32, 90 - column))
        assert np.array_equal(_map(part, Edgy()), whole[:, 16:56, column : column + part.width])


def test_windows_without_any_observation_are_not_computed():
    fake = Brightness()

    def observed(area):
        column = area.origin_index()[1]
        return np.broadcast_to(np.arange(area.width) + column < 80, area.shape)

    found = _map(GRID, fake, observed=observed)
    everything = Brightness()
    _map(GRID, everything)
    assert 0 < sum(fake.calls) < sum(everything.calls)
    assert np.isfinite(found[:, :, :37]).all()
    assert np.isnan(found[:, :, 70:]).all()


def test_every_batch_has_the_same_size():
    fake = Brightness()
    _map(GRID, fake, batch=7)
    assert set(fake.calls) == {7}


def test_without_observations_there_is_no_output():
    found = _map(GRID, Brightness(), observed=lambda area: np.zeros(area.shape, bool))
    assert np.isnan(found).all()


def test_classes_confidence_and_margin():
    shares = np.array([[[0.7]], [[0.2]], [[0.1]]], np.float32)
    found = output_layers.classify_probabilities(
        shares, ("water", "bare", "clouds"), np.ones((1, 1), bool)
    )
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
def test_clouds_and_unobserved_pixels_have_no_class(shares, observed):
    values = np.array(shares, np.float32).reshape(3, 1, 1)
    found = output_layers.classify_probabilities(
        values, ("water", "bare", "clouds"), np.full((1, 1), observed)
    )
    assert found["land_cover"][0, 0] == 0
    assert found["second_class"][0, 0] == 0
    assert found["confidence"][0, 0] == 255
    assert found["margin"][0, 0] == 255
    assert (found["probabilities"] == 255).all()


COARSE = Grid(epsg=32633, resolution=80.0, left=400.0, top=960.0, height=12, width=11)
PATCHES = Lattice(window=32, stride=24, context_width=0)


def _features(area, **options):
    return fake_predictors.blend(area.refine(8), PATCHES, Patches(), _ground, **options)[0]


def test_a_cell_is_the_output_of_its_own_pixels():
    found = _features(COARSE)
    means = downsample.mean(_ground(COARSE.refine(8)), 8)
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
    whole = _features(COARSE)
    crop = COARSE.window(row=row, column=column, height=height, width=width)
    part = _features(crop, batch=batch)
    assert np.array_equal(part, whole[:, row : row + height, column : column + width])


def test_an_output_of_another_shape_is_refused():
    class Wide(Patches):
        outputs = (replace(Patches.outputs[0], stride=4),)

    with pytest.raises(AssertionError, match="instead of"):
        fake_predictors.blend(COARSE.refine(8), PATCHES, Wide(), _ground)


def test_several_outputs_are_those_of_each_by_itself():
    area = COARSE.refine(8)
    outputs = fake_predictors.blend(area, PATCHES, Several(), _ground)
    for output, fake in zip(outputs, (Brightness, Patches, Painter), strict=True):
        assert np.array_equal(output, fake_predictors.blend(area, PATCHES, fake(), _ground)[0])


def test_features_and_values_are_stored_where_something_was_observed():
    spec = Painter.outputs[0]
    blended = np.array([[[0.25, 0.5, np.nan]]], np.float32)
    observed = np.array([[True, False, True]])
    layers = output_layers.to_layers(spec, blended, observed, include_probabilities=False)
    assert list(layers) == ["generated_NDVI"]
    assert np.array_equal(layers["generated_NDVI"], [[0.25, np.nan, np.nan]], equal_nan=True)
    with pytest.raises(ValueError, match="stores values in '1'"):
        replace(spec, unit="percent")


def test_the_model_receives_the_origins_of_windows():
    fake = Brightness()
    area = GRID.window(row=-10, column=-20, height=60, width=70)
    _map(area, fake, batch=1)
    row, column = area.origin_index()
    expected = [
        (r, c) for r in LATTICE.window_starts(row, 60) for c in LATTICE.window_starts(column, 70)
    ]
    assert fake.origins == expected


@settings(max_examples=40)
@given(
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.integers(0, 89),
    st.integers(0, 99),
    st.integers(1, 95),
    st.integers(1, 85),
)
def test_an_output_that_is_not_finite_affects_its_own_window_only(bad, at_x, at_y, height, width):
    """If any other window has a value for a pixel, it is used."""

    class Broken(Edgy):
        def one(self, values, places):
            output = super().one(values, places)
            for index, (row, column) in enumerate(places):
                if row <= at_y < row + 32 and column <= at_x < column + 32:
                    output[index, 0, at_y - row, at_x - column] = bad
            return output

    area = Grid(epsg=32633, resolution=10.0, left=0.0, top=0.0, height=height, width=width)
    good = _map(area, Edgy())
    found = _map(area, Broken())
    changed = np.argwhere(~np.isclose(found, good, atol=1e-6).all(axis=0))
    assert changed.tolist() in ([], [[at_y, at_x]])


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(16, 32), st.integers(0, 2**32 - 1))
def test_missing_pixels_never_spread(height, width, stride, seed):
    """Whatever the size, the stride and the mask: every observed pixel has its own value."""
    lattice = Lattice(window=32, stride=stride, context_width=0)
    area = Grid(epsg=32633, resolution=10.0, left=430.0, top=910.0, height=height, width=width)
    rng = np.random.default_rng(seed)
    holes = rng.random((400, 400)) < rng.choice([0.02, 0.5, 0.98])
    holes[rng.integers(0, 300) :, rng.integers(0, 300) :] |= rng.random() < 0.5

    def observed(grid):
        row, column = grid.origin_index()
        return ~holes[row + 150 :, column + 100 :][: grid.height, : grid.width]

    found = fake_predictors.blend(area, lattice, Brightness(), _ground, observed=observed)[0]
    seen = observed(area)
    whole = fake_predictors.blend(area, lattice, Brightness(), _ground)[0]
    assert np.isfinite(found[:, seen]).all()
    assert found[:, seen] == pytest.approx(whole[:, seen], abs=1e-5)


class Held(np.ndarray):
    """An array that says when the last of its views is gone."""

    alive = 0

    def __array_finalize__(self, other):
        self.owner = getattr(other, "owner", None)


class Owner:
    def __init__(self):
        Held.alive += 1

    def __del__(self):
        Held.alive -= 1


def test_the_memory_does_not_grow_with_the_height():
    """Few rows of windows are in memory at a time."""
    area = Grid(epsg=32633, resolution=10.0, left=0.0, top=0.0, height=2000, width=40)
    placed = window_lattice.place_windows(area, LATTICE)
    most = []

    def rows():
        for row in placed.window_rows:
            values = np.zeros((1, 32, placed.context_grid.width), np.float32).view(Held)
            values.owner = Owner()
            most.append(Held.alive)
            yield WindowRow(
                row=row,
                columns=placed.window_columns,
                inputs={"S2L2A": values},
                observed=np.ones(values.shape[1:], bool),
            )

    for _ in fake_predictors.predict_tile(rows(), placed, LATTICE, Brightness(), batch_size=4):
        pass
    assert len(most) > 90
    assert max(most) < 12


@pytest.mark.parametrize("turn", range(8))
def test_symmetries_undo_themselves(turn):
    quarter, mirrored = test_time_augmentation.SYMMETRIES[turn]
    values = np.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    turned = test_time_augmentation._apply_symmetry(values, quarter, mirrored)
    assert np.array_equal(
        test_time_augmentation._invert_symmetry(turned, quarter, mirrored), values
    )


def test_an_uncertain_window_is_averaged_over_the_symmetries():
    """A prediction by the position in the window becomes the mean of its eight symmetries."""
    fake = Edgy()
    chips = {"S2L2A": np.zeros((2, 1, 32, 32), np.float32)}
    plain = fake.predict(chips, [(0, 0), (0, 32)])[0]
    (same,) = test_time_augmentation.predict(fake, chips, [(0, 0), (0, 32)], 0.5)
    assert np.array_equal(same, plain)
    (found,) = test_time_augmentation.predict(fake, chips, [(0, 0), (0, 32)], 0.9)
    eight = [
        np.rot90(image, turns, (1, 2))
        for image in (plain[0], plain[0][:, :, ::-1])
        for turns in range(4)
    ]
    assert found[0] == pytest.approx(np.mean(eight, axis=0), abs=1e-6)


def test_windows_that_only_fill_up_a_batch_are_not_augmented():
    fake = Edgy()
    chips = {"S2L2A": np.zeros((2, 1, 32, 32), np.float32)}
    chips["S2L2A"][1] = np.nan
    test_time_augmentation.predict(fake, chips, [(0, 0), (0, 0)], 0.1)
    assert fake.calls == [2]
