"""What a model is, for people and for programs: inputs, units, statistics, sources, limits.

Told from tables and from the files' own keys; no network is built with memory for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from catalogs.errors import InvalidInputError
from model.cards import catalogue, demo_card
from model.predictor import cards
from model.terramind import config, modalities
from model.terramind.modalities import RasterModality, Statistics
from model.weights import checksums, hub

_TERRAMIND_CITATION = (
    "Jakubik et al. 2025, TerraMind: Large-Scale Generative Multimodality for Earth Observation, "
    "arXiv:2504.11171"
)
_TERRAMESH_CITATION = (
    "Blumenstiel et al. 2025, TerraMesh: A Planetary Mosaic of Multimodal Earth Observation Data, "
    "arXiv:2504.11172 (what it learnt from; CC-BY-SA-4.0)"
)

_SCALE_LIMIT = (
    "It learnt from pixels of 10 m, 2017 to 2024; other resolutions and sensors are foreign to it."
)
_OFFSET_LIMIT = (
    "Its Sentinel-2 data mixed products with and without the offset of processing baseline 04.00; "
    "here the statistics are applied to numbers without it."
)
_NAN_LIMIT = (
    "One pixel that is not finite would spoil its whole window: such windows are refused, or the "
    "pixels filled with the mean."
)
_GENERATION_LIMIT = "What it generates is imagined: likely given the inputs, not measured."
_DIFFUSION_LIMIT = (
    "Diffusion as published cannot leave the mean ± one standard deviation: elevation ends at "
    "1622 m, NDVI at 0.65. That limit can be switched off."
)
_LEGEND_LIMIT = (
    "Land cover has the ten classes of the IO/ESRI maps that it learnt from, errors included."
)

VARIANT_DESCRIPTIONS = {
    "": "TerraMind's encoder: rasters in, one vector for each 16 by 16 pixels out.",
    "_generate": "TerraMind, any to any: the rasters of one sensor in, those of another out.",
    "_tim": (
        "TerraMind's encoder, which first imagines land cover and reads it beside the inputs "
        "(Thinking in Modalities)."
    ),
}
_KIND_BY_VARIANT = {"": "encoder", "_generate": "generator", "_tim": "tim"}


def describe_named(name: str) -> dict[str, Any]:
    """Return the card of a model that has a name.

    Raises:
        InvalidInputError: There is no card for that name.
    """
    if name == "none":
        raise InvalidInputError("'none' stands for composites only: there is no model to describe.")
    if name == "demo":
        from model.predictor import registry  # noqa: PLC0415

        # ^ torch, for this one alone

        return describe_card(registry.DEMO_CARD_PATH)
    if name == catalogue.COORDS_TOKENIZER:
        return _published_card(name, "vocabulary", "The words of places: 0.25° steps as tokens.")
    if name in catalogue.TOKENIZER_PARAMETERS:
        return _describe_tokenizer(name)
    base = next((one for one in config.ARCHITECTURES if name.startswith(one)), None)
    if base is None or name not in hub.OFFICIAL_FILES:
        raise InvalidInputError(f"There is no card for {name!r}.")
    return _describe_terramind(name, base)


def describe_card(path: Path) -> dict[str, Any]:
    """Return the card of a model that is described by a file: what a job would make of it.

    Raises:
        ModelError: it is no model card.
    """
    card = cards.read(path)
    named = card.weights.get("path") if isinstance(card.weights, Mapping) else card.weights
    file = path.parent / str(named or "none")
    family = card.tokenizer is not None and not (file.is_file() and _has_head(file))
    return {
        **_empty_card(card.name, "segmenter"),
        "what": str(card.training.get("what") or "A segmentation head on TerraMind's encoder."),
        "architecture": card.architecture.to_mapping(),
        "parameters": _count_stored_parameters(file),
        "inputs": [
            _raster_entry(modalities.get_raster_modality(one), bands, card.statistics[one])
            for one, bands in card.inputs.items()
        ],
        "classes": list(card.class_names),
        "window": card.window,
        "reach": card.reach and card.reach.to_summary(),
        "weights": {**_empty_weights(), **(_file_entry(file) if file.is_file() else {})},
        "sources": [f"{path.name} beside its weights: how it was trained, and how good it is"],
        "limits": ["It knows what it was trained on, and nothing else."],
        **(_describe_custom_terramind(card) if family else {}),
    }


def _describe_custom_terramind(card: cards.Card) -> dict[str, Any]:
    """Tell what is other than in a segmenter; tokenizers are counted where they are built."""
    generates = card.architecture.decoder_depth > 0
    variant = "_generate" if generates else ""
    parts = catalogue.count_parts(card.architecture, variant)
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

    # ^ torch, for files alone
    return weight_source.has_head(file, "", family=True)


def _count_stored_parameters(file: Path) -> int | None:
    if file.suffix == ".safetensors" and file.is_file():
        return catalogue.count_stored_parameters(file)
    return None
    # ^ other kinds have no header that could be read without torch


def describe_file(path: Path) -> dict[str, Any]:
    """Return the card of a file of weights, as far as its keys tell.

    Raises:
        WeightsError: it cannot be read.
    """
    from model.tools import inspect  # noqa: PLC0415

    # ^ torch, for files alone
    report = inspect.inspect_file(path)
    beside = next((one for one in report.fits if config.is_config_file(one)), None)
    if beside:
        return describe_card(Path(beside))
    held = report.contents
    name = next((one for one in report.fits if one in hub.OFFICIAL_FILES), None)
    made = describe_named(name) if name else _empty_card(path.stem, held.kind)
    if made["weights"]["sha256"] != report.sha256:
        made |= {"licence": None, "weights": _empty_weights()}
        # ^ it fits, but nobody knows whose it is
    there = {entry.name for entry in held.inputs}
    misfits = (
        []
        if report.is_usable
        else [f"No model known here takes it: `models check {path}` says why."]
    )
    return {
        **made,
        "name": path.name,
        "kind": held.kind,
        "fits": list(report.fits),
        "parameters": held.parameters,
        "parts": dict(held.parts),
        "inputs": [entry for entry in made["inputs"] if entry["name"] in there]
        or made["inputs"]
        or [entry.to_mapping() for entry in held.inputs],
        "window": held.image_size if held.inputs else made["window"],
        "weights": {**made["weights"], **_file_entry(path, report.sha256)},
        "limits": [*misfits, *made["limits"]],
    }


def _describe_terramind(name: str, base: str) -> dict[str, Any]:
    size = config.resolve_architecture(base)
    variant = name.removeprefix(base)
    imagines, answers = variant != "", variant == "_generate"
    tokenizers = {"tokenizers": sum(catalogue.TOKENIZER_PARAMETERS.values())} if answers else {}
    parts = catalogue.count_parts(size, variant) | tokenizers
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
        if answers
        else [],
        "classes": list(modalities.LULC_CLASSES) if answers else [],
        "window": modalities.IMAGE_SIZE,
        "limits": [
            _SCALE_LIMIT,
            _OFFSET_LIMIT,
            _NAN_LIMIT,
            *((_GENERATION_LIMIT, _DIFFUSION_LIMIT, _LEGEND_LIMIT) if imagines else ()),
        ],
    }


def _describe_tokenizer(name: str) -> dict[str, Any]:
    raster = name.rpartition("_")[2].upper()
    entry = modalities.TARGET_MODALITIES[raster]
    row = next(row for row in catalogue.list_models() if row["name"] == name)
    known = modalities.RASTER_MODALITIES.get(raster)
    given = _raster_entry(known, known.bands, known.statistics) if known else _token_entry(entry)
    return {
        **_published_card(name, "tokenizer", f"TerraMind's tokenizer: {row['about']}."),
        "parameters": row["parameters"],
        "inputs": [{**given, "form": "pixels"}],
        "outputs": [_token_entry(entry)],
        "window": 256,
        "limits": [_DIFFUSION_LIMIT],
        **(_lulc_entries() if raster == "LULC" else {}),
    }


def _lulc_entries() -> dict[str, Any]:
    names = list(modalities.LULC_CLASSES)
    given = {"name": "LULC", "form": "classes", "size": len(names)}
    return {"inputs": [given], "classes": names, "limits": []}


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
    wanted, path = hub.OFFICIAL_FILES[name], hub.find_local_file(name)
    file = path.name if path else wanted.file
    pin = checksums.read_pins().get(f"{wanted.repo}/{file}", {}).get(hub.DEFAULT_REVISION)
    return {
        "page": wanted.page,
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
    """Describe tokens; those of a raster with its bands, unit and statistics."""
    made = {"name": entry.name, "form": "tokens", "size": entry.vocab_size}
    scale, raw = entry.statistics, modalities.RASTER_MODALITIES.get(entry.name)
    if scale is None:
        return made
    bands, unit = (raw.bands, raw.unit) if raw else ((entry.name,), "1")
    return {
        **made,
        "bands": list(bands),
        "unit": unit,
        "mean": list(scale.mean),
        "std": list(scale.std),
    }


def render_markdown(card: Mapping[str, Any]) -> Iterator[str]:
    """Write a card for people."""
    yield from (f"# {card['name']}", "", card["what"], "")
    weights, size, parts = card["weights"], card["architecture"], card["parts"]
    counted = [f"{name} {_format_millions(count)}" for name, count in parts.items()]
    facts = (
        ("Kind", card["kind"]),
        ("Fits", ", ".join(card.get("fits", ()))),
        ("Parameters", _format_millions(card["parameters"]) if card["parameters"] else None),
        ("Parts", ", ".join(counted)),
        ("Transformer", size and f"width {size['dim']}, depth {size['depth']}, "
                                 f"heads {size['heads']}"),
        ("Window", card["window"] and f"{card['window']} px"),
        ("Licence", card["licence"]),
        ("Download", weights["page"]),
        ("File", weights["path"] and f"`{weights['path']}`"),
        ("sha256", weights["sha256"] and f"`{weights['sha256']}`"),
        ("Commit", weights["commit"] and f"`{weights['commit']}`"),
        ("Classes", ", ".join(card["classes"])),
    )  # fmt: skip
    yield from (f"- {name}: {value}" for name, value in facts if value)
    if card["window"] and card["kind"] != "tokenizer":
        yield from ("", *demo_card.render_edge_effect(card["reach"]))
    for title in ("inputs", "outputs"):
        if card[title]:
            yield from ("", f"## {title.capitalize()}", "", *_render_table(card[title]))
    for title in ("limits", "sources"):
        if card[title]:
            yield from ("", f"## {title.capitalize()}", "")
            yield from (f"- {line}" for line in card[title])


def _format_millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _render_table(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| modality | form | unit | band | mean | standard deviation |"
    yield "|---|---|---|---|---|---|"
    for entry in entries:
        unit = {"pixels": "bands", "tokens": "tokens"}.get(entry["form"], "classes")
        bands = entry.get("bands") or [f"{entry['size']} {unit}"]
        means, stds = (entry.get(key) or ["-"] * len(bands) for key in ("mean", "std"))
        for index, (band, mean, std) in enumerate(zip(bands, means, stds, strict=True)):
            head = (
                (entry["name"], entry["form"], entry.get("unit", "-")) if index == 0 else ("",) * 3
            )
            yield "| " + " | ".join(map(str, (*head, band, mean, std))) + " |"
