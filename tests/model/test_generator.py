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
    lively,
    make,
    passes,
    rasters,
    raw,
    same,
)

nan = float("nan")


def noise(value):
    return torch.full((1, 1, 32, 32), value)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["S2L1C", "RGB", "S2RGB", "S2", "landsat", "untok_sen2l2a@224"])
def test_what_has_no_tokens_cannot_be_made(name):
    assert modalities.find_target_key(name) is None
    with pytest.raises(ModelError, match="cannot be generated"):
        model.generator(MICRO, ["S2L2A"], [name], tokenizers={})


@pytest.mark.parametrize(
    ("user", "key"),
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
def test_names_of_targets(user, key):
    assert modalities.find_target_key(user) == key


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
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
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"noise": {"NDVI": noise(nan)}}, "NaN"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, {"noise": {"NDVI": [1.0]}}, "NDVI.*a torch tensor"),
        ({"DEM": np.zeros((1, 1, 32, 32))}, {}, "from_numpy"),
        ({"DEM": None}, {}, "DEM: a torch tensor"),
        (torch.zeros(1, 12, 32, 32), {}, "by name"),
        (None, {}, "by name"),
    ],
)
def test_wrong_requests_are_refused(inputs, options, says):
    with pytest.raises(ModelError, match=says):
        make().generate(inputs, **options)


@pytest.mark.parametrize(
    "size", [(8, 8), (0, 0), (-16, 16), 64, (50, 64), (32.0, 32), (32, 32, 32), "ab", (True, 16)]
)
def test_a_size_is_two_numbers_of_whole_patches(size):
    built = make(("S2L2A", "Coords"), ("LULC",))
    for call in (built.generate, built.generate_tokens):
        with pytest.raises(ModelError, match=r"size=.*multiples of 16"):
            call({"Coords": torch.tensor([[0.0, 0.0]])}, size=size)


def test_the_order_of_the_names_changes_no_bit():
    built, inputs = make(), rasters(height=48)
    turned = dict(reversed(inputs.items()))
    for call in (
        lambda x: built.generate(x, ["LULC"], standardize=False)["LULC"],
        lambda x: built.class_probabilities(x, standardize=False),
        lambda x: built.generate_tokens(x, ["NDVI"], strategy=SamplingStrategy(chained=False))[
            "NDVI"
        ],
        lambda x: built.token_logits(x, "LULC"),
        built.encode_inputs,
    ):
        assert torch.equal(call(inputs), call(turned))


def test_expectations_take_what_generate_takes():
    built, inputs = make(), raw()
    own = {
        name: built.scaling.standardise(modalities.find_modality_key(name), inputs[name])
        for name in inputs
    }
    assert torch.equal(
        built.class_probabilities(inputs), built.class_probabilities(own, standardize=False)
    )
    with pytest.raises(ModelError, match="standardize=True"):
        built.class_probabilities(inputs, standardize=False)


def test_inputs_of_different_sizes_are_refused():
    with pytest.raises(ModelError, match="one size"):
        make().generate_tokens(
            {"DEM": torch.zeros(1, 1, 32, 32), "S1GRD": torch.zeros(1, 2, 16, 32)}
        )


def test_diffusion_wants_multiples_of_its_own_before_anything_is_computed():
    deep = TOKENIZER | {"unet": TOKENIZER["unet"] | {"multipliers": [1, 1, 1, 1]}}
    built = model.generator(MICRO, ["S2L2A"], ["LULC", "DEM"], tokenizers={"DEM": deep})
    passes_seen = passes(built.model.encoder[0])
    with pytest.raises(ModelError, match=r"DEM.*multiples of 32"):
        built.generate(rasters(("S2L2A",), 48, 64), ["DEM"], standardize=False, chained=False)
    assert not passes_seen


def test_an_output_without_its_tokenizer_is_refused_before_anything_is_computed():
    built = model.generator(MICRO, ["S2L2A"], ["LULC", "Coords"], tokenizers={})
    passes_seen = passes(built.model.encoder[0])
    for name in ("LULC", "Coords"):
        with pytest.raises(ModelError, match="tokenizer"):
            built.generate(rasters(("S2L2A",)), [name], standardize=False)
    assert not passes_seen
    assert built.generate_tokens(rasters(("S2L2A",)), ["LULC"])["LULC"].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("options", "says"),
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
def test_wrong_generators_are_refused(options, says):
    expected = {"inputs": ["S2L2A"], "outputs": ["LULC"], "tokenizers": {}} | options
    with pytest.raises(ModelError, match=says):
        model.generator(expected.pop("size", MICRO), **expected)


@pytest.mark.parametrize("name", ["lulc", "tok_lulc@224", "LULC"])
def test_tokenizers_go_by_every_name_of_their_modality(name):
    built = model.generator(MICRO, ["S2L2A"], ["LULC"], tokenizers={name: TOKENIZER})
    assert list(built.tokenizer) == ["tok_lulc@224"]
    with pytest.raises(ModelError, match="is given"):
        model.backbone(MICRO, ["S2L2A", "LULC"], tokenizers={f"{name}X": TOKENIZER})


# --- weights --------------------------------------------------------------------------------------


def fresh(weights=None, **options):
    expected = {"tokenizers": {"LULC": TOKENIZER, "NDVI": TOKENIZER}} | options
    return model.generator(MICRO, list(RAW), ["LULC", "NDVI"], weights=weights, **expected)


def plain(built):
    """Return the state dict of an official file: the encoder-decoder, without prefix."""
    return {k: v.clone() for k, v in built.model.state_dict().items()}


def test_a_whole_state_goes_round():
    state = make().state_dict()
    assert same(fresh(state).state_dict(), state)
    again = model.load_state(fresh({"random": 1}), state)
    assert same(again.state_dict(), state)


def test_the_plain_official_layout_fills_the_model_and_leaves_tokenizers():
    built = fresh({"random": 1})
    before = {k: v.clone() for k, v in built.tokenizer.state_dict().items()}
    model.load_state(built, plain(make()))
    assert same(built.model.state_dict(), make().model.state_dict())
    assert same(built.tokenizer.state_dict(), before)


def test_a_plain_file_alone_does_not_leave_tokenizers_at_random():
    with pytest.raises(WeightsError, match="no tokenizer of LULC"):
        fresh(plain(make()))
    held = {
        n: make().tokenizer.get_raster_tokenizer(f"tok_{n.lower()}@224") for n in ("LULC", "NDVI")
    }
    assert same(fresh(plain(make()), tokenizers=held).state_dict(), make().state_dict())
    with pytest.raises(WeightsError, match="no tokenizer of NDVI"):
        fresh(plain(make()), tokenizers={"LULC": held["LULC"], "NDVI": TOKENIZER})


def test_tokenizers_that_are_given_win_over_those_in_the_file():
    own = lively(model.tokenizer({"modality": "LULC"} | TOKENIZER, part="decoder"), seed=8)
    before = {k: v.clone() for k, v in own.state_dict().items()}
    built = fresh(make().state_dict(), tokenizers={"LULC": own, "NDVI": TOKENIZER})
    assert built.tokenizer.get_raster_tokenizer("tok_lulc@224") is own
    assert same(own.state_dict(), before)


def test_a_tokenizer_of_the_wrong_half_or_modality_is_refused():
    reads = model.tokenizer({"modality": "LULC"} | TOKENIZER, part="encoder")
    with pytest.raises(ModelError, match="part='decoder'"):
        fresh(tokenizers={"LULC": reads})
    dem = model.tokenizer({"modality": "DEM"} | TOKENIZER, part="decoder")
    with pytest.raises(ModelError, match="of DEM"):
        fresh(tokenizers={"LULC": dem})


def test_one_name_of_a_tied_tensor_is_enough_but_two_must_agree():
    twins = (
        "decoder_embeddings.tok_lulc@224.to_logits.weight",
        "decoder_embeddings.tok_lulc@224.mod_emb",
    )
    state = {k: v for k, v in plain(make()).items() if k not in twins}
    built = model.load_state(fresh({"random": 1}), state)
    assert same(built.model.state_dict(), make().model.state_dict())
    for twin in twins:
        torn = plain(make())
        torn[twin] = torn[twin] + 1
        with pytest.raises(WeightsError, match="are one"):
            model.load_state(fresh({"random": 1}), torn)


def test_what_lacks_or_does_not_belong_is_named():
    state = plain(make())
    del state["decoder.1.cross_attn.kv.weight"]
    state["decoder.7.norm1.weight"] = torch.ones(32)
    with pytest.raises(WeightsError, match=r"decoder.1.cross_attn.kv.*decoder.7.norm1"):
        model.load_state(fresh({"random": 1}), state)
    whole = make().state_dict()
    whole.pop("tokenizer.tok_lulc@224.post_quant_proj.bias")
    with pytest.raises(WeightsError, match=r"post_quant_proj\.bias"):
        fresh(whole)


def test_other_modalities_of_an_official_file_are_left_out():
    state = plain(make(embed_last=True))
    state["decoder_embeddings.tok_dem@224.mod_emb"] = torch.ones(1, 1, 32)
    loaded = model.load_state(fresh({"random": 1}), state)
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())


def test_random_weights_fill_model_and_tokenizers():
    first, again, dem = (fresh({"random": seed}).state_dict() for seed in (1, 1, 2))
    assert same(first, again)
    for key in ("tokenizer.tok_lulc@224.decoder.out_proj.weight", "sampler.model.mask_token"):
        assert not torch.equal(first[key], dem[key])


def test_without_the_hub_the_error_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with torch.device("meta"), pytest.raises(WeightsError, match=r"TerraMind_Tokenizer_LULC\.pt"):
        model.generator("terramind_v1_tiny", ["S2L2A"], ["LULC"], weights="hub")


def test_bfloat16_computes_and_ids_stay_ids():
    built = fresh({"random": 1}, precision="bf16")
    assert built.model.mask_token.dtype == torch.bfloat16
    out = built.generate(raw(), timesteps=1)
    assert all(torch.isfinite(v).all() and v.dtype == torch.float32 for v in out.values())
    assert isinstance(built, Generator)
