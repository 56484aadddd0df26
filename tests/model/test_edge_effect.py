"""The curve of a window's edge, on predictors whose edges are known, and in the cards."""

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


class Known:
    """Answers pixel by pixel, but where a mask of the window turns the answer over."""

    def __init__(self, wrong, *, window=128, stride=1, classes=("water", "trees")):
        self.window, self.wrong = window, wrong
        self.outputs = [SimpleNamespace(stride=stride, class_names=classes)]

    def predict(self, chips, origins=None):
        assert len(origins) == len(chips["S2L2A"])
        stride = self.outputs[0].stride
        plain = chips["S2L2A"][:, 0, ::stride, ::stride]
        first = np.where(self.wrong, 1.0 - (plain > 0), plain > 0).astype(np.float32)
        return (np.stack([first, 1 - first], axis=1),)


def rim(width, *, window=128, stride=1):
    """Return a mask of the pixels less than `width` from any edge."""
    inside = np.zeros((window // stride, window // stride), bool)
    inside[width // stride : inside.shape[0] - width // stride, width // stride :] = True
    inside[:, inside.shape[1] - width // stride :] = False
    return ~inside


def measured(wrong, **options):
    return edge_effect.measure(Known(wrong, **options), [IMAGE], sites=3)


def test_without_an_edge_there_is_no_error():
    curve = measured(np.zeros((128, 128), bool))
    assert {(step.differs, step.change) for step in curve.steps} == {(0.0, 0.0)}
    assert (curve.distance, curve.overlap) == (0, 32)


@pytest.mark.parametrize("width", [1, 3, 8, 24])
def test_the_width_of_a_bad_edge_is_found(width):
    curve = measured(rim(width))
    for step in curve.steps:
        assert (step.differs, step.change) == ((1.0, 1.0) if step.stop <= width else (0.0, 0.0))
    assert curve.distance == width
    assert curve.overlap == 32


@pytest.mark.parametrize("turns", range(4))
def test_every_side_counts_a_quarter(turns):
    left = np.zeros((128, 128), bool)
    left[:, :4] = True
    curve = measured(np.rot90(left, turns))
    assert [step.differs for step in curve.steps][:5] == [0.25, 0.25, 0.25, 0.25, 0.0]


def test_every_distance_has_pixels_on_all_sides():
    curve = measured(np.zeros((128, 128), bool))
    each = [step.pixels / (step.stop - step.first) for step in curve.steps]
    assert each[0] > 0
    assert set(each) == {each[0]}
    assert curve.steps[0].first == 0
    assert [bin_.stop for bin_ in curve.steps[:-1]] == [bin_.first for bin_ in curve.steps[1:]]


def test_a_far_reach_is_blended_over_a_quarter_at_most():
    steps = [(0, 16, 0.5), (16, 64, 0.3), (64, 96, 0.01)]
    curve = edge_effect.EdgeEffect(window=224, steps=tuple(step(*bounds) for bounds in steps))
    assert (curve.distance, curve.overlap) == (64, 48)


def test_cells_are_measured_at_their_size():
    curve = measured(rim(16, stride=8), stride=8)
    assert [step.first for step in curve.steps][:3] == [0, 8, 16]
    assert [step.differs for step in curve.steps][:3] == [1.0, 1.0, 0.0]


def test_an_answer_without_classes_is_measured_in_deviations():
    curve = measured(rim(3), classes=())
    assert all(step.differs is None for step in curve.steps)
    assert curve.steps[0].change == pytest.approx(2, abs=0.1)
    # ^ turned over: one apart, and the deviation of a fair coin is a half
    assert curve.distance == 3
    assert "another class" not in "\n".join(card_markdown.render_edge_effect(curve))


def test_the_same_places_give_the_same_curve():
    again = measured(rim(3))
    assert again == measured(rim(3))
    reseeded = edge_effect.measure(Known(rim(3)), [IMAGE], sites=3, seed=1)
    assert [step.differs for step in reseeded.steps] == [step.differs for step in again.steps]


@pytest.mark.parametrize(
    ("image", "window", "message"),
    [
        (IMAGE["S2L2A"], 48, "windows of 48 px are too small"),
        (IMAGE["S2L2A"][:, :100], 128, "at least 224 x 224 px needed"),
        (np.full_like(IMAGE["S2L2A"], np.nan), 128, "no 224 x 224 px of the images are valid"),
    ],
)
def test_what_cannot_be_measured_is_said(image, window, message):
    side = (window, window)
    with pytest.raises(ModelError, match=message):
        edge_effect.measure(Known(np.zeros(side, bool), window=window), [{"S2L2A": image}], sites=2)


def test_a_silent_model_has_no_curve():
    class Silent(Known):
        def predict(self, chips, origins=None):
            return (np.full((len(origins), 2, 128, 128), np.nan, np.float32),)

    with pytest.raises(ModelError, match="output is not finite"):
        edge_effect.measure(Silent(np.zeros((128, 128), bool)), [IMAGE], sites=2)


# --- the curve as a value ----------------------------------------------------------------------


def step(first, stop, error):
    return edge_effect.DistanceBin(first=first, stop=stop, differs=error, change=error, pixels=100)


@given(
    errors=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    window=st.integers(4, 256).map(lambda patches: 16 * patches),
)
def test_the_overlap_is_whole_patches_and_fits(errors, window):
    steps = tuple(step(16 * i, 16 * i + 16, error) for i, error in enumerate(errors))
    curve = edge_effect.EdgeEffect(window=window, steps=steps)
    assert 0 < curve.overlap <= max(window // 4, 16)
    assert curve.overlap % 16 == 0
    assert curve.overlap >= min(32, window // 4 // 16 * 16)
    assert edge_effect.from_mapping(curve.to_mapping()) == curve


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"window": 224, "steps": []},
        {"window": 224, "steps": [{"first": 0}]},
        {"window": 224, "steps": "many"},
        {"window": 224, "steps": [{"first": 4, "stop": 8, "differs": 0, "change": 0, "pixels": 1}]},
        {"window": 224, "steps": [{"first": 0, "stop": 0, "differs": 0, "change": 0, "pixels": 1}]},
    ],
)
def test_a_curve_that_is_none_is_refused(wrong):
    with pytest.raises(ModelError, match="reach"):
        card_file.from_mapping({**TOY, "reach": wrong}, "toy")


# --- in cards ----------------------------------------------------------------------------------


def test_a_curve_travels_with_the_card_and_changes_no_digest(tmp_path, capsys):
    card = card_file.from_mapping(TOY, "toy")
    curve = edge_effect.EdgeEffect(
        window=card.window, steps=(step(0, 2, 0.3), step(2, 16, 0.1)), measured_on="a field"
    )
    with_curve = replace(card, reach=curve)
    assert with_curve.identity() == card.identity()
    assert with_curve.digest("x") == card.digest("x")
    card_file.write(tmp_path / "card.json", with_curve)
    assert card_file.read(tmp_path / "card.json").reach == curve
    shown = answer(capsys, "card", tmp_path / "card.json", name="models-card")
    assert shown["reach"]["steps"][0]["differs"] == 0.3
    assert shown["reach"]["overlap"] == curve.overlap
    assert run("card", tmp_path / "card.json") == 0
    out = capsys.readouterr().out
    assert "| 0 to 1 | 30.0 % | 0.300 |" in out
    assert "Measured on a field." in out
    assert f"windows therefore overlap by {curve.overlap} px" in out


def test_an_unmeasured_model_says_so(capsys):
    assert run("card", "terramind_v1_base") == 0
    assert "## At the edge of a window\n\nNot measured.\n" in capsys.readouterr().out


def test_the_demo_model_shows_its_curve(capsys):
    shown = answer(capsys, "card", "demo", name="models-card")
    errors = [bin_["differs"] for bin_ in shown["reach"]["steps"]]
    assert errors[0] > 5 * errors[-1] > 0
    # ^ the edge is felt, and answers in the middle differ little
    assert (shown["reach"]["window"], shown["reach"]["overlap"]) == (224, 32)
    text = (registry.DEMO_CARD_PATH.parent / "card.md").read_text()
    assert "\n".join(card_markdown.render_edge_effect(registry.get_card("demo").reach)) in text


def test_a_network_is_measured_as_training_does():
    card = card_file.from_mapping({**TOY, "window": 64}, "toy")
    network = loading.initialise(registry.build_segmenter(card), 1)
    running = InferenceOptions(device="cpu", precision="fp32", nan_policy="fill")
    requested = task_predictors.SegmentationPredictor(network, card, options=running)
    heights = (400 + 50 * RNG.normal(size=(1, 160, 160))).astype(np.float32)
    heights[:, 3, 3] = np.nan
    curve = edge_effect.measure(requested, [{"DEM": heights}], sites=2, measured_on="noise")
    assert curve.window == 64
    assert curve.steps[-1].stop == 32
    assert curve.steps[0].change > 0
