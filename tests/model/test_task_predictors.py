"""Predictors of embeddings, zero-shot land cover, generated modalities and fine-tuned models."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

import model
from model.errors import ModelError
from model.predictor import card_file
from model.predictor.predictor import InferenceOptions
from model.predictor.task_options import GENERATED_MODALITIES
from model.predictor.task_predictors import (
    EmbeddingPredictor,
    FineTunedPredictor,
    GenerativePredictor,
)
from model.terramind import modalities
from tests.support import small_generators

TYPICAL = {"S2L2A": (1500, 800), "S1RTC": (-12, 4), "DEM": (400, 200)}
SIDE = 32


def make_card(**options):
    values = {
        "name": "toy",
        "architecture": {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 1},
        "tokenizer": {"dim": 32, "depth": 1, "heads": 2},
        "window": SIDE,
    }
    return card_file.from_mapping(values | options)


def make_options(**options):
    return InferenceOptions(
        **{"device": "cpu", "precision": "fp32", "nan_policy": "fill"} | options
    )


def make_chips(batch=3, seed=0, names=tuple(TYPICAL), size=SIDE):
    rng = np.random.default_rng(seed)
    counts = {name: len(modalities.get_raster_modality(name).bands) for name in names}
    return {
        name: rng.normal(*TYPICAL[name], (batch, counts[name], size, size)).astype(np.float32)
        for name in names
    }


def copy_generator(*outputs):
    """Return a copy of a small generator: a predictor changes its number format."""
    return copy.deepcopy(build_generator(outputs or ("LULC",)))


@functools.cache
def build_generator(outputs):
    generator = model.generator(
        make_card().architecture,
        list(TYPICAL),
        list(outputs),
        tokenizers=dict.fromkeys(outputs, small_generators.TOKENIZER),
        chained=False,
    )
    return small_generators.set_large_weights(generator)


class FakeFineTunedModel(nn.Module):
    """Replaces a model of TerraTorch."""

    num_classes = 3

    def __init__(self, hyper_parameters=None):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)
        nn.init.constant_(self.conv.weight, 0.5)
        nn.init.zeros_(self.conv.bias)
        self.architecture = make_card().architecture
        self.hyper_parameters = hyper_parameters or {}

    def forward_unchecked(self, inputs):
        assert all(torch.isfinite(value).all() for value in inputs.values())
        return self.conv(sum(value.mean(dim=1, keepdim=True) for value in inputs.values()))


def build_backbone(card, seed=1, merge="mean"):
    return model.backbone(
        card.architecture, list(card.inputs), weights={"random": seed}, merge=merge
    )


def make_embedding_predictor(card=None, **options):
    card = make_card() if card is None else card
    return EmbeddingPredictor(build_backbone(card), card, options=make_options(**options))


def make_zero_shot_predictor(card=None, **options):
    return GenerativePredictor(
        copy_generator(), card or make_card(), options=make_options(**options)
    )


def make_generation_predictor(modality="NDVI", timesteps=2, **options):
    return GenerativePredictor(
        copy_generator(modality),
        make_card(),
        tasks=["generate"],
        modalities=[modality],
        timesteps=timesteps,
        options=make_options(**options),
    )


def make_fine_tuned_predictor(card=None, network=None, **options):
    card_values = {"class_names": ("water", "trees", "crops"), "inputs": ["S2L2A", "DEM"]}
    card = card or make_card(**card_values)
    return FineTunedPredictor(
        network or FakeFineTunedModel(), card, options=make_options(**options)
    )


MAKERS = {
    "zero-shot": make_zero_shot_predictor,
    "embedding": make_embedding_predictor,
    "generation": make_generation_predictor,
    "fine-tuned": make_fine_tuned_predictor,
}


def make_chips_for(predictor, **options):
    return make_chips(names=tuple(predictor.inputs), **options)


@pytest.mark.parametrize("kind", MAKERS)
def test_predictors_fulfil_the_protocol_of_the_pipeline(kind):
    predictors = pytest.importorskip("pipeline.inference.predictor_protocol")
    predictor: predictors.Predictor = MAKERS[kind]()
    member_names = {name for name in vars(predictors.Predictor) if not name.startswith("_")}
    assert all(hasattr(predictor, name) for name in member_names)
    output = predictor(make_chips_for(predictor))
    channels = len(predictor.outputs[0].class_names or predictor.outputs[0].bands)
    assert output.shape == (
        3,
        channels,
        SIDE // predictor.outputs[0].stride,
        SIDE // predictor.outputs[0].stride,
    )
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
    assert (predictor.outputs[0].class_names == ()) == (predictor.outputs[0].task != "land_cover")
    assert (predictor.outputs[0].modality is None) == (predictor.outputs[0].task != "generate")
    if predictor.outputs[0].task == "land_cover":
        np.testing.assert_allclose(output.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_window_does_not_depend_on_its_batch(kind):
    predictor = MAKERS[kind]()
    chips = make_chips_for(predictor, batch=5)
    chips["DEM"][[0, 3]] = np.nan
    outputs = predictor(chips)
    order = [3, 1, 4, 0, 2]
    shuffled = predictor({name: values[order] for name, values in chips.items()})
    alone = np.concatenate(
        [
            predictor({name: values[index : index + 1] for name, values in chips.items()})
            for index in order
        ]
    )
    np.testing.assert_array_equal(shuffled, outputs[order])
    np.testing.assert_array_equal(alone, outputs[order])


@pytest.mark.parametrize("kind", MAKERS)
def test_missing_pixels_are_filled_with_the_mean_and_empty_modalities_are_absent(kind):
    predictor = MAKERS[kind]()
    chips = make_chips_for(predictor)
    statistics = modalities.get_raster_modality("S2L2A").statistics
    with_nan, with_mean = chips["S2L2A"].copy(), chips["S2L2A"].copy()
    with_nan[:, 2, :7] = np.nan
    with_mean[:, 2, :7] = statistics.mean[2]
    np.testing.assert_allclose(
        predictor(chips | {"S2L2A": with_nan}), predictor(chips | {"S2L2A": with_mean}), atol=1e-4
    )
    absent = predictor({name: values for name, values in chips.items() if name != "DEM"})
    with_empty_modality = predictor(chips | {"DEM": np.full_like(chips["DEM"], np.nan)})
    np.testing.assert_array_equal(with_empty_modality, absent)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_window_without_data_has_no_output(kind):
    predictor = MAKERS[kind]()
    chips = make_chips_for(predictor)
    before = predictor(chips)
    for value in chips.values():
        value[1] = np.nan
    output = predictor(chips)
    np.testing.assert_array_equal(output[[0, 2]], before[[0, 2]])
    if predictor.outputs[0].class_names:
        np.testing.assert_allclose(output[1], 1 / len(predictor.outputs[0].class_names))
    else:
        assert np.isnan(output[1]).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_missing_pixels_and_wrong_units_are_refused(kind):
    predictor = MAKERS[kind](nan_policy="refuse")
    chips = make_chips_for(predictor)
    predictor(chips)
    with pytest.raises(ModelError, match="reflectance"):
        predictor(chips | {"S2L2A": chips["S2L2A"] / 1e4})
    chips["S2L2A"][0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        predictor(chips)


def test_zero_shot_predictors_have_the_classes_of_the_model():
    predictor = make_zero_shot_predictor()
    assert predictor.outputs[0].class_names == modalities.LULC_CLASSES
    assert list(predictor.inputs) == ["S2L2A", "S1RTC", "DEM"]


def standardise(chips):
    result = {}
    for name, values in chips.items():
        statistics = modalities.get_raster_modality(name).statistics
        mean, std = (
            torch.tensor(statistic)[:, None, None]
            for statistic in (statistics.mean, statistics.std)
        )
        result[name] = (torch.from_numpy(values) - mean) / std
    return result


def test_zero_shot_land_cover_equals_that_of_the_generator():
    chips = make_chips(batch=1)
    output = make_zero_shot_predictor()(chips)
    expected = copy_generator().class_probabilities(standardise(chips), standardize=False)
    np.testing.assert_allclose(output, expected / expected.sum(dim=1, keepdim=True), atol=1e-6)
    assert output.std() > 0.01


def test_embeddings_are_the_tokens_of_the_last_layer_on_the_grid():
    card = make_card()
    predictor, chips = make_embedding_predictor(card), make_chips(batch=1)
    chips = {name: value[:, :, :, :16] for name, value in chips.items()}
    output = predictor(chips)
    assert output.shape == (1, 32, 2, 1)
    assert predictor.outputs[0].bands[:2] == ("e000", "e001")
    assert (predictor.outputs[0].task, predictor.outputs[0].stride, predictor.outputs[0].unit) == (
        "embedding",
        16,
        None,
    )
    tensors = {
        name: (torch.from_numpy(value) - torch.tensor(statistics.mean)[:, None, None])
        / torch.tensor(statistics.std)[:, None, None]
        for name, value in chips.items()
        for statistics in [modalities.get_raster_modality(name).statistics]
    }
    with torch.inference_mode():
        tokens = build_backbone(card)(tensors)
    np.testing.assert_allclose(output[0, :, 0, 0], tokens[0, 0], atol=1e-5)
    np.testing.assert_allclose(output[0, :, 1, 0], tokens[0, 1], atol=1e-5)


def test_embeddings_require_the_merge_mean():
    card = make_card()
    with pytest.raises(ModelError, match="merge mean"):
        EmbeddingPredictor(build_backbone(card, merge="concat"), card, options=make_options())


@pytest.mark.parametrize("modality", GENERATED_MODALITIES)
def test_generated_modalities_have_physical_units(modality):
    predictor, chips = make_generation_predictor(modality, timesteps=4), make_chips(batch=1)
    generated = copy_generator(modality).generate(
        standardise(chips), [modality], timesteps=4, standardize=False
    )[modality]
    statistics = modalities.get_target_modality(modality).statistics
    output = predictor(chips)
    for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std, strict=True)):
        np.testing.assert_allclose(
            output[0, channel],
            generated[0, channel] * std + mean,
            rtol=1e-4,
            atol=1e-4 * max(std, 1.0),
        )
    assert generated.std() > 0.1
    units = {"S2L2A": "DN", "S1GRD": "dB", "S1RTC": "dB", "DEM": "m", "NDVI": "1"}
    assert (predictor.outputs[0].modality, predictor.outputs[0].unit) == (modality, units[modality])
    assert len(predictor.outputs[0].bands) == len(statistics.mean)


def test_the_names_of_generated_channels():
    assert make_generation_predictor("NDVI").outputs[0].bands == ("NDVI",)
    assert make_generation_predictor("S1GRD").outputs[0].bands == ("VV", "VH")
    assert (
        make_generation_predictor("S2L2A").outputs[0].bands
        == modalities.get_raster_modality("S2L2A").bands
    )


@pytest.mark.parametrize("modality", ["LULC", "Coords", "RGB", "S2L1C", "ndvi"])
def test_modalities_without_physical_values_are_refused(modality):
    with pytest.raises(ModelError, match="S1GRD"):
        GenerativePredictor(
            copy_generator(), make_card(), tasks=["generate"], modalities=[modality]
        )


def test_fine_tuned_models_get_pixels_without_gaps():
    predictor = make_fine_tuned_predictor()
    assert (predictor.outputs[0].task, predictor.outputs[0].class_names) == (
        "land_cover",
        ("water", "trees", "crops"),
    )
    chips = make_chips_for(predictor)
    chips["DEM"][0, 0, 0] = np.nan
    assert np.isfinite(predictor(chips)).all()


def test_a_fine_tuned_model_needs_a_name_for_each_class():
    card = make_card(class_names=["water", "trees"], inputs=["S2L2A", "DEM"])
    with pytest.raises(ModelError, match="2 class names for a model of 3"):
        make_fine_tuned_predictor(card)


def test_the_digest_covers_all_that_decides_the_output():
    digests = {kind: make_predictor().digest for kind, make_predictor in MAKERS.items()}
    assert len(set(digests.values())) == len(digests)
    for kind, make_predictor in MAKERS.items():
        assert make_predictor().digest == digests[kind]
        assert make_predictor(nan_policy="refuse", precision="bf16").digest == digests[kind]
    changed_statistics = make_card(statistics={"DEM": {"mean": [0.0], "std": [1.0]}})
    changed_tokenizer = make_card(tokenizer={"dim": 32, "depth": 2, "heads": 2})
    assert (
        len(
            {
                make_zero_shot_predictor(card).digest
                for card in (make_card(), changed_statistics, changed_tokenizer)
            }
        )
        == 3
    )
    assert make_embedding_predictor(changed_statistics).digest != digests["embedding"]
    reseeded = EmbeddingPredictor(
        build_backbone(make_card(), seed=2), make_card(), options=make_options()
    )
    assert reseeded.digest != digests["embedding"]
    with_fewer_inputs = GenerativePredictor(
        copy_generator(), make_card(), inputs=["S2L2A"], options=make_options()
    )
    assert with_fewer_inputs.digest != digests["zero-shot"]
    assert list(with_fewer_inputs.inputs) == ["S2L2A"]
    assert make_generation_predictor("DEM").digest != digests["generation"]
    assert make_generation_predictor(timesteps=20).digest != digests["generation"]


def test_the_digest_covers_the_hyper_parameters_of_a_checkpoint():
    model_without_neck, model_with_neck = (
        FakeFineTunedModel(),
        FakeFineTunedModel({"necks": [{"name": "SelectIndices", "indices": [1]}]}),
    )
    assert (
        make_fine_tuned_predictor(network=model_without_neck).digest
        != make_fine_tuned_predictor(network=model_with_neck).digest
    )
    renamed = make_card(class_names=["water", "crops", "trees"], inputs=["S2L2A", "DEM"])
    assert (
        make_fine_tuned_predictor(renamed, network=model_without_neck).digest
        != make_fine_tuned_predictor(network=model_without_neck).digest
    )


@pytest.mark.parametrize("timesteps", [0, -3, 2000])
def test_invalid_numbers_of_steps_are_refused_when_the_predictor_is_built(timesteps):
    with pytest.raises(ModelError, match="1 to 1000"):
        make_generation_predictor(timesteps=timesteps)
