"""The encoder against the numbers of the reference implementation, and its keys and shapes."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as parse

import model
from model import layers

ORACLE = os.environ.get("TERRAMOSAIC_ORACLE")
needs_oracle = pytest.mark.skipif(
    not ORACLE, reason="TERRAMOSAIC_ORACLE is unset: no reference numbers to compare with"
)
LISTINGS = Path(ORACLE).parent / "state_dicts" if ORACLE else Path("absent")
needs_listings = pytest.mark.skipif(
    not LISTINGS.is_dir(), reason="no state-dict listings beside TERRAMOSAIC_ORACLE"
)

FEATURES = 1e-5
PRIMITIVES = 1e-6
RAW6 = ["S2L2A", "S2L1C", "RGB", "S1GRD", "S1RTC", "DEM"]
SIZES = {
    "weights_vit_base_style": {"dim": 48, "heads": 4, "depth": 3},
    "weights_vit_tiny_style": {"dim": 64, "heads": 2, "depth": 2, "gated": False, "bias": True},
}
SIZES["weights_vit_random_buffers"] = SIZES["weights_vit_tiny_style"]
SUITES = {
    "cases_encoder": "weights_vit_base_style",
    "cases_encoder_tiny_style": "weights_vit_tiny_style",
    "cases_encoder_random_buffers": "weights_vit_random_buffers",
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny shapes run faster without handing work around."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def tensors(name):
    packed = (Path(ORACLE) / f"{name}.safetensors.xz").read_bytes()
    found = parse(lzma.decompress(packed))
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


@cache
def suites():
    index = json.loads((Path(ORACLE) / "config.json").read_text())["index"]
    return {name: index[name]["cases"] for name in SUITES}


def all_cases():
    if not ORACLE:
        return [pytest.param("none", "none")]
    return [pytest.param(s, c, id=f"{s}-{c}") for s in SUITES for c in suites()[s]]


def error(got, wanted):
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def inputs_of(stored, name, case):
    prefix = f"{case.get('inputs_from') or name}/in/"
    given = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    if "tensor" in given:
        return given["tensor"]
    names = [m if isinstance(m, str) else next(iter(m)) for m in case["modalities"]]
    return {key: given[key] for key in case.get("input_order") or names if key in given}


def compared(output, wanted):
    """Apply the stride that a case stores its output with, found from the number of tokens."""
    strides = [s for s in (1, 3, 5, 7) if len(range(0, output.shape[1], s)) == wanted.shape[1]]
    assert len(strides) == 1
    return output[:, :: strides[0]]


@needs_oracle
@pytest.mark.parametrize(("suite", "name"), all_cases())
def test_features_equal_the_reference(suite, name):
    case, stored = suites()[suite][name], tensors(suite)
    encoder = model.backbone(
        SIZES[SUITES[suite]],
        case["modalities"],
        bands=case.get("bands"),
        merge=case["merge_method"],
        weights=tensors(SUITES[suite]),
    )
    given = inputs_of(stored, name, case)
    with torch.inference_mode():
        found = encoder.features(given)
        last = encoder(given)
    outputs = {k.split("/")[2]: v for k, v in stored.items() if k.startswith(f"{name}/out/")}
    assert outputs
    for key, wanted in outputs.items():
        part, _, modality = key.partition(".")
        if part == "proj_weight_row0":
            got = encoder.state_dict()["encoder_embeddings.untok_sen2l2a@224.proj.weight"][0]
        else:
            layer = last if part in ("last", f"layer{encoder.depth - 1}") else found[int(part[5:])]
            got = compared(layer[modality] if modality else layer, wanted)
        assert error(got, wanted) <= FEATURES, key


@needs_oracle
def test_position_tables_equal_the_reference():
    stored = tensors("cases_primitives")
    table = layers.sincos_grid(14, 14, 48)
    assert error(table, stored["sincos_2d/out/14x14_d48"]) <= PRIMITIVES
    assert error(layers.sincos_grid(10, 6, 16), stored["sincos_2d/out/6x10_d16"]) <= PRIMITIVES
    # ^ the fixture counts width first
    rows = layers.sincos_grid(14, 14, 768)[:, [0, 1, 13, 14, 27, 195]]
    assert error(rows, stored["sincos_2d/out/14x14_d768_rows"]) <= PRIMITIVES
    sequence = layers.sincos_row(512, 48)[:, [0, 1, 2, 3, 255, 511]]
    assert error(sequence, stored["sincos_1d/out/512_d48_rows"]) <= PRIMITIVES


@needs_oracle
@pytest.mark.parametrize("size", ["96x96", "256x256", "64x160", "448x224"])
def test_resized_tables_equal_the_reference(size):
    stored = tensors("cases_primitives")
    height, width = (int(side) for side in size.split("x"))
    resized = layers.resize_grid(stored["sincos_2d/out/14x14_d48"], height // 16, width // 16)
    assert error(resized[:, ::5], stored[f"pos_interp_{size}/out/pos"]) <= PRIMITIVES


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
    stored = json.loads(gzip.decompress((LISTINGS / f"{listing}.json.gz").read_bytes()))
    with torch.device("meta"):
        built = model.backbone(name, **({"modalities": RAW6} | options))
    found = {key: list(value.shape) for key, value in built.state_dict().items()}
    assert found == {key: shape for key, (shape, _) in stored["tensors"].items()}
    unique = sum(p.numel() for p in built.parameters())
    assert unique == stored["n_unique_params"]
    assert sorted(key for key, _ in built.named_buffers()) == sorted(stored["buffers"])


@needs_listings
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_an_official_file_of_the_whole_family_loads_into_the_backbone(size):
    stored = json.loads(
        gzip.decompress((LISTINGS / f"terramind_v1_{size}__encdec_all.json.gz").read_bytes())
    )
    with torch.device("meta"):
        built = model.backbone(f"terramind_v1_{size}", RAW6)
        state = {key: torch.empty(shape) for key, (shape, _) in stored["tensors"].items()}
    assert set(built.state_dict()) <= set(state)
    assert not [k for k in state if k not in built.state_dict() and not built.foreign_key(k)]
