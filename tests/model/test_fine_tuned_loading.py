"""A checkpoint, the configuration of its training and its user are compared when it is loaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from model.errors import ModelError
from model.predictor import registry
from model.terramind.modalities import get_raster_modality
from tests.support.lightning_checkpoints import (
    ARGS,
    PYRAMID,
    SIZE,
    as_stored,
    build_model,
    whole_model,
)
from tests.support.oracle import one_thread  # noqa: F401

HLS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
NAMES = ["Others", "Burned", "Clouds"]
BOTH = ["S2L2A", "S1GRD"]
MEANS = {
    name: list(get_raster_modality(name).statistics.mean)
    for name in ("S2L2A", "S2L1C", "RGB", "S1GRD", "S1RTC", "DEM")
}
STDS = {name: list(get_raster_modality(name).statistics.std) for name in MEANS}

SAVED = f"""
# lightning.pytorch==2.6.6
seed_everything: 0
trainer:
  accelerator: cpu
  callbacks:
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {{dirpath: out, save_top_k: 1}}
  max_epochs: 1
model:
  class_path: terratorch.tasks.SemanticSegmentationTask
  init_args:
    model_args:
      backbone: micro
      backbone_pretrained: false
      backbone_modalities: [S2L2A, S1GRD]
      backbone_bands:
        S2L2A: {HLS}
      backbone_merge_method: mean
      necks:
      - {{name: SelectIndices, indices: [0, 1, 2, 3]}}
      - {{name: ReshapeTokensToImage, remove_cls_token: false}}
      - {{name: LearnedInterpolateToPyramidal}}
      decoder: UNetDecoder
      decoder_channels: [16, 12, 8, 8]
      head_dropout: 0.1
      num_classes: 3
    model_factory: EncoderDecoderFactory
    loss: dice
    ignore_index: -1
    lr: 0.001
    class_names: {NAMES}
    tiled_inference_parameters: {{crop: 256, stride: 208, average_patches: true}}
data:
  class_path: terratorch.datamodules.GenericMultiModalDataModule
  init_args:
    batch_size: 2
    modalities: [S2L2A, S1GRD]
    means:
      S2L1C: {MEANS["S2L1C"]}
      S2L2A: [1503.317, 1718.197, 1853.91, 3132.22, 2424.884, 1857.648]
      S1GRD: [-12.599, -20.293]
      S1RTC: [-10.93, -17.329]
      RGB: [87.271, 80.931, 66.667]
      DEM: [670.665]
    stds:
      S2L1C: {STDS["S2L1C"]}
      S2L2A: [2141.107, 2038.973, 2134.138, 1753.829, 1434.261, 1334.311]
      S1GRD: [5.195, 5.89]
      S1RTC: [4.391, 4.459]
      RGB: [58.767, 47.663, 42.631]
      DEM: [951.272]
    task: segmentation
    num_classes: 3
    dataset_bands:
      S2L2A: {list(get_raster_modality("S2L2A").aliases)}
      S1GRD: [VV, VH]
    output_bands:
      S2L2A: {HLS}
      S1GRD: [VV, VH]
    rgb_modality: S2L2A
    rgb_indices: [2, 1, 0]
    expand_temporal_dimension: false
    no_data_replace: 0.0
    concat_bands: false
out_dtype: int16
deploy_config_file: true
optimizer:
  class_path: torch.optim.AdamW
  init_args: {{lr: 2.0e-05, betas: [0.9, 0.999]}}
"""
# ^ as Lightning saves the configuration beside the logs of `terratorch fit`


@pytest.fixture(scope="module")
def whole():
    return whole_model()


@pytest.fixture(scope="module")
def six_bands():
    options = {"necks": PYRAMID, "decoder_options": {"channels": [16, 12, 8, 8]}}
    network = build_model(SIZE, BOTH, 3, bands={"S2L2A": HLS}, **options)
    return registry.loading.initialise(network, 3)


@pytest.fixture
def load(tmp_path):
    """Return a function that writes a checkpoint and its training, and loads them."""

    def run(network, args=None, *, training=None, card=(), task=(), **options):
        path = tmp_path / "tuned.ckpt"
        torch.save(as_stored(network, args, **{"class_names": NAMES, **dict(task)}), path)
        card_path = tmp_path / "micro.yaml"
        card_path.write_text(yaml.safe_dump({"architecture": SIZE, **dict(card)}))
        if training is not None:
            options["stats"] = str(tmp_path / "config.yaml")
            text = training if isinstance(training, str) else yaml.safe_dump(training)
            (tmp_path / "config.yaml").write_text(text)
        options = {"device": "cpu", "precision": "fp32", **options}
        return registry.load(str(card_path), checkpoint=path, **options)

    return run


def _data(means=None, stds=None, **options):
    inputs = ("S2L2A", "S1GRD")
    means = {name: MEANS[name] for name in inputs} | (means or {})
    stds = {name: STDS[name] for name in inputs} | (stds or {})
    return {"data": {"class_path": "a.b", "init_args": {"means": means, "stds": stds, **options}}}


def test_the_configuration_that_lightning_saves_is_understood_as_it_is(load, six_bands):
    args = {"backbone_bands": {"S2L2A": HLS}}
    task = {"tiled_inference_parameters": {"crop": 256, "stride": 208}}
    predictor = load(six_bands, args, training=SAVED, task=task, inputs=BOTH)
    assert predictor.inputs == {
        "S2L2A": ("B02", "B03", "B04", "B8A", "B11", "B12"),
        "S1GRD": ("VV", "VH"),
    }
    assert predictor.spec.statistics["S2L2A"].mean[3] == 3132.22
    assert predictor.outputs[0].class_names == tuple(NAMES)
    assert (predictor.window, predictor.overlap, predictor.notes) == (256, 48, ())


@pytest.mark.parametrize("key", [None, "model", "model_state_dict"])
def test_tensors_alone_are_described_by_the_same_configuration(load, six_bands, tmp_path, key):
    load(six_bands, {"backbone_bands": {"S2L2A": HLS}}, training=SAVED)
    content = torch.load(tmp_path / "tuned.ckpt")
    tensors = content["state_dict"]
    torch.save(tensors if key is None else {key: tensors, "epoch": 3}, tmp_path / "tuned.pt")
    predictor = registry.load(
        str(tmp_path / "micro.yaml"),
        checkpoint=tmp_path / "tuned.pt",
        stats=str(tmp_path / "config.yaml"),
        device="cpu",
    )
    assert predictor.outputs[0].class_names == tuple(NAMES)
    assert predictor.inputs["S2L2A"][3] == "B8A"


def test_inputs_that_the_model_does_not_take_may_be_stated_too(load, whole):
    plain = load(whole, training=_data())
    more = _data({"DEM": [0.0], "LULC": [0]}, {"DEM": [-1.0], "LULC": [0]})
    assert load(whole, training=more).digest == plain.digest
    stats = {name: {"mean": MEANS[name], "std": STDS[name]} for name in MEANS}
    assert load(whole, stats=stats).digest == plain.digest


def test_a_list_without_a_name_is_of_the_only_input_of_the_checkpoint(load, tmp_path):
    options = {"necks": PYRAMID, "decoder_options": {"channels": [16, 12, 8, 8]}}
    network = build_model(SIZE, ["S2L2A"], 3, bands={"S2L2A": HLS}, **options)
    args = {"backbone_modalities": ["S2L2A"], "backbone_bands": {"S2L2A": HLS}}
    del args["backbone_modalities"]
    args["backbone_kwargs"] = {"modalities": ["S2L2A"], "bands": {"S2L2A": HLS}}
    content = as_stored(registry.loading.initialise(network, 1), class_names=NAMES)
    own = content["hyper_parameters"]["model_args"]
    for key in [key for key in own if key.startswith("backbone_")]:
        del own[key]
    own["backbone_kwargs"] = args["backbone_kwargs"]
    torch.save(content, tmp_path / "flat.ckpt")
    mean = [0.0333, 0.057, 0.0589, 0.2323, 0.1973, 0.1194]
    std = [0.0227, 0.0268, 0.04, 0.0779, 0.0871, 0.0724]
    (tmp_path / "flat.yaml").write_text(
        yaml.safe_dump({"data": {"means": mean, "stds": std, "dataset_bands": [[0, 5]]}})
    )
    (tmp_path / "micro.yaml").write_text(yaml.safe_dump({"architecture": SIZE}))
    predictor = registry.load(
        str(tmp_path / "micro.yaml"),
        checkpoint=tmp_path / "flat.ckpt",
        stats=str(tmp_path / "flat.yaml"),
        device="cpu",
    )
    assert predictor.spec.statistics["S2L2A"].mean == pytest.approx([v * 1e4 for v in mean])
    (note,) = predictor.notes
    assert "reflectance" in note


@pytest.mark.parametrize("inputs", [["S2L2A"], ["S2L2A", "S1RTC"], ["S2L2A", "S1GRD", "DEM"]])
def test_other_inputs_than_those_of_the_checkpoint_are_refused(load, whole, inputs):
    message = r"takes the inputs S2L2A, S1GRD, and is given .*inputs: \[S2L2A, S1GRD\]"
    with pytest.raises(ModelError, match=message):
        load(whole, training=_data(), inputs=inputs)


def test_an_input_may_be_absent_if_training_left_out_inputs(load, whole):
    for args, data in (
        ({"backbone_modality_drop_rate": 0.2}, {}),
        ({}, {"allow_missing_modalities": True}),
    ):
        predictor = load(whole, args, training=_data(**data), inputs=["S2L2A"])
        assert list(predictor.inputs) == ["S2L2A"]
        assert any("also takes S1GRD" in note for note in predictor.notes)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (["S1GRD", "LULC"], "'LULC', which is a map of classes"),
        ([{"SOIL": 5}, "S1GRD"], "'SOIL', which is an input of 5 channels"),
    ],
)
def test_inputs_that_a_map_cannot_give_are_refused(load, modalities, message):
    options = {"necks": PYRAMID, "decoder_options": {"channels": [16, 12, 8, 8]}}
    network = registry.loading.initialise(build_model(SIZE, modalities, 3, **options), 3)
    with pytest.raises(ModelError, match=f"{message}.*backbone_modalities"):
        load(network, {"backbone_modalities": modalities}, training=_data())


OTHER_TRAINING = {
    "backbone": ("terramind_v1_tiny", "its backbone is terramind_v1_tiny"),
    "backbone_modalities": (["S2L2A"], "its modalities is S2L2A"),
    "num_classes": (5, "its num_classes is 5"),
    "decoder": ("UperNetDecoder", "its decoder is UperNetDecoder"),
}


@pytest.mark.parametrize("key", OTHER_TRAINING)
def test_the_configuration_of_another_training_is_refused(load, whole, key):
    value, message = OTHER_TRAINING[key]
    model = {"init_args": {"model_args": {**ARGS, key: value}}}
    if key == "decoder":
        del model["init_args"]["model_args"]["decoder_channels"]
    with pytest.raises(ModelError, match=f"is of another training: {message}"):
        load(whole, training={**_data(), "model": model})


def test_bands_of_checkpoint_and_training_that_contradict_are_refused(load, six_bands):
    args = {"backbone_bands": {"S2L2A": HLS}}
    mean, std = MEANS["S2L2A"][:6], STDS["S2L2A"][:6]
    data = _data({"S2L2A": mean}, {"S2L2A": std}, dataset_bands={"S2L2A": HLS[::-1]})
    with pytest.raises(ModelError, match=r"has the bands B02.*given B12.*bands: \[…\]"):
        load(six_bands, args, training=data)
    stated = {
        "S2L2A": {"bands": HLS[::-1], "mean": mean, "std": std},
        "S1GRD": {"mean": MEANS["S1GRD"], "std": STDS["S1GRD"]},
    }
    predictor = load(six_bands, args, stats=stated)
    assert predictor.inputs["S2L2A"] == ("B02", "B03", "B04", "B8A", "B11", "B12")
    assert predictor.spec.statistics["S2L2A"].mean == tuple(mean[::-1])
    (note,) = predictor.notes
    assert "of B12, B11, B8A, B04, B03, B02 in this order" in note


def test_numbers_of_other_bands_than_the_checkpoint_names_are_told(load, six_bands):
    args = {"backbone_bands": {"S2L2A": HLS}}
    stated = {
        "S2L2A": {
            "bands": ["B02", "B03", "B04", "B05", "B06", "B07"],
            "mean": MEANS["S2L2A"][:6],
            "std": STDS["S2L2A"][:6],
        },
        "S1GRD": {"mean": MEANS["S1GRD"], "std": STDS["S1GRD"]},
    }
    (note,) = load(six_bands, args, stats=stated).notes
    assert "names its bands B02, B03, B04, B8A, B11" in note
    assert "is given B02, B03, B04, B05, B06" in note


def test_statistics_in_other_units_are_refused_or_converted(load, whole):
    with pytest.raises(ModelError, match=r"tuned\.ckpt: S1GRD: .*linear power"):
        load(whole, training=_data({"S1GRD": [0.12, 0.03]}, {"S1GRD": [0.1, 0.04]}))
    scaled = {name: [value / 1e4 for value in values] for name, values in MEANS.items()}
    deviations = {name: [value / 1e4 for value in values] for name, values in STDS.items()}
    predictor = load(
        whole, training=_data({"S2L2A": scaled["S2L2A"]}, {"S2L2A": deviations["S2L2A"]})
    )
    assert predictor.spec.statistics["S2L2A"].mean == pytest.approx(MEANS["S2L2A"])
    assert any("multiplied by 10000" in note for note in predictor.notes)


def test_windows_are_those_of_the_card_else_of_the_checkpoint(load, whole):
    task = {"tiled_inference_parameters": {"crop": 256, "stride": 224}}
    stated = load(whole, training=_data(), task=task, card={"window": 96})
    assert (stated.window, stated.overlap) == (96, None)
    own = load(whole, training=_data(), task=task)
    assert (own.window, own.overlap) == (256, 32)
    assert load(whole, training=_data()).window == 224


def test_other_names_of_the_classes_are_told(load, whole):
    predictor = load(whole, training=_data(), classes=["ground", "burned", "clouds"])
    assert predictor.outputs[0].class_names == ("ground", "burned", "clouds")
    assert predictor.notes == ("the classes are renamed: Others is ground",)
    with pytest.raises(ModelError, match=r"Burned, Others at another place.*Others, Burned"):
        load(whole, training=_data(), classes=["Burned", "Others", "Clouds"])


def test_inputs_may_have_other_spellings_and_unnamed_bands(load):
    modalities = [{"S2L2A": 3}, "sen1grd"]
    options = {"necks": PYRAMID, "decoder_options": {"channels": [16, 12, 8, 8]}}
    network = registry.loading.initialise(build_model(SIZE, modalities, 3, **options), 3)
    args = {"backbone_modalities": modalities}
    mean, std = MEANS["S2L2A"][:3], STDS["S2L2A"][:3]
    with pytest.raises(ModelError, match=r"1, 2, 3 of the checkpoint .*bands: \[…\]"):
        load(network, args, training=_data({"S2L2A": mean}, {"S2L2A": std}))
    data = _data({"S2L2A": mean}, {"S2L2A": std}, dataset_bands={"S2L2A": ["B04", "B3", "BLUE"]})
    predictor = load(network, args, training=data, inputs=BOTH)
    assert predictor.inputs == {"S2L2A": ("B04", "B03", "B02"), "S1GRD": ("VV", "VH")}
    chips = {"S2L2A": np.full((1, 3, 224, 224), 1500.0), "S1GRD": np.full((1, 2, 224, 224), -12.0)}
    assert predictor({name: chip.astype(np.float32) for name, chip in chips.items()}).shape == (
        *(1, 3, 224, 224),
    )


def test_statistics_of_a_card_are_checked_too(load, whole, tmp_path):
    own = {name: {"mean": MEANS[name], "std": STDS[name]} for name in BOTH}
    assert load(whole, card={"statistics": own}).digest == load(whole, stats=own).digest
    linear = own | {"S1GRD": {"mean": [0.1, 0.02], "std": [0.1, 0.1]}}
    with pytest.raises(ModelError, match="linear power"):
        load(whole, card={"statistics": linear})
    with pytest.raises(ModelError, match="unknown entry windows"):
        load(whole, card={"windows": 96})
    card = {"architecture": SIZE, "inputs": BOTH, "statistics": linear, "weights": {"random": 1}}
    (tmp_path / "segmenter.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ModelError, match="linear power"):
        registry.load(str(tmp_path / "segmenter.yaml"), device="cpu")


def test_statistics_by_band_are_put_in_the_order_of_the_channels(load, six_bands):
    numbers = dict(zip(HLS, [1503.3, 1718.2, 1853.9, 3132.2, 2424.9, 1857.6], strict=True))
    deviations = dict(zip(HLS, [2141.1, 2039.0, 2134.1, 1753.8, 1434.3, 1334.3], strict=True))
    options = {"args": {"backbone_bands": {"S2L2A": HLS}}, "inputs": BOTH}
    training = _data(means={"S2L2A": numbers}, stds={"S2L2A": deviations})
    straight = load(six_bands, training=training, **options)
    by_name = {name: numbers[name] for name in sorted(HLS)}
    training = _data(means={"S2L2A": by_name}, stds={"S2L2A": deviations})
    shuffled = load(six_bands, training=training, **options)
    assert shuffled.spec.statistics["S2L2A"] == straight.spec.statistics["S2L2A"]
    assert any("put in that of the model's bands" in note for note in shuffled.notes)
