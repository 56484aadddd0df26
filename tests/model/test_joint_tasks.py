"""Several outputs of one encoder pass: equal to those of single tasks, and what is refused."""

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
from tests.support.small_generators import record_batch_sizes

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
ALL_TASKS = {
    "task": ("land_cover", "embedding", "generate"),
    "modality": ("NDVI", "S1GRD"),
    "timesteps": 2,
}
SINGLE_TASKS = (
    {"task": "land_cover"},
    {"task": "embedding"},
    {"task": "generate", "modality": "S1GRD", "timesteps": 2},
    {"task": "generate", "modality": "NDVI", "timesteps": 2},
)
ORIGINS = [(100, -40), (100, -24), (-7, 3)]


@pytest.fixture
def family_card(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(FAMILY))
    return str(path)


@pytest.fixture
def segmenter_card(tmp_path):
    card = card_file.from_mapping(SEGMENTER, "toy")
    registry.save_segmenter(
        tmp_path, registry.loading.initialise(registry.build_segmenter(card), 1), card
    )
    return str(tmp_path / "card.json")


def make_chips(batch=3, seed=0):
    rng = np.random.default_rng(seed)
    result = {}
    for name in ("S2L2A", "S1RTC", "DEM"):
        statistics = modalities.get_raster_modality(name).statistics
        mean, std = (
            np.array(values)[:, None, None] for values in (statistics.mean, statistics.std)
        )
        noise = rng.normal(0, 0.4, (batch, len(statistics.mean), SIDE, SIDE))
        result[name] = (mean + std * noise).astype(np.float32)
    return result


@pytest.mark.parametrize("origins", [None, ORIGINS])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_output_equals_that_of_its_task_alone(family_card, precision, origins):
    options = CPU | {"precision": precision}
    chips = make_chips()
    chips["DEM"][1] = np.nan
    chips["S2L2A"][0, 3, :9] = np.nan
    joint = registry.load(family_card, {"random": 3}, **ALL_TASKS, **options)
    result = joint.predict(chips, origins)
    assert len(result) == len(joint.outputs) == len(SINGLE_TASKS)
    for output, spec, requested in zip(result, joint.outputs, SINGLE_TASKS, strict=True):
        single = registry.load(family_card, {"random": 3}, **requested, **options)
        assert single.outputs == (spec,)
        (expected,) = single.predict(chips, origins)
        np.testing.assert_array_equal(output, expected)
        assert np.isfinite(output).all()
        assert output.std() > 0


def test_outputs_have_a_fixed_order(family_card):
    predictors = [
        registry.load(
            family_card, {"random": 3}, list(tasks), modality=list(names), timesteps=2, **CPU
        )
        for tasks, names in zip(
            itertools.permutations(ALL_TASKS["task"]),
            itertools.cycle(itertools.permutations(ALL_TASKS["modality"])),
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
    smaller_predictor = registry.load(
        family_card, {"random": 3}, ["land_cover", "embedding"], **CPU
    )
    assert smaller_predictor.digest not in {
        predictors[0].digest,
        registry.load(family_card, {"random": 3}).digest,
    }


def test_the_encoder_runs_once_per_window(family_card):
    joint = registry.load(family_card, {"random": 3}, **ALL_TASKS, **CPU)
    assert isinstance(joint, GenerativePredictor)
    first_layer, last_layer = (
        record_batch_sizes(joint.network.model.encoder[index]) for index in (0, -1)
    )
    decoder_runs = record_batch_sizes(joint.network.model.decoder[0])
    joint.predict(make_chips(batch=3), ORIGINS)
    assert (len(first_layer), len(last_layer)) == (3, 3)
    assert len(decoder_runs) == 3 * 3
    # ^ once per target, from the same context


def test_a_segmenter_returns_features_of_the_same_pass(segmenter_card):
    requested = ["embedding", "land_cover"]
    joint = registry.load(segmenter_card, task=requested, **CPU)
    assert isinstance(joint, SegmentationPredictor)
    assert joint.network.layers == (0, 1)
    # ^ the head reads earlier layers only; the features are those of the last layer
    chips = make_chips()
    chips["S1RTC"][2] = np.nan
    single_predictors = [
        registry.load(segmenter_card, task=task, **CPU) for task in ("land_cover", "embedding")
    ]
    first_layer, last_layer = (
        record_batch_sizes(joint.network.encoder.encoder[index]) for index in (0, -1)
    )
    result = joint.predict(chips)
    assert (len(first_layer), len(last_layer)) == (3, 3)
    for output, single in zip(result, single_predictors, strict=True):
        np.testing.assert_array_equal(output, single(chips))
    assert joint.outputs == (single_predictors[0].outputs[0], single_predictors[1].outputs[0])
    assert len({joint.digest, *(predictor.digest for predictor in single_predictors)}) == 3


def test_a_call_is_refused_for_several_outputs(family_card):
    joint = registry.load(family_card, {"random": 3}, ["land_cover", "embedding"], **CPU)
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
def test_tasks_that_cannot_be_combined_are_refused(segmenter_card, requested, message):
    with pytest.raises(ModelError, match=message):
        registry.load(segmenter_card, **requested, **CPU)


def test_weights_without_a_decoder_cannot_generate(family_card, tmp_path):
    encoder = model.backbone(
        FAMILY["architecture"], ["S2L2A", "S1RTC", "DEM"], weights={"random": 3}
    )
    registry.loading.write_state_dict(tmp_path / "encoder.safetensors", encoder.state_dict())
    with pytest.raises(WeightsError, match="encoder alone"):
        registry.load(family_card, tmp_path / "encoder.safetensors", ["embedding", "generate"],
                   modality="DEM", **CPU)  # fmt: skip


def test_one_file_of_weights_fills_all_parts(family_card, tmp_path):
    saved_predictor = registry.load(family_card, {"random": 3}, **ALL_TASKS, **CPU)
    registry.loading.write_state_dict(
        tmp_path / "all.safetensors", saved_predictor.network.state_dict()
    )
    loaded_predictor = registry.load(family_card, tmp_path / "all.safetensors", **ALL_TASKS, **CPU)
    assert loaded_predictor.digest == saved_predictor.digest
    chips = make_chips(batch=1)
    for output, saved_output in zip(
        loaded_predictor.predict(chips), saved_predictor.predict(chips), strict=True
    ):
        np.testing.assert_array_equal(output, saved_output)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_invalid_pixel_affects_its_own_window_only(family_card, value):
    joint = registry.load(family_card, {"random": 3}, **ALL_TASKS, **CPU, batch=3)
    chips = make_chips()
    before = joint.predict(chips, ORIGINS)
    chips["S1RTC"][1, 0, 5, 5] = value
    after = joint.predict(chips, ORIGINS)
    for output_before, output_after in zip(before, after, strict=True):
        np.testing.assert_array_equal(output_before[[0, 2]], output_after[[0, 2]])
        assert np.isfinite(output_after).all()
    assert not np.array_equal(before[0][1], after[0][1])


def test_a_window_without_data_has_no_output(family_card):
    joint = registry.load(family_card, {"random": 3}, **ALL_TASKS, **CPU)
    chips = make_chips()
    before = joint.predict(chips, ORIGINS)
    for values in chips.values():
        values[1] = -np.inf
    for output_before, output_after in zip(before, joint.predict(chips, ORIGINS), strict=True):
        np.testing.assert_array_equal(output_before[[0, 2]], output_after[[0, 2]])
        assert np.isnan(output_after[1]).all()


def test_an_output_that_is_not_finite_is_removed(segmenter_card):
    """The network overflows on one of three windows, as with damaged weights."""
    joint = registry.load(segmenter_card, task=["land_cover", "embedding"], **CPU)
    chips = make_chips()
    before = joint.predict(chips)
    stem = joint.network.head.stem

    def overflow(_module, args, output):
        return torch.where(args[0].mean() > 1, torch.nan, output)

    stem.register_forward_hook(overflow)
    chips["S2L2A"][1] += 20_000
    classes, features = joint.predict(chips)
    assert np.isnan(classes[1]).all()
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(classes[[0, 2]], before[0][[0, 2]])
    single = registry.load(segmenter_card, **CPU)
    single.network.head.stem.register_forward_hook(overflow)
    with pytest.raises(ModelError, match="not finite"):
        single(chips)
    assert np.isnan(single.predict(chips)[0][1]).all()


def test_the_number_of_origins_must_be_that_of_windows(family_card):
    joint = registry.load(family_card, {"random": 3}, **ALL_TASKS, **CPU)
    with pytest.raises(ModelError, match="2 origins for 3 windows"):
        joint.predict(make_chips(), ORIGINS[:2])


def test_the_reference_is_the_same_model_in_single_precision(family_card):
    full_predictor = registry.load(family_card, {"random": 3}, **ALL_TASKS, **CPU)
    assert full_predictor.predict_reference is None
    half_predictor = registry.load(
        family_card, {"random": 3}, **ALL_TASKS, **CPU | {"precision": "bf16"}
    )
    loaded = []
    load_fp32 = half_predictor.load_fp32
    half_predictor.load_fp32 = lambda: loaded.append(load_fp32()) or loaded[-1]
    assert not loaded
    chips = make_chips()
    for _ in range(2):
        result = half_predictor.predict_reference(chips, ORIGINS)
    assert len(loaded) == 1
    # ^ loaded on first use, and kept
    assert (loaded[0].precision, loaded[0].digest) == ("fp32", half_predictor.digest)
    for output, expected, half_output in zip(
        result,
        full_predictor.predict(chips, ORIGINS),
        half_predictor.predict(chips, ORIGINS),
        strict=True,
    ):
        np.testing.assert_array_equal(output, expected)
        assert not np.array_equal(half_output, expected)


def test_a_predictor_of_a_custom_network_has_no_reference():
    card = card_file.from_mapping(SEGMENTER)
    network = registry.loading.initialise(registry.build_segmenter(card), 1)
    options = registry.InferenceOptions(device="cpu", precision="bf16")
    assert SegmentationPredictor(network, card, options=options).predict_reference is None
