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


def configuration(kind):
    """Return the configuration of the folder's tokenizer of a modality (s2l2a, dem, lulc)."""
    settings = oracle.described()["tokenizer"]
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
def built(kind, part="both"):
    return model.tokenizer(
        configuration(kind), weights=oracle.tensors(f"weights_tok_{kind}"), part=part
    )


def doing(what):
    """Return the suite's cases of a kind by their names: encode, decode or unet."""
    return [name for name in oracle.named(SUITE, "") if name == "none" or f"_{what}_" in name]


def case(name):
    stored = (oracle.stored(SUITE, name, kind) for kind in ("in", "out"))
    return name.partition("_")[0], *stored


@pytest.fixture(params=["direct", "tiles"])
def _way(request, monkeypatch):
    """Compute the convolutions of tiny images with Winograd as well, as those of large ones."""
    fewest = 1 if request.param == "tiles" else 10**9
    for limit in ("MIN_PIXELS", "MIN_CHANNELS", "MIN_USES"):
        monkeypatch.setattr(winograd, limit, fewest)


@needs_oracle
def test_every_case_of_the_folder_is_run():
    tested = {name for kind in ("encode", "decode", "unet") for name in doing(kind)}
    assert tested == set(oracle.cases(SUITE))


@needs_oracle
@pytest.mark.parametrize("part", ["both", "encoder"])
@pytest.mark.parametrize("name", doing("encode"))
def test_latents_and_ids_equal_the_oracle(name, part):
    kind, inputs, expected = case(name)
    tokenizer = built(kind, part)
    (raster,) = inputs.values()
    with torch.inference_mode():
        latents = tokenizer.encode_latents(raster)
        ids = tokenizer.encode(raster)
    assert oracle.error(latents, expected["latent"]) <= oracle.LATENTS
    assert torch.equal(ids, tokenizer.quantize(latents))
    sure = expected["margin"] > oracle.MARGIN
    assert sure.any()
    assert torch.equal(ids[sure], expected["tokens"].long()[sure])
    codes = tokenizer.ids_to_codes(expected["tokens"])
    assert torch.equal(tokenizer.ids_to_codes(ids).movedim(1, -1)[sure], codes.movedim(1, -1)[sure])
    if "code" in expected:
        assert oracle.error(codes, expected["code"]) <= oracle.PRIMITIVES


@needs_oracle
@pytest.mark.parametrize("name", [n for n in doing("decode") if "lulc" in n or n == "none"])
def test_class_scores_equal_the_oracle(name):
    kind, inputs, expected = case(name)
    with torch.inference_mode():
        scores = built(kind, "decoder").decode(inputs["tokens"])
    (stored,) = (value for key, value in expected.items() if key.startswith("logits"))
    assert oracle.error(oracle.thinned(scores, stored, [2, 3]), stored) <= oracle.LOGITS
    if "argmax" in expected:
        sure = expected["ambiguous"] == 0
        assert sure.float().mean() > 0.9
        assert torch.equal(scores.argmax(dim=1)[sure], expected["argmax"].long()[sure])


@needs_oracle
@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("name", doing("unet"))
def test_single_evaluations_of_the_unet_equal_the_oracle(name):
    kind, inputs, expected = case(name)
    with torch.inference_mode():
        clean = built(kind).denoise(
            inputs["sample"], oracle.cases(SUITE)[name]["t"], inputs["cond"]
        )
    assert (
        oracle.error(oracle.thinned(clean, expected["x0"], [2, 3]), expected["x0"]) <= oracle.PIXELS
    )


@needs_oracle
@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("name", [n for n in doing("decode") if "lulc" not in n])
def test_diffused_images_equal_the_oracle(name):
    kind, inputs, expected = case(name)
    steps = oracle.cases(SUITE)[name]["timesteps"]
    with torch.inference_mode():
        image = built(kind, "decoder").decode(
            inputs["tokens"], noise=inputs["noise"], timesteps=steps
        )
    (stored,) = expected.values()
    assert oracle.error(oracle.thinned(image, stored, [2, 3]), stored) <= oracle.PIXELS


@needs_oracle
@pytest.mark.parametrize("name", oracle.named("cases_primitives", "fsq"))
def test_quantisation_equals_the_oracle(name):
    settings = oracle.cases("cases_primitives")[name]
    quantizer = Quantizer(tuple(settings["levels"]))
    assert (list(quantizer.basis), quantizer.codebook_size) == (settings["basis"], settings["size"])
    (latents,) = oracle.stored("cases_primitives", name, "in").values()
    expected = oracle.stored("cases_primitives", name, "out")
    ids = quantizer.latents_to_ids(latents)
    assert torch.equal(ids, expected["index"].long())
    assert oracle.error(quantizer.ids_to_codes(ids), expected["code"]) <= oracle.PRIMITIVES
    codes = quantizer.ids_to_codes(expected["ids"][None, None])[0, :, 0].T
    assert oracle.error(codes, expected["ids_code"]) <= oracle.PRIMITIVES


@needs_oracle
def test_levels_are_those_of_the_oracle():
    settings = {
        c["size"]: c["levels"] for n, c in oracle.cases("cases_primitives").items() if "fsq" in n
    }
    for modality in MODALITIES:
        with torch.device("meta"):
            tokenizer = model.tokenizer(modality, part="encoder")
        assert list(tokenizer.quantizer.levels) == settings[tokenizer.vocab_size]


@needs_oracle
def test_the_schedule_equals_the_oracle():
    expected = oracle.stored("cases_primitives", "ddim", "out")
    assert oracle.error(ddim.alphas_cumprod(), expected.pop("alphas_cumprod")) <= oracle.PRIMITIVES
    assert expected
    for name, steps in expected.items():
        assert list(ddim.timesteps(int(name[1:]))) == steps.tolist(), name


@needs_oracle
@pytest.mark.parametrize("name", oracle.named("cases_primitives", "ddim_step"))
def test_single_steps_equal_the_oracle(name):
    settings = oracle.cases("cases_primitives")[name]
    inputs = oracle.stored("cases_primitives", name, "in")
    (step,) = (s for s in ddim.make_steps(settings["n_steps"]) if s.t == settings["t"])
    actual = ddim.advance(inputs["sample"], inputs["model_output"], step, clamp=True)
    expected = oracle.stored("cases_primitives", name, "out")["prev"]
    assert oracle.error(actual, expected) <= oracle.PRIMITIVES


@needs_oracle
def test_embedded_steps_equal_the_oracle():
    (steps,) = oracle.stored("cases_primitives", "timestep_embedding", "in").values()
    (expected,) = oracle.stored("cases_primitives", "timestep_embedding", "out").values()
    assert (
        oracle.error(diffusion_unet.timestep_embedding(steps, expected.shape[1]), expected)
        <= oracle.PRIMITIVES
    )


@needs_oracle
def test_coordinates_equal_the_oracle():
    tokenizer = model.coords_tokenizer(Path(oracle.ORACLE) / "coords_tokenizer_synthetic.json")
    settings = oracle.cases("cases_coords")["encode"]
    inputs = oracle.stored("cases_coords", "encode", "in")["lonlat"]
    ids = oracle.stored("cases_coords", "encode", "out")["ids"]
    assert [f"{' '.join(pair)} [EOS]" for pair in tokenizer.to_words(inputs)] == settings["strings"]
    assert torch.equal(tokenizer.encode(inputs), ids)
    inputs = oracle.stored("cases_coords", "decode", "in")["ids"]
    assert torch.equal(
        tokenizer.decode(inputs), oracle.stored("cases_coords", "decode", "out")["lonlat"]
    )


@needs_oracle
def test_the_references_negative_zero_is_not_repeated():
    tokenizer = model.coords_tokenizer(Path(oracle.ORACLE) / "coords_tokenizer_synthetic.json")
    inputs = oracle.stored("cases_coords", "negative_zero_trap", "in")["lonlat"]
    reference = oracle.stored("cases_coords", "negative_zero_trap", "out")["ids"]
    ours = tokenizer.encode(inputs)
    assert reference.shape[1] != 3
    assert ours.shape == (len(inputs), 3)
    assert torch.equal(tokenizer.decode(ours), (inputs * 4).round() / 4 + 0.0)


@needs_listings
@pytest.mark.parametrize("modality", MODALITIES)
def test_keys_and_shapes_are_the_official_ones(modality):
    name = f"terramind_v1_tokenizer_{modality.lower()}"
    whole, half = oracle.listing(name), oracle.listing(f"{name}__backbone")
    with torch.device("meta"):
        both = model.tokenizer(name)
        parts = [model.tokenizer(modality, part=part) for part in ("encoder", "decoder")]
    assert oracle.shapes(both) == {key: shape for key, (shape, _) in whole["tensors"].items()}
    assert sum(v.numel() for v in both.state_dict().values()) == whole["n_unique_params"]
    encoder, decoder = (oracle.shapes(part) for part in parts)
    assert encoder == {key: shape for key, (shape, _) in half["tensors"].items()}
    assert not set(encoder) & set(decoder)
    assert encoder | decoder == oracle.shapes(both)


@needs_listings
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_official_file_loads_into_either_half(modality, part):
    listed = set(oracle.listing(f"terramind_v1_tokenizer_{modality.lower()}")["tensors"])
    with torch.device("meta"):
        half = model.tokenizer(modality, part=part)
    own = set(half.state_dict())
    assert own < listed
    assert {key for key in listed if half.is_ignored_key(key)} == listed - own
