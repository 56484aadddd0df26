"""The segmentation head: holes, missing modalities, ablation, and what it may not depend on."""

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
def _one_thread():
    """Tiny shapes run faster without handing work around."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def segmenter():
    return model.segmenter(TINY, NAMES, 5, width=8, weights={"random": 2})


def rasters(batch=2, size=48, seed=0, names=NAMES):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(batch, BANDS[n], size, size, generator=generator) for n in names}


def test_logits_have_the_size_of_the_input(segmenter):
    assert segmenter(rasters()).shape == (2, 5, 48, 48)
    assert segmenter({"S1RTC": torch.randn(1, 2, 32, 80)}).shape == (1, 5, 32, 80)


@pytest.mark.parametrize("names", [["S2L2A"], ["S1RTC"], ["DEM"], ["S2L2A", "DEM"]])
def test_any_part_of_the_inputs_will_do(segmenter, names):
    assert torch.isfinite(segmenter(rasters(names=names))).all()


@pytest.mark.parametrize("layers", [[1], [0, 1], [0, 0, 1, 1]])
def test_the_head_reads_one_to_four_layers(layers):
    built = model.segmenter(TINY, ["DEM"], 2, layers=layers, width=4)
    assert built(rasters(names=["DEM"], size=32)).shape == (2, 2, 32, 32)


@pytest.mark.parametrize(
    "options", [{"layers": [0] * 5}, {"layers": []}, {"classes": 1}, {"width": 0}]
)
def test_impossible_heads_are_refused(options):
    with pytest.raises(ModelError):
        model.segmenter(TINY, ["DEM"], **({"classes": 2} | options))


def test_missing_pixels_are_the_mean_and_told_to_the_head(segmenter):
    x = rasters()
    with_nan = {n: v.clone() for n, v in x.items()}
    with_nan["S2L2A"][0, :, 8:20, 8:20] = torch.nan
    filled = {n: torch.nan_to_num(v, 0.0) for n, v in with_nan.items()}
    out, plain = segmenter(with_nan), segmenter(filled)
    assert torch.isfinite(out).all()
    assert not torch.equal(out[0], plain[0])
    torch.testing.assert_close(out[1], plain[1], atol=1e-5, rtol=0)


def test_holes_of_one_sample_do_not_leak_into_another(segmenter):
    x = rasters()
    before = segmenter(x)
    x["S1RTC"][0] = torch.nan
    after = segmenter(x)
    torch.testing.assert_close(after[1], before[1], atol=1e-5, rtol=0)
    assert not torch.allclose(after[0], before[0])


def test_the_order_of_the_inputs_does_not_matter(segmenter):
    x = rasters()
    assert torch.equal(segmenter(x), segmenter(dict(reversed(x.items()))))


def test_the_inputs_are_not_modified(segmenter):
    x = rasters()
    x["DEM"][0, 0, 0, 0] = torch.nan
    before = {name: value.clone() for name, value in x.items()}
    segmenter(x)
    assert list(x) == NAMES
    assert all(torch.equal(x[n].nan_to_num(7), before[n].nan_to_num(7)) for n in NAMES)


def test_without_tokens_only_near_pixels_are_seen(segmenter):
    """The head must not have a context of its own: what it knows, the encoder told it."""
    x = rasters(batch=1, size=64)
    moved = {n: v.clone() for n, v in x.items()}
    moved["S2L2A"][..., 30:34, 30:34] += 3
    changed = (segmenter(x, tokens="zero") != segmenter(moved, tokens="zero")).any(1)[0]
    assert changed[30:34, 30:34].all()
    assert not changed[:24].any()
    assert not changed[40:].any()
    assert (segmenter(x) != segmenter(moved)).any(1)[0].float().mean() > 0.9


def test_zeroed_tokens_change_the_answer_and_unknown_uses_are_refused(segmenter):
    x = rasters()
    assert not torch.allclose(segmenter(x), segmenter(x, tokens="zero"))
    with pytest.raises(ModelError, match="encoder or zero"):
        segmenter(x, tokens="random")


def test_unseen_pixels_leave_the_tokens_alone(segmenter):
    x = rasters()
    blind = segmenter(x, pixel_weight=torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(blind[1], segmenter(x)[1], atol=1e-5, rtol=0)
    assert not torch.allclose(blind[0], segmenter(x)[0])


def test_samples_do_not_see_each_other(segmenter):
    x = rasters(batch=3)
    order = [2, 0, 1]
    together = segmenter(x)
    alone = torch.cat([segmenter({n: v[i : i + 1] for n, v in x.items()}) for i in order])
    torch.testing.assert_close(alone, together[order], atol=1e-5, rtol=0)


def test_every_parameter_learns(segmenter):
    built = model.segmenter(TINY, NAMES, 5, width=8, weights={"random": 2})
    built.train()(rasters()).square().mean().backward()
    silent = [n for n, p in built.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


def test_the_state_of_a_segmenter_holds_the_official_keys(segmenter):
    keys = segmenter.state_dict().keys()
    encoder = model.backbone(TINY, NAMES)
    assert {f"encoder.{key}" for key in encoder.state_dict()} == {
        key for key in keys if key.startswith("encoder.")
    }


def test_a_segmenter_loads_whole_or_not_at_all(segmenter):
    built = model.segmenter(TINY, NAMES, 5, width=8, weights=dict(segmenter.state_dict()))
    x = rasters()
    assert torch.equal(built(x), segmenter(x))
    lame = {k: v for k, v in segmenter.state_dict().items() if not k.startswith("head.logits")}
    with pytest.raises(model.errors.WeightsError, match=r"head\.logits"):
        model.load_state(built, lame)


def test_backbone_weights_fill_the_encoder_alone():
    encoder = model.backbone(TINY, NAMES, weights={"random": 9})
    built = model.segmenter(TINY, NAMES, 3, backbone_weights=dict(encoder.state_dict()))
    assert torch.equal(
        built.encoder.state_dict()["encoder.0.attn.qkv.weight"],
        encoder.state_dict()["encoder.0.attn.qkv.weight"],
    )


@pytest.mark.parametrize(
    "inputs", [{}, {"S2L1C": torch.zeros(1, 13, 32, 32)}, {"DEM": torch.zeros(1, 1, 30, 32)}]
)
def test_wrong_inputs_are_refused(segmenter, inputs):
    with pytest.raises(ModelError):
        segmenter(inputs)


def test_an_unmerged_encoder_is_refused():
    encoder = model.backbone(TINY, ["DEM"], merge="dict")
    built = segmentation_head.Segmenter(
        encoder, segmentation_head.PixelHead(32, 1, {"DEM": 1}, 2, 4), [1]
    )
    with pytest.raises(ModelError, match="merge"):
        built(rasters(names=["DEM"]))


def test_spreading_undoes_folding():
    x = torch.randn(2, 3, 6, 10)
    cells = segmentation_head.space_to_depth(x)
    assert cells.shape == (2, 3, 5, 12)
    back = segmentation_head.depth_to_space(cells, 2).permute(0, 3, 1, 2)
    assert torch.equal(back, x)


def test_spread_tokens_lie_over_their_patch():
    lateral = segmentation_head.Lateral(4, 3, 2)
    tokens = torch.randn(1, 6, 4)
    finer = lateral(tokens, 2, 3)
    assert finer.shape == (1, 4, 6, 3)
    alone = lateral(tokens[:, 4:5], 1, 1)
    torch.testing.assert_close(finer[:, 2:4, 2:4], alone)
