"""Real scenes through a network of the published size: finite, whatever is missing."""

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
CHOICES = [some for count in (1, 2, 3) for some in combinations(INPUTS, count)]


@pytest.fixture(scope="module")
def places(realdata):
    """Return what was measured at the three places, (3, C, 224, 224) by modality."""
    chips = {}
    for name in INPUTS:
        every = []
        for place in PLACES:
            with rasterio.open(realdata / "terramesh" / place / f"{name}.tif") as file:
                every.append(file.read().astype(np.float32))
        chips[name] = np.stack(every)
    return chips


@pytest.fixture(scope="module")
def base(places):
    """Return the published size with random weights, behind the standardisation."""
    del places
    # ^ without real scenes nothing is built
    card = registry.get_card("terramind_v1_base", INPUTS)
    encoder = model.backbone("terramind_v1_base", list(INPUTS), weights={"random": 1})
    return EmbeddingPredictor(
        encoder, card, options=InferenceOptions(device="cpu", precision="fp32")
    )


@pytest.mark.parametrize("chosen", CHOICES, ids="+".join)
def test_real_places_give_finite_features_from_whatever_is_there(places, base, chosen):
    out = base({name: places[name] for name in chosen})
    assert out.shape == (3, 768, 14, 14)
    assert np.isfinite(out).all()
    assert out.std(axis=(1, 2, 3)).min() > 0.05
    flat = out.reshape(3, -1)
    for one, other in combinations(range(3), 2):
        # ^ three places are three answers
        assert np.abs(flat[one] - flat[other]).mean() > 1e-3


def test_a_place_without_a_modality_is_answered_beside_those_that_have_it(places, base):
    holed = {name: values[:2].copy() for name, values in places.items()}
    holed["S1RTC"][1] = np.nan
    holed["S2L2A"][0, :, :100] = np.nan
    with pytest.raises(ModelError, match="every pixel is expected"):
        base(holed)
    filled = EmbeddingPredictor(
        base.network,
        registry.get_card("terramind_v1_base", INPUTS),
        options=InferenceOptions(device="cpu", precision="fp32", nan_policy="fill"),
    )
    out = filled(holed)
    assert np.isfinite(out).all()
    missing = filled({name: places[name][1:2] for name in ("S2L2A", "DEM")})
    np.testing.assert_array_equal(out[1:2], missing)


def test_real_places_have_land_cover_out_of_the_box(places):
    predictor = registry.load("terramind_v1_tiny", {"random": 1}, device="cpu", precision="fp32")
    out = predictor(places)
    assert predictor.outputs[0].class_names == LULC_CLASSES
    assert out.shape == (3, 10, 224, 224)
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(predictor({n: v[2:] for n, v in places.items()}), out[2:])


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("S1RTC", lambda v: 10 ** (v / 10), "expected is decibel"),
        ("S2L2A", lambda v: v / 10_000, "expected is DN"),
        ("DEM", lambda v: np.where(v < 15, -9999, v), "expected is metres"),
        ("S2L2A", lambda v: np.moveaxis(v, 1, -1), r"\(B, 12, H, W\) expected"),
        ("S2L2A", lambda v: np.where(v < 500, np.nan, v), "expected to have a value"),
    ],
)
def test_real_places_in_a_wrong_unit_are_refused(places, base, name, spoil, says):
    with pytest.raises(ModelError, match=says):
        base(places | {name: spoil(places[name]).astype(np.float32)})
