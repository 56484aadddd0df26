"""How many windows a GPU takes at a time, with a GPU whose memory is a script."""

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


class Card:
    """A GPU: so many bytes, of which the weights and the windows of a call take theirs."""

    def __init__(self, monkeypatch, *, total=24 * GB, window=0.1 * GB, name="A GPU"):
        self.total, self.window, self.name, self.others = total, window, name, 0
        self.held = self.peak = WEIGHTS
        for each in (
            "mem_get_info", "memory_reserved", "max_memory_reserved", "reset_peak_memory_stats",
            "empty_cache", "get_device_name",
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, each, getattr(self, each))

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


class Model:
    """A predictor that takes memory and answers nothing."""

    window, digest, precision = 32, "ab" * 32, "bf16"
    device = torch.device("cuda")
    inputs = MappingProxyType({"S2L2A": ("B02", "B03"), "DEM": ("DEM",)})
    spec = SimpleNamespace(
        statistics={
            "S2L2A": Statistics(mean=(1000.0, 900.0), std=(1.0, 1.0)),
            "DEM": Statistics(mean=(300.0,), std=(1.0,)),
        }
    )

    def __init__(self, card):
        self.card, self.batch_size, self.tried = card, 16, []

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
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("total", "window", "expected"),
    [
        (24 * GB, 0.1 * GB, 128),
        # ^ 22 GB are free, 17.6 may be taken: 128 windows take 12.8, 256 do not fit
        (24 * GB, 0.137 * GB, 128),
        (24 * GB, 0.138 * GB, 64),
        (4 * GB, 1.5 * GB, 1),
        (142 * GB, 0.01 * GB, 512),
    ],
)
def test_the_largest_power_of_two_within_four_fifths_of_what_is_free(
    monkeypatch, total, window, expected
):
    predictor = Model(Card(monkeypatch, total=total, window=window))
    assert batch_size_search.find_batch_size(predictor) == expected
    assert predictor.batch_size == 16
    # ^ as it was
    assert max(predictor.tried) <= min(512, 2 * expected)
    assert predictor.card.held == WEIGHTS


def test_it_is_tried_once_for_a_model_a_device_and_a_precision(monkeypatch, home):
    card = Card(monkeypatch)
    first, again = Model(card), Model(card)
    assert (
        batch_size_search.find_batch_size(first) == batch_size_search.find_batch_size(again) == 128
    )
    assert (bool(first.tried), again.tried) == (True, [])
    (key,) = json.loads((home / "batches.json").read_text())
    assert key == f"{'ab' * 32} A GPU bf16"
    for change in ({"digest": "cd" * 32}, {"precision": "fp32"}):
        other = Model(card)
        for name, value in change.items():
            setattr(other, name, value)
        batch_size_search.find_batch_size(other)
        assert other.tried
    card.name = "Another GPU"
    elsewhere = Model(card)
    batch_size_search.find_batch_size(elsewhere)
    assert elsewhere.tried
    assert len(json.loads((home / "batches.json").read_text())) == 4


def test_what_no_longer_fits_is_tried_anew(monkeypatch):
    card = Card(monkeypatch)
    assert batch_size_search.find_batch_size(Model(card)) == 128
    card.others = 12 * GB
    # ^ somebody else moved in: 10 GB are free, 8 may be taken
    crowded = Model(card)
    assert batch_size_search.find_batch_size(crowded) == 64
    assert crowded.tried[-1] == 128


@pytest.mark.parametrize("text", ["", "[]", "{broken", '{"ab": 3}'])
def test_a_damaged_note_is_written_anew(monkeypatch, home, text):
    home.mkdir()
    (home / "batches.json").write_text(text)
    assert batch_size_search.find_batch_size(Model(Card(monkeypatch))) == 128
    assert len(json.loads((home / "batches.json").read_text())) == 1


def test_where_nothing_can_be_written_it_works_all_the_same(monkeypatch, home):
    home.write_text("a file where the folder should be")
    assert batch_size_search.find_batch_size(Model(Card(monkeypatch))) == 128


def test_a_window_that_does_not_fit_is_told(monkeypatch):
    predictor = Model(Card(monkeypatch, total=4 * GB, window=1.7 * GB))
    with pytest.raises(ModelError, match=r"1.6 GB.*32 px"):
        batch_size_search.find_batch_size(predictor)
    assert predictor.batch_size == 16


def test_on_a_cpu_nothing_is_tried():
    assert (
        batch_size_search.find_batch_size(SimpleNamespace(device=torch.device("cpu")))
        == batch_size_search.CPU_BATCH_SIZE
    )
