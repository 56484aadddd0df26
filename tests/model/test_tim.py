"""Thinking in Modalities (TiM), rasters of token modalities, and modality drop."""

from __future__ import annotations

import pytest
import torch

import model
from model.errors import ModelError, WeightsError
from model.terramind.generation.sampling_strategy import SamplingStrategy
from tests.support import small_generators
from tests.support.oracle import one_thread  # noqa: F401
from tests.support.small_generators import are_equal, set_large_weights

MICRO = {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 1}
TOKENIZER = {"dim": 32, "depth": 1, "heads": 2}
SHARED = "encoder_embeddings.untok_dem@224.proj.weight"


def make_tim(names=("S1GRD", "DEM"), thoughts=("LULC",), **options):
    return set_large_weights(model.tim(MICRO, list(names), list(thoughts), **options))


def make_rasters(names=("S1GRD", "DEM"), height=32, width=48, **options):
    return small_generators.rasters(names, height, width, **options)


def generate_ids(encoder, inputs):
    values = encoder.tokenize_inputs(inputs)
    seeds = [0] * len(next(iter(inputs.values())))
    return encoder.generate_missing(values, encoder.embed(values), seeds)


def test_a_tim_is_called_like_a_backbone():
    encoder, inputs = make_tim(), make_rasters(batch=2)
    features = encoder(inputs)
    assert features.shape == (2, 6, 32)
    layers = encoder.features(inputs, [0, -1])
    assert torch.equal(layers[1], features)
    assert encoder.out_dim == 32
    assert make_tim(merge="concat").out_dim == 3 * 32


def test_outputs_are_reproducible_and_independent_of_the_batch():
    encoder, inputs = make_tim(), make_rasters(batch=3)
    features = encoder(inputs)
    assert torch.equal(encoder(inputs), features)
    alone = encoder({name: values[1:2] for name, values in inputs.items()})
    torch.testing.assert_close(alone, features[1:2], atol=1e-4, rtol=1e-4)


def test_generated_modalities_equal_those_of_a_generator_and_are_merged_last():
    encoder, inputs = make_tim(), make_rasters()
    generated = generate_ids(encoder, inputs)
    assert list(generated) == ["tok_lulc@224"]
    sampler = encoder.sampler.model
    context = sampler.encode_context(sampler.embed_inputs(encoder.tokenize_inputs(inputs)))
    expected = sampler.logits(context, ["tok_lulc@224"], (2, 3))[0].argmax(2)
    assert torch.equal(generated["tok_lulc@224"], expected.view(1, 2, 3))
    all_inputs = inputs | {"LULC": generated["tok_lulc@224"]}
    backbone = model.backbone(MICRO, ["S1GRD", "DEM", "LULC"], weights=None, merge="concat")
    encoder_state = {
        key: value for key, value in encoder.state_dict().items() if not key.startswith("sampler.")
    }
    model.load_state(backbone, encoder_state)
    concat = make_tim(merge="concat")
    model.load_state(concat, encoder.state_dict())
    torch.testing.assert_close(concat(inputs), backbone(all_inputs), atol=1e-5, rtol=1e-5)
    mean = torch.stack(concat(inputs).split(32, dim=2)).mean(0)
    torch.testing.assert_close(encoder(inputs), mean, atol=1e-5, rtol=1e-5)


def test_a_given_modality_is_not_generated():
    encoder, inputs = make_tim(), make_rasters()
    ids = torch.full((1, 2, 3), 17)
    sampler_runs = []
    encoder.sampler.model.encoder[0].register_forward_pre_hook(lambda *_: sampler_runs.append(1))
    with_ids = encoder(inputs | {"LULC": ids})
    assert not sampler_runs
    assert not torch.equal(with_ids, encoder(inputs))
    assert sampler_runs == [1]


def test_inputs_are_not_modified_and_dict_excludes_generated_modalities():
    inputs = make_rasters()
    before = dict(inputs)
    features = make_tim(merge="dict")(inputs)
    assert set(features) == {"S1GRD", "DEM"}
    assert are_equal(inputs, before)
    all_inputs = inputs | {"LULC": torch.zeros(1, 2, 3, dtype=torch.long)}
    assert len(make_tim(merge="dict")(all_inputs)) == 3
    assert make_tim(merge=None)(inputs).shape == (1, 18, 32)


def test_inputs_may_be_absent_and_of_any_size():
    encoder = make_tim()
    features = encoder({"DEM": make_rasters(height=16, width=80)["DEM"]})
    assert features.shape == (1, 5, 32)


def test_generated_modalities_are_chained():
    encoder, inputs = make_tim(thoughts=("LULC", "NDVI")), make_rasters()
    unchained = make_tim(thoughts=("LULC", "NDVI"), chained=False)
    assert list(generate_ids(encoder, inputs)) == ["tok_lulc@224", "tok_ndvi@224"]
    keys = encoder.sampler.model.encoder_embeddings
    assert {"tok_lulc@224", "tok_ndvi@224"} <= set(keys)
    assert not {"tok_lulc@224", "tok_ndvi@224"} & set(unchained.sampler.model.encoder_embeddings)
    assert unchained(inputs).shape == encoder(inputs).shape


def test_sampled_modalities_depend_on_the_seed():
    encoder = make_tim(strategy=SamplingStrategy(sampling="sample"))
    inputs = {name: values[[0, 0]] for name, values in make_rasters(batch=1).items()}
    features = encoder(inputs, seed=[1, 2])
    assert not torch.equal(features[0], features[1])
    assert torch.equal(features, encoder(inputs, seed=[1, 2]))
    state = torch.get_rng_state()
    encoder(inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sensor_can_be_given_as_pixels_and_generated_as_tokens():
    encoder = make_tim(("S1GRD",), ("S1GRD",))
    assert list(encoder.modality_keys.values()) == ["untok_sen1grd@224", "tok_sen1grd@224"]
    assert encoder(make_rasters(("S1GRD",))).shape == (1, 6, 32)


def test_the_sampler_is_frozen_and_shares_its_embeddings():
    encoder = make_tim()
    assert encoder.has_shared_embeddings
    assert not any(parameter.requires_grad for parameter in encoder.sampler.parameters())
    encoder.train()
    encoder(make_rasters()).pow(2).sum().backward()
    assert encoder.encoder[0].attn.qkv.weight.grad is not None
    unchained = make_tim(chained=False)
    assert not unchained.has_shared_embeddings
    assert unchained.get_parameter(SHARED).requires_grad


def copy_official_state(encoder):
    return {
        key.removeprefix("sampler.model."): value.clone()
        for key, value in encoder.state_dict().items()
        if key.startswith("sampler.model.")
    }


def test_the_official_file_fills_encoder_and_sampler():
    state = copy_official_state(make_tim())
    for chained in (True, False):
        tim = model.tim(MICRO, ["S1GRD", "DEM"], weights=state, chained=chained)
        for prefix in ("", "sampler.model."):
            for key in ("encoder.1.mlp.fc1.weight", SHARED):
                assert torch.equal(tim.state_dict()[prefix + key], state[key])
        assert tim.has_shared_embeddings == chained


def test_a_complete_state_can_be_reloaded_and_missing_keys_are_named():
    state = make_tim().state_dict()
    tim = model.tim(MICRO, ["S1GRD", "DEM"], weights=state)
    assert are_equal(tim.state_dict(), state)
    assert tim.has_shared_embeddings
    state = {key: value for key, value in state.items() if key != "sampler.model.mask_token"}
    with pytest.raises(WeightsError, match=r"sampler\.model\.mask_token"):
        model.tim(MICRO, ["S1GRD", "DEM"], weights=state)


def test_separately_trained_embeddings_are_loaded_separately():
    state = {key: value.clone() for key, value in make_tim().state_dict().items()}
    state[SHARED] += torch.randn(state[SHARED].shape, generator=torch.Generator().manual_seed(1))
    tim = model.tim(MICRO, ["S1GRD", "DEM"], weights=state)
    assert are_equal(tim.state_dict(), state)
    assert not tim.has_shared_embeddings
    key = "encoder_embeddings.tok_lulc@224.mod_emb"
    sampler_model = tim.sampler.model
    tied_embedding = sampler_model.decoder_embeddings["tok_lulc@224"].mod_emb
    assert tied_embedding is sampler_model.get_parameter(key)
    assert tied_embedding is not tim.get_parameter(key)
    inputs = make_rasters()
    expected = sampler_model.logits(
        sampler_model.encode_context(sampler_model.embed_inputs(inputs)), ["tok_lulc@224"], (2, 3)
    )[0].argmax(2)
    assert torch.equal(generate_ids(tim, inputs)["tok_lulc@224"].flatten(1), expected)
    # ^ the sampler embeds the inputs with its own embeddings


def test_a_checkpoint_from_before_chaining_is_loaded():
    state = make_tim(chained=False).state_dict()
    assert "sampler.model.encoder_embeddings.tok_lulc@224.mod_emb" not in state
    tim = model.tim(MICRO, ["S1GRD", "DEM"], chained=False, weights=state)
    assert are_equal(tim.state_dict(), state)


@pytest.mark.parametrize(
    "use",
    [
        lambda: make_tim([{"NEW": 3}]),
        lambda: make_tim(thoughts=["RGB"]),
        lambda: make_tim(thoughts=["LULC", "lulc"]),
        lambda: make_tim().select_bands({"DEM": ["DEM"]}),
        lambda: model.tim({"dim": 32, "heads": 2, "depth": 1}, ["DEM"]),
        lambda: make_tim()({"S1GRD": torch.full((1, 2, 32, 32), float("nan"))}),
        lambda: make_tim()({"S2L2A": torch.zeros(1, 12, 32, 32)}),
        lambda: make_tim(tokenizers={"LULC": TOKENIZER})(make_rasters()),
    ],
)
def test_invalid_uses_are_refused(use):
    with pytest.raises(ModelError):
        use()


# --- backbones that take rasters of token modalities ----------------------------------------------


def build_backbone_with_tokenizers(**options):
    tokenizers = {"LULC": TOKENIZER, "NDVI": TOKENIZER}
    return set_large_weights(
        model.backbone(
            MICRO, ["DEM", "LULC", "NDVI"], tokenizers=tokenizers, merge="dict", **options
        )
    )


def test_rasters_of_token_modalities_are_encoded_by_their_tokenizers():
    encoder, image = build_backbone_with_tokenizers(), make_rasters(("DEM",), batch=2)
    assert {key.split(".")[2] for key in encoder.state_dict() if key.startswith("tokenizer.")} == {
        "encoder",
        "quant_proj",
    }
    classes = torch.randint(10, (2, 32, 48), generator=torch.Generator().manual_seed(1))
    ids = encoder.tokenizer.get_raster_tokenizer("tok_lulc@224").encode(classes)
    without_tokenizers = model.backbone(MICRO, ["DEM", "LULC", "NDVI"], merge="dict")
    model.load_state(
        without_tokenizers,
        {key: value for key, value in encoder.state_dict().items() if key[:3] != "tok"},
    )
    expected = without_tokenizers(image | {"LULC": ids})["LULC"]
    for form in (classes, classes[:, None]):
        assert torch.equal(encoder(image | {"LULC": form})["LULC"], expected)
    ndvi_features = encoder(image | {"NDVI": make_rasters(("DEM",), batch=2, seed=4)["DEM"]})[
        "NDVI"
    ]
    assert ndvi_features.shape == (2, 6, 32)
    for invalid_input in (
        {"LULC": classes + 1},
        {"NDVI": classes},
        {"NDVI": image["DEM"] * float("nan")},
    ):
        with pytest.raises(ModelError):
            encoder(image | invalid_input)


def test_without_a_tokenizer_a_raster_is_refused_with_a_remedy():
    without_tokenizers = model.backbone(MICRO, ["DEM", "NDVI", "Coords"], weights={"random": 1})
    image = make_rasters(("DEM",))
    with pytest.raises(ModelError, match="tokenizers="):
        without_tokenizers(image | {"NDVI": torch.zeros(1, 1, 32, 48)})
    with pytest.raises(ModelError, match="tokenizers="):
        without_tokenizers(image | {"Coords": torch.zeros(1, 2)})


def test_tokenizers_are_loaded_from_the_file_or_passed():
    state = build_backbone_with_tokenizers().state_dict()
    tokenizer_sizes = {"LULC": TOKENIZER, "NDVI": TOKENIZER}
    backbone = model.backbone(
        MICRO, ["DEM", "LULC", "NDVI"], merge="dict", weights=state, tokenizers=tokenizer_sizes
    )
    assert are_equal(backbone.state_dict(), state)
    state_without_tokenizers = {
        key: value for key, value in state.items() if not key.startswith("tokenizer.")
    }
    with pytest.raises(WeightsError, match="no tokenizer of LULC"):
        model.backbone(
            MICRO,
            ["DEM", "LULC", "NDVI"],
            weights=state_without_tokenizers,
            tokenizers=tokenizer_sizes,
        )
    tokenizers = {
        name: build_backbone_with_tokenizers().tokenizer.get_raster_tokenizer(
            f"tok_{name.lower()}@224"
        )
        for name in tokenizer_sizes
    }
    backbone = model.backbone(
        MICRO, ["DEM", "LULC", "NDVI"], weights=state_without_tokenizers, tokenizers=tokenizers
    )
    assert are_equal(backbone.state_dict(), state)
    with pytest.raises(ModelError, match="use for"):
        model.backbone(MICRO, ["DEM"], tokenizers={"LULC": TOKENIZER})


# --- modality drop --------------------------------------------------------------------------------


def build_backbone_with_drop(rate, names=("S2L2A", "S1GRD", "DEM"), **options):
    return model.backbone(
        MICRO, list(names), weights={"random": 1}, modality_drop_rate=rate, **options
    )


def test_modalities_are_dropped_in_training_but_one_raster_stays():
    encoder = build_backbone_with_drop(0.6, ("S2L2A", "S1GRD", "DEM", "Coords")).train()
    inputs = make_rasters(("S2L2A", "S1GRD", "DEM")) | {"Coords": torch.tensor([[7, 8, 3]])}
    torch.manual_seed(0)
    selections = [tuple(encoder.tokenize_inputs(inputs)) for _ in range(300)]
    assert len(set(selections)) > 5
    assert all(set(names) & {"S2L2A", "S1GRD", "DEM"} for names in selections)
    assert all(list(names) == [name for name in inputs if name in names] for names in selections)
    share = sum("Coords" in names for names in selections) / 300
    assert 0.3 < share < 0.5
    assert encoder(inputs).shape == (1, 6, 32)
    assert build_backbone_with_drop(0.6, merge="concat").train()(
        make_rasters(("S2L2A", "DEM"))
    ).shape == (1, 6, 96)


def test_nothing_is_dropped_in_evaluation_or_at_a_rate_of_zero():
    inputs = make_rasters(("S2L2A", "S1GRD", "DEM"))
    without_drop = build_backbone_with_drop(0.0)
    assert torch.equal(build_backbone_with_drop(0.9)(inputs), without_drop(inputs))
    state = torch.get_rng_state()
    assert list(without_drop.train().tokenize_inputs(inputs)) == list(inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_invalid_rates_are_refused(rate):
    with pytest.raises(ModelError, match="drop"):
        build_backbone_with_drop(rate)
