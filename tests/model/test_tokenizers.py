"""Tokenizers: configuration, forms of input, refused values, weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import model
from model.errors import ModelError, WeightsError
from model.terramind.tokenizers.config import RASTER_CHANNELS, TokenizerConfig
from model.weights import loading
from tests.support.oracle import one_thread  # noqa: F401

MICRO = {"dim": 32, "depth": 1, "heads": 2, "image_size": 64}
UNET = {"channels": 32, "blocks": 1}
IMAGES = [name for name in RASTER_CHANNELS if name != "LULC"]


def make(modality="DEM", unet=UNET, **options):
    size = MICRO | {"modality": modality} | ({} if modality == "LULC" else {"unet": unet})
    return model.tokenizer(size, **({"weights": {"random": 3}} | options))


def ids_for(tokenizer, batch=1, rows=4, columns=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tokenizer.vocab_size, (batch, rows, columns), generator=generator)


def pixels_for(tokenizer, batch=1, height=32, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokenizer.channels, height, width, generator=generator)


def classes(batch=2, height=32, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, (batch, height, width), generator=generator)


# what is built


@pytest.mark.parametrize("modality", RASTER_CHANNELS)
def test_names_stand_for_the_published_sizes(modality):
    size = TokenizerConfig.parse(f"terramind_v1_tokenizer_{modality.lower()}")
    assert size == TokenizerConfig.parse(modality) == TokenizerConfig.parse({"modality": modality})
    assert (size.dim, size.depth, size.heads, size.image_size) == (768, 12, 12, 256)
    assert size.side_multiple == (16 if modality == "LULC" else 32)
    assert size.quantizer.codebook_size == (4375 if modality == "LULC" else 15360)


def test_a_file_of_options_builds_the_same(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "tokenizer: {modality: dem, dim: 32, depth: 1, heads: 2, image_size: 64,\n"
        "            unet: {channels: 32, blocks: 1}}\n"
    )
    size = TokenizerConfig.parse(path)
    assert size == TokenizerConfig.parse(MICRO | {"modality": "DEM", "unet": UNET})
    assert size.unet.multipliers == (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("source", "says"),
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
def test_what_is_no_tokenizer_is_refused(source, says):
    with pytest.raises(ModelError, match=says):
        model.tokenizer(source)


@pytest.mark.parametrize("modality", RASTER_CHANNELS)
def test_random_weights_give_finite_results(modality):
    tokenizer = make(modality)
    x = classes() if modality == "LULC" else pixels_for(tokenizer, 2, 32, 64)
    ids = tokenizer.encode(x)
    assert ids.dtype == torch.int64
    assert ids.unique().numel() > 1
    image = tokenizer.decode(ids, timesteps=2)
    assert image.shape == (2, tokenizer.channels, 16 * ids.shape[1], 16 * ids.shape[2])
    assert bool(image.isfinite().all())
    assert 1e-3 < float(image.std()) < 100
    again = make(modality)
    assert torch.equal(again.encode(x), ids)
    assert torch.equal(again.decode(ids, timesteps=2), image)


def test_the_first_level_of_the_unet_has_its_own_width():
    tokenizer = make(unet=UNET | {"multipliers": [2, 1]})
    state = tokenizer.state_dict()
    assert state["decoder.input_blocks.0.0.weight"].shape[0] == 64
    assert "decoder.input_blocks.1.0.skip_connection.weight" not in state
    assert state["decoder.out.2.weight"].shape[1] == 64
    assert bool(tokenizer.decode(ids_for(tokenizer), timesteps=1).isfinite().all())


# halves


@pytest.mark.parametrize("modality", ["LULC", "DEM"])
def test_a_half_does_what_the_whole_does(modality):
    whole = make(modality)
    encoder = make(modality, weights=whole.state_dict(), part="encoder")
    decoder = make(modality, weights=whole.state_dict(), part="decoder")
    x = classes(1, 32, 32) if modality == "LULC" else pixels_for(whole)
    ids = encoder.encode(x)
    assert torch.equal(ids, whole.encode(x))
    assert torch.equal(decoder.decode(ids, timesteps=1), whole.decode(ids, timesteps=1))
    count = [sum(p.numel() for p in part.parameters()) for part in (encoder, decoder, whole)]
    assert count[0] + count[1] == count[2]
    with pytest.raises(ModelError, match="part='encoder'"):
        encoder.decode(ids)
    with pytest.raises(ModelError, match="part='decoder'"):
        decoder.encode(x)


def test_an_unknown_part_is_refused():
    with pytest.raises(ModelError, match="encoder, decoder"):
        make(part="head")


@pytest.mark.parametrize(("part", "key"), [("encoder", "encoder.head"), ("decoder", "out.0.scale")])
def test_loading_stays_strict_within_a_half(part, key):
    state = make().state_dict()
    with pytest.raises(WeightsError, match=key):
        make(weights=state | {key: torch.zeros(1)}, part=part)
    lacking = {k: v for k, v in state.items() if not k.endswith("fc1.bias") and "out.2" not in k}
    with pytest.raises(WeightsError, match="missing"):
        make(weights=lacking, part=part)
    with pytest.raises(WeightsError, match="decoder"):
        make("LULC", weights=state)


def test_position_tables_may_be_absent_and_a_checkpoints_own_win():
    whole = make("LULC")
    state = whole.state_dict()
    tables = [key for key in state if key.endswith("pos_emb")]
    assert len(tables) == 2
    plain = make("LULC", weights={k: v for k, v in state.items() if k not in tables})
    moved = make("LULC", weights=state | {key: state[key] + 1 for key in tables})
    x = classes()
    assert torch.equal(plain.encode_latents(x), whole.encode_latents(x))
    assert not torch.allclose(moved.encode_latents(x), whole.encode_latents(x))


def test_official_weights_are_asked_for_by_the_modalitys_name(monkeypatch):
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


# rasters in


def test_forms_of_a_class_raster_give_the_same_ids():
    tokenizer = make("LULC")
    x = classes()
    forms = [x, x[:, None], x.byte(), x.float(), x[:, None].double()]
    forms.append(F.one_hot(x, 10).permute(0, 3, 1, 2))
    forms.append(forms[-1].float())
    ids = [tokenizer.encode(form) for form in forms]
    assert ids[0].shape == (2, 2, 3)
    assert all(torch.equal(repeated, ids[0]) for repeated in ids[1:])


@pytest.mark.parametrize(
    ("x", "says"),
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
def test_what_is_no_class_raster_is_refused(x, says):
    with pytest.raises(ModelError, match=says):
        make("LULC", part="encoder").encode(x)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(1, 3, 32, 32), r"\(B, 2, H, W\)"),
        (torch.zeros(2, 32, 32), r"\(B, 2, H, W\)"),
        (torch.zeros(1, 2, 32, 40), "multiples of 16"),
        (torch.zeros(1, 2, 32, 32, dtype=torch.int16), "standardised"),
        (torch.full((1, 2, 32, 32), float("nan")), "NaN"),
        (torch.full((1, 2, 32, 32), float("inf")), "NaN"),
    ],
)
def test_what_is_no_standardised_raster_is_refused(x, says):
    with pytest.raises(ModelError, match=says):
        make("S1GRD", part="encoder").encode(x)


def test_the_encoder_takes_multiples_of_16_that_the_decoder_does_not():
    tokenizer = make("NDVI")
    ids = tokenizer.encode(pixels_for(tokenizer, height=80, width=112))
    assert ids.shape == (1, 5, 7)
    with pytest.raises(ModelError, match=r"multiples of 32 px, not to \(80, 112\).*2 tokens"):
        tokenizer.decode(ids)
    assert make("LULC").decode(ids % 4375).shape == (1, 10, 80, 112)


# ids


@pytest.mark.parametrize("modality", ["LULC", "S2L2A"])
def test_every_id_survives_its_code(modality):
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
    half = latents.bfloat16()
    ids = quantizer.latents_to_ids(half)
    assert torch.equal(ids, quantizer.latents_to_ids(half.float()))
    assert int(ids.max()) > 256
    # ^ bfloat16 holds no whole numbers above: there, most of these ids would be others
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.latents_to_ids(half), ids)


def test_half_way_latents_go_to_the_even_level():
    quantizer = TokenizerConfig(modality="DEM").quantizer
    bounded = torch.tensor([0.5 / 7, 1.5 / 7, 2.5 / 7]).double()
    exact = bounded.logit().float().sigmoid() * 7
    latents = bounded.logit().float().view(1, 1, 1, 3).repeat(1, 5, 1, 1)
    assert torch.equal(quantizer.level_indices(latents)[0, 0, 0], exact.round().long())


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (torch.tensor([[[15360]]]), "0..15359"),
        (torch.tensor([[[-1]]]), "0..15359"),
        (torch.zeros(1, 2, 2), "whole numbers"),
        (torch.zeros(1, 4, dtype=torch.long), "rows, columns"),
    ],
)
def test_what_is_no_id_is_refused(ids, says):
    with pytest.raises(ModelError, match=says):
        make(part="decoder").decode(ids)


def test_latents_of_another_width_are_refused():
    with pytest.raises(ModelError, match=r"\(B, 5, h, w\)"):
        make(part="encoder").quantize(torch.zeros(1, 4, 2, 2))


def test_raw_pixels_are_not_encoded():
    reads = make("S2L2A", part="encoder")
    with pytest.raises(ModelError, match="mean is 900"):
        reads.encode(torch.full((1, 12, 32, 32), 900.0))
    assert make("NDVI", part="encoder").encode(torch.full((1, 1, 32, 32), 60.0)).shape == (1, 2, 2)


@pytest.mark.parametrize("wrong", [None, [[1.0]], torch.zeros(1, 1, 32, 32).numpy()])
def test_tokenizers_take_tensors(wrong):
    whole = make("DEM")
    for call in (whole.encode, whole.encode_latents, whole.decode):
        with pytest.raises(ModelError, match="a torch tensor expected"):
            call(wrong)
    if wrong is not None:
        with pytest.raises(ModelError, match="a torch tensor expected"):
            whole.decode(ids_for(whole), noise=wrong)


def test_noise_must_be_finite():
    writes = make("DEM", part="decoder")
    noise = torch.zeros(1, 1, 64, 64)
    noise[0, 0, 5, 5] = float("nan")
    with pytest.raises(ModelError, match="noise holds NaN"):
        writes.decode(ids_for(writes), noise=noise)


@pytest.mark.parametrize("seed", ["a", 1.5, None, [1.5]])
def test_a_seed_is_a_whole_number(seed):
    writes = make("DEM", part="decoder")
    with pytest.raises(ModelError, match="seed="):
        writes.decode(ids_for(writes), seed=seed)
