"""Tokenizers: configuration, forms of input, invalid values, and weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import model
from model.errors import ModelError, WeightsError
from model.terramind.tokenizers.config import RASTER_CHANNELS, TokenizerConfig
from model.weights import loading
from tests.support.oracle import one_thread  # noqa: F401
from tests.support.small_tokenizers import (
    MICRO,
    UNET,
    make_class_raster,
    make_ids,
    make_pixels,
    make_tokenizer,
)

IMAGES = [name for name in RASTER_CHANNELS if name != "LULC"]


# configuration


@pytest.mark.parametrize("modality", RASTER_CHANNELS)
def test_names_are_mapped_to_the_published_sizes(modality):
    size = TokenizerConfig.parse(f"terramind_v1_tokenizer_{modality.lower()}")
    assert size == TokenizerConfig.parse(modality) == TokenizerConfig.parse({"modality": modality})
    assert (size.dim, size.depth, size.heads, size.image_size) == (768, 12, 12, 256)
    assert size.side_multiple == (16 if modality == "LULC" else 32)
    assert size.quantizer.codebook_size == (4375 if modality == "LULC" else 15360)


def test_a_file_of_options_is_read_like_a_mapping(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "tokenizer: {modality: dem, dim: 32, depth: 1, heads: 2, image_size: 64,\n"
        "            unet: {channels: 32, blocks: 1}}\n"
    )
    size = TokenizerConfig.parse(path)
    assert size == TokenizerConfig.parse(MICRO | {"modality": "DEM", "unet": UNET})
    assert size.unet.multipliers == (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("S2L1C", "no tokenizer for 'S2L1C'"),
        ("RGB", "S2L2A"),
        ("S2", "S2L2A"),
        ("coords", "coords_tokenizer"),
        ({"dim": 32}, "modality"),
        ({"modality": "DEM", "hats": 2}, "hats"),
        ({"modality": "DEM", "unet": {"hats": 2}}, "hats"),
        ({"modality": "DEM", "unet": 3}, "unet must be"),
        ({"modality": "DEM", "dim": 30, "heads": 4}, "multiple of heads"),
        ({"modality": "DEM", "image_size": 100}, "multiple of 16"),
        ({"modality": "DEM", "unet": {"channels": 48}}, "multiple of 32"),
        ({"modality": "DEM", "unet": {"patch": 5}}, "divide 16"),
        ({"modality": "DEM", "unet": {"multipliers": [1, 0]}}, "positive"),
        ({"modality": "DEM", "depth": 0}, "depth"),
    ],
)
def test_invalid_tokenizers_are_refused(source, message):
    with pytest.raises(ModelError, match=message):
        model.tokenizer(source)


@pytest.mark.parametrize("modality", RASTER_CHANNELS)
def test_random_weights_give_finite_results(modality):
    tokenizer = make_tokenizer(modality)
    x = make_class_raster() if modality == "LULC" else make_pixels(tokenizer, 2, 32, 64)
    ids = tokenizer.encode(x)
    assert ids.dtype == torch.int64
    assert ids.unique().numel() > 1
    image = tokenizer.decode(ids, timesteps=2)
    assert image.shape == (2, tokenizer.channels, 16 * ids.shape[1], 16 * ids.shape[2])
    assert bool(image.isfinite().all())
    assert 1e-3 < float(image.std()) < 100
    second_tokenizer = make_tokenizer(modality)
    assert torch.equal(second_tokenizer.encode(x), ids)
    assert torch.equal(second_tokenizer.decode(ids, timesteps=2), image)


def test_the_first_level_of_the_unet_has_its_own_width():
    tokenizer = make_tokenizer(unet=UNET | {"multipliers": [2, 1]})
    state = tokenizer.state_dict()
    assert state["decoder.input_blocks.0.0.weight"].shape[0] == 64
    assert "decoder.input_blocks.1.0.skip_connection.weight" not in state
    assert state["decoder.out.2.weight"].shape[1] == 64
    assert bool(tokenizer.decode(make_ids(tokenizer), timesteps=1).isfinite().all())


# halves of a tokenizer


@pytest.mark.parametrize("modality", ["LULC", "DEM"])
def test_a_half_gives_the_results_of_the_whole_tokenizer(modality):
    tokenizer = make_tokenizer(modality)
    encoder = make_tokenizer(modality, weights=tokenizer.state_dict(), part="encoder")
    decoder = make_tokenizer(modality, weights=tokenizer.state_dict(), part="decoder")
    x = make_class_raster(1, 32, 32) if modality == "LULC" else make_pixels(tokenizer)
    ids = encoder.encode(x)
    assert torch.equal(ids, tokenizer.encode(x))
    assert torch.equal(decoder.decode(ids, timesteps=1), tokenizer.decode(ids, timesteps=1))
    count = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in (encoder, decoder, tokenizer)
    ]
    assert count[0] + count[1] == count[2]
    with pytest.raises(ModelError, match="part='encoder'"):
        encoder.decode(ids)
    with pytest.raises(ModelError, match="part='decoder'"):
        decoder.encode(x)


def test_an_unknown_part_is_refused():
    with pytest.raises(ModelError, match="encoder, decoder"):
        make_tokenizer(part="head")


@pytest.mark.parametrize(("part", "key"), [("encoder", "encoder.head"), ("decoder", "out.0.scale")])
def test_loading_is_strict_within_a_half(part, key):
    state = make_tokenizer().state_dict()
    with pytest.raises(WeightsError, match=key):
        make_tokenizer(weights=state | {key: torch.zeros(1)}, part=part)
    incomplete = {
        key: value
        for key, value in state.items()
        if not key.endswith("fc1.bias") and "out.2" not in key
    }
    with pytest.raises(WeightsError, match="missing"):
        make_tokenizer(weights=incomplete, part=part)
    with pytest.raises(WeightsError, match="decoder"):
        make_tokenizer("LULC", weights=state)


def test_position_tables_may_be_absent_and_those_of_a_checkpoint_take_precedence():
    tokenizer = make_tokenizer("LULC")
    state = tokenizer.state_dict()
    tables = [key for key in state if key.endswith("pos_emb")]
    assert len(tables) == 2
    without_tables = make_tokenizer(
        "LULC", weights={key: value for key, value in state.items() if key not in tables}
    )
    with_changed_tables = make_tokenizer(
        "LULC", weights=state | {key: state[key] + 1 for key in tables}
    )
    x = make_class_raster()
    assert torch.equal(without_tables.encode_latents(x), tokenizer.encode_latents(x))
    assert not torch.allclose(with_changed_tables.encode_latents(x), tokenizer.encode_latents(x))


def test_official_weights_are_requested_by_the_name_of_the_modality(monkeypatch):
    requests = []

    def fetch_path(name, revision=None):
        requests.append((name, revision))
        raise WeightsError("no network")

    monkeypatch.setattr(loading, "fetch_path", fetch_path)
    for source in ({**MICRO, "modality": "S1RTC", "unet": UNET}, {**MICRO, "modality": "LULC"}):
        with pytest.raises(WeightsError, match="no network"):
            model.tokenizer(source, weights="hub", revision="abc")
    assert requests == [
        ("terramind_v1_tokenizer_s1rtc", "abc"),
        ("terramind_v1_tokenizer_lulc", "abc"),
    ]


# input rasters


def test_forms_of_a_class_raster_give_the_same_ids():
    tokenizer = make_tokenizer("LULC")
    x = make_class_raster()
    forms = [x, x[:, None], x.byte(), x.float(), x[:, None].double()]
    forms.append(F.one_hot(x, 10).permute(0, 3, 1, 2))
    forms.append(forms[-1].float())
    ids = [tokenizer.encode(form) for form in forms]
    assert ids[0].shape == (2, 2, 3)
    assert all(torch.equal(repeated, ids[0]) for repeated in ids[1:])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((1, 16, 16), 10), "0..9"),
        (torch.full((1, 16, 16), -1), "0..9"),
        (torch.full((1, 16, 16), 2.5), "nearest"),
        (torch.full((1, 16, 16), float("nan")), "nearest"),
        (torch.zeros(1, 9, 16, 16), "B, H, W"),
        (torch.zeros(16, 16), "B, H, W"),
        (torch.zeros(1, 16, 24, dtype=torch.long), "multiples of 16"),
        (torch.zeros(1, 0, 16, dtype=torch.long), "multiples of 16"),
    ],
)
def test_invalid_class_rasters_are_refused(x, message):
    with pytest.raises(ModelError, match=message):
        make_tokenizer("LULC", part="encoder").encode(x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 32, 32), r"\(B, 2, H, W\)"),
        (torch.zeros(2, 32, 32), r"\(B, 2, H, W\)"),
        (torch.zeros(1, 2, 32, 40), "multiples of 16"),
        (torch.zeros(1, 2, 32, 32, dtype=torch.int16), "standardised"),
        (torch.full((1, 2, 32, 32), float("nan")), "NaN"),
        (torch.full((1, 2, 32, 32), float("inf")), "NaN"),
    ],
)
def test_invalid_rasters_are_refused(x, message):
    with pytest.raises(ModelError, match=message):
        make_tokenizer("S1GRD", part="encoder").encode(x)


def test_the_encoder_accepts_multiples_of_16_that_the_decoder_refuses():
    tokenizer = make_tokenizer("NDVI")
    ids = tokenizer.encode(make_pixels(tokenizer, height=80, width=112))
    assert ids.shape == (1, 5, 7)
    with pytest.raises(ModelError, match=r"multiples of 32 px, not to \(80, 112\).*2 tokens"):
        tokenizer.decode(ids)
    assert make_tokenizer("LULC").decode(ids % 4375).shape == (1, 10, 80, 112)


# ids


@pytest.mark.parametrize("modality", ["LULC", "S2L2A"])
def test_ids_are_restored_from_their_codes(modality):
    with torch.device("meta"):
        size = model.tokenizer(modality, part="encoder").config
    quantizer = size.quantizer
    ids = torch.arange(quantizer.codebook_size).view(1, 1, -1)
    codes = quantizer.ids_to_codes(ids)
    assert codes.dtype == torch.float32
    assert (float(codes.min()), float(codes.max())) == (0.0, 1.0)
    assert codes[0, :, 0].T.unique(dim=0).shape[0] == quantizer.codebook_size
    assert torch.equal(quantizer.latents_to_ids(codes.logit(eps=1e-6)), ids)


@pytest.mark.parametrize("modality", ["LULC", "S2L2A"])
def test_ids_of_half_precision_latents_are_computed_in_single_precision(modality):
    with torch.device("meta"):
        quantizer = model.tokenizer(modality, part="encoder").config.quantizer
    latents = 2 * torch.randn(1, 5, 40, 40, generator=torch.Generator().manual_seed(1))
    half_latents = latents.bfloat16()
    ids = quantizer.latents_to_ids(half_latents)
    assert torch.equal(ids, quantizer.latents_to_ids(half_latents.float()))
    assert int(ids.max()) > 256
    # ^ bfloat16 cannot represent larger integers exactly, so that most ids would differ
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.latents_to_ids(half_latents), ids)


def test_halfway_latents_are_rounded_to_the_even_level():
    quantizer = TokenizerConfig(modality="DEM").quantizer
    bounded = torch.tensor([0.5 / 7, 1.5 / 7, 2.5 / 7]).double()
    exact = bounded.logit().float().sigmoid() * 7
    latents = bounded.logit().float().view(1, 1, 1, 3).repeat(1, 5, 1, 1)
    assert torch.equal(quantizer.level_indices(latents)[0, 0, 0], exact.round().long())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[[15360]]]), "0..15359"),
        (torch.tensor([[[-1]]]), "0..15359"),
        (torch.zeros(1, 2, 2), "whole numbers"),
        (torch.zeros(1, 4, dtype=torch.long), "rows, columns"),
    ],
)
def test_invalid_ids_are_refused(ids, message):
    with pytest.raises(ModelError, match=message):
        make_tokenizer(part="decoder").decode(ids)


def test_latents_of_another_width_are_refused():
    with pytest.raises(ModelError, match=r"\(B, 5, h, w\)"):
        make_tokenizer(part="encoder").quantize(torch.zeros(1, 4, 2, 2))


def test_raw_pixels_are_not_encoded():
    encoder = make_tokenizer("S2L2A", part="encoder")
    with pytest.raises(ModelError, match="mean is 900"):
        encoder.encode(torch.full((1, 12, 32, 32), 900.0))
    assert make_tokenizer("NDVI", part="encoder").encode(
        torch.full((1, 1, 32, 32), 60.0)
    ).shape == (1, 2, 2)


@pytest.mark.parametrize("value", [None, [[1.0]], torch.zeros(1, 1, 32, 32).numpy()])
def test_tokenizers_refuse_values_that_are_not_tensors(value):
    tokenizer = make_tokenizer("DEM")
    for call in (tokenizer.encode, tokenizer.encode_latents, tokenizer.decode):
        with pytest.raises(ModelError, match="a torch tensor expected"):
            call(value)
    if value is not None:
        with pytest.raises(ModelError, match="a torch tensor expected"):
            tokenizer.decode(make_ids(tokenizer), noise=value)


def test_noise_must_be_finite():
    decoder = make_tokenizer("DEM", part="decoder")
    noise = torch.zeros(1, 1, 64, 64)
    noise[0, 0, 5, 5] = float("nan")
    with pytest.raises(ModelError, match="noise holds NaN"):
        decoder.decode(make_ids(decoder), noise=noise)


@pytest.mark.parametrize("seed", ["a", 1.5, None, [1.5]])
def test_a_seed_must_be_an_integer(seed):
    decoder = make_tokenizer("DEM", part="decoder")
    with pytest.raises(ModelError, match="seed="):
        decoder.decode(make_ids(decoder), seed=seed)
