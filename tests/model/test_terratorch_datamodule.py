"""Statistics and bands are read from the YAML of a training."""

from __future__ import annotations

import pytest
import yaml

from model.errors import ModelError
from model.terratorch.datamodule import is_training, read_training


def _write_yaml(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return path


def _read(tmp_path, text, name="DEM", *, is_only=True):
    return read_training(_write_yaml(tmp_path, text)).get_input(name, is_only=is_only)


MULTI = """
data:
  class_path: terratorch.datamodules.GenericMultiModalDataModule
  init_args:
    modalities: [S2L2A, S1GRD]
    means:
      S2L2A: [1000.0, 2000]
      S1GRD: {VV: -12.5, VH: -20.25}
      LULC: [0]
    stds:
      S2L2A: [100, 200.0]
      S1GRD: {VV: 5.0, VH: 6.0}
      DEM: [0]
    constant_scale: {S2L2A: 2.0}
    dataset_bands:
      S2L2A: [RED, BLUE, GREEN]
    output_bands:
      S2L2A: [BLUE, RED]
"""


def test_statistics_and_bands_are_read_by_input(tmp_path):
    training = read_training(_write_yaml(tmp_path, MULTI))
    radar = training.get_input("S1GRD", is_only=False)
    assert (radar.mean, radar.std) == ((-12.5, -20.25), (5.0, 6.0))
    assert radar.dataset_bands is None
    optical = training.get_input("S2L2A", is_only=False)
    assert optical.dataset_bands == ("RED", "BLUE", "GREEN")
    assert optical.output_bands == ("BLUE", "RED")
    pixel = 1234.0
    assert [
        (pixel - mean) / std for mean, std in zip(optical.mean, optical.std, strict=True)
    ] == pytest.approx([(pixel * 2 - 1000) / 100, (pixel * 2 - 2000) / 200])
    with pytest.raises(ModelError, match="no `means` of the input DEM"):
        training.get_input("DEM", is_only=False)
    # ^ what is stated of other inputs, LULC or DEM, does not matter until it is used


def test_a_plain_list_belongs_to_the_only_input(tmp_path):
    text = "data: {means: [1.0], stds: [2.0], output_bands: [DEM]}\n"
    entry = _read(tmp_path, text)
    assert (entry.mean, entry.std, entry.output_bands) == ((1.0,), (2.0,), ("DEM",))
    with pytest.raises(ModelError, match=r"`means` is one list.*\{S1GRD: \[…\]\}"):
        _read(tmp_path, text, "S1GRD", is_only=False)


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        (["BLUE", "HLSBands.RED", "B8A"], ("BLUE", "HLSBands.RED", "B8A")),
        ([[0, 3]], (0, 1, 2, 3)),
        (["BLUE", [1, 2], 7], ("BLUE", 1, 2, 7)),
        ([2, 1, 0, 3], (2, 1, 0, 3)),
        (["0", "1"], (0, 1)),
    ],
)
def test_bands_are_names_numbers_or_ranges(tmp_path, bands, expected):
    text = {"data": {"means": [1.0], "stds": [2.0], "dataset_bands": bands}}
    assert _read(tmp_path, text).dataset_bands == expected


def test_other_forms_of_the_same_numbers(tmp_path):
    (tmp_path / "means.txt").write_text("1.5\n")
    for text in (
        "data: {means: means.txt, stds: 2}",
        "data: {init_args: {means: [15e-1], stds: ['2.0']}, class_path: a.b}",
        "fit: {data: {means: {dem: [1.5]}, stds: {dem: [2]}}}",
        "data: {means: [150], stds: [200], constant_scale: 100}",
        "data: {means: [150], stds: [200], constant_scale: {DEM: 1e2}}",
    ):
        entry = _read(tmp_path, text)
        assert (entry.mean, entry.std) == ((1.5,), (2.0,)), text


def test_inputs_may_have_other_spellings(tmp_path):
    text = "data: {means: {S2RGB: [1, 2, 3], sen1: [4, 5]}, stds: {S2RGB: [6], sen1: [7, 8]}}"
    assert _read(tmp_path, text, "S1GRD", is_only=False).std == (7.0, 8.0)
    with pytest.raises(ModelError, match="3 means but 1 standard deviations of RGB"):
        _read(tmp_path, text, "RGB", is_only=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {}", "no `data` section"),
        ("data: {stds: {DEM: [1]}}", "no `means`"),
        ("data: {means: {DEM: [1]}}", "no `stds`"),
        ("data: {means: {DEM: means.yaml}, stds: {DEM: [1]}}", "must be numbers"),
        ("data: {means: {DEM: [yes]}, stds: {DEM: [1]}}", "must be numbers"),
        ("data: {means: {DEM: [1]}, stds: {RGB: [1]}}", "means of DEM, but stds of RGB"),
        ("data: {means: {DEM: [1]}, stds: {DEM: [1, 2]}}", "1 means but 2"),
        ("data: {means: {DEM: [[1, 2]]}, stds: {DEM: [[1, 2]]}}", "one number for each date"),
        ("data: {means: {DEM: [1]}, stds: {DEM: [1]}, constant_scale: 0}", "constant_scale"),
        ("data: {means: [1], stds: [1], dataset_bands: DEM}", "must be a list"),
        ("data: {means: [1], stds: [1], dataset_bands: [1, [0, 2]]}", "each once"),
        ("data: {concat_bands: true}", "concat_bands"),
        ("[1, 2]", "not a mapping"),
    ],
)
def test_a_yaml_without_usable_statistics_is_explained(tmp_path, text, message):
    with pytest.raises(ModelError, match=message):
        _read(tmp_path, text)


def test_a_file_of_statistics_is_no_training(tmp_path):
    assert is_training(_write_yaml(tmp_path, MULTI))
    assert not is_training(_write_yaml(tmp_path, "DEM: {mean: [1], std: [2]}"))


BY_NAME = {
    "means": {"S2L2A": {"BLUE": 1.0, "NIR_NARROW": 4.0, "RED": 3.0}},
    "stds": {"S2L2A": {"RED": 30.0, "BLUE": 10.0, "NIR_NARROW": 40.0}},
}


@pytest.mark.parametrize("form", ["init_args", "dict_kwargs", "plain", "alone"])
def test_numbers_by_band_keep_their_names(tmp_path, form):
    data = {"class_path": "a.B", "init_args": {"batch_size": 1}}
    if form == "plain":
        data = dict(BY_NAME)
    elif form != "alone":
        data[form] = data.get(form, {}) | BY_NAME
    entry = _read(tmp_path, BY_NAME if form == "alone" else {"data": data}, "S2L2A")
    assert entry.bands == ("BLUE", "NIR_NARROW", "RED")
    assert (entry.mean, entry.std) == ((1.0, 4.0, 3.0), (10.0, 40.0, 30.0))


@pytest.mark.parametrize("stds", [{"BLUE": 10.0, "RED": 30.0}, [10.0, 40.0, 30.0]])
def test_deviations_of_other_bands_than_the_means_are_refused(tmp_path, stds):
    data = BY_NAME | {"stds": {"S2L2A": stds}}
    with pytest.raises(ModelError, match="not of the same bands: BLUE, NIR_NARROW, RED, and"):
        _read(tmp_path, {"data": data}, "S2L2A")


def test_values_of_the_same_file_are_interpolated(tmp_path):
    text = """
    model: {init_args: {model_args: {num_classes: "${data.init_args.num_classes}"}, x: "${env:A}"}}
    data: {init_args: {means: [1], stds: "${data.init_args.deviation}", deviation: 2.0}}
    """
    training = read_training(_write_yaml(tmp_path, text))
    assert training.task["model_args"] == {"num_classes": "${data.init_args.num_classes}"}
    assert training.get_input("DEM", is_only=True).std == (2.0,)
    text = text.replace("deviation: 2.0", "deviation: 2.0, num_classes: 3")
    training = read_training(_write_yaml(tmp_path, text))
    assert training.task == {
        "_class_path": None, "model_args": {"num_classes": 3}, "x": "${env:A}",
    }  # fmt: skip


def test_tuples_that_yaml_dumps_are_lists_and_other_objects_are_refused(tmp_path):
    text = yaml.dump({"data": {"means": (1.0,), "stds": (2.0,)}})
    assert "python/tuple" in text
    assert _read(tmp_path, text).mean == (1.0,)
    with pytest.raises(ModelError, match=r"holds an object of Python.* line 1"):
        _read(tmp_path, "data: !!python/object:a.B {means: [1], stds: [2]}\n")
