"""Generation and TiM: outputs, keys and shapes equal to those of the reference implementation."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import model
from model.terramind import modalities
from model.terramind.generation import sampling_strategy
from tests.support import oracle
from tests.support.oracle import needs_listings, needs_oracle, one_thread  # noqa: F401

GENERATION, TIM, RASTER = "cases_generation", "cases_tim", "cases_encoder_lulc_raster"
SIZES = ("tiny", "small", "base", "large")


def read_tokenizer_size(modality):
    """Return the size of a tokenizer from config.json, by the option names of this package."""
    settings = oracle.read_config()["tokenizer"]
    unet = settings.get(f"unet_{modality.lower()}")
    size = {
        "modality": modality,
        "dim": settings["enc_dim"],
        "depth": settings["depth"],
        "heads": settings["heads"],
        "image_size": settings["image_size"],
    }
    if unet is None:
        return size
    option_names = {
        "model_channels": "channels",
        "num_res_blocks": "blocks",
        "channel_mult": "multipliers",
        "attention_resolutions": "attention",
    }
    unet_options = {option_names[key]: value for key, value in unet.items()}
    return size | {"unet": unet_options | {"patch": settings["unet_patch"]}}


def build_token_decoder(modality):
    state = oracle.read_tensors(f"weights_tok_{modality.lower()}")
    return model.tokenizer(read_tokenizer_size(modality), weights=state, part="decoder")


@functools.cache
def build_generator(inputs, outputs):
    return model.generator(
        oracle.read_architecture("base_style"),
        inputs=list(inputs),
        outputs=list(outputs),
        weights=oracle.read_tensors("weights_encdec"),
        tokenizers={name: build_token_decoder(name) for name in outputs},
    )


def build_generator_of_case(case):
    return build_generator(tuple(case["modalities"]), tuple(case["output_modalities"]))


def list_argmax_cases():
    names = oracle.list_case_names(GENERATION, "")
    return [name for name in names if not name.startswith("sampled_")]


def assert_equal_where_clear(actual, expected, margin):
    assert actual.shape == expected.shape
    clear = margin > oracle.MARGIN
    assert clear.float().mean() > 0.9
    assert torch.equal(actual[clear], expected[clear])


def assert_rows_occur(rows, expected):
    """Check that each stored row of logits is among ours; its position is not stored."""
    for row in expected.flatten(0, -2):
        smallest_error = min(
            oracle.compute_error(candidate, row) for candidate in rows.flatten(0, -2)
        )
        assert smallest_error <= oracle.LOGITS


def thin_tokens(actual, expected):
    """Cut the outputs to the stored batch, and apply the stored stride along the tokens."""
    return oracle.thin_output(actual[: len(expected)], expected, [1])


@needs_oracle
@pytest.mark.parametrize("name", list_argmax_cases())
def test_generated_rasters_equal_the_oracle(name):
    case = oracle.read_cases(GENERATION)[name]
    inputs, expected = (oracle.read_case_tensors(GENERATION, name, kind) for kind in ("in", "out"))
    outputs = build_generator_of_case(case).generate(
        {key: inputs[key] for key in case["modalities"]},
        timesteps=case.get("timesteps", 10),
        noise={
            output: inputs[f"noise_{output.lower()}"]
            for output in case["output_modalities"]
            if output != "LULC"
        },
        standardize=case["standardize"],
    )
    assert list(outputs) == case["output_modalities"]
    compared = 0
    for key, value in expected.items():
        output, _, kind = key.partition("_")
        if output in outputs and kind.startswith("s"):
            limit = oracle.LOGITS if output == "LULC" else oracle.PIXELS
            actual = oracle.thin_output(outputs[output], value, [2, 3])
            assert oracle.compute_error(actual, value) <= limit
            compared += 1
        if kind == "argmax":
            scores = outputs[output].topk(2, dim=1).values
            clear = scores[:, 0] - scores[:, 1] > oracle.MARGIN
            assert torch.equal(outputs[output].argmax(dim=1)[clear], value.long()[clear])
            assert clear.float().mean() > 0.99
    assert compared == len(case["output_modalities"])


@needs_oracle
@pytest.mark.parametrize("name", list_argmax_cases())
def test_token_ids_and_logits_equal_the_oracle(name):
    case = oracle.read_cases(GENERATION)[name]
    generator, scaling = build_generator_of_case(case), {"standardize": case["standardize"]}
    inputs = oracle.read_inputs(GENERATION, name)
    expected = oracle.read_case_tensors(GENERATION, name, "out")
    ids = generator.generate_tokens(inputs, **scaling)
    earlier = {}
    for step, output in enumerate(case["output_modalities"], start=1):
        prefix = output.lower()
        assert_equal_where_clear(
            ids[output].flatten(1), expected[f"{prefix}_tokens"], expected[f"{prefix}_margin"]
        )
        logits = generator.token_logits(inputs, output, tokens=earlier, **scaling)
        assert_rows_occur(logits, expected[f"{prefix}_logits_tok"])
        assert_equal_where_clear(
            logits.argmax(dim=2), expected[f"{prefix}_tokens"], expected[f"{prefix}_margin"]
        )
        if f"context_step{step}" in expected:
            encoded = generator.encode_inputs(inputs, tokens=earlier, **scaling)
            stored = expected[f"context_step{step}"]
            assert oracle.compute_error(thin_tokens(encoded, stored), stored) <= oracle.FEATURES
        earlier[output] = expected[f"{prefix}_tokens"]


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names(GENERATION, "sampled_"))
def test_sampled_land_cover_equals_the_oracle_given_its_random_numbers(name):
    case = oracle.read_cases(GENERATION)[name]
    inputs = oracle.read_case_tensors(GENERATION, case["inputs_from"] or name, "in")
    expected = oracle.read_case_tensors(GENERATION, name, "out")
    generator = build_generator(tuple(inputs), ("LULC",))
    logits = generator.token_logits(inputs, "LULC")
    batch, count, _ = logits.shape
    with torch.random.fork_rng():
        torch.manual_seed(case["torch_seed"])
        order = torch.argsort(torch.rand(count) * 1e-6)
        filtered = sampling_strategy.filter_logits(
            logits[:, order].flatten(0, 1), case["top_k"], case["top_p"]
        )
        sampled = torch.multinomial((filtered / case["temps"]).softmax(dim=1), 1).view(batch, count)
    assert torch.equal(order.expand(batch, count), expected["roar_order"].long())
    ids = torch.zeros_like(sampled).scatter(1, order.expand(batch, count), sampled)
    rows = next(iter(inputs.values())).shape[2] // modalities.PATCH_SIZE
    scores = generator.tokenizer.get_raster_tokenizer("tok_lulc@224").decode(
        ids.view(batch, rows, -1)
    )
    is_equal = scores.argmax(dim=1) == expected["LULC_argmax"].long()
    assert is_equal.float().mean() > 0.98
    # ^ one draw at a rounding boundary changes a whole patch


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names(TIM, ""))
def test_thinking_in_modalities_equals_the_oracle(name):
    case = oracle.read_cases(TIM)[name]
    source = case.get("inputs_from") or name
    settings = oracle.read_cases(TIM)[source] | case
    encoder = model.tim(
        oracle.read_architecture("base_style", "tim_encoder_depth"),
        settings["modalities"],
        settings["tim_modalities"],
        merge=settings["merge_method"],
        weights=oracle.read_tensors("weights_tim"),
    )
    stored = oracle.read_case_tensors(TIM, source, "in")
    inputs = {key: stored[key] for key in settings["modalities"]}
    with torch.inference_mode():
        layer_features = encoder.features(inputs)
        features = encoder(inputs)
        values = encoder.tokenize_inputs(inputs)
        tokens = encoder.embed(values)
        generated_ids = encoder.generate_missing(values, tokens, [0] * len(tokens))
    outputs = oracle.read_case_tensors(TIM, name, "out")
    compared = 0
    for key, expected in outputs.items():
        if key.startswith(("layer", "last")) and "_" not in key:
            actual = features if key == "last" else layer_features[int(key.removeprefix("layer"))]
            assert (
                oracle.compute_error(oracle.thin_output(actual, expected, [1]), expected)
                <= oracle.FEATURES
            ), key
            compared += 1
    assert compared
    for modality in settings["tim_modalities"]:
        prefix = modality.lower()
        if f"{prefix}_tokens" in outputs:
            ids = generated_ids[modalities.get_target_modality(modality).key].flatten(1)
            assert_equal_where_clear(ids, outputs[f"{prefix}_tokens"], outputs[f"{prefix}_margin"])


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names(RASTER, ""))
def test_features_of_a_class_raster_equal_the_oracle(name):
    case = oracle.read_cases(RASTER)[name]
    prefix = "tokenizer.tok_lulc@224."
    tokenizer = {
        prefix + key: value for key, value in oracle.read_tensors("weights_tok_lulc").items()
    }
    encoder = model.backbone(
        oracle.read_architecture("base_style"),
        case["modalities"],
        merge=case["merge_method"],
        weights=oracle.read_tensors("weights_vit_base_style") | tokenizer,
        tokenizers={"LULC": read_tokenizer_size("LULC")},
    )
    with torch.inference_mode():
        actual = encoder(oracle.read_inputs(RASTER, name))
    expected = oracle.read_case_tensors(RASTER, name, "out")["last"]
    assert (
        oracle.compute_error(oracle.thin_output(actual, expected, [1]), expected) <= oracle.FEATURES
    )


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names("cases_primitives", "filter_"))
def test_filters_equal_the_oracle(name):
    case = oracle.read_cases("cases_primitives")[name]
    logits = oracle.read_case_tensors("cases_primitives", name, "in")["logits"]
    expected = oracle.read_case_tensors("cases_primitives", name, "out")["filtered"]
    actual = sampling_strategy.filter_logits(logits, case["top_k"], case["top_p"])
    assert torch.equal(actual.sort(dim=1).values, expected.sort(dim=1).values)
    is_different = actual != expected
    has_equal = (logits[:, :, None] == logits[:, None, :]).sum(dim=2) > 1
    assert bool(has_equal[is_different].all())
    # ^ the reference sorts unstably, so either of two equal logits may be kept


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names("cases_primitives", "linear_schedule_"))
def test_schedules_equal_the_oracle(name):
    steps, count = (int(part) for part in name.removeprefix("linear_schedule_").split("_"))
    expected = oracle.read_case_tensors("cases_primitives", name, "out")
    assert sampling_strategy.linear_schedule(count, steps) == expected["tokens"].tolist()
    assert sampling_strategy.cosine_schedule(count, steps) == expected["cosine"].tolist()


def read_shapes(stored):
    return {key: shape for key, (shape, _) in stored["tensors"].items()}


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def find_missing_keys(listed_shapes, shapes):
    """Return the listed keys that the model does not have; check that the others are equal."""
    assert {key: listed_shapes.get(key) for key in shapes} == shapes
    return [key for key in listed_shapes if key not in shapes]


@needs_listings
@pytest.mark.parametrize("size", SIZES)
def test_a_generator_has_the_official_keys_except_unused_halves(size):
    stored = oracle.listing(f"terramind_v1_{size}_generate__s2l2a_s1grd_to_lulc_dem")
    with torch.device("meta"):
        generator = model.generator(
            f"terramind_v1_{size}_generate", ["S2L2A", "S1GRD"], ["LULC", "DEM"]
        )
    expected, actual = read_shapes(stored), oracle.list_shapes(generator)
    missing = find_missing_keys(expected, actual)
    halves = {key.split(".", 3)[0] + "." + key.split(".")[2] for key in missing}
    assert halves == {"tokenizer.encoder", "tokenizer.quant_proj"}
    assert all(generator.is_ignored_key(key) for key in missing)
    tables = [key for key in actual if key.startswith("tokenizer.") and key.endswith("pos_emb")]
    excluded_count = sum(math.prod(expected[key]) for key in (*missing, *tables))
    # ^ the tables of the tokenizers are listed as parameters, but are buffers here
    assert count_parameters(generator) == stored["n_unique_params"] - excluded_count


@needs_listings
@pytest.mark.parametrize("size", SIZES)
def test_a_tim_has_the_official_keys_except_the_unused_tokenizer(size):
    stored = oracle.listing(f"terramind_v1_{size}_tim__s2l2a_s1grd_lulc")
    with torch.device("meta"):
        tim = model.tim(f"terramind_v1_{size}_tim", ["S2L2A", "S1GRD"])
    expected = read_shapes(stored)
    missing = find_missing_keys(expected, oracle.list_shapes(tim))
    assert {key.split(".")[0] for key in missing} == {"tokenizer"}
    assert all(tim.is_ignored_key(key) for key in missing)
    unused_count = sum(math.prod(expected[key]) for key in missing)
    assert count_parameters(tim) == stored["n_unique_params"] - unused_count


@needs_listings
@pytest.mark.parametrize("size", SIZES)
def test_the_encoder_decoder_of_all_modalities_has_the_official_keys(size):
    stored = oracle.listing(f"terramind_v1_{size}__encdec_all")
    inputs, outputs = (
        list(dict.fromkeys(key.split(".")[1] for key in stored["tensors"] if key.startswith(side)))
        for side in ("encoder_embeddings.", "decoder_embeddings.")
    )
    with torch.device("meta"):
        encoder_decoder = model.generator(
            f"terramind_v1_{size}", inputs, outputs, tokenizers={}
        ).model
    assert oracle.list_shapes(encoder_decoder) == read_shapes(stored)
    assert count_parameters(encoder_decoder) == stored["n_unique_params"]
    assert sorted(key for key, _ in encoder_decoder.named_buffers()) == sorted(stored["buffers"])


@needs_listings
def test_a_backbone_with_all_inputs_has_the_official_keys():
    stored = oracle.listing("terramind_v1_base__all9")
    names = [*modalities.RASTER_MODALITIES, *modalities.TOKEN_MODALITIES]
    with torch.device("meta"):
        encoder = model.backbone(
            "terramind_v1_base", names, tokenizers={"LULC": None, "NDVI": None}
        )
    missing = find_missing_keys(read_shapes(stored), oracle.list_shapes(encoder))
    assert {key.split(".")[2] for key in missing} == {"decoder", "post_quant_proj"}
    assert all(encoder.is_ignored_key(key) for key in missing)
