"""Reuse of tiles: copy those that another plan of the same product has already built.

A tile's key is a hash of everything that decides its pixels. Where an earlier plan has a finished
tile with the same key, its values are copied and compared with the digests of its receipt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from catalogs.errors import InvalidInputError, TerramosaicError
from pipeline import tile_layers
from pipeline.grid.grid import Tile
from pipeline.plan.plan import Plan
from pipeline.storage import plan_file, receipt, zarr_store
from pipeline.storage.receipt import Receipt
from pipeline.storage.store import Store, StoreLike, open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusableTile:
    """A finished tile of another plan."""

    folder: Store
    plan: Plan
    receipt: Receipt


def find_reusable_tiles(
    folder: StoreLike, plan: Plan, tiles: Sequence[Tile]
) -> dict[str, ReusableTile]:
    """Find tiles with the same keys in the folders of other plans of the product.

    Args:
        folder: the plan's folder; the folders beside it are searched, the most recent first.
        plan: the plan.
        tiles: the tiles to find.

    Returns:
        Id of the tile in ``plan`` → the finished tile of another plan.
    """
    ids_by_key = {plan.tile_key(wanted_tile): wanted_tile.id for wanted_tile in tiles}
    reusable: dict[str, ReusableTile] = {}
    for source_folder in _other_plan_folders(folder):
        receipts = [
            candidate
            for candidate in receipt.read_all(source_folder)
            if candidate.key in ids_by_key and ids_by_key[candidate.key] not in reusable
        ]
        if not receipts:
            continue
        try:
            source_plan = plan_file.read_plan(source_folder)
        except InvalidInputError:
            continue
            # ^ damaged, or written by another version
        for candidate in receipts:
            if candidate.tile in source_plan.tiles_by_id:
                reusable[ids_by_key[candidate.key]] = ReusableTile(
                    folder=source_folder, plan=source_plan, receipt=candidate
                )
    return reusable


def copy_tiles(
    folder: StoreLike, plan: Plan, reusable_tiles: Mapping[str, ReusableTile]
) -> set[str]:
    """Copy tiles into a plan's store, each receipt after its values.

    Args:
        folder: the plan's folder; its store exists.
        plan: the plan.
        reusable_tiles: what :func:`find_reusable_tiles` returned.

    Returns:
        Ids of the tiles that were copied; damaged ones are logged and left out.
    """
    copied = set()
    for tile_id, source in reusable_tiles.items():
        target = plan.tiles_by_id[tile_id]
        try:
            values = zarr_store.read_tile(
                source.folder,
                source.plan,
                source.plan.tiles_by_id[source.receipt.tile],
                list(tile_layers.list_layer_bands(plan)),
            )
        except (TerramosaicError, KeyError, OSError) as error:
            log.warning(
                "tile=%s will be built again: its copy in %s is damaged (%s)",
                tile_id,
                source.folder.location,
                error,
            )
            continue
        if zarr_store.write_tile(folder, plan, target, values) != dict(source.receipt.digests):
            log.warning(
                "tile=%s will be built again: its copy in %s does not match the receipt",
                tile_id,
                source.folder.location,
            )
            continue
        receipt.write(folder, target, replace(source.receipt, tile=tile_id))
        copied.add(tile_id)
    return copied


def _other_plan_folders(folder: StoreLike) -> list[Store]:
    """Return the folders of other plans of the same product, the most recent first."""
    plan_store = open_store(folder)
    product_store = plan_store.parent()
    modified: dict[str, float] = {}
    for name in product_store.glob(f"*/{plan_file.PLAN_NAME}"):
        info = product_store.info(name)
        plan_name = name.partition("/")[0]
        if info is not None and plan_name != plan_store.name:
            modified[plan_name] = info.modified
    recent_first = sorted(modified, key=lambda plan_name: -modified[plan_name])
    return [product_store.child(plan_name) for plan_name in recent_first]
