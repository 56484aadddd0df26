"""Remote reads: the requested pixels, or an error, however the server fails."""

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
    asset_opener,
    cube,
    http_connections,
    http_ranges,
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
# ^ two by two blocks of nodata: zeros that are not failed reads
SOURCE = asset_opener.AssetInfo(scene_id="S", provider="demo", nodata=0.0)
SECRET = "sig=canary-4711"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("remote")
    source = small_worlds.raster(directory / "deflate.tif", VALUES)
    for compress in ("none", "lzw", "zstd"):
        copy(
            source,
            directory / f"{compress}.tif",
            driver="GTiff",
            compress=compress,
            tiled=True,
            blockxsize=64,
            blockysize=64,
        )
    copy(source, directory / "cog.tif", driver="COG", compress="deflate", blocksize=128)
    options = {"QUALITY": 100, "REVERSIBLE": "YES"}
    copy(source, directory / "jp2.jp2", driver="JP2OpenJPEG", **options)
    (directory / "bucket").mkdir()
    (directory / "bucket" / "deflate.tif").write_bytes(source.read_bytes())
    return directory


@pytest.fixture
def file_server(folder, monkeypatch):
    short_policy = dataclasses.replace(
        http_ranges.RETRY_POLICY,
        backoff=0.002,
        timeout=(0.3, 0.3),
        deadline=20.0,
        max_retry_after=2.0,
    )
    monkeypatch.setattr(http_ranges, "RETRY_POLICY", short_policy)
    with range_server.serving(folder, stall=0.5) as running_server:
        yield running_server


def _read(file_server, name="deflate.tif", grid=GRID, **options):
    return raster_reader.read(
        f"{file_server.address}/{name}",
        options.pop("source", SOURCE),
        grid,
        **{"resampling": Resampling.nearest, "dtype": "uint16", "fill_value": 0, **options},
    )


@pytest.mark.parametrize(
    "name", ["deflate.tif", "none.tif", "lzw.tif", "zstd.tif", "cog.tif", "jp2.jp2"]
)
def test_a_remote_file_reads_like_a_local_one(file_server, name):
    assert np.array_equal(_read(file_server, name), VALUES)


def _fail_first_request(fault, *, head):
    """Return a script that fails the first response for the head or the rest of a file."""

    def script(path, start, count):
        return fault if count == 0 and (start == 0) == head else None

    return script


@pytest.mark.parametrize("name", ["deflate.tif", "none.tif", "lzw.tif"])
@pytest.mark.parametrize("part", ["header", "data"])
@pytest.mark.parametrize("fault", range_server.FAULTS)
def test_a_transient_fault_is_retried_or_an_error(file_server, fault, part, name):
    file_server.script = _fail_first_request(fault, head=part == "header")
    if fault == "redirect":
        with pytest.raises(AssetReadError, match="redirects to another host"):
            _read(file_server, name)
    else:
        assert np.array_equal(_read(file_server, name), VALUES)
    file_server.script = None
    file_server.reset_counts()
    assert np.array_equal(_read(file_server, name), VALUES)
    assert file_server.requests == 2
    # ^ the failure is not remembered


@pytest.mark.parametrize("fault", [fault for fault in range_server.FAULTS if fault != "whole"])
def test_a_permanent_fault_is_an_error(file_server, fault):
    file_server.script = lambda path, start, count: fault
    with pytest.raises(AssetReadError, match=r"^S: http://127.*deflate\.tif cannot be read \("):
        _read(file_server)
    assert file_server.requests <= 25


def test_a_missing_file_is_not_retried_for_long(file_server):
    with pytest.raises(AssetReadError, match="HTTP 404, 2 attempt"):
        _read(file_server, "gone.tif")
    assert file_server.requests == 2


@pytest.mark.parametrize("size", [9, 200, 400, 700, 900, 1500, 4000])
def test_a_file_of_too_small_stated_size_is_read_completely(file_server, monkeypatch, size):
    """A truncated block index would be read as blocks that were never written."""
    monkeypatch.setattr(http_ranges, "HEADER_BYTES", 2 * size)
    file_server.script = _fail_first_request("shrunk", head=True)
    assert np.array_equal(_read(file_server, "none.tif"), VALUES)


def test_no_more_requests_are_sent_than_by_gdal(file_server):
    file_server.reset_counts()
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(f"{file_server.address}/cog.tif") as file,
    ):
        file.read(1)
    gdal_requests = file_server.requests
    file_server.reset_counts()
    _read(file_server, "cog.tif")
    assert file_server.requests <= gdal_requests


def test_parallel_reads_equal_serial_ones_within_the_provider_limit(file_server):
    parts = [
        GRID.window(row=row, column=column, height=90, width=110)
        for row in range(0, 200, 30)
        for column in range(0, 180, 40)
    ]
    expected = [_read(file_server, grid=part) for part in parts]
    file_server.latency = 0.01
    http_connections.divide_connections(8)
    try:
        assert http_connections.max_connections("demo") == 4
        file_server.reset_counts()
        with ThreadPoolExecutor(32) as pool:
            actual = list(pool.map(lambda part: _read(file_server, grid=part), parts))
    finally:
        http_connections.divide_connections(1)
    assert all(map(np.array_equal, actual, expected))
    assert 2 <= file_server.max_active <= 4


def test_retry_after_is_respected_up_to_a_limit(file_server):
    file_server.script = _fail_first_request("429", head=True)
    file_server.retry_after = "1"
    _read(file_server)
    assert 0.9 < file_server.times[1] - file_server.times[0] < 3
    file_server.reset_counts()
    file_server.script = _fail_first_request("503", head=True)
    file_server.retry_after = "9999"
    with pytest.raises(AssetReadError, match="Retry-After is 9999 s"):
        _read(file_server)


def test_the_duration_of_a_read_is_bounded(file_server, monkeypatch):
    monkeypatch.setattr(
        http_ranges,
        "RETRY_POLICY",
        dataclasses.replace(http_ranges.RETRY_POLICY, max_attempts=99, deadline=0.8),
    )
    file_server.script = lambda path, start, count: "stall"
    start_time = time.monotonic()
    with pytest.raises(AssetReadError, match="cannot be read"):
        _read(file_server)
    assert time.monotonic() - start_time < 3


class _Signer:
    """Issues numbered tokens, of which the first has expired."""

    def __init__(self, monkeypatch):
        self.number = 1
        monkeypatch.setattr(signing, "sign_with_options", self.access)
        monkeypatch.setattr(signing, "forget_token", self.forget)

    def access(self, href, provider):
        return signing.SignedHref(f"{href}?{SECRET}-{self.number}")

    def forget(self, href):
        self.number += 1


def test_an_expired_token_is_replaced_once(file_server, monkeypatch):
    signer = _Signer(monkeypatch)
    file_server.script = _fail_first_request("403", head=True)
    assert np.array_equal(_read(file_server), VALUES)
    assert file_server.queries == [f"{SECRET}-1", f"{SECRET}-2", f"{SECRET}-2"]
    file_server.script = lambda path, start, count: "403"
    with pytest.raises(AssetReadError, match="HTTP 403, 2 attempt"):
        _read(file_server)
    assert signer.number == 4


@pytest.mark.parametrize("fault", [None, *range_server.FAULTS])
def test_no_token_is_in_logs_or_errors(file_server, monkeypatch, caplog, fault):
    _Signer(monkeypatch)
    monkeypatch.setattr(
        http_ranges,
        "RETRY_POLICY",
        dataclasses.replace(http_ranges.RETRY_POLICY, max_attempts=2, timeout=(0.1, 0.1)),
    )
    caplog.set_level(logging.DEBUG, logger="")
    file_server.script = lambda path, start, count: fault
    error_text = ""
    try:
        _read(file_server)
    except AssetReadError:
        error_text = traceback.format_exc()
    assert any(SECRET in query for query in file_server.queries)
    assert "127.0.0.1" in caplog.text
    assert "canary" not in caplog.text + error_text


def test_no_token_is_in_a_graph(file_server, monkeypatch, folder):
    _Signer(monkeypatch)
    local_asset = small_worlds.asset(folder / "deflate.tif", "B02", small_worlds.REFLECTANCE, 0.0)
    scene = small_worlds.scene("S", "S2L2A", {"B02": local_asset})
    asset: Asset = dataclasses.replace(local_asset, href=f"{file_server.address}/deflate.tif")
    remote_scene = dataclasses.replace(scene, provider="demo", assets={"B02": asset})
    array = cube.load([remote_scene], ["B02"], GRID, stored=True)
    assert b"canary" not in pickle.dumps(dict(array.__dask_graph__()))
    assert np.array_equal(array.values[0, 0], VALUES)
    assert SECRET in file_server.queries[0]


def test_remote_scenes_have_more_readers_than_cores(file_server, folder):
    local_asset = small_worlds.asset(folder / "deflate.tif", "B02", small_worlds.REFLECTANCE, 0.0)
    local_scene = small_worlds.scene("S", "S2L2A", {"B02": local_asset})
    asset = dataclasses.replace(local_asset, href=f"{file_server.address}/deflate.tif")
    remote_scene = dataclasses.replace(local_scene, provider="cdse", assets={"B02": asset})
    assert asset_opener.count_read_threads([local_scene], 2) == 2
    assert (
        asset_opener.count_read_threads(
            [local_scene, dataclasses.replace(remote_scene, provider="demo")], 2
        )
        == 16
    )
    assert asset_opener.count_read_threads([remote_scene], 2) == 4
    assert asset_opener.count_read_threads([], 0) == 1


@pytest.mark.parametrize("fault", [None, "404", "503", "short", "reset"])
@pytest.mark.parametrize("request_", [1, 2])
def test_a_bucket_is_read_by_gdal_and_retried(file_server, folder, monkeypatch, fault, request_):
    for name, value in {
        "AWS_S3_ENDPOINT": file_server.address.removeprefix("http://"),
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(asset_opener.S3_OPTIONS, "GDAL_HTTP_MAX_RETRY", 0)
    name = f"{fault}-{request_}.tif"
    (folder / "bucket" / name).write_bytes((folder / "deflate.tif").read_bytes())
    file_server.script = lambda path, start, count: (
        fault if file_server.requests == request_ else None
    )
    actual = raster_reader.read(
        f"s3://bucket/{name}",
        SOURCE,
        GRID,
        resampling=Resampling.nearest,
        dtype="uint16",
        fill_value=0,
    )
    assert np.array_equal(actual, VALUES)
    assert file_server.max_active <= 1 + (fault == "reset")
    # ^ a request whose connection was reset may still be running when the next one arrives


@pytest.mark.parametrize("kernel", [Resampling.average, Resampling.bilinear])
def test_a_block_under_many_blocks_of_the_grid_is_requested_once(tmp_path, monkeypatch, kernel):
    """GDAL, which averages, drops its block cache whenever a warped view is closed."""
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
    options = {"resampling": kernel, "dtype": "float32", "fill_value": np.nan}
    expected = raster_reader.read(str(path), SOURCE, grid, **options)
    assert np.isfinite(expected).all()
    sent_bytes = []
    with range_server.serving(tmp_path) as file_server:
        for cache_size in (http_ranges.MAX_CACHED_BYTES, 30_000, 0):
            monkeypatch.setattr(http_ranges, "MAX_CACHED_BYTES", cache_size)
            file_server.reset_counts()
            actual = _read(file_server, "dem.tif", grid, **options)
            assert np.array_equal(actual, expected, equal_nan=True)
            sent_bytes.append(file_server.sent)
    assert sent_bytes[0] < 1.2 * path.stat().st_size
    if kernel == Resampling.average:
        assert 1.2 * path.stat().st_size < sent_bytes[1] < sent_bytes[2]
    else:
        assert sent_bytes[1:] == sent_bytes[:1] * 2
