"""Read published products: their items, plans, figures and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catalogs.errors import InvalidInputError
from pipeline.grid.grid import Grid
from pipeline.plan.plan import Plan
from pipeline.runtime import atomic_files
from pipeline.storage import receipt

ITEM_NAME = "item.json"
COLLECTION_NAME = "collection.json"


def mosaic_dir_name(grid: Grid) -> str:
    """Return the name of the folder that holds the COGs of a mosaic."""
    return f"mosaic_{grid.epsg}"


def main_dir_name(plan: Plan) -> str:
    """Return the name of the folder of the main COGs: of the only grid, or of the first mosaic."""
    return str(plan.grid.epsg) if len(plan.grids) == 1 else mosaic_dir_name(plan.mosaic_grids[0])


def is_complete(item_path: Path, plan: Plan) -> bool:
    """Return whether an item is that of a plan, without missing tiles, and all its files exist."""
    item = _read_item(item_path)
    if item is None or item["properties"].get("terramosaic:plan") != plan.digest:
        return False
    if item["properties"].get("terramosaic:holes"):
        return False
    return all((item_path.parent / asset["href"]).exists() for asset in item["assets"].values())


def read_accuracy(item_path: Path) -> dict[str, Any] | None:
    """Return the accuracy figures of an item: overall, macro_f1 and n; None without them."""
    accuracy = _read_property(item_path, "accuracy")
    if not accuracy:
        return None
    return {key: accuracy[key] for key in ("overall", "macro_f1", "n")}


def read_seam(item_path: Path) -> dict[str, Any] | None:
    """Return the seam figures of an item; None without them."""
    figures: dict[str, Any] | None = _read_property(item_path, "seam")
    return figures


def read_not_observed(item_path: Path) -> float | None:
    """Return the percentage of the region without an observation; None where it is not stated."""
    percentage: float | None = _read_property(item_path, "not_observed_percent")
    return percentage


def read_missing_tiles(product_dir: Path) -> set[str]:
    """Return the ids of the tiles that a product declares as missing."""
    missing = _read_property(product_dir / ITEM_NAME, "holes") or []
    return {tile["tile"] for tile in missing}


def read_finished_tiles(product_dir: Path) -> set[str]:
    """Return the ids of the finished tiles of the published product; empty where there is none."""
    try:
        plan, plan_dir = read_current_plan(product_dir)
    except InvalidInputError:
        return set()
    return set(receipt.read_finished(plan_dir, plan))


def find_product_dirs(location: Path) -> list[Path]:
    """Return the folders of the products under a path, sorted.

    Args:
        location: an output folder, a product's folder or an ``item.json``.

    Raises:
        InvalidInputError: there is no product.
    """
    if location.name == ITEM_NAME and location.is_file():
        return [location.parent]
    items = location.rglob(ITEM_NAME) if location.is_dir() else ()
    product_dirs = sorted(path.parent for path in items)
    if not product_dirs:
        raise InvalidInputError(
            f"There is no product at {location}: it holds no {ITEM_NAME}. "
            f"Give the output folder, a product's folder or its {ITEM_NAME}."
        )
    return product_dirs


def read_current_plan(product_dir: Path) -> tuple[Plan, Path]:
    """Return the plan that an item points at, and the plan's folder.

    Raises:
        InvalidInputError: the item or the plan cannot be read.
    """
    item_path = product_dir / ITEM_NAME
    item = _read_item(item_path)
    if item is None or "plan" not in item["assets"]:
        raise InvalidInputError(f"{item_path} is not the item of a terramosaic product.")
    plan_path = product_dir / item["assets"]["plan"]["href"]
    return Plan.read(plan_path), plan_path.parent


def find_damaged_files(product_dir: Path) -> list[dict[str, str]]:
    """Compare each published file with the checksum in the item.

    Returns:
        ``tile`` (empty), ``file`` and ``reason`` of each file that is missing or differs.
    """
    damaged = []
    item = _read_item(product_dir / ITEM_NAME) or {"assets": {}}
    for asset in item["assets"].values():
        path, checksum = product_dir / asset["href"], asset.get("file:checksum")
        if not path.exists():
            reason = "the file is missing"
        elif checksum and not checksum.endswith(atomic_files.sha256(path)):
            reason = "the file differs from the published one"
        else:
            continue
        damaged.append({"tile": "", "file": asset["href"], "reason": reason})
    return damaged


def _read_property(item_path: Path, name: str) -> Any:
    """Return a ``terramosaic:`` property of an item; None where there is no item or property."""
    item = _read_item(item_path)
    return None if item is None else item["properties"].get(f"terramosaic:{name}")


def _read_item(item_path: Path) -> dict[str, Any] | None:
    """Read an item; None where there is none."""
    try:
        item: dict[str, Any] = json.loads(item_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidInputError(f"{item_path} is not JSON: {error}") from error
    return item
