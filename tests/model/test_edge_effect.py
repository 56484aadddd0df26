"""The measured effect of window edges, on predictors with known edges, and in model cards."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ModelError
from model.predictor import (
    card_file,
    edge_effect,
    registry,
    task_predictors,
)
from model.predictor.predictor import InferenceOptions
from model.tools import card_markdown
from model.weights import loading
from tests.support.empty_weights import TOY, answer, run

RNG = np.random.default_rng(5)
IMAGE = {"S2L2A": RNG.normal(size=(1, 320, 288)).astype(np.float32)}


class PredictorWithWrongEdge:
    """Predicts pixel by pixel, with the wrong class where a mask of the window is true."""

    def __init__(self, wrong, *, window=128, stride=1, classes=("water", "trees")):
        self.window, self.wrong = window, wrong
        self.outputs = [SimpleNamespace(stride=stride, class_names=classes)]

    def predict(self, chips, origins=None):
        assert len(origins) == len(chips["S2L2A"])
        stride = self.outputs[0].stride
        chip_values = chips["S2L2A"][:, 0, ::stride, ::stride]
        first_class = np.where(self.wrong, 1.0 - (chip_values > 0), chip_values > 0).astype(
            np.float32
        )
        return (np.stack([first_class, 1 - first_class], axis=1),)


def make_edge_mask(width, *, window=128, stride=1):
    """Return a mask of the pixels less than `width` from any edge."""
    inside = np.zeros((window // stride, window // stride), bool)
    inside[width // stride : inside.shape[0] - width // stride, width // stride :] = True
    inside[:, inside.shape[1] - width // stride :] = False
    return ~inside


def measure_edge_effect(is_wrong, **options):
    return edge_effect.measure(PredictorWithWrongEdge(is_wrong, **options), [IMAGE], sites=3)


def test_without_wrong_edges_there_is_no_error():
    curve = measure_edge_effect(np.zeros((128, 128), bool))
    assert {
        (make_distance_bin.differs, make_distance_bin.change) for make_distance_bin in curve.steps
    } == {(0.0, 0.0)}
    assert (curve.distance, curve.overlap) == (0, 32)


@pytest.mark.parametrize("width", [1, 3, 8, 24])
def test_the_width_of_a_wrong_edge_is_found(width):
    curve = measure_edge_effect(make_edge_mask(width))
    for make_distance_bin in curve.steps:
        assert (make_distance_bin.differs, make_distance_bin.change) == (
            (1.0, 1.0) if make_distance_bin.stop <= width else (0.0, 0.0)
        )
    assert curve.distance == width
    assert curve.overlap == 32


@pytest.mark.parametrize("turns", range(4))
def test_every_side_counts_equally(turns):
    left_edge = np.zeros((128, 128), bool)
    left_edge[:, :4] = True
    curve = measure_edge_effect(np.rot90(left_edge, turns))
    assert [make_distance_bin.differs for make_distance_bin in curve.steps][:5] == [
        0.25,
        0.25,
        0.25,
        0.25,
        0.0,
    ]


def test_every_distance_has_pixels_on_all_sides():
    curve = measure_edge_effect(np.zeros((128, 128), bool))
    pixels_per_distance = [
        make_distance_bin.pixels / (make_distance_bin.stop - make_distance_bin.first)
        for make_distance_bin in curve.steps
    ]
    assert pixels_per_distance[0] > 0
    assert set(pixels_per_distance) == {pixels_per_distance[0]}
    assert curve.steps[0].first == 0
    assert [distance_bin.stop for distance_bin in curve.steps[:-1]] == [
        distance_bin.first for distance_bin in curve.steps[1:]
    ]


def test_a_wide_edge_is_blended_over_a_quarter_at_most():
    steps = [(0, 16, 0.5), (16, 64, 0.3), (64, 96, 0.01)]
    curve = edge_effect.EdgeEffect(
        window=224, steps=tuple(make_distance_bin(*bounds) for bounds in steps)
    )
    assert (curve.distance, curve.overlap) == (64, 48)


def test_coarse_outputs_are_measured_at_their_cell_size():
    curve = measure_edge_effect(make_edge_mask(16, stride=8), stride=8)
    assert [make_distance_bin.first for make_distance_bin in curve.steps][:3] == [0, 8, 16]
    assert [make_distance_bin.differs for make_distance_bin in curve.steps][:3] == [1.0, 1.0, 0.0]


def test_an_output_without_classes_is_measured_in_standard_deviations():
    curve = measure_edge_effect(make_edge_mask(3), classes=())
    assert all(make_distance_bin.differs is None for make_distance_bin in curve.steps)
    assert curve.steps[0].change == pytest.approx(2, abs=0.1)
    # ^ inverted values differ by one, and the deviation of a fair coin is a half
    assert curve.distance == 3
    assert "another class" not in "\n".join(card_markdown.render_edge_effect(curve))


def test_the_same_sites_give_the_same_curve():
    curve = measure_edge_effect(make_edge_mask(3))
    assert curve == measure_edge_effect(make_edge_mask(3))
    reseeded = edge_effect.measure(
        PredictorWithWrongEdge(make_edge_mask(3)), [IMAGE], sites=3, seed=1
    )
    assert [make_distance_bin.differs for make_distance_bin in reseeded.steps] == [
        make_distance_bin.differs for make_distance_bin in curve.steps
    ]


@pytest.mark.parametrize(
    ("image", "window", "message"),
    [
        (IMAGE["S2L2A"], 48, "windows of 48 px are too small"),
        (IMAGE["S2L2A"][:, :100], 128, "at least 224 x 224 px needed"),
        (np.full_like(IMAGE["S2L2A"], np.nan), 128, "no 224 x 224 px of the images are valid"),
    ],
)
def test_what_cannot_be_measured_is_explained(image, window, message):
    side = (window, window)
    with pytest.raises(ModelError, match=message):
        edge_effect.measure(
            PredictorWithWrongEdge(np.zeros(side, bool), window=window), [{"S2L2A": image}], sites=2
        )


def test_a_model_without_finite_output_is_refused():
    class NonFinitePredictor(PredictorWithWrongEdge):
        def predict(self, chips, origins=None):
            return (np.full((len(origins), 2, 128, 128), np.nan, np.float32),)

    with pytest.raises(ModelError, match="output is not finite"):
        edge_effect.measure(NonFinitePredictor(np.zeros((128, 128), bool)), [IMAGE], sites=2)


# --- the curve as a value ----------------------------------------------------------------------


def make_distance_bin(first, stop, error):
    return edge_effect.DistanceBin(first=first, stop=stop, differs=error, change=error, pixels=100)


@given(
    errors=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    window=st.integers(4, 256).map(lambda patches: 16 * patches),
)
def test_the_overlap_is_of_whole_patches_and_fits_into_the_window(errors, window):
    steps = tuple(
        make_distance_bin(16 * index, 16 * index + 16, error) for index, error in enumerate(errors)
    )
    curve = edge_effect.EdgeEffect(window=window, steps=steps)
    assert 0 < curve.overlap <= max(window // 4, 16)
    assert curve.overlap % 16 == 0
    assert curve.overlap >= min(32, window // 4 // 16 * 16)
    assert edge_effect.from_mapping(curve.to_mapping()) == curve


@pytest.mark.parametrize(
    "curve",
    [
        {},
        {"window": 224, "steps": []},
        {"window": 224, "steps": [{"first": 0}]},
        {"window": 224, "steps": "many"},
        {"window": 224, "steps": [{"first": 4, "stop": 8, "differs": 0, "change": 0, "pixels": 1}]},
        {"window": 224, "steps": [{"first": 0, "stop": 0, "differs": 0, "change": 0, "pixels": 1}]},
    ],
)
def test_an_invalid_curve_is_refused(curve):
    with pytest.raises(ModelError, match="reach"):
        card_file.from_mapping({**TOY, "reach": curve}, "toy")


# --- in cards ----------------------------------------------------------------------------------


def test_a_curve_is_stored_in_the_card_and_changes_no_digest(tmp_path, capsys):
    card = card_file.from_mapping(TOY, "toy")
    curve = edge_effect.EdgeEffect(
        window=card.window,
        steps=(make_distance_bin(0, 2, 0.3), make_distance_bin(2, 16, 0.1)),
        measured_on="a field",
    )
    with_curve = replace(card, reach=curve)
    assert with_curve.identity() == card.identity()
    assert with_curve.digest("x") == card.digest("x")
    card_file.write(tmp_path / "card.json", with_curve)
    assert card_file.read(tmp_path / "card.json").reach == curve
    description = answer(capsys, "card", tmp_path / "card.json", name="models-card")
    assert description["reach"]["steps"][0]["differs"] == 0.3
    assert description["reach"]["overlap"] == curve.overlap
    assert run("card", tmp_path / "card.json") == 0
    output = capsys.readouterr().out
    assert "| 0 to 1 | 30.0 % | 0.300 |" in output
    assert "Measured on a field." in output
    assert f"windows therefore overlap by {curve.overlap} px" in output


def test_an_unmeasured_model_is_described_as_such(capsys):
    assert run("card", "terramind_v1_base") == 0
    assert "## At the edge of a window\n\nNot measured.\n" in capsys.readouterr().out


def test_the_demo_model_shows_its_curve(capsys):
    description = answer(capsys, "card", "demo", name="models-card")
    errors = [distance_bin["differs"] for distance_bin in description["reach"]["steps"]]
    assert errors[0] > 5 * errors[-1] > 0
    # ^ the edge has an effect, and outputs in the middle differ little
    assert (description["reach"]["window"], description["reach"]["overlap"]) == (224, 32)
    text = (registry.DEMO_CARD_PATH.parent / "card.md").read_text()
    assert "\n".join(card_markdown.render_edge_effect(registry.get_card("demo").reach)) in text


def test_a_network_with_missing_pixels_is_measured():
    card = card_file.from_mapping({**TOY, "window": 64}, "toy")
    network = loading.initialise(registry.build_segmenter(card), 1)
    options = InferenceOptions(device="cpu", precision="fp32", nan_policy="fill")
    predictor = task_predictors.SegmentationPredictor(network, card, options=options)
    heights = (400 + 50 * RNG.normal(size=(1, 160, 160))).astype(np.float32)
    heights[:, 3, 3] = np.nan
    curve = edge_effect.measure(predictor, [{"DEM": heights}], sites=2, measured_on="noise")
    assert curve.window == 64
    assert curve.steps[-1].stop == 32
    assert curve.steps[0].change > 0
