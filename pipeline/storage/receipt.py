"""Proof that a tile is finished: written last, checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.grid.grid import Tile
from pipeline.plan.plan import Plan
from pipeline.runtime import atomic_files

RECEIPTS_DIR = "receipts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was made of one tile, of what, and how long it took."""

    tile: str
    key: str
    """sha256 of everything that decides the tile's pixels."""

    scenes: tuple[str, ...]
    """Ids of the scenes that were read."""

    digests: Mapping[str, str]
    """Layer → sha256 of the tile's stored values, row by row, band by band."""

    coverage: Mapping[str, float]
    """Shares of the tile's pixels inside the region, and of those the observed ones."""

    versions: Mapping[str, str]
    seconds: Mapping[str, float]

    samples: Mapping[str, Any] = field(default_factory=dict)
    """Windows, and what was made twice to see how far it can be trusted: see pipeline.inference.consistency."""

    traffic: Mapping[str, int] = field(default_factory=dict)
    """Bytes and requests over the network, also by modality, and retries: see pipeline.runtime.io_statistics."""

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-ready values."""
        return asdict(self) | {"scenes": list(self.scenes)}


def receipt_path(plan_dir: Path, tile: Tile) -> Path:
    """Return where the receipt of a tile lies in a plan's folder."""
    return plan_dir / RECEIPTS_DIR / f"{tile.id}.json"


def write(plan_dir: Path, tile: Tile, receipt: Receipt) -> None:
    """Write a receipt, whole or not at all. Call it after the tile's bytes are on disk."""
    atomic_files.write_json(receipt_path(plan_dir, tile), receipt.to_dict())


def read(plan_dir: Path, tile: Tile) -> Receipt | None:
    """Read a tile's receipt; None where there is none that can be read."""
    return load(receipt_path(plan_dir, tile))


def load(file: Path) -> Receipt | None:
    """Read a receipt's file; None where there is none that can be read."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Receipt(**{**values, "scenes": tuple(values["scenes"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
        # ^ a damaged receipt proves nothing: the tile is made again


def read_all(plan_dir: Path, *, max_count: int | None = None) -> Iterator[Receipt]:
    """Return the receipts in a plan's folder that can be read: all, or about so many of them."""
    paths = sorted((plan_dir / RECEIPTS_DIR).glob("*.json"))
    step = -(-len(paths) // max_count) or 1 if max_count else 1
    for path in paths[::step]:
        found = load(path)
        if found is not None:
            yield found


def read_finished(plan_dir: Path, plan: Plan) -> dict[str, Receipt]:
    """Return the receipts of a plan's finished tiles by id; those of other keys do not count."""
    found = {}
    for tile in plan.tiles:
        receipt = read(plan_dir, tile)
        if receipt is not None and receipt.key == plan.tile_key(tile):
            found[tile.id] = receipt
    return found
