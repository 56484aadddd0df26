"""Statistics and bands are read from the YAML of a training."""

from __future__ import annotations

import pytest

from model.errors import ModelError
from model.terratorch import lightning_checkpoint


def _write_yaml(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


MULTI = """
data:
  class_path: terratorch.datamodules.GenericMultiModalDataModule
  init_args:
    modalities: [S2L2A, S1GRD]
    means:
      S2L2A: [1000.0, 2000]
      S1GRD: {VV: -12.5, VH: -20.25}
    stds:
      S2L2A: [100, 200.0]
      S1GRD: {VV: 5.0, VH: 6.0}
    constant_scale: {S2L2A: 2.0}
    dataset_bands:
      S2L2A: [RED, BLUE, GREEN]
    output_bands:
      S2L2A: [BLUE, RED]
"""


def test_statistics_and_bands_are_read_from_the_yaml(tmp_path):
    path = _write_yaml(tmp_path, MULTI)
    result = lightning_checkpoint.statistics_from_yaml(path)
    assert result["S1GRD"].mean == (-12.5, -20.25)
    assert result["S1GRD"].std == (5.0, 6.0)
    pixel = 1234.0
    mean, std = result["S2L2A"].mean, result["S2L2A"].std
    assert [
        (pixel - band_mean) / band_std for band_mean, band_std in zip(mean, std, strict=True)
    ] == pytest.approx([(pixel * 2 - 1000) / 100, (pixel * 2 - 2000) / 200])
    assert lightning_checkpoint.bands_from_yaml(path) == {"S2L2A": ("BLUE", "RED")}


def test_a_plain_list_belongs_to_the_only_modality(tmp_path):
    text = "data: {means: [1.0], stds: [2.0], output_bands: [DEM]}\n"
    path = _write_yaml(tmp_path, text)
    with pytest.raises(ModelError, match="give the `modality`"):
        lightning_checkpoint.statistics_from_yaml(path)
    assert lightning_checkpoint.statistics_from_yaml(path, modality="DEM")["DEM"].mean == (1.0,)
    path = _write_yaml(tmp_path, text + "model: {model_args: {backbone_modalities: [DEM]}}\n")
    assert lightning_checkpoint.statistics_from_yaml(path)["DEM"].std == (2.0,)
    assert lightning_checkpoint.bands_from_yaml(path) == {"DEM": ("DEM",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {}", "no `data` section"),
        ("data: {stds: {DEM: [1]}}", "no `means`"),
        ("data: {means: {DEM: [1]}}", "no `stds`"),
        ("data: {means: {DEM: means.yaml}, stds: {DEM: [1]}}", "must be numbers"),
        ("data: {means: {DEM: [1]}, stds: {RGB: [1]}}", "means of DEM, but stds of RGB"),
        ("data: {means: {DEM: [1]}, stds: {DEM: [0]}}", "must be positive"),
        ("data: {means: {DEM: [1]}, stds: {DEM: [1, 2]}}", "1 means but 2"),
        ("data: {means: {DEM: [1]}, stds: {DEM: [1]}, constant_scale: 0}", "constant_scale"),
        ("data: {concat_bands: true}", "concat_bands"),
        ("[1, 2]", "not a mapping"),
    ],
)
def test_a_yaml_without_usable_statistics_is_explained(tmp_path, text, message):
    with pytest.raises(ModelError, match=message):
        lightning_checkpoint.statistics_from_yaml(_write_yaml(tmp_path, text))
