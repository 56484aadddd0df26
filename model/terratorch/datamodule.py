"""Read statistics and bands from the YAML of a TerraTorch training.

A checkpoint does not hold them: they are in the `data` section of the configuration alone.
Standardisation is (x * constant_scale - mean) / std there, and (x - mean) / std here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ModelError, join_names
from model.terramind.modalities import find_modality_key
from model.terratorch.hyperparameters import check_dates
from model.terratorch.training_file import read_section, unwrap_arguments

Band = str | int
"""Name or number of a channel of the training's files."""

_RANGE_LENGTH = 2
# ^ a range of channels is its first and its last one


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingInput:
    """What the data module of a training states about one input."""

    mean: tuple[float, ...]
    """In the unit of the training's files, in the order of the channels."""

    std: tuple[float, ...]
    """Likewise; not checked to be positive."""

    dataset_bands: tuple[Band, ...] | None
    """Channels of the files; None if not stated."""

    output_bands: tuple[Band, ...] | None
    """Those that the model was given, in their order; None for all of them."""

    bands: tuple[str, ...] | None = None
    """Bands of the numbers, where the file names them; None for the order of the channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The configuration of a training: the .yaml of `terratorch fit`, or the one it has saved."""

    path: Path
    task: Mapping[str, Any]
    """Arguments of the task; empty without a `model` section."""

    data: Mapping[str, Any]
    """Arguments of the data module."""

    def get_input(self, name: str, *, is_only: bool) -> TrainingInput:
        """Return what is stated about one input of the model.

        Args:
            name: of the input.
            is_only: whether the model has no other: lists without a name are then of this one.

        Raises:
            ModelError: nothing is stated about the input, or values of the wrong kind.
        """
        factor = self._parse_factor(name)
        bands, mean = self._parse_numbers("means", name, is_only)
        std_bands, std = self._parse_numbers("stds", name, is_only)
        if bands is not None and std_bands is not None and set(bands) == set(std_bands):
            std = tuple(std[std_bands.index(band)] for band in bands)
        elif bands != std_bands:
            raise ModelError(
                f"{self.path}: means and stds of {name} are not of the same bands: "
                f"{_describe_bands(bands)}, and {_describe_bands(std_bands)}"
            )
        mean, std = (tuple(value / factor for value in values) for values in (mean, std))
        if len(mean) != len(std):
            raise ModelError(
                f"{self.path}: {len(mean)} means but {len(std)} standard deviations of {name}"
            )
        return TrainingInput(
            mean=mean,
            std=std,
            bands=bands,
            dataset_bands=self._parse_bands("dataset_bands", name, is_only),
            output_bands=self._parse_bands("output_bands", name, is_only),
        )

    @property
    def drops_inputs(self) -> bool:
        """Whether batches were without some of the inputs."""
        keys = ("allow_missing_modalities", "sample_num_modalities")
        return any(self.data.get(key) for key in keys)

    def _find(self, key: str, name: str, is_only: bool) -> Any:
        """Return the value of a section for one input; None if there is none."""
        values = self.data.get(key)
        if not isinstance(values, Mapping):
            if values is not None and not is_only:
                raise ModelError(
                    f"{self.path}: `{key}` is one list, but the model has several inputs: write "
                    f"`{key}` by input, as in {{{name}: […]}}"
                )
            return values
        by_key = {find_modality_key(str(entry)) or entry: value for entry, value in values.items()}
        # ^ inputs may have another spelling than in the model, as S2RGB and RGB
        return values.get(name, by_key.get(find_modality_key(name) or name))

    def _parse_factor(self, name: str) -> float:
        scales = self.data.get("constant_scale")
        scale = self._find("constant_scale", name, True) if isinstance(scales, Mapping) else scales
        numbers = _to_numbers([1 if scale is None else scale])
        if not numbers or numbers[0] <= 0:
            raise ModelError(
                f"{self.path}: constant_scale of {name} must be a positive number, not {scale!r}"
            )
        return numbers[0]

    def _parse_numbers(
        self, key: str, name: str, is_only: bool
    ) -> tuple[tuple[str, ...] | None, tuple[float, ...]]:
        """Return the bands that the numbers of an input are named by, if they are, and these."""
        values = self._find(key, name, is_only)
        if values is None:
            raise ModelError(
                f"{self.path}: no `{key}` of the input {name}, which the model takes: add them"
            )
        if isinstance(values, str):
            values = self._read_numbers(values)
        bands = tuple(map(str, values)) if isinstance(values, Mapping) else None
        if isinstance(values, Mapping):
            values = list(values.values())
        entries = list(values) if isinstance(values, Sequence) else [values]
        if any(isinstance(entry, Sequence) and not isinstance(entry, str) for entry in entries):
            raise ModelError(
                f"{self.path}: `{key}` of {name} has one number for each date, and only models of "
                "one date are supported"
            )
        numbers = _to_numbers(entries)
        if not numbers:
            raise ModelError(f"{self.path}: {key} of {name} must be numbers, not {values!r}")
        return bands, numbers

    def _read_numbers(self, file_name: str) -> object:
        """Return the numbers of a text file, which may stand for a list, or the text itself."""
        try:
            return (self.path.parent / file_name).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError, ValueError):
            return file_name

    def _parse_bands(self, key: str, name: str, is_only: bool) -> tuple[Band, ...] | None:
        values = self._find(key, name, is_only)
        if values is None:
            return None
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ModelError(f"{self.path}: {key} of {name} must be a list, not {values!r}")
        bands: list[Band] = []
        for entry in values:
            bands += _expand_band(entry)
        if not bands or len(set(bands)) < len(bands):
            raise ModelError(f"{self.path}: {key} of {name} must name channels, each once")
        return tuple(bands)


def is_training(path: str | Path) -> bool:
    """Tell whether a file is the configuration of a training, and not a file of statistics.

    Raises:
        ModelError: the file cannot be read.
    """
    return read_section(path, "data") is not None


def read_training(path: str | Path) -> Training:
    """Read the configuration of a training.

    Args:
        path: the .yaml of `terratorch fit --config`, or config.yaml in the folder of its logs.

    Raises:
        ModelError: the file cannot be read, is of a model of several dates, or holds no means and
            standard deviations.
    """
    section = read_section(path, "data")
    data = unwrap_arguments(section) if isinstance(section, Mapping) else None
    model = read_section(path, "model")
    task = unwrap_arguments(model) if isinstance(model, Mapping) else {}
    check_dates(task)
    # ^ before statistics are asked for, which would be of no use
    if data is None:
        raise ModelError(
            f"{path} has no `data` section: give the configuration that `terratorch fit` was run "
            "with"
        )
    if data.get("concat_bands"):
        raise ModelError(
            f"{path}: concat_bands joins the inputs to one, which TerraMind does not support"
        )
    means, stds = data.get("means"), data.get("stds")
    for key, values in (("means", means), ("stds", stds)):
        if values is None:
            raise ModelError(
                f"{path}: the data module has no `{key}`; they may be defaults of its class, which "
                "are not known here: write them into the file"
            )
    if isinstance(means, Mapping) and isinstance(stds, Mapping) and not set(means) & set(stds):
        raise ModelError(f"{path}: means of {join_names(means)}, but stds of {join_names(stds)}")
    return Training(path=Path(path), task=task, data=data)


def _describe_bands(bands: Sequence[str] | None) -> str:
    return "a list without names" if bands is None else join_names(bands, 13)


def _to_numbers(entries: Sequence[object]) -> tuple[float, ...]:
    """Return entries as numbers; empty if one is none."""
    numbers = []
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, (int, float, str)):
            return ()
        try:
            numbers.append(float(entry))
            # ^ YAML reads 1e-3, without a dot, as a text
        except ValueError:
            return ()
    return tuple(numbers)


def _expand_band(entry: object) -> list[Band]:
    """Return one entry of a list of bands as names or numbers; a pair of numbers is a range."""
    if isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == _RANGE_LENGTH:
        first, last = entry
        if isinstance(first, int) and isinstance(last, int):
            return list(range(first, last + 1))
    if isinstance(entry, int) and not isinstance(entry, bool):
        return [entry]
    return [int(text) if (text := str(entry)).isdigit() else text]
