"""Loading, writing and initialising weights: strict, pinned, and without pickled code."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import model
from model.errors import ModelError, WeightsError
from model.terramind import layers
from model.weights import checkpoint_file, initialise, loading

TINY = {"dim": 32, "heads": 2, "depth": 2}


@pytest.fixture
def encoder():
    return model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 1})


@pytest.fixture
def weight_file(tmp_path, encoder):
    path = tmp_path / "w.safetensors"
    return path, loading.write_state_dict(path, encoder.state_dict())


def have_equal_states(first, second):
    first_state, second_state = first.state_dict(), second.state_dict()
    return first_state.keys() == second_state.keys() and all(
        torch.equal(first_state[key], second_state[key]) for key in first_state
    )


def test_errors_are_value_errors():
    assert issubclass(WeightsError, ModelError)
    assert issubclass(ModelError, ValueError)


def test_a_file_with_the_pinned_digest_loads(encoder, weight_file):
    path, sha256 = weight_file
    for source in (path, str(path), {"path": path, "sha256": sha256}):
        assert have_equal_states(model.backbone(TINY, ["S2L2A", "DEM"], weights=source), encoder)


def test_a_wrong_digest_is_refused(weight_file):
    with pytest.raises(WeightsError, match="pinned"):
        model.backbone(TINY, ["S2L2A", "DEM"], weights={"path": weight_file[0], "sha256": "0" * 64})


def test_a_flipped_bit_is_refused(weight_file):
    path, sha256 = weight_file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        loading.read_state_dict(path, sha256)


@pytest.mark.parametrize("keep", [0, 5, 200])
def test_a_truncated_file_is_refused(weight_file, keep):
    path, _ = weight_file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="damaged"):
        loading.read_state_dict(path)


class CodePickle:
    def __reduce__(self):
        return (sys.exit, ("the pickle ran",))


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_a_pickle_with_code_is_refused(tmp_path, suffix):
    path = tmp_path / f"evil{suffix}"
    torch.save({"state_dict": CodePickle()}, path)
    with pytest.raises(WeightsError, match="more than tensors"):
        loading.read_state_dict(path)


def test_a_damaged_pickle_is_refused(tmp_path, encoder):
    path = tmp_path / "w.pt"
    torch.save(encoder.state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError):
        loading.read_state_dict(path)


def test_a_pickle_of_tensors_only_is_loaded(tmp_path, encoder):
    path = tmp_path / "TerraMind.pt"
    torch.save(encoder.state_dict(), path)
    assert have_equal_states(model.backbone(TINY, ["S2L2A", "DEM"], weights=path), encoder)


@pytest.mark.parametrize("name", ["absent.safetensors", "w.npz"])
def test_absent_or_unknown_files_are_refused(tmp_path, name):
    (tmp_path / "w.npz").write_bytes(b"x")
    with pytest.raises(WeightsError, match=name):
        loading.read_state_dict(tmp_path / name)


def test_lightning_files_and_prefixes_are_unwrapped(encoder):
    state = {f"model.{key}": value for key, value in encoder.state_dict().items()}
    wrapped = {"state_dict": state | {"criterion.weight": torch.ones(3)}, "epoch": 3}
    loaded = model.backbone(TINY, ["S2L2A", "DEM"], weights=wrapped)
    assert have_equal_states(loaded, encoder)


def test_missing_unexpected_and_misshapen_keys_are_named(encoder):
    state = dict(encoder.state_dict())
    del state["encoder.1.mlp.fc2.weight"]
    state["encoder.2.mlp.fc2.weight"] = torch.ones(3)
    state["encoder_norm.weight"] = torch.ones(7)
    with pytest.raises(WeightsError) as error:
        model.load_state(encoder, state)
    for phrase in (
        "1 missing: encoder.1.mlp.fc2",
        "unexpected: encoder.2.mlp.fc2",
        "(7,) instead of (32,)",
    ):
        assert phrase in str(error.value)


def test_a_refused_state_changes_nothing(encoder):
    before = loading.hash_state_dict(encoder.state_dict())
    state = {key: value + 1 for key, value in encoder.state_dict().items()}
    del state["encoder_norm.weight"]
    with pytest.raises(WeightsError):
        model.load_state(encoder, state)
    assert loading.hash_state_dict(encoder.state_dict()) == before


def test_buffers_may_be_absent_and_other_parts_are_ignored(encoder):
    parameters = {key for key, _ in encoder.named_parameters()}
    state = {key: value for key, value in encoder.state_dict().items() if key in parameters}
    state |= {
        "decoder.0.norm1.weight": torch.ones(32),
        "mask_token": torch.zeros(1, 1, 32),
        "encoder_embeddings.untok_sen1grd@224.mod_emb": torch.zeros(1, 1, 32),
    }
    assert have_equal_states(
        model.load_state(model.backbone(TINY, ["S2L2A", "DEM"]), state), encoder
    )


def test_position_tables_of_another_image_size_are_refused_with_a_remedy(encoder):
    with pytest.raises(WeightsError, match="image_size 224"):
        model.backbone(TINY, ["S2L2A", "DEM"], image_size=256, weights=encoder.state_dict())


def test_any_module_is_loaded_strictly():
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="missing: bias"):
        model.load_state(linear, {"weight": torch.ones(2, 2)})
    with pytest.raises(WeightsError, match="not tensors"):
        model.load_state(linear, {"weight": 3})
    with pytest.raises(WeightsError, match="no state dict"):
        model.load_state(linear, {})


def test_half_precision_weights_are_cast_to_the_dtype_of_the_module(encoder):
    state = {key: value.half() for key, value in encoder.state_dict().items()}
    model.load_state(encoder, state)
    assert encoder.encoder_norm.weight.dtype == torch.float32


def test_random_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    first = model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 5})
    torch.manual_seed(2)
    second = model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 5})
    other_seed = model.backbone(TINY, ["S2L2A", "DEM"], weights={"random": 6})
    assert have_equal_states(first, second)
    assert not have_equal_states(first, other_seed)


@pytest.mark.parametrize("source", [{"random": -1}, {"random": "x"}, {"seed": 3}, {"random": True}])
def test_invalid_sources_are_refused(source):
    with pytest.raises(WeightsError):
        model.backbone(TINY, ["DEM"], weights=source)


def test_the_digest_of_a_state_does_not_depend_on_the_file(tmp_path, encoder):
    state = encoder.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "a.safetensors")
    loaded = loading.read_state_dict(tmp_path / "a.safetensors")
    assert loading.hash_state_dict(loaded) == loading.hash_state_dict(state)
    loaded["encoder_norm.weight"] = loaded["encoder_norm.weight"] + 1e-6
    assert loading.hash_state_dict(loaded) != loading.hash_state_dict(state)


def test_writing_twice_gives_the_same_bytes(tmp_path, encoder):
    state = encoder.state_dict()
    first = loading.write_state_dict(tmp_path / "a.safetensors", state)
    second = loading.write_state_dict(
        tmp_path / "b.safetensors", dict(reversed(list(state.items())))
    )
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_prefixes_of_wrappers_are_removed(encoder):
    for prefix in ("model.", "module.", "_orig_mod.", "module._orig_mod."):
        state = {prefix + key: value for key, value in encoder.state_dict().items()}
        assert have_equal_states(model.backbone(TINY, ["S2L2A", "DEM"], weights=state), encoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_of_other_dtypes_are_loaded_in_single_precision(tmp_path, encoder, dtype, suffix):
    path = tmp_path / f"w{suffix}"
    state = {key: value.to(dtype) for key, value in encoder.state_dict().items()}
    loading.write_state_dict(path, state) if suffix == ".safetensors" else torch.save(state, path)
    loaded = model.backbone(TINY, ["S2L2A", "DEM"], weights=path).state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[key], state[key].float()) for key in state)


def test_integers_are_not_weights(encoder):
    state = dict(encoder.state_dict())
    state["encoder_norm.weight"] = torch.ones(TINY["dim"], dtype=torch.int8)
    with pytest.raises(WeightsError, match=r"encoder_norm.weight \(32,\) of whole numbers instead"):
        model.load_state(encoder, state)


def test_files_of_old_torch_versions_are_loaded(tmp_path, encoder):
    path = tmp_path / "old.pt"
    torch.save(encoder.state_dict(), path, _use_new_zipfile_serialization=False)
    assert have_equal_states(model.backbone(TINY, ["S2L2A", "DEM"], weights=path), encoder)


def test_a_lightning_file_is_read_completely(tmp_path, encoder):
    path = tmp_path / "task.ckpt"
    checkpoint = {
        "state_dict": dict(encoder.state_dict()),
        "hyper_parameters": {"lr": 1e-4},
        "epoch": 3,
    }
    torch.save(checkpoint, path)
    content = loading.read_checkpoint(path)
    assert content["hyper_parameters"] == {"lr": 1e-4}
    assert loading.extract_state_dict(content).keys() == encoder.state_dict().keys()
    torch.save([torch.ones(2)], path)
    with pytest.raises(WeightsError, match="hold a list"):
        loading.read_checkpoint(path)


MEMORY_PROGRAM = """
import resource, sys
from model.weights import loading
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
loading.read_state_dict(sys.argv[2])
before = peak()
state = loading.read_state_dict(sys.argv[1])
print(peak() - before, sum(value.nbytes for value in state.values()))
"""


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_tensors_are_read_lazily(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in ("large", "small")]
    for path, count in zip(paths, (1_500_000, 2), strict=True):
        state = {f"k{index}": torch.ones(count) for index in range(10)}
        loading.write_state_dict(path, state) if suffix == ".safetensors" else torch.save(
            state, path
        )
    process = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, *paths],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    memory_growth, tensor_bytes = map(int, process.stdout.split())
    assert tensor_bytes == 60_000_000
    assert memory_growth < tensor_bytes / 4


# --- tied weights ----------------------------------------------------------------------------


class TiedModule(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token_emb = torch.nn.Embedding(5, 3)
        self.to_logits = torch.nn.Linear(3, 5, bias=False)
        self.to_logits.weight = self.token_emb.weight


def test_either_name_of_a_tied_weight_is_enough():
    state = TiedModule().state_dict()
    for key in state:
        loaded = model.load_state(TiedModule(), {key: state[key]})
        assert torch.equal(loaded.to_logits.weight, state[key])
        assert loaded.to_logits.weight is loaded.token_emb.weight
    with pytest.raises(WeightsError, match=r"2 missing: token_emb.weight, to_logits.weight"):
        model.load_state(TiedModule(), {"x": torch.ones(1)})


def test_different_values_of_a_tied_weight_are_refused():
    state = {key: value.clone() for key, value in TiedModule().state_dict().items()}
    assert model.load_state(TiedModule(), state)
    state["to_logits.weight"][0, 0] += 1
    with pytest.raises(
        WeightsError, match=r"to_logits\.weight and token_emb\.weight, which are one"
    ):
        model.load_state(TiedModule(), state)


def test_a_tied_weight_is_written_under_each_of_its_names(tmp_path):
    tied = TiedModule()
    loading.write_state_dict(tmp_path / "w.safetensors", tied.state_dict())
    assert have_equal_states(model.load_state(TiedModule(), tmp_path / "w.safetensors"), tied)


# --- comparing without memory ----------------------------------------------------------------


def test_a_module_on_the_meta_device_can_be_compared(encoder):
    with torch.device("meta"):
        empty = model.backbone(TINY, ["S2L2A", "DEM"])
    _, mismatch = loading.compare_state_dict(empty, encoder.state_dict())
    assert not mismatch
    state = dict(encoder.state_dict())
    del state["encoder_norm.weight"]
    state["head"] = torch.ones(1)
    _, mismatch = loading.compare_state_dict(empty, state)
    assert (mismatch.missing, mismatch.unexpected) == (("encoder_norm.weight",), ("head",))
    assert str(mismatch) == "1 missing: encoder_norm.weight; 1 unexpected: head"


# --- writing ---------------------------------------------------------------------------------


def test_metadata_is_stored_with_the_tensors(tmp_path):
    path, metadata = tmp_path / "w.safetensors", {"hyper_parameters": {"lr": 0.1, "names": ["ä"]}}
    loading.write_state_dict(path, {"a": torch.ones(2)}, metadata)
    assert checkpoint_file.read_metadata(path) == metadata
    assert loading.read_state_dict(path).keys() == {"a"}
    loading.write_state_dict(path, {"a": torch.ones(2)})
    assert checkpoint_file.read_metadata(path) == {}
    path.write_bytes(b"no")
    with pytest.raises(WeightsError, match="damaged"):
        checkpoint_file.read_metadata(path)


def test_a_failed_write_leaves_the_file_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    loading.write_state_dict(path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def fail_to_save(_, temporary_path, __):
        temporary_path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file, "save_file", fail_to_save)
    with pytest.raises(OSError, match="No space"):
        loading.write_state_dict(path, {"a": torch.zeros(2)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


# --- initialisation --------------------------------------------------------------------------


class AllLayers(torch.nn.Module):
    """One layer of each kind that the models have."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(64, 32, 3)
        self.line = torch.nn.Conv1d(32, 96, 1)
        self.up = torch.nn.ConvTranspose2d(32, 16, 2, 2)
        self.group = torch.nn.GroupNorm(4, 32)
        self.norm = torch.nn.BatchNorm2d(32)
        self.token_emb = torch.nn.Embedding(100, 64)
        self.qkv = torch.nn.Linear(64, 192)
        self.mask_token = torch.nn.Parameter(torch.full((1, 1, 64), 9.0))
        self.scale = torch.nn.Parameter(torch.tensor(9.0))
        table = layers.sincos_grid(4, 4, 64)
        self.pos_emb = torch.nn.Parameter(table, requires_grad=False)


def test_every_kind_of_layer_is_initialised():
    module = loading.initialise(AllLayers(), 3).requires_grad_(False)
    assert float(module.conv.weight.std()) == pytest.approx((2 / (9 * 96)) ** 0.5, rel=0.05)
    assert float(module.line.weight.std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert float(module.qkv.weight.std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert float(module.token_emb.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(module.mask_token.std()) == pytest.approx(0.02, rel=0.3)
    assert bool((module.group.weight == 1).all())
    assert bool((module.norm.weight == 1).all())
    assert float(module.scale) == 1
    for name, value in module.named_parameters():
        assert bool((value == 0).all()) == name.endswith("bias")


def test_position_tables_are_not_randomised():
    module = loading.initialise(AllLayers(), 3)
    assert torch.equal(module.pos_emb, layers.sincos_grid(4, 4, 64))


def test_frozen_parts_are_randomised():
    """A frozen sampler must also depend on the seed only."""
    first, second = AllLayers().requires_grad_(False), AllLayers()
    assert have_equal_states(loading.initialise(first, 3), loading.initialise(second, 3))


def test_the_initial_value_of_a_parameter_does_not_depend_on_others():
    all_layers = loading.initialise(AllLayers(), 3)
    module = torch.nn.Module()
    module.qkv = torch.nn.Linear(64, 192)
    assert torch.equal(loading.initialise(module, 3).qkv.weight, all_layers.qkv.weight)


def _build_tokenizer(source):
    size = {"modality": "DEM", "dim": 32, "depth": 1, "heads": 2, "image_size": 32}
    return model.tokenizer(size | {"unet": {"channels": 32, "blocks": 1}}, source)


def _build_generator(source):
    size = TINY | {"decoder_depth": 1}
    return model.generator(size, ["DEM"], ["LULC"], weights=source, tokenizers={})


BUILDERS = {
    "backbone": lambda source: model.backbone(TINY, ["DEM"], merge="concat", weights=source),
    "segmenter": lambda source: model.segmenter(TINY, ["DEM"], 3, layers=[0, 1], weights=source),
    "tokenizer": _build_tokenizer,
    "generator": _build_generator,
    "thinking": lambda source: model.tim(TINY | {"decoder_depth": 1}, ["DEM"], weights=source),
    "everything": lambda source: loading.load_weights(AllLayers(), source),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_skipped_initialisation_does_not_change_the_result(build):
    expected = loading.load_weights(build(None), {"random": 4})
    with initialise.skip_init():
        without_init = build({"random": 4})
        loaded = build(expected.state_dict())
    assert have_equal_states(without_init, expected)
    assert have_equal_states(loaded, expected)
    assert have_equal_states(build({"random": 4}), expected)


def test_initialisation_is_skipped_only_where_requested():
    with initialise.skip_init(enabled=False):
        assert float(torch.nn.GroupNorm(2, 4).weight.detach().sum()) == 4
    torch.manual_seed(1)
    with initialise.skip_init():
        torch.nn.Linear(300, 300)
        assert torch.equal(torch.zeros(2) + 1, torch.ones(2))
    random_numbers = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(random_numbers, torch.rand(3))
    # ^ no random numbers were drawn for the layer


# --- folders and the hub ---------------------------------------------------------------------


def test_the_only_weight_file_of_a_folder_is_loaded(tmp_path):
    backbone = model.backbone("terramind_v1_tiny", ["DEM"], weights={"random": 2})
    loading.write_state_dict(tmp_path / "mine.safetensors", backbone.state_dict())
    for source in (tmp_path, str(tmp_path), {"path": tmp_path}):
        assert have_equal_states(
            model.backbone("terramind_v1_tiny", ["DEM"], weights=source), backbone
        )
    loading.write_state_dict(tmp_path / "other.safetensors", {"a": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"holds mine.safetensors, other.safetensors: TerraMind"):
        model.backbone("terramind_v1_tiny", ["DEM"], weights=tmp_path)
    torch.save(backbone.state_dict(), tmp_path / "TerraMind_v1_tiny.pt")
    assert have_equal_states(
        model.backbone("terramind_v1_tiny", ["DEM"], weights=tmp_path), backbone
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no weights: one file expected"):
        loading.find_weight_file(tmp_path / "empty")


@pytest.fixture
def weights_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def make_fake_hub(hf_hub_download):
    return types.SimpleNamespace(hf_hub_download=hf_hub_download)


def test_an_unreachable_hub_is_reported_with_a_remedy(monkeypatch, weights_home):
    def raise_os_error(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", make_fake_hub(raise_os_error))
    with pytest.raises(WeightsError, match=r"no route to host.*TerraMind_v1_tiny\.pt"):
        model.backbone("terramind_v1_tiny", ["DEM"], weights="hub")


def test_the_file_of_the_hub_is_loaded_at_the_requested_revision_and_pinned(
    monkeypatch, tmp_path, weights_home
):
    backbone = model.backbone("terramind_v1_tiny", ["DEM"], weights={"random": 2})
    path = tmp_path / "TerraMind_v1_tiny.pt"
    torch.save(backbone.state_dict(), path)
    requests = []

    def fetch(repo, weight_file, revision=None):
        requests.append((repo, weight_file, revision))
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", make_fake_hub(fetch))
    loaded = model.backbone("terramind_v1_tiny", ["DEM"], weights="hub", revision="abc")
    assert have_equal_states(loaded, backbone)
    assert requests == [("ibm-esa-geospatial/TerraMind-1.0-tiny", "TerraMind_v1_tiny.pt", "abc")]
    torch.save({key: value + 1 for key, value in backbone.state_dict().items()}, path)
    with pytest.raises(WeightsError, match="pinned since their first use"):
        model.backbone("terramind_v1_tiny", ["DEM"], weights="hub", revision="abc")


def test_an_unpublished_configuration_has_no_hub_weights():
    with pytest.raises(WeightsError, match="no official weights"):
        model.backbone(TINY, ["DEM"], weights="hub")
