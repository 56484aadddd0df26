"""Verification of products: every stored byte is compared with its receipt."""

from __future__ import annotations

import contextlib
from pathlib import Path

from catalogs.errors import InvalidInputError
from flows.observe.progress import Progress
from flows.run.command_results import DamagedFile, ProductQuality, VerifyResult
from pipeline.plan.plan import Plan
from pipeline.product import published_item
from pipeline.quality import quality_gate, quality_metrics
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.storage import receipt, zarr_store
from pipeline.storage.store import Store, StoreLike, open_store


def find_damaged_tiles(plan: Plan, plan_dir: StoreLike) -> list[DamagedFile]:
    """Return the stored files of finished tiles whose values differ from their receipt.

    The receipt of a damaged tile is deleted, so that the next run makes the tile again.

    Args:
        plan: the plan.
        plan_dir: its folder.
    """
    damaged: list[DamagedFile] = []
    for tile in plan.tiles:
        tile_receipt = receipt.read(plan_dir, tile)
        if tile_receipt is None or tile_receipt.key != plan.tile_key(tile):
            continue
        findings = zarr_store.check_tile(plan_dir, plan, tile, tile_receipt.digests)
        damaged += [
            DamagedFile(tile=tile.id, file=file, reason=reason) for file, reason in findings
        ]
        if findings:
            receipt.delete(plan_dir, tile)
    return damaged


def find_damaged_files(product_dir: StoreLike) -> list[DamagedFile]:
    """Return the published files that are missing, or differ from the checksum in the item."""
    store = open_store(product_dir)
    return [
        DamagedFile(tile="", file=name, reason=reason)
        for name, checksum in published_item.list_published_files(store).items()
        if (reason := _find_damage(store, name, checksum)) is not None
    ]


def _find_and_mark_damaged_files(product_dir: Path) -> list[DamagedFile]:
    """Return the damaged files of a product, and note them for the next run."""
    try:
        damaged = find_damaged_files(product_dir)
    except InvalidInputError:
        return []
        # ^ the item itself cannot be read, and is reported
    with contextlib.suppress(OSError):
        # ^ a product may be on a disk that cannot be written
        published_item.mark_damaged(product_dir, [str(finding.file) for finding in damaged])
    return damaged


def _find_damage(store: Store, name: str, checksum: str | None) -> str | None:
    if not store.exists(name):
        return "the file is missing"
    if checksum and not checksum.endswith(store.sha256(name)):
        return "the file differs from the published one"
    return None


def verify(location: Path, progress: Progress) -> VerifyResult:
    """Check every file of the products under a folder, or of one product.

    Args:
        location: an output folder, a product folder or an ``item.json``.
        progress: a step per product.

    Raises:
        InvalidInputError: there is no product at the location.
    """
    product_dirs = published_item.find_product_dirs(location)
    progress.start_stage("verify", len(product_dirs))
    damaged: list[DamagedFile] = []
    measured: list[tuple[str, QualityMetrics]] = []
    gate_passed = True
    for product_dir in product_dirs:
        progress.advance(1, product_dir.name)
        item = str(product_dir / published_item.ITEM_NAME)
        try:
            plan, plan_dir = published_item.read_current_plan(product_dir)
        except InvalidInputError as error:
            damaged.append(DamagedFile(tile="", file=item, reason=str(error)))
            damaged += _find_and_mark_damaged_files(product_dir)
            continue
        with plan_dir.lock():
            damaged += find_damaged_tiles(plan, plan_dir)
            damaged += _find_and_mark_damaged_files(product_dir)
            receipts = receipt.read_finished(plan_dir, plan)
            missing = published_item.read_missing_tiles(product_dir)
            if len(receipts) + len(missing) >= len(plan.tiles):
                quality = quality_metrics.measure_quality(plan, plan_dir)
                gate_passed &= not quality_gate.list_refusals(plan, quality)
                measured.append((item, quality))
        reported = {finding.tile for finding in damaged}
        damaged += [
            DamagedFile(tile=tile.id, file="receipts", reason="the tile has no receipt")
            for tile in plan.tiles
            if tile.id not in receipts and tile.id not in missing and tile.id not in reported
        ]
    progress.finish()
    worst = max(measured, key=lambda entry: entry[1].largest_z, default=None)
    return VerifyResult(
        ok=not damaged and gate_passed,
        bad=tuple(damaged),
        seam=ProductQuality.from_product(*worst) if worst else None,
    )
