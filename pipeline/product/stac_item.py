"""Build the STAC 1.1 item of a product.

Documents are plain dicts, so that a worker needs no STAC library to write them. Hrefs of files are
relative and no absolute local path is inside: a product can be moved, or served by a web server.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os.path
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.product import descriptions
from pipeline.product.product import DOCUMENT_KINDS, Document, Product, Raster
from pipeline.storage import styles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from catalogs.legend import Legend
    from catalogs.scene import Scene
    from pipeline.grid.grid import Grid
    from pipeline.layer_table import Layer
    from pipeline.storage.band_statistics import BandStatistics

STAC_VERSION = "1.1.0"

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v1.1.0/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"

COG_MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"

_SHA256_MULTIHASH_PREFIX = "1220"
"""Multihash prefix: SHA-256 (0x12), 32 bytes (0x20)."""


def build_item(product: Product, folder: str | None = None) -> dict[str, Any]:
    """Return the STAC item of a product, to be written as ``item.json`` after all other files.

    Args:
        product: the product.
        folder: path of the item's folder, to which links to local items are made relative; without
            it, or with a URL, they are left out.
    """
    assets = {raster.key: _raster_asset(raster) for raster in product.rasters}
    assets |= {document.key: _document_asset(document) for document in product.documents}
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list_extensions(assets),
        "id": product.id,
        "collection": product.name,
        "geometry": _to_json_values(product.region),
        "bbox": list(product.bbox),
        "properties": _properties(product),
        "links": _item_links(product, folder),
        "assets": assets,
    }


def _to_json_values(value: Any) -> Any:
    """Return a value as it is after a round trip through JSON: lists for tuples."""
    return json.loads(json.dumps(value, allow_nan=False))


def _format_datetime(value: dt.datetime) -> str:
    """Return a time as RFC 3339, in UTC and whole seconds."""
    return value.astimezone(dt.UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _properties(product: Product) -> dict[str, Any]:
    """Return the item's properties."""
    provenance = product.provenance
    return {
        "title": f"{product.title}, {product.start} to {product.end}",
        "description": " ".join(
            [*descriptions.list_warnings(product), descriptions.describe_product(product)]
        ),
        "datetime": None,
        "start_datetime": f"{product.start}T00:00:00Z",
        "end_datetime": f"{product.end}T23:59:59Z",
        "created": _format_datetime(product.created),
        "license": product.license,
        "gsd": min(grid.resolution for grid in product.grids),
        **_projections(product.grids),
        "processing:lineage": descriptions.describe_lineage(product),
        "processing:software": {"terramosaic": provenance.version, **provenance.software},
        "processing:version": provenance.version,
        **_terramosaic_properties(product),
    }


def _terramosaic_properties(product: Product) -> dict[str, Any]:
    """Return the properties that no extension defines, under ``terramosaic:``."""
    provenance, counts = product.provenance, product.coverage_counts
    values: dict[str, Any] = {
        "plan": provenance.plan_digest,
        "model": provenance.model,
        "model_digest": provenance.model_digest,
        "model_options": _to_json_values(dict(provenance.model_options)) or None,
        "random_weights": provenance.is_random or None,
        "answer": provenance.main_layer.name if provenance.main_layer else None,
        "s2_convention": provenance.s2_convention,
        "recipe": _to_json_values(dict(provenance.recipe)),
        "scenes": [_scene_summary(document) for document in _source_documents(product)],
        "refused": [
            {"id": entry.id, "reason": descriptions.redact_message(entry.reason)}
            for entry in product.refused
        ],
        "inputs_without_scl": list(product.scenes_without_scl),
        "doubts": [
            {"id": caveat.id, "text": descriptions.redact_message(caveat.text)}
            for caveat in product.caveats
        ],
        "radiometry_proof": dict(product.verdict_counts) or None,
        "notes": descriptions.list_limitations(product),
    }
    if counts is not None:
        values["not_observed_percent"] = round(counts.not_observed_percent, 3)
        values["not_classified_percent"] = round(counts.not_classified_percent, 3)
    if product.missing_tiles:
        values["partial"] = True
        values["holes"] = [
            {"tile": missing.tile, "reason": descriptions.redact_message(missing.reason)}
            for missing in product.missing_tiles
        ]
    if product.quality is not None:
        values["seam"] = product.quality.to_dict()
    if product.accuracy is not None and product.accuracy.n:
        values["accuracy"] = asdict(product.accuracy) | {"reference": product.accuracy_reference}
    return {f"terramosaic:{key}": value for key, value in values.items() if value is not None}


def _scene_summary(scene: Scene) -> dict[str, Any]:
    """Return id, collection, modality and time of a scene."""
    return {
        "id": scene.id,
        "collection": scene.collection,
        "modality": scene.modality,
        "datetime": None if scene.datetime is None else _format_datetime(scene.datetime),
    }


def _projection(grid: Grid) -> dict[str, Any]:
    """Return the projection extension's fields of a grid."""
    return {
        "proj:code": f"EPSG:{grid.epsg}",
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [grid.resolution, 0.0, grid.left, 0.0, -grid.resolution, grid.top],
        "proj:bbox": list(grid.bounds),
    }


def _projections(grids: Sequence[Grid]) -> dict[str, Any]:
    """Return the item's projection fields: those of the only grid, or a null code for several."""
    return _projection(grids[0]) if len(grids) == 1 else {"proj:code": None}


def _raster_asset(raster: Raster) -> dict[str, Any]:
    """Return the asset of a COG."""
    layer = raster.layer
    asset: dict[str, Any] = {
        "href": f"./{quote(raster.href)}",
        "type": COG_MEDIA_TYPE,
        "title": layer.title if raster.key == layer.name else f"{layer.title} ({raster.crs_code})",
        "description": layer.description,
        "roles": ["data"],
        "data_type": layer.dtype,
        "nodata": _json_nodata(layer),
        **({} if layer.unit is None else {"unit": layer.unit}),
        "gsd": raster.grid.resolution,
        **_projection(raster.grid),
        "bands": [{"name": name} for name in raster.bands],
        "raster:bands": [_raster_band(layer, raster.grid, band) for band in raster.info.statistics],
        **_checksum(raster.info.sha256, raster.info.size),
    }
    if layer.legend is not None:
        asset["classification:classes"] = classification_classes(
            layer.legend, raster.info.statistics[0].counts
        )
    if layer.bitfields:
        asset["classification:bitfields"] = classification_bitfields(layer)
    return asset


def _json_nodata(layer: Layer) -> float | str:
    """Return nodata as STAC writes it."""
    return "nan" if math.isnan(layer.nodata) else layer.nodata


def _raster_band(layer: Layer, grid: Grid, band: BandStatistics) -> dict[str, Any]:
    """Return an entry of ``raster:bands``; its statistics are of stored values."""
    values: dict[str, Any] = {
        "data_type": layer.dtype,
        "nodata": _json_nodata(layer),
        "sampling": "area",
        "spatial_resolution": grid.resolution,
        "statistics": _statistics(band),
    }
    if layer.scale != 1.0:
        values |= {"scale": layer.scale, "offset": 0.0}
    if layer.unit is not None:
        values["unit"] = layer.unit
    return values


def _statistics(band: BandStatistics) -> dict[str, float]:
    """Return the known statistics of a band."""
    figures = {
        "minimum": band.minimum,
        "maximum": band.maximum,
        "mean": band.mean,
        "stddev": band.stddev,
        "valid_percent": band.valid_percent,
    }
    return {key: value for key, value in figures.items() if value is not None}


def _document_asset(document: Document) -> dict[str, Any]:
    """Return the asset of a file that is no COG."""
    title, media_type, roles = DOCUMENT_KINDS[document.kind]
    asset: dict[str, Any] = {
        "href": f"./{quote(document.href)}",
        "type": media_type,
        "title": title,
        **({} if document.description is None else {"description": document.description}),
        "roles": list(roles),
    }
    if document.sha256 is not None and document.size is not None:
        asset |= _checksum(document.sha256, document.size)
    return asset


def _checksum(sha256: str, size: int) -> dict[str, Any]:
    """Return the file extension's fields."""
    return {"file:checksum": _SHA256_MULTIHASH_PREFIX + sha256, "file:size": size}


def list_extensions(
    assets: Mapping[str, Mapping[str, Any]], required: tuple[str, ...] = (PROCESSING, PROJECTION)
) -> list[str]:
    """Return the URIs of the extensions whose fields occur in the assets, and the required ones."""
    fields = {name.split(":")[0] for asset in assets.values() for name in asset if ":" in name}
    used = {"raster": RASTER, "classification": CLASSIFICATION, "file": FILE, "proj": PROJECTION}
    return sorted({*required, *(uri for prefix, uri in used.items() if prefix in fields)})


def _item_links(product: Product, folder: str | None) -> list[dict[str, Any]]:
    """Return the links of an item: to its collection, its inputs, and licences.

    There is no root link: with one, pystac cannot read the item from a dict alone.
    """
    up = {"href": "../collection.json", "type": "application/json"}
    links: list[dict[str, Any]] = [
        {"rel": "parent", **up},
        {"rel": "collection", **up},
    ]
    sources = {_source_href(document, folder): document for document in _source_documents(product)}
    links += [
        {
            "rel": "derived_from",
            "href": href,
            "type": "application/geo+json",
            "title": f"{scene.collection}: {scene.id}",
        }
        for href, scene in sources.items()
        if href is not None
    ]
    links += [
        {"rel": "license", "href": notice.href, "type": "text/html", "title": notice.title}
        for notice in product.notices
    ]
    return links


def _source_documents(product: Product) -> list[Scene]:
    """Return the scenes of a product, those that are united from several items one by one."""
    return [document for scene in product.scenes for document in scene.split_by_item()]


def _source_href(scene: Scene, folder: str | None) -> str | None:
    """Return the href of a scene's item: a URL, or a path relative to a folder.

    None where the item is not known; ``terramosaic:scenes`` lists all scenes.
    """
    if scene.item_href is None or "://" in scene.item_href:
        return scene.item_href
    if folder is None or "://" in folder:
        return None
    return quote(os.path.relpath(os.path.realpath(scene.item_href), os.path.realpath(folder)))


def classification_classes(
    legend: Legend, counts: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Return a legend as ``classification:classes``.

    Args:
        legend: the legend.
        counts: code → pixels; adds the number of pixels of each class, and its percentage of the
            mapped pixels.
    """
    entries = []
    shares = styles.class_percentages(legend, counts) if counts is not None else {}
    for entry in legend.classes:
        value: dict[str, Any] = {
            "value": entry.code,
            "name": legend.identifiers[entry.code],
            "title": entry.title,
            "color_hint": entry.color_hint,
        }
        if entry.code == legend.nodata:
            value["nodata"] = True
        if counts is not None:
            value["count"] = counts.get(entry.code, 0)
        if entry.code in shares:
            value["percentage"] = round(shares[entry.code], 4)
        entries.append(value)
    return entries


def classification_bitfields(layer: Layer) -> list[dict[str, Any]]:
    """Return the bits of a layer as ``classification:bitfields``."""
    return [
        {
            "name": name,
            "offset": bit.bit_length() - 1,
            "length": 1,
            "classes": [
                {"value": 0, "name": "not_used"},
                {"value": 1, "name": "used"},
            ],
        }
        for bit, name in layer.bitfields
    ]
