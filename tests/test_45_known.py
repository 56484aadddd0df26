"""Names, cards and what cannot be loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from model import cards, config, known, modalities
from model.errors import ModelError, WeightsError

TOY = {
    "architecture": {"dim": 32, "heads": 2, "depth": 2},
    "inputs": {"S2L2A": ["B02", "B03", "B04", "B08"], "DEM": ["DEM"]},
    "class_names": ["water", "trees", "crops"],
    "width": 8,
    "window": 32,
}
needs_demo = pytest.mark.skipif(not known.DEMO_CARD.is_file(), reason="no demo weights are shipped")


@pytest.fixture
def shipped(tmp_path):
    card = cards.from_mapping(TOY, "toy")
    segmenter = known.weights.initialise(known.build(card), 1)
    return tmp_path, known.ship(tmp_path, segmenter, card)


def chips():
    return {"S2L2A": np.full((1, 4, 32, 32), 900, np.float32)}


def test_a_shipped_model_comes_back(shipped):
    folder, card = shipped
    predictor = known.load(str(folder / "card.json"), device="cpu")
    assert dict(predictor.inputs) == {"S2L2A": ("B02", "B03", "B04", "B08"), "DEM": ("DEM",)}
    assert card.weights["path"] == "weights.safetensors"
    again = known.load(str(folder / "card.json"), device="cpu")
    assert predictor.digest == again.digest
    np.testing.assert_array_equal(predictor(chips()), again(chips()))


def test_a_card_survives_writing_and_reading(shipped):
    folder, card = shipped
    assert cards.read(folder / "card.json") == card


def test_a_card_may_be_yaml(shipped):
    import yaml

    folder, _ = shipped
    content = json.loads((folder / "card.json").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    one = known.load(str(folder / "mine.yaml"), device="cpu")
    assert one.digest == known.load(str(folder / "card.json"), device="cpu").digest


def test_shipped_weights_are_pinned(shipped):
    folder, _ = shipped
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="pinned"):
        known.load(str(folder / "card.json"))


def test_other_weights_may_be_given(shipped):
    folder, _ = shipped
    path = str(folder / "card.json")
    pinned = known.load(path, device="cpu")
    same = known.load(path, {"random": 1}, device="cpu")
    assert same.digest == pinned.digest
    assert known.load(path, {"random": 2}, device="cpu").digest != pinned.digest
    assert known.load(path, folder / "weights.safetensors", device="cpu").digest == pinned.digest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "terramind_v9_huge"}, "terramind_v1_base"),
        ({"name": "terramind_v1_base", "task": "flood"}, "land_cover"),
        ({"name": "terramind_v1_base", "inputs": ["Landsat"]}, "S2L2A"),
        ({"name": "terramind_v1_base", "inputs": ["DEM", "DEM"], "weights": {"random": 0}}, "once"),
        ({"name": "terramind_v1_tiny", "weights": "hub"}, "encoder, not a land-cover head"),
        ({"name": "terramind_v1_tiny"}, "random: SEED"),
        ({"name": "terramind_v1_tiny", "weights": "absent.safetensors"}, "absent"),
        ({"name": "absent.yaml"}, "absent.yaml"),
    ],
)
def test_what_cannot_be_loaded_is_told(arguments, says):
    with pytest.raises(ModelError, match=says):
        known.load(**arguments)


def test_inputs_that_the_model_does_not_take_are_refused(shipped):
    folder, _ = shipped
    with pytest.raises(ModelError, match=r"S1RTC.*takes S2L2A, DEM"):
        known.load(str(folder / "card.json"), inputs=["S2L2A", "S1RTC"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hats": 1}, "hats"),
        ({"inputs": {}}, "input"),
        ({"inputs": {"S2L2A": ["B77"]}}, "B77"),
        ({"inputs": "S2L2A"}, "list"),
        ({"inputs": ["LULC"]}, "LULC"),
        ({"class_names": ["water", "lava"]}, "lava"),
        ({"class_names": ["water", "water"]}, "water"),
        ({"window": 100}, "multiple"),
        ({"task": "flood"}, "flood"),
        ({"statistics": {"DEM": {"mean": [1, 2], "std": [1, 2]}}}, "bands"),
        ({"statistics": {"DEM": {"mean": [1], "std": [0]}}}, "positive"),
        ({"statistics": {"DEM": {"mean": ["x"], "std": [1]}}}, "wrong kind"),
        ({"layers": 3}, "wrong kind"),
        ({"architecture": {"dim": 32}}, "lacks"),
    ],
)
def test_broken_cards_are_refused(change, says):
    with pytest.raises(ModelError, match=says):
        cards.from_mapping(TOY | change)


@pytest.mark.parametrize("lacking", ["architecture", "inputs"])
def test_a_card_without_its_essentials_is_refused(lacking):
    with pytest.raises(ModelError, match=lacking):
        cards.from_mapping({k: v for k, v in TOY.items() if k != lacking})


def test_statistics_default_to_version_1_of_the_chosen_bands():
    card = cards.from_mapping(TOY)
    full = modalities.get("S2L2A").statistics
    assert card.statistics["S2L2A"].mean == (full.mean[1], full.mean[2], full.mean[3], full.mean[7])
    assert card.layers == (0, 1)


def test_classes_are_ground_only():
    assert len(cards.CLASSES) == 8
    assert not {"clouds", "nodata"} & set(cards.CLASSES)


def test_class_names_are_those_of_the_legend():
    classes = pytest.importorskip("catalogs.classes")
    by_index = sorted(classes.CLASSES, key=lambda entry: entry.index)
    assert tuple(entry.name for entry in by_index) == modalities.LAND_COVER


def test_the_list_of_models_is_complete():
    found = {entry.name: entry for entry in known.entries()}
    assert set(config.ARCHITECTURES) <= set(found)
    assert found["terramind_v1_base"].parameters > 80e6
    assert not found["terramind_v1_base"].ready
    assert "huggingface.co/ibm-esa-geospatial" in found["terramind_v1_large"].weights


def test_errors_and_cards_cost_no_torch():
    code = "import sys, model.cards, model.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_model_leaves_torch_s_threads_alone():
    code = (
        "import torch; n = torch.get_num_threads(); import model.known, model.train; "
        "raise SystemExit(n != torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_demo
def test_the_demo_is_small_pinned_and_works():
    card = known.card_of("demo")
    predictor = known.load("demo", device="cpu")
    weights = known.DEMO_CARD.parent / "weights.safetensors"
    assert weights.stat().st_size <= 12e6
    assert card.weights["sha256"] == known.weights.digest_of_file(weights)
    assert set(predictor.inputs) == {"S2L2A", "S1RTC", "DEM"}
    out = predictor(
        {"S2L2A": np.full((1, 12, predictor.window, predictor.window), 900, np.float32)}
    )
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-5)


@needs_demo
def test_the_demo_s_card_says_what_it_is():
    training = known.card_of("demo").training
    assert training
    assert json.dumps(dict(training))


def test_a_missing_demo_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(known, "DEMO_CARD", tmp_path / "card.json")
    with pytest.raises(ModelError, match="terramosaic train"):
        known.load("demo")
    assert "demo" not in {entry.name for entry in known.entries()}


def test_a_card_is_frozen():
    card = cards.from_mapping(TOY)
    with pytest.raises(AttributeError):
        card.window = 64
    assert replace(card, window=64).digest("x") != card.digest("x")
