"""Names, cards and what cannot be loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

import model
from model.errors import ModelError, WeightsError
from model.predictor import card_file, registry
from model.predictor.task_options import GENERATED_MODALITIES
from model.predictor.task_predictors import (
    EmbeddingPredictor,
    GenerativePredictor,
    SegmentationPredictor,
)
from model.terramind import modalities
from model.weights import checksums
from tests.support import lightning_checkpoints

TOY = {
    "architecture": {"dim": 32, "heads": 2, "depth": 2},
    "inputs": {"S2L2A": ["B02", "B03", "B04", "B08"], "DEM": ["DEM"]},
    "class_names": ["water", "trees", "crops"],
    "width": 8,
    "window": 32,
}
CPU = {"device": "cpu", "precision": "fp32"}
FAMILY = {
    "architecture": {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 1},
    "tokenizer": {
        "dim": 32,
        "depth": 1,
        "heads": 2,
        "image_size": 64,
        "unet": {"channels": 32, "blocks": 1},
    },
    "window": 32,
}
needs_demo = pytest.mark.skipif(
    not registry.DEMO_CARD_PATH.is_file(), reason="no demo weights are shipped"
)


@pytest.fixture
def shipped(tmp_path):
    card = card_file.from_mapping(TOY, "toy")
    segmenter = registry.loading.initialise(registry.build_segmenter(card), 1)
    return tmp_path, registry.save_segmenter(tmp_path, segmenter, card)


@pytest.fixture
def family(tmp_path):
    """Return the path of a configuration of the family, small enough for a test."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(FAMILY))
    return path


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Have neither network nor official files."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERRAMOSAIC_WEIGHTS", raising=False)


def make_chips():
    return {"S2L2A": np.full((1, 4, 32, 32), 900, np.float32)}


def make_full_chips(names=("S2L2A", "S1RTC", "DEM")):
    rng = np.random.default_rng(0)
    result = {}
    for name in names:
        scale = modalities.get_raster_modality(name).statistics
        mean, std = (np.array(v)[:, None, None] for v in (scale.mean, scale.std))
        drawn = 0.3 * rng.standard_normal((2, len(scale.mean), 32, 32))
        drawn += np.array([-0.5, 2])[:, None, None, None]
        result[name] = (mean + std * drawn).astype(np.float32)
    return result


def test_a_shipped_model_comes_back(shipped):
    folder, card = shipped
    predictor = registry.load(str(folder / "card.json"), **CPU)
    assert dict(predictor.inputs) == {"S2L2A": ("B02", "B03", "B04", "B08"), "DEM": ("DEM",)}
    assert card.weights["path"] == "weights.safetensors"
    again = registry.load(str(folder / "card.json"), **CPU)
    assert predictor.digest == again.digest
    np.testing.assert_array_equal(predictor(make_chips()), again(make_chips()))


def test_a_card_survives_writing_and_reading(shipped):
    folder, card = shipped
    assert card_file.read(folder / "card.json") == card


def test_a_card_may_be_yaml(shipped):
    folder, _ = shipped
    content = json.loads((folder / "card.json").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    from_yaml = registry.load(str(folder / "mine.yaml"), **CPU)
    assert from_yaml.digest == registry.load(str(folder / "card.json"), **CPU).digest


def test_shipped_weights_are_pinned(shipped):
    folder, _ = shipped
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="pinned"):
        registry.load(str(folder / "card.json"))


def test_other_weights_may_be_given(shipped):
    folder, _ = shipped
    path = str(folder / "card.json")
    pinned = registry.load(path, **CPU)
    same = registry.load(path, {"random": 1}, **CPU)
    assert same.digest == pinned.digest
    assert registry.load(path, {"random": 2}, **CPU).digest != pinned.digest
    assert registry.load(path, folder / "weights.safetensors", **CPU).digest == pinned.digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "terramind_v9_huge"}, "terramind_v1_base"),
        ({"name": "terramind_v1_base", "task": "flood"}, "land_cover"),
        ({"name": "terramind_v1_base", "inputs": ["Landsat"]}, "S2L2A"),
        ({"name": "terramind_v1_base", "inputs": ["DEM", "DEM"], "weights": {"random": 0}}, "once"),
        ({"name": "terramind_v1_tiny", "weights": "absent.safetensors"}, "absent"),
        ({"name": "absent.yaml"}, "absent.yaml"),
        ({"name": "terramind_v1_tiny", "task": "generate"}, "NDVI"),
        ({"name": "terramind_v1_tiny", "task": "generate", "modality": "LULC"}, "of its own"),
        ({"name": "terramind_v1_tiny", "task": "generate", "modality": "RGB"}, "or more of S2L2A"),
        ({"name": "terramind_v1_tiny", "modality": "NDVI"}, "only the task generate"),
        ({"name": "terramind_v1_tiny", "classes": ["water", "trees"]}, "checkpoint only"),
        ({"name": "terramind_v1_tiny", "stats": {"S1GRD": {"mean": [0], "std": [1]}}}, "S1GRD"),
        ({"name": "terramind_v1_tiny", "stats": {"DEM": {"mean": [0]}}}, "std"),
        ({"name": "terramind_v1_tiny", "stats": "fit.yaml"}, "fit.yaml"),
        ({"name": "terramind_v1_tiny", "nan_policy": "ignore"}, "refuse or fill"),
        ({"name": "demo", "task": "generate", "modality": "NDVI"}, "generates nothing"),
        ({"name": "demo", "checkpoint": "x.ckpt", "task": "embedding"}, "gives land cover only"),
        ({"name": "demo", "checkpoint": "x.ckpt"}, "x.ckpt"),
    ],
)
def test_what_cannot_be_loaded_is_told(arguments, message):
    with pytest.raises(ModelError, match=message):
        registry.load(**arguments)


@pytest.mark.parametrize("weights", [None, "hub"])
def test_published_weights_that_cannot_be_had_are_told(offline, weights):
    with pytest.raises(WeightsError, match=r"TerraMind_Tokenizer_LULC.*huggingface.co"):
        registry.load("terramind_v1_tiny", weights)
    with pytest.raises(WeightsError, match=r"TerraMind_v1_tiny.pt.*huggingface.co"):
        registry.load("terramind_v1_tiny", weights, task="embedding")


def test_a_configuration_without_weights_is_told(family):
    with pytest.raises(WeightsError, match="random: SEED"):
        registry.load(str(family))
    with pytest.raises(WeightsError, match="random: SEED"):
        registry.load(str(family), "hub")


def test_inputs_that_the_model_does_not_take_are_refused(shipped):
    folder, _ = shipped
    with pytest.raises(ModelError, match=r"S1RTC.*takes S2L2A, DEM"):
        registry.load(str(folder / "card.json"), inputs=["S2L2A", "S1RTC"])


@pytest.mark.parametrize(
    ("change", "message"),
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
        ({"task": "embedding"}, "when a model is loaded"),
        ({"statistics": {"DEM": {"mean": [1, 2], "std": [1, 2]}}}, "bands"),
        ({"statistics": {"DEM": {"mean": [1], "std": [0]}}}, "positive"),
        ({"statistics": {"DEM": {"mean": ["x"], "std": [1]}}}, "wrong kind"),
        ({"layers": 3}, "wrong kind"),
        ({"architecture": {"dim": 32}}, "lacks"),
    ],
)
def test_broken_cards_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        card_file.from_mapping(TOY | change)


@pytest.mark.parametrize("missing_key", ["architecture", "inputs"])
def test_a_card_without_its_essentials_is_refused(missing_key):
    with pytest.raises(ModelError, match=missing_key):
        card_file.from_mapping({k: v for k, v in TOY.items() if k != missing_key})


def test_statistics_default_to_version_1_of_the_chosen_bands():
    card = card_file.from_mapping(TOY)
    full = modalities.get_raster_modality("S2L2A").statistics
    assert card.statistics["S2L2A"].mean == (full.mean[1], full.mean[2], full.mean[3], full.mean[7])
    assert card.layers == (0, 1)


def test_classes_are_ground_only():
    assert len(card_file.CLASSES) == 8
    assert not {"clouds", "nodata"} & set(card_file.CLASSES)


def test_class_names_are_those_of_the_legend():
    classes = pytest.importorskip("catalogs.legend")
    by_index = sorted(classes.CLASSES, key=lambda entry: entry.index)
    assert tuple(entry.name for entry in by_index) == modalities.LULC_CLASSES


def test_errors_and_cards_cost_no_torch():
    code = "import sys, model.predictor.card_file, model.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_model_leaves_torch_s_threads_alone():
    code = (
        "import torch; n = torch.get_num_threads(); import model.predictor.registry, model.train; "
        "raise SystemExit(n != torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


KINDS = {
    "land_cover": ({}, GenerativePredictor),
    "embedding": ({}, EmbeddingPredictor),
    "generate": ({"modality": "NDVI", "timesteps": 2}, GenerativePredictor),
}


@pytest.mark.parametrize("task", KINDS)
def test_a_small_configuration_answers_every_task(family, task):
    options, kind = KINDS[task]
    predictor = registry.load(str(family), {"random": 3}, task, **CPU, **options)
    assert isinstance(predictor, kind)
    assert list(predictor.inputs) == ["S2L2A", "S1RTC", "DEM"]
    assert predictor.window == 32
    chips = make_full_chips()
    out = predictor(chips)
    channels = len(predictor.outputs[0].class_names or predictor.outputs[0].bands)
    assert out.shape == (
        2,
        channels,
        32 // predictor.outputs[0].stride,
        32 // predictor.outputs[0].stride,
    )
    assert np.isfinite(out).all()
    assert not np.array_equal(out[0], out[1])
    again = registry.load(str(family), {"random": 3}, task, **CPU, **options)
    assert again.digest == predictor.digest
    np.testing.assert_array_equal(again(chips), out)
    alone = [predictor({n: v[i : i + 1] for n, v in chips.items()})[0] for i in (1, 0)]
    np.testing.assert_array_equal(alone[::-1], out)
    reseeded = registry.load(str(family), {"random": 4}, task, **CPU, **options)
    assert reseeded.digest != predictor.digest
    assert not np.array_equal(reseeded(chips), out)


@pytest.mark.parametrize("task", KINDS)
def test_half_precision_answers_every_task(family, task):
    options = KINDS[task][0] | {"device": "cpu"}
    half = registry.load(str(family), {"random": 3}, task, precision="bf16", **options)
    full = registry.load(str(family), {"random": 3}, task, precision="fp32", **options)
    assert (half.precision, half.digest) == ("bf16", full.digest)
    chips = make_full_chips()
    out = half(chips)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    if task != "generate":
        # ^ one token that falls to another side makes another picture
        assert np.abs(out - full(chips)).mean() < 0.03
    alone = [half({n: v[i : i + 1] for n, v in chips.items()})[0] for i in (1, 0)]
    np.testing.assert_array_equal(alone[::-1], out)


def test_a_configuration_of_the_family_takes_any_of_its_inputs(family):
    predictor = registry.load(str(family), {"random": 3}, inputs=["DEM", "S1GRD"], **CPU)
    assert dict(predictor.inputs) == {"S1GRD": ("VV", "VH"), "DEM": ("DEM",)}
    out = predictor(make_full_chips(("S1GRD", "DEM")))
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("modality", GENERATED_MODALITIES)
def test_every_modality_can_be_generated(family, modality):
    predictor = registry.load(
        str(family), {"random": 3}, "generate", modality=modality, timesteps=1, **CPU
    )
    out = predictor(make_full_chips())
    assert out.shape == (2, len(predictor.outputs[0].bands), 32, 32)
    scale = modalities.get_target_modality(modality).statistics
    mean, std = (np.array(v)[:, None, None] for v in (scale.mean, scale.std))
    assert np.abs((out - mean) / std).max() <= 1 + 1e-5
    # ^ as published: one standard deviation around the mean


def test_windows_that_a_decoder_cannot_make_are_told(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(FAMILY | {"window": 48}))
    registry.load(str(path), {"random": 3}, **CPU)
    with pytest.raises(ModelError, match="multiples of 32"):
        registry.load(str(path), {"random": 3}, "generate", modality="DEM")


def test_a_generator_takes_all_bands(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(FAMILY | {"inputs": {"S2L2A": ["B02", "B08"]}}))
    with pytest.raises(ModelError, match="all bands"):
        registry.load(str(path), {"random": 3})
    embedding = registry.load(str(path), {"random": 3}, "embedding", **CPU)
    assert embedding.inputs["S2L2A"] == ("B02", "B08")
    encoder = model.backbone(FAMILY["architecture"], ["S2L2A"], weights={"random": 3})
    registry.loading.write_state_dict(tmp_path / "all.safetensors", encoder.state_dict())
    cut = registry.load(str(path), tmp_path / "all.safetensors", "embedding", **CPU)
    encoder.select_bands({"S2L2A": ["B02", "B08"]})
    chips = make_full_chips()["S2L2A"][:, [1, 7]]
    scale = cut.spec.statistics["S2L2A"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (scale.mean, scale.std))
    with torch.inference_mode():
        tokens = encoder((torch.from_numpy(chips) - mean) / std)
    result = cut({"S2L2A": chips}).reshape(2, 32, -1)
    np.testing.assert_allclose(result, tokens.transpose(1, 2), atol=1e-5)


def test_the_content_of_the_weights_decides_between_a_head_and_the_family(family, shipped):
    folder, _ = shipped
    expected = registry.load(str(folder / "card.json"), **CPU)
    card = card_file.read(folder / "card.json")
    with_tokenizer = replace(card, tokenizer=FAMILY["tokenizer"], weights=None)
    card_file.write(folder / "both.json", with_tokenizer)
    source = folder / "weights.safetensors"
    segmenter = registry.load(str(folder / "both.json"), source, **CPU)
    assert isinstance(segmenter, SegmentationPredictor)
    np.testing.assert_array_equal(segmenter(make_chips()), expected(make_chips()))
    state = registry.load(str(family), {"random": 3}, **CPU).network.state_dict()
    registry.loading.write_state_dict(folder / "family.safetensors", state)
    same = registry.load(str(family), folder / "family.safetensors", **CPU)
    assert isinstance(same, GenerativePredictor)
    assert same.digest == registry.load(str(family), {"random": 3}, **CPU).digest


def test_a_segmenter_without_its_head_is_told(shipped):
    folder, card = shipped
    encoder = registry.loading.initialise(registry.build_segmenter(card), 1).encoder
    path = folder / "encoder.safetensors"
    registry.loading.write_state_dict(path, encoder.state_dict())
    with pytest.raises(ModelError, match="hold no land-cover head"):
        registry.load(str(folder / "card.json"), path)
    features = registry.load(str(folder / "card.json"), path, "embedding", **CPU)
    from_card = registry.load(str(folder / "card.json"), task="embedding", **CPU)
    np.testing.assert_array_equal(features(make_chips()), from_card(make_chips()))


def test_a_published_size_takes_the_weights_of_a_segmenter(tmp_path):
    built = model.segmenter("terramind_v1_tiny", ["S1RTC", "DEM"], len(card_file.CLASSES))
    state = registry.loading.initialise(built, 1).state_dict()
    path = tmp_path / "weights.safetensors"
    registry.loading.write_state_dict(path, state)
    predictor = registry.load("terramind_v1_tiny", path, inputs=["DEM", "S1RTC"], **CPU)
    assert isinstance(predictor, SegmentationPredictor)
    assert (predictor.window, predictor.outputs[0].class_names) == (224, card_file.CLASSES)
    assert list(predictor.inputs) == ["S1RTC", "DEM"]
    out = predictor(make_full_chips(("S1RTC", "DEM")))
    assert out.shape == (2, 8, 32, 32)
    features = registry.load("terramind_v1_tiny", path, "embedding", inputs=["DEM", "S1RTC"], **CPU)
    assert isinstance(features, EmbeddingPredictor)
    assert features(make_full_chips(("S1RTC", "DEM"))).shape == (2, 192, 2, 2)


def test_embeddings_of_the_demo_are_those_of_its_encoder(shipped):
    folder, card = shipped
    features = registry.load(str(folder / "card.json"), task="embedding", **CPU)
    assert features.outputs[0].bands[-1] == "e031"
    chips = {"DEM": make_full_chips(("DEM",))["DEM"]}
    segmenter = registry.loading.initialise(registry.build_segmenter(card), 1)
    scale = card.statistics["DEM"]
    with torch.inference_mode():
        tokens = segmenter.encoder(
            {"DEM": (torch.from_numpy(chips["DEM"]) - scale.mean[0]) / scale.std[0]}
        )
    np.testing.assert_allclose(
        features(chips), tokens.transpose(1, 2).reshape(2, 32, 2, 2), atol=1e-5
    )


def test_tokenizers_may_lie_beside_the_weights_or_be_named(family, tmp_path, offline):
    predictor = registry.load(str(family), {"random": 3}, **CPU)
    folder = tmp_path / "official"
    folder.mkdir()
    start = f"tokenizer.{modalities.get_target_modality('LULC').key}."
    neighbours = {
        key.removeprefix(start): value
        for key, value in predictor.network.state_dict().items()
        if key.startswith(start)
    }
    registry.loading.write_state_dict(folder / "TerraMind_Tokenizer_LULC.safetensors", neighbours)
    generator = {
        key: value
        for key, value in predictor.network.state_dict().items()
        if "tokenizer" not in key
    }
    registry.loading.write_state_dict(folder / "TerraMind.safetensors", generator)
    source = folder / "TerraMind.safetensors"
    result = registry.load(str(family), source, **CPU)
    assert result.digest == predictor.digest
    elsewhere = registry.load(str(family), source, tokenizers={"LULC": {"random": 5}}, **CPU)
    assert elsewhere.digest != predictor.digest
    with pytest.raises(ModelError, match="DEM"):
        registry.load(str(family), source, tokenizers={"DEM": "hub"})
    with pytest.raises(WeightsError, match=r"no tokenizer of NDVI.*tokenizers: \{NDVI"):
        registry.load(str(family), source, "generate", modality="NDVI")


def test_statistics_may_be_given(family):
    plain = registry.load(str(family), {"random": 3}, "embedding", inputs=["DEM"], **CPU)
    shifted_mean = registry.load(
        str(family),
        {"random": 3},
        "embedding",
        inputs=["DEM"],
        **CPU,
        stats={"DEM": {"mean": [0.0], "std": [951.272]}},
    )
    assert shifted_mean.digest != plain.digest
    chips = make_full_chips(("DEM",))
    shifted = {"DEM": chips["DEM"] - np.float32(670.665)}
    np.testing.assert_allclose(shifted_mean(shifted), plain(chips), atol=1e-4)


def test_holes_are_passed_on(family):
    chips = make_full_chips()
    chips["DEM"][0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        registry.load(str(family), {"random": 3}, "embedding", **CPU)(chips)
    fills = registry.load(str(family), {"random": 3}, "embedding", **CPU, nan_policy="fill")
    assert np.isfinite(fills(chips)).all()


ARGS = {
    "backbone": "micro",
    "backbone_modalities": ["S2L2A", "DEM"],
    "num_classes": 3,
    "necks": [{"name": "ReshapeTokensToImage", "remove_cls_token": False}],
    "decoder": "FCNDecoder",
    "decoder_channels": 8,
    "decoder_num_convs": 1,
}
CLASSES = ("water", "trees", "crops")


@pytest.fixture
def checkpoint(tmp_path):
    """Return the path of what `terratorch fit` would have written."""
    network = lightning_checkpoints.build_model(
        FAMILY["architecture"],
        ["S2L2A", "DEM"],
        3,
        necks=ARGS["necks"],
        decoder="FCNDecoder",
        decoder_options={"channels": 8, "num_convs": 1},
    )
    state = registry.loading.initialise(network, 2).state_dict()
    path = tmp_path / "best.ckpt"
    torch.save(
        {
            "state_dict": {f"model.{key}": value for key, value in state.items()},
            "hyper_parameters": {
                "task": "segmentation",
                "model_factory": "EncoderDecoderFactory",
                "model_args": ARGS,
            },
        },
        path,
    )
    return path


def test_a_checkpoint_of_terratorch_maps(checkpoint, family):
    options = {"checkpoint": checkpoint, "classes": CLASSES, **CPU}
    predictor = registry.load(str(family), **options)
    assert predictor.outputs[0].class_names == CLASSES
    assert list(predictor.inputs) == ["S2L2A", "DEM"]
    out = predictor(make_full_chips(("S2L2A", "DEM")))
    assert out.shape == (2, 3, 32, 32)
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-5)
    stats = {"DEM": {"mean": [0.0], "std": [100.0]}}
    restandardised = registry.load(str(family), stats=stats, **options)
    assert restandardised.digest != predictor.digest
    assert not np.array_equal(restandardised(make_full_chips(("S2L2A", "DEM"))), out)
    fewer = registry.load(str(family), inputs=["DEM"], **options)
    assert list(fewer.inputs) == ["DEM"]


def test_the_training_s_yaml_holds_statistics_and_bands(checkpoint, family, tmp_path):
    bands = list(modalities.get_raster_modality("S2L2A").aliases)
    means = {"S2L2A": dict.fromkeys(bands, 1000.0), "DEM": {"DEM": 100.0}}
    stds = {"S2L2A": dict.fromkeys(bands, 500.0), "DEM": {"DEM": 50.0}}
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump({"data": {"init_args": {"means": means, "stds": stds}}}))
    options = {"checkpoint": checkpoint, "classes": CLASSES, **CPU}
    loaded = registry.load(str(family), stats=str(path), **options)
    plain = {
        "S2L2A": {"mean": [1000.0] * 12, "std": [500.0] * 12},
        "DEM": {"mean": [100.0], "std": [50.0]},
    }
    assert loaded.digest == registry.load(str(family), stats=plain, **options).digest


def test_checkpoints_say_what_they_lack(checkpoint, family):
    with pytest.raises(ModelError, match=r"3 classes.*classes:"):
        registry.load(str(family), checkpoint=checkpoint)
    with pytest.raises(ModelError, match="2 class names for a model of 3"):
        registry.load(str(family), checkpoint=checkpoint, classes=CLASSES[:2])
    with pytest.raises(ModelError, match="lava"):
        registry.load(str(family), checkpoint=checkpoint, classes=("water", "trees", "lava"))
    with pytest.raises(ModelError, match="takes S2L2A, DEM"):
        registry.load(str(family), checkpoint=checkpoint, classes=CLASSES, inputs=["S1RTC"])
    with pytest.raises(WeightsError, match="checkpoint:"):
        registry.load(str(family), checkpoint)


@needs_demo
def test_the_demo_has_features():
    features = registry.load("demo", task="embedding", **CPU)
    assert len(features.outputs[0].bands) == registry.get_card("demo").architecture.dim
    assert np.isfinite(features(make_full_chips())).all()


@needs_demo
def test_the_demo_is_small_pinned_and_works():
    card = registry.get_card("demo")
    predictor = registry.load("demo", **CPU)
    weights = registry.DEMO_CARD_PATH.parent / "weights.safetensors"
    assert weights.stat().st_size <= 12e6
    assert card.weights["sha256"] == checksums.hash_file(weights)
    assert set(predictor.inputs) == {"S2L2A", "S1RTC", "DEM"}
    out = predictor(
        {"S2L2A": np.full((1, 12, predictor.window, predictor.window), 900, np.float32)}
    )
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-5)


@needs_demo
def test_the_demo_s_card_says_what_it_is():
    training = registry.get_card("demo").training
    assert training
    assert json.dumps(dict(training))


def test_a_missing_demo_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "DEMO_CARD_PATH", tmp_path / "card.json")
    with pytest.raises(ModelError, match="terramosaic train"):
        registry.load("demo")


def test_a_card_is_frozen():
    card = card_file.from_mapping(TOY)
    with pytest.raises(AttributeError):
        card.window = 64
    assert replace(card, window=64).digest("x") != card.digest("x")
