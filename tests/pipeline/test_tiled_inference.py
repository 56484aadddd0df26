"""Blended outputs of windows are equal in every tile that contains a pixel."""

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
from pipeline.plan.output_spec import OutputSpec
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


def _ground(grid):
    """Return values that depend on the position on the ground only."""
    row, column = grid.origin_index()
    return GROUND[row + 150 : row + 150 + grid.height, column + 100 : column + 100 + grid.width]


def _predict(grid, predictor, **options):
    return fake_predictors.blend(grid, LATTICE, predictor, _ground, **options)[0]


def test_a_pixelwise_model_is_not_changed_by_blending():
    actual = _predict(GRID, Brightness())
    assert actual.sum(axis=0) == pytest.approx(1.0, abs=1e-5)
    assert actual[1] == pytest.approx(_ground(GRID) / 10_000, abs=1e-5)


@settings(max_examples=25)
@given(
    st.integers(0, 80),
    st.integers(0, 70),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 9),
)
def test_every_crop_has_the_same_pixels(row, column, height, width, batch):
    expected = _predict(GRID, Edgy())
    crop = GRID.window(row=row, column=column, height=height, width=width)
    actual = _predict(crop, Edgy(), batch=batch)
    assert np.array_equal(actual, expected[:, row : row + height, column : column + width])


def test_tiles_join_without_a_seam():
    expected = _predict(GRID, Edgy())
    for column in (0, 32, 64):
        tile_grid = GRID.window(row=16, column=column, height=40, width=min(32, 90 - column))
        assert np.array_equal(
            _predict(tile_grid, Edgy()), expected[:, 16:56, column : column + tile_grid.width]
        )


def test_windows_without_any_observation_are_not_computed():
    predictor = Brightness()

    def observed(grid):
        column = grid.origin_index()[1]
        return np.broadcast_to(np.arange(grid.width) + column < 80, grid.shape)

    actual = _predict(GRID, predictor, observed=observed)
    complete_predictor = Brightness()
    _predict(GRID, complete_predictor)
    assert 0 < sum(predictor.calls) < sum(complete_predictor.calls)
    assert np.isfinite(actual[:, :, :37]).all()
    assert np.isnan(actual[:, :, 70:]).all()


def test_every_batch_has_the_same_size():
    predictor = Brightness()
    _predict(GRID, predictor, batch=7)
    assert set(predictor.calls) == {7}


def test_without_observations_there_is_no_output():
    actual = _predict(GRID, Brightness(), observed=lambda grid: np.zeros(grid.shape, bool))
    assert np.isnan(actual).all()


THREE_CLASSES = OutputSpec(class_names=("water", "bare", "clouds"))


def test_layers_of_a_classification():
    probabilities = np.array([[[0.7]], [[0.2]], [[0.1]]], np.float32)
    layers = output_layers.classify_probabilities(
        THREE_CLASSES, probabilities, np.ones((1, 1), bool)
    )
    assert {name: int(values.ravel()[0]) for name, values in layers.items()} == {
        "land_cover": 1,
        "confidence": 70,
        "second_class": 8,
        "margin": 50,
        "probabilities": 140,
    }


@pytest.mark.parametrize(
    ("probabilities", "observed"),
    [((0.1, 0.1, 0.8), True), ((0.7, 0.2, 0.1), False), ((np.nan,) * 3, True)],
)
def test_clouds_and_unobserved_pixels_have_no_class(probabilities, observed):
    values = np.array(probabilities, np.float32).reshape(3, 1, 1)
    layers = output_layers.classify_probabilities(THREE_CLASSES, values, np.full((1, 1), observed))
    assert layers["land_cover"][0, 0] == 0
    assert layers["second_class"][0, 0] == 0
    assert layers["confidence"][0, 0] == 255
    assert layers["margin"][0, 0] == 255
    assert (layers["probabilities"] == 255).all()


COARSE = Grid(epsg=32633, resolution=80.0, left=400.0, top=960.0, height=12, width=11)
PATCHES = Lattice(window=32, stride=24, context_width=0)


def _predict_cells(grid, **options):
    return fake_predictors.blend(grid.refine(8), PATCHES, Patches(), _ground, **options)[0]


def test_a_cell_is_the_output_of_its_own_pixels():
    actual = _predict_cells(COARSE)
    expected = downsample.mean(_ground(COARSE.refine(8)), 8)
    assert actual[0] == pytest.approx(expected, rel=1e-5)
    assert actual[2] == pytest.approx(7)


@settings(max_examples=25)
@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 5),
)
def test_every_crop_has_the_same_cells(row, column, height, width, batch):
    expected = _predict_cells(COARSE)
    crop = COARSE.window(row=row, column=column, height=height, width=width)
    actual = _predict_cells(crop, batch=batch)
    assert np.array_equal(actual, expected[:, row : row + height, column : column + width])


def test_an_output_of_wrong_shape_is_refused():
    class Wide(Patches):
        outputs = (replace(Patches.outputs[0], stride=4),)

    with pytest.raises(AssertionError, match="instead of"):
        fake_predictors.blend(COARSE.refine(8), PATCHES, Wide(), _ground)


def test_each_of_several_outputs_is_blended_as_if_alone():
    grid = COARSE.refine(8)
    outputs = fake_predictors.blend(grid, PATCHES, Several(), _ground)
    for output, predictor_class in zip(outputs, (Brightness, Patches, Painter), strict=True):
        assert np.array_equal(
            output, fake_predictors.blend(grid, PATCHES, predictor_class(), _ground)[0]
        )


def test_embeddings_and_values_are_stored_where_observed():
    spec = Painter.outputs[0]
    blended = np.array([[[0.25, 0.5, np.nan]]], np.float32)
    observed = np.array([[True, False, True]])
    layers = output_layers.to_layers(spec, blended, observed, include_probabilities=False)
    assert list(layers) == ["generated_NDVI"]
    assert np.array_equal(layers["generated_NDVI"], [[0.25, np.nan, np.nan]], equal_nan=True)
    with pytest.raises(ValueError, match="stores values in '1'"):
        replace(spec, unit="percent")


def test_the_model_receives_the_origins_of_windows():
    predictor = Brightness()
    grid = GRID.window(row=-10, column=-20, height=60, width=70)
    _predict(grid, predictor, batch=1)
    row, column = grid.origin_index()
    expected = [
        (window_row, window_column)
        for window_row in LATTICE.window_starts(row, 60)
        for window_column in LATTICE.window_starts(column, 70)
    ]
    assert predictor.origins == expected


@settings(max_examples=40)
@given(
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.integers(0, 89),
    st.integers(0, 99),
    st.integers(1, 95),
    st.integers(1, 85),
)
def test_a_non_finite_output_affects_only_its_own_window(
    invalid_value, invalid_column, invalid_row, height, width
):
    """The values of overlapping windows are used for the pixel, if there are any."""

    class Broken(Edgy):
        def predict_values(self, values, origins):
            output = super().predict_values(values, origins)
            for index, (row, column) in enumerate(origins):
                if row <= invalid_row < row + 32 and column <= invalid_column < column + 32:
                    output[index, 0, invalid_row - row, invalid_column - column] = invalid_value
            return output

    area = Grid(epsg=32633, resolution=10.0, left=0.0, top=0.0, height=height, width=width)
    expected = _predict(area, Edgy())
    actual = _predict(area, Broken())
    changed = np.argwhere(~np.isclose(actual, expected, atol=1e-6).all(axis=0))
    assert changed.tolist() in ([], [[invalid_row, invalid_column]])


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(16, 32), st.integers(0, 2**32 - 1))
def test_missing_pixels_never_spread(height, width, stride, seed):
    """Whatever the size, the stride and the mask, every observed pixel has its own value."""
    lattice = Lattice(window=32, stride=stride, context_width=0)
    area = Grid(epsg=32633, resolution=10.0, left=430.0, top=910.0, height=height, width=width)
    rng = np.random.default_rng(seed)
    is_missing = rng.random((400, 400)) < rng.choice([0.02, 0.5, 0.98])
    is_missing[rng.integers(0, 300) :, rng.integers(0, 300) :] |= rng.random() < 0.5

    def observed(grid):
        row, column = grid.origin_index()
        return ~is_missing[row + 150 :, column + 100 :][: grid.height, : grid.width]

    actual = fake_predictors.blend(area, lattice, Brightness(), _ground, observed=observed)[0]
    is_observed = observed(area)
    expected = fake_predictors.blend(area, lattice, Brightness(), _ground)[0]
    assert np.isfinite(actual[:, is_observed]).all()
    assert actual[:, is_observed] == pytest.approx(expected[:, is_observed], abs=1e-5)


class TrackedArray(np.ndarray):
    """An array that counts how many arrays are alive, including their views."""

    alive = 0

    def __array_finalize__(self, other):
        self.owner = getattr(other, "owner", None)


class Owner:
    def __init__(self):
        TrackedArray.alive += 1

    def __del__(self):
        TrackedArray.alive -= 1


def test_memory_does_not_grow_with_the_height():
    """Only a few rows of windows are in memory at a time."""
    area = Grid(epsg=32633, resolution=10.0, left=0.0, top=0.0, height=2000, width=40)
    placement = window_lattice.place_windows(area, LATTICE)
    alive_counts = []

    def iter_window_rows():
        for row in placement.window_rows:
            values = np.zeros((1, 32, placement.context_grid.width), np.float32).view(TrackedArray)
            values.owner = Owner()
            alive_counts.append(TrackedArray.alive)
            yield WindowRow(
                row=row,
                columns=placement.window_columns,
                inputs={"S2L2A": values},
                observed=np.ones(values.shape[1:], bool),
            )

    for _ in fake_predictors.predict_tile(
        iter_window_rows(), placement, LATTICE, Brightness(), batch_size=4
    ):
        pass
    assert len(alive_counts) > 90
    assert max(alive_counts) < 12


@pytest.mark.parametrize("index", range(8))
def test_symmetries_are_inverted(index):
    quarter_turns, is_mirrored = test_time_augmentation.SYMMETRIES[index]
    values = np.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    transformed = test_time_augmentation._apply_symmetry(values, quarter_turns, is_mirrored)
    assert np.array_equal(
        test_time_augmentation._invert_symmetry(transformed, quarter_turns, is_mirrored), values
    )


def test_an_uncertain_window_is_averaged_over_the_symmetries():
    """An output that depends on the position becomes the mean of its eight symmetries."""
    predictor = Edgy()
    chips = {"S2L2A": np.zeros((2, 1, 32, 32), np.float32)}
    expected = predictor.predict(chips, [(0, 0), (0, 32)])[0]
    (actual,) = test_time_augmentation.predict(predictor, chips, [(0, 0), (0, 32)], 0.5)
    assert np.array_equal(actual, expected)
    (averaged,) = test_time_augmentation.predict(predictor, chips, [(0, 0), (0, 32)], 0.9)
    predictions = [
        np.rot90(image, turns, (1, 2))
        for image in (expected[0], expected[0][:, :, ::-1])
        for turns in range(4)
    ]
    assert averaged[0] == pytest.approx(np.mean(predictions, axis=0), abs=1e-6)


def test_windows_that_fill_up_a_batch_are_not_augmented():
    predictor = Edgy()
    chips = {"S2L2A": np.zeros((2, 1, 32, 32), np.float32)}
    chips["S2L2A"][1] = np.nan
    test_time_augmentation.predict(predictor, chips, [(0, 0), (0, 0)], 0.1)
    assert predictor.calls == [2]
