"""Segmentation models: sizes, grids, necks, decoders, and missing or invalid inputs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.errors import ModelError
from model.terratorch import necks, segmentation_model
from tests.support.lightning_checkpoints import (
    RESHAPE,
    SELECT,
    SIZE,
    as_stored,
    build_model,
    load,
    random_inputs,
    whole_model,
)
from tests.support.oracle import one_thread  # noqa: F401


@pytest.fixture(scope="module")
def network():
    return whole_model()


def _pad_by_reflection(value, height, width):
    """Pad with numpy; an odd row is added below and an odd column at the right."""
    row_count, column_count = (-side % 32 for side in (height, width))
    padding = [
        (0, 0),
        (0, 0),
        (row_count // 2, -(-row_count // 2)),
        (column_count // 2, -(-column_count // 2)),
    ]
    return torch.from_numpy(np.pad(value.numpy(), padding, mode="reflect"))


@settings(max_examples=8)
@given(st.integers(12, 70), st.integers(12, 70))
def test_any_size_is_padded_by_reflection_to_multiples_of_32_and_cropped(height, width):
    segmenter = whole_model()
    inputs = random_inputs(height, width)
    with torch.inference_mode():
        result = segmenter(inputs)
        padded_result = segmenter(
            {name: _pad_by_reflection(value, height, width) for name, value in inputs.items()}
        )
    top, left = (-height % 32) // 2, (-width % 32) // 2
    assert result.shape == (2, 3, height, width)
    assert torch.equal(result, padded_result[:, :, top : top + height, left : left + width])


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_tokens_are_reshaped_to_the_grid_of_the_input(rows, columns, remove_cls_token):
    (neck,), channels = necks.build_necks([{**RESHAPE, "remove_cls_token": remove_cls_token}], [3])
    tokens = torch.arange(2 * rows * columns * 3).reshape(2, rows * columns, 3)
    (image,) = neck([tokens], (rows, columns))
    assert image.shape == (2, 3, rows, columns)
    assert channels == (3,)
    for row in range(rows):
        for column in range(columns):
            assert torch.equal(image[:, :, row, column], tokens[:, row * columns + column])


def test_a_wide_image_is_not_reshaped_to_a_square(network):
    # 64 x 256 px: 64 tokens, a square number, that the published class lays out as 8 x 8
    inputs = random_inputs(64, 256)
    segmenter = whole_model(necks=[RESHAPE], decoder="IdentityDecoder", decoder_options={})
    with torch.inference_mode():
        result = segmenter(inputs)
        tokens = segmenter.encoder(inputs)
        patch = segmenter.head(tokens.transpose(1, 2).reshape(2, 32, 4, 16))
        expected = torch.nn.functional.interpolate(patch, (64, 256), mode="bilinear")
    assert torch.allclose(result, expected, atol=1e-6)


def test_a_fixed_number_of_rows_applies_to_one_input_size():
    segmenter = whole_model(
        necks=[RESHAPE | {"h": 4}], decoder="IdentityDecoder", decoder_options={}
    )
    with torch.inference_mode():
        assert segmenter(random_inputs(64, 32)).shape == (2, 3, 64, 32)
        with pytest.raises(ModelError, match="h = 4 rows of patches, but the input has 2"):
            segmenter(random_inputs(32, 64))


def test_a_unet_ends_at_the_size_of_its_first_feature_map(network):
    sizes = []
    hook = network.decoder.register_forward_hook(
        lambda *arguments: sizes.append(arguments[2].shape)
    )
    with torch.inference_mode():
        network(random_inputs(64, 96))
    hook.remove()
    assert sizes == [(2, 8, 16, 24)]
    # ^ a quarter of the input; segmentation-models-pytorch before 0.5 would go on to a half


def test_blocks_after_the_last_selected_one_do_not_run():
    segmenter = whole_model(
        necks=[SELECT | {"indices": [1, 0]}, RESHAPE, {"name": "MaxpoolToPyramidal"}],
        decoder_options={"channels": [8, 8]},
    )
    blocks_run = []
    for index, block in enumerate(segmenter.encoder.encoder):
        block.register_forward_hook(lambda *_, index=index: blocks_run.append(index))
    with torch.inference_mode():
        segmenter(random_inputs())
    assert blocks_run == [0, 1]


@pytest.mark.parametrize(
    ("decoder", "options", "factor"),
    [
        ("UNetDecoder", {"channels": [16, 16, 16, 32], "attention_type": "scse"}, 4),
        ("UNetDecoder", {"channels": [8, 8, 8, 8], "use_batchnorm": False}, 4),
        ("UperNetDecoder", {"channels": 8}, 4),
        ("FCNDecoder", {"channels": 8, "num_convs": 3}, 8),
        ("LinearDecoder", {"upsampling_size": 16}, 16),
        ("IdentityDecoder", {}, 1),
    ],
)
def test_every_decoder_works_with_its_usual_necks(decoder, options, factor):
    size = SIZE | {"dim": 64}
    segmenter = build_model(size, ["S1GRD"], 4, decoder=decoder, decoder_options=options)
    sizes = []
    segmenter.decoder.register_forward_hook(lambda *arguments: sizes.append(arguments[2].shape[2:]))
    with torch.inference_mode():
        result = segmenter(torch.randn(1, 2, 32, 64))
        # ^ a single tensor is taken as the first modality
    assert result.shape == (1, 4, 32, 64)
    assert sizes == [(2 * factor, 4 * factor)]


def test_scse_attention_needs_16_channels():
    with pytest.raises(ModelError, match="at least 16 channels, not 8"):
        whole_model(decoder_options={"channels": [8, 8, 8, 8], "attention_type": "scse"})


def test_necks_for_other_pyramids():
    steps = [SELECT, RESHAPE, {"name": "InterpolateToPyramidal"}, {"name": "AddBottleneckLayer"}]
    steps.append({"name": "FeaturePyramidNetworkNeck", "out_channel": 6, "output_ordered_dict": 0})
    with pytest.raises(ModelError, match="output_ordered_dict 0"):
        whole_model(necks=steps)
    steps[-1]["output_ordered_dict"] = False
    segmenter = whole_model(necks=steps, decoder="UperNetDecoder", decoder_options={"channels": 8})
    sizes = []
    segmenter.neck[-1].register_forward_hook(
        lambda *arguments: sizes.extend(feature_map.shape for feature_map in arguments[2])
    )
    with torch.inference_mode():
        segmenter(random_inputs(32, 32))
    assert sizes == [(2, 6, side, side) for side in (32, 16, 8, 4, 4)]


def test_probabilities_are_the_softmax_also_in_bfloat16(network):
    inputs = random_inputs()
    half_network = copy.deepcopy(network).to(torch.bfloat16)
    with torch.inference_mode():
        logits, probabilities, half_probabilities = (
            network(inputs),
            network.predict_probabilities(inputs),
            half_network.predict_probabilities(inputs),
        )
    assert torch.equal(probabilities, logits.softmax(dim=1))
    assert half_probabilities.dtype == torch.float32
    assert torch.allclose(half_probabilities.sum(dim=1), torch.ones(2, 64, 64), atol=1e-5)
    assert float((half_probabilities - probabilities).abs().max()) <= 2e-2


def test_missing_pixels_unknown_inputs_and_small_sizes_are_refused(network):
    inputs = random_inputs()
    inputs_with_nan = {**inputs, "S1GRD": inputs["S1GRD"].clone()}
    inputs_with_nan["S1GRD"][0, 0, 0, 0] = torch.nan
    for invalid_inputs, message in (
        (inputs_with_nan, "NaN"),
        ({"DEM": torch.zeros(1, 1, 32, 32)}, "DEM"),
        ({**inputs, "S1GRD": torch.zeros(2, 2, 32, 32)}, "one size"),
        ({name: value[..., :11] for name, value in inputs.items()}, "at least 12"),
        ({}, "no input"),
    ):
        with pytest.raises(ModelError, match=message):
            network(invalid_inputs)
    with torch.inference_mode():
        assert torch.equal(network.forward_unchecked(inputs), network(inputs))
        assert network({"S1GRD": inputs["S1GRD"]}).shape == (2, 3, 64, 64)
        # ^ a modality may be missing


def test_logits_that_are_not_rescaled_have_the_size_of_the_decoder(network):
    loaded = load(as_stored(network, {"rescale": False}))
    inputs = random_inputs(64, 96)
    with torch.inference_mode():
        coarse, fine = loaded(inputs), network(inputs)
        expected = torch.nn.functional.interpolate(coarse, (64, 96), mode="bilinear")
    assert coarse.shape == (2, 3, 16, 24)
    assert torch.equal(expected, fine)


def test_unmerged_modalities_are_refused():
    for merge in ("dict", None):
        with pytest.raises(ModelError, match="mean, max or concat"):
            whole_model(merge=merge)
    single_modality = build_model(SIZE, ["DEM"], 2, [RESHAPE], "IdentityDecoder", merge=None)
    with torch.inference_mode():
        assert single_modality(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_class_rasters_are_padded_like_other_rasters():
    size = {"modality": "LULC", "dim": 16, "depth": 1, "heads": 2}
    encoder = model.backbone(
        SIZE, ["S1GRD", "LULC"], tokenizers={"LULC": size}, weights={"random": 3}
    )
    segmenter = segmentation_model.assemble_model(encoder, 3, [RESHAPE], "IdentityDecoder")
    generator = torch.Generator().manual_seed(0)
    radar = torch.randn(2, 2, 48, 64, generator=generator)
    classes = torch.randint(0, 10, (2, 48, 64), generator=generator)
    with torch.inference_mode():
        from_ids = segmenter({"S1GRD": radar, "LULC": classes})
        from_image = segmenter({"S1GRD": radar, "LULC": classes[:, None]})
        padded_classes = _pad_by_reflection(classes[:, None], 48, 64)
        expected = segmenter({"S1GRD": _pad_by_reflection(radar, 48, 64), "LULC": padded_classes})[
            :, :, 8:56
        ]
    assert torch.equal(from_ids, from_image)
    assert torch.equal(from_ids, expected)
    assert from_ids.shape == (2, 3, 48, 64)
