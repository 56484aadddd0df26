"""Our byte ranges as files that GDAL opens, through rasterio's openers.

Each opener that rasterio is given changes GDAL's table of file systems, which other threads read
without a lock (GDAL 3.10, ``VSIFileManager``). So one opener is registered once and kept, and every
remote file is a name in it. rasterio keeps its openers in a context variable: whoever opens a file
must run in a copy of the context in which ours was registered.
"""

from __future__ import annotations

import atexit
import contextvars
import functools
import io
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np
import rasterio
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.io import MemoryFile

from pipeline.runtime import cancellation

T = TypeVar("T")


class ByteSource(Protocol):
    """What can be read as if it were a file."""

    size: int

    def read(self, start: int, count: int) -> bytes:
        """Return bytes from a place; fewer where the file ends."""
        ...

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        """Return several ranges."""
        ...


def call_with_path(file: ByteSource, suffix: str, function: Callable[[str], T]) -> T:
    """Return what work makes of the path under which GDAL finds a file meanwhile.

    Args:
        file: what to read; by this thread only.
        suffix: of the path, such as ``.tif``.
        function: opens the path, and closes it.

    Raises:
        Exception: what reading the file has raised, whatever work made of it: a driver may take
            bytes that it did not get for nothing to read.
    """
    files, context, prefix = _get_opener()
    watched = _ErrorCapturingSource(file)
    name = f"{uuid.uuid4().hex}{suffix}"
    files.open_files[name] = watched
    try:
        result = context.copy().run(cancellation.with_cancellation(function), f"{prefix}/{name}")
    except Exception:
        if watched.error is not None:
            raise watched.error from None
        raise
    finally:
        del files.open_files[name]
    if watched.error is not None:
        raise watched.error
    return result


class _ErrorCapturingSource:
    """Bytes whose failures are kept: an exception cannot pass through GDAL."""

    def __init__(self, file: ByteSource) -> None:
        self.size = file.size
        self.error: Exception | None = None
        self._file = file

    def read(self, start: int, count: int) -> bytes:
        return self._capture_error(lambda: self._file.read(start, count)) or b""

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        found = self._capture_error(lambda: self._file.read_ranges(starts, counts))
        return found or [bytes(count) for count in counts]
        # ^ nobody sees these zeros: the failure is raised in the end

    def _capture_error(self, function: Callable[[], T]) -> T | None:
        if self.error is None:
            try:
                return function()
            except Exception as error:  # noqa: BLE001
                self.error = error
        return None


class _FileHandle(io.RawIOBase):
    """One opening of a file, with a place of its own."""

    def __init__(self, file: ByteSource) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self._file.size)[whence] + offset
        return self._position

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._position, self._file.size if count < 0 else count)
        self._position += len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        return self._file.read_ranges(offsets, sizes)


class _FileContainer:
    """The open files by name, as rasterio wants them (``rasterio.abc.FileContainer``)."""

    def __init__(self) -> None:
        self.open_files: dict[str, ByteSource] = {}

    def _lookup(self, path: str) -> ByteSource:
        name = PurePosixPath(path).name
        if name not in self.open_files:
            raise FileNotFoundError(name)
            # ^ GDAL looks for side-car files
        return self.open_files[name]

    def open(self, path: str, mode: str = "rb", **_options: Any) -> _FileHandle:
        del mode
        return _FileHandle(self._lookup(path))

    def isfile(self, path: str) -> bool:
        return PurePosixPath(path).name in self.open_files

    def isdir(self, path: str) -> bool:
        del path
        return False

    def ls(self, path: str) -> list[str]:
        del path
        return []

    def mtime(self, path: str) -> int:
        del path
        return 0

    def rm(self, path: str) -> None:
        raise PermissionError(path)

    def size(self, path: str) -> int:
        return self._lookup(path).size


MultiByteRangeResourceContainer.register(_FileContainer)


class _InMemorySource:
    """Bytes at hand."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read(self, start: int, count: int) -> bytes:
        return self._data[start : start + count]

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        return [self.read(*one) for one in zip(starts, counts, strict=True)]


_lock = threading.Lock()


def _get_opener() -> tuple[_FileContainer, contextvars.Context, str]:
    with _lock:
        return _register_opener()


@functools.cache
def _register_opener() -> tuple[_FileContainer, contextvars.Context, str]:
    """Open one small raster for good: as long as it is open, its opener stays registered."""
    files, context = _FileContainer(), contextvars.Context()
    with MemoryFile() as memory:
        options = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint8"}
        with memory.open(**options, transform=rasterio.Affine.scale(2)) as raster:
            raster.write(np.ones((1, 1, 1), np.uint8))
        files.open_files["anchor.tif"] = _InMemorySource(memory.read())
    anchor = context.run(rasterio.open, "anchor.tif", driver="GTiff", opener=files, sharing=False)
    atexit.register(context.run, anchor.close)
    return files, context, anchor.name.removesuffix("/anchor.tif")
