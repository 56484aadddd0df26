"""The generator: refused requests and declarations, and loading of its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import model
from model.errors import ModelError, WeightsError
from model.terramind import modalities
from model.terramind.generation.generator import Generator
from model.terramind.generation.sampling_strategy import SamplingStrategy
from tests.support.oracle import one_thread  # noqa: F401
from tests.support.small_generators import (
    MICRO,
    RAW,
    TOKENIZER,
    are_equal,
    make,
    rasters,
    raw,
    record_batch_sizes,
    set_large_weights,
)

nan = float("nan")


def make_noise(value):
    return torch.full((1, 1, 32, 32), value)


# --- refused requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["S2L1C", "RGB", "S2RGB", "S2", "landsat", "untok_sen2l2a@224"])
def test_modalities_without_tokens_cannot_be_generated(name):
    assert modalities.find_target_key(name) is None
    with pytest.raises(ModelError, match="cannot be generated"):
        model.generator(MICRO, ["S2L2A"], [name], tokenizers={})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("S2L2A", "tok_sen2l2a@224"),
        ("s1rtc", "tok_sen1rtc@224"),
        ("S1", "tok_sen1grd@224"),
        ("dem", "tok_dem@224"),
        ("NDVI", "tok_ndvi@224"),
        ("tok_lulc@224", "tok_lulc@224"),
        ("location", "coords"),
    ],
)
def test_names_of_targets_are_mapped_to_keys(name, key):
    assert modalities.find_target_key(name) == key


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({}, {}, "no input"),
        ({"S1RTC": torch.zeros(1, 2, 32, 32)}, {}, "not among"),
        ({"S2L2A": torch.full((1, 12, 32, 32), float("nan"))}, {}, "NaN"),
        ({"S2L2A": torch.rand(1, 12, 32, 32)}, {}, "reflectance"),
        ({"S1GRD": torch.rand(1, 2, 32, 32) + 0.1}, {}, "log10"),
        ({"S2L2A": torch.full((1, 32, 32, 12), 900.0)}, {}, "12, H, W"),
        ({"S2L2A": torch.full((1, 12, 32, 40), 900.0)}, {}, "multiples of 16"),
        ({"S2L2A": torch.zeros(1, 12, 32, 32), "DEM": torch.zeros(2, 1, 32, 32)}, {}, "batch"),
        ({"DEM": torch.zeros(1, 1, 32, 32), "dem": torch.zeros(1, 1, 32, 32)}, {}, "twice"),
        ({"DEM": torch.full((1, 1, 32, 32), 900.0)}, {"standardize": False}, "standardize=True"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"outputs": ["S1RTC"]}, "each once"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"outputs": ["LULC", "lulc"]}, "each once"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"outputs": []}, "a list"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"seed": [1, 2]}, "each of the 1"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"seed": 2**63}, "63 bits"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"sampling": "beam"}, "argmax, sample"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"decoding_steps": 0}, "decoding steps"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"temperature": -1}, "temperature"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"seed": "a"}, "seed='a'"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"seed": 1.5}, "seed=1.5"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"seed": None}, "seed=None"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"boa_offset": "x"}, "boa_offset='x'"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"boa_offset": {"S2L2A": nan}}, "boa_offset=nan"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"timesteps": 0}, "1 to 1000"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"timesteps": 5000, "outputs": ["LULC"]}, "1 to 1000"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"noise": {"NDVI": make_noise(nan)}}, "NaN"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"noise": {"NDVI": [1.0]}}, "NDVI.*a torch tensor"),
        ({"DEM": np.zeros((1, 1, 32, 32))}, {}, "from_numpy"),
        ({"DEM": None}, {}, "DEM: a torch tensor"),
        (torch.zeros(1, 12, 32, 32), {}, "by name"),
        (None, {}, "by name"),
    ],
)
def test_invalid_requests_are_refused(inputs, options, message):
    with pytest.raises(ModelError, match=message):
        make().generate(inputs, **options)


@pytest.mark.parametrize(
    "size", [(8, 8), (0, 0), (-16, 16), 64, (50, 64), (32.0, 32), (32, 32, 32), "ab", (True, 16)]
)
def test_an_invalid_size_is_refused(size):
    generator = make(("S2L2A", "Coords"), ("LULC",))
    for call in (generator.generate, generator.generate_tokens):
        with pytest.raises(ModelError, match=r"size=.*multiples of 16"):
            call({"Coords": torch.tensor([[0.0, 0.0]])}, size=size)


def test_outputs_do_not_depend_on_the_order_of_the_inputs():
    generator, inputs = make(), rasters(height=48)
    reversed_inputs = dict(reversed(inputs.items()))
    for call in (
        lambda x: generator.generate(x, ["LULC"], standardize=False)["LULC"],
        lambda x: generator.class_probabilities(x, standardize=False),
        lambda x: generator.generate_tokens(x, ["NDVI"], strategy=SamplingStrategy(chained=False))[
            "NDVI"
        ],
        lambda x: generator.token_logits(x, "LULC"),
        generator.encode_inputs,
    ):
        assert torch.equal(call(inputs), call(reversed_inputs))


def test_class_probabilities_accept_raw_and_standardised_inputs():
    generator, inputs = make(), raw()
    standardised = {
        name: generator.scaling.standardise(modalities.find_modality_key(name), inputs[name])
        for name in inputs
    }
    assert torch.equal(
        generator.class_probabilities(inputs),
        generator.class_probabilities(standardised, standardize=False),
    )
    with pytest.raises(ModelError, match="standardize=True"):
        generator.class_probabilities(inputs, standardize=False)


def test_inputs_of_different_sizes_are_refused():
    with pytest.raises(ModelError, match="one size"):
        make().generate_tokens(
            {"DEM": torch.zeros(1, 1, 32, 32), "S1GRD": torch.zeros(1, 2, 16, 32)}
        )


def test_a_size_that_diffusion_cannot_decode_is_refused_before_computing():
    deep_tokenizer = TOKENIZER | {"unet": TOKENIZER["unet"] | {"multipliers": [1, 1, 1, 1]}}
    generator = model.generator(
        MICRO, ["S2L2A"], ["LULC", "DEM"], tokenizers={"DEM": deep_tokenizer}
    )
    recorded = record_batch_sizes(generator.model.encoder[0])
    with pytest.raises(ModelError, match=r"DEM.*multiples of 32"):
        generator.generate(rasters(("S2L2A",), 48, 64), ["DEM"], standardize=False, chained=False)
    assert not recorded


def test_an_output_without_its_tokenizer_is_refused_before_computing():
    generator = model.generator(MICRO, ["S2L2A"], ["LULC", "Coords"], tokenizers={})
    recorded = record_batch_sizes(generator.model.encoder[0])
    for name in ("LULC", "Coords"):
        with pytest.raises(ModelError, match="tokenizer"):
            generator.generate(rasters(("S2L2A",)), [name], standardize=False)
    assert not recorded
    assert generator.generate_tokens(rasters(("S2L2A",)), ["LULC"])["LULC"].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": []}, "list of outputs"),
        ({"outputs": "LULC"}, "list of outputs"),
        ({"outputs": ["LULC", "lulc"]}, "twice"),
        ({"inputs": [{"NEW": 3}]}, "known modalities"),
        ({"precision": "fp16"}, "fp32, bf16"),
        ({"tokenizers": {"DEM": TOKENIZER}}, "use for those of LULC"),
        ({"tokenizers": {"LULCX": TOKENIZER}}, "'LULCX' is given.*use for those of LULC"),
        ({"tokenizers": {"LULC": TOKENIZER | {"modality": "NDVI"}}}, "NDVI"),
        ({"size": {"dim": 32, "heads": 2, "depth": 1}}, "decoder_depth"),
        ({"boa_offset": {"DEM": 3}}, "DEM"),
    ],
)
def test_invalid_generators_are_refused(options, message):
    arguments = {"inputs": ["S2L2A"], "outputs": ["LULC"], "tokenizers": {}} | options
    with pytest.raises(ModelError, match=message):
        model.generator(arguments.pop("size", MICRO), **arguments)


@pytest.mark.parametrize("name", ["lulc", "tok_lulc@224", "LULC"])
def test_tokenizers_are_given_by_any_name_of_their_modality(name):
    generator = model.generator(MICRO, ["S2L2A"], ["LULC"], tokenizers={name: TOKENIZER})
    assert list(generator.tokenizer) == ["tok_lulc@224"]
    with pytest.raises(ModelError, match="is given"):
        model.backbone(MICRO, ["S2L2A", "LULC"], tokenizers={f"{name}X": TOKENIZER})


# --- weights --------------------------------------------------------------------------------------


def build_generator(weights=None, **options):
    arguments = {"tokenizers": {"LULC": TOKENIZER, "NDVI": TOKENIZER}} | options
    return model.generator(MICRO, list(RAW), ["LULC", "NDVI"], weights=weights, **arguments)


def copy_official_state(generator):
    """Return the state dict of an official file: the encoder-decoder, without prefix."""
    return {key: value.clone() for key, value in generator.model.state_dict().items()}


def test_a_complete_state_can_be_reloaded():
    state = make().state_dict()
    assert are_equal(build_generator(state).state_dict(), state)
    reloaded = model.load_state(build_generator({"random": 1}), state)
    assert are_equal(reloaded.state_dict(), state)


def test_the_official_layout_fills_the_model_and_keeps_tokenizers():
    generator = build_generator({"random": 1})
    before = {key: value.clone() for key, value in generator.tokenizer.state_dict().items()}
    model.load_state(generator, copy_official_state(make()))
    assert are_equal(generator.model.state_dict(), make().model.state_dict())
    assert are_equal(generator.tokenizer.state_dict(), before)


def test_a_file_without_tokenizers_does_not_leave_them_random():
    with pytest.raises(WeightsError, match="no tokenizer of LULC"):
        build_generator(copy_official_state(make()))
    tokenizers = {
        name: make().tokenizer.get_raster_tokenizer(f"tok_{name.lower()}@224")
        for name in ("LULC", "NDVI")
    }
    assert are_equal(
        build_generator(copy_official_state(make()), tokenizers=tokenizers).state_dict(),
        make().state_dict(),
    )
    with pytest.raises(WeightsError, match="no tokenizer of NDVI"):
        build_generator(
            copy_official_state(make()), tokenizers={"LULC": tokenizers["LULC"], "NDVI": TOKENIZER}
        )


def test_passed_tokenizers_take_precedence_over_those_in_the_file():
    tokenizer = set_large_weights(
        model.tokenizer({"modality": "LULC"} | TOKENIZER, part="decoder"), seed=8
    )
    before = {key: value.clone() for key, value in tokenizer.state_dict().items()}
    generator = build_generator(
        make().state_dict(), tokenizers={"LULC": tokenizer, "NDVI": TOKENIZER}
    )
    assert generator.tokenizer.get_raster_tokenizer("tok_lulc@224") is tokenizer
    assert are_equal(tokenizer.state_dict(), before)


def test_a_tokenizer_of_the_wrong_half_or_modality_is_refused():
    encoder_half = model.tokenizer({"modality": "LULC"} | TOKENIZER, part="encoder")
    with pytest.raises(ModelError, match="part='decoder'"):
        build_generator(tokenizers={"LULC": encoder_half})
    dem_tokenizer = model.tokenizer({"modality": "DEM"} | TOKENIZER, part="decoder")
    with pytest.raises(ModelError, match="of DEM"):
        build_generator(tokenizers={"LULC": dem_tokenizer})


def test_either_name_of_a_tied_tensor_is_enough_but_both_must_agree():
    tied_names = (
        "decoder_embeddings.tok_lulc@224.to_logits.weight",
        "decoder_embeddings.tok_lulc@224.mod_emb",
    )
    state = {
        key: value for key, value in copy_official_state(make()).items() if key not in tied_names
    }
    generator = model.load_state(build_generator({"random": 1}), state)
    assert are_equal(generator.model.state_dict(), make().model.state_dict())
    for tied_name in tied_names:
        changed_state = copy_official_state(make())
        changed_state[tied_name] = changed_state[tied_name] + 1
        with pytest.raises(WeightsError, match="are one"):
            model.load_state(build_generator({"random": 1}), changed_state)


def test_missing_and_unexpected_keys_are_named():
    state = copy_official_state(make())
    del state["decoder.1.cross_attn.kv.weight"]
    state["decoder.7.norm1.weight"] = torch.ones(32)
    with pytest.raises(WeightsError, match=r"decoder.1.cross_attn.kv.*decoder.7.norm1"):
        model.load_state(build_generator({"random": 1}), state)
    complete_state = make().state_dict()
    complete_state.pop("tokenizer.tok_lulc@224.post_quant_proj.bias")
    with pytest.raises(WeightsError, match=r"post_quant_proj\.bias"):
        build_generator(complete_state)


def test_other_modalities_of_an_official_file_are_ignored():
    state = copy_official_state(make(embed_last=True))
    state["decoder_embeddings.tok_dem@224.mod_emb"] = torch.ones(1, 1, 32)
    loaded = model.load_state(build_generator({"random": 1}), state)
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())


def test_random_weights_fill_model_and_tokenizers():
    state, same_seed_state, other_seed_state = (
        build_generator({"random": seed}).state_dict() for seed in (1, 1, 2)
    )
    assert are_equal(state, same_seed_state)
    for key in ("tokenizer.tok_lulc@224.decoder.out_proj.weight", "sampler.model.mask_token"):
        assert not torch.equal(state[key], other_seed_state[key])


def test_without_the_hub_the_error_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with torch.device("meta"), pytest.raises(WeightsError, match=r"TerraMind_Tokenizer_LULC\.pt"):
        model.generator("terramind_v1_tiny", ["S2L2A"], ["LULC"], weights="hub")


def test_bfloat16_outputs_are_finite_and_in_single_precision():
    generator = build_generator({"random": 1}, precision="bf16")
    assert generator.model.mask_token.dtype == torch.bfloat16
    outputs = generator.generate(raw(), timesteps=1)
    assert all(
        torch.isfinite(values).all() and values.dtype == torch.float32
        for values in outputs.values()
    )
    assert isinstance(generator, Generator)
