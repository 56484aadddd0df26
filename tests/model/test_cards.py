"""Models of users: the format of cards, the files that go with them, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import yaml

import model
from model.errors import ModelError, WeightsError
from model.predictor import card_file, registry
from model.terramind import architectures, modalities
from model.tools import model_card, model_list
from model.weights import loading
from tests.support import lightning_checkpoints
from tests.support.empty_weights import ROOT, TINY, TOY, answer, own_home, refused, run  # noqa: F401

CPU = {"device": "cpu", "precision": "fp32"}
SIZE = {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 1}
TOKENIZER = {
    "dim": 32,
    "depth": 1,
    "heads": 2,
    "image_size": 64,
    "unet": {"channels": 32, "blocks": 1, "multipliers": [1, 2], "attention": [2]},
}
FAMILY = {"architecture": SIZE, "tokenizer": TOKENIZER, "window": 32}


def write_card(tmp_path, **changes):
    path = tmp_path / "micro.yaml"
    path.write_text(yaml.safe_dump(FAMILY | changes))
    return path


def save_network(path, network):
    torch.save(network.state_dict(), path)
    return path


def build_generator(outputs=("NDVI", "LULC"), inputs=("S2L2A", "S1RTC", "DEM")):
    sizes = dict.fromkeys(outputs, TOKENIZER)
    return model.generator(SIZE, list(inputs), list(outputs), {"random": 3}, tokenizers=sizes)


def build_encoder():
    return model.backbone(SIZE, ["S2L2A", "DEM"], weights={"random": 3})


# --- the format ------------------------------------------------------------------------------


def test_the_documented_example_runs(tmp_path):
    text, *_ = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "model.md").read_text(), re.DOTALL)
    (tmp_path / "micro.yaml").write_text(text)
    card = card_file.read(tmp_path / "micro.yaml")
    values = yaml.safe_load(text)
    assert card.architecture.to_mapping() == values["architecture"]
    rng = np.random.default_rng(0)
    elevation = rng.uniform(0, 900, (1, 1, 32, 32)).astype(np.float32)
    for options in ({}, {"task": "embedding"}, {"task": "generate", "modality": "NDVI"}):
        predictor = registry.load(str(tmp_path / "micro.yaml"), timesteps=2, **options, **CPU)
        assert predictor.spec.statistics["DEM"].mean == (400.0,)
        assert np.isfinite(predictor({"DEM": elevation})).all()


def test_every_entry_of_a_card_is_documented():
    text = (ROOT / "docs" / "model.md").read_text()
    for key in card_file.Card.__dataclass_fields__:
        assert f"| `{key}` |" in text
    for key in (*architectures.Architecture.__dataclass_fields__, *TOKENIZER, *TOKENIZER["unet"]):
        assert key in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": 5}, "tokenizer: 5"),
        ({"tokenizer": {"modality": "DEM"}}, "tokenizer: unknown modality"),
        ({"training": 5}, "training: 5"),
        ({"weights": 5}, "weights: 5"),
        ({"name": 5}, "name: 5"),
        ({"statistics": [1]}, "statistics"),
        ({"class_names": "water"}, "class_names: 'water'"),
        ({"layers": "a"}, "layers: 'a'"),
        ({"layers": [99]}, "layers 99.*from 0 to 1"),
        ({"layers": [-1]}, "layers -1"),
        ({"layers": [1, 0]}, "layers 1, 0"),
        ({"layers": ["a"]}, "layers a"),
        ({"width": -1}, "width -1"),
        ({"width": 10**9}, "width"),
        ({"width": "a"}, "width: 'a'"),
        ({"window": True}, "window: True"),
        ({"window": 1 << 30}, "window"),
        ({"architecture": SIZE | {"dim": 10**9}}, "dim 1000000000: at most 8192"),
        ({"architecture": SIZE | {"depth": 10**9}}, "depth 1000000000"),
        ({"architecture": SIZE | {"decoder_depth": -1}}, "decoder_depth"),
        ({"architecture": SIZE | {"gated": "yes"}}, "gated must be true or false"),
        ({"architecture": SIZE | {"mlp_ratio": "a"}}, "mlp_ratio"),
        ({"architecture": SIZE | {"mlp_ratio": 10**6}}, "mlp_ratio"),
        ({"architecture": 5}, "architecture: 5"),
    ],
)
@pytest.mark.parametrize("has_decoder", [True, False])
def test_an_invalid_entry_of_a_card_is_named(has_decoder, change, message):
    options = (FAMILY if has_decoder else TOY) | change
    with pytest.raises(ModelError, match=message):
        card_file.from_mapping(options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim": 10**9}, "dim"),
        ({"image_size": 16 * 10**6}, "image_size"),
        ({"unet": {"channels": 32 * 10**6}}, "unet channels"),
        ({"unet": {"channels": 4096, "multipliers": [9]}}, "36864 channels"),
        ({"unet": {"multipliers": 5}}, "unet multipliers"),
        ({"unet": 5}, "unet"),
    ],
)
def test_invalid_tokenizers_are_refused_for_every_task(tmp_path, sizes, message):
    path = write_card(tmp_path, tokenizer=TOKENIZER | sizes)
    for task in ("land_cover", "embedding"):
        with pytest.raises(ModelError, match=message):
            registry.load(str(path), {"random": 1}, task)


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [5, "", [], {}, ["a"], 1.5, True])
def test_an_invalid_source_of_weights_is_refused(tmp_path, source):
    with pytest.raises(WeightsError, match="hub, a path"):
        registry.load(str(write_card(tmp_path)), source)
    with pytest.raises(WeightsError, match="hub, a path"):
        model.backbone(SIZE, ["DEM"], weights=source)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 10**30, "a", True])
def test_seeds_outside_the_range_are_refused(tmp_path, seed):
    with pytest.raises(WeightsError, match=r"below 2\^64"):
        registry.load(str(write_card(tmp_path)), {"random": seed})


def test_a_seed_gives_the_same_weights_for_every_task(tmp_path):
    expected = build_generator().state_dict()
    for options in ({}, {"task": "generate", "modality": "NDVI"}):
        loaded = registry.load(str(write_card(tmp_path)), {"random": 3}, **options, **CPU)
        state = loaded.network.state_dict()
        assert any(key.startswith("tokenizer.") for key in state)
        assert [key for key, value in state.items() if not torch.equal(value, expected[key])] == []


def test_weights_that_are_not_finite_are_refused():
    encoder = build_encoder()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    for value in (float("nan"), float("inf")):
        broken = dict(before)
        broken["encoder_norm.weight"] = torch.full((32,), value)
        with pytest.raises(WeightsError, match=r"NaN or infinity in encoder_norm\.weight"):
            model.load_state(encoder, broken)
    assert torch.equal(encoder.encoder_norm.weight, before["encoder_norm.weight"])


def test_an_encoder_alone_cannot_generate(tmp_path):
    card, file = write_card(tmp_path), save_network(tmp_path / "encoder.pt", build_encoder())
    with pytest.raises(WeightsError, match=r"encoder\.pt holds an encoder alone"):
        registry.load(str(card), file)
    registry.load(str(card), file, "embedding", inputs=["S2L2A", "DEM"], **CPU)


def test_tokenizers_of_other_sizes_are_not_downloaded(tmp_path):
    state = {
        key: value
        for key, value in build_generator().state_dict().items()
        if "tokenizer" not in key
    }
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no published one has the sizes of this card"):
        registry.load(str(write_card(tmp_path)), tmp_path / "w.pt")


def test_unused_tokenizers_are_refused(tmp_path):
    card = str(write_card(tmp_path))
    with pytest.raises(ModelError, match="NDVI: none is used here"):
        registry.load(card, {"random": 1}, "embedding", tokenizers={"NDVI": {"random": 1}})
    with pytest.raises(ModelError, match="no use for any"):
        model.backbone(SIZE, ["DEM"], tokenizers={"NDVI": {"random": 1}})


def test_files_without_weights_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"absent\.ckpt do not exist.*\.ckpt"):
        loading.read_state_dict("absent.ckpt")
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path))):
        registry.load(str(write_card(tmp_path)), ".")
    torch.save({"epoch": 3}, tmp_path / "odd.pt")
    assert "odd.pt" in refused(capsys, "check", tmp_path)
    assert "empty" in refused(capsys, "check", "")


def test_coordinates_and_none_are_explained():
    for name in ("terramind_v1_tokenizer_coords", "Coords"):
        with pytest.raises(ModelError, match=r"model\.coords_tokenizer"):
            model.tokenizer(name)
    with pytest.raises(ModelError, match="composites only: there is no model"):
        model.load("none")


def test_statistics_may_be_read_from_a_file(tmp_path):
    statistics = {"DEM": {"mean": [100.0], "std": [50.0]}}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(statistics))
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"data": {"means": 1}}))
    card, source = str(write_card(tmp_path)), {"random": 3}
    loaded = registry.load(card, source, "embedding", stats=tmp_path / "plain.yaml", **CPU)
    assert loaded.digest == registry.load(card, source, "embedding", stats=statistics, **CPU).digest
    with pytest.raises(ModelError, match="goes with a checkpoint only"):
        registry.load(card, source, stats=str(tmp_path / "fit.yaml"))


# --- the command -----------------------------------------------------------------------------


def write_checkpoint(path, backbone="micro", **content_changes):
    args = {
        "backbone": backbone,
        "backbone_modalities": ["DEM"],
        "num_classes": 3,
        "necks": [{"name": "ReshapeTokensToImage", "remove_cls_token": False}],
        "decoder": "FCNDecoder",
        "decoder_channels": 8,
        "decoder_num_convs": 1,
    }
    options = {"channels": 8, "num_convs": 1}
    network = lightning_checkpoints.build_model(
        SIZE, ["DEM"], 3, necks=args["necks"], decoder="FCNDecoder", decoder_options=options
    )
    state = loading.initialise(network, 2).state_dict()
    content = {"hyper_parameters": {"model_args": args}} | content_changes
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in state.items()}, **content}, path
    )
    return path, args


def test_a_card_is_checked_against_every_kind_of_file(tmp_path, capsys):
    card = write_card(tmp_path)
    sizes = {"modality": "NDVI", **TOKENIZER}
    files = {
        "generator": save_network(tmp_path / "g.pt", build_generator()),
        "encoder": save_network(tmp_path / "e.pt", build_encoder()),
        "tokenizer": save_network(tmp_path / "t.pt", model.tokenizer(sizes, {"random": 1})),
        "segmenter": save_network(
            tmp_path / "s.pt", registry.build_segmenter(card_file.read(card))
        ),
        "terratorch": write_checkpoint(tmp_path / "c.ckpt")[0],
    }
    for kind, file in files.items():
        result = answer(capsys, "check", file, "--as", card, name="models-check")
        assert (result["kind"], result["fits"]) == (kind, [str(card)])
    larger_card = write_card(tmp_path, architecture=SIZE | {"dim": 48, "heads": 3})
    for kind, file in files.items():
        code = 0 if kind == "tokenizer" else 2
        assert run("check", file, "--as", larger_card) == code


def test_a_card_of_a_user_is_described_like_a_published_one(tmp_path, capsys):
    card = write_card(tmp_path)
    result = answer(capsys, "card", card, name="models-card")
    assert result["kind"] == "generator"
    assert {entry["name"] for entry in result["outputs"]} == set(modalities.TARGET_MODALITIES)
    assert sum(result["parts"].values()) == result["parameters"]
    path = write_card(tmp_path, weights="s.pt")
    save_network(tmp_path / "s.pt", registry.build_segmenter(card_file.read(path)))
    assert model_card.describe_card(path).kind == "segmenter"
    assert model_card.describe_card(write_card(tmp_path, weights={"random": 1})).kind == "generator"
    encoder_card = write_card(tmp_path, architecture=SIZE | {"decoder_depth": 0})
    description = model_card.describe_card(encoder_card)
    assert (description.kind, description.outputs) == ("encoder", ())


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_all_commands_state_the_same_number_of_parameters(name):
    (listed_model,) = (entry for entry in model_list.list_models() if entry.name == name)
    card = model_card.describe_named(name)
    with torch.device("meta"):
        encoder = model.backbone(name, list(modalities.RASTER_MODALITIES))
    parameter_count = sum(value.numel() for value in encoder.parameters())
    assert listed_model.parameters == card.parameters == card.parts["encoder"] == parameter_count
    for variant in ("_generate", "_tim"):
        card = model_card.describe_named(name + variant)
        assert card.parts["encoder"] == parameter_count
        assert card.parameters == sum(card.parts.values())


# --- checkpoints of TerraTorch ---------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["prithvi_eo_v2_300", "terratorch_prithvi_eo_v1_100"])
def test_a_checkpoint_of_another_backbone_is_refused(tmp_path, backbone):
    file, _ = write_checkpoint(tmp_path / "c.ckpt", backbone)
    with pytest.raises(ModelError, match=r"prithvi.*not TerraMind"):
        registry.load(
            str(write_card(tmp_path)), checkpoint=file, classes=("water", "trees", "crops")
        )


def test_missing_parts_of_a_checkpoint_are_explained_in_terms_of_a_job(tmp_path):
    options = {"classes": ("water", "trees", "crops"), **CPU}
    file, args = write_checkpoint(tmp_path / "c.ckpt")
    with pytest.raises(ModelError, match=r"`name: x\.yaml`"):
        registry.load(TINY, checkpoint=file, **options)
    card = str(write_card(tmp_path))
    expected = registry.load(card, checkpoint=file, **options)
    bare_checkpoint, _ = write_checkpoint(tmp_path / "bare.ckpt", hyper_parameters={})
    with pytest.raises(ModelError, match=r"`stats: fit\.yaml`"):
        registry.load(card, checkpoint=bare_checkpoint, **options)
    statistics = modalities.RASTER_MODALITIES["DEM"].statistics
    data = {"means": {"DEM": list(statistics.mean)}, "stds": {"DEM": list(statistics.std)}}
    fit_config = {"model": {"init_args": {"model_args": args}}, "data": {"init_args": data}}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(fit_config))
    loaded = registry.load(
        card, checkpoint=bare_checkpoint, stats=str(tmp_path / "fit.yaml"), **options
    )
    elevation = np.linspace(0, 900, 1024, dtype=np.float32).reshape(1, 1, 32, 32)
    np.testing.assert_array_equal(loaded({"DEM": elevation}), expected({"DEM": elevation}))


def test_bands_may_have_the_names_of_terratorch():
    values = {"architecture": "terramind_v1_tiny", "class_names": ["a", "b"]}
    named = card_file.from_mapping(values | {"inputs": {"S2L2A": ["BLUE", "nir_narrow"]}})
    plain = card_file.from_mapping(values | {"inputs": {"S2L2A": ["B02", "B8A"]}})
    assert named == plain
    assert named.digest("") == plain.digest("")
