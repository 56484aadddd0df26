"""A store in memory, for tests."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TextIO

import rasterio
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore as ZarrMemoryStore

from pipeline.runtime.lock import FolderLockedError
from pipeline.storage.store import ObjectInfo, check_name


@dataclass(slots=True)
class _Memory:
    """The objects of a :class:`MemoryStore` and of all its children."""

    guard: threading.RLock = field(default_factory=threading.RLock)
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Name → bytes and time of the last write."""

    locks: set[str] = field(default_factory=set)
    """Prefixes of the folders whose lock is held."""

    gdal_files: dict[str, tuple[bytes, Any]] = field(default_factory=dict)
    """Name → bytes that GDAL sees, and the file in GDAL's memory."""


@dataclass(frozen=True, slots=True)
class MemoryStore:
    """A store in the memory of this process, for tests; threads may share it."""

    memory: _Memory = field(default_factory=_Memory)
    prefix: str = ""
    """Empty, or ends with ``/``."""

    @property
    def location(self) -> str:
        """Return a URI for messages; nothing can be opened by it."""
        return f"memory://store/{self.prefix}".rstrip("/")

    @property
    def name(self) -> str:
        """Return the last part of the location."""
        return self.location.rpartition("/")[2]

    def child(self, name: str) -> MemoryStore:
        """Return the store of a folder inside this one."""
        return MemoryStore(self.memory, f"{self.prefix}{check_name(name)}/")

    def parent(self) -> MemoryStore:
        """Return the store of the folder that holds this one.

        Raises:
            ValueError: this store is the root.
        """
        if not self.prefix:
            raise ValueError("The root of a store in memory has no parent.")
        folder = self.prefix.rstrip("/").rpartition("/")[0]
        return MemoryStore(self.memory, f"{folder}/" if folder else "")

    def read(self, name: str) -> bytes:
        """Return the bytes of an object."""
        with self.memory.guard:
            entry = self.memory.objects.get(self._key(name))
        if entry is None:
            raise FileNotFoundError(f"{self.location}/{name}")
        return entry[0]

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""
        with self.memory.guard:
            self.memory.objects[self._key(name)] = (bytes(data), time.time())

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless one of that name exists."""
        with self.memory.guard:
            if self._key(name) in self.memory.objects:
                return False
            self.write(name, data)
            return True

    def open_append(self, name: str) -> TextIO:
        """Open an object to append lines; they are stored when the stream is flushed or closed."""
        return _Appender(self, name)

    def exists(self, name: str = "") -> bool:
        """Return whether there is an object, or a folder with objects, of that name."""
        folder = f"{self._key(name)}/" if name else self.prefix
        with self.memory.guard:
            is_object = bool(name) and self._key(name) in self.memory.objects
            return is_object or any(key.startswith(folder) for key in self.memory.objects)

    def info(self, name: str) -> ObjectInfo | None:
        """Return size and age of an object; None where there is none."""
        with self.memory.guard:
            entry = self.memory.objects.get(self._key(name))
        return None if entry is None else ObjectInfo(size=len(entry[0]), modified=entry[1])

    def sha256(self, name: str) -> str:
        """Return the hexadecimal SHA-256 of an object."""
        return hashlib.sha256(self.read(name)).hexdigest()

    def glob(self, pattern: str) -> list[str]:
        """Return the names of objects that match, sorted."""
        parts = check_name(pattern).split("/")
        return [name for name in self._names() if _matches(name.split("/"), parts)]

    def delete(self, name: str) -> None:
        """Delete an object."""
        with self.memory.guard:
            self.memory.objects.pop(self._key(name), None)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock for a ``with`` block."""
        with self.memory.guard:
            if self.prefix in self.memory.locks:
                raise FolderLockedError(
                    f"Another run (process {os.getpid()}) is at work in {self.location}."
                )
            self.memory.locks.add(self.prefix)
        try:
            yield
        finally:
            with self.memory.guard:
                self.memory.locks.discard(self.prefix)

    @contextmanager
    def temporary_directory(self) -> Iterator[Path]:
        """Create a local directory of the system; it is deleted at the end of the block."""
        with tempfile.TemporaryDirectory(prefix="terramosaic-") as directory:
            yield Path(directory)

    def adopt(self, source: Path, name: str) -> None:
        """Read a local file, or all files of a directory, into the store, and delete them."""
        if source.is_file():
            self.write(name, source.read_bytes())
            source.unlink()
            return
        files = [path for path in source.rglob("*") if path.is_file()]
        with self.memory.guard:
            for path in files:
                self.write(f"{name}/{path.relative_to(source).as_posix()}", path.read_bytes())
        shutil.rmtree(source)

    def sync(self, names: Sequence[str]) -> None:
        """Check that the objects exist; memory needs no sync."""
        for name in names:
            self.read(name)

    def remove_leftovers(self) -> int:
        """Return 0: there are no leftovers."""
        return 0

    def gdal_path(self, name: str) -> str:
        """Return the name of a copy in GDAL's own memory (``/vsimem/``)."""
        data, key = self.read(name), self._key(name)
        with self.memory.guard:
            known = self.memory.gdal_files.get(key)
            if known is None or known[0] is not data:
                filename = name.rpartition("/")[2]
                file = rasterio.MemoryFile(data, dirname=uuid.uuid4().hex, filename=filename)
                self.memory.gdal_files[key] = known = (data, file)
            return str(known[1].name)

    def zarr_store(self) -> ZarrStore:
        """Return a zarr store whose keys are objects of this folder."""
        return ZarrMemoryStore(_ZarrObjects(self))

    def _names(self) -> list[str]:
        with self.memory.guard:
            names = [name for name in self.memory.objects if name.startswith(self.prefix)]
        return sorted(name.removeprefix(self.prefix) for name in names)

    def _key(self, name: str) -> str:
        return f"{self.prefix}{check_name(name)}"


class _Appender(io.StringIO):
    """A stream whose text is appended to an object."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        super().__init__()
        self._store, self._name = store, name
        self._before = store.read(name) if store.exists(name) else b""

    def flush(self) -> None:
        """Store all text written so far."""
        self._store.write(self._name, self._before + self.getvalue().encode())

    def close(self) -> None:
        """Store the text, and close the stream."""
        if not self.closed:
            self.flush()
        super().close()


@dataclass(frozen=True, slots=True)
class _ZarrObjects(MutableMapping[str, Buffer]):
    """The objects of a memory store as zarr's own memory store holds them."""

    store: MemoryStore

    def __getitem__(self, key: str) -> Buffer:
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            raise KeyError(key) from None
        return default_buffer_prototype().buffer.from_bytes(data)

    def __setitem__(self, key: str, value: Buffer) -> None:
        self.store.write(key, value.to_bytes())

    def __delitem__(self, key: str) -> None:
        if self.store.info(key) is None:
            raise KeyError(key)
        self.store.delete(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.glob("**/*"))

    def __len__(self) -> int:
        return len(self.store.glob("**/*"))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a name match those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
