"""Real scenes through a network of the published size: outputs are finite without some inputs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import rasterio

import model
from model.errors import ModelError
from model.predictor import registry
from model.predictor.predictor import InferenceOptions
from model.predictor.task_predictors import EmbeddingPredictor
from model.terramind.modalities import LULC_CLASSES

PLACES = ("282D_485L_3_3", "433D_629L_3_1", "637U_59R_1_3")
INPUTS = ("S2L2A", "S1RTC", "DEM")
MODALITY_SUBSETS = [subset for count in (1, 2, 3) for subset in combinations(INPUTS, count)]


@pytest.fixture(scope="module")
def chips_by_modality(realdata):
    """Return the chips of three places by modality, (3, C, 224, 224) each."""
    chips = {}
    for name in INPUTS:
        arrays = []
        for place in PLACES:
            with rasterio.open(realdata / "terramesh" / place / f"{name}.tif") as file:
                arrays.append(file.read().astype(np.float32))
        chips[name] = np.stack(arrays)
    return chips


@pytest.fixture(scope="module")
def predictor(chips_by_modality):
    """Return a predictor of the published size with random weights."""
    del chips_by_modality
    # ^ requested only to skip without real scenes
    card = registry.get_card("terramind_v1_base", INPUTS)
    encoder = model.backbone("terramind_v1_base", list(INPUTS), weights={"random": 1})
    return EmbeddingPredictor(
        encoder, card, options=InferenceOptions(device="cpu", precision="fp32")
    )


@pytest.mark.parametrize("subset", MODALITY_SUBSETS, ids="+".join)
def test_real_places_have_finite_features_for_every_subset_of_inputs(
    chips_by_modality, predictor, subset
):
    features = predictor({name: chips_by_modality[name] for name in subset})
    assert features.shape == (3, 768, 14, 14)
    assert np.isfinite(features).all()
    assert features.std(axis=(1, 2, 3)).min() > 0.05
    flat_features = features.reshape(3, -1)
    for first, second in combinations(range(3), 2):
        # ^ the features of the three places differ
        assert np.abs(flat_features[first] - flat_features[second]).mean() > 1e-3


def test_a_place_without_a_modality_can_share_a_batch(chips_by_modality, predictor):
    incomplete = {name: values[:2].copy() for name, values in chips_by_modality.items()}
    incomplete["S1RTC"][1] = np.nan
    incomplete["S2L2A"][0, :, :100] = np.nan
    with pytest.raises(ModelError, match="every pixel is expected"):
        predictor(incomplete)
    filled = EmbeddingPredictor(
        predictor.network,
        registry.get_card("terramind_v1_base", INPUTS),
        options=InferenceOptions(device="cpu", precision="fp32", nan_policy="fill"),
    )
    features = filled(incomplete)
    assert np.isfinite(features).all()
    expected = filled({name: chips_by_modality[name][1:2] for name in ("S2L2A", "DEM")})
    np.testing.assert_array_equal(features[1:2], expected)


def test_real_places_have_land_cover_by_default(chips_by_modality):
    predictor = registry.load("terramind_v1_tiny", {"random": 1}, device="cpu", precision="fp32")
    out = predictor(chips_by_modality)
    assert predictor.outputs[0].class_names == LULC_CLASSES
    assert out.shape == (3, 10, 224, 224)
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(
        predictor({n: v[2:] for n, v in chips_by_modality.items()}), out[2:]
    )


@pytest.mark.parametrize(
    ("name", "change_values", "message"),
    [
        ("S1RTC", lambda v: 10 ** (v / 10), "expected is decibel"),
        ("S2L2A", lambda v: v / 10_000, "expected is DN"),
        ("DEM", lambda v: np.where(v < 15, -9999, v), "expected is metres"),
        ("S2L2A", lambda v: np.moveaxis(v, 1, -1), r"\(B, 12, H, W\) expected"),
        ("S2L2A", lambda v: np.where(v < 500, np.nan, v), "expected to have a value"),
    ],
)
def test_real_places_in_a_wrong_unit_are_refused(
    chips_by_modality, predictor, name, change_values, message
):
    with pytest.raises(ModelError, match=message):
        predictor(
            chips_by_modality | {name: change_values(chips_by_modality[name]).astype(np.float32)}
        )
