"""Diffusion decoding: schedule, noise, sizes, precision and faster convolutions."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from model.errors import ModelError
from model.terramind import modalities
from model.terramind.tokenizers import ddim, winograd
from tests.model.test_tokenizers import classes, ids_for, make, pixels_for
from tests.support.oracle import one_thread  # noqa: F401

# the schedule


def test_every_count_of_steps_goes_all_the_way_down():
    for count in range(1, 1001):
        steps = ddim.timesteps(count)
        stride = 1000 // count
        assert steps[0] == 999
        assert 0 <= steps[-1] < stride
        assert all(a - b == stride for a, b in itertools.pairwise(steps))
        assert len(steps) == count if 1000 % count == 0 else len(steps) > count
    assert [len(ddim.timesteps(n)) for n in (3, 7, 30, 300)] == [4, 8, 31, 334]


@pytest.mark.parametrize("count", [0, -1, 1001, 2.5, True, "10"])
def test_what_is_no_count_of_steps_is_refused(count):
    with pytest.raises(ModelError, match="1 to 1000"):
        make(part="decoder").decode(torch.zeros(1, 2, 2, dtype=torch.long), timesteps=count)


def test_the_schedule_begins_with_pure_noise_and_ends_with_the_image():
    assert float(ddim.alphas_cumprod()[-1]) == 0.0
    first, *_, last = ddim.make_steps(10)
    assert (first.t, first.signal, first.noise) == (999, 0.0, 1.0)
    assert (last.next_signal, last.next_noise) == (1.0, 0.0)
    x, clean = torch.randn(1, 1, 4, 4), 3 * torch.randn(1, 1, 4, 4)
    assert torch.equal(ddim.advance(x, clean, last, clamp=False), clean)
    assert torch.equal(ddim.advance(x, clean, last, clamp=True), clean.clamp(-1, 1))


def test_the_noise_is_estimated_before_the_cut():
    step = ddim.make_steps(4)[1]
    clean, noise = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 0.5)
    x = step.signal * clean + step.noise * noise
    expected = step.next_signal * 1.0 + step.next_noise * noise
    torch.testing.assert_close(ddim.advance(x, clean, step, clamp=True), expected)


# diffusion


def test_a_decode_takes_the_steps_of_its_schedule_one_by_one():
    tokenizer = make("S1GRD", part="decoder")
    ids, noise = ids_for(tokenizer), torch.randn(1, 2, 64, 64)
    codes, x = tokenizer.ids_to_codes(ids), noise
    for step in ddim.make_steps(3):
        with torch.no_grad():
            x = ddim.advance(x, tokenizer.denoise(x, step.t, codes), step, clamp=True)
    torch.testing.assert_close(tokenizer.decode(ids, noise, 3), x, rtol=0, atol=1e-4)


def test_what_does_not_change_over_the_steps_is_computed_once():
    tokenizer = make(part="decoder")
    counts = {"steps": 0, "embedded": 0, "coded": 0}
    unet = tokenizer.decoder

    def count(name):
        return lambda *_: counts.__setitem__(name, counts[name] + 1)

    unet.register_forward_hook(count("steps"))
    unet.time_embed.register_forward_hook(count("embedded"))
    projections = [m for n, m in unet.named_modules() if n.endswith("emb_layers")]
    for module in projections:
        module.register_forward_hook(count("coded"))
    tokenizer.decode(ids_for(tokenizer), timesteps=10)
    assert counts == {"steps": 10, "embedded": 1, "coded": len(projections)}


def test_a_sample_is_the_same_alone_in_a_batch_and_in_another_order():
    tokenizer = make("S2L2A", part="decoder")
    ids, seeds = ids_for(tokenizer, batch=3), [5, 6, 7]
    batch = tokenizer.decode(ids, timesteps=3, seed=seeds)
    turned = tokenizer.decode(ids.flip(0), timesteps=3, seed=seeds[::-1])
    assert torch.equal(turned.flip(0), batch)
    for index, seed in enumerate(seeds):
        alone = tokenizer.decode(ids[index : index + 1], timesteps=3, seed=seed)
        assert torch.equal(alone[0], batch[index])
    assert torch.equal(tokenizer.decode(ids, timesteps=3, seed=seeds), batch)


def test_noise_belongs_to_the_seed_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = ddim.draw_noise((2, 3, 32, 32), 4), ddim.draw_noise((1, 3, 32, 32), [4])
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[:1], second)
    assert not torch.equal(ddim.draw_noise((1, 3, 32, 32), 5), second)
    assert abs(float(first.mean())) < 0.1
    assert abs(float(first.std()) - 1) < 0.1
    tokenizer = make(part="decoder")
    ids = ids_for(tokenizer)
    drawn = ddim.draw_noise((1, 1, 64, 64), 9)
    image = tokenizer.decode(ids, timesteps=1, seed=9)
    assert torch.equal(image, tokenizer.decode(ids, noise=drawn, timesteps=1))
    assert not torch.equal(image, tokenizer.decode(ids, timesteps=1, seed=8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [[1], [1, 2, 3], [1, True], [1, 2.5], True, 2**70, [1, None]])
def test_what_are_no_seeds_is_refused(seed):
    tokenizer = make(part="decoder")
    with pytest.raises(ModelError, match="each of the 2 samples"):
        tokenizer.decode(ids_for(tokenizer, batch=2), seed=seed)


def test_noise_of_another_shape_is_refused():
    tokenizer = make(part="decoder")
    with pytest.raises(ModelError, match=r"\(1, 1, 64, 64\)"):
        tokenizer.decode(ids_for(tokenizer), noise=torch.zeros(1, 1, 32, 32))


def test_the_cut_at_one_deviation_can_be_left_out():
    state = make(part="decoder").state_dict()
    tokenizer = make(part="decoder", weights=state | {"decoder.out.2.bias": torch.full((16,), 3.0)})
    ids = ids_for(tokenizer)
    cut, whole = (tokenizer.decode(ids, timesteps=4, clamp=clamp) for clamp in (True, False))
    assert float(cut.max()) == 1.0
    assert float(whole.max()) > 2.0
    dem = modalities.get_raster_modality("DEM").statistics
    assert round(dem.mean[0] + dem.std[0]) == 1622
    # ^ the height at which the docstring says that mountains end


def test_sides_need_not_be_equal():
    tokenizer = make(part="decoder")
    assert tokenizer.decode(ids_for(tokenizer, rows=2, columns=6)).shape == (1, 1, 32, 96)


def test_steps_may_differ_within_a_batch():
    tokenizer = make(part="decoder")
    x, ids = pixels_for(tokenizer, 2, 64, 64), ids_for(tokenizer, batch=2)
    codes = tokenizer.ids_to_codes(ids)
    with torch.no_grad():
        both = tokenizer.denoise(x, torch.tensor([3, 700]), codes)
        alone = [
            tokenizer.denoise(x[i : i + 1], t, codes[i : i + 1]) for i, t in enumerate((3, 700))
        ]
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-5)
    assert not torch.allclose(both[1:], tokenizer.denoise(x[1:], 3, codes[1:]))


@pytest.mark.parametrize(
    ("t", "says"),
    [(1000, "0..999"), (-1, "0..999"), (0.5, "whole"), (torch.tensor([1, 2, 3]), "each sample")],
)
def test_what_is_no_step_is_refused(t, says):
    tokenizer = make(part="decoder")
    codes = tokenizer.ids_to_codes(ids_for(tokenizer, batch=2))
    with pytest.raises(ModelError, match=says):
        tokenizer.denoise(torch.zeros(2, 1, 64, 64), t, codes)
    with pytest.raises(ModelError, match="expected for these codes"):
        tokenizer.denoise(torch.zeros(2, 1, 32, 64), 1, codes)


def test_land_cover_has_scores_and_no_diffusion():
    lulc, dem = make("LULC"), make(part="decoder")
    ids = ids_for(lulc, batch=2)
    with torch.no_grad():
        scores = lulc.class_logits(lulc.ids_to_codes(ids))
    assert torch.equal(scores, lulc.decode(ids, timesteps=7, seed=3))
    with pytest.raises(ModelError, match="one pass"):
        lulc.denoise(torch.zeros(2, 10, 64, 64), 1, lulc.ids_to_codes(ids))
    with pytest.raises(ModelError, match="no class scores"):
        dem.class_logits(dem.ids_to_codes(ids))


# precision, training, short cuts


@torch.no_grad()
@pytest.mark.parametrize("modality", ["DEM", "LULC"])
def test_bf16_stays_near_single_precision(modality):
    tokenizer = make(modality)
    ids = ids_for(tokenizer, batch=2)
    x = classes() if modality == "LULC" else pixels_for(tokenizer)
    expected, latents = tokenizer.decode(ids, timesteps=4), tokenizer.encode_latents(x)
    half = make(modality, weights=tokenizer.state_dict()).to(torch.bfloat16)
    decoded = half.decode(ids, timesteps=4).float()
    scale = float(expected.abs().max())
    assert float((decoded - expected).abs().max()) < 0.1 * scale
    assert float((decoded - expected).square().mean().sqrt()) < 0.02 * scale
    close = (half.encode_latents(x).float() - latents).abs().max()
    assert float(close) < 0.05 * float(latents.abs().max())
    if modality == "DEM":
        assert half.decode(ids, timesteps=1).dtype == torch.float32
        assert not torch.equal(decoded, decoded.bfloat16().float())
        # ^ eight bits would be heights in steps of metres


def test_both_halves_can_be_trained():
    tokenizer = make().train()
    x = pixels_for(tokenizer)
    tokenizer.encode(x)
    with torch.inference_mode():
        tokenizer.decode(ids_for(tokenizer), timesteps=1)
    # ^ nothing of an earlier inference may stand in the way
    latents = tokenizer.encode_latents(x)
    clean = tokenizer.denoise(x, torch.tensor([400]), latents.sigmoid())
    (clean - x).square().mean().backward()
    lacking = [name for name, p in tokenizer.named_parameters() if p.grad is None]
    assert lacking == []
    lulc = make("LULC").train()
    lulc.class_logits(lulc.ids_to_codes(ids_for(lulc))).square().mean().backward()
    decoding = [p.grad is None for n, p in lulc.named_parameters() if "quant_proj" not in n]
    assert not all(decoding)


def test_a_convolution_after_enlarging_needs_no_enlarged_image():
    generator = torch.Generator().manual_seed(2)
    for batch, channels, out, height, width in ((1, 3, 5, 4, 6), (2, 8, 4, 1, 3), (3, 1, 1, 7, 2)):
        x = torch.randn(batch, channels, height, width, generator=generator)
        weight = torch.randn(out, channels, 3, 3, generator=generator)
        bias = torch.randn(out, generator=generator)
        larger = F.interpolate(x, scale_factor=2, mode="nearest")
        expected = F.conv2d(larger, weight, bias, padding=1)
        actual = winograd.upsample_conv(x, winograd.prepare_upsample_kernel(weight), bias)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_convolution_by_tiles_is_the_same_but_for_rounding():
    generator = torch.Generator().manual_seed(2)
    for batch, channels, out, height, width in ((1, 3, 5, 4, 8), (2, 64, 32, 12, 4)):
        x = torch.randn(batch, channels, height, width, generator=generator)
        weight = torch.randn(out, channels, 3, 3, generator=generator)
        bias = torch.randn(out, generator=generator)
        expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        actual = winograd.winograd_conv(x, winograd.prepare_winograd_kernel(weight), bias)
        assert float((actual - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_tiles_are_used_only_where_they_pay():
    wide = torch.zeros(128, 256, 3, 3)
    with torch.no_grad():
        assert winograd.is_winograd_faster(wide, 56, 56, 10)
        assert not winograd.is_winograd_faster(wide, 28, 28, 10)
        assert not winograd.is_winograd_faster(wide, 58, 56, 10)
        assert not winograd.is_winograd_faster(wide, 56, 56, 2)
        assert not winograd.is_winograd_faster(wide[:32], 56, 56, 10)
        assert not winograd.is_winograd_faster(wide.bfloat16(), 56, 56, 10)
    assert not winograd.is_winograd_faster(wide, 56, 56, 10)
    # ^ in training every step would transform the kernel anew


def test_a_decode_by_tiles_differs_by_rounding(monkeypatch):
    tokenizer = make(part="decoder")
    ids = ids_for(tokenizer)
    direct = tokenizer.decode(ids, timesteps=4)
    for limit in ("MIN_PIXELS", "MIN_CHANNELS"):
        monkeypatch.setattr(winograd, limit, 1)
    used = []
    tiled = winograd.winograd_conv
    monkeypatch.setattr(winograd, "winograd_conv", lambda *a: used.append(0) or tiled(*a))
    short = tokenizer.decode(ids, timesteps=4)
    assert used
    assert not torch.equal(short, direct)
    torch.testing.assert_close(short, direct, rtol=0, atol=1e-4)
