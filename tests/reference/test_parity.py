"""Outputs of our model and of TerraTorch 1.2.13, with the same random weights, in one process."""

from __future__ import annotations

import copy
import gc
from functools import partial

import pytest
import torch

import model
from tests.reference import published
from tests.reference.published import needs_terratorch

pytestmark = [needs_terratorch, pytest.mark.slow]

FULL, HALF = 1e-4, 2e-2
"""Largest error relative to the output's largest value, in single precision and in bf16."""

MARGIN = 1e-4
"""Token ids must be equal where the latent is farther than this from a rounding boundary."""

SIZES = ("tiny", "base")
PAIR = ["S2L2A", "S1GRD"]
MIXED = ["S2L2A", "S1RTC", "DEM"]
TOKENIZERS = ("S2L2A", "S1GRD", "S1RTC", "DEM", "NDVI", "LULC")


@pytest.fixture(autouse=True)
def _inference():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # ^ on a busy machine threads that wait for each other take ten times as long
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)
    gc.collect()
    # ^ the larger ones hold gigabytes


@pytest.fixture(params=SIZES)
def size(request):
    return f"terramind_v1_{request.param}"


def _backbones(size, modalities, merge):
    theirs = published.built(size, modalities=modalities, merge_method=merge)
    return theirs, model.backbone(size, modalities, merge=merge, weights=theirs.state_dict())


@pytest.mark.parametrize("merge", ["mean", "concat"])
def test_every_layer_of_the_backbone(size, merge, near):
    theirs, ours = _backbones(size, PAIR, merge)
    inputs = published.inputs(PAIR, batch=2)
    expected, actual = theirs(dict(inputs)), ours.features(inputs)
    assert len(expected) == len(actual) == ours.depth
    for mine, reference in zip(actual, expected, strict=True):
        near(mine, reference, FULL)


def test_backbone_with_one_modality_missing_and_another_size(size, near):
    theirs, ours = _backbones(size, MIXED, "concat")
    inputs = published.inputs(["DEM", "S2L2A"], batch=1, side=96)
    near(ours(inputs), theirs(dict(inputs))[-1], FULL)


def test_backbone_in_half_precision(size, near):
    theirs, ours = _backbones(size, PAIR, "mean")
    inputs = published.inputs(PAIR, batch=1)
    near(model.optimise_for_inference(ours, "bf16")(inputs), theirs(dict(inputs))[-1], HALF)


def test_thinking_in_modalities(size, near):
    theirs = published.built(f"{size}_tim", modalities=PAIR, tim_temps=0.0)
    ours = model.tim(size, PAIR, weights=theirs.state_dict())
    inputs = published.inputs(PAIR, batch=2, side=96)
    expected, actual = theirs(dict(inputs)), ours.features(inputs)
    for layer in (0, ours.depth // 2, ours.depth - 1):
        near(actual[layer], expected[layer], FULL)


@pytest.fixture(scope="module", params=SIZES)
def generators(request):
    name = f"terramind_v1_{request.param}"
    theirs = published.built(
        f"{name}_generate", modalities=PAIR, output_modalities=["LULC", "DEM"], temps=0.0
    )
    return theirs, model.generator(name, PAIR, ["LULC", "DEM"], weights=theirs.state_dict())


def _logits_seen(theirs, inputs, noise):
    """Return what TerraTorch generates, and its token logits by key, in the order of the grid."""
    by_key, step = {}, theirs.sampler.forward_enc_dec_roar_batched

    def watched(mod_dict, target, *args, **options):
        logits, positions = step(mod_dict, target, *args, **options)
        index = positions[:, :, None].expand_as(logits)
        # ^ it decodes the positions in a random order
        by_key[target] = torch.empty_like(logits).scatter_(1, index, logits)
        return logits, positions

    tokenizer = theirs.tokenizer["tok_dem@224"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs.sampler, "forward_enc_dec_roar_batched", watched)
        patch.setattr(tokenizer, "decode_tokens", partial(tokenizer.decode_tokens, generator=noise))
        generated = theirs(dict(inputs), timesteps=2)
    return generated, by_key


def test_generation(generators, near):
    theirs, ours = generators
    inputs = published.inputs(PAIR, batch=2, side=96)
    generated, logits = _logits_seen(theirs, inputs, torch.Generator().manual_seed(5))
    near(ours.token_logits(inputs, "LULC"), logits["tok_lulc@224"], FULL)
    ids = logits["tok_lulc@224"].argmax(2).unflatten(1, (6, 6))
    chained = ours.token_logits(inputs, "DEM", tokens={"LULC": ids})
    near(chained, logits["tok_dem@224"], FULL)
    noise = {"DEM": published.normal((2, 1, 96, 96), seed=5)}
    actual = ours.generate(inputs, standardize=False, timesteps=2, noise=noise)
    assert list(actual) == list(generated)
    for name, expected in generated.items():
        near(actual[name], expected, FULL)


def test_land_cover_in_half_precision(near, record_property):
    theirs = published.built(
        "terramind_v1_base_generate", modalities=PAIR, output_modalities=["LULC"], temps=0.0
    )
    full = model.generator("terramind_v1_base", PAIR, ["LULC"], weights=theirs.state_dict())
    inputs = published.inputs(PAIR, batch=1)
    logits = full.token_logits(inputs, "LULC")
    ids = logits.argmax(2).unflatten(1, (14, 14))
    decoder = full.tokenizer.get_raster_tokenizer("tok_lulc@224")
    scores = decoder.decode(ids)
    half, decoder = full.to(torch.bfloat16), decoder.to(torch.bfloat16)
    near(half.token_logits(inputs, "LULC"), logits, HALF)
    near(decoder.decode(ids), scores, HALF)
    shorter = decoder.decode(ids).float()
    typical = float((shorter - scores).abs().flatten().kthvalue(int(0.99 * scores.numel())).values)
    # ^ with the largest error in its place, the next lines could not fail
    best = scores.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 2 * typical
    agree = shorter.argmax(1) == scores.argmax(1)
    record_property("lines", [f"same class {float(agree.float().mean()):.4%} of all pixels"])
    assert float(clear.float().mean()) > 0.5
    assert float(agree[clear].float().mean()) >= 0.995


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizers(request):
    name = f"terramind_v1_tokenizer_{request.param.lower()}"
    theirs = published.built(name, module="tokenizer.tokenizer_register")
    return theirs, model.tokenizer(request.param, weights=theirs.state_dict())


def _raster(tokenizer, side):
    if tokenizer.modality == "LULC":
        classes = torch.randint(10, (2, side, side), generator=torch.Generator().manual_seed(0))
        return torch.nn.functional.one_hot(classes, 10).movedim(3, 1).float()
    return published.normal((2, tokenizer.channels, side, side))


def test_tokenizer_encodes(tokenizers, near):
    theirs, ours = tokenizers
    raster = _raster(ours, side=96)
    latents = []
    handle = theirs.quant_proj.register_forward_hook(
        lambda _module, _given, out: latents.append(out)
    )
    _, _, expected = theirs.encode(raster)
    handle.remove()
    near(ours.encode_latents(raster), latents[0], FULL)
    levels = torch.tensor(ours.quantizer.levels).view(1, -1, 1, 1) - 1
    scaled = latents[0].sigmoid() * levels
    sure = ((scaled - scaled.floor() - 0.5).abs() > MARGIN).all(dim=1)
    # ^ elsewhere the last bits decide to which side it is rounded
    assert float(sure.float().mean()) > 0.95
    assert bool((ours.encode(raster) == expected)[sure].all())


def test_tokenizer_decodes(tokenizers, near):
    theirs, ours = tokenizers
    ids = torch.randint(ours.vocab_size, (1, 4, 6), generator=torch.Generator().manual_seed(0))
    if ours.modality == "LULC":
        near(ours.decode(ids), theirs.decode_tokens(ids), FULL)
        return
    noise = published.normal((1, ours.channels, 64, 96), seed=3)
    codes = theirs.tokens_to_embedding(ids)
    clean = theirs.decoder(noise, 400, codes)
    near(ours.denoise(noise, 400, codes), clean, FULL)
    generator = torch.Generator().manual_seed(3)
    whole = theirs.decode_tokens(ids, timesteps=4, generator=generator, verbose=False)
    near(ours.decode(ids, noise=noise, timesteps=4), whole, FULL)


def test_tokenizer_in_half_precision(tokenizers, near):
    _, ours = tokenizers
    half = copy.deepcopy(ours).to(torch.bfloat16)
    raster = _raster(ours, side=96)
    near(half.encode_latents(raster), ours.encode_latents(raster), HALF)
    ids = ours.encode(raster)
    if ours.modality == "LULC":
        near(half.decode(ids), ours.decode(ids), HALF)
        return
    codes, noise = ours.ids_to_codes(ids), published.normal(raster.shape, seed=3)
    near(half.denoise(noise, 400, codes), ours.denoise(noise, 400, codes), HALF)
