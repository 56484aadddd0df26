"""Diffusion decoding: schedule, noise, sizes, precision and faster convolutions."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from model.errors import ModelError
from model.terramind import modalities
from model.terramind.tokenizers import ddim, winograd
from tests.support.oracle import one_thread  # noqa: F401
from tests.support.small_tokenizers import make_class_raster, make_ids, make_pixels, make_tokenizer

# the schedule


def test_every_number_of_steps_spans_the_schedule():
    for count in range(1, 1001):
        steps = ddim.timesteps(count)
        stride = 1000 // count
        assert steps[0] == 999
        assert 0 <= steps[-1] < stride
        assert all(earlier - later == stride for earlier, later in itertools.pairwise(steps))
        assert len(steps) == count if 1000 % count == 0 else len(steps) > count
    assert [len(ddim.timesteps(count)) for count in (3, 7, 30, 300)] == [4, 8, 31, 334]


@pytest.mark.parametrize("count", [0, -1, 1001, 2.5, True, "10"])
def test_an_invalid_number_of_steps_is_refused(count):
    with pytest.raises(ModelError, match="1 to 1000"):
        make_tokenizer(part="decoder").decode(
            torch.zeros(1, 2, 2, dtype=torch.long), timesteps=count
        )


def test_the_schedule_begins_with_noise_and_ends_with_the_image():
    assert float(ddim.alphas_cumprod()[-1]) == 0.0
    first, *_, last = ddim.make_steps(10)
    assert (first.t, first.signal, first.noise) == (999, 0.0, 1.0)
    assert (last.next_signal, last.next_noise) == (1.0, 0.0)
    x, clean = torch.randn(1, 1, 4, 4), 3 * torch.randn(1, 1, 4, 4)
    assert torch.equal(ddim.advance(x, clean, last, clamp=False), clean)
    assert torch.equal(ddim.advance(x, clean, last, clamp=True), clean.clamp(-1, 1))


def test_the_noise_is_estimated_before_clamping():
    step = ddim.make_steps(4)[1]
    clean, noise = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 0.5)
    x = step.signal * clean + step.noise * noise
    expected = step.next_signal * 1.0 + step.next_noise * noise
    torch.testing.assert_close(ddim.advance(x, clean, step, clamp=True), expected)


# diffusion


def test_a_decode_takes_every_step_of_its_schedule():
    tokenizer = make_tokenizer("S1GRD", part="decoder")
    ids, noise = make_ids(tokenizer), torch.randn(1, 2, 64, 64)
    codes, x = tokenizer.ids_to_codes(ids), noise
    for step in ddim.make_steps(3):
        with torch.no_grad():
            x = ddim.advance(x, tokenizer.denoise(x, step.t, codes), step, clamp=True)
    torch.testing.assert_close(tokenizer.decode(ids, noise, 3), x, rtol=0, atol=1e-4)


def test_constant_parts_are_computed_once_per_decode():
    tokenizer = make_tokenizer(part="decoder")
    counts = {"steps": 0, "embedded": 0, "coded": 0}
    unet = tokenizer.decoder

    def count_calls(name):
        return lambda *_: counts.__setitem__(name, counts[name] + 1)

    unet.register_forward_hook(count_calls("steps"))
    unet.time_embed.register_forward_hook(count_calls("embedded"))
    projections = [module for name, module in unet.named_modules() if name.endswith("emb_layers")]
    for module in projections:
        module.register_forward_hook(count_calls("coded"))
    tokenizer.decode(make_ids(tokenizer), timesteps=10)
    assert counts == {"steps": 10, "embedded": 1, "coded": len(projections)}


def test_a_sample_does_not_depend_on_its_batch():
    tokenizer = make_tokenizer("S2L2A", part="decoder")
    ids, seeds = make_ids(tokenizer, batch=3), [5, 6, 7]
    batch = tokenizer.decode(ids, timesteps=3, seed=seeds)
    reversed_batch = tokenizer.decode(ids.flip(0), timesteps=3, seed=seeds[::-1])
    assert torch.equal(reversed_batch.flip(0), batch)
    for index, seed in enumerate(seeds):
        alone = tokenizer.decode(ids[index : index + 1], timesteps=3, seed=seed)
        assert torch.equal(alone[0], batch[index])
    assert torch.equal(tokenizer.decode(ids, timesteps=3, seed=seeds), batch)


def test_noise_depends_on_the_seed_only_and_not_on_the_global_generator():
    before = torch.get_rng_state()
    first, second = ddim.draw_noise((2, 3, 32, 32), 4), ddim.draw_noise((1, 3, 32, 32), [4])
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[:1], second)
    assert not torch.equal(ddim.draw_noise((1, 3, 32, 32), 5), second)
    assert abs(float(first.mean())) < 0.1
    assert abs(float(first.std()) - 1) < 0.1
    tokenizer = make_tokenizer(part="decoder")
    ids = make_ids(tokenizer)
    noise = ddim.draw_noise((1, 1, 64, 64), 9)
    image = tokenizer.decode(ids, timesteps=1, seed=9)
    assert torch.equal(image, tokenizer.decode(ids, noise=noise, timesteps=1))
    assert not torch.equal(image, tokenizer.decode(ids, timesteps=1, seed=8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [[1], [1, 2, 3], [1, True], [1, 2.5], True, 2**70, [1, None]])
def test_invalid_seeds_are_refused(seed):
    tokenizer = make_tokenizer(part="decoder")
    with pytest.raises(ModelError, match="each of the 2 samples"):
        tokenizer.decode(make_ids(tokenizer, batch=2), seed=seed)


def test_noise_of_another_shape_is_refused():
    tokenizer = make_tokenizer(part="decoder")
    with pytest.raises(ModelError, match=r"\(1, 1, 64, 64\)"):
        tokenizer.decode(make_ids(tokenizer), noise=torch.zeros(1, 1, 32, 32))


def test_clamping_can_be_disabled():
    state = make_tokenizer(part="decoder").state_dict()
    tokenizer = make_tokenizer(
        part="decoder", weights=state | {"decoder.out.2.bias": torch.full((16,), 3.0)}
    )
    ids = make_ids(tokenizer)
    clamped, unclamped = (
        tokenizer.decode(ids, timesteps=4, clamp=clamp) for clamp in (True, False)
    )
    assert float(clamped.max()) == 1.0
    assert float(unclamped.max()) > 2.0
    dem_statistics = modalities.get_raster_modality("DEM").statistics
    assert round(dem_statistics.mean[0] + dem_statistics.std[0]) == 1622
    # ^ the height above which the docstring says that mountains are clipped


def test_images_need_not_be_square():
    tokenizer = make_tokenizer(part="decoder")
    assert tokenizer.decode(make_ids(tokenizer, rows=2, columns=6)).shape == (1, 1, 32, 96)


def test_steps_may_differ_within_a_batch():
    tokenizer = make_tokenizer(part="decoder")
    x, ids = make_pixels(tokenizer, 2, 64, 64), make_ids(tokenizer, batch=2)
    codes = tokenizer.ids_to_codes(ids)
    with torch.no_grad():
        both = tokenizer.denoise(x, torch.tensor([3, 700]), codes)
        alone = [
            tokenizer.denoise(x[index : index + 1], t, codes[index : index + 1])
            for index, t in enumerate((3, 700))
        ]
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-5)
    assert not torch.allclose(both[1:], tokenizer.denoise(x[1:], 3, codes[1:]))


@pytest.mark.parametrize(
    ("step", "message"),
    [(1000, "0..999"), (-1, "0..999"), (0.5, "whole"), (torch.tensor([1, 2, 3]), "each sample")],
)
def test_an_invalid_step_is_refused(step, message):
    tokenizer = make_tokenizer(part="decoder")
    codes = tokenizer.ids_to_codes(make_ids(tokenizer, batch=2))
    with pytest.raises(ModelError, match=message):
        tokenizer.denoise(torch.zeros(2, 1, 64, 64), step, codes)
    with pytest.raises(ModelError, match="expected for these codes"):
        tokenizer.denoise(torch.zeros(2, 1, 32, 64), 1, codes)


def test_land_cover_is_decoded_to_scores_without_diffusion():
    lulc_tokenizer, dem_tokenizer = make_tokenizer("LULC"), make_tokenizer(part="decoder")
    ids = make_ids(lulc_tokenizer, batch=2)
    with torch.no_grad():
        scores = lulc_tokenizer.class_logits(lulc_tokenizer.ids_to_codes(ids))
    assert torch.equal(scores, lulc_tokenizer.decode(ids, timesteps=7, seed=3))
    with pytest.raises(ModelError, match="one pass"):
        lulc_tokenizer.denoise(torch.zeros(2, 10, 64, 64), 1, lulc_tokenizer.ids_to_codes(ids))
    with pytest.raises(ModelError, match="no class scores"):
        dem_tokenizer.class_logits(dem_tokenizer.ids_to_codes(ids))


# precision, training and faster convolutions


@torch.no_grad()
@pytest.mark.parametrize("modality", ["DEM", "LULC"])
def test_bf16_stays_near_single_precision(modality):
    tokenizer = make_tokenizer(modality)
    ids = make_ids(tokenizer, batch=2)
    x = make_class_raster() if modality == "LULC" else make_pixels(tokenizer)
    expected, latents = tokenizer.decode(ids, timesteps=4), tokenizer.encode_latents(x)
    half_tokenizer = make_tokenizer(modality, weights=tokenizer.state_dict()).to(torch.bfloat16)
    decoded = half_tokenizer.decode(ids, timesteps=4).float()
    scale = float(expected.abs().max())
    assert float((decoded - expected).abs().max()) < 0.1 * scale
    assert float((decoded - expected).square().mean().sqrt()) < 0.02 * scale
    difference = (half_tokenizer.encode_latents(x).float() - latents).abs().max()
    assert float(difference) < 0.05 * float(latents.abs().max())
    if modality == "DEM":
        assert half_tokenizer.decode(ids, timesteps=1).dtype == torch.float32
        assert not torch.equal(decoded, decoded.bfloat16().float())
        # ^ eight bits would mean heights in steps of several metres


def test_encoder_and_decoder_can_be_trained():
    tokenizer = make_tokenizer().train()
    x = make_pixels(tokenizer)
    tokenizer.encode(x)
    with torch.inference_mode():
        tokenizer.decode(make_ids(tokenizer), timesteps=1)
    # ^ the earlier inference must not interfere with training
    latents = tokenizer.encode_latents(x)
    denoised = tokenizer.denoise(x, torch.tensor([400]), latents.sigmoid())
    (denoised - x).square().mean().backward()
    without_gradient = [
        name for name, parameter in tokenizer.named_parameters() if parameter.grad is None
    ]
    assert without_gradient == []
    lulc_tokenizer = make_tokenizer("LULC").train()
    lulc_tokenizer.class_logits(
        lulc_tokenizer.ids_to_codes(make_ids(lulc_tokenizer))
    ).square().mean().backward()
    is_without_gradient = [
        parameter.grad is None
        for name, parameter in lulc_tokenizer.named_parameters()
        if "quant_proj" not in name
    ]
    assert not all(is_without_gradient)


def test_a_convolution_after_upsampling_equals_one_of_the_upsampled_image():
    generator = torch.Generator().manual_seed(2)
    for batch, channels, out, height, width in ((1, 3, 5, 4, 6), (2, 8, 4, 1, 3), (3, 1, 1, 7, 2)):
        x = torch.randn(batch, channels, height, width, generator=generator)
        weight = torch.randn(out, channels, 3, 3, generator=generator)
        bias = torch.randn(out, generator=generator)
        upsampled = F.interpolate(x, scale_factor=2, mode="nearest")
        expected = F.conv2d(upsampled, weight, bias, padding=1)
        actual = winograd.upsample_conv(x, winograd.prepare_upsample_kernel(weight), bias)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_winograd_convolution_differs_by_rounding_only():
    generator = torch.Generator().manual_seed(2)
    for batch, channels, out, height, width in ((1, 3, 5, 4, 8), (2, 64, 32, 12, 4)):
        x = torch.randn(batch, channels, height, width, generator=generator)
        weight = torch.randn(out, channels, 3, 3, generator=generator)
        bias = torch.randn(out, generator=generator)
        expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        actual = winograd.winograd_conv(x, winograd.prepare_winograd_kernel(weight), bias)
        assert float((actual - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_winograd_is_used_only_where_it_is_faster():
    kernel = torch.zeros(128, 256, 3, 3)
    with torch.no_grad():
        assert winograd.is_winograd_faster(kernel, 56, 56, 10)
        assert not winograd.is_winograd_faster(kernel, 28, 28, 10)
        assert not winograd.is_winograd_faster(kernel, 58, 56, 10)
        assert not winograd.is_winograd_faster(kernel, 56, 56, 2)
        assert not winograd.is_winograd_faster(kernel[:32], 56, 56, 10)
        assert not winograd.is_winograd_faster(kernel.bfloat16(), 56, 56, 10)
    assert not winograd.is_winograd_faster(kernel, 56, 56, 10)
    # ^ during training every step would transform the kernel again


def test_a_winograd_decode_differs_by_rounding_only(monkeypatch):
    tokenizer = make_tokenizer(part="decoder")
    ids = make_ids(tokenizer)
    expected = tokenizer.decode(ids, timesteps=4)
    for limit in ("MIN_PIXELS", "MIN_CHANNELS"):
        monkeypatch.setattr(winograd, limit, 1)
    used = []
    winograd_conv = winograd.winograd_conv
    monkeypatch.setattr(
        winograd, "winograd_conv", lambda *arguments: used.append(0) or winograd_conv(*arguments)
    )
    actual = tokenizer.decode(ids, timesteps=4)
    assert used
    assert not torch.equal(actual, expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
