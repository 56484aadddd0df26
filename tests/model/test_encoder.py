"""The encoder: configuration, bands, merges, checks of inputs and independence of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.errors import ModelError
from model.terramind import config, layers, modalities

TINY = {"dim": 32, "heads": 2, "depth": 2}
MICRO = TINY | {"decoder_depth": 1}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Run on one thread, which is faster for tiny shapes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(names=("S2L2A", "S1RTC", "DEM"), **options):
    return model.backbone(TINY, list(names), **({"weights": {"random": 3}} | options))


def rasters(names=("S2L2A", "S1RTC", "DEM"), size=32, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            batch, len(modalities.get_raster_modality(name).bands), size, size, generator=generator
        )
        for name in names
    }


def test_known_sizes_are_those_of_the_paper():
    base = config.resolve_architecture("terramind_v1_base")
    assert (base.dim, base.heads, base.depth, base.mlp_hidden_dim) == (768, 12, 12, 2048)
    large = config.resolve_architecture("terramind_v1_large")
    assert (large.mlp_hidden_dim, large.feature_layers) == (2730, (5, 11, 17, 23))
    tiny = config.resolve_architecture("terramind_v1_tiny")
    assert (tiny.mlp_hidden_dim, tiny.gated, tiny.bias) == (768, False, True)


def test_a_configuration_comes_from_a_mapping_or_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("dim: 32\nheads: 2\ndepth: 2\n")
    assert config.resolve_architecture(path) == config.resolve_architecture(TINY)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("terramind_v2_base", "terramind_v1_base"),
        ({"dim": 32, "heads": 2}, "depth"),
        ({"dim": 32, "heads": 2, "depth": 2, "hats": 1}, "hats"),
        ({"dim": 33, "heads": 2, "depth": 2}, "multiple"),
        ({"dim": 32, "heads": 2, "depth": "two"}, "depth"),
        ("absent.yaml", "absent.yaml"),
    ],
)
def test_a_wrong_configuration_is_refused(source, says):
    with pytest.raises(ModelError, match=says):
        config.resolve_architecture(source)


@pytest.mark.parametrize("text", ["[1, 2]", "dim: [", "dim: 32"])
def test_a_broken_file_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ModelError):
        config.resolve_architecture(path)


@pytest.mark.parametrize(
    ("user", "key"),
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
def test_names_stand_for_official_keys(user, key):
    assert modalities.find_modality_key(user) == key


def test_bands_have_two_names_each():
    s2 = modalities.get_raster_modality("S2L2A")
    assert [s2.band_index(b) for b in ("B02", "blue", "SWIR_2", "b12")] == [1, 1, 11, 11]
    assert (
        modalities.get_raster_modality("S2L1C").band_index("CIRRUS")
        == modalities.get_raster_modality("S2L1C").band_index("B10")
        == 10
    )
    for modality in modalities.RASTER_MODALITIES.values():
        assert len(modality.bands) == len(modality.aliases) == len(modality.statistics.mean)


@pytest.mark.parametrize("bands", [["B99"], ["B02", "B02"], []])
def test_unknown_repeated_or_no_bands_are_refused(bands):
    with pytest.raises(ModelError):
        make(bands={"S2L2A": bands} if bands else {"S2L2A": ()})


def test_a_band_subset_keeps_the_weights_of_its_bands():
    full, part = make(), make(bands={"S2L2A": ["B12", "BLUE"]})
    key = "encoder_embeddings.untok_sen2l2a@224.proj.weight"
    wide = full.state_dict()[key].view(32, 256, 12)
    assert torch.equal(part.state_dict()[key].view(32, 256, 2), wide[:, :, [11, 1]])
    assert part.band_names("S2L2A") == ("B12", "B02")


def test_a_full_checkpoint_loads_into_an_encoder_of_fewer_bands():
    full = make()
    part = make(bands={"S2L2A": ["B04", "B08"]}, weights=None)
    model.load_state(part, full.state_dict())
    assert torch.equal(
        part.state_dict()["encoder_embeddings.untok_sen2l2a@224.proj.weight"],
        make(bands={"S2L2A": ["B04", "B08"]}).state_dict()[
            "encoder_embeddings.untok_sen2l2a@224.proj.weight"
        ],
    )


def test_zeroed_bands_equal_a_subset():
    full, part = make(["S2L2A"]), make(["S2L2A"], bands={"S2L2A": ["B03", "B11"]})
    x = rasters(["S2L2A"])["S2L2A"]
    blank = torch.zeros_like(x)
    blank[:, [2, 10]] = x[:, [2, 10]]
    torch.testing.assert_close(full(blank), part(x[:, [2, 10]]), atol=1e-5, rtol=0)


def test_patch_embedding_is_a_strided_convolution():
    embedding = make().encoder_embeddings["untok_sen2l2a@224"]
    x = rasters(size=64)["S2L2A"]
    kernel = embedding.proj.weight.view(32, 16, 16, 12).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(x, kernel, stride=16).flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        embedding.proj(embedding.to_patches(x)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_shift_of_one_patch_shifts_the_tokens():
    embedding = make().encoder_embeddings["untok_sen2l2a@224"]
    x = rasters(size=64)["S2L2A"]
    plain, moved = (
        (embedding.proj(embedding.to_patches(v))).view(1, 4, 4, -1)
        for v in (x, torch.roll(x, (16, -16), (2, 3)))
    )
    torch.testing.assert_close(moved, torch.roll(plain, (1, -1), (1, 2)), atol=1e-5, rtol=1e-5)


def test_the_input_mapping_is_not_modified():
    inputs = rasters() | {}
    before = {name: value.clone() for name, value in inputs.items()}
    make()(inputs)
    assert list(inputs) == list(before)
    assert all(torch.equal(inputs[name], before[name]) for name in before)


def test_a_bare_tensor_is_the_first_modality():
    encoder, x = make(), rasters()
    assert torch.equal(encoder(x["S2L2A"]), encoder({"S2L2A": x["S2L2A"]}))


def test_official_keys_are_accepted_as_input_names():
    encoder, x = make(), rasters()
    assert torch.equal(encoder({"untok_dem@224": x["DEM"]}), encoder({"DEM": x["DEM"]}))


def test_only_the_last_layer_is_normed_and_fewer_layers_cost_less():
    encoder, x = make(), rasters()
    ran = []
    for index, block in enumerate(encoder.encoder):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    first = encoder.features(x, [0])[0]
    assert ran == [0]
    all_layers = encoder.features(x)
    assert torch.equal(all_layers[0], first)
    assert torch.equal(all_layers[-1], encoder(x))
    assert torch.equal(encoder.features(x, [-1, 0])[1], first)


def test_merges_agree_with_the_unmerged_tokens():
    x = rasters()
    parts = make(merge="dict")(x)
    stack = torch.stack([parts[name] for name in x])
    assert torch.equal(torch.cat(list(parts.values()), 1), make(merge=None)(x))
    torch.testing.assert_close(make(merge="mean")(x), stack.mean(0))
    torch.testing.assert_close(make(merge="max")(x), stack.amax(0))
    assert torch.equal(make(merge="concat")(x), torch.cat(list(parts.values()), -1))
    assert make(merge="concat").out_dim == 96


def test_concat_counts_images_only():
    encoder = make(["S2L2A", "S1GRD", "Coords"], merge="concat")
    out = encoder({"S2L2A": rasters()["S2L2A"], "Coords": torch.tensor([[7, 8, 3]])})
    assert out.shape == (1, 4, encoder.out_dim)


def test_any_size_works_and_the_table_is_resized_once():
    encoder = make(["DEM"])
    embedding = encoder.encoder_embeddings["untok_dem@224"]
    encoder(torch.randn(1, 1, 64, 160))
    table = embedding.position_table(4, 10)
    assert table is embedding.position_table(4, 10)
    for side in range(2, 14):
        embedding.position_table(side, side)
    assert len(embedding._resized_tables) <= 8


def test_new_weights_drop_the_resized_tables():
    encoder = make(["DEM"])
    x = torch.randn(1, 1, 32, 32)
    encoder(x)
    state = encoder.state_dict() | {
        "encoder_embeddings.untok_dem@224.pos_emb": torch.ones(1, 196, 32)
    }
    fresh = make(["DEM"], weights=state)
    encoder.load_state_dict(state)
    assert torch.equal(encoder(x), fresh(x))
    blunt = make(["DEM"]).bfloat16().float()
    there_and_back = make(["DEM"])
    there_and_back(x)
    there_and_back.bfloat16().float()
    assert torch.equal(there_and_back(x), blunt(x))


def test_training_works_after_inference_at_the_same_size():
    encoder, x = make(["DEM"]), torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        encoder(x)
    encoder(x)[..., 0].sum().backward()
    assert encoder.encoder[0].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(bad):
    x = rasters()
    x["S1RTC"][0, 0, 3, 3] = bad
    with pytest.raises(ModelError, match=r"S1RTC.*fill"):
        make()(x)


@pytest.mark.parametrize(
    ("inputs", "says"),
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
def test_wrong_inputs_are_refused(inputs, says):
    with pytest.raises(ModelError, match=says):
        make()(inputs)


@pytest.mark.parametrize(
    ("inputs", "says"),
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
@pytest.mark.parametrize("build", [make, lambda: model.tim(MICRO, ["S2L2A"])])
def test_what_is_no_standardised_tensor_is_refused(build, inputs, says):
    for call in (build(), build().features):
        with pytest.raises(ModelError, match=says):
            call(inputs)


@pytest.mark.parametrize("build", [make, lambda: model.tim(MICRO, ["S2L2A", "S1RTC", "DEM"])])
def test_inputs_are_checked_in_calls_and_not_in_forward(build, monkeypatch):
    encoder, inputs = build(), rasters()
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


def test_raw_pixels_pass_where_nobody_looks_and_where_they_are_no_pixels():
    raw = {"S2L2A": torch.full((1, 12, 32, 32), 900.0)}
    assert torch.isfinite(make().forward_layers(raw)[-1]).all()
    assert torch.isfinite(make().train()(raw)).all()
    assert make([{"NEW": 1}])(torch.full((1, 1, 32, 32), 900.0)).shape == (1, 4, 32)
    assert make(["tok_sen2l2a@224"])(torch.full((1, 2, 2), 900)).shape == (1, 4, 32)


@pytest.mark.parametrize("merge", ["mean", "max", "dict"])
def test_the_order_of_the_names_changes_no_bit_of_what_is_merged(merge):
    encoder, x = make(merge=merge), rasters(size=48)
    turned = dict(reversed(x.items()))
    straight, reordered = encoder(x), encoder(turned)
    pairs = (
        [(straight, reordered)]
        if merge != "dict"
        else [(straight[name], reordered[name]) for name in x]
    )
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_order_of_the_names_is_that_of_the_blocks_and_of_the_sequence():
    x = rasters()
    turned = dict(reversed(x.items()))
    plain, back = make(merge="concat")(x), make(merge="concat")(turned)
    torch.testing.assert_close(back, torch.cat(plain.chunk(3, -1)[::-1], -1), atol=1e-5, rtol=0)
    plain, back = make(merge=None)(x), make(merge=None)(turned)
    torch.testing.assert_close(back, torch.cat(plain.chunk(3, 1)[::-1], 1), atol=1e-5, rtol=0)


def test_the_public_names_can_be_listed():
    assert set(model.__all__) <= set(dir(model))


@pytest.mark.parametrize("ids", [torch.zeros(1, 2, 2), torch.full((1, 2, 2), 4375)])
def test_token_ids_must_be_ids(ids):
    with pytest.raises(ModelError, match="token ids"):
        make(["LULC"])({"LULC": ids})


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
def test_wrong_declarations_are_refused(names, options):
    with pytest.raises(ModelError):
        model.backbone(TINY, names, **options)


@pytest.mark.parametrize("layer", [[], [2], [-3]])
def test_layers_that_do_not_exist_are_refused(layer):
    with pytest.raises(ModelError, match="layers"):
        make().features(rasters(), layer)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_answer_for_a_sample_does_not_depend_on_its_neighbours(rows, columns, seed):
    encoder = make(["S1RTC"])
    x = torch.randn(3, 2, 16 * rows, 16 * columns, generator=torch.Generator().manual_seed(seed))
    order = [2, 0, 1]
    together, shuffled = encoder(x), encoder(x[order])
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder(x[1:2]), together[1:2], atol=1e-5, rtol=0)


def test_resizing_to_the_same_grid_changes_nothing():
    table = layers.sincos_grid(14, 14, 32)
    torch.testing.assert_close(
        layers.resize_position_table(table, 14, 14), table, atol=1e-6, rtol=0
    )
