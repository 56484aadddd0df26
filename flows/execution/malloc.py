"""Memory that goes back to the system: by itself glibc keeps what large arrays have left."""

from __future__ import annotations

import ctypes
import functools

M_MMAP_THRESHOLD = -3
MMAP_THRESHOLD_BYTES = 2**22
"""Bytes of an array that goes back as soon as it is freed."""


@functools.cache
def _load_glibc() -> ctypes.CDLL | None:
    """Return glibc, told to keep no large arrays; None on other systems.

    Else it takes ever larger ones from heaps that it keeps, one for each thread, and a process
    grows from tile to tile: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    except (OSError, AttributeError):
        return None
    return library


def trim_heap() -> None:
    """Return what is free to the system, now and, where it is large, from now on."""
    library = _load_glibc()
    if library is not None:
        library.malloc_trim(0)
