"""Read published products: their items, plans, figures and files."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalogs.errors import InvalidInputError
from pipeline.grid.grid import Grid
from pipeline.plan.plan import Plan
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.storage import plan_file, receipt
from pipeline.storage.store import Store, StoreLike, open_store, read_json, write_json

ITEM_NAME = "item.json"
COLLECTION_NAME = "collection.json"

DAMAGED_NAME = "damaged.json"
"""Names of published files that a verification has found damaged: the next run writes all again."""


def mosaic_dir_name(grid: Grid) -> str:
    """Return the name of the folder that holds the COGs of a mosaic."""
    return f"mosaic_{grid.epsg}"


def main_dir_name(plan: Plan) -> str:
    """Return the name of the folder of the main COGs: of the only grid, or of the first mosaic."""
    return str(plan.grid.epsg) if len(plan.grids) == 1 else mosaic_dir_name(plan.mosaic_grids[0])


def is_complete(product_dir: StoreLike, plan: Plan) -> bool:
    """Return whether a plan's product is published, without missing tiles, with all its files."""
    store = open_store(product_dir)
    try:
        item = _read_item(store)
    except InvalidInputError:
        return False
        # ^ it is damaged, and written again
    if store.exists(DAMAGED_NAME):
        return False
    if item is None or item["properties"].get("terramosaic:plan") != plan.digest:
        return False
    if item["properties"].get("terramosaic:holes"):
        return False
    return all(store.exists(asset["href"]) for asset in item["assets"].values())


def read_accuracy(product_dir: StoreLike) -> AccuracyMetrics | None:
    """Return the accuracy of a product; None without it."""
    accuracy = _read_properties(product_dir).get("terramosaic:accuracy")
    if not accuracy:
        return None
    return AccuracyMetrics(
        **{key: accuracy[key] for key in ("overall", "macro_f1", "n")}, f1=accuracy.get("f1", {})
    )


def read_quality(product_dir: StoreLike) -> QualityMetrics | None:
    """Return the quality figures that a product's item states; None without them."""
    figures = _read_properties(product_dir).get("terramosaic:seam")
    return QualityMetrics.from_dict(figures) if figures else None


def read_missing_tiles(product_dir: StoreLike) -> set[str]:
    """Return the ids of the tiles that a product declares as missing."""
    missing = _read_properties(product_dir).get("terramosaic:holes", [])
    return {tile["tile"] for tile in missing}


def read_finished_tiles(product_dir: StoreLike) -> set[str]:
    """Return the ids of the finished tiles of the published product; empty where there is none."""
    try:
        plan, plan_store = read_current_plan(product_dir)
    except InvalidInputError:
        return set()
    return set(receipt.read_finished(plan_store, plan))


def find_product_dirs(location: Path) -> list[Path]:
    """Return the folders of the products under a local path, sorted.

    Args:
        location: an output folder, a product's folder or an ``item.json``.

    Raises:
        InvalidInputError: there is no product.
    """
    parent = open_store(location.parent)
    is_item = location.name == ITEM_NAME and parent.info(ITEM_NAME) is not None
    # ^ a job may be named like the file, and then a folder is
    folder = location.parent if is_item else location
    store = open_store(folder)
    names = [ITEM_NAME] if is_item else store.glob(f"**/{ITEM_NAME}")
    product_dirs = sorted((folder / name).parent for name in names if not _is_foreign(store, name))
    if not product_dirs:
        raise InvalidInputError(
            f"There is no product at {location}: it holds no {ITEM_NAME}. "
            f"Give the output folder, a product's folder or its {ITEM_NAME}."
        )
    return product_dirs


def _is_foreign(store: Store, name: str) -> bool:
    """Return whether a readable item is not of a product, but of a catalog in the same folder."""
    try:
        item = read_json(store, name)
        return "plan" not in item["assets"] and "terramosaic:plan" not in item["properties"]
    except (ValueError, LookupError, TypeError):
        return False
        # ^ a damaged item is reported as such


def read_current_plan(product_dir: StoreLike) -> tuple[Plan, Store]:
    """Return the plan that a product's item points at, and the store of the plan's folder.

    Raises:
        InvalidInputError: the item or the plan cannot be read.
    """
    store = open_store(product_dir)
    item = _read_item(store)
    if item is None or "plan" not in item["assets"]:
        raise InvalidInputError(
            f"{store.location}/{ITEM_NAME} is not the item of a terramosaic product."
        )
    plan_store = store.child(posixpath.dirname(item["assets"]["plan"]["href"]))
    return plan_file.read_plan(plan_store), plan_store


def list_published_files(product_dir: StoreLike) -> dict[str, str | None]:
    """Return the names of a product's files, and the checksum that its item states for each.

    Names are relative to the product's folder; a checksum is a multihash, or None.
    """
    item = _read_item(open_store(product_dir)) or {"assets": {}}
    return {asset["href"]: asset.get("file:checksum") for asset in item["assets"].values()}


def mark_damaged(product_dir: StoreLike, names: Sequence[str]) -> None:
    """Note which published files are damaged, so that the next run writes the product again."""
    store = open_store(product_dir)
    if names:
        write_json(store, DAMAGED_NAME, {"files": list(names)})
    else:
        store.delete(DAMAGED_NAME)


def _read_properties(product_dir: StoreLike) -> Mapping[str, Any]:
    """Return the properties of a product's item; empty where there is none."""
    properties: Mapping[str, Any] = (_read_item(open_store(product_dir)) or {}).get(
        "properties", {}
    )
    return properties


def _read_item(store: Store) -> dict[str, Any] | None:
    """Read the item of a product's folder; None where there is none."""
    try:
        item: dict[str, Any] = read_json(store, ITEM_NAME)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidInputError(f"{store.location}/{ITEM_NAME} is not JSON: {error}") from error
    return item
