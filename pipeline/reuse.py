"""Tiles that another plan of the same product has finished already: taken over, not made again.

A tile's key names everything that decides its pixels. Where a plan with a newer scene asks for the
same key as the plan before it, the tile is copied from that one's folder, byte by byte checked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from catalogs.errors import InvalidInputError, TerramosaicError
from pipeline import tile
from pipeline.grid.grid import Tile
from pipeline.plan.plan import Plan
from pipeline.storage import receipt, zarr_store
from pipeline.storage.receipt import Receipt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusableTile:
    """A finished tile of another plan."""

    folder: Path
    plan: Plan
    receipt: Receipt


def find_reusable_tiles(folder: Path, plan: Plan, tiles: Sequence[Tile]) -> dict[str, ReusableTile]:
    """Return, for those of a plan's tiles that a neighbouring folder holds, where they lie.

    Args:
        folder: the plan's folder; those beside it are looked into, the latest one first.
        plan: the plan.
        tiles: those that are wanted.
    """
    wanted = {plan.tile_key(one): one.id for one in tiles}
    found: dict[str, ReusableTile] = {}
    for other in _other_plan_folders(folder):
        proofs = [one for one in receipt.read_all(other) if one.key in wanted]
        proofs = [one for one in proofs if wanted[one.key] not in found]
        if not proofs:
            continue
        try:
            before = Plan.read(other / "plan.json")
        except InvalidInputError:
            continue
            # ^ of another version, or damaged
        for proof in proofs:
            if proof.tile in before.tiles_by_id:
                found[wanted[proof.key]] = ReusableTile(folder=other, plan=before, receipt=proof)
    return found


def copy_tiles(folder: Path, plan: Plan, reusable_tiles: Mapping[str, ReusableTile]) -> set[str]:
    """Copy tiles into a plan's store, receipts last; return the ids of those that were sound."""
    taken = set()
    for name, source in reusable_tiles.items():
        one = plan.tiles_by_id[name]
        try:
            values = zarr_store.read_tile(
                source.folder,
                source.plan,
                source.plan.tiles_by_id[source.receipt.tile],
                list(tile.list_layer_bands(plan)),
            )
        except (TerramosaicError, KeyError, OSError) as error:
            log.warning(
                "tile=%s is made anew: %s holds it damaged (%s)", name, source.folder, error
            )
            continue
        if zarr_store.write_tile(folder, plan, one, values) != dict(source.receipt.digests):
            log.warning("tile=%s is made anew: %s holds other values", name, source.folder)
            continue
        receipt.write(folder, one, replace(source.receipt, tile=name))
        taken.add(name)
    return taken


def _other_plan_folders(folder: Path) -> list[Path]:
    """Return the folders of other plans of the same product, the latest first."""
    plans = [path for path in folder.parent.glob("*/plan.json") if path.parent != folder]
    return [path.parent for path in sorted(plans, key=lambda one: -one.stat().st_mtime_ns)]
