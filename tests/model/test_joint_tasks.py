"""Several answers of one encoder pass: the numbers that each has alone, and what cannot be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import yaml

import model
from model.errors import ModelError, WeightsError
from model.predictor import card_file, registry
from model.predictor.task_predictors import GenerativePredictor, SegmentationPredictor
from model.terramind import modalities
from tests.support.small_generators import passes

CPU = {"device": "cpu", "precision": "fp32", "nan_policy": "fill"}
SIDE = 32
FAMILY = {
    "architecture": {"dim": 32, "heads": 2, "depth": 3, "decoder_depth": 2},
    "tokenizer": {
        "dim": 32,
        "depth": 1,
        "heads": 2,
        "unet": {"channels": 32, "blocks": 1, "multipliers": [1, 1], "attention": [2]},
    },
    "window": SIDE,
}
SEGMENTER = {
    "architecture": {"dim": 32, "heads": 2, "depth": 3},
    "inputs": ["S2L2A", "S1RTC", "DEM"],
    "class_names": ["water", "trees", "crops"],
    "layers": [0, 1],
    "width": 8,
    "window": SIDE,
}
EVERY = {
    "task": ("land_cover", "embedding", "generate"),
    "modality": ("NDVI", "S1GRD"),
    "timesteps": 2,
}
ALONE = (
    {"task": "land_cover"},
    {"task": "embedding"},
    {"task": "generate", "modality": "S1GRD", "timesteps": 2},
    {"task": "generate", "modality": "NDVI", "timesteps": 2},
)
PLACES = [(100, -40), (100, -24), (-7, 3)]


@pytest.fixture
def family(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(FAMILY))
    return str(path)


@pytest.fixture
def segmenter(tmp_path):
    card = card_file.from_mapping(SEGMENTER, "toy")
    registry.save_segmenter(
        tmp_path, registry.loading.initialise(registry.build_segmenter(card), 1), card
    )
    return str(tmp_path / "card.json")


def make_chips(batch=3, seed=0):
    rng = np.random.default_rng(seed)
    result = {}
    for name in ("S2L2A", "S1RTC", "DEM"):
        scale = modalities.get_raster_modality(name).statistics
        mean, std = (np.array(v)[:, None, None] for v in (scale.mean, scale.std))
        drawn = rng.normal(0, 0.4, (batch, len(scale.mean), SIDE, SIDE))
        result[name] = (mean + std * drawn).astype(np.float32)
    return result


@pytest.mark.parametrize("places", [None, PLACES])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_answer_has_the_bits_that_it_has_alone(family, precision, places):
    options = CPU | {"precision": precision}
    chips = make_chips()
    chips["DEM"][1] = np.nan
    chips["S2L2A"][0, 3, :9] = np.nan
    joint = registry.load(family, {"random": 3}, **EVERY, **options)
    result = joint.predict(chips, places)
    assert len(result) == len(joint.outputs) == len(ALONE)
    for output, spec, requested in zip(result, joint.outputs, ALONE, strict=True):
        single = registry.load(family, {"random": 3}, **requested, **options)
        assert single.outputs == (spec,)
        (expected,) = single.predict(chips, places)
        np.testing.assert_array_equal(output, expected)
        assert np.isfinite(output).all()
        assert output.std() > 0


def test_the_answers_come_in_one_order_whatever_the_order_asked_in(family):
    predictors = [
        registry.load(family, {"random": 3}, list(tasks), modality=list(names), timesteps=2, **CPU)
        for tasks, names in zip(
            itertools.permutations(EVERY["task"]),
            itertools.cycle(itertools.permutations(EVERY["modality"])),
            strict=False,
        )
    ]
    for predictor in predictors:
        assert [spec.task for spec in predictor.outputs] == ["land_cover", "embedding"] + [
            "generate"
        ] * 2
        assert [spec.modality for spec in predictor.outputs] == [None, None, "S1GRD", "NDVI"]
        assert [spec.stride for spec in predictor.outputs] == [1, 16, 1, 1]
    assert len({predictor.digest for predictor in predictors}) == 1
    fewer = registry.load(family, {"random": 3}, ["land_cover", "embedding"], **CPU)
    assert fewer.digest not in {predictors[0].digest, registry.load(family, {"random": 3}).digest}


def test_the_encoder_runs_once_for_a_window(family):
    joint = registry.load(family, {"random": 3}, **EVERY, **CPU)
    assert isinstance(joint, GenerativePredictor)
    first, last = (passes(joint.network.model.encoder[index]) for index in (0, -1))
    decoded = passes(joint.network.model.decoder[0])
    joint.predict(make_chips(batch=3), PLACES)
    assert (len(first), len(last)) == (3, 3)
    assert len(decoded) == 3 * 3
    # ^ once for each target, over the same context


def test_a_segmenter_gives_its_features_from_the_same_pass(segmenter):
    requested = ["embedding", "land_cover"]
    joint = registry.load(segmenter, task=requested, **CPU)
    assert isinstance(joint, SegmentationPredictor)
    assert joint.network.layers == (0, 1)
    # ^ the head stops before the last layer, whose tokens are the features
    chips = make_chips()
    chips["S1RTC"][2] = np.nan
    alone = [registry.load(segmenter, task=task, **CPU) for task in ("land_cover", "embedding")]
    first, last = (passes(joint.network.encoder.encoder[index]) for index in (0, -1))
    result = joint.predict(chips)
    assert (len(first), len(last)) == (3, 3)
    for output, single in zip(result, alone, strict=True):
        np.testing.assert_array_equal(output, single(chips))
    assert joint.outputs == (alone[0].outputs[0], alone[1].outputs[0])
    assert len({joint.digest, *(predictor.digest for predictor in alone)}) == 3


def test_a_call_gives_one_answer_and_no_more(family):
    joint = registry.load(family, {"random": 3}, ["land_cover", "embedding"], **CPU)
    with pytest.raises(ModelError, match="2 outputs"):
        joint(make_chips())


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"task": ["land_cover", "generate"], "modality": "NDVI"}, "head and no decoder"),
        ({"task": ["embedding", "generate"], "modality": ["NDVI", "DEM"]}, "DEM, NDVI"),
        ({"task": "generate", "modality": "NDVI"}, "generates nothing"),
        ({"task": ["land_cover", "generate"]}, "what is to be generated"),
        ({"task": ["land_cover", "embedding"], "modality": "NDVI"}, "only the task generate"),
        ({"task": ["land_cover", "land_cover"]}, "each once"),
        ({"task": "generate", "modality": ["NDVI", "NDVI"]}, "each once"),
        ({"task": []}, "known are"),
        ({"task": ["land_cover", "flood"]}, "flood"),
        ({"task": ["land_cover", "embedding"], "checkpoint": "x.ckpt"}, "gives land cover only"),
        ({"task": ["land_cover", "generate"], "modality": "DEM", "checkpoint": "x.ckpt"}, "only"),
    ],
)
def test_what_does_not_go_together_is_refused(segmenter, requested, message):
    with pytest.raises(ModelError, match=message):
        registry.load(segmenter, **requested, **CPU)


def test_weights_without_a_decoder_make_nothing(family, tmp_path):
    encoder = model.backbone(
        FAMILY["architecture"], ["S2L2A", "S1RTC", "DEM"], weights={"random": 3}
    )
    registry.loading.write_state_dict(tmp_path / "encoder.safetensors", encoder.state_dict())
    with pytest.raises(WeightsError, match="encoder alone"):
        registry.load(family, tmp_path / "encoder.safetensors", ["embedding", "generate"],
                   modality="DEM", **CPU)  # fmt: skip


def test_one_file_of_weights_fills_every_part(family, tmp_path):
    saved = registry.load(family, {"random": 3}, **EVERY, **CPU)
    registry.loading.write_state_dict(tmp_path / "all.safetensors", saved.network.state_dict())
    again = registry.load(family, tmp_path / "all.safetensors", **EVERY, **CPU)
    assert again.digest == saved.digest
    chips = make_chips(batch=1)
    for output, saved_output in zip(again.predict(chips), saved.predict(chips), strict=True):
        np.testing.assert_array_equal(output, saved_output)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_pixel_stays_in_its_window(family, value):
    joint = registry.load(family, {"random": 3}, **EVERY, **CPU, batch=3)
    chips = make_chips()
    before = joint.predict(chips, PLACES)
    chips["S1RTC"][1, 0, 5, 5] = value
    after = joint.predict(chips, PLACES)
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first[[0, 2]], second[[0, 2]])
        assert np.isfinite(second).all()
    assert not np.array_equal(before[0][1], after[0][1])


def test_a_window_without_data_has_no_answer_at_all(family):
    joint = registry.load(family, {"random": 3}, **EVERY, **CPU)
    chips = make_chips()
    before = joint.predict(chips, PLACES)
    for values in chips.values():
        values[1] = -np.inf
    for first, second in zip(before, joint.predict(chips, PLACES), strict=True):
        np.testing.assert_array_equal(first[[0, 2]], second[[0, 2]])
        assert np.isnan(second[1]).all()


def test_an_answer_that_is_not_finite_leaves_its_window_out(segmenter):
    """A window that the network overflows on, as damaged weights make it: here one in three."""
    joint = registry.load(segmenter, task=["land_cover", "embedding"], **CPU)
    chips = make_chips()
    before = joint.predict(chips)
    stem = joint.network.head.stem

    def overflow(_module, args, out):
        return torch.where(args[0].mean() > 1, torch.nan, out)

    stem.register_forward_hook(overflow)
    chips["S2L2A"][1] += 20_000
    classes, features = joint.predict(chips)
    assert np.isnan(classes[1]).all()
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(classes[[0, 2]], before[0][[0, 2]])
    single = registry.load(segmenter, **CPU)
    single.network.head.stem.register_forward_hook(overflow)
    with pytest.raises(ModelError, match="not finite"):
        single(chips)
    assert np.isnan(single.predict(chips)[0][1]).all()


def test_places_are_one_for_each_window(family):
    joint = registry.load(family, {"random": 3}, **EVERY, **CPU)
    with pytest.raises(ModelError, match="2 origins for 3 windows"):
        joint.predict(make_chips(), PLACES[:2])


def test_the_reference_is_the_same_model_in_single_precision(family):
    full = registry.load(family, {"random": 3}, **EVERY, **CPU)
    assert full.predict_reference is None
    half = registry.load(family, {"random": 3}, **EVERY, **CPU | {"precision": "bf16"})
    made = []
    again = half.load_fp32
    half.load_fp32 = lambda: made.append(again()) or made[-1]
    assert not made
    chips = make_chips()
    for _ in range(2):
        result = half.predict_reference(chips, PLACES)
    assert len(made) == 1
    # ^ loaded when it is asked for, and kept
    assert (made[0].precision, made[0].digest) == ("fp32", half.digest)
    for output, expected, rough in zip(
        result, full.predict(chips, PLACES), half.predict(chips, PLACES), strict=True
    ):
        np.testing.assert_array_equal(output, expected)
        assert not np.array_equal(rough, expected)


def test_a_predictor_of_a_network_s_own_knows_no_reference():
    card = card_file.from_mapping(SEGMENTER)
    network = registry.loading.initialise(registry.build_segmenter(card), 1)
    running = registry.InferenceOptions(device="cpu", precision="bf16")
    assert SegmentationPredictor(network, card, options=running).predict_reference is None
