"""The errors of terramosaic, sorted by what the caller can do about them."""

from __future__ import annotations


class TerramosaicError(Exception):
    """Any failure that is reported in one clear message, without a traceback."""

    exit_code = 1


class InvalidInputError(TerramosaicError):
    """The request or the data are wrong: trying again cannot help."""

    exit_code = 2


class NothingFoundError(InvalidInputError):
    """The request is sound, and nothing answers it."""

    exit_code = 3


class TransientError(TerramosaicError):
    """A failure outside of us that may be gone at the next attempt."""


class AssetReadError(TerramosaicError):
    """An asset could not be read although it was asked for again and again."""
