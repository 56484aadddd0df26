"""`terramosaic models check` and `convert`: what a file of weights is, and what becomes of it."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch

import model
from model.errors import WeightsError
from model.predictor import card_file, registry
from model.terramind import modalities
from model.tools import convert, model_list
from model.weights import (
    checkpoint_file,
    checksums,
    hub,
    loading,
    state_dict_contents,
)
from tests.support import lightning_checkpoints
from tests.support.empty_weights import (  # noqa: F401
    COORDS,
    LULC,
    TINY,
    TOY,
    answer,
    hollow,
    own_home,
    refused,
    run,
    shapes_of,
    shapes_of_tiny,
)
from tests.support.oracle import LISTINGS, listing, needs_listings

DEMO_WEIGHTS = registry.DEMO_CARD_PATH.with_name("weights.safetensors")


# --- check -----------------------------------------------------------------------------------


def test_a_backbone_is_told(tmp_path, capsys, tiny_shapes):
    path = hollow(tmp_path / "mine.pt", tiny_shapes)
    found = answer(capsys, "check", path, name="models-check")
    assert found["ok"]
    assert (found["kind"], found["fits"], found["image_size"]) == ("encoder", [TINY], 224)
    assert found["sha256"] == checksums.hash_file(path)
    assert found["inputs"] == [
        {"name": "S2L2A", "form": "pixels", "size": 12},
        {"name": "DEM", "form": "pixels", "size": 1},
        {"name": "LULC", "form": "tokens", "size": 4375},
    ]
    counted = sum(torch.Size(shape).numel() for shape in tiny_shapes.values())
    assert found["parameters"] == counted
    assert found["dtypes"] == {"float32": counted}
    assert found["parts"] == {"encoder": counted}
    assert run("check", path, "--as", TINY) == 0
    out = capsys.readouterr().out
    assert "S2L2A (channels: 12)" in out
    assert f"fits       {TINY}" in out


@needs_listings
@pytest.mark.parametrize("name", ["terramind_v1_tiny", "terramind_v1_base"])
def test_official_files_are_recognised(tmp_path, capsys, name):
    shapes = {k: shape for k, (shape, _) in listing(f"{name}__encdec_all")["tensors"].items()}
    path = hollow(tmp_path / "file.pt", shapes)
    found = answer(capsys, "check", path, name="models-check")
    assert found["kind"] == "encoder-decoder"
    assert found["fits"] == [name, f"{name}_generate", f"{name}_tim"]
    assert {entry["name"] for entry in found["outputs"]} == set(modalities.TARGET_MODALITIES)
    assert run("check", path, "--as", f"{name}_generate") == 0


def part_of_decoder(key):
    return state_dict_contents.find_part(key) == "decoder"


@needs_listings
@pytest.mark.parametrize("name", model_list.TOKENIZER_PARAMETERS)
def test_official_tokenizers_are_recognised(tmp_path, capsys, name):
    shapes = {key: shape for key, (shape, _) in listing(name)["tensors"].items()}
    found = answer(capsys, "check", hollow(tmp_path / "t.pt", shapes), name="models-check")
    assert found["kind"] == "tokenizer"
    assert name in found["fits"]
    assert len(found["fits"]) == (1 if name.endswith(("s2l2a", "lulc")) else 2)
    # ^ elevation and NDVI are alike, and so are the two kinds of radar
    half = {key: shape for key, shape in shapes.items() if not part_of_decoder(key)}
    assert answer(capsys, "check", hollow(tmp_path / "t.pt", half), name="models-check")["ok"]


@needs_listings
def test_a_published_generator_and_a_thinking_backbone_are_told(tmp_path, capsys):
    for variant, kind in (("generate__s2l2a_s1grd_to_lulc_dem", "generator"),
                          ("tim__s2l2a_s1grd_lulc", "tim")):  # fmt: skip
        told = listing(f"{TINY}_{variant}")["tensors"]
        shapes = {key: shape for key, (shape, _) in told.items()}
        path = hollow(tmp_path / f"{kind}.pt", shapes)
        found = answer(capsys, "check", path, name="models-check")
        assert found["kind"] == kind
        assert found["fits"] == [f"{TINY}_{variant.partition('__')[0]}"]


def test_the_demo_and_one_s_own_segmenter_are_told(tmp_path, capsys):
    found = answer(capsys, "check", "demo", name="models-check")
    assert (found["kind"], found["ok"]) == ("segmenter", True)
    assert "demo" in found["fits"]
    card = card_file.from_mapping(TOY, "toy")
    registry.save_segmenter(tmp_path, loading.initialise(registry.build_segmenter(card), 1), card)
    found = answer(capsys, "check", tmp_path / "weights.safetensors", name="models-check")
    assert found["fits"] == [str(tmp_path / "card.json")]
    assert answer(capsys, "check", tmp_path, name="models-check")["fits"] == found["fits"]


def test_a_name_is_checked_where_its_file_lies(home, capsys, tiny_shapes):
    (home / "weights").mkdir(parents=True)
    hollow(home / "weights" / hub.OFFICIAL_FILES[TINY].file, tiny_shapes)
    assert answer(capsys, "check", TINY, name="models-check")["ok"]
    assert not answer(capsys, "check", f"{TINY}_generate", name="models-check", code=2)["ok"]
    hollow(home / "weights" / hub.OFFICIAL_FILES[TINY].file, {"a": [1]})
    assert "pinned" in refused(capsys, "check", TINY)


def test_a_misfit_is_told_key_by_key(tmp_path, capsys, tiny_shapes):
    shapes = dict(tiny_shapes)
    del shapes["encoder.11.mlp.fc2.weight"]
    shapes["encoder_norm.weight"] = [7]
    shapes["extra"] = [2]
    path = hollow(tmp_path / "w.pt", shapes)
    found = answer(capsys, "check", path, name="models-check", code=2)
    assert (found["ok"], found["fits"], found["nearest"]) == (False, [], TINY)
    assert found["missing"] == ["encoder.11.mlp.fc2.weight"]
    assert found["unexpected"] == ["extra"]
    assert found["differing"] == ["encoder_norm.weight (7,) instead of (192,)"]
    assert run("check", path) == 2
    out = capsys.readouterr().out
    for line in (f"it does not fit {TINY}:", "  1 missing:", "    encoder.11.mlp.fc2.weight"):
        assert line in out.splitlines()
    assert run("check", path, "--as", LULC) == 2
    assert re.search(r"and \d+ more \(--json lists all\)", capsys.readouterr().out)


def test_numbers_that_are_none_are_found(tmp_path, capsys):
    encoder = model.backbone(TINY, ["DEM"], weights={"random": 0})
    encoder.encoder_norm.weight.data[3] = float("nan")
    loading.write_state_dict(tmp_path / "w.safetensors", encoder.state_dict())
    found = answer(capsys, "check", tmp_path / "w.safetensors", name="models-check", code=2)
    assert found["fits"] == [TINY]
    assert found["not_finite"] == ["encoder_norm.weight"]


def test_a_checkpoint_of_terratorch_is_told(tmp_path, capsys):
    path = tmp_path / "epoch=3.ckpt"
    torch.save(lightning_checkpoints.as_stored(lightning_checkpoints.whole_model()), path)
    found = answer(capsys, "check", path, name="models-check", code=2)
    assert found["kind"] == "terratorch"
    assert repr(lightning_checkpoints.ARGS["backbone"]) in found["differing"][0]
    # ^ the backbone has no known name, and nobody told its size
    assert set(found["parts"]) == {"encoder", "neck", "decoder", "head"}


def test_a_checkpoint_of_a_known_backbone_fits(tmp_path, capsys):
    arguments = lightning_checkpoints.ARGS | {"backbone": TINY}
    options = {
        "necks": lightning_checkpoints.PYRAMID,
        "decoder_options": {"channels": [16, 12, 8, 8]},
    }
    shapes = shapes_of(
        lambda: lightning_checkpoints.build_model(
            TINY, arguments["backbone_modalities"], 3, **options
        )
    )
    hollow(tmp_path / "state.pt", shapes, "model.")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": {"model_args": arguments}}, path)
    found = answer(capsys, "check", path, name="models-check")
    assert found["fits"] == ["terratorch"]
    assert run("check", path, "--as", "terratorch") == 0
    capsys.readouterr()
    assert answer(capsys, "card", path, name="models-card")["kind"] == "terratorch"


def test_a_vocabulary_is_told(tmp_path, capsys):
    words = {"[PAD]": 0, "[EOS]": 3, "lat=0.25": 7, "lon=-7.50": 8}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model": {"vocab": words}, "added_tokens": []}))
    found = answer(capsys, "check", path, name="models-check")
    assert (found["kind"], found["fits"]) == ("vocabulary", [COORDS])
    path.write_text(json.dumps({"model": {"vocab": {"a": 1}}}))
    found = answer(capsys, "check", path, "--as", COORDS, name="models-check", code=2)
    assert "not the vocabulary of coordinates" in found["differing"][0]
    assert COORDS in refused(capsys, "check", path, "--as", TINY)


def test_an_unknown_kind_fits_nothing(tmp_path, capsys):
    path = hollow(tmp_path / "w.pt", {"a.weight": [2, 3]})
    found = answer(capsys, "check", path, name="models-check", code=2)
    assert (found["kind"], found["nearest"]) == ("unknown", None)
    assert run("check", path) == 2
    assert "it does not fit any known model" in capsys.readouterr().out
    found = answer(capsys, "check", path, "--as", TINY, name="models-check", code=2)
    assert found["differing"] == [f"no embedding of an input of {TINY} is in the file"]


class Evil:
    def __reduce__(self):
        return (sys.exit, ("the pickle ran",))


@pytest.fixture
def bad(tmp_path):
    """A folder of files that are no weights."""
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10" * 50)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    torch.save({"a": 3}, tmp_path / "numbers.pt")
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "sparse.pt")
    (tmp_path / "words.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    return tmp_path


BAD = [
    ("absent.pt", "no file"),
    ("text.pt", "damaged (KeyError: "),
    ("damaged.safetensors", "damaged"),
    ("evil.pt", "more than tensors"),
    ("evil.ckpt", "more than tensors"),
    ("numbers.pt", "a are not tensors"),
    ("sparse.pt", "a are not tensors"),
    ("words.txt", ".safetensors or"),
    ("empty", "holds no weights"),
]


@pytest.mark.parametrize(("file", "says"), BAD)
@pytest.mark.parametrize("verb", ["check", "card"])
def test_what_is_no_file_of_weights_is_told(bad, capsys, verb, file, says):
    assert says in refused(capsys, verb, bad / file)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "terramind_v1_tinny"], "mean 'terramind_v1_tiny'?"),
        (["check", TINY], f"models fetch {TINY}"),
        (["check", "demo", "--as", "resnet"], "--as resnet: there is no model of that name"),
        (["check"], "NAME|PATH"),
        (["card", TINY + "x"], "no model of that name"),
        (["card", "none"], "composites only"),
        (["card", TINY, "-o", "card.pdf"], ".md or a .json"),
        (["card", TINY, "-o", "/nowhere/card.md"], "its folder does not exist"),
    ],
)
def test_wrong_requests(capsys, arguments, says):
    assert says in refused(capsys, *arguments)


# --- convert ---------------------------------------------------------------------------------


SMALL = {"dim": 32, "heads": 2, "depth": 2}


@pytest.fixture(scope="module")
def encoder():
    return model.backbone(SMALL, ["DEM", "S1GRD"], weights={"random": 3})


def same_outputs(one, other):
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_converted_file_loads_strictly(tmp_path, capsys, encoder):
    source, target = tmp_path / "w.pt", tmp_path / "w.safetensors"
    torch.save({"state_dict": {f"model.{k}": v for k, v in encoder.state_dict().items()}}, source)
    found = answer(capsys, "convert", source, target, name="models-convert")
    assert found["sha256"] == checksums.hash_file(target)
    assert found["tensors"] == len(encoder.state_dict())
    assert same_outputs(model.backbone(SMALL, ["DEM", "S1GRD"], weights=target), encoder)
    assert checkpoint_file.read_metadata(target) == {
        "converted_from": "w.pt", "sha256": checksums.hash_file(source)
    }  # fmt: skip
    first = target.read_bytes()
    assert run("convert", source, target) == 0
    assert target.read_bytes() == first


@pytest.mark.parametrize(("name", "dtype"), convert.DTYPES.items())
def test_another_number_format(tmp_path, capsys, encoder, name, dtype):
    torch.save(encoder.state_dict() | {"steps": torch.tensor(3)}, tmp_path / "w.pt")
    target = tmp_path / "w.safetensors"
    found = answer(
        capsys, "convert", tmp_path / "w.pt", target, "--dtype", name, name="models-convert"
    )
    assert set(found["dtypes"]) == {str(dtype).removeprefix("torch."), "int64"}
    read = loading.read_state_dict(target)
    for key, value in encoder.state_dict().items():
        assert read[key].dtype == dtype
        assert torch.equal(read[key], value.to(dtype))


def test_tied_weights_stay_whole(tmp_path, capsys):
    weight = torch.arange(12.0).reshape(4, 3)
    torch.save({"token_emb.weight": weight, "to_logits.weight": weight}, tmp_path / "w.pt")
    target = tmp_path / "w.safetensors"
    found = answer(capsys, "convert", tmp_path / "w.pt", target, name="models-convert")
    assert found["tensors"] == 2
    read = loading.read_state_dict(target)
    assert torch.equal(read["token_emb.weight"], weight)
    assert torch.equal(read["to_logits.weight"], weight)


def test_one_part_alone(tmp_path, capsys):
    target = tmp_path / "head.safetensors"
    answer(capsys, "convert", DEMO_WEIGHTS, target, "--only", "head", name="models-convert")
    every = loading.read_state_dict(DEMO_WEIGHTS)
    head = {key: value for key, value in every.items() if key.startswith("head.")}
    read = loading.read_state_dict(target)
    assert read.keys() == head.keys()
    assert all(torch.equal(read[key], head[key]) for key in head)
    assert "encoder, head" in refused(
        capsys, "convert", DEMO_WEIGHTS, tmp_path / "x.safetensors", "--only", "neck"
    )


def test_the_encoder_of_a_fine_tuned_model_becomes_a_backbone(tmp_path):
    target = tmp_path / "encoder.safetensors"
    assert run("convert", DEMO_WEIGHTS, target, "--only", "encoder") == 0
    card = registry.get_card("demo")
    loaded = model.backbone(card.architecture, list(card.inputs), weights=target)
    whole = loading.read_state_dict(DEMO_WEIGHTS)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, whole[f"encoder.{key}"])


def test_a_checkpoint_keeps_what_its_model_is_built_from(tmp_path):
    whole = lightning_checkpoints.whole_model()
    stored = lightning_checkpoints.as_stored(whole)
    torch.save(stored, tmp_path / "a.ckpt")
    assert run("convert", tmp_path / "a.ckpt", tmp_path / "a.safetensors") == 0
    loaded = model.fine_tuned(tmp_path / "a.safetensors", config=lightning_checkpoints.SIZE)
    assert same_outputs(loaded, whole)
    direct = model.fine_tuned(stored, config=lightning_checkpoints.SIZE)
    assert loaded.hyper_parameters == direct.hyper_parameters


@pytest.mark.parametrize(("file", "says"), [*BAD[1:-1], ("absent.pt", "do not exist")])
def test_what_cannot_be_converted_is_told(bad, capsys, file, says):
    assert says in refused(capsys, "convert", bad / file, bad / "out.safetensors")
    assert not (bad / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["DEMO", "w.pt"], "must end in .safetensors"),
        (["DEMO", "DEMO"], "is the source itself"),
        (["DEMO", "w.safetensors", "--dtype", "int8"], "int8"),
        (["DEMO", "absent/w.safetensors"], "no folder"),
        (["large.pt", "w.safetensors", "--dtype", "fp16"], "w holds values that are too large"),
        (["DEMO"], "OUT.safetensors"),
    ],
)
def test_conversions_that_make_no_sense(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.tensor([1.0, 7e4])}, "large.pt")
    before = DEMO_WEIGHTS.read_bytes()
    called = [DEMO_WEIGHTS if argument == "DEMO" else argument for argument in arguments]
    assert says in refused(capsys, "convert", *called)
    assert DEMO_WEIGHTS.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["large.pt"]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_is_not_converted(tmp_path, value):
    torch.save({"w": torch.tensor([1.0, value])}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="not finite in w"):
        convert.convert(tmp_path / "w.pt", tmp_path / "w.safetensors", "fp16")
    assert not (tmp_path / "w.safetensors").exists()


def test_an_unknown_format_is_refused_by_the_library_too(tmp_path):
    with pytest.raises(WeightsError, match="fp32, bf16, fp16"):
        convert.convert(DEMO_WEIGHTS, tmp_path / "w.safetensors", "fp8")


# --- what keys tell --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("encoder_embeddings.coords.mod_emb", "encoder"),
        ("mask_token", "decoder"),
        ("post_quant_proj.bias", "decoder"),
        ("head.head.2.bias", "head"),
        ("sampler.model.mask_token", "sampler"),
    ],
)
def test_keys_belong_to_parts(key, part):
    assert state_dict_contents.find_part(key) == part


@needs_listings
@pytest.mark.parametrize("path", sorted(LISTINGS.glob("*.json.gz")) or ["none"], ids=str)
def test_every_published_kind_is_told_by_its_keys(path):
    name = path.name.removesuffix(".json.gz")
    kinds = {"encdec": "encoder-decoder", "generate": "generator", "tim__": "tim",
             "tokenizer": "tokenizer", "terratorch": "terratorch"}  # fmt: skip
    wanted = next((kind for part, kind in kinds.items() if part in name), "encoder")
    told = {key.removeprefix("model."): value for key, value in listing(name)["tensors"].items()}
    assert state_dict_contents.detect_kind(told) == wanted
