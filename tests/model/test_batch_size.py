"""The batch size of a GPU, with a simulated GPU of given memory."""

from __future__ import annotations

import json
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch

from model.errors import ModelError
from model.predictor import batch_size_search
from model.terramind.modalities import Statistics

GB = 10**9
WEIGHTS = 2 * GB


class FakeGpu:
    """A GPU of a given size, filled by the weights and the windows of a call."""

    def __init__(self, monkeypatch, *, total=24 * GB, window=0.1 * GB, name="A GPU"):
        self.total, self.window, self.name, self.others = total, window, name, 0
        self.held = self.peak = WEIGHTS
        for function_name in (
            "mem_get_info", "memory_reserved", "max_memory_reserved", "reset_peak_memory_stats",
            "empty_cache", "get_device_name",
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, function_name, getattr(self, function_name))

    def mem_get_info(self, _device):
        return self.total - self.held - self.others, self.total

    def memory_reserved(self, _device):
        return self.held

    def max_memory_reserved(self, _device):
        return int(self.peak)

    def reset_peak_memory_stats(self, _device):
        self.peak = self.held

    def empty_cache(self):
        self.held = WEIGHTS

    def get_device_name(self, _device):
        return self.name

    def take(self, count):
        self.held = WEIGHTS + count * self.window
        if self.held > self.total - self.others:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.peak = max(self.peak, self.held)


class FakePredictor:
    """A predictor that takes memory and returns nothing."""

    window, digest, precision = 32, "ab" * 32, "bf16"
    device = torch.device("cuda")
    inputs = MappingProxyType({"S2L2A": ("B02", "B03"), "DEM": ("DEM",)})
    spec = SimpleNamespace(
        statistics={
            "S2L2A": Statistics(mean=(1000.0, 900.0), std=(1.0, 1.0)),
            "DEM": Statistics(mean=(300.0,), std=(1.0,)),
        }
    )

    def __init__(self, gpu):
        self.card, self.batch_size, self.tried = gpu, 16, []

    def predict(self, chips, places):
        assert {name: values.shape for name, values in chips.items()} == {
            "S2L2A": (self.batch_size, 2, 32, 32),
            "DEM": (self.batch_size, 1, 32, 32),
        }
        assert all(np.isfinite(values).all() for values in chips.values())
        assert len(places) == self.batch_size
        self.tried.append(self.batch_size)
        self.card.take(self.batch_size)


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("total", "window", "expected"),
    [
        (24 * GB, 0.1 * GB, 128),
        # ^ 22 GB are free, of which 17.6 may be used: 128 windows take 12.8, 256 do not fit
        (24 * GB, 0.137 * GB, 128),
        (24 * GB, 0.138 * GB, 64),
        (4 * GB, 1.5 * GB, 1),
        (142 * GB, 0.01 * GB, 512),
    ],
)
def test_the_largest_power_of_two_within_four_fifths_of_free_memory_is_found(
    monkeypatch, total, window, expected
):
    predictor = FakePredictor(FakeGpu(monkeypatch, total=total, window=window))
    assert batch_size_search.find_batch_size(predictor) == expected
    assert predictor.batch_size == 16
    # ^ unchanged
    assert max(predictor.tried) <= min(512, 2 * expected)
    assert predictor.card.held == WEIGHTS


def test_the_search_runs_once_per_model_device_and_precision(monkeypatch, cache_home):
    gpu = FakeGpu(monkeypatch)
    first_predictor, second_predictor = FakePredictor(gpu), FakePredictor(gpu)
    assert (
        batch_size_search.find_batch_size(first_predictor)
        == batch_size_search.find_batch_size(second_predictor)
        == 128
    )
    assert (bool(first_predictor.tried), second_predictor.tried) == (True, [])
    (key,) = json.loads((cache_home / "batches.json").read_text())
    assert key == f"{'ab' * 32} A GPU bf16"
    for change in ({"digest": "cd" * 32}, {"precision": "fp32"}):
        changed_predictor = FakePredictor(gpu)
        for name, value in change.items():
            setattr(changed_predictor, name, value)
        batch_size_search.find_batch_size(changed_predictor)
        assert changed_predictor.tried
    gpu.name = "Another GPU"
    moved_predictor = FakePredictor(gpu)
    batch_size_search.find_batch_size(moved_predictor)
    assert moved_predictor.tried
    assert len(json.loads((cache_home / "batches.json").read_text())) == 4


def test_a_stored_size_that_no_longer_fits_is_searched_again(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    assert batch_size_search.find_batch_size(FakePredictor(gpu)) == 128
    gpu.others = 12 * GB
    # ^ another process takes memory: 10 GB are free, 8 may be used
    predictor = FakePredictor(gpu)
    assert batch_size_search.find_batch_size(predictor) == 64
    assert predictor.tried[-1] == 128


@pytest.mark.parametrize("text", ["", "[]", "{broken", '{"ab": 3}'])
def test_a_damaged_cache_is_replaced(monkeypatch, cache_home, text):
    cache_home.mkdir()
    (cache_home / "batches.json").write_text(text)
    assert batch_size_search.find_batch_size(FakePredictor(FakeGpu(monkeypatch))) == 128
    assert len(json.loads((cache_home / "batches.json").read_text())) == 1


def test_an_unwritable_cache_is_ignored(monkeypatch, cache_home):
    cache_home.write_text("a file where the folder should be")
    assert batch_size_search.find_batch_size(FakePredictor(FakeGpu(monkeypatch))) == 128


def test_a_window_that_does_not_fit_is_refused(monkeypatch):
    predictor = FakePredictor(FakeGpu(monkeypatch, total=4 * GB, window=1.7 * GB))
    with pytest.raises(ModelError, match=r"1.6 GB.*32 px"):
        batch_size_search.find_batch_size(predictor)
    assert predictor.batch_size == 16


def test_the_batch_size_of_a_cpu_is_constant():
    assert (
        batch_size_search.find_batch_size(SimpleNamespace(device=torch.device("cpu")))
        == batch_size_search.CPU_BATCH_SIZE
    )
