"""The predictor: the protocol of the pipeline, missing data, batches, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from model.errors import ModelError
from model.predictor import card_file, registry
from model.predictor.predictor import InferenceOptions, resolve_device
from model.predictor.task_predictors import SegmentationPredictor

BANDS = {"S2L2A": 12, "S1RTC": 2, "DEM": 1}
TYPICAL = {"S2L2A": (1500, 800), "S1RTC": (-12, 4), "DEM": (400, 200)}


@pytest.fixture(autouse=True, scope="module")
def _use_one_thread():
    """Run on one thread, which is faster for tiny shapes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_card(**options):
    return card_file.from_mapping(
        {
            "name": "toy",
            "architecture": {"dim": 32, "heads": 2, "depth": 2},
            "inputs": list(BANDS),
            "class_names": ["water", "trees", "crops"],
            "width": 8,
            "window": 32,
        }
        | options
    )


def make_options(**options):
    return InferenceOptions(
        **{"device": "cpu", "precision": "fp32", "nan_policy": "fill"} | options
    )


def make_predictor(inputs=None, seed=4, **options):
    card = make_card()
    segmenter = registry.loading.initialise(registry.build_segmenter(card), seed)
    return SegmentationPredictor(segmenter, card, inputs=inputs, options=make_options(**options))


def make_chips(batch=3, size=32, seed=0, names=tuple(BANDS)):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(*TYPICAL[name], (batch, BANDS[name], size, size)).astype(np.float32)
        for name in names
    }


def test_a_predictor_fulfils_the_protocol_of_the_pipeline():
    predictors = pytest.importorskip("pipeline.inference.predictor_protocol")
    predictor: predictors.Predictor = make_predictor()
    assert predictor.window == 32
    assert dict(predictor.inputs)["DEM"] == ("DEM",)
    assert dict(predictor.inputs)["S2L2A"][:3] == ("B01", "B02", "B03")
    assert predictor.outputs[0].class_names == ("water", "trees", "crops")
    assert (predictor.outputs[0].task, predictor.outputs[0].stride, predictor.outputs[0].bands) == (
        "land_cover",
        1,
        (),
    )
    assert len(predictor.digest) == 64
    member_names = {name for name in vars(predictors.Predictor) if not name.startswith("_")}
    assert all(hasattr(predictor, name) for name in member_names)


def test_probabilities_sum_to_one_and_chips_are_not_modified():
    chips = make_chips()
    chips["S2L2A"][0, :, :5] = np.nan
    before = {name: value.copy() for name, value in chips.items()}
    probabilities = make_predictor()(chips)
    assert probabilities.shape == (3, 3, 32, 32)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    for name, value in before.items():
        np.testing.assert_array_equal(chips[name], value)


def test_the_output_is_that_of_the_segmenter_after_standardisation():
    predictor, chips = make_predictor(), make_chips(batch=1)
    card = make_card()
    tensors = {
        name: (torch.from_numpy(values) - torch.tensor(card.statistics[name].mean)[:, None, None])
        / torch.tensor(card.statistics[name].std)[:, None, None]
        for name, values in chips.items()
    }
    segmenter = registry.loading.initialise(registry.build_segmenter(card), 4)
    with torch.inference_mode():
        expected = segmenter(tensors).softmax(1).numpy()
    np.testing.assert_allclose(predictor(chips), expected, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_window_does_not_depend_on_its_batch(batch):
    predictor, chips = make_predictor(batch_size=batch), make_chips(batch=5)
    chips["S1RTC"][[0, 3]] = np.nan
    outputs = predictor(chips)
    order = [3, 1, 4, 0, 2]
    shuffled = predictor({name: values[order] for name, values in chips.items()})
    alone = np.concatenate(
        [
            predictor({name: values[index : index + 1] for name, values in chips.items()})
            for index in order
        ]
    )
    np.testing.assert_allclose(shuffled, outputs[order], atol=1e-6)
    np.testing.assert_allclose(alone, outputs[order], atol=1e-6)
    if batch == 1:
        np.testing.assert_array_equal(alone, outputs[order])


def test_a_modality_of_nan_equals_an_absent_one():
    predictor, chips = make_predictor(), make_chips()
    absent = predictor({"S2L2A": chips["S2L2A"]})
    with_nan = {
        name: np.full_like(values, np.nan) if name != "S2L2A" else values
        for name, values in chips.items()
    }
    np.testing.assert_array_equal(predictor(with_nan), absent)
    predictor_of_one_input = make_predictor(inputs=["S2L2A"])
    np.testing.assert_array_equal(predictor_of_one_input({"S2L2A": chips["S2L2A"]}), absent)


def test_a_missing_modality_affects_its_own_window_only():
    predictor, chips = make_predictor(), make_chips()
    before = predictor(chips)
    chips["DEM"][1] = np.nan
    after = predictor(chips)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])


def test_a_window_without_data_has_equal_probabilities():
    chips = {name: np.full_like(values, np.nan) for name, values in make_chips().items()}
    np.testing.assert_allclose(make_predictor()(chips), 1 / 3)


@pytest.mark.parametrize(
    "values",
    [
        {"S2L2A": 65535.0, "S1RTC": 40.0, "DEM": 8850.0},
        {"S2L2A": -1000.0, "S1RTC": -60.0, "DEM": -430.0},
    ],
)
def test_extreme_pixels_give_finite_output(values):
    chips = make_chips()
    for name, value in values.items():
        chips[name][0, :, :16] = value
    for precision in ("fp32", "bf16"):
        probabilities = make_predictor(precision=precision)(chips)
        assert np.isfinite(probabilities).all()


def test_half_precision_stays_close_to_single_precision():
    chips = make_chips()
    difference = np.abs(make_predictor()(chips) - make_predictor(precision="bf16")(chips))
    assert 0 < difference.max() < 0.2
    assert difference.mean() < 0.02


def test_missing_pixels_are_refused_unless_they_are_filled():
    chips = make_chips()
    make_predictor(nan_policy="refuse")(chips)
    chips["S1RTC"][1, 0, 3, 4] = np.nan
    make_predictor()(chips)
    with pytest.raises(ModelError, match=r'S1RTC.*every pixel.*nan_policy="fill"'):
        make_predictor(nan_policy="refuse")(chips)
    without_modality = chips | {"S1RTC": np.full_like(chips["S1RTC"], np.nan)}
    with pytest.raises(ModelError, match="Leave out"):
        make_predictor(nan_policy="refuse")(without_modality)


def test_an_unknown_nan_policy_is_refused():
    with pytest.raises(ModelError, match="refuse or fill"):
        make_predictor(nan_policy="ignore")


def test_missing_pixels_are_refused_by_default():
    assert InferenceOptions().nan_policy == "refuse"


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", BANDS)
def test_infinite_pixels_are_missing_pixels(name, value):
    chips = make_chips()
    before, with_nan = make_predictor()(chips), chips[name].copy()
    chips[name][2, 0, 0, 0] = value
    with_nan[2, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match=f"{name}, window 2: infinite"):
        make_predictor(nan_policy="refuse")(chips)
    output = make_predictor()(chips)
    np.testing.assert_array_equal(output, make_predictor()(chips | {name: with_nan}))
    np.testing.assert_array_equal(output[:2], before[:2])
    chips[name][2] = value
    absent = chips[name].copy()
    absent[2] = np.nan
    np.testing.assert_array_equal(make_predictor()(chips), make_predictor()(chips | {name: absent}))


@pytest.mark.parametrize("nan_policy", ["fill", "refuse"])
@pytest.mark.parametrize(
    ("name", "convert", "message"),
    [
        ("S1RTC", lambda values: 10 ** (values / 10), r"linear power.*decibel"),
        ("S2L2A", lambda values: values / 10_000, r"reflectance.*DN"),
        ("DEM", lambda values: values * 1000, "metres"),
    ],
)
def test_a_wrong_unit_is_refused_before_standardisation(name, convert, message, nan_policy):
    chips = make_chips()
    predictor = make_predictor(nan_policy=nan_policy)
    predictor(chips)
    with pytest.raises(ModelError, match=message):
        predictor(chips | {name: convert(chips[name])})


def test_chips_with_channels_last_are_refused():
    chips = make_chips()
    for invalid_chips in (
        {name: np.moveaxis(values, 1, -1) for name, values in chips.items()},
        {"DEM": chips["DEM"][0]},
    ):
        with pytest.raises(ModelError, match=r"channels are last|batch of one"):
            make_predictor()(invalid_chips)
    with pytest.raises(ModelError, match="channels are last"):
        make_predictor()({"S2L2A": np.moveaxis(chips["S2L2A"], 1, -1)[0]})


def test_an_output_that_is_not_finite_is_refused():
    predictor = make_predictor()
    with torch.no_grad():
        predictor.network.head.logits.weight[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        predictor(make_chips())


def test_repeated_calls_give_the_same_bits():
    chips = make_chips()
    np.testing.assert_array_equal(make_predictor()(chips), make_predictor()(chips))


def test_threads_of_the_caller_get_the_same_bits():
    predictor, chips = make_predictor(), make_chips(batch=2, size=48)
    expected = predictor(chips)
    outputs = [None] * 4

    def predict_in_thread(index):
        outputs[index] = predictor(chips)

    threads = [threading.Thread(target=predict_in_thread, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for output in outputs:
        np.testing.assert_array_equal(output, expected)


def test_the_digest_covers_weights_statistics_and_configuration():
    base = make_predictor().digest
    assert make_predictor().digest == base
    assert make_predictor(seed=5).digest != base
    assert make_predictor(inputs=["S2L2A"]).digest != base
    segmenter = registry.loading.initialise(registry.build_segmenter(make_card()), 4)
    for changed_card in (
        make_card(statistics={"DEM": {"mean": [0.0], "std": [1.0]}}),
        make_card(window=64),
        make_card(class_names=["water", "crops", "trees"]),
    ):
        assert SegmentationPredictor(segmenter, changed_card, options=make_options()).digest != base
    card_with_training = make_card(training={"accuracy": 0.9})
    assert (
        SegmentationPredictor(segmenter, card_with_training, options=make_options()).digest == base
    )


def test_the_digest_of_the_demo_is_independent_of_later_tasks():
    if not registry.DEMO_CARD_PATH.is_file():
        pytest.skip("no demo weights are shipped")
    card = registry.get_card("demo")
    assert "tokenizer" not in card.identity()
    weights_digest = registry.loading.hash_state_dict(
        registry.loading.read_state_dict(card.weights["path"])
    )
    expected = card.digest(f"{weights_digest} S2L2A S1RTC DEM")
    assert registry.load("demo", device="cpu").digest == expected


def test_precision_and_device_do_not_change_the_digest():
    assert make_predictor(precision="bf16").digest == make_predictor().digest


@pytest.mark.parametrize(
    ("chips", "message"),
    [
        ({}, "loaded for"),
        ({"NDVI": np.zeros((1, 1, 32, 32), np.float32)}, "loaded for"),
        ({"DEM": np.zeros((1, 2, 32, 32), np.float32)}, "H, W"),
        ({"DEM": np.zeros((1, 32, 32), np.float32)}, "H, W"),
        ({"DEM": np.zeros((1, 1, 30, 32), np.float32)}, "multiples of 16"),
        (
            {
                "DEM": np.zeros((1, 1, 32, 32), np.float32),
                "S1RTC": np.zeros((2, 2, 32, 32), np.float32),
            },
            "differ",
        ),
    ],
)
def test_invalid_chips_are_refused(chips, message):
    with pytest.raises(ModelError, match=message):
        make_predictor()(chips)


def test_an_empty_batch_gives_an_empty_output():
    assert make_predictor()(make_chips(batch=0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "mps"])
def test_absent_devices_are_refused(name):
    with pytest.raises(ModelError, match="device"):
        resolve_device(name)


def test_a_batch_below_one_is_refused():
    with pytest.raises(ModelError, match="batch"):
        make_predictor(batch_size=0)


DIGEST_PROGRAM = """
import hashlib, numpy as np
from model.predictor import card_file, registry
card = card_file.from_mapping({
    "name": "small", "architecture": {"dim": 64, "heads": 2, "depth": 2},
    "inputs": {"S2L2A": ["B02", "B03", "B04", "B08"]}, "width": 16, "window": 64,
})
from model.predictor.predictor import InferenceOptions
from model.predictor.task_predictors import SegmentationPredictor
from model.weights import loading
segmenter = loading.initialise(registry.build_segmenter(card), 0)
predictor = SegmentationPredictor(segmenter, card, options=InferenceOptions(device="cpu"))
chips = np.random.default_rng(0).normal(1500, 900, (5, 4, 64, 64)).astype("float32")
print(hashlib.sha256(predictor({"S2L2A": chips}).tobytes()).hexdigest())
"""


def test_the_number_of_threads_does_not_change_a_bit():
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST_PROGRAM],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "5")
    }
    assert len(digests) == 1
