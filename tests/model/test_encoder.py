"""The encoder: configuration, bands, merges, checks of inputs and independence of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.errors import ModelError
from model.terramind import architectures, layers, modalities

TINY = {"dim": 32, "heads": 2, "depth": 2}
MICRO = TINY | {"decoder_depth": 1}


@pytest.fixture(autouse=True, scope="module")
def _use_one_thread():
    """Run on one thread, which is faster for tiny shapes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_encoder(names=("S2L2A", "S1RTC", "DEM"), **options):
    return model.backbone(TINY, list(names), **({"weights": {"random": 3}} | options))


def make_rasters(names=("S2L2A", "S1RTC", "DEM"), size=32, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            batch, len(modalities.get_raster_modality(name).bands), size, size, generator=generator
        )
        for name in names
    }


def test_named_architectures_have_the_published_sizes():
    base = architectures.resolve_architecture("terramind_v1_base")
    assert (base.dim, base.heads, base.depth, base.mlp_hidden_dim) == (768, 12, 12, 2048)
    large = architectures.resolve_architecture("terramind_v1_large")
    assert (large.mlp_hidden_dim, large.feature_layers) == (2730, (5, 11, 17, 23))
    tiny = architectures.resolve_architecture("terramind_v1_tiny")
    assert (tiny.mlp_hidden_dim, tiny.gated, tiny.bias) == (768, False, True)


def test_an_architecture_is_read_from_a_mapping_or_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("dim: 32\nheads: 2\ndepth: 2\n")
    assert architectures.resolve_architecture(path) == architectures.resolve_architecture(TINY)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("terramind_v2_base", "terramind_v1_base"),
        ({"dim": 32, "heads": 2}, "depth"),
        ({"dim": 32, "heads": 2, "depth": 2, "hats": 1}, "hats"),
        ({"dim": 33, "heads": 2, "depth": 2}, "multiple"),
        ({"dim": 32, "heads": 2, "depth": "two"}, "depth"),
        ("absent.yaml", "absent.yaml"),
    ],
)
def test_an_invalid_architecture_is_refused(source, message):
    with pytest.raises(ModelError, match=message):
        architectures.resolve_architecture(source)


@pytest.mark.parametrize("text", ["[1, 2]", "dim: [", "dim: 32"])
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ModelError):
        architectures.resolve_architecture(path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("S2L2A", "untok_sen2l2a@224"),
        ("s2l1c", "untok_sen2l1c@224"),
        ("S2RGB", "untok_sen2rgb@224"),
        ("S1", "untok_sen1grd@224"),
        ("sen1RTC", "untok_sen1rtc@224"),
        ("tok_lulc@224", "tok_lulc@224"),
        ("location", "coords"),
        ("S2", None),
        ("landsat", None),
    ],
)
def test_names_are_mapped_to_official_keys(name, key):
    assert modalities.find_modality_key(name) == key


def test_bands_have_two_names():
    s2l2a = modalities.get_raster_modality("S2L2A")
    assert [s2l2a.band_index(band) for band in ("B02", "blue", "SWIR_2", "b12")] == [
        1,
        1,
        11,
        11,
    ]
    assert (
        modalities.get_raster_modality("S2L1C").band_index("CIRRUS")
        == modalities.get_raster_modality("S2L1C").band_index("B10")
        == 10
    )
    for modality in modalities.RASTER_MODALITIES.values():
        assert len(modality.bands) == len(modality.aliases) == len(modality.statistics.mean)


@pytest.mark.parametrize("bands", [["B99"], ["B02", "B02"], []])
def test_unknown_repeated_or_absent_bands_are_refused(bands):
    with pytest.raises(ModelError):
        make_encoder(bands={"S2L2A": bands} if bands else {"S2L2A": ()})


def test_a_band_subset_keeps_the_weights_of_its_bands():
    full_encoder, subset_encoder = make_encoder(), make_encoder(bands={"S2L2A": ["B12", "BLUE"]})
    key = "encoder_embeddings.untok_sen2l2a@224.proj.weight"
    weights = full_encoder.state_dict()[key].view(32, 256, 12)
    assert torch.equal(subset_encoder.state_dict()[key].view(32, 256, 2), weights[:, :, [11, 1]])
    assert subset_encoder.band_names("S2L2A") == ("B12", "B02")


def test_a_full_checkpoint_loads_into_an_encoder_of_fewer_bands():
    full_encoder = make_encoder()
    subset_encoder = make_encoder(bands={"S2L2A": ["B04", "B08"]}, weights=None)
    model.load_state(subset_encoder, full_encoder.state_dict())
    assert torch.equal(
        subset_encoder.state_dict()["encoder_embeddings.untok_sen2l2a@224.proj.weight"],
        make_encoder(bands={"S2L2A": ["B04", "B08"]}).state_dict()[
            "encoder_embeddings.untok_sen2l2a@224.proj.weight"
        ],
    )


def test_zeroed_bands_equal_a_subset_of_bands():
    full_encoder, subset_encoder = (
        make_encoder(["S2L2A"]),
        make_encoder(["S2L2A"], bands={"S2L2A": ["B03", "B11"]}),
    )
    x = make_rasters(["S2L2A"])["S2L2A"]
    zeroed = torch.zeros_like(x)
    zeroed[:, [2, 10]] = x[:, [2, 10]]
    torch.testing.assert_close(
        full_encoder(zeroed), subset_encoder(x[:, [2, 10]]), atol=1e-5, rtol=0
    )


def test_patch_embedding_is_a_strided_convolution():
    embedding = make_encoder().encoder_embeddings["untok_sen2l2a@224"]
    x = make_rasters(size=64)["S2L2A"]
    kernel = embedding.proj.weight.view(32, 16, 16, 12).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(x, kernel, stride=16).flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        embedding.proj(embedding.to_patches(x)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_shift_of_one_patch_shifts_the_tokens():
    embedding = make_encoder().encoder_embeddings["untok_sen2l2a@224"]
    x = make_rasters(size=64)["S2L2A"]
    tokens, shifted_tokens = (
        (embedding.proj(embedding.to_patches(pixels))).view(1, 4, 4, -1)
        for pixels in (x, torch.roll(x, (16, -16), (2, 3)))
    )
    torch.testing.assert_close(
        shifted_tokens, torch.roll(tokens, (1, -1), (1, 2)), atol=1e-5, rtol=1e-5
    )


def test_the_input_mapping_is_not_modified():
    inputs = make_rasters() | {}
    before = {name: value.clone() for name, value in inputs.items()}
    make_encoder()(inputs)
    assert list(inputs) == list(before)
    assert all(torch.equal(inputs[name], before[name]) for name in before)


def test_a_single_tensor_is_taken_as_the_first_modality():
    encoder, x = make_encoder(), make_rasters()
    assert torch.equal(encoder(x["S2L2A"]), encoder({"S2L2A": x["S2L2A"]}))


def test_official_keys_are_accepted_as_input_names():
    encoder, x = make_encoder(), make_rasters()
    assert torch.equal(encoder({"untok_dem@224": x["DEM"]}), encoder({"DEM": x["DEM"]}))


def test_only_the_last_layer_is_normalised_and_unused_layers_do_not_run():
    encoder, x = make_encoder(), make_rasters()
    layers_run = []
    for index, block in enumerate(encoder.encoder):
        block.register_forward_hook(lambda *_, index=index: layers_run.append(index))
    first_layer = encoder.features(x, [0])[0]
    assert layers_run == [0]
    all_layers = encoder.features(x)
    assert torch.equal(all_layers[0], first_layer)
    assert torch.equal(all_layers[-1], encoder(x))
    assert torch.equal(encoder.features(x, [-1, 0])[1], first_layer)


def test_merges_agree_with_the_unmerged_tokens():
    x = make_rasters()
    tokens = make_encoder(merge="dict")(x)
    stack = torch.stack([tokens[name] for name in x])
    assert torch.equal(torch.cat(list(tokens.values()), 1), make_encoder(merge=None)(x))
    torch.testing.assert_close(make_encoder(merge="mean")(x), stack.mean(0))
    torch.testing.assert_close(make_encoder(merge="max")(x), stack.amax(0))
    assert torch.equal(make_encoder(merge="concat")(x), torch.cat(list(tokens.values()), -1))
    assert make_encoder(merge="concat").out_dim == 96


def test_concat_counts_rasters_only():
    encoder = make_encoder(["S2L2A", "S1GRD", "Coords"], merge="concat")
    tokens = encoder({"S2L2A": make_rasters()["S2L2A"], "Coords": torch.tensor([[7, 8, 3]])})
    assert tokens.shape == (1, 4, encoder.out_dim)


def test_any_size_is_accepted_and_position_tables_are_cached():
    encoder = make_encoder(["DEM"])
    embedding = encoder.encoder_embeddings["untok_dem@224"]
    encoder(torch.randn(1, 1, 64, 160))
    table = embedding.position_table(4, 10)
    assert table is embedding.position_table(4, 10)
    for side in range(2, 14):
        embedding.position_table(side, side)
    assert len(embedding._resized_tables) <= 8


def test_new_weights_clear_the_resized_tables():
    encoder = make_encoder(["DEM"])
    x = torch.randn(1, 1, 32, 32)
    encoder(x)
    state = encoder.state_dict() | {
        "encoder_embeddings.untok_dem@224.pos_emb": torch.ones(1, 196, 32)
    }
    new_encoder = make_encoder(["DEM"], weights=state)
    encoder.load_state_dict(state)
    assert torch.equal(encoder(x), new_encoder(x))
    rounded_encoder = make_encoder(["DEM"]).bfloat16().float()
    rounded_after_use = make_encoder(["DEM"])
    rounded_after_use(x)
    rounded_after_use.bfloat16().float()
    assert torch.equal(rounded_after_use(x), rounded_encoder(x))


def test_training_works_after_inference_at_the_same_size():
    encoder, x = make_encoder(["DEM"]), torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        encoder(x)
    encoder(x)[..., 0].sum().backward()
    assert encoder.encoder[0].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(value):
    x = make_rasters()
    x["S1RTC"][0, 0, 3, 3] = value
    with pytest.raises(ModelError, match=r"S1RTC.*fill"):
        make_encoder()(x)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no input"),
        ({"NDVI": torch.zeros(1, 2, 2)}, "unknown modality"),
        ({"S2L2A": torch.zeros(1, 11, 32, 32)}, "12, H, W"),
        ({"S2L2A": torch.zeros(1, 12, 32, 30)}, "multiples of 16"),
        ({"S2L2A": torch.zeros(12, 32, 32)}, "12, H, W"),
        ({"S2L2A": torch.zeros(1, 12, 32, 32), "DEM": torch.zeros(2, 1, 32, 32)}, "batch"),
        ({"S2L2A": torch.zeros(1, 12, 32, 32), "DEM": torch.zeros(1, 1, 16, 32)}, "one size"),
        ({"DEM": torch.zeros(1, 1, 16, 16), "dem": torch.zeros(1, 1, 16, 16)}, "twice"),
    ],
)
def test_invalid_inputs_are_refused(inputs, message):
    with pytest.raises(ModelError, match=message):
        make_encoder()(inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((1, 12, 32, 32), "f4"), "by name expected, not ndarray"),
        (None, "by name expected, not NoneType"),
        ([torch.zeros(1, 12, 32, 32)], "S2L2A"),
        ({"S2L2A": np.zeros((1, 12, 32, 32), "f4")}, r"S2L2A.*torch\.from_numpy"),
        ({"S2L2A": None}, "S2L2A: a torch tensor expected, not NoneType"),
        ({"S2L2A": torch.zeros(0, 12, 32, 32)}, "zero"),
        ({"S2L2A": torch.full((1, 12, 32, 32), 900.0)}, "S2L2A.*mean is 900"),
    ],
)
@pytest.mark.parametrize("build", [make_encoder, lambda: model.tim(MICRO, ["S2L2A"])])
def test_inputs_that_are_not_standardised_tensors_are_refused(build, inputs, message):
    for call in (build(), build().features):
        with pytest.raises(ModelError, match=message):
            call(inputs)


@pytest.mark.parametrize(
    "build", [make_encoder, lambda: model.tim(MICRO, ["S2L2A", "S1RTC", "DEM"])]
)
def test_inputs_are_checked_in_calls_and_not_in_forward(build, monkeypatch):
    encoder, inputs = build(), make_rasters()
    expected = encoder(inputs)
    checks = []
    check_inputs = encoder.check_inputs
    monkeypatch.setattr(
        encoder, "check_inputs", lambda values: checks.append(1) or check_inputs(values)
    )
    assert torch.equal(encoder.forward(inputs), expected)
    assert torch.equal(encoder.forward_layers(inputs, [-1])[0], expected)
    assert checks == []
    assert torch.equal(encoder(inputs), expected)
    assert torch.equal(encoder.features(inputs, [-1])[0], expected)
    assert checks == [1, 1]


def test_raw_pixels_pass_without_checks_and_in_modalities_without_statistics():
    raw = {"S2L2A": torch.full((1, 12, 32, 32), 900.0)}
    assert torch.isfinite(make_encoder().forward_layers(raw)[-1]).all()
    assert torch.isfinite(make_encoder().train()(raw)).all()
    assert make_encoder([{"NEW": 1}])(torch.full((1, 1, 32, 32), 900.0)).shape == (1, 4, 32)
    assert make_encoder(["tok_sen2l2a@224"])(torch.full((1, 2, 2), 900)).shape == (1, 4, 32)


@pytest.mark.parametrize("merge", ["mean", "max", "dict"])
def test_merged_features_do_not_depend_on_the_order_of_the_inputs(merge):
    encoder, x = make_encoder(merge=merge), make_rasters(size=48)
    reversed_inputs = dict(reversed(x.items()))
    features, reversed_features = encoder(x), encoder(reversed_inputs)
    pairs = (
        [(features, reversed_features)]
        if merge != "dict"
        else [(features[name], reversed_features[name]) for name in x]
    )
    assert all(torch.equal(*pair) for pair in pairs)


def test_blocks_and_sequences_follow_the_order_of_the_inputs():
    x = make_rasters()
    reversed_inputs = dict(reversed(x.items()))
    features, reversed_features = (
        make_encoder(merge="concat")(x),
        make_encoder(merge="concat")(reversed_inputs),
    )
    torch.testing.assert_close(
        reversed_features, torch.cat(features.chunk(3, -1)[::-1], -1), atol=1e-5, rtol=0
    )
    features, reversed_features = (
        make_encoder(merge=None)(x),
        make_encoder(merge=None)(reversed_inputs),
    )
    torch.testing.assert_close(
        reversed_features, torch.cat(features.chunk(3, 1)[::-1], 1), atol=1e-5, rtol=0
    )


def test_public_names_are_listed_by_dir():
    assert set(model.__all__) <= set(dir(model))


@pytest.mark.parametrize("ids", [torch.zeros(1, 2, 2), torch.full((1, 2, 2), 4375)])
def test_token_ids_must_be_integers_within_the_vocabulary(ids):
    with pytest.raises(ModelError, match="token ids"):
        make_encoder(["LULC"])({"LULC": ids})


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["S2"], {}),
        ([], {}),
        ("S2L2A", {}),
        (["S2L2A", "sen2l2a"], {}),
        ([{"NEW": 0}], {}),
        (["DEM"], {"merge": "median"}),
        (["DEM"], {"image_size": 100}),
        (["LULC"], {"bands": {"LULC": ["x"]}}),
    ],
)
def test_invalid_declarations_are_refused(names, options):
    with pytest.raises(ModelError):
        model.backbone(TINY, names, **options)


@pytest.mark.parametrize("layer", [[], [2], [-3]])
def test_layers_that_do_not_exist_are_refused(layer):
    with pytest.raises(ModelError, match="layers"):
        make_encoder().features(make_rasters(), layer)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 99))
def test_features_of_a_sample_do_not_depend_on_its_batch(rows, columns, seed):
    encoder = make_encoder(["S1RTC"])
    x = torch.randn(3, 2, 16 * rows, 16 * columns, generator=torch.Generator().manual_seed(seed))
    order = [2, 0, 1]
    features, shuffled = encoder(x), encoder(x[order])
    torch.testing.assert_close(shuffled, features[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder(x[1:2]), features[1:2], atol=1e-5, rtol=0)


def test_resizing_to_the_same_grid_changes_nothing():
    table = layers.sincos_grid(14, 14, 32)
    torch.testing.assert_close(
        layers.resize_position_table(table, 14, 14), table, atol=1e-6, rtol=0
    )
