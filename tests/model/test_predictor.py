"""The predictor: the pipeline's protocol, missing data, independence of the batch, refusals."""

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
def _one_thread():
    """Tiny shapes run faster without handing work around."""
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


def running(**options):
    return InferenceOptions(
        **{"device": "cpu", "precision": "fp32", "nan_policy": "fill"} | options
    )


def make(inputs=None, seed=4, **options):
    card = make_card()
    segmenter = registry.loading.initialise(registry.build_segmenter(card), seed)
    return SegmentationPredictor(segmenter, card, inputs=inputs, options=running(**options))


def make_chips(batch=3, size=32, seed=0, names=tuple(BANDS)):
    rng = np.random.default_rng(seed)
    return {
        n: rng.normal(*TYPICAL[n], (batch, BANDS[n], size, size)).astype(np.float32) for n in names
    }


def test_it_is_what_the_pipeline_expects():
    predictors = pytest.importorskip("pipeline.inference.predictor_protocol")
    predictor: predictors.Predictor = make()
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
    members = {n for n in vars(predictors.Predictor) if not n.startswith("_")}
    assert all(hasattr(predictor, name) for name in members)


def test_probabilities_sum_to_one_and_nothing_is_modified():
    chips = make_chips()
    chips["S2L2A"][0, :, :5] = np.nan
    before = {name: value.copy() for name, value in chips.items()}
    out = make()(chips)
    assert out.shape == (3, 3, 32, 32)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-5)
    for name, value in before.items():
        np.testing.assert_array_equal(chips[name], value)


def test_it_equals_the_segmenter_after_standardisation():
    predictor, chips = make(), make_chips(batch=1)
    card = make_card()
    tensors = {
        n: (torch.from_numpy(v) - torch.tensor(card.statistics[n].mean)[:, None, None])
        / torch.tensor(card.statistics[n].std)[:, None, None]
        for n, v in chips.items()
    }
    segmenter = registry.loading.initialise(registry.build_segmenter(card), 4)
    with torch.inference_mode():
        expected = segmenter(tensors).softmax(1).numpy()
    np.testing.assert_allclose(predictor(chips), expected, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_window_does_not_depend_on_the_others(batch):
    predictor, chips = make(batch_size=batch), make_chips(batch=5)
    chips["S1RTC"][[0, 3]] = np.nan
    together = predictor(chips)
    order = [3, 1, 4, 0, 2]
    shuffled = predictor({n: v[order] for n, v in chips.items()})
    alone = np.concatenate([predictor({n: v[i : i + 1] for n, v in chips.items()}) for i in order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-6)
    np.testing.assert_allclose(alone, together[order], atol=1e-6)
    if batch == 1:
        np.testing.assert_array_equal(alone, together[order])


def test_a_missing_modality_is_the_same_as_an_absent_one():
    predictor, chips = make(), make_chips()
    absent = predictor({"S2L2A": chips["S2L2A"]})
    blank = {n: np.full_like(v, np.nan) if n != "S2L2A" else v for n, v in chips.items()}
    np.testing.assert_array_equal(predictor(blank), absent)
    only = make(inputs=["S2L2A"])
    np.testing.assert_array_equal(only({"S2L2A": chips["S2L2A"]}), absent)


def test_a_missing_modality_in_one_window_does_not_touch_the_next():
    predictor, chips = make(), make_chips()
    before = predictor(chips)
    chips["DEM"][1] = np.nan
    after = predictor(chips)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])


def test_a_window_without_any_data_is_undecided():
    chips = {n: np.full_like(v, np.nan) for n, v in make_chips().items()}
    np.testing.assert_allclose(make()(chips), 1 / 3)


@pytest.mark.parametrize(
    "values",
    [
        {"S2L2A": 65535.0, "S1RTC": 40.0, "DEM": 8850.0},
        {"S2L2A": -1000.0, "S1RTC": -60.0, "DEM": -430.0},
    ],
)
def test_extreme_pixels_give_finite_answers(values):
    chips = make_chips()
    for name, value in values.items():
        chips[name][0, :, :16] = value
    for precision in ("fp32", "bf16"):
        out = make(precision=precision)(chips)
        assert np.isfinite(out).all()


def test_half_precision_stays_close():
    chips = make_chips()
    gap = np.abs(make()(chips) - make(precision="bf16")(chips))
    assert 0 < gap.max() < 0.2
    assert gap.mean() < 0.02


def test_holes_are_refused_unless_they_are_to_be_filled():
    chips = make_chips()
    make(nan_policy="refuse")(chips)
    chips["S1RTC"][1, 0, 3, 4] = np.nan
    make()(chips)
    with pytest.raises(ModelError, match=r'S1RTC.*every pixel.*nan_policy="fill"'):
        make(nan_policy="refuse")(chips)
    blank = chips | {"S1RTC": np.full_like(chips["S1RTC"], np.nan)}
    with pytest.raises(ModelError, match="Leave out"):
        make(nan_policy="refuse")(blank)


def test_holes_have_two_meanings():
    with pytest.raises(ModelError, match="refuse or fill"):
        make(nan_policy="ignore")


def test_by_default_holes_are_refused():
    assert InferenceOptions().nan_policy == "refuse"


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", BANDS)
def test_infinite_pixels_are_holes(name, value):
    chips = make_chips()
    before, with_nan = make()(chips), chips[name].copy()
    chips[name][2, 0, 0, 0] = value
    with_nan[2, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match=f"{name}, window 2: infinite"):
        make(nan_policy="refuse")(chips)
    out = make()(chips)
    np.testing.assert_array_equal(out, make()(chips | {name: with_nan}))
    np.testing.assert_array_equal(out[:2], before[:2])
    chips[name][2] = value
    absent = chips[name].copy()
    absent[2] = np.nan
    np.testing.assert_array_equal(make()(chips), make()(chips | {name: absent}))


@pytest.mark.parametrize("nan_policy", ["fill", "refuse"])
@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("S1RTC", lambda v: 10 ** (v / 10), r"linear power.*decibel"),
        ("S2L2A", lambda v: v / 10_000, r"reflectance.*DN"),
        ("DEM", lambda v: v * 1000, "metres"),
    ],
)
def test_a_wrong_unit_is_refused_before_it_is_standardised(name, spoil, message, nan_policy):
    chips = make_chips()
    predictor = make(nan_policy=nan_policy)
    predictor(chips)
    with pytest.raises(ModelError, match=message):
        predictor(chips | {name: spoil(chips[name])})


def test_channels_last_are_told():
    chips = make_chips()
    for last in ({n: np.moveaxis(v, 1, -1) for n, v in chips.items()}, {"DEM": chips["DEM"][0]}):
        with pytest.raises(ModelError, match=r"channels are last|batch of one"):
            make()(last)
    with pytest.raises(ModelError, match="channels are last"):
        make()({"S2L2A": np.moveaxis(chips["S2L2A"], 1, -1)[0]})


def test_an_answer_that_is_not_finite_is_refused():
    predictor = make()
    with torch.no_grad():
        predictor.network.head.logits.weight[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        predictor(make_chips())


def test_running_twice_gives_the_same_bits():
    chips = make_chips()
    np.testing.assert_array_equal(make()(chips), make()(chips))


def test_threads_of_the_caller_get_the_same_bits():
    predictor, chips = make(), make_chips(batch=2, size=48)
    expected = predictor(chips)
    result = [None] * 4

    def work(index):
        result[index] = predictor(chips)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in result:
        np.testing.assert_array_equal(answer, expected)


def test_the_digest_covers_weights_statistics_and_configuration():
    base = make().digest
    assert make().digest == base
    assert make(seed=5).digest != base
    assert make(inputs=["S2L2A"]).digest != base
    segmenter = registry.loading.initialise(registry.build_segmenter(make_card()), 4)
    for other in (
        make_card(statistics={"DEM": {"mean": [0.0], "std": [1.0]}}),
        make_card(window=64),
        make_card(class_names=["water", "crops", "trees"]),
    ):
        assert SegmentationPredictor(segmenter, other, options=running()).digest != base
    trained = make_card(training={"accuracy": 0.9})
    assert SegmentationPredictor(segmenter, trained, options=running()).digest == base


def test_the_digest_of_the_demo_is_what_it_was_before_there_were_other_tasks():
    if not registry.DEMO_CARD_PATH.is_file():
        pytest.skip("no demo weights are shipped")
    card = registry.get_card("demo")
    assert "tokenizer" not in card.identity()
    state = registry.loading.hash_state_dict(registry.loading.read_state_dict(card.weights["path"]))
    expected = card.digest(f"{state} S2L2A S1RTC DEM")
    assert registry.load("demo", device="cpu").digest == expected


def test_precision_and_device_do_not_change_the_digest():
    assert make(precision="bf16").digest == make().digest


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
def test_wrong_chips_are_refused(chips, message):
    with pytest.raises(ModelError, match=message):
        make()(chips)


def test_an_empty_batch_gives_an_empty_answer():
    assert make()(make_chips(batch=0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "mps"])
def test_devices_that_are_not_here_are_refused(name):
    with pytest.raises(ModelError, match="device"):
        resolve_device(name)


def test_a_batch_below_one_is_refused():
    with pytest.raises(ModelError, match="batch"):
        make(batch_size=0)


_DIGEST = """
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


def test_the_number_of_cores_does_not_change_a_bit():
    result = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "5")
    }
    assert len(result) == 1
