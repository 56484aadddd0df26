"""Tiles that are read from a failing server are identical to the bit, or failed."""

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
from tests.pipeline import test_plan as plans
from tests.support.fake_predictors import Brightness

SEEDS = 500 if os.environ.get("TERRAMOSAIC_NIGHTLY") else 20
SHARES = (0.02, 0.1, 0.3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a server, a plan of nine tiles and four scenes on it, and the tiles' true digests."""
    folder = tmp_path_factory.mktemp("world")
    near = plans.make(folder, scenes=4, tile=24)
    for path in sorted(folder.glob("scene-[01]/*.tif")):
        plain = path.with_suffix(".plain.tif")
        copy(path, plain, driver="GTiff", tiled=True, blockxsize=16, blockysize=16)
        plain.rename(path)
        # ^ half of them uncompressed: there no code tells damage
    with range_server.serving(folder, stall=0.2) as web:
        far = tuple(
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
            for scene in near.snapshot.scenes
        )
        plan = dataclasses.replace(near, snapshot=Snapshot(scenes=far))
        assert len(plan.tiles) == 9
        yield web, plan, _run(plan, tmp_path_factory.mktemp("true"))


def _run(plan, folder):
    """Build every tile; return its digests, or the message of its error, by tile."""
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    results = {}
    for part in plan.tiles:
        try:
            written = tile.build_tile(plan, part, Brightness(), folder, threads=2)
            results[part.id] = written.digests
        except TerramosaicError as error:
            results[part.id] = str(error)
    return results


@pytest.fixture
def impatient(monkeypatch):
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
def test_a_tile_is_the_same_to_the_bit_or_failed(world, impatient, tmp_path, seed):
    web, plan, true = world
    share = SHARES[seed % len(SHARES)]
    web.forget()
    web.script = range_server.sometimes(seed, share)
    results = _run(plan, tmp_path)
    for part in plan.tiles:
        result = results[part.id]
        if isinstance(result, str):
            assert "cannot be read" in result, (seed, part.id, result)
            assert receipt.read(tmp_path, part) is None, (seed, part.id)
        else:
            assert result == true[part.id], (seed, share, part.id)


def test_each_fault_is_healed_when_it_passes(world, impatient, tmp_path):
    web, plan, true = world
    (first, *_) = plan.tiles
    healed = set()
    for fault in range_server.FAULTS:
        web.forget()
        web.script = range_server.sometimes(1, 0.15, (fault,))
        zarr_store.create(tmp_path / fault, plan, tile_layers.list_layer_bands(plan))
        try:
            written = tile.build_tile(plan, first, Brightness(), tmp_path / fault, threads=2)
        except TerramosaicError:
            continue
        assert written.digests == true[first.id], fault
        healed.add(fault)
    assert set(range_server.FAULTS) - healed <= {"redirect", "404", "403"}
    # ^ another host is refused at once, a missing or forbidden file at the second request
