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
class BandValues:
    """The values of one band of a composite inside the region."""

    pixels: int
    """Pixels with a value."""

    low: float | None
    """Least value; None without one."""

    high: float | None
    """Largest value; None without one."""

    def join(self, neighbour: BandValues) -> BandValues:
        """Return the values of this and of another area."""
        lows = [values.low for values in (self, neighbour) if values.low is not None]
        highs = [values.high for values in (self, neighbour) if values.high is not None]
        return BandValues(
            pixels=self.pixels + neighbour.pixels,
            low=min(lows, default=None),
            high=max(highs, default=None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCounts:
    """Counts of a tile's pixels inside the region."""

    pixels: int
    """Input pixels."""

    cells: int
    """Cells of the finest layers: pixels, unless all outputs of the model are coarser."""

    observed: int
    """Cells with a clear observation."""

    bands: Mapping[str, Mapping[str, BandValues]]
    """Modality → band → its values; without the modalities that have no scene at the tile."""

    outputs: Mapping[str, tuple[int, int]]
    """Layer of an output of the model → its cells, and those of them with a value."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PixelCounts:
        """Build the counts from a receipt's values."""
        return cls(
            **{
                **values,
                "bands": {
                    modality: {band: BandValues(**entry) for band, entry in bands.items()}
                    for modality, bands in values["bands"].items()
                },
                "outputs": {
                    layer: (cells, valued) for layer, (cells, valued) in values["outputs"].items()
                },
            }
        )


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

    counts: PixelCounts | None = None
    """Pixels with values, by input, band and output; None in receipts of earlier versions."""

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
        counts = PixelCounts.from_dict(values["counts"]) if values.get("counts") else None
        return Receipt(**{**values, "scenes": tuple(values["scenes"]), "counts": counts})
    except (OSError, ValueError, TypeError, KeyError):
        return None
        # ^ a damaged receipt counts as none: the tile is made again
