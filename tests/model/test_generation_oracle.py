"""Generation, Thinking in Modalities and token inputs against the reference's numbers and keys."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import model
from model.terramind import modalities
from model.terramind.generation import sampling
from tests.support import oracle
from tests.support.oracle import needs_listings, needs_oracle, one_thread  # noqa: F401

GENERATION, TIM, RASTER = "cases_generation", "cases_tim", "cases_encoder_lulc_raster"
SIZES = ("tiny", "small", "base", "large")


def size_of(modality):
    """Return a tokenizer's size from config.json, in our words."""
    told = oracle.described()["tokenizer"]
    unet = told.get(f"unet_{modality.lower()}")
    size = {
        "modality": modality,
        "dim": told["enc_dim"],
        "depth": told["depth"],
        "heads": told["heads"],
        "image_size": told["image_size"],
    }
    if unet is None:
        return size
    words = {
        "model_channels": "channels",
        "num_res_blocks": "blocks",
        "channel_mult": "multipliers",
        "attention_resolutions": "attention",
    }
    named = {words[key]: value for key, value in unet.items()}
    return size | {"unet": named | {"patch": told["unet_patch"]}}


def decoder_of(modality):
    state = oracle.tensors(f"weights_tok_{modality.lower()}")
    return model.tokenizer(size_of(modality), weights=state, part="decoder")


@functools.cache
def generator(inputs, outputs):
    return model.generator(
        oracle.style("base_style"),
        inputs=list(inputs),
        outputs=list(outputs),
        weights=oracle.tensors("weights_encdec"),
        tokenizers={name: decoder_of(name) for name in outputs},
    )


def built_for(case):
    return generator(tuple(case["modalities"]), tuple(case["output_modalities"]))


def argmax_cases():
    every = oracle.named(GENERATION, "")
    return [n for n in every if not n.startswith("sampled_")]


def equal_where_clear(got, wanted, margin):
    assert got.shape == wanted.shape
    clear = margin > oracle.MARGIN
    assert clear.float().mean() > 0.9
    assert torch.equal(got[clear], wanted[clear])


def among(rows, wanted):
    """Hold each stored row of logits against the nearest of ours: which it is stands in prose."""
    for row in wanted.flatten(0, -2):
        best = min(oracle.error(one, row) for one in rows.flatten(0, -2))
        assert best <= oracle.LOGITS


def thin(got, wanted):
    """Cut our batch to the stored one, and apply the stride along the tokens."""
    return oracle.thinned(got[: len(wanted)], wanted, [1])


@needs_oracle
@pytest.mark.parametrize("name", argmax_cases())
def test_generated_rasters_equal_the_oracle(name):
    case = oracle.cases(GENERATION)[name]
    given, wanted = (oracle.stored(GENERATION, name, kind) for kind in ("in", "out"))
    found = built_for(case).generate(
        {key: given[key] for key in case["modalities"]},
        timesteps=case.get("timesteps", 10),
        noise={o: given[f"noise_{o.lower()}"] for o in case["output_modalities"] if o != "LULC"},
        standardize=case["standardize"],
    )
    assert list(found) == case["output_modalities"]
    compared = 0
    for key, value in wanted.items():
        output, _, kind = key.partition("_")
        if output in found and kind.startswith("s"):
            limit = oracle.LOGITS if output == "LULC" else oracle.PIXELS
            got = oracle.thinned(found[output], value, [2, 3])
            assert oracle.error(got, value) <= limit
            compared += 1
        if kind == "argmax":
            scores = found[output].topk(2, dim=1).values
            clear = scores[:, 0] - scores[:, 1] > oracle.MARGIN
            assert torch.equal(found[output].argmax(dim=1)[clear], value.long()[clear])
            assert clear.float().mean() > 0.99
    assert compared == len(case["output_modalities"])


@needs_oracle
@pytest.mark.parametrize("name", argmax_cases())
def test_token_ids_and_logits_equal_the_oracle(name):
    case = oracle.cases(GENERATION)[name]
    built, scaled = built_for(case), {"standardize": case["standardize"]}
    inputs = oracle.inputs_of(GENERATION, name)
    wanted = oracle.stored(GENERATION, name, "out")
    ids = built.generate_tokens(inputs, **scaled)
    earlier = {}
    for step, output in enumerate(case["output_modalities"], start=1):
        low = output.lower()
        equal_where_clear(ids[output].flatten(1), wanted[f"{low}_tokens"], wanted[f"{low}_margin"])
        logits = built.token_logits(inputs, output, tokens=earlier, **scaled)
        among(logits, wanted[f"{low}_logits_tok"])
        equal_where_clear(logits.argmax(dim=2), wanted[f"{low}_tokens"], wanted[f"{low}_margin"])
        if f"context_step{step}" in wanted:
            seen = built.encode_inputs(inputs, tokens=earlier, **scaled)
            stored = wanted[f"context_step{step}"]
            assert oracle.error(thin(seen, stored), stored) <= oracle.FEATURES
        earlier[output] = wanted[f"{low}_tokens"]


@needs_oracle
@pytest.mark.parametrize("name", oracle.named(GENERATION, "sampled_"))
def test_sampled_land_cover_equals_the_oracle_given_its_random_numbers(name):
    case = oracle.cases(GENERATION)[name]
    given = oracle.stored(GENERATION, case["inputs_from"] or name, "in")
    wanted = oracle.stored(GENERATION, name, "out")
    built = generator(tuple(given), ("LULC",))
    logits = built.token_logits(given, "LULC")
    batch, count, _ = logits.shape
    with torch.random.fork_rng():
        torch.manual_seed(case["torch_seed"])
        order = torch.argsort(torch.rand(count) * 1e-6)
        kept = sampling.filter_logits(logits[:, order].flatten(0, 1), case["top_k"], case["top_p"])
        drawn = torch.multinomial((kept / case["temps"]).softmax(dim=1), 1).view(batch, count)
    assert torch.equal(order.expand(batch, count), wanted["roar_order"].long())
    ids = torch.zeros_like(drawn).scatter(1, order.expand(batch, count), drawn)
    rows = next(iter(given.values())).shape[2] // modalities.PATCH_SIZE
    scores = built.tokenizer.get_raster_tokenizer("tok_lulc@224").decode(ids.view(batch, rows, -1))
    agree = scores.argmax(dim=1) == wanted["LULC_argmax"].long()
    assert agree.float().mean() > 0.98
    # ^ one draw at a rounding boundary changes one patch


@needs_oracle
@pytest.mark.parametrize("name", oracle.named(TIM, ""))
def test_thinking_equals_the_oracle(name):
    case = oracle.cases(TIM)[name]
    source = case.get("inputs_from") or name
    told = oracle.cases(TIM)[source] | case
    encoder = model.tim(
        oracle.style("base_style", "tim_encoder_depth"),
        told["modalities"],
        told["tim_modalities"],
        merge=told["merge_method"],
        weights=oracle.tensors("weights_tim"),
    )
    stored = oracle.stored(TIM, source, "in")
    given = {key: stored[key] for key in told["modalities"]}
    with torch.inference_mode():
        found = encoder.features(given)
        last = encoder(given)
        values = encoder.tokenize_inputs(given)
        tokens = encoder.embed(values)
        thoughts = encoder.generate_missing(values, tokens, [0] * len(tokens))
    outputs = oracle.stored(TIM, name, "out")
    compared = 0
    for key, wanted in outputs.items():
        if key.startswith(("layer", "last")) and "_" not in key:
            got = last if key == "last" else found[int(key.removeprefix("layer"))]
            assert oracle.error(oracle.thinned(got, wanted, [1]), wanted) <= oracle.FEATURES, key
            compared += 1
    assert compared
    for modality in told["tim_modalities"]:
        low = modality.lower()
        if f"{low}_tokens" in outputs:
            ids = thoughts[modalities.get_target_modality(modality).key].flatten(1)
            equal_where_clear(ids, outputs[f"{low}_tokens"], outputs[f"{low}_margin"])


@needs_oracle
@pytest.mark.parametrize("name", oracle.named(RASTER, ""))
def test_features_of_a_class_raster_equal_the_oracle(name):
    case = oracle.cases(RASTER)[name]
    prefix = "tokenizer.tok_lulc@224."
    tokenizer = {prefix + k: v for k, v in oracle.tensors("weights_tok_lulc").items()}
    encoder = model.backbone(
        oracle.style("base_style"),
        case["modalities"],
        merge=case["merge_method"],
        weights=oracle.tensors("weights_vit_base_style") | tokenizer,
        tokenizers={"LULC": size_of("LULC")},
    )
    with torch.inference_mode():
        got = encoder(oracle.inputs_of(RASTER, name))
    wanted = oracle.stored(RASTER, name, "out")["last"]
    assert oracle.error(oracle.thinned(got, wanted, [1]), wanted) <= oracle.FEATURES


@needs_oracle
@pytest.mark.parametrize("name", oracle.named("cases_primitives", "filter_"))
def test_filters_equal_the_oracle(name):
    case = oracle.cases("cases_primitives")[name]
    logits = oracle.stored("cases_primitives", name, "in")["logits"]
    wanted = oracle.stored("cases_primitives", name, "out")["filtered"]
    got = sampling.filter_logits(logits, case["top_k"], case["top_p"])
    assert torch.equal(got.sort(dim=1).values, wanted.sort(dim=1).values)
    differ = got != wanted
    equals = (logits[:, :, None] == logits[:, None, :]).sum(dim=2) > 1
    assert bool(equals[differ].all())
    # ^ which of two equal logits stays is open in the reference, whose sort is not stable


@needs_oracle
@pytest.mark.parametrize("name", oracle.named("cases_primitives", "linear_schedule_"))
def test_schedules_equal_the_oracle(name):
    steps, count = (int(part) for part in name.removeprefix("linear_schedule_").split("_"))
    wanted = oracle.stored("cases_primitives", name, "out")
    assert sampling.linear_schedule(count, steps) == wanted["tokens"].tolist()
    assert sampling.cosine_schedule(count, steps) == wanted["cosine"].tolist()


def shapes_of(stored):
    return {key: shape for key, (shape, _) in stored["tensors"].items()}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def left_out(wanted, got):
    """Return the keys that we do not build; what we build must be as listed."""
    assert {key: wanted.get(key) for key in got} == got
    return [key for key in wanted if key not in got]


@needs_listings
@pytest.mark.parametrize("size", SIZES)
def test_a_generator_has_the_official_keys_but_for_unused_halves(size):
    stored = oracle.listing(f"terramind_v1_{size}_generate__s2l2a_s1grd_to_lulc_dem")
    with torch.device("meta"):
        built = model.generator(
            f"terramind_v1_{size}_generate", ["S2L2A", "S1GRD"], ["LULC", "DEM"]
        )
    wanted, got = shapes_of(stored), oracle.shapes(built)
    missing = left_out(wanted, got)
    halves = {key.split(".", 3)[0] + "." + key.split(".")[2] for key in missing}
    assert halves == {"tokenizer.encoder", "tokenizer.quant_proj"}
    assert all(built.is_ignored_key(key) for key in missing)
    tables = [key for key in got if key.startswith("tokenizer.") and key.endswith("pos_emb")]
    elsewhere = sum(math.prod(wanted[key]) for key in (*missing, *tables))
    # ^ the tables of the tokenizers are listed as parameters, and are buffers here
    assert parameters(built) == stored["n_unique_params"] - elsewhere


@needs_listings
@pytest.mark.parametrize("size", SIZES)
def test_thinking_has_the_official_keys_but_for_the_unused_tokenizer(size):
    stored = oracle.listing(f"terramind_v1_{size}_tim__s2l2a_s1grd_lulc")
    with torch.device("meta"):
        built = model.tim(f"terramind_v1_{size}_tim", ["S2L2A", "S1GRD"])
    wanted = shapes_of(stored)
    missing = left_out(wanted, oracle.shapes(built))
    assert {key.split(".")[0] for key in missing} == {"tokenizer"}
    assert all(built.is_ignored_key(key) for key in missing)
    unused = sum(math.prod(wanted[key]) for key in missing)
    assert parameters(built) == stored["n_unique_params"] - unused


@needs_listings
@pytest.mark.parametrize("size", SIZES)
def test_the_encoder_decoder_of_everything_has_the_official_keys(size):
    stored = oracle.listing(f"terramind_v1_{size}__encdec_all")
    inputs, outputs = (
        list(dict.fromkeys(key.split(".")[1] for key in stored["tensors"] if key.startswith(side)))
        for side in ("encoder_embeddings.", "decoder_embeddings.")
    )
    with torch.device("meta"):
        built = model.generator(f"terramind_v1_{size}", inputs, outputs, tokenizers={}).model
    assert oracle.shapes(built) == shapes_of(stored)
    assert parameters(built) == stored["n_unique_params"]
    assert sorted(key for key, _ in built.named_buffers()) == sorted(stored["buffers"])


@needs_listings
def test_a_backbone_with_all_inputs_has_the_official_keys():
    stored = oracle.listing("terramind_v1_base__all9")
    names = [*modalities.RASTER_MODALITIES, *modalities.TOKEN_MODALITIES]
    with torch.device("meta"):
        built = model.backbone("terramind_v1_base", names, tokenizers={"LULC": None, "NDVI": None})
    missing = left_out(shapes_of(stored), oracle.shapes(built))
    assert {key.split(".")[2] for key in missing} == {"decoder", "post_quant_proj"}
    assert all(built.is_ignored_key(key) for key in missing)
