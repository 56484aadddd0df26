"""The classes of a job: what the job, the card and the checkpoint state becomes a legend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from catalogs.default_class_colors import PALETTE
from catalogs.errors import InvalidInputError
from catalogs.legend import LAND_COVER
from flows.config import job as jobs
from flows.run import job_digest, model_spec, model_spec_cache
from model.errors import ModelError
from tests.support import lightning_checkpoints

STATS = {
    "S2L2A": {"mean": [1000.0] * 12, "std": [500.0] * 12},
    "S1GRD": {"mean": [-12.0, -20.0], "std": [5.0, 5.0]},
}
CROPS = ("Wheat", "Rye", "No data")


def parse_job(folder, names=CROPS, card=(), options=(), **section):
    """Parse a job with a fine-tuned checkpoint that names its classes."""
    content = lightning_checkpoints.as_stored(
        lightning_checkpoints.whole_model(),
        **({} if names is None else {"class_names": list(names)}),
        **dict(options),
    )
    torch.save(content, folder / "crops.ckpt")
    (folder / "micro.yaml").write_text(
        yaml.safe_dump({"architecture": lightning_checkpoints.SIZE, **dict(card)})
    )
    values = {
        "name": "crops",
        "region": {"bbox": [15.0, 46.0, 15.1, 46.1]},
        "period": "2024-06-01/2024-06-30",
        "catalog": "planetary-computer",
        "inputs": ["S2L2A", "S1GRD"],
        "model": {"name": "micro.yaml", "checkpoint": "crops.ckpt", "stats": STATS, **section},
        "output": {"path": str(folder / "out")},
        "execution": {"device": "cpu", "precision": "fp32", "batch": 1},
    }
    return jobs.parse(values, folder=folder)


def load_output(folder, **options):
    return model_spec.load_model(parse_job(folder, **options)).spec.class_output


def test_the_names_of_a_checkpoint_make_a_legend(tmp_path):
    output = load_output(tmp_path)
    assert output.class_names == CROPS
    assert output.codes == (0, 1, 255)
    assert output.layer_name == "classes"
    assert output.legend.by_name["No data"].is_gap


def test_public_names_make_a_map_of_land_cover(tmp_path):
    output = load_output(tmp_path, names=None, classes=["water", "trees", "crops"])
    assert output.legend is LAND_COVER or output.legend == LAND_COVER
    assert (output.layer_name, output.to_dict()) == (
        "land_cover",
        {"class_names": ["water", "trees", "crops"]},
    )


def test_a_model_of_gaps_alone_is_refused(tmp_path):
    gaps = [{"name": name, "gap": True} for name in CROPS]
    with pytest.raises(InvalidInputError, match="all of its classes are gaps"):
        load_output(tmp_path, classes=gaps)


def test_a_class_that_training_ignored_is_never_mapped(tmp_path):
    output = load_output(tmp_path, options={"ignore_index": 1})
    assert [entry.name for entry in output.legend.mapped_classes if entry.is_gap] == ["Rye"]


def test_the_job_comes_before_the_card_and_the_card_before_the_checkpoint(tmp_path):
    card = {
        "class_names": ["wheat", "rye", "gap"],
        "class_colors": ["#000001", "#000002", "#000003"],
        "layer": "from_card",
    }
    of_card = load_output(tmp_path, card=card)
    assert of_card.class_names == ("wheat", "rye", "gap")
    assert [entry.color for entry in of_card.legend.mapped_classes] == [
        (0, 0, 1), (0, 0, 2), (0, 0, 3),
    ]  # fmt: skip
    assert of_card.layer_name == "from_card"
    classes = [
        {"name": "wheat", "title": "Weizen", "color": "#ff0000", "code": 11},
        {"name": "rye", "code": 12},
        {"name": "gap", "gap": True, "code": 13},
    ]
    of_job = load_output(tmp_path, card=card, classes=classes, layer="from_job")
    assert [
        (entry.code, entry.title, entry.color, entry.is_gap)
        for entry in of_job.legend.mapped_classes
    ] == [
        (11, "Weizen", (255, 0, 0), False),
        (12, "rye", (0, 0, 2), False),
        (13, "gap", (0, 0, 3), True),
    ]
    assert (of_job.layer_name, of_job.main_layer.title) == ("from_job", "From job")


def test_colours_of_land_cover_can_be_changed(tmp_path):
    classes = [{"name": "water", "color": "#0000ff"}, "trees", "crops"]
    output = load_output(tmp_path, names=None, classes=classes)
    assert (output.codes, output.layer_name) == ((1, 2, 5), "land_cover")
    assert output.legend.by_name["water"].color == (0, 0, 255)
    assert output.to_dict()["legend"]["classes"][1]["color"] == "0000FF"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["Rye", "Wheat", "No data"]}, "Rye, Wheat at another place"),
        ({"classes": ["a", "b"]}, "2 class names for a model of 3"),
        ({"names": None}, "3 classes, and neither the checkpoint nor its training names them"),
        ({"names": ("a", "A", "b")}, "'a' and 'A' differ only by case"),
        ({"names": ("a", "a", "b")}, "comes more than once"),
        ({"card": {"layer": "confidence"}}, "'confidence' is taken"),
        ({"card": {"layer": "burn scars"}}, "must begin with a letter"),
    ],
)
def test_what_cannot_be_mapped_is_refused_when_it_is_planned(tmp_path, options, message):
    with pytest.raises((InvalidInputError, ModelError), match=message):
        load_output(tmp_path, **options)


def test_a_job_in_other_colours_is_another_request(tmp_path):
    plain = parse_job(tmp_path, classes=list(CROPS))
    assert "legend" not in plain.model.to_options().to_dict()
    coloured = parse_job(
        tmp_path, classes=[{"name": "Wheat", "color": "#0072b2"}, "Rye", "No data"]
    )
    named = parse_job(tmp_path, classes=list(CROPS), layer="crops")
    spelled_out = parse_job(tmp_path, classes=[{"name": name} for name in CROPS])
    requests = [job_digest.hash_request(job) for job in (plain, coloured, named)]
    assert len(set(requests)) == 3
    assert job_digest.hash_request(spelled_out) == requests[0]
    fingerprints = [model_spec_cache.compute_fingerprint(job) for job in (plain, coloured, named)]
    assert None in fingerprints or len(set(fingerprints)) == 3
    assert coloured.model.to_options() == plain.model.to_options()


def load_notes(folder, **options):
    loaded = model_spec.load_model(parse_job(folder, **options))
    return [caveat.text for caveat in loaded.caveats]


def test_land_cover_in_another_spelling_is_told_with_the_public_names(tmp_path):
    names = ("Water", "Built area", "Snow-ice")
    (note,) = load_notes(tmp_path, names=names)
    assert "write classes: [water, built, snow_ice]" in note
    followed = load_output(tmp_path, names=names, classes=["water", "built", "snow_ice"])
    assert (followed.codes, followed.layer_name) == ((1, 7, 9), "land_cover")
    assert load_notes(tmp_path, names=("Water", "Built area", "Lichen")) == []


def test_classes_that_are_never_mapped_are_told(tmp_path):
    notes = load_notes(tmp_path, options={"ignore_index": 0})
    assert notes == ["never mapped, and counted as not classified: Wheat, No data"]


def test_default_colours_are_those_of_the_palette(tmp_path):
    output = load_output(tmp_path, names=("Wheat", "Rye", "Oats"))
    assert tuple(entry.color for entry in output.legend.mapped_classes) == PALETTE[:3]


def test_the_documented_job_is_valid(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "model.md").read_text()
    (example,) = re.findall(r"```yaml\n(model:\n.*?)```", text, re.DOTALL)
    for name in ("burned.ckpt", "fit.yaml"):
        (tmp_path / name).write_text("S2L2A: {mean: [1.0], std: [1.0]}\n")
    chosen = parse_job(tmp_path, **yaml.safe_load(example)["model"]).model
    assert chosen.class_names == ["Others", "Burned"]
    assert chosen.legend_options.layer == "burn_scars"
