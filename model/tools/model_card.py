"""Descriptions of models: inputs, units, statistics, sources and limits of any model.

They are derived from tables and from the keys of weight files; no network is built in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from model.errors import ModelError
from model.predictor import card_file
from model.predictor.edge_effect import EdgeEffect
from model.terramind import architectures, modalities
from model.terramind.architectures import Architecture
from model.terramind.modalities import RasterModality, Statistics
from model.tools import locate, model_list
from model.weights import checksums, hub

_TERRAMIND_CITATION = (
    "Jakubik et al. 2025, TerraMind: Large-Scale Generative Multimodality for Earth Observation, "
    "arXiv:2504.11171"
)
_TERRAMESH_CITATION = (
    "Blumenstiel et al. 2025, TerraMesh: A Planetary Mosaic of Multimodal Earth Observation Data, "
    "arXiv:2504.11172 (the training data; CC-BY-SA-4.0)"
)

_SCALE_LIMIT = (
    "It was trained on pixels of 10 m of 2017 to 2024, and not on other resolutions or sensors."
)
_OFFSET_LIMIT = (
    "Its Sentinel-2 data mixed products with and without the offset of processing baseline 04.00; "
    "here the statistics are applied to values without it."
)
_NAN_LIMIT = (
    "One pixel that is not finite would make its whole window NaN: such windows are refused, or "
    "the pixels filled with the mean."
)
_GENERATION_LIMIT = "What it generates is a likely guess from the inputs, not a measurement."
_DIFFUSION_LIMIT = (
    "Diffusion as published cannot leave the mean ± one standard deviation: elevation ends at "
    "1622 m, NDVI at 0.65. That limit can be switched off."
)
_LEGEND_LIMIT = (
    "Land cover has the ten classes of the IO/ESRI maps that it was trained on, with their errors."
)

VARIANT_DESCRIPTIONS = {
    "": "TerraMind's encoder: rasters in, one vector for each 16 by 16 pixels out.",
    "_generate": "TerraMind, any to any: the rasters of one sensor in, those of another out.",
    "_tim": (
        "TerraMind's encoder, which first generates land cover and reads it beside the inputs "
        "(Thinking in Modalities)."
    ),
}
_KIND_BY_VARIANT = {"": "encoder", "_generate": "generator", "_tim": "tim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedModality:
    """An input or output of a model; what is not known or has no statistics is None."""

    name: str
    form: Literal["pixels", "tokens", "classes"]
    size: int
    """Number of channels, of ids in the vocabulary, or of classes."""

    bands: tuple[str, ...] | None = None
    unit: str | None = None
    mean: tuple[float, ...] | None = None
    """Mean of each band, in the unit."""

    std: tuple[float, ...] | None = None
    """Standard deviation of each band, in the unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """The file that holds a model's weights; what is not known is None."""

    page: str | None = None
    """Address of its page on the hub."""

    path: str | None = None
    """Path on this machine."""

    sha256: str | None = None
    bytes: int | None = None
    commit: str | None = None
    """Commit of the hub repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What a model is. What is not known is None or empty."""

    name: str
    kind: str
    """Kind of its weights, as of :mod:`model.tools.weights_check`."""

    what: str
    """One sentence."""

    architecture: Architecture | None = None
    parameters: int | None = None
    """Number of parameters of all parts; an encoder counts with its six raster inputs."""

    parts: Mapping[str, int] = field(default_factory=dict)
    """Number of parameters by part: encoder, decoder, tokenizers, head …"""

    inputs: tuple[DescribedModality, ...] = ()
    outputs: tuple[DescribedModality, ...] = ()
    classes: tuple[str, ...] = ()
    window: int | None = None
    """Side of one input, px."""

    reach: EdgeEffect | None = None
    """Measured effect of a window's edge."""

    weights: WeightsFile = WeightsFile()
    licence: str | None = None
    sources: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    fits: tuple[str, ...] | None = None
    """Names of the models that a file of weights fits; None for what is no such file."""


def describe(name_or_path: str, suggest: Callable[[str], str] = lambda _: "") -> ModelDescription:
    """Describe a named model, of a model card's file, or of a file of weights.

    Args:
        name_or_path: a name, or the path of a file.
        suggest: see :func:`model.tools.locate.locate_weights`.

    Raises:
        ModelError: there is no such model or file, or the file cannot be read.
    """
    if name_or_path in hub.OFFICIAL_FILES or name_or_path in ("demo", "none"):
        return describe_named(name_or_path)
    path = locate.locate_weights(name_or_path, suggest=suggest)
    if path.suffix != ".json" and not architectures.is_config_file(path):
        return describe_file(path)
    return describe_card(path)


def describe_named(name: str) -> ModelDescription:
    """Describe a named model.

    Raises:
        ModelError: there is no card of that name.
    """
    if name == "none":
        raise ModelError("'none' means composites only: there is no model to describe.")
    if name == "demo":
        from model.predictor import registry  # noqa: PLC0415

        # ^ imports torch, which other names do not need
        return describe_card(registry.DEMO_CARD_PATH)
    if name == model_list.COORDS_TOKENIZER:
        return _describe_published(name, "vocabulary", "Coordinates as tokens, in steps of 0.25°.")
    if name in model_list.TOKENIZER_PARAMETERS:
        return _describe_tokenizer(name)
    base = next((prefix for prefix in architectures.ARCHITECTURES if name.startswith(prefix)), None)
    if base is None or name not in hub.OFFICIAL_FILES:
        raise ModelError(f"There is no card for {name!r}.")
    return _describe_terramind(name, base)


def describe_card(path: Path) -> ModelDescription:
    """Describe the model of a model card, for the kind of model that a job would load from it.

    Raises:
        ModelError: the file is not a model card.
    """
    card = card_file.read(path)
    source = card.weights.get("path") if isinstance(card.weights, Mapping) else card.weights
    file = path.parent / str(source or "none")
    is_terramind = card.tokenizer is not None and not (file.is_file() and _has_head(file))
    segmenter = ModelDescription(
        name=card.name,
        kind="segmenter",
        what=str(card.training.get("what") or "A segmentation head on TerraMind's encoder."),
        architecture=card.architecture,
        parameters=_count_stored_parameters(file),
        inputs=tuple(
            _describe_raster(modalities.get_raster_modality(name), bands, card.statistics[name])
            for name, bands in card.inputs.items()
        ),
        classes=tuple(card.class_names),
        window=card.window,
        reach=card.reach,
        weights=_locate_file(WeightsFile(), file) if file.is_file() else WeightsFile(),
        sources=(f"{path.name} beside its weights: how it was trained, and how good it is",),
        limits=("It is accurate only for what it was trained on.",),
    )
    return _describe_custom_terramind(segmenter, card) if is_terramind else segmenter


def _describe_custom_terramind(
    segmenter: ModelDescription, card: card_file.Card
) -> ModelDescription:
    """Replace what differs from a segmenter; tokenizers are not counted."""
    generates = card.architecture.decoder_depth > 0
    variant = "_generate" if generates else ""
    parts = model_list.count_parts(card.architecture, variant)
    return replace(
        segmenter,
        kind=_KIND_BY_VARIANT[variant],
        what=str(card.training.get("what") or VARIANT_DESCRIPTIONS[variant]),
        parameters=sum(parts.values()),
        parts=parts,
        outputs=tuple(
            _describe_tokens(entry) for entry in modalities.TARGET_MODALITIES.values() if generates
        ),
        classes=tuple(modalities.LULC_CLASSES) if generates else (),
        sources=(),
        limits=(_NAN_LIMIT, *([_GENERATION_LIMIT] if generates else [])),
    )


def _has_head(file: Path) -> bool:
    from model.predictor import weight_source  # noqa: PLC0415

    # ^ imports torch, which only files of weights need
    return weight_source.has_head(file, "", is_terramind=True)


def _count_stored_parameters(file: Path) -> int | None:
    if file.suffix == ".safetensors" and file.is_file():
        return model_list.count_stored_parameters(file)
    return None
    # ^ other formats cannot be read without torch


def describe_file(path: Path) -> ModelDescription:
    """Describe a file of weights, as far as its keys identify it.

    Raises:
        WeightsError: the file cannot be read.
    """
    from model.tools import weights_check  # noqa: PLC0415

    # ^ imports torch, which only files of weights need
    inspection = weights_check.inspect_file(path)
    card_path = next(
        (model for model in inspection.fits if architectures.is_config_file(model)), None
    )
    if card_path:
        return describe_card(Path(card_path))
    contents = inspection.contents
    name = next((model for model in inspection.fits if model in hub.OFFICIAL_FILES), None)
    description = (
        describe_named(name)
        if name
        else ModelDescription(
            name=path.stem, kind=contents.kind, what=f"A file of kind {contents.kind}."
        )
    )
    if description.weights.sha256 != inspection.sha256:
        description = replace(description, licence=None, weights=WeightsFile())
        # ^ it fits that model, but it is not the published file
    input_names = {entry.name for entry in contents.inputs}
    misfits = (
        []
        if inspection.is_usable
        else [f"No known model takes it: run `terramosaic models check {path}` for the reason."]
    )
    return replace(
        description,
        name=path.name,
        kind=contents.kind,
        parameters=contents.parameters,
        parts=contents.parts,
        inputs=tuple(entry for entry in description.inputs if entry.name in input_names)
        or description.inputs
        or tuple(
            DescribedModality(name=entry.name, form=entry.form, size=entry.size)
            for entry in contents.inputs
        ),
        window=contents.image_size if contents.inputs else description.window,
        weights=_locate_file(description.weights, path, inspection.sha256),
        limits=(*misfits, *description.limits),
        fits=inspection.fits,
    )


def _describe_terramind(name: str, base: str) -> ModelDescription:
    size = architectures.resolve_architecture(base)
    variant = name.removeprefix(base)
    generates, has_outputs = variant != "", variant == "_generate"
    tokenizers = (
        {"tokenizers": sum(model_list.TOKENIZER_PARAMETERS.values())} if has_outputs else {}
    )
    parts = model_list.count_parts(size, variant) | tokenizers
    return replace(
        _describe_published(name, _KIND_BY_VARIANT[variant], VARIANT_DESCRIPTIONS[variant]),
        architecture=size,
        parameters=sum(parts.values()),
        parts=parts,
        inputs=(
            *(
                _describe_raster(entry, entry.bands, entry.statistics)
                for entry in modalities.RASTER_MODALITIES.values()
            ),
            *map(_describe_tokens, modalities.TOKEN_MODALITIES.values()),
        ),
        outputs=tuple(map(_describe_tokens, modalities.TARGET_MODALITIES.values()))
        if has_outputs
        else (),
        classes=tuple(modalities.LULC_CLASSES) if has_outputs else (),
        window=modalities.IMAGE_SIZE,
        limits=(
            _SCALE_LIMIT,
            _OFFSET_LIMIT,
            _NAN_LIMIT,
            *((_GENERATION_LIMIT, _DIFFUSION_LIMIT, _LEGEND_LIMIT) if generates else ()),
        ),
    )


def _describe_tokenizer(name: str) -> ModelDescription:
    raster = name.rpartition("_")[2].upper()
    entry = modalities.TARGET_MODALITIES[raster]
    about = model_list.describe_tokenizer(name)
    known = modalities.RASTER_MODALITIES.get(raster)
    source = (
        _describe_raster(known, known.bands, known.statistics) if known else _describe_tokens(entry)
    )
    description = replace(
        _describe_published(name, "tokenizer", f"TerraMind's tokenizer: {about}."),
        parameters=model_list.TOKENIZER_PARAMETERS[name],
        inputs=(replace(source, form="pixels"),),
        outputs=(_describe_tokens(entry),),
        window=256,
        limits=(_DIFFUSION_LIMIT,),
    )
    if raster != "LULC":
        return description
    classes = tuple(modalities.LULC_CLASSES)
    source = DescribedModality(name="LULC", form="classes", size=len(classes))
    return replace(description, inputs=(source,), classes=classes, limits=())


def _describe_published(name: str, kind: str, what: str) -> ModelDescription:
    return ModelDescription(
        name=name,
        kind=kind,
        what=what,
        weights=_find_hub_file(name),
        licence=hub.LICENCE,
        sources=(
            _TERRAMIND_CITATION,
            _TERRAMESH_CITATION,
            f"https://huggingface.co/{hub.OFFICIAL_FILES[name].repo}",
        ),
    )


def _locate_file(weights: WeightsFile, path: Path, sha256: str | None = None) -> WeightsFile:
    """Return the weights with path, digest and size of their file on this machine."""
    return replace(
        weights,
        path=str(path),
        sha256=sha256 or checksums.hash_file(path),
        bytes=path.stat().st_size,
    )


def _find_hub_file(name: str) -> WeightsFile:
    official_file, path = hub.OFFICIAL_FILES[name], hub.find_local_file(name)
    file = path.name if path else official_file.file
    pin = checksums.read_pins().get(f"{official_file.repo}/{file}", {}).get(hub.DEFAULT_REVISION)
    return WeightsFile(
        page=official_file.page,
        path=str(path) if path else None,
        sha256=pin.sha256 if pin else None,
        bytes=pin.bytes if pin else None,
        commit=pin.commit if pin else None,
    )


def _describe_raster(
    entry: RasterModality, bands: Sequence[str], scale: Statistics
) -> DescribedModality:
    return DescribedModality(
        name=entry.name,
        form="pixels",
        size=len(bands),
        bands=tuple(bands),
        unit=entry.unit,
        mean=tuple(scale.mean),
        std=tuple(scale.std),
    )


def _describe_tokens(entry: modalities.TokenModality) -> DescribedModality:
    """Describe a modality of tokens; that of a raster with its bands, unit and statistics."""
    tokens = DescribedModality(name=entry.name, form="tokens", size=entry.vocab_size)
    scale, raw = entry.statistics, modalities.RASTER_MODALITIES.get(entry.name)
    if scale is None:
        return tokens
    bands, unit = (raw.bands, raw.unit) if raw else ((entry.name,), "1")
    return replace(
        tokens, bands=tuple(bands), unit=unit, mean=tuple(scale.mean), std=tuple(scale.std)
    )
