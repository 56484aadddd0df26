"""Compile loops over pixels to machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compile_loop(function: Loop) -> Loop:
    """Compile a function at its first call with arrays of a type; it releases Python's lock.

    The machine code is kept beside the module, in the user's cache folder or in the folder that
    NUMBA_CACHE_DIR names, and compiled again in each process where none of these can be written.
    https://numba.readthedocs.io/en/stable/user/jit.html#cache
    """
    try:
        return cast("Loop", njit(nogil=True, cache=True)(function))
    except RuntimeError:
        return cast("Loop", njit(nogil=True)(function))
