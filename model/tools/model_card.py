"""Model cards in plain values: inputs, units, statistics, sources and limits of any model.

They are derived from tables and from the keys of weight files; no network is built in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.predictor import card_file
from model.terramind import config, modalities
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


def describe(name_or_path: str, suggest: Callable[[str], str] = lambda _: "") -> dict[str, Any]:
    """Return the card of a named model, of a model card's file, or of a file of weights.

    Args:
        name_or_path: a name, or the path of a file.
        suggest: see :func:`model.tools.locate.locate_weights`.

    Raises:
        ModelError: there is no such model or file, or the file cannot be read.
    """
    if name_or_path in hub.OFFICIAL_FILES or name_or_path in ("demo", "none"):
        return describe_named(name_or_path)
    path = locate.locate_weights(name_or_path, suggest=suggest)
    if path.suffix != ".json" and not config.is_config_file(path):
        return describe_file(path)
    return describe_card(path)


def describe_named(name: str) -> dict[str, Any]:
    """Return the card of a named model.

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
        return _published_card(name, "vocabulary", "Coordinates as tokens, in steps of 0.25°.")
    if name in model_list.TOKENIZER_PARAMETERS:
        return _describe_tokenizer(name)
    base = next((prefix for prefix in config.ARCHITECTURES if name.startswith(prefix)), None)
    if base is None or name not in hub.OFFICIAL_FILES:
        raise ModelError(f"There is no card for {name!r}.")
    return _describe_terramind(name, base)


def describe_card(path: Path) -> dict[str, Any]:
    """Return the card of a model card's file, for the kind of model that a job would load from it.

    Raises:
        ModelError: the file is not a model card.
    """
    card = card_file.read(path)
    source = card.weights.get("path") if isinstance(card.weights, Mapping) else card.weights
    file = path.parent / str(source or "none")
    is_terramind = card.tokenizer is not None and not (file.is_file() and _has_head(file))
    return {
        **_empty_card(card.name, "segmenter"),
        "what": str(card.training.get("what") or "A segmentation head on TerraMind's encoder."),
        "architecture": card.architecture.to_mapping(),
        "parameters": _count_stored_parameters(file),
        "inputs": [
            _raster_entry(modalities.get_raster_modality(name), bands, card.statistics[name])
            for name, bands in card.inputs.items()
        ],
        "classes": list(card.class_names),
        "window": card.window,
        "reach": card.reach and card.reach.to_summary(),
        "weights": {**_empty_weights(), **(_file_entry(file) if file.is_file() else {})},
        "sources": [f"{path.name} beside its weights: how it was trained, and how good it is"],
        "limits": ["It is accurate only for what it was trained on."],
        **(_describe_custom_terramind(card) if is_terramind else {}),
    }


def _describe_custom_terramind(card: card_file.Card) -> dict[str, Any]:
    """Return the entries that differ from a segmenter's; tokenizers are not counted."""
    generates = card.architecture.decoder_depth > 0
    variant = "_generate" if generates else ""
    parts = model_list.count_parts(card.architecture, variant)
    return {
        "kind": _KIND_BY_VARIANT[variant],
        "what": str(card.training.get("what") or VARIANT_DESCRIPTIONS[variant]),
        "parameters": sum(parts.values()),
        "parts": parts,
        "outputs": [
            _token_entry(entry) for entry in modalities.TARGET_MODALITIES.values() if generates
        ],
        "classes": list(modalities.LULC_CLASSES) if generates else [],
        "sources": [],
        "limits": [_NAN_LIMIT, *([_GENERATION_LIMIT] if generates else [])],
    }


def _has_head(file: Path) -> bool:
    from model.predictor import weight_source  # noqa: PLC0415

    # ^ imports torch, which only files of weights need
    return weight_source.has_head(file, "", is_terramind=True)


def _count_stored_parameters(file: Path) -> int | None:
    if file.suffix == ".safetensors" and file.is_file():
        return model_list.count_stored_parameters(file)
    return None
    # ^ other formats cannot be read without torch


def describe_file(path: Path) -> dict[str, Any]:
    """Return the card of a file of weights, as far as its keys identify it.

    Raises:
        WeightsError: the file cannot be read.
    """
    from model.tools import inspect  # noqa: PLC0415

    # ^ imports torch, which only files of weights need
    report = inspect.inspect_file(path)
    card_path = next((model for model in report.fits if config.is_config_file(model)), None)
    if card_path:
        return describe_card(Path(card_path))
    contents = report.contents
    name = next((model for model in report.fits if model in hub.OFFICIAL_FILES), None)
    card = describe_named(name) if name else _empty_card(path.stem, contents.kind)
    if card["weights"]["sha256"] != report.sha256:
        card |= {"licence": None, "weights": _empty_weights()}
        # ^ it fits that model, but it is not the published file
    input_names = {entry.name for entry in contents.inputs}
    misfits = (
        []
        if report.is_usable
        else [f"No known model takes it: run `terramosaic models check {path}` for the reason."]
    )
    return {
        **card,
        "name": path.name,
        "kind": contents.kind,
        "fits": list(report.fits),
        "parameters": contents.parameters,
        "parts": dict(contents.parts),
        "inputs": [entry for entry in card["inputs"] if entry["name"] in input_names]
        or card["inputs"]
        or [entry.to_mapping() for entry in contents.inputs],
        "window": contents.image_size if contents.inputs else card["window"],
        "weights": {**card["weights"], **_file_entry(path, report.sha256)},
        "limits": [*misfits, *card["limits"]],
    }


def _describe_terramind(name: str, base: str) -> dict[str, Any]:
    size = config.resolve_architecture(base)
    variant = name.removeprefix(base)
    generates, has_outputs = variant != "", variant == "_generate"
    tokenizers = (
        {"tokenizers": sum(model_list.TOKENIZER_PARAMETERS.values())} if has_outputs else {}
    )
    parts = model_list.count_parts(size, variant) | tokenizers
    return {
        **_published_card(name, _KIND_BY_VARIANT[variant], VARIANT_DESCRIPTIONS[variant]),
        "architecture": size.to_mapping(),
        "parameters": sum(parts.values()),
        "parts": parts,
        "inputs": [
            *(
                _raster_entry(entry, entry.bands, entry.statistics)
                for entry in modalities.RASTER_MODALITIES.values()
            ),
            *map(_token_entry, modalities.TOKEN_MODALITIES.values()),
        ],
        "outputs": [_token_entry(entry) for entry in modalities.TARGET_MODALITIES.values()]
        if has_outputs
        else [],
        "classes": list(modalities.LULC_CLASSES) if has_outputs else [],
        "window": modalities.IMAGE_SIZE,
        "limits": [
            _SCALE_LIMIT,
            _OFFSET_LIMIT,
            _NAN_LIMIT,
            *((_GENERATION_LIMIT, _DIFFUSION_LIMIT, _LEGEND_LIMIT) if generates else ()),
        ],
    }


def _describe_tokenizer(name: str) -> dict[str, Any]:
    raster = name.rpartition("_")[2].upper()
    entry = modalities.TARGET_MODALITIES[raster]
    row = next(row for row in model_list.list_models() if row["name"] == name)
    known = modalities.RASTER_MODALITIES.get(raster)
    source = _raster_entry(known, known.bands, known.statistics) if known else _token_entry(entry)
    return {
        **_published_card(name, "tokenizer", f"TerraMind's tokenizer: {row['about']}."),
        "parameters": row["parameters"],
        "inputs": [{**source, "form": "pixels"}],
        "outputs": [_token_entry(entry)],
        "window": 256,
        "limits": [_DIFFUSION_LIMIT],
        **(_lulc_entries() if raster == "LULC" else {}),
    }


def _lulc_entries() -> dict[str, Any]:
    names = list(modalities.LULC_CLASSES)
    source = {"name": "LULC", "form": "classes", "size": len(names)}
    return {"inputs": [source], "classes": names, "limits": []}


def _published_card(name: str, kind: str, what: str) -> dict[str, Any]:
    return {
        **_empty_card(name, kind),
        "what": what,
        "weights": _hub_entry(name),
        "licence": hub.LICENCE,
        "sources": [
            _TERRAMIND_CITATION,
            _TERRAMESH_CITATION,
            f"https://huggingface.co/{hub.OFFICIAL_FILES[name].repo}",
        ],
    }


def _empty_card(name: str, kind: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "what": f"A file of kind {kind}.",
        "architecture": None,
        "parameters": None,
        "parts": {},
        "inputs": [],
        "outputs": [],
        "classes": [],
        "window": None,
        "reach": None,
        "weights": _empty_weights(),
        "licence": None,
        "sources": [],
        "limits": [],
    }


def _empty_weights() -> dict[str, Any]:
    return dict.fromkeys(("page", "path", "sha256", "bytes", "commit"))


def _file_entry(path: Path, sha256: str | None = None) -> dict[str, Any]:
    size = path.stat().st_size
    return {"path": str(path), "sha256": sha256 or checksums.hash_file(path), "bytes": size}


def _hub_entry(name: str) -> dict[str, Any]:
    official_file, path = hub.OFFICIAL_FILES[name], hub.find_local_file(name)
    file = path.name if path else official_file.file
    pin = checksums.read_pins().get(f"{official_file.repo}/{file}", {}).get(hub.DEFAULT_REVISION)
    return {
        "page": official_file.page,
        "path": str(path) if path else None,
        "sha256": pin.sha256 if pin else None,
        "bytes": pin.bytes if pin else None,
        "commit": pin.commit if pin else None,
    }


def _raster_entry(entry: RasterModality, bands: Sequence[str], scale: Statistics) -> dict[str, Any]:
    return {
        "name": entry.name,
        "form": "pixels",
        "size": len(bands),
        "bands": list(bands),
        "unit": entry.unit,
        "mean": list(scale.mean),
        "std": list(scale.std),
    }


def _token_entry(entry: modalities.TokenModality) -> dict[str, Any]:
    """Describe a modality of tokens; that of a raster with its bands, unit and statistics."""
    token_entry = {"name": entry.name, "form": "tokens", "size": entry.vocab_size}
    scale, raw = entry.statistics, modalities.RASTER_MODALITIES.get(entry.name)
    if scale is None:
        return token_entry
    bands, unit = (raw.bands, raw.unit) if raw else ((entry.name,), "1")
    return {
        **token_entry,
        "bands": list(bands),
        "unit": unit,
        "mean": list(scale.mean),
        "std": list(scale.std),
    }
