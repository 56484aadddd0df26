"""Tokenizers: outputs, keys and shapes equal to those of the reference implementation."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import model
from model.terramind.tokenizers import ddim, diffusion_unet, winograd
from model.terramind.tokenizers.fsq import Quantizer
from tests.support import oracle
from tests.support.oracle import needs_listings, needs_oracle, one_thread  # noqa: F401

SUITE = "cases_tokenizers"
MODALITIES = ("S2L2A", "S1GRD", "S1RTC", "DEM", "NDVI", "LULC")


def read_tokenizer_size(kind):
    """Return the size of a tokenizer of the test data, by a modality in lower case."""
    settings = oracle.read_config()["tokenizer"]
    sizes = {
        "modality": kind,
        "dim": settings["enc_dim"],
        "depth": settings["depth"],
        "heads": settings["heads"],
        "image_size": settings["image_size"],
    }
    network = settings.get(f"unet_{kind}")
    if network is None:
        return sizes
    return sizes | {
        "unet": {
            "channels": network["model_channels"],
            "blocks": network["num_res_blocks"],
            "multipliers": network["channel_mult"],
            "attention": network["attention_resolutions"],
            "patch": settings["unet_patch"],
        }
    }


@functools.cache
def build_tokenizer(kind, part="both"):
    return model.tokenizer(
        read_tokenizer_size(kind), weights=oracle.read_tensors(f"weights_tok_{kind}"), part=part
    )


def list_cases(kind):
    """Return the names of the cases of a kind: encode, decode or unet."""
    return [
        name for name in oracle.list_case_names(SUITE, "") if name == "none" or f"_{kind}_" in name
    ]


def read_case(name):
    inputs_and_outputs = (oracle.read_case_tensors(SUITE, name, kind) for kind in ("in", "out"))
    return name.partition("_")[0], *inputs_and_outputs


@pytest.fixture(params=["direct", "tiles"])
def _convolution(request, monkeypatch):
    """Run the tests with direct convolutions, and with Winograd even for tiny images."""
    minimum = 1 if request.param == "tiles" else 10**9
    for limit in ("MIN_PIXELS", "MIN_CHANNELS", "MIN_USES"):
        monkeypatch.setattr(winograd, limit, minimum)


@needs_oracle
def test_every_case_of_the_test_data_is_run():
    tested = {name for kind in ("encode", "decode", "unet") for name in list_cases(kind)}
    assert tested == set(oracle.read_cases(SUITE))


@needs_oracle
@pytest.mark.parametrize("part", ["both", "encoder"])
@pytest.mark.parametrize("name", list_cases("encode"))
def test_latents_and_ids_equal_the_oracle(name, part):
    kind, inputs, expected = read_case(name)
    tokenizer = build_tokenizer(kind, part)
    (raster,) = inputs.values()
    with torch.inference_mode():
        latents = tokenizer.encode_latents(raster)
        ids = tokenizer.encode(raster)
    assert oracle.compute_error(latents, expected["latent"]) <= oracle.LATENTS
    assert torch.equal(ids, tokenizer.quantize(latents))
    is_clear = expected["margin"] > oracle.MARGIN
    assert is_clear.any()
    assert torch.equal(ids[is_clear], expected["tokens"].long()[is_clear])
    codes = tokenizer.ids_to_codes(expected["tokens"])
    assert torch.equal(
        tokenizer.ids_to_codes(ids).movedim(1, -1)[is_clear], codes.movedim(1, -1)[is_clear]
    )
    if "code" in expected:
        assert oracle.compute_error(codes, expected["code"]) <= oracle.PRIMITIVES


@needs_oracle
@pytest.mark.parametrize("name", [n for n in list_cases("decode") if "lulc" in n or n == "none"])
def test_class_scores_equal_the_oracle(name):
    kind, inputs, expected = read_case(name)
    with torch.inference_mode():
        scores = build_tokenizer(kind, "decoder").decode(inputs["tokens"])
    (stored,) = (value for key, value in expected.items() if key.startswith("logits"))
    assert oracle.compute_error(oracle.thin_output(scores, stored, [2, 3]), stored) <= oracle.LOGITS
    if "argmax" in expected:
        is_clear = expected["ambiguous"] == 0
        assert is_clear.float().mean() > 0.9
        assert torch.equal(scores.argmax(dim=1)[is_clear], expected["argmax"].long()[is_clear])


@needs_oracle
@pytest.mark.usefixtures("_convolution")
@pytest.mark.parametrize("name", list_cases("unet"))
def test_single_evaluations_of_the_unet_equal_the_oracle(name):
    kind, inputs, expected = read_case(name)
    with torch.inference_mode():
        denoised = build_tokenizer(kind).denoise(
            inputs["sample"], oracle.read_cases(SUITE)[name]["t"], inputs["cond"]
        )
    assert (
        oracle.compute_error(oracle.thin_output(denoised, expected["x0"], [2, 3]), expected["x0"])
        <= oracle.PIXELS
    )


@needs_oracle
@pytest.mark.usefixtures("_convolution")
@pytest.mark.parametrize("name", [n for n in list_cases("decode") if "lulc" not in n])
def test_diffused_images_equal_the_oracle(name):
    kind, inputs, expected = read_case(name)
    steps = oracle.read_cases(SUITE)[name]["timesteps"]
    with torch.inference_mode():
        image = build_tokenizer(kind, "decoder").decode(
            inputs["tokens"], noise=inputs["noise"], timesteps=steps
        )
    (stored,) = expected.values()
    assert oracle.compute_error(oracle.thin_output(image, stored, [2, 3]), stored) <= oracle.PIXELS


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names("cases_primitives", "fsq"))
def test_quantisation_equals_the_oracle(name):
    settings = oracle.read_cases("cases_primitives")[name]
    quantizer = Quantizer(tuple(settings["levels"]))
    assert (list(quantizer.basis), quantizer.codebook_size) == (settings["basis"], settings["size"])
    (latents,) = oracle.read_case_tensors("cases_primitives", name, "in").values()
    expected = oracle.read_case_tensors("cases_primitives", name, "out")
    ids = quantizer.latents_to_ids(latents)
    assert torch.equal(ids, expected["index"].long())
    assert oracle.compute_error(quantizer.ids_to_codes(ids), expected["code"]) <= oracle.PRIMITIVES
    codes = quantizer.ids_to_codes(expected["ids"][None, None])[0, :, 0].T
    assert oracle.compute_error(codes, expected["ids_code"]) <= oracle.PRIMITIVES


@needs_oracle
def test_levels_are_those_of_the_oracle():
    settings = {
        case["size"]: case["levels"]
        for name, case in oracle.read_cases("cases_primitives").items()
        if "fsq" in name
    }
    for modality in MODALITIES:
        with torch.device("meta"):
            tokenizer = model.tokenizer(modality, part="encoder")
        assert list(tokenizer.quantizer.levels) == settings[tokenizer.vocab_size]


@needs_oracle
def test_the_schedule_equals_the_oracle():
    expected = oracle.read_case_tensors("cases_primitives", "ddim", "out")
    assert (
        oracle.compute_error(ddim.alphas_cumprod(), expected.pop("alphas_cumprod"))
        <= oracle.PRIMITIVES
    )
    assert expected
    for name, steps in expected.items():
        assert list(ddim.timesteps(int(name[1:]))) == steps.tolist(), name


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names("cases_primitives", "ddim_step"))
def test_single_steps_equal_the_oracle(name):
    settings = oracle.read_cases("cases_primitives")[name]
    inputs = oracle.read_case_tensors("cases_primitives", name, "in")
    (step,) = (
        candidate
        for candidate in ddim.make_steps(settings["n_steps"])
        if candidate.t == settings["t"]
    )
    actual = ddim.advance(inputs["sample"], inputs["model_output"], step, clamp=True)
    expected = oracle.read_case_tensors("cases_primitives", name, "out")["prev"]
    assert oracle.compute_error(actual, expected) <= oracle.PRIMITIVES


@needs_oracle
def test_embedded_steps_equal_the_oracle():
    (steps,) = oracle.read_case_tensors("cases_primitives", "timestep_embedding", "in").values()
    (expected,) = oracle.read_case_tensors("cases_primitives", "timestep_embedding", "out").values()
    assert (
        oracle.compute_error(diffusion_unet.timestep_embedding(steps, expected.shape[1]), expected)
        <= oracle.PRIMITIVES
    )


@needs_oracle
def test_coordinates_equal_the_oracle():
    tokenizer = model.coords_tokenizer(Path(oracle.ORACLE) / "coords_tokenizer_synthetic.json")
    settings = oracle.read_cases("cases_coords")["encode"]
    inputs = oracle.read_case_tensors("cases_coords", "encode", "in")["lonlat"]
    ids = oracle.read_case_tensors("cases_coords", "encode", "out")["ids"]
    assert [f"{' '.join(pair)} [EOS]" for pair in tokenizer.to_words(inputs)] == settings["strings"]
    assert torch.equal(tokenizer.encode(inputs), ids)
    inputs = oracle.read_case_tensors("cases_coords", "decode", "in")["ids"]
    assert torch.equal(
        tokenizer.decode(inputs),
        oracle.read_case_tensors("cases_coords", "decode", "out")["lonlat"],
    )


@needs_oracle
def test_the_negative_zero_of_the_reference_is_not_reproduced():
    tokenizer = model.coords_tokenizer(Path(oracle.ORACLE) / "coords_tokenizer_synthetic.json")
    inputs = oracle.read_case_tensors("cases_coords", "negative_zero_trap", "in")["lonlat"]
    reference = oracle.read_case_tensors("cases_coords", "negative_zero_trap", "out")["ids"]
    actual = tokenizer.encode(inputs)
    assert reference.shape[1] != 3
    assert actual.shape == (len(inputs), 3)
    assert torch.equal(tokenizer.decode(actual), (inputs * 4).round() / 4 + 0.0)


@needs_listings
@pytest.mark.parametrize("modality", MODALITIES)
def test_keys_and_shapes_are_the_official_ones(modality):
    name = f"terramind_v1_tokenizer_{modality.lower()}"
    listing, encoder_listing = oracle.listing(name), oracle.listing(f"{name}__backbone")
    with torch.device("meta"):
        tokenizer = model.tokenizer(name)
        parts = [model.tokenizer(modality, part=part) for part in ("encoder", "decoder")]
    assert oracle.list_shapes(tokenizer) == {
        key: shape for key, (shape, _) in listing["tensors"].items()
    }
    assert (
        sum(value.numel() for value in tokenizer.state_dict().values())
        == listing["n_unique_params"]
    )
    encoder, decoder = (oracle.list_shapes(part) for part in parts)
    assert encoder == {key: shape for key, (shape, _) in encoder_listing["tensors"].items()}
    assert not set(encoder) & set(decoder)
    assert encoder | decoder == oracle.list_shapes(tokenizer)


@needs_listings
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_official_file_loads_into_either_half(modality, part):
    listed_keys = set(oracle.listing(f"terramind_v1_tokenizer_{modality.lower()}")["tensors"])
    with torch.device("meta"):
        tokenizer = model.tokenizer(modality, part=part)
    own_keys = set(tokenizer.state_dict())
    assert own_keys < listed_keys
    assert {key for key in listed_keys if tokenizer.is_ignored_key(key)} == listed_keys - own_keys
