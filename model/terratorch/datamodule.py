"""Read statistics and bands from the YAML of a TerraTorch training.

A checkpoint does not hold them: they are in the `data` section of the configuration alone.
Standardisation is (x * constant_scale - mean) / std there, and (x - mean) / std here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import ModelError, join_names
from model.terramind.config import read_mapping
from model.terramind.modalities import Statistics


def statistics_from_yaml(path: str | Path, modality: str | None = None) -> dict[str, Statistics]:
    """Return means and standard deviations by modality, in the order of the channels.

    Args:
        path: the configuration of `terratorch fit --config`.
        modality: the modality of a single list, where the model has several inputs.

    Raises:
        ModelError: the file cannot be read, or holds no usable means and stds.
    """
    content, data = _read_sections(path)
    means = _group_by_modality(path, content, data.get("means"), "means", modality)
    stds = _group_by_modality(path, content, data.get("stds"), "stds", modality)
    if set(means) != set(stds):
        raise ModelError(f"{path}: means of {join_names(means)}, but stds of {join_names(stds)}")
    scales = data.get("constant_scale")
    statistics = {}
    for name in means:
        scale = scales.get(name) if isinstance(scales, Mapping) else scales
        factor, *_ = _parse_numbers(
            path, f"constant_scale of {name}", 1 if scale is None else scale
        )
        if factor <= 0:
            raise ModelError(f"{path}: constant_scale of {name} must be positive, not {factor}")
        mean = _parse_numbers(path, f"means of {name}", means[name])
        std = _parse_numbers(path, f"stds of {name}", stds[name])
        statistics[name] = Statistics(
            mean=tuple(value / factor for value in mean), std=tuple(value / factor for value in std)
        )
    return statistics


def bands_from_yaml(path: str | Path, modality: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return the names of the channels that the data module loaded, by modality.

    Modalities whose bands the file does not name are left out: they have those of the model.

    Args:
        path: the configuration of `terratorch fit --config`.
        modality: the modality of a single list, where the model has several inputs.

    Raises:
        ModelError: the file cannot be read, or its bands are not lists of names.
    """
    content, data = _read_sections(path)
    bands_by_modality: dict[str, tuple[str, ...]] = {}
    for section in ("dataset_bands", "output_bands"):
        if data.get(section) is None:
            continue
        # ^ the second one selects from the first
        grouped = _group_by_modality(path, content, data[section], section, modality)
        for name, bands in grouped.items():
            if not isinstance(bands, Sequence) or isinstance(bands, str):
                raise ModelError(f"{path}: {section} of {name} must be a list, not {bands!r}")
            bands_by_modality[name] = tuple(str(band) for band in bands)
    return bands_by_modality


def _read_sections(path: str | Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the whole configuration and the arguments of its data module."""
    content = read_mapping(path)
    data = content.get("data")
    arguments = data.get("init_args", data) if isinstance(data, Mapping) else None
    if not isinstance(arguments, Mapping):
        raise ModelError(
            f"{path} has no `data` section: give the configuration that `terratorch fit` was run "
            "with"
        )
    if arguments.get("concat_bands"):
        raise ModelError(
            f"{path}: concat_bands joins the inputs to one, which TerraMind does not support"
        )
    return content, arguments


def _group_by_modality(
    path: str | Path, content: Mapping[str, Any], values: object, key: str, modality: str | None
) -> dict[str, Any]:
    if values is None:
        raise ModelError(
            f"{path}: the data module has no `{key}`; they may be defaults of its class, which "
            "are not known here: write them into the file"
        )
    if isinstance(values, Mapping):
        return {str(name): value for name, value in values.items()}
    if modality is None:
        modality = _find_only_modality(content)
    if modality is None:
        raise ModelError(f"{path}: `{key}` is one list: give the `modality` that it is of")
    return {modality: values}


def _find_only_modality(content: Mapping[str, Any]) -> str | None:
    model = content.get("model")
    arguments = model.get("init_args", model) if isinstance(model, Mapping) else {}
    args = arguments.get("model_args") if isinstance(arguments, Mapping) else None
    modalities = args.get("backbone_modalities") if isinstance(args, Mapping) else None
    names = list(modalities) if isinstance(modalities, (list, Mapping)) else []
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


def _parse_numbers(path: str | Path, key: str, values: object) -> tuple[float, ...]:
    entries = list(values.values()) if isinstance(values, Mapping) else values
    if not isinstance(entries, list):
        entries = [entries]
    numbers = [
        entry
        for entry in entries
        if isinstance(entry, (int, float)) and not isinstance(entry, bool)
    ]
    if len(numbers) != len(entries) or not entries:
        raise ModelError(f"{path}: {key} must be numbers, not {values!r}")
    return tuple(float(value) for value in numbers)
