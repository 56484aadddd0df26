"""Embeddings, zero-shot land cover, generation and fine-tuned models behind numpy."""

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
    plain = {
        "name": "toy",
        "architecture": {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 1},
        "tokenizer": {"dim": 32, "depth": 1, "heads": 2},
        "window": SIDE,
    }
    return card_file.from_mapping(plain | options)


def running(**options):
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


def generator(*outputs):
    """Return a small generator of one's own: a predictor changes its number format."""
    return copy.deepcopy(built(outputs or ("LULC",)))


@functools.cache
def built(outputs):
    made = model.generator(
        make_card().architecture,
        list(TYPICAL),
        list(outputs),
        tokenizers=dict.fromkeys(outputs, small_generators.TOKENIZER),
        chained=False,
    )
    return small_generators.lively(made)


class Tuned(nn.Module):
    """Stands for a model from TerraTorch."""

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


def backbone(card, seed=1, merge="mean"):
    return model.backbone(
        card.architecture, list(card.inputs), weights={"random": seed}, merge=merge
    )


def embedding(card=None, **options):
    card = make_card() if card is None else card
    return EmbeddingPredictor(backbone(card), card, options=running(**options))


def zero_shot(card=None, **options):
    return GenerativePredictor(generator(), card or make_card(), options=running(**options))


def generation(modality="NDVI", timesteps=2, **options):
    return GenerativePredictor(
        generator(modality),
        make_card(),
        tasks=["generate"],
        modalities=[modality],
        timesteps=timesteps,
        options=running(**options),
    )


def tuned(card=None, network=None, **options):
    classes = {"class_names": ("water", "trees", "crops"), "inputs": ["S2L2A", "DEM"]}
    card = card or make_card(**classes)
    return FineTunedPredictor(network or Tuned(), card, options=running(**options))


MAKERS = {
    "zero-shot": zero_shot,
    "embedding": embedding,
    "generation": generation,
    "fine-tuned": tuned,
}


def chips_for(predictor, **options):
    return make_chips(names=tuple(predictor.inputs), **options)


@pytest.mark.parametrize("kind", MAKERS)
def test_it_is_what_the_pipeline_expects(kind):
    predictors = pytest.importorskip("pipeline.inference.predictor_protocol")
    predictor: predictors.Predictor = MAKERS[kind]()
    members = {n for n in vars(predictors.Predictor) if not n.startswith("_")}
    assert all(hasattr(predictor, name) for name in members)
    out = predictor(chips_for(predictor))
    channels = len(predictor.outputs[0].class_names or predictor.outputs[0].bands)
    assert out.shape == (
        3,
        channels,
        SIDE // predictor.outputs[0].stride,
        SIDE // predictor.outputs[0].stride,
    )
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert (predictor.outputs[0].class_names == ()) == (predictor.outputs[0].task != "land_cover")
    assert (predictor.outputs[0].modality is None) == (predictor.outputs[0].task != "generate")
    if predictor.outputs[0].task == "land_cover":
        np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_window_does_not_depend_on_the_others(kind):
    predictor = MAKERS[kind]()
    chips = chips_for(predictor, batch=5)
    chips["DEM"][[0, 3]] = np.nan
    together = predictor(chips)
    order = [3, 1, 4, 0, 2]
    shuffled = predictor({n: v[order] for n, v in chips.items()})
    alone = np.concatenate([predictor({n: v[i : i + 1] for n, v in chips.items()}) for i in order])
    np.testing.assert_array_equal(shuffled, together[order])
    np.testing.assert_array_equal(alone, together[order])


@pytest.mark.parametrize("kind", MAKERS)
def test_holes_are_the_mean_and_a_modality_without_any_pixel_is_absent(kind):
    predictor = MAKERS[kind]()
    chips = chips_for(predictor)
    scale = modalities.get_raster_modality("S2L2A").statistics
    with_nan, with_mean = chips["S2L2A"].copy(), chips["S2L2A"].copy()
    with_nan[:, 2, :7] = np.nan
    with_mean[:, 2, :7] = scale.mean[2]
    np.testing.assert_allclose(
        predictor(chips | {"S2L2A": with_nan}), predictor(chips | {"S2L2A": with_mean}), atol=1e-4
    )
    absent = predictor({n: v for n, v in chips.items() if n != "DEM"})
    blank = predictor(chips | {"DEM": np.full_like(chips["DEM"], np.nan)})
    np.testing.assert_array_equal(blank, absent)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_window_without_any_data_has_no_answer(kind):
    predictor = MAKERS[kind]()
    chips = chips_for(predictor)
    before = predictor(chips)
    for value in chips.values():
        value[1] = np.nan
    out = predictor(chips)
    np.testing.assert_array_equal(out[[0, 2]], before[[0, 2]])
    if predictor.outputs[0].class_names:
        np.testing.assert_allclose(out[1], 1 / len(predictor.outputs[0].class_names))
    else:
        assert np.isnan(out[1]).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_holes_and_wrong_units_are_refused(kind):
    predictor = MAKERS[kind](nan_policy="refuse")
    chips = chips_for(predictor)
    predictor(chips)
    with pytest.raises(ModelError, match="reflectance"):
        predictor(chips | {"S2L2A": chips["S2L2A"] / 1e4})
    chips["S2L2A"][0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        predictor(chips)


def test_zero_shot_answers_with_the_model_s_legend():
    predictor = zero_shot()
    assert predictor.outputs[0].class_names == modalities.LULC_CLASSES
    assert list(predictor.inputs) == ["S2L2A", "S1RTC", "DEM"]


def standardised(chips):
    result = {}
    for name, values in chips.items():
        scale = modalities.get_raster_modality(name).statistics
        mean, std = (torch.tensor(v)[:, None, None] for v in (scale.mean, scale.std))
        result[name] = (torch.from_numpy(values) - mean) / std
    return result


def test_zero_shot_land_cover_is_what_the_generator_expects():
    chips = make_chips(batch=1)
    out = zero_shot()(chips)
    expected = generator().class_probabilities(standardised(chips), standardize=False)
    np.testing.assert_allclose(out, expected / expected.sum(dim=1, keepdim=True), atol=1e-6)
    assert out.std() > 0.01


def test_embeddings_are_the_last_layer_s_tokens_on_the_grid():
    card = make_card()
    predictor, chips = embedding(card), make_chips(batch=1)
    chips = {name: value[:, :, :, :16] for name, value in chips.items()}
    out = predictor(chips)
    assert out.shape == (1, 32, 2, 1)
    assert predictor.outputs[0].bands[:2] == ("e000", "e001")
    assert (predictor.outputs[0].task, predictor.outputs[0].stride, predictor.outputs[0].unit) == (
        "embedding",
        16,
        None,
    )
    tensors = {
        name: (torch.from_numpy(value) - torch.tensor(scale.mean)[:, None, None])
        / torch.tensor(scale.std)[:, None, None]
        for name, value in chips.items()
        for scale in [modalities.get_raster_modality(name).statistics]
    }
    with torch.inference_mode():
        tokens = backbone(card)(tensors)
    np.testing.assert_allclose(out[0, :, 0, 0], tokens[0, 0], atol=1e-5)
    np.testing.assert_allclose(out[0, :, 1, 0], tokens[0, 1], atol=1e-5)


def test_embeddings_want_one_vector_a_patch():
    card = make_card()
    with pytest.raises(ModelError, match="merge mean"):
        EmbeddingPredictor(backbone(card, merge="concat"), card, options=running())


@pytest.mark.parametrize("modality", GENERATED_MODALITIES)
def test_what_is_generated_comes_in_its_own_unit(modality):
    predictor, chips = generation(modality, timesteps=4), make_chips(batch=1)
    made = generator(modality).generate(
        standardised(chips), [modality], timesteps=4, standardize=False
    )[modality]
    target = modalities.get_target_modality(modality).statistics
    out = predictor(chips)
    for channel, (mean, std) in enumerate(zip(target.mean, target.std, strict=True)):
        np.testing.assert_allclose(
            out[0, channel], made[0, channel] * std + mean, rtol=1e-4, atol=1e-4 * max(std, 1.0)
        )
    assert made.std() > 0.1
    units = {"S2L2A": "DN", "S1GRD": "dB", "S1RTC": "dB", "DEM": "m", "NDVI": "1"}
    assert (predictor.outputs[0].modality, predictor.outputs[0].unit) == (modality, units[modality])
    assert len(predictor.outputs[0].bands) == len(target.mean)


def test_the_names_of_generated_channels():
    assert generation("NDVI").outputs[0].bands == ("NDVI",)
    assert generation("S1GRD").outputs[0].bands == ("VV", "VH")
    assert generation("S2L2A").outputs[0].bands == modalities.get_raster_modality("S2L2A").bands


@pytest.mark.parametrize("modality", ["LULC", "Coords", "RGB", "S2L1C", "ndvi"])
def test_what_has_no_values_cannot_be_generated(modality):
    with pytest.raises(ModelError, match="S1GRD"):
        GenerativePredictor(generator(), make_card(), tasks=["generate"], modalities=[modality])


def test_fine_tuned_models_are_given_pixels_without_holes():
    predictor = tuned()
    assert (predictor.outputs[0].task, predictor.outputs[0].class_names) == (
        "land_cover",
        ("water", "trees", "crops"),
    )
    chips = chips_for(predictor)
    chips["DEM"][0, 0, 0] = np.nan
    assert np.isfinite(predictor(chips)).all()


def test_fine_tuned_models_have_as_many_classes_as_names():
    few = make_card(class_names=["water", "trees"], inputs=["S2L2A", "DEM"])
    with pytest.raises(ModelError, match="2 class names for a model of 3"):
        tuned(few)


def test_the_digest_covers_what_decides_the_answer():
    digests = {kind: make().digest for kind, make in MAKERS.items()}
    assert len(set(digests.values())) == len(digests)
    for kind, make in MAKERS.items():
        assert make().digest == digests[kind]
        assert make(nan_policy="refuse", precision="bf16").digest == digests[kind]
    restandardised = make_card(statistics={"DEM": {"mean": [0.0], "std": [1.0]}})
    sizes = make_card(tokenizer={"dim": 32, "depth": 2, "heads": 2})
    assert len({zero_shot(card).digest for card in (make_card(), restandardised, sizes)}) == 3
    assert embedding(restandardised).digest != digests["embedding"]
    changed = EmbeddingPredictor(backbone(make_card(), seed=2), make_card(), options=running())
    assert changed.digest != digests["embedding"]
    fewer = GenerativePredictor(generator(), make_card(), inputs=["S2L2A"], options=running())
    assert fewer.digest != digests["zero-shot"]
    assert list(fewer.inputs) == ["S2L2A"]
    assert generation("DEM").digest != digests["generation"]
    assert generation(timesteps=20).digest != digests["generation"]


def test_the_digest_covers_what_a_checkpoint_says_of_its_parts():
    first, second = Tuned(), Tuned({"necks": [{"name": "SelectIndices", "indices": [1]}]})
    assert tuned(network=first).digest != tuned(network=second).digest
    renamed = make_card(class_names=["water", "crops", "trees"], inputs=["S2L2A", "DEM"])
    assert tuned(renamed, network=first).digest != tuned(network=first).digest


@pytest.mark.parametrize("timesteps", [0, -3, 2000])
def test_steps_that_there_cannot_be_are_refused_when_it_is_built(timesteps):
    with pytest.raises(ModelError, match="1 to 1000"):
        generation(timesteps=timesteps)
