"""Names of models, cards, tasks, and requests that cannot be loaded."""

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

CARD_VALUES = {
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
def shipped_model(tmp_path):
    card = card_file.from_mapping(CARD_VALUES, "toy")
    segmenter = registry.loading.initialise(registry.build_segmenter(card), 1)
    return tmp_path, registry.save_segmenter(tmp_path, segmenter, card)


@pytest.fixture
def family_card(tmp_path):
    """Return the path of a card of a small model with encoder, decoder and tokenizers."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(FAMILY))
    return path


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Remove the network and all official files."""
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
        statistics = modalities.get_raster_modality(name).statistics
        mean, std = (
            np.array(values)[:, None, None] for values in (statistics.mean, statistics.std)
        )
        noise = 0.3 * rng.standard_normal((2, len(statistics.mean), 32, 32))
        noise += np.array([-0.5, 2])[:, None, None, None]
        result[name] = (mean + std * noise).astype(np.float32)
    return result


def test_a_shipped_model_is_loaded(shipped_model):
    folder, card = shipped_model
    predictor = registry.load(str(folder / "card.json"), **CPU)
    assert dict(predictor.inputs) == {"S2L2A": ("B02", "B03", "B04", "B08"), "DEM": ("DEM",)}
    assert card.weights["path"] == "weights.safetensors"
    second_predictor = registry.load(str(folder / "card.json"), **CPU)
    assert predictor.digest == second_predictor.digest
    np.testing.assert_array_equal(predictor(make_chips()), second_predictor(make_chips()))


def test_a_card_survives_writing_and_reading(shipped_model):
    folder, card = shipped_model
    assert card_file.read(folder / "card.json") == card


def test_a_card_may_be_yaml(shipped_model):
    folder, _ = shipped_model
    content = json.loads((folder / "card.json").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    from_yaml = registry.load(str(folder / "mine.yaml"), **CPU)
    assert from_yaml.digest == registry.load(str(folder / "card.json"), **CPU).digest


def test_shipped_weights_are_pinned(shipped_model):
    folder, _ = shipped_model
    file = folder / "weights.safetensors"
    file_bytes = bytearray(file.read_bytes())
    file_bytes[-1] ^= 1
    file.write_bytes(file_bytes)
    with pytest.raises(WeightsError, match="pinned"):
        registry.load(str(folder / "card.json"))


def test_other_weights_may_be_passed(shipped_model):
    folder, _ = shipped_model
    path = str(folder / "card.json")
    pinned = registry.load(path, **CPU)
    reseeded = registry.load(path, {"random": 1}, **CPU)
    assert reseeded.digest == pinned.digest
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
def test_invalid_requests_are_explained(arguments, message):
    with pytest.raises(ModelError, match=message):
        registry.load(**arguments)


@pytest.mark.parametrize("weights", [None, "hub"])
def test_unavailable_published_weights_are_explained(no_network, weights):
    with pytest.raises(WeightsError, match=r"TerraMind_Tokenizer_LULC.*huggingface.co"):
        registry.load("terramind_v1_tiny", weights)
    with pytest.raises(WeightsError, match=r"TerraMind_v1_tiny.pt.*huggingface.co"):
        registry.load("terramind_v1_tiny", weights, task="embedding")


def test_a_configuration_without_weights_is_explained(family_card):
    with pytest.raises(WeightsError, match="random: SEED"):
        registry.load(str(family_card))
    with pytest.raises(WeightsError, match="random: SEED"):
        registry.load(str(family_card), "hub")


def test_inputs_unknown_to_the_model_are_refused(shipped_model):
    folder, _ = shipped_model
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
        ({"class_names": ["lava"]}, "lava"),
        ({"class_names": ["lava", "lava"]}, "lava, lava"),
        ({"class_names": ["lava", False]}, "lava, False"),
        ({"class_names": ["lava", " "]}, "two different texts"),
        ({"class_colors": ["#d55e00"]}, "one colour such as '#d55e00' for each of the 3 classes"),
        ({"class_colors": ["#d55e00", "red", "#000000"]}, "red"),
        ({"layer": 3}, "layer: 3"),
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
def test_invalid_cards_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        card_file.from_mapping(CARD_VALUES | change)


@pytest.mark.parametrize("missing_key", ["architecture", "inputs"])
def test_a_card_without_its_essentials_is_refused(missing_key):
    with pytest.raises(ModelError, match=missing_key):
        card_file.from_mapping(
            {key: value for key, value in CARD_VALUES.items() if key != missing_key}
        )


def test_statistics_default_to_version_1_of_the_chosen_bands():
    card = card_file.from_mapping(CARD_VALUES)
    statistics = modalities.get_raster_modality("S2L2A").statistics
    assert card.statistics["S2L2A"].mean == (
        statistics.mean[1],
        statistics.mean[2],
        statistics.mean[3],
        statistics.mean[7],
    )
    assert card.layers == (0, 1)


def test_classes_exclude_clouds_and_nodata():
    assert len(card_file.CLASSES) == 8
    assert not {"clouds", "nodata"} & set(card_file.CLASSES)


def test_class_names_are_those_of_the_legend():
    legend = pytest.importorskip("catalogs.legend").LAND_COVER
    assert tuple(legend.by_name) == modalities.LULC_CLASSES


def test_errors_and_cards_do_not_import_torch():
    code = "import sys, model.predictor.card_file, model.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_model_keeps_the_number_of_threads():
    code = (
        "import torch; n = torch.get_num_threads(); import model.predictor.registry, model.train; "
        "raise SystemExit(n != torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TASKS = {
    "land_cover": ({}, GenerativePredictor),
    "embedding": ({}, EmbeddingPredictor),
    "generate": ({"modality": "NDVI", "timesteps": 2}, GenerativePredictor),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_small_model_performs_every_task(family_card, task):
    options, predictor_class = TASKS[task]
    predictor = registry.load(str(family_card), {"random": 3}, task, **CPU, **options)
    assert isinstance(predictor, predictor_class)
    assert list(predictor.inputs) == ["S2L2A", "S1RTC", "DEM"]
    assert predictor.window == 32
    chips = make_full_chips()
    output = predictor(chips)
    channels = len(predictor.outputs[0].class_names or predictor.outputs[0].bands)
    assert output.shape == (
        2,
        channels,
        32 // predictor.outputs[0].stride,
        32 // predictor.outputs[0].stride,
    )
    assert np.isfinite(output).all()
    assert not np.array_equal(output[0], output[1])
    second_predictor = registry.load(str(family_card), {"random": 3}, task, **CPU, **options)
    assert second_predictor.digest == predictor.digest
    np.testing.assert_array_equal(second_predictor(chips), output)
    single_outputs = [
        predictor({name: values[index : index + 1] for name, values in chips.items()})[0]
        for index in (1, 0)
    ]
    np.testing.assert_array_equal(single_outputs[::-1], output)
    reseeded = registry.load(str(family_card), {"random": 4}, task, **CPU, **options)
    assert reseeded.digest != predictor.digest
    assert not np.array_equal(reseeded(chips), output)


@pytest.mark.parametrize("task", TASKS)
def test_half_precision_performs_every_task(family_card, task):
    options = TASKS[task][0] | {"device": "cpu"}
    half_predictor = registry.load(
        str(family_card), {"random": 3}, task, precision="bf16", **options
    )
    full_predictor = registry.load(
        str(family_card), {"random": 3}, task, precision="fp32", **options
    )
    assert (half_predictor.precision, half_predictor.digest) == ("bf16", full_predictor.digest)
    chips = make_full_chips()
    output = half_predictor(chips)
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
    if task != "generate":
        # ^ in generation a single different token changes the image
        assert np.abs(output - full_predictor(chips)).mean() < 0.03
    single_outputs = [
        half_predictor({name: values[index : index + 1] for name, values in chips.items()})[0]
        for index in (1, 0)
    ]
    np.testing.assert_array_equal(single_outputs[::-1], output)


def test_a_model_accepts_any_subset_of_its_inputs(family_card):
    predictor = registry.load(str(family_card), {"random": 3}, inputs=["DEM", "S1GRD"], **CPU)
    assert dict(predictor.inputs) == {"S1GRD": ("VV", "VH"), "DEM": ("DEM",)}
    output = predictor(make_full_chips(("S1GRD", "DEM")))
    np.testing.assert_allclose(output.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("modality", GENERATED_MODALITIES)
def test_every_modality_can_be_generated(family_card, modality):
    predictor = registry.load(
        str(family_card), {"random": 3}, "generate", modality=modality, timesteps=1, **CPU
    )
    output = predictor(make_full_chips())
    assert output.shape == (2, len(predictor.outputs[0].bands), 32, 32)
    statistics = modalities.get_target_modality(modality).statistics
    mean, std = (np.array(values)[:, None, None] for values in (statistics.mean, statistics.std))
    assert np.abs((output - mean) / std).max() <= 1 + 1e-5
    # ^ as published: within one standard deviation of the mean


def test_windows_that_a_decoder_cannot_produce_are_refused(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(FAMILY | {"window": 48}))
    registry.load(str(path), {"random": 3}, **CPU)
    with pytest.raises(ModelError, match="multiples of 32"):
        registry.load(str(path), {"random": 3}, "generate", modality="DEM")


def test_a_generator_needs_all_bands(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(FAMILY | {"inputs": {"S2L2A": ["B02", "B08"]}}))
    with pytest.raises(ModelError, match="all bands"):
        registry.load(str(path), {"random": 3})
    embedding = registry.load(str(path), {"random": 3}, "embedding", **CPU)
    assert embedding.inputs["S2L2A"] == ("B02", "B08")
    encoder = model.backbone(FAMILY["architecture"], ["S2L2A"], weights={"random": 3})
    registry.loading.write_state_dict(tmp_path / "all.safetensors", encoder.state_dict())
    subset_predictor = registry.load(str(path), tmp_path / "all.safetensors", "embedding", **CPU)
    encoder.select_bands({"S2L2A": ["B02", "B08"]})
    chips = make_full_chips()["S2L2A"][:, [1, 7]]
    statistics = subset_predictor.spec.statistics["S2L2A"]
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (statistics.mean, statistics.std)
    )
    with torch.inference_mode():
        tokens = encoder((torch.from_numpy(chips) - mean) / std)
    result = subset_predictor({"S2L2A": chips}).reshape(2, 32, -1)
    np.testing.assert_allclose(result, tokens.transpose(1, 2), atol=1e-5)


def test_the_content_of_the_weights_decides_between_segmenter_and_generator(
    family_card, shipped_model
):
    folder, _ = shipped_model
    expected = registry.load(str(folder / "card.json"), **CPU)
    card = card_file.read(folder / "card.json")
    with_tokenizer = replace(card, tokenizer=FAMILY["tokenizer"], weights=None)
    card_file.write(folder / "both.json", with_tokenizer)
    source = folder / "weights.safetensors"
    segmenter = registry.load(str(folder / "both.json"), source, **CPU)
    assert isinstance(segmenter, SegmentationPredictor)
    np.testing.assert_array_equal(segmenter(make_chips()), expected(make_chips()))
    state = registry.load(str(family_card), {"random": 3}, **CPU).network.state_dict()
    registry.loading.write_state_dict(folder / "family.safetensors", state)
    generator = registry.load(str(family_card), folder / "family.safetensors", **CPU)
    assert isinstance(generator, GenerativePredictor)
    assert generator.digest == registry.load(str(family_card), {"random": 3}, **CPU).digest


def test_a_segmenter_without_its_head_is_refused(shipped_model):
    folder, card = shipped_model
    encoder = registry.loading.initialise(registry.build_segmenter(card), 1).encoder
    path = folder / "encoder.safetensors"
    registry.loading.write_state_dict(path, encoder.state_dict())
    with pytest.raises(ModelError, match="hold no land-cover head"):
        registry.load(str(folder / "card.json"), path)
    features = registry.load(str(folder / "card.json"), path, "embedding", **CPU)
    from_card = registry.load(str(folder / "card.json"), task="embedding", **CPU)
    np.testing.assert_array_equal(features(make_chips()), from_card(make_chips()))


def test_a_published_architecture_accepts_the_weights_of_a_segmenter(tmp_path):
    segmenter = model.segmenter("terramind_v1_tiny", ["S1RTC", "DEM"], len(card_file.CLASSES))
    state = registry.loading.initialise(segmenter, 1).state_dict()
    path = tmp_path / "weights.safetensors"
    registry.loading.write_state_dict(path, state)
    predictor = registry.load("terramind_v1_tiny", path, inputs=["DEM", "S1RTC"], **CPU)
    assert isinstance(predictor, SegmentationPredictor)
    assert (predictor.window, predictor.outputs[0].class_names) == (224, card_file.CLASSES)
    assert list(predictor.inputs) == ["S1RTC", "DEM"]
    output = predictor(make_full_chips(("S1RTC", "DEM")))
    assert output.shape == (2, 8, 32, 32)
    features = registry.load("terramind_v1_tiny", path, "embedding", inputs=["DEM", "S1RTC"], **CPU)
    assert isinstance(features, EmbeddingPredictor)
    assert features(make_full_chips(("S1RTC", "DEM"))).shape == (2, 192, 2, 2)


def test_embeddings_of_the_demo_are_those_of_its_encoder(shipped_model):
    folder, card = shipped_model
    features = registry.load(str(folder / "card.json"), task="embedding", **CPU)
    assert features.outputs[0].bands[-1] == "e031"
    chips = {"DEM": make_full_chips(("DEM",))["DEM"]}
    segmenter = registry.loading.initialise(registry.build_segmenter(card), 1)
    statistics = card.statistics["DEM"]
    with torch.inference_mode():
        tokens = segmenter.encoder(
            {"DEM": (torch.from_numpy(chips["DEM"]) - statistics.mean[0]) / statistics.std[0]}
        )
    np.testing.assert_allclose(
        features(chips), tokens.transpose(1, 2).reshape(2, 32, 2, 2), atol=1e-5
    )


def test_tokenizers_may_be_stored_beside_the_weights_or_named(family_card, tmp_path, no_network):
    predictor = registry.load(str(family_card), {"random": 3}, **CPU)
    folder = tmp_path / "official"
    folder.mkdir()
    prefix = f"tokenizer.{modalities.get_target_modality('LULC').key}."
    tokenizer_state = {
        key.removeprefix(prefix): value
        for key, value in predictor.network.state_dict().items()
        if key.startswith(prefix)
    }
    registry.loading.write_state_dict(
        folder / "TerraMind_Tokenizer_LULC.safetensors", tokenizer_state
    )
    generator = {
        key: value
        for key, value in predictor.network.state_dict().items()
        if "tokenizer" not in key
    }
    registry.loading.write_state_dict(folder / "TerraMind.safetensors", generator)
    source = folder / "TerraMind.safetensors"
    result = registry.load(str(family_card), source, **CPU)
    assert result.digest == predictor.digest
    reseeded = registry.load(str(family_card), source, tokenizers={"LULC": {"random": 5}}, **CPU)
    assert reseeded.digest != predictor.digest
    with pytest.raises(ModelError, match="DEM"):
        registry.load(str(family_card), source, tokenizers={"DEM": "hub"})
    with pytest.raises(WeightsError, match=r"no tokenizer of NDVI.*tokenizers: \{NDVI"):
        registry.load(str(family_card), source, "generate", modality="NDVI")


def test_statistics_may_be_passed(family_card):
    predictor = registry.load(str(family_card), {"random": 3}, "embedding", inputs=["DEM"], **CPU)
    shifted_mean = registry.load(
        str(family_card),
        {"random": 3},
        "embedding",
        inputs=["DEM"],
        **CPU,
        stats={"DEM": {"mean": [0.0], "std": [951.272]}},
    )
    assert shifted_mean.digest != predictor.digest
    chips = make_full_chips(("DEM",))
    shifted_chips = {"DEM": chips["DEM"] - np.float32(670.665)}
    np.testing.assert_allclose(shifted_mean(shifted_chips), predictor(chips), atol=1e-4)


def test_the_nan_policy_is_passed_on(family_card):
    chips = make_full_chips()
    chips["DEM"][0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        registry.load(str(family_card), {"random": 3}, "embedding", **CPU)(chips)
    filling_predictor = registry.load(
        str(family_card), {"random": 3}, "embedding", **CPU, nan_policy="fill"
    )
    assert np.isfinite(filling_predictor(chips)).all()


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
def checkpoint_path(tmp_path):
    """Return the path of a checkpoint as written by `terratorch fit`."""
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


def test_a_checkpoint_of_terratorch_is_loaded(checkpoint_path, family_card):
    options = {"checkpoint": checkpoint_path, "classes": CLASSES, **CPU}
    predictor = registry.load(str(family_card), **options)
    assert predictor.outputs[0].class_names == CLASSES
    assert list(predictor.inputs) == ["S2L2A", "DEM"]
    output = predictor(make_full_chips(("S2L2A", "DEM")))
    assert output.shape == (2, 3, 32, 32)
    np.testing.assert_allclose(output.sum(axis=1), 1, atol=1e-5)
    assert predictor.notes == (
        "no statistics are stated: those of TerraMind's pre-training are used",
    )
    own = modalities.get_raster_modality("S2L2A").statistics.to_mapping()
    stats = {"S2L2A": own, "DEM": {"mean": [0.0], "std": [100.0]}}
    restandardised = registry.load(str(family_card), stats=stats, **options)
    assert restandardised.digest != predictor.digest
    assert not np.array_equal(restandardised(make_full_chips(("S2L2A", "DEM"))), output)
    assert restandardised.notes == ()


def test_statistics_and_bands_are_read_from_the_yaml_of_the_training(
    checkpoint_path, family_card, tmp_path
):
    bands = list(modalities.get_raster_modality("S2L2A").aliases)
    means = {"S2L2A": dict.fromkeys(bands, 1000.0), "DEM": {"DEM": 100.0}}
    stds = {"S2L2A": dict.fromkeys(bands, 500.0), "DEM": {"DEM": 50.0}}
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump({"data": {"init_args": {"means": means, "stds": stds}}}))
    options = {"checkpoint": checkpoint_path, "classes": CLASSES, **CPU}
    loaded = registry.load(str(family_card), stats=str(path), **options)
    statistics = {
        "S2L2A": {"mean": [1000.0] * 12, "std": [500.0] * 12},
        "DEM": {"mean": [100.0], "std": [50.0]},
    }
    assert loaded.digest == registry.load(str(family_card), stats=statistics, **options).digest


def test_missing_options_of_a_checkpoint_are_named(checkpoint_path, family_card, tmp_path):
    bare_card = tmp_path / "bare.yaml"
    bare_card.write_text(yaml.safe_dump({"architecture": FAMILY["architecture"]}))
    with pytest.raises(ModelError, match=r"3 classes.*classes:"):
        registry.load(str(bare_card), checkpoint=checkpoint_path)
    with pytest.raises(ModelError, match="2 class names for a model of 3"):
        registry.load(str(family_card), checkpoint=checkpoint_path, classes=CLASSES[:2])
    for inputs in (["S1RTC"], ["DEM"], ["S2L2A", "DEM", "S1RTC"]):
        with pytest.raises(ModelError, match=r"takes the inputs S2L2A, DEM.*\[S2L2A, DEM\]"):
            registry.load(
                str(family_card), checkpoint=checkpoint_path, classes=CLASSES, inputs=inputs
            )
    with pytest.raises(ModelError, match="no statistics of the input S2L2A"):
        registry.load(
            str(family_card),
            checkpoint=checkpoint_path,
            classes=CLASSES,
            stats={"DEM": {"mean": [0.0], "std": [100.0]}},
        )
    with pytest.raises(WeightsError, match="checkpoint:"):
        registry.load(str(family_card), checkpoint_path)


@needs_demo
def test_the_demo_has_embeddings():
    features = registry.load("demo", task="embedding", **CPU)
    assert len(features.outputs[0].bands) == registry.get_card("demo").architecture.dim
    assert np.isfinite(features(make_full_chips())).all()


@needs_demo
def test_the_demo_is_small_and_pinned():
    card = registry.get_card("demo")
    predictor = registry.load("demo", **CPU)
    weights = registry.DEMO_CARD_PATH.parent / "weights.safetensors"
    assert weights.stat().st_size <= 12e6
    assert card.weights["sha256"] == checksums.hash_file(weights)
    assert set(predictor.inputs) == {"S2L2A", "S1RTC", "DEM"}
    probabilities = predictor(
        {"S2L2A": np.full((1, 12, predictor.window, predictor.window), 900, np.float32)}
    )
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


@needs_demo
def test_the_card_of_the_demo_states_its_training():
    training = registry.get_card("demo").training
    assert training
    assert json.dumps(dict(training))


def test_a_missing_demo_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "DEMO_CARD_PATH", tmp_path / "card.json")
    with pytest.raises(ModelError, match="terramosaic train"):
        registry.load("demo")


def test_a_card_is_frozen():
    card = card_file.from_mapping(CARD_VALUES)
    with pytest.raises(AttributeError):
        card.window = 64
    assert replace(card, window=64).digest("x") != card.digest("x")
