"""`terramosaic models`: list, fetch, card; and what each says when it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import model
from flows.config import model as model_config
from model.predictor import card_file, registry
from model.terramind import architectures, modalities
from model.tools import model_card, model_list
from model.weights import checksums, hub, loading
from tests.support.empty_weights import (  # noqa: F401
    COORDS,
    LULC,
    ROOT,
    TINY,
    TOY,
    answer,
    hollow,
    own_home,
    refused,
    run,
    shapes_of_tiny,
)
from tests.support.oracle import listing, needs_listings

COMMIT = "c" * 40


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A stand-in for the hub; every file holds its own address."""

    def fetch(repo, file, revision=None):
        commit = revision if re.fullmatch("[0-9a-f]{40}", revision or "") else COMMIT
        folder = tmp_path / "cache" / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{repo}/{file}@{commit}")
        return str(folder / file)

    fake = types.SimpleNamespace(hf_hub_download=fetch)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)


# --- list ------------------------------------------------------------------------------------


def test_the_group_alone_lists(capsys):
    printed = []
    for arguments in ([], ["list"]):
        assert run(*arguments) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert re.search(r"terramind_v1_base +91\.4 M ", printed[0])
    assert len(printed[0].splitlines()) == 1 + len(model_list.list_models())
    assert answer(capsys, name="models") == answer(capsys, "list", name="models")
    assert run("-h") == 0
    assert "fetch" in capsys.readouterr().out


def test_the_list_costs_no_torch():
    code = (
        "import sys; from flows.cli import main as cli; code = cli.main(['models']);"
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'pydantic', 'yaml')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_list_names_what_can_be_fetched():
    listed = {entry.name: entry for entry in model_list.list_models()}
    variants = {name for name in hub.OFFICIAL_FILES if name.endswith(("_tim", "_generate"))}
    assert set(listed) == {"demo", "none", *hub.OFFICIAL_FILES} - variants
    models = {name for name, entry in listed.items() if entry.kind == "model"}
    assert models == set(model_config.MODEL_NAMES)


def test_what_is_here_is_told(home, capsys):
    (home / "weights").mkdir(parents=True)
    (home / "weights" / hub.OFFICIAL_FILES[LULC].file).touch()
    states = {entry.name: entry.weights for entry in model_list.list_models()}
    assert states[LULC] == "fetched"
    assert states["terramind_v1_tokenizer_dem"] == "on the hub"
    assert states["demo"] == "shipped"


@pytest.mark.parametrize("name", model_list.TOKENIZER_PARAMETERS)
def test_tokenizers_have_as_many_parameters_as_the_list_says(name):
    with torch.device("meta"):
        built = model.tokenizer(name)
    assert model_list.TOKENIZER_PARAMETERS[name] == sum(
        value.numel() for value in built.parameters()
    )


@needs_listings
@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_the_family_has_as_many_parameters_as_published(name):
    published = listing(f"{name}__encdec_all")["n_unique_params"]
    assert model_list.count_family_parameters(architectures.resolve_architecture(name)) == published


@pytest.mark.parametrize("inputs", [["S2L1C"], ["RGB", "NDVI"], ["S1GRD", "Coords", "LULC"]])
def test_an_encoder_s_parameters_depend_on_its_inputs(inputs):
    with torch.device("meta"):
        built = model.backbone(TINY, inputs)
    counted = sum(value.numel() for value in built.parameters())
    assert (
        model_list.count_encoder_parameters(architectures.resolve_architecture(TINY), inputs)
        == counted
    )


# --- fetch -----------------------------------------------------------------------------------


def test_fetched_files_are_pinned(online, capsys):
    result = answer(capsys, "fetch", TINY, LULC, name="models-fetch")["fetched"]
    assert [row["name"] for row in result] == [TINY, LULC]
    for row in result:
        path = Path(row["path"])
        assert row["sha256"] == checksums.hash_file(path)
        assert (row["commit"], row["revision"], row["pinned"]) == (COMMIT, "main", "now")
        assert row["bytes"] == path.stat().st_size
    assert run("fetch", TINY) == 0
    out = capsys.readouterr().out
    assert "pinned before" in out
    assert result[0]["sha256"] in out


def test_one_file_is_fetched_once_whatever_its_names(online, capsys):
    arguments = ("fetch", f"{TINY}_generate", LULC, TINY, f"{TINY}_tim", LULC)
    result = answer(capsys, *arguments, name="models-fetch")["fetched"]
    assert [row["name"] for row in result] == [f"{TINY}_generate", LULC]


def test_a_copy_can_be_carried_to_a_machine_without_network(online, capsys, tmp_path, monkeypatch):
    names = [TINY, COORDS]
    result = answer(capsys, "fetch", *names, "--to", tmp_path / "stick", name="models-fetch")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(tmp_path / "stick"))
    again = answer(capsys, "fetch", *names, name="models-fetch")
    for row, copied in zip(result["fetched"], again["fetched"], strict=True):
        assert row["path"] == copied["path"]
        assert row["sha256"] == copied["sha256"]
        assert copied["commit"] is None


def test_a_revision_and_a_renewal(online, capsys):
    commit = "d" * 40
    result = answer(capsys, "fetch", TINY, "--revision", commit, name="models-fetch")["fetched"][0]
    assert (result["revision"], result["commit"]) == (commit, commit)
    row = answer(capsys, "fetch", TINY, name="models-fetch")["fetched"][0]
    Path(row["path"]).write_text("changed")
    assert "--renew" in refused(capsys, "fetch", TINY)
    renewed = answer(capsys, "fetch", TINY, "--renew", name="models-fetch")["fetched"][0]
    assert renewed["pinned"] == "now"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fetch", TINY], ["huggingface_hub is not installed", "TerraMind_v1_tiny.pt", "--to"]),
        (["fetch", COORDS], ["TerraMind-1.0-Tokenizer-Coords/config.json", "give its path"]),
        (["fetch", "terramind_v1_bse"], ["no official weights", "mean 'terramind_v1_base'?"]),
        (["fetch", TINY, "demo"], ["are part of the package"]),
        (["fetch"], ["NAME"]),
        (["fetch", TINY, "--to", "FILE"], ["is a file: give a folder"]),
    ],
)
def test_what_cannot_be_fetched(capsys, tmp_path, arguments, says):
    (tmp_path / "file").touch()
    text = refused(capsys, *(tmp_path / "file" if a == "FILE" else a for a in arguments))
    for part in says:
        assert part in text


# --- card ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", *hub.OFFICIAL_FILES])
def test_every_name_has_a_card(capsys, name):
    card = answer(capsys, "card", name, name="models-card")
    assert card["name"] == name
    assert card["parameters"] or name == COORDS
    if name != "demo":
        assert card["licence"] == "Apache-2.0"
        assert card["weights"]["page"] == hub.OFFICIAL_FILES[name].page
        assert any("arXiv" in source for source in card["sources"])
    for entry in [*card["inputs"], *card["outputs"]]:
        if "mean" in entry:
            assert len(entry["mean"]) == len(entry["std"]) == len(entry["bands"])
    assert run("card", name) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# {name}\n\n{card['what']}\n")
    for entry in card["inputs"]:
        assert f"| {entry['name']} | {entry['form']} |" in out


def test_a_card_holds_the_statistics_that_are_applied():
    card = model_card.describe_named("terramind_v1_base")
    inputs = {entry.name: entry for entry in card.inputs}
    entry = modalities.RASTER_MODALITIES["S1RTC"]
    assert inputs["S1RTC"].bands == ("VV", "VH")
    assert inputs["S1RTC"].unit == "dB"
    assert inputs["S1RTC"].mean == tuple(entry.statistics.mean)
    shipped = registry.get_card("demo")
    demo = {entry.name: entry for entry in model_card.describe_named("demo").inputs}
    assert demo["DEM"].mean == tuple(shipped.statistics["DEM"].mean)


def test_a_card_is_written(tmp_path, capsys):
    for suffix in ("md", "json"):
        assert run("card", LULC, "-o", tmp_path / f"card.{suffix}") == 0
        assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "card.md").read_text().startswith(f"# {LULC}\n")
    assert json.loads((tmp_path / "card.json").read_text())["kind"] == "tokenizer"


def test_a_file_s_card_says_what_is_in_it(tmp_path, capsys, tiny_shapes):
    path = hollow(tmp_path / "mine.pt", tiny_shapes)
    card = answer(capsys, "card", path, name="models-card")
    assert (card["name"], card["kind"], card["fits"]) == ("mine.pt", "encoder", [TINY])
    assert [entry["name"] for entry in card["inputs"]] == ["S2L2A", "DEM", "LULC"]
    assert card["inputs"][0]["unit"] == "DN"
    assert card["licence"] is None
    # ^ it has the shapes of a published one, but nobody says that it is
    unknown = hollow(tmp_path / "other.pt", {"a": [2]})
    card = answer(capsys, "card", unknown, name="models-card")
    assert card["kind"] == "unknown"
    assert "models check" in card["limits"][0]


def test_a_published_file_s_card_bears_its_licence(home, capsys, tiny_shapes):
    (home / "weights").mkdir(parents=True)
    path = hollow(home / "weights" / hub.OFFICIAL_FILES[TINY].file, tiny_shapes)
    assert hub.fetch_path(TINY) == path
    card = answer(capsys, "card", path, name="models-card")
    assert card["licence"] == "Apache-2.0"
    assert card["weights"]["sha256"] == checksums.hash_file(path)


def test_one_s_own_card_is_read(tmp_path, capsys):
    card = card_file.from_mapping(TOY, "toy")
    registry.save_segmenter(tmp_path, loading.initialise(registry.build_segmenter(card), 1), card)
    for what in ("card.json", "weights.safetensors"):
        result = answer(capsys, "card", tmp_path / what, name="models-card")
        assert (result["name"], result["kind"]) == ("toy", "segmenter")
        assert result["weights"]["sha256"] == checksums.hash_file(tmp_path / "weights.safetensors")
        assert result["classes"] == list(card.class_names)
    (tmp_path / "card.json").write_text("{}")
    assert "lacks architecture" in refused(capsys, "card", tmp_path / "card.json")


@pytest.mark.parametrize("verb", ["card", "check"])
def test_a_name_goes_before_a_folder_of_that_name(verb, capsys, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(verb, "demo") == 0
    assert run(verb, "./demo") == 2
    assert "holds no weights" in capsys.readouterr().err
