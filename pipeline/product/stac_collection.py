"""The STAC collection over all periods of a product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import layer_table
from pipeline.product import stac_item
from pipeline.storage.store import StoreLike, open_store, read_json

_MEASURED_FIELDS = ("count", "percentage")
"""Fields of a class that are those of one item."""


def build_collection(
    items: Sequence[Mapping[str, Any]], *, title: str, license_id: str
) -> dict[str, Any]:
    """Return the STAC collection over all periods of a product.

    Args:
        items: the items, at least one, of one product.
        title: name for people.
        license_id: as :attr:`Product.license`.

    Raises:
        ValueError: there is no item, or they belong to different products.
    """
    names = {entry["collection"] for entry in items}
    if len(names) != 1:
        raise ValueError(f"A collection needs the items of one product, not of {sorted(names)}.")
    ordered = sorted(items, key=lambda entry: str(entry["properties"]["start_datetime"]))
    name = ordered[0]["collection"]
    item_assets = _item_assets(ordered)
    output_titles = _output_titles(ordered)
    return {
        "type": "Collection",
        "stac_version": stac_item.STAC_VERSION,
        "stac_extensions": stac_item.list_extensions(item_assets, required=()),
        "id": name,
        "title": title,
        "description": f"{' and '.join(output_titles)} of {title}, one item per period, made by "
        "terramosaic.",
        "license": license_id,
        "keywords": [
            *map(str.lower, output_titles),
            "Sentinel-1",
            "Sentinel-2",
            "TerraMind",
        ],
        "providers": [{"name": "terramosaic", "roles": ["processor"]}],
        "extent": _extent(ordered),
        "summaries": _summaries(ordered),
        "item_assets": item_assets,
        "links": _collection_links(ordered),
    }


def read_items(collection_dir: StoreLike) -> list[dict[str, Any]]:
    """Read the items of all periods of a product, oldest period first."""
    store = open_store(collection_dir)
    return [read_json(store, name) for name in store.glob("*/item.json")]


def _output_titles(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the titles of the items' model outputs; "Composites" for items without a model."""
    output_layers = {
        "land_cover"
        if "land_cover" in entry["assets"]
        else _output_layer(entry["properties"]): None
        # ^ older items do not name their output
        for entry in items
    }
    return [_output_title(name) if name else "Composites" for name in output_layers]


def _output_title(name: str) -> str:
    """Return the title of an output; a layer that is not in the table is one of classes."""
    layer = layer_table.LAYERS_BY_NAME.get(name)
    return layer.title if layer else layer_table.format_title(name)


def _output_layer(properties: Mapping[str, Any]) -> str | None:
    layer_name: str | None = properties.get("terramosaic:answer")
    return layer_name


def _extent(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the union of the items' boxes and periods."""
    boxes = [entry["bbox"] for entry in items]
    west, south = min(box[0] for box in boxes), min(box[1] for box in boxes)
    east, north = max(box[2] for box in boxes), max(box[3] for box in boxes)
    if any(box[0] > box[2] for box in boxes) and len({tuple(box) for box in boxes}) > 1:
        west, east = -180.0, 180.0
        # ^ boxes across the antimeridian have no smaller union that is a box
    elif boxes[0][0] > boxes[0][2]:
        west, east = boxes[0][0], boxes[0][2]
    start = min(entry["properties"]["start_datetime"] for entry in items)
    end = max(entry["properties"]["end_datetime"] for entry in items)
    return {
        "spatial": {"bbox": [[west, south, east, north]]},
        "temporal": {"interval": [[start, end]]},
    }


def _summaries(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that occur in the items."""
    models = {entry["properties"].get("terramosaic:model") for entry in items} - {None}
    return {
        "gsd": sorted({entry["properties"]["gsd"] for entry in items}),
        **({"terramosaic:model": sorted(models)} if models else {}),
    }


def _item_assets(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``item_assets``: the assets that an item may have."""
    item_assets: dict[str, Any] = {}
    for entry in items:
        for key, asset in entry["assets"].items():
            fields = (
                *("type", "title", "description", "roles", "bands"),
                *("data_type", "nodata", "unit"),
            )
            item_assets[key] = {name: asset[name] for name in fields if name in asset}
            if "classification:classes" in asset:
                item_assets[key]["classification:classes"] = [
                    {name: value for name, value in entry.items() if name not in _MEASURED_FIELDS}
                    for entry in asset["classification:classes"]
                ]
    return item_assets


def _collection_links(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the links of a collection: to its items, and to licences."""
    links: list[dict[str, Any]] = []
    for entry in items:
        folder = str(entry["id"]).removeprefix(f"{entry['collection']}_")
        links.append(
            {
                "rel": "item",
                "href": f"./{folder}/item.json",
                "type": "application/geo+json",
                "title": entry["properties"]["title"],
            }
        )
    notices = {
        link["href"]: link for entry in items for link in entry["links"] if link["rel"] == "license"
    }
    return [*links, *notices.values()]
