"""Tiles that are read from a failing server are identical to the bit, or fail."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import pytest
from rasterio.shutil import copy

from catalogs.errors import TerramosaicError
from catalogs.snapshot import Snapshot
from pipeline import tile, tile_layers
from pipeline.reading import http_ranges
from pipeline.storage import receipt, zarr_store
from tests.faults import range_server
from tests.support import small_plan
from tests.support.fake_predictors import Brightness

SEEDS = 500 if os.environ.get("TERRAMOSAIC_NIGHTLY") else 20
SHARES = (0.02, 0.1, 0.3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a server, a plan of nine tiles and four scenes on it, and the expected digests."""
    folder = tmp_path_factory.mktemp("world")
    local_plan = small_plan.make_plan(folder, scenes=4, tile=24)
    for path in sorted(folder.glob("scene-[01]/*.tif")):
        uncompressed = path.with_suffix(".plain.tif")
        copy(path, uncompressed, driver="GTiff", tiled=True, blockxsize=16, blockysize=16)
        uncompressed.rename(path)
        # ^ half of them uncompressed, where no decoder detects damage
    with range_server.serving(folder, stall=0.2) as web:
        served_scenes = tuple(
            dataclasses.replace(
                scene,
                provider="demo",
                assets={
                    band: dataclasses.replace(
                        asset, href=f"{web.address}/{Path(asset.href).relative_to(folder)}"
                    )
                    for band, asset in scene.assets.items()
                },
            )
            for scene in local_plan.snapshot.scenes
        )
        plan = dataclasses.replace(local_plan, snapshot=Snapshot(scenes=served_scenes))
        assert len(plan.tiles) == 9
        yield web, plan, _build_tiles(plan, tmp_path_factory.mktemp("true"))


def _build_tiles(plan, folder):
    """Build every tile; return its digests, or the message of its error, by tile."""
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    results = {}
    for plan_tile in plan.tiles:
        try:
            tile_receipt = tile.build_tile(plan, plan_tile, Brightness(), folder, threads=2)
            results[plan_tile.id] = tile_receipt.digests
        except TerramosaicError as error:
            results[plan_tile.id] = str(error)
    return results


@pytest.fixture
def quick_requests(monkeypatch):
    """Read small files in many small requests, with few and quick retries."""
    quick = dataclasses.replace(
        http_ranges.RETRY_POLICY, max_attempts=4, backoff=0.0005, timeout=(0.1, 0.1), deadline=5.0
    )
    monkeypatch.setattr(http_ranges, "RETRY_POLICY", quick)
    for name, value in {
        "HEADER_BYTES": 700,
        "READ_AHEAD_BYTES": 1400,
        "MERGE_GAP_BYTES": 0,
    }.items():
        monkeypatch.setattr(http_ranges, name, value)
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    yield
    logging.getLogger("pipeline").setLevel(logging.NOTSET)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_tile_is_identical_to_the_bit_or_fails(world, quick_requests, tmp_path, seed):
    web, plan, expected = world
    share = SHARES[seed % len(SHARES)]
    web.reset_counts()
    web.script = range_server.fail_sometimes(seed, share)
    results = _build_tiles(plan, tmp_path)
    for plan_tile in plan.tiles:
        result = results[plan_tile.id]
        if isinstance(result, str):
            assert "cannot be read" in result, (seed, plan_tile.id, result)
            assert receipt.read(tmp_path, plan_tile) is None, (seed, plan_tile.id)
        else:
            assert result == expected[plan_tile.id], (seed, share, plan_tile.id)


def test_a_tile_is_identical_after_each_temporary_fault(world, quick_requests, tmp_path):
    web, plan, expected = world
    (first_tile, *_) = plan.tiles
    survived = set()
    for fault in range_server.FAULTS:
        web.reset_counts()
        web.script = range_server.fail_sometimes(1, 0.15, (fault,))
        zarr_store.create(tmp_path / fault, plan, tile_layers.list_layer_bands(plan))
        try:
            tile_receipt = tile.build_tile(
                plan, first_tile, Brightness(), tmp_path / fault, threads=2
            )
        except TerramosaicError:
            continue
        assert tile_receipt.digests == expected[first_tile.id], fault
        survived.add(fault)
    assert set(range_server.FAULTS) - survived <= {"redirect", "404", "403"}
    # ^ another host is refused at once, a missing or forbidden file at the second request
