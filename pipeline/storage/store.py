"""Access to everything under an output's path.

A :class:`Store` is a folder of objects with names such as ``2024-05-01_2024-09-30/item.json``. It
is kept in a local folder (:class:`LocalStore`) or, in tests, in memory
(:class:`pipeline.storage.memory_store.MemoryStore`). The rest of the program works with names and
bytes, and needs no renames, file locks or syncs of its own.

What every store guarantees:

- an object is whole under its name, or it is not there: no reader sees a part of it;
- what :meth:`Store.write`, :meth:`Store.create` and :meth:`Store.adopt` have written survives a
  crash of the machine once they have returned;
- :meth:`Store.create` succeeds for one of several writers of the same name;
- :meth:`Store.lock` is held by one process at a time, and released when that process ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from catalogs.errors import InvalidInputError
from pipeline.runtime import atomic_files, lock

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore
# ^ slow to import, and a run that finds its product finished does not need it


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """Size and age of an object."""

    size: int
    """Bytes."""

    modified: float
    """Time of the last write, seconds since 1970."""


class Store(Protocol):
    """A folder of objects; their names are relative to it, with ``/`` between the parts."""

    @property
    def location(self) -> str:
        """Return the path or URI of the folder, for messages."""

    @property
    def name(self) -> str:
        """Return the last part of the location."""

    def child(self, name: str) -> Store:
        """Return the store of a folder inside this one; it need not exist."""

    def parent(self) -> Store:
        """Return the store of the folder that holds this one."""

    def read(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def write(self, name: str, data: bytes) -> None:
        """Write an object, whole or not at all; replace the one that exists."""

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless one of that name exists; return whether it was written."""

    def open_append(self, name: str) -> TextIO:
        """Open an object to append UTF-8 lines, as a log does; other readers may see it grow."""

    def exists(self, name: str = "") -> bool:
        """Return whether there is an object, or a folder with objects, of that name."""

    def info(self, name: str) -> ObjectInfo | None:
        """Return size and age of an object; None where there is none."""

    def sha256(self, name: str) -> str:
        """Return the hexadecimal SHA-256 of an object.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def glob(self, pattern: str) -> list[str]:
        """Return the names of objects that match, sorted.

        Args:
            pattern: as of ``fnmatch``, part by part; ``**`` stands for any number of parts.
        """

    def delete(self, name: str) -> None:
        """Delete an object; nothing happens where there is none."""

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder's lock for a ``with`` block.

        Raises:
            FolderLockedError: it is held already.
        """

    def temporary_directory(self) -> AbstractContextManager[Path]:
        """Create a local directory for unfinished files; it is deleted at the end of the block."""

    def adopt(self, source: Path, name: str) -> None:
        """Move a local file, or a directory, from a temporary directory of this store into it.

        A file replaces the object of that name; of a directory all files become objects. The name
        appears when all of it has been written.
        """

    def sync(self, names: Sequence[str]) -> None:
        """Make objects durable that were written past this store, by zarr."""

    def remove_leftovers(self) -> int:
        """Delete what killed writers left behind; return the number of leftovers.

        Call it only while holding the lock: the files of a running writer look alike.
        """

    def gdal_path(self, name: str) -> str:
        """Return a file name under which GDAL opens an object."""

    def zarr_store(self) -> ZarrStore | Path:
        """Return what zarr opens as the group of this folder."""


StoreLike = Store | str | os.PathLike[str]
"""A store, or the path of a local folder."""


def open_store(location: StoreLike) -> Store:
    """Return the store at a location.

    Raises:
        InvalidInputError: it is the URL of a kind of storage that is not supported.
    """
    if not isinstance(location, str | os.PathLike):
        return location
    text = os.fspath(location)
    if "://" in text:
        raise InvalidInputError(
            f"{text} is a URL; output can only be written to a local folder. Give a path, for "
            "example of a mounted bucket."
        )
    return LocalStore(Path(text))


def write_json(store: Store, name: str, value: Mapping[str, Any]) -> None:
    """Write a mapping as an object of indented UTF-8 JSON.

    Raises:
        ValueError: a value is NaN or infinite, which JSON does not have.
    """
    store.write(name, atomic_files.encode_json(value))


def read_json(store: Store, name: str) -> Any:
    """Read an object of JSON.

    Raises:
        FileNotFoundError: there is no such object.
        ValueError: it is not JSON.
    """
    return json.loads(store.read(name).decode("utf-8"))


# -- a local folder -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A local folder, or one on a network file system with atomic renames and ``flock``."""

    root: Path

    @property
    def location(self) -> str:
        """Return the path of the folder."""
        return str(self.root)

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return self.root.name

    def child(self, name: str) -> LocalStore:
        """Return the store of a folder inside this one; it need not exist."""
        return LocalStore(self.root / check_name(name))

    def parent(self) -> LocalStore:
        """Return the store of the folder that holds this one."""
        return LocalStore(self.root.parent)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return self._path(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a file under a temporary name, sync it, and rename it."""
        atomic_files.write_atomic(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file under a temporary name, sync it, and link it unless the name exists."""
        path = self._path(name)
        with atomic_files.temporary_directory(path.parent) as directory:
            draft = directory / path.name
            draft.write_bytes(data)
            atomic_files.fsync(draft)
            try:
                os.link(draft, path)
            except FileExistsError:
                return False
        atomic_files.fsync(path.parent)
        return True

    def open_append(self, name: str) -> TextIO:
        """Open a file to append UTF-8 lines."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")

    def exists(self, name: str = "") -> bool:
        """Return whether there is a file or folder of that name."""
        return (self._path(name) if name else self.root).exists()

    def info(self, name: str) -> ObjectInfo | None:
        """Return size and age of a file; None where there is none."""
        path = self._path(name)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(size=status.st_size, modified=status.st_mtime) if path.is_file() else None

    def sha256(self, name: str) -> str:
        """Return the hexadecimal SHA-256 of a file, read in blocks."""
        return atomic_files.sha256(self._path(name))

    def glob(self, pattern: str) -> list[str]:
        """Return the names of files that match, sorted; unfinished files are left out."""
        names = (
            path.relative_to(self.root).as_posix()
            for path in self.root.glob(check_name(pattern))
            if path.is_file()
        )
        return sorted(name for name in names if not _is_temporary(name))

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens where there is none."""
        self._path(name).unlink(missing_ok=True)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder's lock; see :func:`pipeline.runtime.lock.acquire`."""
        return lock.acquire(self.root)

    def temporary_directory(self) -> AbstractContextManager[Path]:
        """Create a hidden directory inside the folder; it is deleted at the end of the block."""
        return atomic_files.temporary_directory(self.root)

    def adopt(self, source: Path, name: str) -> None:
        """Sync a file or directory and rename it; both lie on one file system."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.move_into_place(source, path)

    def sync(self, names: Sequence[str]) -> None:
        """Force files onto the disk."""
        for name in names:
            atomic_files.fsync(self._path(name))

    def remove_leftovers(self) -> int:
        """Delete the temporary directories of killed writers; return their number."""
        return atomic_files.remove_leftovers(self.root)

    def gdal_path(self, name: str) -> str:
        """Return the path of a file."""
        return str(self._path(name))

    def zarr_store(self) -> Path:
        """Return the path of the folder."""
        return self.root

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)


def check_name(name: str) -> str:
    """Return a name, or raise ValueError for one that is empty or leaves the folder."""
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is no name of an object: it is empty or leaves the folder.")
    return name.removeprefix("./")


def _is_temporary(name: str) -> bool:
    return any(part.startswith(atomic_files.TEMP_PREFIX) for part in name.split("/"))
