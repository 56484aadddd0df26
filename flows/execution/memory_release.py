"""Return of freed memory to the operating system, which glibc otherwise delays."""

from __future__ import annotations

import ctypes
import functools

M_MMAP_THRESHOLD = -3
MMAP_THRESHOLD_BYTES = 2**22
"""Size, bytes, from which an array is returned to the system as soon as it is freed."""


@functools.cache
def _load_glibc() -> ctypes.CDLL | None:
    """Load glibc and fix its mmap threshold; return None on other systems.

    glibc raises the threshold dynamically, and then keeps ever larger arrays in the heaps of its
    threads, so that a process grows from tile to tile:
    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    except (OSError, AttributeError):
        return None
    return library


def trim_heap() -> None:
    """Return free heap memory to the system, and from now on large arrays when they are freed."""
    library = _load_glibc()
    if library is not None:
        library.malloc_trim(0)
