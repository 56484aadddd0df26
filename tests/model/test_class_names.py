"""Names of a fine-tuned model's classes: from its checkpoint, its training, its card, the user."""

from __future__ import annotations

import pytest
import torch
import yaml

from model.errors import ModelError
from model.predictor import registry
from model.terratorch.class_names import (
    choose_class_names,
    find_class_names,
    find_ignored_class,
)
from model.terratorch.datamodule import read_training
from tests.support import lightning_checkpoints
from tests.support.lightning_checkpoints import SIZE, as_stored, whole_model

FOUND = ("Others", "Burned", "Clouds")


def write_training(folder, task=(), data=()):
    path = folder / "fit.yaml"
    init_args = {"model_args": lightning_checkpoints.ARGS, **dict(task)}
    path.write_text(
        yaml.safe_dump(
            {
                "model": {"class_path": "a.SemanticSegmentationTask", "init_args": init_args},
                "data": {
                    "class_path": "a.DataModule",
                    "init_args": {"means": [1.0], "stds": [1.0], **dict(data)},
                },
            }
        )
    )
    return read_training(path)


def test_names_are_found_in_the_checkpoint_or_in_its_training(tmp_path):
    assert find_class_names({"class_names": list(FOUND)}) == FOUND
    assert find_class_names({}) is None
    assert find_class_names({"class_names": None}, write_training(tmp_path)) is None
    of_task = write_training(tmp_path, task={"class_names": list(FOUND)})
    assert find_class_names({}, of_task) == FOUND
    assert find_class_names({"class_names": list(FOUND)}, of_task) == FOUND
    of_data = write_training(tmp_path, data={"class_names": list(FOUND)})
    assert find_class_names({}, of_data) == FOUND


def test_the_training_of_another_checkpoint_is_refused(tmp_path):
    other = write_training(tmp_path, task={"class_names": ["Burned", "Others", "Clouds"]})
    with pytest.raises(ModelError, match="the checkpoint has the classes Others, Burned, Clouds"):
        find_class_names({"class_names": list(FOUND)}, other)


@pytest.mark.parametrize(
    "names",
    ["Burned", {"a": 1}, {0: "a", 2: "b"}, [False, True], ["a", None], object()],
    ids=["text", "key", "gap", "truth", "none", "object"],
)
def test_names_that_are_no_texts_are_refused(names):
    with pytest.raises(ModelError, match=r"State the names .* classes: \[name, name\]"):
        find_class_names({"class_names": names})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({1: "Rye", 0: "Wheat"}, ("Wheat", "Rye")),
        ({"0": "Wheat", "1": "Rye"}, ("Wheat", "Rye")),
        ([0, 1], ("0", "1")),
    ],
    ids=str,
)
def test_names_by_index_and_numbers_are_read(names, expected):
    assert find_class_names({"class_names": names}) == expected


@pytest.mark.parametrize(
    ("stated", "found", "expected"),
    [
        (None, FOUND, FOUND),
        (FOUND, FOUND, FOUND),
        (("others", "burned", "clouds"), FOUND, ("others", "burned", "clouds")),
        (("a", "b", "c"), FOUND, ("a", "b", "c")),
        (("a", "b", "c"), None, ("a", "b", "c")),
    ],
)
def test_stated_names_come_before_those_of_the_files(stated, found, expected):
    assert choose_class_names(stated, found, 3) == expected


@pytest.mark.parametrize(
    ("stated", "found", "message"),
    [
        (None, None, "neither the checkpoint nor its training names them"),
        (FOUND[:2], None, "2 class names for a model of 3"),
        (None, FOUND[:2], "2 class names for a model of 3 classes: the checkpoint or its training"),
        (("Burned", "Others", "Clouds"), FOUND, "Burned, Others at another place"),
        (("burned", "ground", "Clouds"), FOUND, "burned at another place"),
    ],
)
def test_wrong_names_are_refused(stated, found, message):
    with pytest.raises(ModelError, match=message):
        choose_class_names(stated, found, 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-1, None), (255, None), (3, None), (None, None), (True, None), (0, 0), (2, 2)],
)
def test_a_class_that_training_ignored_is_found(value, expected):
    assert find_ignored_class({"ignore_index": value}, 3) == expected


@pytest.fixture
def checkpoint(tmp_path):
    """Return a function that writes a checkpoint with further hyper-parameters."""

    def write(**options):
        path = tmp_path / "tuned.ckpt"
        torch.save(as_stored(whole_model(), **options), path)
        return path

    return write


def load(folder, path, *, card=(), **options):
    card_path = folder / "micro.yaml"
    card_path.write_text(yaml.safe_dump({"architecture": SIZE, **dict(card)}))
    return registry.load(str(card_path), checkpoint=path, device="cpu", **options)


def test_a_checkpoint_with_names_needs_no_others(tmp_path, checkpoint):
    path = checkpoint(class_names=list(FOUND), ignore_index=2)
    predictor = load(tmp_path, path)
    (output,) = predictor.outputs
    assert output.class_names == FOUND
    assert output.ignored_classes == ("Clouds",)
    assert predictor.digest == load(tmp_path, path, classes=FOUND).digest
    assert predictor.digest != load(tmp_path, path, classes=("a", "b", "c")).digest
    with pytest.raises(ModelError, match=rf"{path}: .* at another place"):
        load(tmp_path, path, classes=("Burned", "Others", "Clouds"))


def test_a_card_names_and_colours_the_classes_of_a_checkpoint(tmp_path, checkpoint):
    card = {
        "class_names": ["ground", "burnt", "cloud"],
        "class_colors": ["#aaaaaa", "d55e00", "#ffffff"],
        "layer": "burn_scars",
    }
    path = checkpoint()
    (output,) = load(tmp_path, path, card=card).outputs
    assert output.class_names == ("ground", "burnt", "cloud")
    assert output.class_colors == ("#aaaaaa", "d55e00", "#ffffff")
    assert output.layer == "burn_scars"
    plain = load(tmp_path, path, card={"class_names": card["class_names"]})
    assert plain.digest == load(tmp_path, path, card=card).digest


def test_colours_and_layer_of_a_card_do_not_change_its_digest():
    from model.predictor import card_file

    values = {"architecture": SIZE, "inputs": ["S2L2A"], "class_names": ["a", "b"]}
    plain = card_file.from_mapping(values)
    shown = card_file.from_mapping(values | {"class_colors": ["#000000", "#ffffff"], "layer": "x"})
    assert shown.digest("s") == plain.digest("s")
    assert card_file.from_mapping(shown.to_mapping()) == shown
    assert "class_colors" not in plain.to_mapping()
