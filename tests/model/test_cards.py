"""Models of one's own: what a card may say, what files go with it, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import yaml

import model
from model.errors import ModelError, WeightsError
from model.predictor import card_file, registry
from model.terramind import config, modalities
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


def written(tmp_path, **changes):
    path = tmp_path / "micro.yaml"
    path.write_text(yaml.safe_dump(FAMILY | changes))
    return path


def saved(path, network):
    torch.save(network.state_dict(), path)
    return path


def a_generator(outputs=("NDVI", "LULC"), inputs=("S2L2A", "S1RTC", "DEM")):
    sizes = dict.fromkeys(outputs, TOKENIZER)
    return model.generator(SIZE, list(inputs), list(outputs), {"random": 3}, tokenizers=sizes)


def an_encoder():
    return model.backbone(SIZE, ["S2L2A", "DEM"], weights={"random": 3})


# --- the format ------------------------------------------------------------------------------


def test_the_documented_example_runs(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "model.md").read_text(), re.DOTALL)
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
    for key in (*config.Architecture.__dataclass_fields__, *TOKENIZER, *TOKENIZER["unet"]):
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
@pytest.mark.parametrize("family", [True, False])
def test_what_a_card_cannot_say_is_named(family, change, message):
    options = (FAMILY if family else TOY) | change
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
def test_tokenizers_that_cannot_be_are_refused_whatever_the_task(tmp_path, sizes, message):
    path = written(tmp_path, tokenizer=TOKENIZER | sizes)
    for task in ("land_cover", "embedding"):
        with pytest.raises(ModelError, match=message):
            registry.load(str(path), {"random": 1}, task)


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [5, "", [], {}, ["a"], 1.5, True])
def test_what_is_no_source_of_weights_is_told_at_once(tmp_path, wrong):
    with pytest.raises(WeightsError, match="hub, a path"):
        registry.load(str(written(tmp_path)), wrong)
    with pytest.raises(WeightsError, match="hub, a path"):
        model.backbone(SIZE, ["DEM"], weights=wrong)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 10**30, "a", True])
def test_seeds_have_bounds(tmp_path, seed):
    with pytest.raises(WeightsError, match=r"below 2\^64"):
        registry.load(str(written(tmp_path)), {"random": seed})


def test_a_seed_means_the_same_numbers_through_every_door(tmp_path):
    made = a_generator().state_dict()
    for options in ({}, {"task": "generate", "modality": "NDVI"}):
        loaded = registry.load(str(written(tmp_path)), {"random": 3}, **options, **CPU)
        state = loaded.network.state_dict()
        assert any(key.startswith("tokenizer.") for key in state)
        assert [k for k, v in state.items() if not torch.equal(v, made[k])] == []


def test_numbers_that_are_not_finite_are_not_loaded():
    encoder = an_encoder()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    for value in (float("nan"), float("inf")):
        broken = dict(before)
        broken["encoder_norm.weight"] = torch.full((32,), value)
        with pytest.raises(WeightsError, match=r"NaN or infinity in encoder_norm\.weight"):
            model.load_state(encoder, broken)
    assert torch.equal(encoder.encoder_norm.weight, before["encoder_norm.weight"])


def test_an_encoder_alone_cannot_generate(tmp_path):
    card, file = written(tmp_path), saved(tmp_path / "encoder.pt", an_encoder())
    with pytest.raises(WeightsError, match=r"encoder\.pt holds an encoder alone"):
        registry.load(str(card), file)
    registry.load(str(card), file, "embedding", inputs=["S2L2A", "DEM"], **CPU)


def test_tokenizers_of_other_sizes_are_not_asked_from_the_hub(tmp_path):
    state = {k: v for k, v in a_generator().state_dict().items() if "tokenizer" not in k}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no published one has the sizes of this card"):
        registry.load(str(written(tmp_path)), tmp_path / "w.pt")


def test_tokenizers_without_use_are_told(tmp_path):
    card = str(written(tmp_path))
    with pytest.raises(ModelError, match="NDVI: none is used here"):
        registry.load(card, {"random": 1}, "embedding", tokenizers={"NDVI": {"random": 1}})
    with pytest.raises(ModelError, match="no use for any"):
        model.backbone(SIZE, ["DEM"], tokenizers={"NDVI": {"random": 1}})


def test_files_that_are_no_weights_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"absent\.ckpt do not exist.*\.ckpt"):
        loading.read_state_dict("absent.ckpt")
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path))):
        registry.load(str(written(tmp_path)), ".")
    torch.save({"epoch": 3}, tmp_path / "odd.pt")
    assert "odd.pt" in refused(capsys, "check", tmp_path)
    assert "empty" in refused(capsys, "check", "")


def test_coordinates_and_none_say_what_they_are():
    for name in ("terramind_v1_tokenizer_coords", "Coords"):
        with pytest.raises(ModelError, match=r"model\.coords_tokenizer"):
            model.tokenizer(name)
    with pytest.raises(ModelError, match="composites only: there is no model"):
        model.load("none")


def test_statistics_may_lie_in_a_file(tmp_path):
    plain = {"DEM": {"mean": [100.0], "std": [50.0]}}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain))
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"data": {"means": 1}}))
    card, source = str(written(tmp_path)), {"random": 3}
    loaded = registry.load(card, source, "embedding", stats=tmp_path / "plain.yaml", **CPU)
    assert loaded.digest == registry.load(card, source, "embedding", stats=plain, **CPU).digest
    with pytest.raises(ModelError, match="goes with a checkpoint only"):
        registry.load(card, source, stats=str(tmp_path / "fit.yaml"))


# --- the command -----------------------------------------------------------------------------


def checkpoint(path, backbone="micro", **content_changes):
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
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}, **content}, path)
    return path, args


def test_a_card_is_held_against_all_that_a_job_would_take(tmp_path, capsys):
    card = written(tmp_path)
    sizes = {"modality": "NDVI", **TOKENIZER}
    files = {
        "generator": saved(tmp_path / "g.pt", a_generator()),
        "encoder": saved(tmp_path / "e.pt", an_encoder()),
        "tokenizer": saved(tmp_path / "t.pt", model.tokenizer(sizes, {"random": 1})),
        "segmenter": saved(tmp_path / "s.pt", registry.build_segmenter(card_file.read(card))),
        "terratorch": checkpoint(tmp_path / "c.ckpt")[0],
    }
    for kind, file in files.items():
        result = answer(capsys, "check", file, "--as", card, name="models-check")
        assert (result["kind"], result["fits"]) == (kind, [str(card)])
    larger = written(tmp_path, architecture=SIZE | {"dim": 48, "heads": 3})
    for kind, file in files.items():
        code = 0 if kind == "tokenizer" else 2
        assert run("check", file, "--as", larger) == code


def test_a_card_of_one_s_own_is_described_as_a_job_would_use_it(tmp_path, capsys):
    card = written(tmp_path)
    result = answer(capsys, "card", card, name="models-card")
    assert result["kind"] == "generator"
    assert {entry["name"] for entry in result["outputs"]} == set(modalities.TARGET_MODALITIES)
    assert sum(result["parts"].values()) == result["parameters"]
    path = written(tmp_path, weights="s.pt")
    saved(tmp_path / "s.pt", registry.build_segmenter(card_file.read(path)))
    assert model_card.describe_card(path).kind == "segmenter"
    assert model_card.describe_card(written(tmp_path, weights={"random": 1})).kind == "generator"
    plain = written(tmp_path, architecture=SIZE | {"decoder_depth": 0})
    described = model_card.describe_card(plain)
    assert (described.kind, described.outputs) == ("encoder", ())


@pytest.mark.parametrize("name", config.ARCHITECTURES)
def test_one_model_has_one_number_of_parameters(name):
    (listed,) = (entry for entry in model_list.list_models() if entry.name == name)
    card = model_card.describe_named(name)
    with torch.device("meta"):
        encoder = model.backbone(name, list(modalities.RASTER_MODALITIES))
    counted = sum(value.numel() for value in encoder.parameters())
    assert listed.parameters == card.parameters == card.parts["encoder"] == counted
    for variant in ("_generate", "_tim"):
        card = model_card.describe_named(name + variant)
        assert card.parts["encoder"] == counted
        assert card.parameters == sum(card.parts.values())


# --- checkpoints of TerraTorch ---------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["prithvi_eo_v2_300", "terratorch_prithvi_eo_v1_100"])
def test_another_backbone_is_not_run_as_terramind(tmp_path, backbone):
    file, _ = checkpoint(tmp_path / "c.ckpt", backbone)
    with pytest.raises(ModelError, match=r"prithvi.*not TerraMind"):
        registry.load(str(written(tmp_path)), checkpoint=file, classes=("water", "trees", "crops"))


def test_what_a_checkpoint_lacks_is_told_in_words_of_a_job(tmp_path):
    options = {"classes": ("water", "trees", "crops"), **CPU}
    file, args = checkpoint(tmp_path / "c.ckpt")
    with pytest.raises(ModelError, match=r"`name: x\.yaml`"):
        registry.load(TINY, checkpoint=file, **options)
    card = str(written(tmp_path))
    expected = registry.load(card, checkpoint=file, **options)
    bare, _ = checkpoint(tmp_path / "bare.ckpt", hyper_parameters={})
    with pytest.raises(ModelError, match=r"`stats: fit\.yaml`"):
        registry.load(card, checkpoint=bare, **options)
    scale = modalities.RASTER_MODALITIES["DEM"].statistics
    data = {"means": {"DEM": list(scale.mean)}, "stds": {"DEM": list(scale.std)}}
    fit = {"model": {"init_args": {"model_args": args}}, "data": {"init_args": data}}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(fit))
    loaded = registry.load(card, checkpoint=bare, stats=str(tmp_path / "fit.yaml"), **options)
    elevation = np.linspace(0, 900, 1024, dtype=np.float32).reshape(1, 1, 32, 32)
    np.testing.assert_array_equal(loaded({"DEM": elevation}), expected({"DEM": elevation}))
