"""The contract of stores: the same tests for a local folder and for a store in memory."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr

from catalogs.errors import InvalidInputError
from pipeline.runtime import atomic_files
from pipeline.runtime.lock import FolderLockedError
from pipeline.storage import store as stores
from pipeline.storage.memory_store import MemoryStore
from pipeline.storage.store import LocalStore


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return LocalStore(tmp_path / "out") if request.param == "local" else MemoryStore()


def test_an_object_is_read_as_it_was_written(store):
    store.write("a/b/c.bin", b"first")
    store.write("a/b/c.bin", b"second")
    assert store.read("a/b/c.bin") == b"second"
    assert store.info("a/b/c.bin").size == 6
    assert store.sha256("a/b/c.bin") == hashlib.sha256(b"second").hexdigest()
    assert store.child("a").child("b").read("c.bin") == b"second"
    assert store.read("./a/b/c.bin") == b"second"
    assert store.child("a/b").name == "b"
    assert store.child("a/b").parent() == store.child("a")
    assert store.child("a").parent() == store
    assert store.child("a/b").location == f"{store.location}/a/b"


def test_missing_objects(store):
    assert not store.exists()
    assert not store.exists("a")
    assert store.info("a") is None
    assert store.glob("**/*") == []
    store.delete("a")
    for read in (store.read, store.sha256):
        with pytest.raises(FileNotFoundError):
            read("a")


def test_folders_exist_with_their_objects(store):
    store.write("a/b.json", b"{}")
    assert store.exists()
    assert store.exists("a")
    assert store.exists("a/b.json")
    assert not store.exists("a/b")
    assert store.info("a") is None
    store.delete("a/b.json")
    assert not store.exists("a/b.json")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b"])
def test_names_cannot_lead_out_of_the_folder(store, name):
    for method in (store.read, store.child, store.glob, store.delete, store.info):
        with pytest.raises(ValueError, match="no name of an object"):
            method(name)


def test_names_are_matched_by_patterns(store):
    names = ["item.json", "p/item.json", "p/q/plan.json", "p/q/receipts/r0.json", "p/q/x.tif"]
    for name in reversed(names):
        store.write(name, b"")
    assert store.glob("**/*") == sorted(names)
    assert store.glob("*") == ["item.json"]
    assert store.glob("*/item.json") == ["p/item.json"]
    assert store.glob("**/item.json") == ["item.json", "p/item.json"]
    assert store.glob("*/*/plan.json") == ["p/q/plan.json"]
    assert store.child("p/q").glob("receipts/*.json") == ["receipts/r0.json"]


def test_only_one_of_many_writers_creates_an_object(store):
    barrier = threading.Barrier(8)

    def create(number):
        barrier.wait()
        return store.create("a/first", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert store.read("a/first") == str(created.index(True)).encode()
    assert store.glob("**/*") == ["a/first"]


def test_lines_are_appended(store):
    for line in ("first", "zweite: ä"):
        with store.open_append("plan/run.log") as log:
            log.write(f"{line}\n")
            log.flush()
            assert store.read("plan/run.log").decode().endswith(f"{line}\n")
    assert store.read("plan/run.log").decode() == "first\nzweite: ä\n"


def test_json_is_utf8_and_holds_no_nan(store):
    stores.write_json(store, "a.json", {"area": "Århus"})
    assert store.read("a.json").decode() == '{\n  "area": "Århus"\n}\n'
    assert stores.read_json(store, "a.json") == {"area": "Århus"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        stores.write_json(store, "a.json", {"share": float("nan")})
    assert stores.read_json(store, "a.json") == {"area": "Århus"}


def test_the_lock_is_exclusive(store):
    with (
        store.lock(),
        pytest.raises(FolderLockedError, match="Another run"),
        store.lock(),
    ):
        pass
    with store.lock(), store.child("a").lock():
        pass


def test_files_and_directories_are_moved_into_the_store(store):
    with store.temporary_directory() as directory:
        (directory / "one.tif").write_bytes(b"one")
        store.adopt(directory / "one.tif", "cogs/one.tif")
        (directory / "tree" / "c").mkdir(parents=True)
        (directory / "tree" / "zarr.json").write_bytes(b"{}")
        (directory / "tree" / "c" / "0").write_bytes(b"0")
        assert store.glob("**/*") == ["cogs/one.tif"]
        # ^ unfinished files are not objects
        store.adopt(directory / "tree", "cube.zarr")
    assert not directory.exists()
    assert store.glob("**/*") == ["cogs/one.tif", "cube.zarr/c/0", "cube.zarr/zarr.json"]
    assert store.read("cogs/one.tif") == b"one"


def test_gdal_opens_objects(store):
    values = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    for round_number in range(2):
        with store.temporary_directory() as directory:
            profile = {"driver": "GTiff", "width": 4, "height": 3, "count": 1, "dtype": "uint8"}
            transform = rasterio.transform.from_origin(0, 0, 10, 10)
            with rasterio.open(directory / "x.tif", "w", transform=transform, **profile) as file:
                file.write(values + round_number)
            store.adopt(directory / "x.tif", "x.tif")
        with rasterio.open(store.gdal_path("x.tif")) as source:
            assert np.array_equal(source.read(), values + round_number)


def test_zarr_opens_folders(store):
    group = zarr.create_group(store.child("cube.zarr").zarr_store(), zarr_format=3)
    array = group.create_array("band", shape=(4, 4), chunks=(2, 2), dtype="uint8")
    array[:] = 7
    store.sync(["cube.zarr/band/c/0/0"])
    assert store.exists("cube.zarr/band/c/1/1")
    reopened = zarr.open_group(store.child("cube.zarr").zarr_store(), mode="r")
    assert (reopened["band"][:] == 7).all()
    store.delete("cube.zarr/band/c/0/0")
    assert reopened["band"][:2, :2].sum() == 0


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    store = LocalStore(tmp_path)
    leftover = tmp_path / "deep" / f"{atomic_files.TEMP_PREFIX}x"
    leftover.mkdir(parents=True)
    (leftover / "item.json").write_bytes(b"half")
    assert store.glob("**/item.json") == []
    assert store.remove_leftovers() == 1
    assert not leftover.exists()
    assert MemoryStore().remove_leftovers() == 0


def test_a_dead_process_holds_no_lock(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from pipeline.storage.store import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).lock():\n    os._exit(3)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=root, check=False, timeout=60).returncode == 3
    with LocalStore(tmp_path).lock():
        pass


def test_a_location_is_a_store_or_a_local_path(tmp_path):
    memory = MemoryStore()
    assert stores.open_store(memory) is memory
    assert stores.open_store(tmp_path) == stores.open_store(str(tmp_path)) == LocalStore(tmp_path)
    with pytest.raises(InvalidInputError, match="only be written to a local folder"):
        stores.open_store("s3://bucket/products")
