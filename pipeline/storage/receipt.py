"""Read and write the receipts of finished tiles.

A receipt is written after all pixels of its tile, and lists their checksums.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.grid.grid import Tile
from pipeline.plan.plan import Plan
from pipeline.storage.store import Store, StoreLike, open_store, write_json

RECEIPTS_DIR = "receipts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a finished tile was made from, its checksums, and how long it took."""

    tile: str
    """Id of the tile."""

    key: str
    """SHA-256 of everything that determines the tile's pixels."""

    scenes: tuple[str, ...]
    """Ids of the scenes that were read."""

    digests: Mapping[str, str]
    """Layer → SHA-256 of the tile's stored values, row by row, band by band."""

    coverage: Mapping[str, float]
    """Shares of the tile's pixels inside the region, and of those the observed ones."""

    versions: Mapping[str, str]
    """Package → version."""

    seconds: Mapping[str, float]
    """Stage → seconds."""

    samples: Mapping[str, Any] = field(default_factory=dict)
    """Counts of windows and of samples predicted twice: `pipeline.quality.window_agreement`."""

    traffic: Mapping[str, int] = field(default_factory=dict)
    """Bytes, requests and retries, also by modality; see :mod:`pipeline.runtime.io_statistics`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-ready values."""
        return asdict(self) | {"scenes": list(self.scenes)}


def receipt_name(tile: Tile) -> str:
    """Return the name of a tile's receipt in the folder of its plan."""
    return f"{RECEIPTS_DIR}/{tile.id}.json"


def write(plan_dir: StoreLike, tile: Tile, receipt: Receipt) -> None:
    """Write the receipt of a tile. Call it after the tile's pixels are stored."""
    write_json(open_store(plan_dir), receipt_name(tile), receipt.to_dict())


def read(plan_dir: StoreLike, tile: Tile) -> Receipt | None:
    """Read the receipt of a tile; None where there is none, or it is damaged."""
    return _read_receipt(open_store(plan_dir), receipt_name(tile))


def delete(plan_dir: StoreLike, tile: Tile) -> None:
    """Delete the receipt of a tile, so that the tile is made again."""
    open_store(plan_dir).delete(receipt_name(tile))


def read_all(plan_dir: StoreLike, *, max_count: int | None = None) -> Iterator[Receipt]:
    """Yield the readable receipts of a plan's folder.

    Args:
        plan_dir: the folder.
        max_count: about how many to read, evenly spread; all by default.
    """
    store = open_store(plan_dir)
    names = store.glob(f"{RECEIPTS_DIR}/*.json")
    step = -(-len(names) // max_count) or 1 if max_count else 1
    for name in names[::step]:
        receipt = _read_receipt(store, name)
        if receipt is not None:
            yield receipt


def read_finished(plan_dir: StoreLike, plan: Plan) -> dict[str, Receipt]:
    """Return the receipts of a plan's finished tiles by tile id.

    Receipts with another key belong to another plan, and do not count.
    """
    finished = {}
    for tile in plan.tiles:
        receipt = read(plan_dir, tile)
        if receipt is not None and receipt.key == plan.tile_key(tile):
            finished[tile.id] = receipt
    return finished


def _read_receipt(store: Store, name: str) -> Receipt | None:
    try:
        values = json.loads(store.read(name).decode("utf-8"))
        return Receipt(**{**values, "scenes": tuple(values["scenes"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
        # ^ a damaged receipt counts as none: the tile is made again
