"""Only the pinned weights are loaded, only as data, and only where they fit."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file

import model
from model import weights
from model.errors import ModelError, WeightsError

TINY = {"dim": 32, "heads": 2, "depth": 2}


@pytest.fixture
def encoder():
    return model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 1})


@pytest.fixture
def file(tmp_path, encoder):
    path = tmp_path / "w.safetensors"
    return path, weights.write(path, encoder.state_dict())


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_errors_are_value_errors():
    assert issubclass(WeightsError, ModelError)
    assert issubclass(ModelError, ValueError)


def test_a_file_with_the_pinned_digest_loads(encoder, file):
    path, sha256 = file
    for source in (path, str(path), {"path": path, "sha256": sha256}):
        assert same(model.backbone(TINY, ["S2L2A", "DEM"], weights=source), encoder)


def test_a_wrong_digest_is_refused(file):
    with pytest.raises(WeightsError, match="pinned"):
        model.backbone(TINY, ["S2L2A", "DEM"], weights={"path": file[0], "sha256": "0" * 64})


def test_a_flipped_bit_is_refused(file):
    path, sha256 = file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        weights.read(path, sha256)


@pytest.mark.parametrize("keep", [0, 5, 200])
def test_a_truncated_file_is_refused(file, keep):
    path, _ = file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="damaged"):
        weights.read(path)


class Evil:
    def __reduce__(self):
        return (sys.exit, ("the pickle ran",))


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_an_evil_pickle_is_refused(tmp_path, suffix):
    path = tmp_path / f"evil{suffix}"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(WeightsError, match="more than tensors"):
        weights.read(path)


def test_a_damaged_pickle_is_refused(tmp_path, encoder):
    path = tmp_path / "w.pt"
    torch.save(encoder.state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError):
        weights.read(path)


def test_a_plain_pickle_of_tensors_loads(tmp_path, encoder):
    path = tmp_path / "TerraMind.pt"
    torch.save(encoder.state_dict(), path)
    assert same(model.backbone(TINY, ["S2L2A", "DEM"], weights=path), encoder)


@pytest.mark.parametrize("name", ["absent.safetensors", "w.npz"])
def test_absent_or_unknown_files_are_refused(tmp_path, name):
    (tmp_path / "w.npz").write_bytes(b"x")
    with pytest.raises(WeightsError, match=name):
        weights.read(tmp_path / name)


def test_lightning_files_and_prefixes_are_unwrapped(encoder):
    state = {f"model.{key}": value for key, value in encoder.state_dict().items()}
    wrapped = {"state_dict": state | {"criterion.weight": torch.ones(3)}, "epoch": 3}
    fresh = model.backbone(TINY, ["S2L2A", "DEM"], weights=wrapped)
    assert same(fresh, encoder)


def test_missing_superfluous_and_misshapen_keys_are_named(encoder):
    state = dict(encoder.state_dict())
    del state["encoder.1.mlp.fc2.weight"]
    state["encoder.2.mlp.fc2.weight"] = torch.ones(3)
    state["encoder_norm.weight"] = torch.ones(7)
    with pytest.raises(WeightsError) as caught:
        model.load_state(encoder, state)
    for part in ("1 missing: encoder.1.mlp.fc2", "unexpected: encoder.2.mlp.fc2", "(7,) instead"):
        assert part in str(caught.value)


def test_a_refused_state_changes_nothing(encoder):
    before = weights.digest_of_state(encoder.state_dict())
    state = {key: value + 1 for key, value in encoder.state_dict().items()}
    del state["encoder_norm.weight"]
    with pytest.raises(WeightsError):
        model.load_state(encoder, state)
    assert weights.digest_of_state(encoder.state_dict()) == before


def test_buffers_may_lack_and_parts_of_the_family_are_left_out(encoder):
    parameters = {key for key, _ in encoder.named_parameters()}
    state = {key: value for key, value in encoder.state_dict().items() if key in parameters}
    state |= {
        "decoder.0.norm1.weight": torch.ones(32),
        "mask_token": torch.zeros(1, 1, 32),
        "encoder_embeddings.untok_sen1grd@224.mod_emb": torch.zeros(1, 1, 32),
    }
    assert same(model.load_state(model.backbone(TINY, ["S2L2A", "DEM"]), state), encoder)


def test_position_tables_of_another_image_size_are_refused_with_the_way_out(encoder):
    with pytest.raises(WeightsError, match="image_size 224"):
        model.backbone(TINY, ["S2L2A", "DEM"], image_size=256, weights=encoder.state_dict())


def test_any_module_loads_strictly():
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="missing: bias"):
        model.load_state(linear, {"weight": torch.ones(2, 2)})
    with pytest.raises(WeightsError, match="not tensors"):
        model.load_state(linear, {"weight": 3})
    with pytest.raises(WeightsError, match="no state dict"):
        model.load_state(linear, {})


def test_half_precision_weights_become_the_module_s_own(encoder):
    state = {key: value.half() for key, value in encoder.state_dict().items()}
    model.load_state(encoder, state)
    assert encoder.encoder_norm.weight.dtype == torch.float32


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 5})
    torch.manual_seed(2)
    two = model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 5})
    three = model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 6})
    assert same(one, two)
    assert not same(one, three)


@pytest.mark.parametrize("source", [{"random": -1}, {"random": "x"}, {"seed": 3}, {"random": True}])
def test_sources_that_make_no_sense_are_refused(source):
    with pytest.raises(WeightsError):
        model.backbone(TINY, ["DEM"], weights=source)


def test_the_digest_of_a_state_does_not_depend_on_the_file(tmp_path, encoder):
    state = encoder.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "a.safetensors")
    again = weights.read(tmp_path / "a.safetensors")
    assert weights.digest_of_state(again) == weights.digest_of_state(state)
    again["encoder_norm.weight"] = again["encoder_norm.weight"] + 1e-6
    assert weights.digest_of_state(again) != weights.digest_of_state(state)


def test_writing_twice_gives_the_same_bytes(tmp_path, encoder):
    state = encoder.state_dict()
    first = weights.write(tmp_path / "a.safetensors", state)
    second = weights.write(tmp_path / "b.safetensors", dict(reversed(list(state.items()))))
    assert first == second
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_without_the_hub_the_error_names_file_and_place(monkeypatch, size):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError) as caught:
        weights.from_hub(f"terramind_v1_{size}")
    assert f"TerraMind_v1_{size}.pt" in str(caught.value)
    assert f"ibm-esa-geospatial/TerraMind-1.0-{size}" in str(caught.value)
    assert "weights: /path/to/" in str(caught.value)


def test_an_unreachable_hub_is_told_in_the_same_way(monkeypatch):
    import types

    def refuse(*_, **__):
        raise OSError("no route to host")

    fake = types.SimpleNamespace(hf_hub_download=refuse)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    with pytest.raises(WeightsError, match="no route to host"):
        model.backbone("terramind_v1_tiny", ["DEM"], weights="hub")


def test_the_hub_s_file_is_loaded_at_the_asked_revision(monkeypatch, tmp_path):
    import types

    tiny = model.backbone("terramind_v1_tiny", ["DEM"], weights={"random": 2})
    path = tmp_path / "TerraMind_v1_tiny.pt"
    torch.save(tiny.state_dict(), path)
    asked = []

    def fetch(repo, file, revision=None):
        asked.append((repo, file, revision))
        return str(path)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=fetch)
    )
    found = model.backbone("terramind_v1_tiny", ["DEM"], weights="hub", revision="abc")
    assert same(found, tiny)
    assert asked == [("ibm-esa-geospatial/TerraMind-1.0-tiny", "TerraMind_v1_tiny.pt", "abc")]


def test_no_hub_weights_for_a_free_configuration():
    with pytest.raises(WeightsError, match="no official weights"):
        model.backbone(TINY, ["DEM"], weights="hub")
