"""Bytes from far away: the pixels that were asked for, or an error, however the server fails."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from rasterio import warp
from rasterio.enums import Resampling
from rasterio.shutil import copy

from catalogs import signing
from catalogs.errors import AssetReadError
from catalogs.scene import Asset
from pipeline.grid.grid import Grid
from pipeline.reading import (
    cube,
    http_ranges,
    provider_connections,
    raster_reader,
)
from tests.faults import range_server
from tests.support import small_worlds

SIZE = 300
GRID = Grid(
    epsg=small_worlds.EPSG,
    resolution=10.0,
    left=small_worlds.LEFT,
    top=small_worlds.TOP,
    height=SIZE,
    width=SIZE,
)
VALUES = np.random.default_rng(1).integers(1, 60_000, (SIZE, SIZE)).astype(np.uint16)
VALUES[:128, :128] = 0
# ^ two by two blocks of nothing: zeros that are no failure
SOURCE = raster_reader.AssetInfo(scene_id="S", provider="demo", nodata=0.0)
SECRET = "sig=canary-4711"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("remote")
    first = small_worlds.raster(place / "deflate.tif", VALUES)
    for compress in ("none", "lzw", "zstd"):
        copy(
            first,
            place / f"{compress}.tif",
            driver="GTiff",
            compress=compress,
            tiled=True,
            blockxsize=64,
            blockysize=64,
        )
    copy(first, place / "cog.tif", driver="COG", compress="deflate", blocksize=128)
    options = {"QUALITY": 100, "REVERSIBLE": "YES"}
    copy(first, place / "jp2.jp2", driver="JP2OpenJPEG", **options)
    (place / "bucket").mkdir()
    (place / "bucket" / "deflate.tif").write_bytes(first.read_bytes())
    return place


@pytest.fixture
def web(folder, monkeypatch):
    quick = dataclasses.replace(
        http_ranges.RETRY_POLICY,
        backoff=0.002,
        timeout=(0.3, 0.3),
        deadline=20.0,
        max_retry_after=2.0,
    )
    monkeypatch.setattr(http_ranges, "RETRY_POLICY", quick)
    with range_server.serving(folder, stall=0.5) as running:
        yield running


def _read(web, name="deflate.tif", grid=GRID, **options):
    return raster_reader.read(
        f"{web.address}/{name}",
        options.pop("source", SOURCE),
        grid,
        **{"resampling": Resampling.nearest, "dtype": "uint16", "fill_value": 0, **options},
    )


@pytest.mark.parametrize(
    "name", ["deflate.tif", "none.tif", "lzw.tif", "zstd.tif", "cog.tif", "jp2.jp2"]
)
def test_a_remote_file_reads_like_a_local_one(web, name):
    assert np.array_equal(_read(web, name), VALUES)


def _once(fault, *, head):
    """Fail the first answer: for the file's beginning, or for anything else of it."""

    def script(path, start, count):
        return fault if count == 0 and (start == 0) == head else None

    return script


@pytest.mark.parametrize("name", ["deflate.tif", "none.tif", "lzw.tif"])
@pytest.mark.parametrize("where", ["header", "data"])
@pytest.mark.parametrize("fault", range_server.FAULTS)
def test_a_fault_is_healed_or_an_error(web, fault, where, name):
    web.script = _once(fault, head=where == "header")
    if fault == "redirect":
        with pytest.raises(AssetReadError, match="redirects to another host"):
            _read(web, name)
    else:
        assert np.array_equal(_read(web, name), VALUES)
    web.script = None
    web.forget()
    assert np.array_equal(_read(web, name), VALUES)
    assert web.requests == 2
    # ^ nothing remembers the failure


@pytest.mark.parametrize("fault", [fault for fault in range_server.FAULTS if fault != "whole"])
def test_a_fault_that_stays_is_an_error(web, fault):
    web.script = lambda path, start, count: fault
    with pytest.raises(AssetReadError, match=r"^S: http://127.*deflate\.tif cannot be read \("):
        _read(web)
    assert web.requests <= 25


def test_what_is_not_there_is_not_asked_for_long(web):
    with pytest.raises(AssetReadError, match="HTTP 404, 2 attempt"):
        _read(web, "gone.tif")
    assert web.requests == 2


@pytest.mark.parametrize("size", [9, 200, 400, 700, 900, 1500, 4000])
def test_a_file_that_is_said_to_be_short_never_has_empty_blocks(web, monkeypatch, size):
    """A block index that is cut off would read as blocks that were never written."""
    monkeypatch.setattr(http_ranges, "HEADER_BYTES", 2 * size)
    web.script = _once("shrunk", head=True)
    assert np.array_equal(_read(web, "none.tif"), VALUES)


def test_no_more_requests_than_plain_windows(web):
    web.forget()
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(f"{web.address}/cog.tif") as file,
    ):
        file.read(1)
    plain = web.requests
    web.forget()
    _read(web, "cog.tif")
    assert web.requests <= plain


def test_many_threads_read_what_one_reads_within_the_providers_limit(web):
    parts = [
        GRID.window(row=row, column=column, height=90, width=110)
        for row in range(0, 200, 30)
        for column in range(0, 180, 40)
    ]
    serial = [_read(web, grid=part) for part in parts]
    web.latency = 0.01
    provider_connections.divide_connections(8)
    try:
        assert provider_connections.max_connections("demo") == 4
        web.forget()
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda part: _read(web, grid=part), parts))
    finally:
        provider_connections.divide_connections(1)
    assert all(map(np.array_equal, found, serial))
    assert 2 <= web.most <= 4


def test_a_server_that_asks_for_time_gets_it(web):
    web.script = _once("429", head=True)
    web.retry_after = "1"
    _read(web)
    assert 0.9 < web.times[1] - web.times[0] < 3
    web.forget()
    web.script = _once("503", head=True)
    web.retry_after = "9999"
    with pytest.raises(AssetReadError, match="Retry-After is 9999 s"):
        _read(web)


def test_the_time_of_a_read_is_bounded(web, monkeypatch):
    monkeypatch.setattr(
        http_ranges,
        "RETRY_POLICY",
        dataclasses.replace(http_ranges.RETRY_POLICY, max_attempts=99, deadline=0.8),
    )
    web.script = lambda path, start, count: "stall"
    started = time.monotonic()
    with pytest.raises(AssetReadError, match="cannot be read"):
        _read(web)
    assert time.monotonic() - started < 3


class _Signer:
    """Hands out numbered tokens; the first one has expired."""

    def __init__(self, monkeypatch):
        self.number = 1
        monkeypatch.setattr(signing, "sign_with_options", self.access)
        monkeypatch.setattr(signing, "forget_token", self.forget)

    def access(self, href, provider):
        return signing.SignedHref(f"{href}?{SECRET}-{self.number}")

    def forget(self, href):
        self.number += 1


def test_a_token_that_has_expired_is_replaced_once(web, monkeypatch):
    signer = _Signer(monkeypatch)
    web.script = _once("403", head=True)
    assert np.array_equal(_read(web), VALUES)
    assert web.queries == [f"{SECRET}-1", f"{SECRET}-2", f"{SECRET}-2"]
    web.script = lambda path, start, count: "403"
    with pytest.raises(AssetReadError, match="HTTP 403, 2 attempt"):
        _read(web)
    assert signer.number == 4


@pytest.mark.parametrize("fault", [None, *range_server.FAULTS])
def test_no_token_is_left_in_logs_and_errors(web, monkeypatch, caplog, fault):
    _Signer(monkeypatch)
    monkeypatch.setattr(
        http_ranges,
        "RETRY_POLICY",
        dataclasses.replace(http_ranges.RETRY_POLICY, max_attempts=2, timeout=(0.1, 0.1)),
    )
    caplog.set_level(logging.DEBUG, logger="")
    web.script = lambda path, start, count: fault
    said = ""
    try:
        _read(web)
    except AssetReadError:
        said = traceback.format_exc()
    assert any(SECRET in query for query in web.queries)
    assert "127.0.0.1" in caplog.text
    assert "canary" not in caplog.text + said


def test_no_token_is_in_a_graph(web, monkeypatch, folder):
    _Signer(monkeypatch)
    local = small_worlds.asset(folder / "deflate.tif", "B02", small_worlds.REFLECTANCE, 0.0)
    scene = small_worlds.scene("S", "S2L2A", {"B02": local})
    asset: Asset = dataclasses.replace(local, href=f"{web.address}/deflate.tif")
    far = dataclasses.replace(scene, provider="demo", assets={"B02": asset})
    lazy = cube.load([far], ["B02"], GRID, stored=True)
    assert b"canary" not in pickle.dumps(dict(lazy.__dask_graph__()))
    assert np.array_equal(lazy.values[0, 0], VALUES)
    assert SECRET in web.queries[0]


def test_remote_scenes_have_more_readers_than_cores(web, folder):
    local = small_worlds.asset(folder / "deflate.tif", "B02", small_worlds.REFLECTANCE, 0.0)
    near = small_worlds.scene("S", "S2L2A", {"B02": local})
    asset = dataclasses.replace(local, href=f"{web.address}/deflate.tif")
    far = dataclasses.replace(near, provider="cdse", assets={"B02": asset})
    assert raster_reader.count_read_threads([near], 2) == 2
    assert (
        raster_reader.count_read_threads([near, dataclasses.replace(far, provider="demo")], 2) == 16
    )
    assert raster_reader.count_read_threads([far], 2) == 4
    assert raster_reader.count_read_threads([], 0) == 1


@pytest.mark.parametrize("fault", [None, "404", "503", "short", "reset"])
@pytest.mark.parametrize("request_", [1, 2])
def test_a_bucket_is_read_by_gdal_and_healed_all_the_same(
    web, folder, monkeypatch, fault, request_
):
    for name, value in {
        "AWS_S3_ENDPOINT": web.address.removeprefix("http://"),
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(raster_reader.S3_OPTIONS, "GDAL_HTTP_MAX_RETRY", 0)
    name = f"{fault}-{request_}.tif"
    (folder / "bucket" / name).write_bytes((folder / "deflate.tif").read_bytes())
    web.script = lambda path, start, count: fault if web.requests == request_ else None
    found = raster_reader.read(
        f"s3://bucket/{name}",
        SOURCE,
        GRID,
        resampling=Resampling.nearest,
        dtype="uint16",
        fill_value=0,
    )
    assert np.array_equal(found, VALUES)
    assert web.most <= 1 + (fault == "reset")
    # ^ who breaks a connection may still be at it when the next request is there


def test_a_block_under_many_blocks_of_the_lattice_comes_once(tmp_path, monkeypatch):
    """GDAL forgets what it has read whenever a warped view is closed."""
    values = np.random.default_rng(3).normal(500, 50, (300, 300)).astype(np.float32)
    path = small_worlds.raster(tmp_path / "dem.tif", values, resolution=30.0, epsg=32632)
    ((left,), (top,)) = warp.transform(
        "EPSG:32632",
        f"EPSG:{small_worlds.EPSG}",
        [small_worlds.LEFT + 1500],
        [small_worlds.TOP - 1500],
    )
    grid = dataclasses.replace(
        GRID, left=round(left, -1), top=round(top, -1), height=700, width=700
    )
    options = {"resampling": Resampling.bilinear, "dtype": "float32", "fill_value": np.nan}
    expected = raster_reader.read(str(path), SOURCE, grid, **options)
    assert np.isfinite(expected).all()
    sent = []
    with range_server.serving(tmp_path) as web:
        for kept in (http_ranges.MAX_CACHED_BYTES, 30_000, 0):
            monkeypatch.setattr(http_ranges, "MAX_CACHED_BYTES", kept)
            web.forget()
            found = _read(web, "dem.tif", grid, **options)
            assert np.array_equal(found, expected, equal_nan=True)
            sent.append(web.sent)
    assert sent[0] < 1.2 * path.stat().st_size < sent[1] < sent[2]
