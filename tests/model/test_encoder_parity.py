"""The encoder: outputs, keys and shapes equal to those of the reference implementation."""

from __future__ import annotations

import pytest
import torch

import model
from model.terramind import layers
from tests.support import oracle
from tests.support.oracle import needs_listings, needs_oracle, one_thread  # noqa: F401

RAW6 = ["S2L2A", "S2L1C", "RGB", "S1GRD", "S1RTC", "DEM"]
SUITES = {
    "cases_encoder": ("weights_vit_base_style", "base_style"),
    "cases_encoder_tiny_style": ("weights_vit_tiny_style", "tiny_style"),
    "cases_encoder_random_buffers": ("weights_vit_random_buffers", "tiny_style"),
}


@needs_oracle
@pytest.mark.parametrize(("suite", "name"), oracle.list_cases(*SUITES))
def test_features_equal_the_oracle(suite, name):
    case = oracle.read_cases(suite)[name]
    weights, style = SUITES[suite]
    encoder = model.backbone(
        oracle.read_architecture(style),
        case["modalities"],
        bands=case.get("bands"),
        merge=case["merge_method"],
        weights=oracle.read_tensors(weights),
    )
    inputs = oracle.read_inputs(suite, name)
    with torch.inference_mode():
        all_layers = encoder.features(inputs)
        last = encoder(inputs)
    outputs = oracle.read_case_tensors(suite, name, "out")
    assert outputs
    for key, expected in outputs.items():
        output_name, _, modality = key.partition(".")
        if output_name == "proj_weight_row0":
            actual = encoder.state_dict()["encoder_embeddings.untok_sen2l2a@224.proj.weight"][0]
        else:
            layer = (
                last
                if output_name in ("last", f"layer{encoder.depth - 1}")
                else all_layers[int(output_name[5:])]
            )
            actual = oracle.thin_output(layer[modality] if modality else layer, expected, [1])
        assert oracle.compute_error(actual, expected) <= oracle.FEATURES, key


@needs_oracle
def test_position_tables_equal_the_oracle():
    for key, expected in oracle.read_case_tensors("cases_primitives", "sincos_2d", "out").items():
        size, _, dim_and_rows = key.partition("_d")
        dim, _, rows = dim_and_rows.partition("_")
        column_count, row_count = (int(side) for side in size.split("x"))
        # ^ the fixture states the width first
        table = layers.sincos_grid(row_count, column_count, int(dim))
        if rows:
            table = table[:, [0, 1, 13, 14, 27, 195]]
        assert oracle.compute_error(table, expected) <= oracle.PRIMITIVES, key
    for key, expected in oracle.read_case_tensors("cases_primitives", "sincos_1d", "out").items():
        length, dim = (int(part) for part in key.removesuffix("_rows").split("_d"))
        table = layers.sincos_sequence(length, dim)[:, [0, 1, 2, 3, 255, 511]]
        assert oracle.compute_error(table, expected) <= oracle.PRIMITIVES, key


@needs_oracle
@pytest.mark.parametrize("name", oracle.list_case_names("cases_primitives", "pos_interp_"))
def test_resized_tables_equal_the_oracle(name):
    height, width = (int(side) for side in name.rpartition("_")[2].split("x"))
    (table,) = (
        value
        for key, value in oracle.read_case_tensors("cases_primitives", "sincos_2d", "out").items()
        if key.startswith("14x14") and "rows" not in key
    )
    resized = layers.resize_position_table(table, height // 16, width // 16)
    expected = oracle.read_case_tensors("cases_primitives", name, "out")["pos"]
    assert (
        oracle.compute_error(oracle.thin_output(resized, expected, [1]), expected)
        <= oracle.PRIMITIVES
    )


LISTED = {
    "terramind_v1_tiny__raw6_concat": ("terramind_v1_tiny", {"merge": "concat"}),
    "terramind_v1_small__raw6_concat": ("terramind_v1_small", {"merge": "concat"}),
    "terramind_v1_base__raw6_concat": ("terramind_v1_base", {"merge": "concat"}),
    "terramind_v1_large__raw6_concat": ("terramind_v1_large", {"merge": "concat"}),
    "terramind_v1_tiny__newmod": (
        "terramind_v1_tiny",
        {"modalities": ["S2L2A", "S1GRD", {"NEW": 5}]},
    ),
    "terramind_v1_tiny__bands3_img256": (
        "terramind_v1_tiny",
        {"modalities": ["S2L2A"], "bands": {"S2L2A": ["B04", "B03", "B02"]}, "image_size": 256},
    ),
}


@needs_listings
@pytest.mark.parametrize("listing", LISTED)
def test_keys_and_shapes_are_the_official_ones(listing):
    name, options = LISTED[listing]
    stored = oracle.listing(listing)
    with torch.device("meta"):
        encoder = model.backbone(name, **({"modalities": RAW6} | options))
    assert oracle.list_shapes(encoder) == {
        key: shape for key, (shape, _) in stored["tensors"].items()
    }
    unique = sum(parameter.numel() for parameter in encoder.parameters())
    assert unique == stored["n_unique_params"]
    assert sorted(key for key, _ in encoder.named_buffers()) == sorted(stored["buffers"])


@needs_listings
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_an_official_file_with_all_modalities_loads_into_the_backbone(size):
    stored = oracle.listing(f"terramind_v1_{size}__encdec_all")
    with torch.device("meta"):
        encoder = model.backbone(f"terramind_v1_{size}", RAW6)
        state = {key: torch.empty(shape) for key, (shape, _) in stored["tensors"].items()}
    assert set(encoder.state_dict()) <= set(state)
    assert not [
        key for key in state if key not in encoder.state_dict() and not encoder.is_ignored_key(key)
    ]
