"""Thinking in Modalities, rasters of token modalities, and modality drop."""

from __future__ import annotations

import pytest
import torch

import model
from model.errors import ModelError, WeightsError
from model.terramind.generation.sampling_strategy import SamplingStrategy
from tests.support import small_generators
from tests.support.oracle import one_thread  # noqa: F401
from tests.support.small_generators import lively, same

MICRO = {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 1}
TOKENIZER = {"dim": 32, "depth": 1, "heads": 2}
SHARED = "encoder_embeddings.untok_dem@224.proj.weight"


def make(names=("S1GRD", "DEM"), thoughts=("LULC",), **options):
    return lively(model.tim(MICRO, list(names), list(thoughts), **options))


def rasters(names=("S1GRD", "DEM"), height=32, width=48, **options):
    return small_generators.rasters(names, height, width, **options)


def ids_of(encoder, inputs):
    values = encoder.tokenize_inputs(inputs)
    seeds = [0] * len(next(iter(inputs.values())))
    return encoder.generate_missing(values, encoder.embed(values), seeds)


def test_it_is_called_as_a_backbone_is():
    encoder, inputs = make(), rasters(batch=2)
    out = encoder(inputs)
    assert out.shape == (2, 6, 32)
    layers = encoder.features(inputs, [0, -1])
    assert torch.equal(layers[1], out)
    assert encoder.out_dim == 32
    assert make(merge="concat").out_dim == 3 * 32


def test_twice_the_same_also_in_evaluation_and_in_any_batch():
    encoder, inputs = make(), rasters(batch=3)
    first = encoder(inputs)
    assert torch.equal(encoder(inputs), first)
    alone = encoder({n: v[1:2] for n, v in inputs.items()})
    torch.testing.assert_close(alone, first[1:2], atol=1e-4, rtol=1e-4)


def test_it_thinks_what_a_generator_would_make_and_merges_it_last():
    encoder, inputs = make(), rasters()
    thought = ids_of(encoder, inputs)
    assert list(thought) == ["tok_lulc@224"]
    sampler = encoder.sampler.model
    context = sampler.encode_context(sampler.embed_inputs(encoder.tokenize_inputs(inputs)))
    expected = sampler.logits(context, ["tok_lulc@224"], (2, 3))[0].argmax(2)
    assert torch.equal(thought["tok_lulc@224"], expected.view(1, 2, 3))
    complete = inputs | {"LULC": thought["tok_lulc@224"]}
    plain = model.backbone(MICRO, ["S1GRD", "DEM", "LULC"], weights=None, merge="concat")
    own = {k: v for k, v in encoder.state_dict().items() if not k.startswith("sampler.")}
    model.load_state(plain, own)
    concat = make(merge="concat")
    model.load_state(concat, encoder.state_dict())
    torch.testing.assert_close(concat(inputs), plain(complete), atol=1e-5, rtol=1e-5)
    mean = torch.stack(concat(inputs).split(32, dim=2)).mean(0)
    torch.testing.assert_close(encoder(inputs), mean, atol=1e-5, rtol=1e-5)


def test_what_is_given_is_not_imagined():
    encoder, inputs = make(), rasters()
    ids = torch.full((1, 2, 3), 17)
    ran = []
    encoder.sampler.model.encoder[0].register_forward_pre_hook(lambda *_: ran.append(1))
    with_ids = encoder(inputs | {"LULC": ids})
    assert not ran
    assert not torch.equal(with_ids, encoder(inputs))
    assert ran == [1]


def test_inputs_are_not_modified_and_dict_leaves_thoughts_out():
    inputs = rasters()
    before = dict(inputs)
    parts = make(merge="dict")(inputs)
    assert set(parts) == {"S1GRD", "DEM"}
    assert same(inputs, before)
    complete = inputs | {"LULC": torch.zeros(1, 2, 3, dtype=torch.long)}
    assert len(make(merge="dict")(complete)) == 3
    assert make(merge=None)(inputs).shape == (1, 18, 32)


def test_inputs_may_be_absent_and_sizes_are_free():
    encoder = make()
    out = encoder({"DEM": rasters(height=16, width=80)["DEM"]})
    assert out.shape == (1, 5, 32)


def test_thoughts_follow_each_other():
    encoder, inputs = make(thoughts=("LULC", "NDVI")), rasters()
    free = make(thoughts=("LULC", "NDVI"), chained=False)
    assert list(ids_of(encoder, inputs)) == ["tok_lulc@224", "tok_ndvi@224"]
    keys = encoder.sampler.model.encoder_embeddings
    assert {"tok_lulc@224", "tok_ndvi@224"} <= set(keys)
    assert not {"tok_lulc@224", "tok_ndvi@224"} & set(free.sampler.model.encoder_embeddings)
    assert free(inputs).shape == encoder(inputs).shape


def test_drawn_thoughts_depend_on_the_seed():
    encoder = make(strategy=SamplingStrategy(sampling="sample"))
    inputs = {n: v[[0, 0]] for n, v in rasters(batch=1).items()}
    drawn = encoder(inputs, seed=[1, 2])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn, encoder(inputs, seed=[1, 2]))
    state = torch.get_rng_state()
    encoder(inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_pixels_can_be_given_and_tokens_of_the_same_sensor_imagined():
    encoder = make(("S1GRD",), ("S1GRD",))
    assert list(encoder.modality_keys.values()) == ["untok_sen1grd@224", "tok_sen1grd@224"]
    assert encoder(rasters(("S1GRD",))).shape == (1, 6, 32)


def test_the_sampler_is_frozen_and_shares_its_embeddings():
    encoder = make()
    assert encoder.has_shared_embeddings
    assert not any(p.requires_grad for p in encoder.sampler.parameters())
    encoder.train()
    encoder(rasters()).pow(2).sum().backward()
    assert encoder.encoder[0].attn.qkv.weight.grad is not None
    free = make(chained=False)
    assert not free.has_shared_embeddings
    assert free.get_parameter(SHARED).requires_grad


def plain_file(encoder):
    return {
        k.removeprefix("sampler.model."): v.clone()
        for k, v in encoder.state_dict().items()
        if k.startswith("sampler.model.")
    }


def test_the_plain_official_file_fills_encoder_and_sampler():
    state = plain_file(make())
    for chained in (True, False):
        built = model.tim(MICRO, ["S1GRD", "DEM"], weights=state, chained=chained)
        for prefix in ("", "sampler.model."):
            for key in ("encoder.1.mlp.fc1.weight", SHARED):
                assert torch.equal(built.state_dict()[prefix + key], state[key])
        assert built.has_shared_embeddings == chained


def test_a_whole_state_goes_round_and_lacking_keys_are_named():
    state = make().state_dict()
    built = model.tim(MICRO, ["S1GRD", "DEM"], weights=state)
    assert same(built.state_dict(), state)
    assert built.has_shared_embeddings
    state = {k: v for k, v in state.items() if k != "sampler.model.mask_token"}
    with pytest.raises(WeightsError, match=r"sampler\.model\.mask_token"):
        model.tim(MICRO, ["S1GRD", "DEM"], weights=state)


def test_embeddings_that_were_trained_apart_are_loaded_apart():
    state = {k: v.clone() for k, v in make().state_dict().items()}
    state[SHARED] += torch.randn(state[SHARED].shape, generator=torch.Generator().manual_seed(1))
    built = model.tim(MICRO, ["S1GRD", "DEM"], weights=state)
    assert same(built.state_dict(), state)
    assert not built.has_shared_embeddings
    lulc = "encoder_embeddings.tok_lulc@224.mod_emb"
    model_ = built.sampler.model
    twin = model_.decoder_embeddings["tok_lulc@224"].mod_emb
    assert twin is model_.get_parameter(lulc)
    assert twin is not built.get_parameter(lulc)
    inputs = rasters()
    expected = model_.logits(
        model_.encode_context(model_.embed_inputs(inputs)), ["tok_lulc@224"], (2, 3)
    )[0].argmax(2)
    assert torch.equal(ids_of(built, inputs)["tok_lulc@224"].flatten(1), expected)
    # ^ the sampler sees the inputs through its own embeddings


def test_a_checkpoint_from_before_chaining_loads():
    old = make(chained=False).state_dict()
    assert "sampler.model.encoder_embeddings.tok_lulc@224.mod_emb" not in old
    built = model.tim(MICRO, ["S1GRD", "DEM"], chained=False, weights=old)
    assert same(built.state_dict(), old)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: make([{"NEW": 3}]),
        lambda: make(thoughts=["RGB"]),
        lambda: make(thoughts=["LULC", "lulc"]),
        lambda: make().select_bands({"DEM": ["DEM"]}),
        lambda: model.tim({"dim": 32, "heads": 2, "depth": 1}, ["DEM"]),
        lambda: make()({"S1GRD": torch.full((1, 2, 32, 32), float("nan"))}),
        lambda: make()({"S2L2A": torch.zeros(1, 12, 32, 32)}),
        lambda: make(tokenizers={"LULC": TOKENIZER})(rasters()),
    ],
)
def test_what_it_cannot_do_is_refused(wrong):
    with pytest.raises(ModelError):
        wrong()


# --- backbones that take rasters of token modalities ----------------------------------------------


def reads(**options):
    tokenizers = {"LULC": TOKENIZER, "NDVI": TOKENIZER}
    return lively(
        model.backbone(
            MICRO, ["DEM", "LULC", "NDVI"], tokenizers=tokenizers, merge="dict", **options
        )
    )


def test_rasters_of_token_modalities_go_through_their_tokenizers():
    encoder, image = reads(), rasters(("DEM",), batch=2)
    assert {k.split(".")[2] for k in encoder.state_dict() if k.startswith("tokenizer.")} == {
        "encoder",
        "quant_proj",
    }
    classes = torch.randint(10, (2, 32, 48), generator=torch.Generator().manual_seed(1))
    ids = encoder.tokenizer.get_raster_tokenizer("tok_lulc@224").encode(classes)
    bare = model.backbone(MICRO, ["DEM", "LULC", "NDVI"], merge="dict")
    model.load_state(bare, {k: v for k, v in encoder.state_dict().items() if k[:3] != "tok"})
    expected = bare(image | {"LULC": ids})["LULC"]
    for form in (classes, classes[:, None]):
        assert torch.equal(encoder(image | {"LULC": form})["LULC"], expected)
    ndvi = encoder(image | {"NDVI": rasters(("DEM",), batch=2, seed=4)["DEM"]})["NDVI"]
    assert ndvi.shape == (2, 6, 32)
    for wrong in ({"LULC": classes + 1}, {"NDVI": classes}, {"NDVI": image["DEM"] * float("nan")}):
        with pytest.raises(ModelError):
            encoder(image | wrong)


def test_without_a_tokenizer_a_raster_is_refused_with_the_way_out():
    bare = model.backbone(MICRO, ["DEM", "NDVI", "Coords"], weights={"random": 1})
    image = rasters(("DEM",))
    with pytest.raises(ModelError, match="tokenizers="):
        bare(image | {"NDVI": torch.zeros(1, 1, 32, 48)})
    with pytest.raises(ModelError, match="tokenizers="):
        bare(image | {"Coords": torch.zeros(1, 2)})


def test_tokenizers_come_from_the_file_or_from_their_own():
    state = reads().state_dict()
    sized = {"LULC": TOKENIZER, "NDVI": TOKENIZER}
    built = model.backbone(
        MICRO, ["DEM", "LULC", "NDVI"], merge="dict", weights=state, tokenizers=sized
    )
    assert same(built.state_dict(), state)
    family = {k: v for k, v in state.items() if not k.startswith("tokenizer.")}
    with pytest.raises(WeightsError, match="no tokenizer of LULC"):
        model.backbone(MICRO, ["DEM", "LULC", "NDVI"], weights=family, tokenizers=sized)
    own = {n: reads().tokenizer.get_raster_tokenizer(f"tok_{n.lower()}@224") for n in sized}
    built = model.backbone(MICRO, ["DEM", "LULC", "NDVI"], weights=family, tokenizers=own)
    assert same(built.state_dict(), state)
    with pytest.raises(ModelError, match="use for"):
        model.backbone(MICRO, ["DEM"], tokenizers={"LULC": TOKENIZER})


# --- modality drop --------------------------------------------------------------------------------


def drops(rate, names=("S2L2A", "S1GRD", "DEM"), **options):
    return model.backbone(
        MICRO, list(names), weights={"random": 1}, modality_drop_rate=rate, **options
    )


def test_whole_modalities_drop_in_training_and_one_image_stays():
    encoder = drops(0.6, ("S2L2A", "S1GRD", "DEM", "Coords")).train()
    inputs = rasters(("S2L2A", "S1GRD", "DEM")) | {"Coords": torch.tensor([[7, 8, 3]])}
    torch.manual_seed(0)
    drawn = [tuple(encoder.tokenize_inputs(inputs)) for _ in range(300)]
    assert len(set(drawn)) > 5
    assert all(set(names) & {"S2L2A", "S1GRD", "DEM"} for names in drawn)
    assert all(list(names) == [n for n in inputs if n in names] for names in drawn)
    share = sum("Coords" in names for names in drawn) / 300
    assert 0.3 < share < 0.5
    assert encoder(inputs).shape == (1, 6, 32)
    assert drops(0.6, merge="concat").train()(rasters(("S2L2A", "DEM"))).shape == (1, 6, 96)


def test_nothing_drops_in_evaluation_or_without_a_rate():
    inputs = rasters(("S2L2A", "S1GRD", "DEM"))
    plain = drops(0.0)
    assert torch.equal(drops(0.9)(inputs), plain(inputs))
    state = torch.get_rng_state()
    assert list(plain.train().tokenize_inputs(inputs)) == list(inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_are_shares(rate):
    with pytest.raises(ModelError, match="drop"):
        drops(rate)
