"""The segmentation head: missing data, ablation, and what it must not depend on."""

from __future__ import annotations

import pytest
import torch

import model
from model.errors import ModelError
from model.terramind import segmentation_head

TINY = {"dim": 32, "heads": 2, "depth": 2}
NAMES = ["S2L2A", "S1RTC", "DEM"]
BANDS = {"S2L2A": 12, "S1RTC": 2, "DEM": 1}


@pytest.fixture(autouse=True, scope="module")
def _use_one_thread():
    """Run on one thread, which is faster for tiny shapes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def segmenter():
    return model.segmenter(TINY, NAMES, 5, width=8, weights={"random": 2})


def make_rasters(batch=2, size=48, seed=0, names=NAMES):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(batch, BANDS[name], size, size, generator=generator) for name in names
    }


def test_logits_have_the_size_of_the_input(segmenter):
    assert segmenter(make_rasters()).shape == (2, 5, 48, 48)
    assert segmenter({"S1RTC": torch.randn(1, 2, 32, 80)}).shape == (1, 5, 32, 80)


@pytest.mark.parametrize("names", [["S2L2A"], ["S1RTC"], ["DEM"], ["S2L2A", "DEM"]])
def test_any_subset_of_the_inputs_is_accepted(segmenter, names):
    assert torch.isfinite(segmenter(make_rasters(names=names))).all()


@pytest.mark.parametrize("layers", [[1], [0, 1], [0, 0, 1, 1]])
def test_the_head_reads_one_to_four_layers(layers):
    segmenter = model.segmenter(TINY, ["DEM"], 2, layers=layers, width=4)
    assert segmenter(make_rasters(names=["DEM"], size=32)).shape == (2, 2, 32, 32)


@pytest.mark.parametrize(
    "options", [{"layers": [0] * 5}, {"layers": []}, {"classes": 1}, {"width": 0}]
)
def test_invalid_heads_are_refused(options):
    with pytest.raises(ModelError):
        model.segmenter(TINY, ["DEM"], **({"classes": 2} | options))


def test_missing_pixels_are_filled_with_the_mean_and_reported_to_the_head(segmenter):
    x = make_rasters()
    with_nan = {name: values.clone() for name, values in x.items()}
    with_nan["S2L2A"][0, :, 8:20, 8:20] = torch.nan
    filled = {name: torch.nan_to_num(values, 0.0) for name, values in with_nan.items()}
    logits, filled_logits = segmenter(with_nan), segmenter(filled)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], filled_logits[0])
    torch.testing.assert_close(logits[1], filled_logits[1], atol=1e-5, rtol=0)


def test_missing_pixels_of_a_sample_do_not_affect_another(segmenter):
    x = make_rasters()
    before = segmenter(x)
    x["S1RTC"][0] = torch.nan
    after = segmenter(x)
    torch.testing.assert_close(after[1], before[1], atol=1e-5, rtol=0)
    assert not torch.allclose(after[0], before[0])


def test_the_order_of_the_inputs_does_not_matter(segmenter):
    x = make_rasters()
    assert torch.equal(segmenter(x), segmenter(dict(reversed(x.items()))))


def test_the_inputs_are_not_modified(segmenter):
    x = make_rasters()
    x["DEM"][0, 0, 0, 0] = torch.nan
    before = {name: value.clone() for name, value in x.items()}
    segmenter(x)
    assert list(x) == NAMES
    assert all(torch.equal(x[name].nan_to_num(7), before[name].nan_to_num(7)) for name in NAMES)


def test_without_tokens_the_head_sees_nearby_pixels_only(segmenter):
    """The head must have no wide context of its own: that has to come from the encoder."""
    x = make_rasters(batch=1, size=64)
    changed_inputs = {name: values.clone() for name, values in x.items()}
    changed_inputs["S2L2A"][..., 30:34, 30:34] += 3
    is_changed = (segmenter(x, tokens="zero") != segmenter(changed_inputs, tokens="zero")).any(1)[0]
    assert is_changed[30:34, 30:34].all()
    assert not is_changed[:24].any()
    assert not is_changed[40:].any()
    assert (segmenter(x) != segmenter(changed_inputs)).any(1)[0].float().mean() > 0.9


def test_zeroed_tokens_change_the_output_and_unknown_options_are_refused(segmenter):
    x = make_rasters()
    assert not torch.allclose(segmenter(x), segmenter(x, tokens="zero"))
    with pytest.raises(ModelError, match="encoder or zero"):
        segmenter(x, tokens="random")


def test_a_pixel_weight_of_zero_affects_its_own_sample_only(segmenter):
    x = make_rasters()
    without_pixels = segmenter(x, pixel_weight=torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(without_pixels[1], segmenter(x)[1], atol=1e-5, rtol=0)
    assert not torch.allclose(without_pixels[0], segmenter(x)[0])


def test_samples_are_independent(segmenter):
    x = make_rasters(batch=3)
    order = [2, 0, 1]
    logits = segmenter(x)
    alone = torch.cat(
        [
            segmenter({name: values[index : index + 1] for name, values in x.items()})
            for index in order
        ]
    )
    torch.testing.assert_close(alone, logits[order], atol=1e-5, rtol=0)


def test_every_parameter_has_a_gradient(segmenter):
    new_segmenter = model.segmenter(TINY, NAMES, 5, width=8, weights={"random": 2})
    new_segmenter.train()(make_rasters()).square().mean().backward()
    without_gradient = [
        name
        for name, parameter in new_segmenter.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    ]
    assert without_gradient == []


def test_the_state_of_a_segmenter_holds_the_official_keys(segmenter):
    keys = segmenter.state_dict().keys()
    encoder = model.backbone(TINY, NAMES)
    assert {f"encoder.{key}" for key in encoder.state_dict()} == {
        key for key in keys if key.startswith("encoder.")
    }


def test_a_segmenter_is_loaded_completely_or_not_at_all(segmenter):
    loaded = model.segmenter(TINY, NAMES, 5, width=8, weights=dict(segmenter.state_dict()))
    x = make_rasters()
    assert torch.equal(loaded(x), segmenter(x))
    incomplete = {
        key: value
        for key, value in segmenter.state_dict().items()
        if not key.startswith("head.logits")
    }
    with pytest.raises(model.errors.WeightsError, match=r"head\.logits"):
        model.load_state(loaded, incomplete)


def test_backbone_weights_fill_the_encoder_only():
    encoder = model.backbone(TINY, NAMES, weights={"random": 9})
    new_segmenter = model.segmenter(TINY, NAMES, 3, backbone_weights=dict(encoder.state_dict()))
    assert torch.equal(
        new_segmenter.encoder.state_dict()["encoder.0.attn.qkv.weight"],
        encoder.state_dict()["encoder.0.attn.qkv.weight"],
    )


@pytest.mark.parametrize(
    "inputs", [{}, {"S2L1C": torch.zeros(1, 13, 32, 32)}, {"DEM": torch.zeros(1, 1, 30, 32)}]
)
def test_invalid_inputs_are_refused(segmenter, inputs):
    with pytest.raises(ModelError):
        segmenter(inputs)


def test_an_unmerged_encoder_is_refused():
    encoder = model.backbone(TINY, ["DEM"], merge="dict")
    segmenter = segmentation_head.Segmenter(
        encoder, segmentation_head.PixelHead(32, 1, {"DEM": 1}, 2, 4), [1]
    )
    with pytest.raises(ModelError, match="merge"):
        segmenter(make_rasters(names=["DEM"]))


def test_depth_to_space_inverts_space_to_depth():
    x = torch.randn(2, 3, 6, 10)
    cells = segmentation_head.space_to_depth(x)
    assert cells.shape == (2, 3, 5, 12)
    restored = segmentation_head.depth_to_space(cells, 2).permute(0, 3, 1, 2)
    assert torch.equal(restored, x)


def test_tokens_are_spread_over_their_patch():
    lateral = segmentation_head.Lateral(4, 3, 2)
    tokens = torch.randn(1, 6, 4)
    spread = lateral(tokens, 2, 3)
    assert spread.shape == (1, 4, 6, 3)
    alone = lateral(tokens[:, 4:5], 1, 1)
    torch.testing.assert_close(spread[:, 2:4, 2:4], alone)
