"""Model cards: architecture, inputs, statistics, classes and weights of a model.

A card is a JSON or YAML mapping. The demo model has one beside its weights, and a user's own model
is described by one. Reading a card does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

from model.errors import ModelError, join_names
from model.predictor import edge_effect
from model.predictor.edge_effect import EdgeEffect
from model.terramind.architectures import Architecture, read_mapping, resolve_architecture
from model.terramind.modalities import (
    IMAGE_SIZE,
    LULC_CLASSES,
    PATCH_SIZE,
    RASTER_MODALITIES,
    RasterModality,
    Statistics,
    band_indices,
    get_raster_modality,
    get_statistics,
)

TASKS = ("land_cover", "embedding", "generate")
"""Tasks of a model: classes of a legend, features of each patch, values of another sensor."""

DEFAULT_INPUTS = ("S2L2A", "S1RTC", "DEM")
"""Default inputs of a TerraMind model."""

_MAX_LAYERS, _MAX_WIDTH, _MAX_WINDOW = 4, 1024, 4096
# ^ maximum number of layers that a head reads, of its channels, and of pixels along a window

_TOKENIZER_KEYS = ("dim", "depth", "heads", "image_size", "unet")

_FIELD_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "a text"),
    "task": (str, "a text"),
    "architecture": ((str, Mapping, Architecture), "a name, or a mapping with dim, heads, depth"),
    "statistics": ((Mapping, NoneType), "{MODALITY: {mean: […], std: […]}}"),
    "class_names": (Sequence, "a list of names"),
    "class_colors": (Sequence, "a list of colours such as '#d55e00', one per class"),
    "layer": ((str, NoneType), "a text"),
    "layers": (Sequence, "a list of whole numbers"),
    "width": (int, "a whole number"),
    "window": (int, "a whole number"),
    "tokenizer": ((Mapping, NoneType), f"a mapping with some of {join_names(_TOKENIZER_KEYS)}"),
    "weights": ((Mapping, str, NoneType), "hub, a path, {path, sha256} or {random: SEED}"),
    "reach": ((Mapping, EdgeEffect, NoneType), "a mapping made by model.predictor.edge_effect"),
    "training": (Mapping, "a mapping"),
}
"""Entry of a card → its type, and the type in words."""

CLASSES = tuple(name for name in LULC_CLASSES if name not in ("nodata", "clouds"))
"""Default classes: those of land cover, without clouds and nodata, which are gaps of a map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model in plain values: a segmenter, or with `tokenizer` a TerraMind model."""

    name: str
    architecture: Architecture
    inputs: Mapping[str, tuple[str, ...]]
    """Bands by modality, in the order of the channels; the modalities in the order of
    `RASTER_MODALITIES`."""

    statistics: Mapping[str, Statistics]
    class_names: tuple[str, ...] = CLASSES
    """Names of the probabilities, in order."""

    class_colors: tuple[str, ...] = ()
    """Colours of the classes, `#rrggbb`; empty = chosen by the map. Like `layer` they decide no
    number, and are not part of the digest."""

    layer: str | None = None
    """Name of the layer of a map; None = chosen by the classes."""

    task: str = "land_cover"
    layers: tuple[int, ...] = ()
    """Encoder layers that the head reads, shallow to deep; empty = four, evenly spread."""

    width: int = 48
    """Channels of the head."""

    window: int = IMAGE_SIZE
    """Side of one input, px."""

    tokenizer: Mapping[str, Any] | None = None
    """Sizes of the tokenizers of a TerraMind model, where they differ from the published ones: dim,
    depth, heads, image_size, unet."""

    weights: Mapping[str, Any] | str | None = None
    """Source of the weights: {path, sha256} relative to the card, or any other source."""

    reach: EdgeEffect | None = None
    """How the output depends on the distance from a window's edge; None = not measured. Like
    `training` it describes the weights, and is not part of the digest."""

    training: Mapping[str, Any] = field(default_factory=dict)
    """How the model was trained and its accuracy, for readers; not part of the digest."""

    def __post_init__(self) -> None:
        if self.task != TASKS[0]:
            raise ModelError(
                f"task {self.task!r}: a card's head is for {TASKS[0]}; other tasks are requested "
                "when a model is loaded"
            )
        if not PATCH_SIZE <= self.window <= _MAX_WINDOW or self.window % PATCH_SIZE:
            raise ModelError(
                f"window {self.window} is not a multiple of {PATCH_SIZE} up to {_MAX_WINDOW}"
            )
        if not 1 <= self.width <= _MAX_WIDTH:
            raise ModelError(f"width {self.width}: channels of the head, 1 to {_MAX_WIDTH}")
        if not self.inputs:
            raise ModelError("a card needs at least one input")
        check_classes(self.class_names, self.class_colors)
        for name, bands in self.inputs.items():
            band_indices(get_raster_modality(name), bands)
        ordered = {
            name: tuple(self.inputs[name]) for name in RASTER_MODALITIES if name in self.inputs
        }
        object.__setattr__(self, "inputs", ordered)
        # ^ the weights depend on the order, and a mapping may be read from a file in another one
        object.__setattr__(self, "statistics", get_statistics(self.inputs, self.statistics))
        if not self.layers:
            object.__setattr__(self, "layers", self.architecture.feature_layers)
        check_layers(self.layers, self.architecture.depth)

    def with_statistics(self, statistics: Mapping[str, Statistics]) -> Card:
        """Return a copy with other statistics of some inputs."""
        return replace(self, statistics={**self.statistics, **statistics})

    def identity(self) -> dict[str, Any]:
        """Return the entries that outputs depend on, without the weights, sorted by key."""
        values = self.to_mapping()
        excluded = ("reach", "training", "weights", "class_colors", "layer")
        return {key: values[key] for key in sorted(values) if key not in excluded}

    def digest(self, state_digest: str) -> str:
        """Return the sha256 over configuration, statistics and the digest of the weights."""
        text = json.dumps({"card": self.identity(), "state": state_digest}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_mapping(self) -> dict[str, Any]:
        """Return the card as JSON-ready values."""
        tokenizer = {} if self.tokenizer is None else {"tokenizer": dict(self.tokenizer)}
        # ^ left out where there is none: the digests of segmenters do not cover it
        reach = {} if self.reach is None else {"reach": self.reach.to_mapping()}
        return {
            "name": self.name,
            "task": self.task,
            "architecture": self.architecture.to_mapping(),
            "inputs": {name: list(bands) for name, bands in self.inputs.items()},
            "statistics": {
                name: statistics.to_mapping() for name, statistics in self.statistics.items()
            },
            "class_names": list(self.class_names),
            **({"class_colors": list(self.class_colors)} if self.class_colors else {}),
            **({} if self.layer is None else {"layer": self.layer}),
            "layers": list(self.layers),
            "width": self.width,
            "window": self.window,
            **tokenizer,
            "weights": self.weights,
            **reach,
            "training": dict(self.training),
        }


def check_classes(names: Sequence[str], colors: Sequence[str] = ()) -> None:
    """Check that there are at least two class names, all different, and a colour for each or none.

    Raises:
        ModelError: there are not; the message names them.
    """
    texts = all(isinstance(name, str) and name.strip() for name in names)
    repeated = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if texts and repeated:
        raise ModelError(
            f"class names {join_names(map(str, names), 10)}: {join_names(repeated, 10)} comes more "
            "than once. State a name of its own for each class, in the order of the model's "
            "output: classes: [name, name]"
        )
    if not texts or len(names) < 2:
        raise ModelError(
            f"class names {join_names(map(str, names), 10)}: at least two different texts expected"
        )
    valid = all(
        isinstance(color, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", color) for color in colors
    )
    if colors and (len(colors) != len(names) or not valid):
        raise ModelError(
            f"class_colors {join_names(map(str, colors), 10)}: one colour such as '#d55e00' for "
            f"each of the {len(names)} classes expected"
        )


def check_layers(layers: Sequence[int], depth: int) -> None:
    """Check that a head can read some encoder layers.

    Raises:
        ModelError: they are not one to four rising whole numbers from 0 to depth - 1.
    """
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers)
    rising = whole and list(layers) == sorted({*layers})
    if not (rising and 1 <= len(layers) <= _MAX_LAYERS and layers[0] >= 0 and layers[-1] < depth):
        raise ModelError(
            f"layers {join_names(layers)}: one to {_MAX_LAYERS} whole numbers from 0 to "
            f"{depth - 1} expected, shallow to deep"
        )


def read(path: str | Path, inputs: Sequence[str] | None = None) -> Card:
    """Read a card from JSON or YAML.

    Args:
        path: the file.
        inputs: modalities of a TerraMind model whose card names none; default DEFAULT_INPUTS.

    Raises:
        ModelError: the file is absent or not parseable, or has an unknown or missing entry.
    """
    options = read_mapping(path)
    if options.get("tokenizer") is not None and inputs:
        options = {"inputs": list(inputs), **options}
    try:
        return from_mapping(options, Path(path).stem)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def from_mapping(options: Mapping[str, Any], name: str = "unnamed") -> Card:
    """Build a card from plain values.

    Raises:
        ModelError: an unknown or missing entry, or one of the wrong kind.
    """
    check_entries(options)
    if options.get("tokenizer") is not None:
        options = {"inputs": list(DEFAULT_INPUTS), **options}
        # ^ a TerraMind model takes any of its inputs; a segmenter's head was trained with some
    missing = [key for key in ("architecture", "inputs") if key not in options]
    if missing:
        raise ModelError(f"the card lacks {join_names(missing)}")
    try:
        return Card(**_convert_values({"name": name, **options}))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"the card holds a value of the wrong kind: {error}") from error


def check_entries(options: Mapping[str, Any]) -> None:
    """Check the names and the types of a card's entries.

    Raises:
        ModelError: an unknown entry, or one of the wrong kind.
    """
    known = [entry.name for entry in fields(Card)]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ModelError(
            f"unknown entry {join_names(unknown)}; a model card has {join_names(known, 12)}"
        )
    _check_types(options)


def find_weights_path(card: Card, folder: Path) -> Path | None:
    """Return the path of the weights that a card names; None for other sources.

    Args:
        card: the card.
        folder: folder of its file, at which relative paths start.
    """
    source = card.weights.get("path") if isinstance(card.weights, Mapping) else card.weights
    if not isinstance(source, str | Path) or source == "hub":
        return None
    return folder / source


def parse_statistics(values: Mapping[str, Any] | None) -> dict[str, Statistics]:
    """Return statistics by modality from plain values, {modality: {mean: [...], std: [...]}}.

    Raises:
        ModelError: unknown modality, or values of the wrong kind.
    """
    statistics: dict[str, Statistics] = {}
    for name, entry in (values or {}).items():
        modality = get_raster_modality(name).name
        if isinstance(entry, Statistics):
            statistics[modality] = entry
        else:
            mean, std = parse_numbers(name, entry)
            statistics[modality] = Statistics(mean=mean, std=std)
    return statistics


def parse_numbers(
    name: str, entry: Any, other_keys: Sequence[str] = ()
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return means and standard deviations of {mean: [...], std: [...]}.

    Args:
        name: of the modality.
        entry: its statistics.
        other_keys: that may stand beside `mean` and `std`.

    Raises:
        ModelError: a key is missing or unknown, or values are of the wrong kind.
    """
    known = ("mean", "std", *other_keys)
    unknown = [key for key in entry if key not in known] if isinstance(entry, Mapping) else []
    if unknown:
        raise ModelError(
            f"statistics of {name}: unknown {join_names(unknown)}; known are {join_names(known)}"
        )
    try:
        return _to_floats(entry["mean"]), _to_floats(entry["std"])
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(
            f"statistics of {name}: {{mean: […], std: […]}} expected, one number per band; a "
            f"value is of the wrong kind ({error!r})"
        ) from error


def write(path: str | Path, card: Card) -> None:
    """Write a card as JSON, atomically."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    text = json.dumps(card.to_mapping(), indent=1, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def _check_types(options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        expected_type, description = _FIELD_TYPES.get(key, (object, ""))
        is_text = isinstance(value, str) and expected_type is Sequence
        is_bool = isinstance(value, bool) and expected_type is int
        if not isinstance(value, expected_type) or is_text or is_bool:
            raise ModelError(f"{key}: {value!r} is of the wrong kind: {description} expected")
    unknown = [key for key in options.get("tokenizer") or {} if key not in _TOKENIZER_KEYS]
    if unknown:
        raise ModelError(
            f"tokenizer: unknown {join_names(unknown)}; known are {join_names(_TOKENIZER_KEYS)}"
        )


def _convert_values(options: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(options)
    values["architecture"] = resolve_architecture(options["architecture"])
    values["inputs"] = _parse_inputs(options["inputs"])
    values["statistics"] = parse_statistics(options.get("statistics"))
    if isinstance(values.get("reach"), Mapping):
        values["reach"] = edge_effect.from_mapping(values["reach"])
    for key in ("class_names", "class_colors", "layers"):
        if key in values:
            values[key] = tuple(values[key])
    return values


def _parse_inputs(inputs: object) -> dict[str, tuple[str, ...]]:
    if isinstance(inputs, Mapping):
        return {
            get_raster_modality(name).name: _translate_bands(get_raster_modality(name), bands)
            for name, bands in inputs.items()
        }
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return {get_raster_modality(name).name: get_raster_modality(name).bands for name in inputs}
    raise ModelError("inputs: a list of modalities, or a mapping of modality to bands")


def _translate_bands(modality: RasterModality, bands: Sequence[str]) -> tuple[str, ...]:
    """Return the products' names of bands, which may have those of TerraTorch."""
    return tuple(modality.bands[modality.band_index(band)] for band in bands)


def _to_floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
