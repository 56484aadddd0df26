"""Let GDAL open files that Python reads, through a rasterio opener.

Each opener that rasterio registers changes GDAL's table of file systems, which other threads read
without a lock (GDAL 3.10, ``VSIFileManager``). So one opener is registered once and stays
registered, and every remote file is a name in it. rasterio keeps its openers in a context variable:
a file must be opened in a copy of the context in which the opener was registered.
"""

from __future__ import annotations

import atexit
import contextvars
import functools
import io
import logging
import re
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

_OPENER_PATH = re.compile(
    r"[`'\"]/vsiriopener[^\s'\"]*['\"]|/vsiriopener[^\s'\":,]*|\b[0-9a-f]{32}\.\w+\b"
)
# ^ some messages have the path, quoted or not, and others the last part of it


def name_file(message: str, name: str = "the file") -> str:
    """Replace the paths of the opener in a message of GDAL by a name that users know."""
    return _OPENER_PATH.sub(name, message)


class _PathFilter(logging.Filter):
    """Replaces the paths of the opener in what rasterio logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = name_file(record.getMessage()), ()
        return True


for _logger in ("rasterio._base", "rasterio._env", "rasterio._err", "rasterio._vsiopener"):
    logging.getLogger(_logger).addFilter(_PathFilter())


class ByteSource(Protocol):
    """A file of known size that is read by byte ranges."""

    size: int

    def read(self, start: int, count: int) -> bytes:
        """Read ``count`` bytes from ``start``; fewer at the end of the file."""
        ...

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        """Read several ranges."""
        ...


def call_with_path(file: ByteSource, suffix: str, function: Callable[[str], T]) -> T:
    """Call a function with a path under which GDAL can open a file.

    Args:
        file: the file; it is read by this thread only.
        suffix: suffix of the path, such as ``.tif``.
        function: opens the path, reads, and closes it before it returns.

    Returns:
        What ``function`` returns.

    Raises:
        Exception: the error that reading the file raised, even if ``function`` returned: a driver
            may treat bytes that could not be read as an empty block.
    """
    files, context, prefix = _get_opener()
    source = _ErrorCapturingSource(file)
    name = f"{uuid.uuid4().hex}{suffix}"
    files.open_files[name] = source
    try:
        result = context.copy().run(cancellation.with_cancellation(function), f"{prefix}/{name}")
    except Exception:
        if source.error is not None:
            raise source.error from None
        raise
    finally:
        del files.open_files[name]
    if source.error is not None:
        raise source.error
    return result


class _ErrorCapturingSource:
    """A byte source that stores the first error: an exception cannot pass through GDAL."""

    def __init__(self, file: ByteSource) -> None:
        self.size = file.size
        self.error: Exception | None = None
        self._file = file

    def read(self, start: int, count: int) -> bytes:
        return self._capture_error(lambda: self._file.read(start, count)) or b""

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        ranges = self._capture_error(lambda: self._file.read_ranges(starts, counts))
        return ranges or [bytes(count) for count in counts]
        # ^ these zeros are never used: call_with_path raises the stored error

    def _capture_error(self, function: Callable[[], T]) -> T | None:
        if self.error is None:
            try:
                return function()
            except Exception as error:  # noqa: BLE001
                # ^ GDAL would lose it: call_with_path raises it after the call
                self.error = error
        return None


class _FileHandle(io.RawIOBase):
    """An open file with its own read position."""

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
    """The open files by name, with the methods of ``rasterio.abc.FileContainer``."""

    def __init__(self) -> None:
        self.open_files: dict[str, ByteSource] = {}

    def _lookup(self, path: str) -> ByteSource:
        name = PurePosixPath(path).name
        if name not in self.open_files:
            raise FileNotFoundError(name)
            # ^ GDAL also asks for side-car files
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
    """A byte source in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read(self, start: int, count: int) -> bytes:
        return self._data[start : start + count]

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        return [self.read(start, count) for start, count in zip(starts, counts, strict=True)]


_lock = threading.Lock()


def _get_opener() -> tuple[_FileContainer, contextvars.Context, str]:
    with _lock:
        return _register_opener()


@functools.cache
def _register_opener() -> tuple[_FileContainer, contextvars.Context, str]:
    """Register the opener, and keep it registered by keeping one small raster open.

    Returns:
        The open files, the context of the registration, and the path prefix of the opener.
    """
    files, context = _FileContainer(), contextvars.Context()
    with MemoryFile() as memory:
        options = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint8"}
        with memory.open(**options, transform=rasterio.Affine.scale(2)) as raster:
            raster.write(np.ones((1, 1, 1), np.uint8))
        files.open_files["anchor.tif"] = _InMemorySource(memory.read())
    anchor = context.run(rasterio.open, "anchor.tif", driver="GTiff", opener=files, sharing=False)
    atexit.register(context.run, anchor.close)
    return files, context, anchor.name.removesuffix("/anchor.tif")
