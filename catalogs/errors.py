"""The exceptions of terramosaic, by what the caller can do about them."""

from __future__ import annotations


class TerramosaicError(Exception):
    """Base of all errors that are reported as one message, without a traceback."""


class InvalidInputError(TerramosaicError):
    """An error in the job or in the data: running it again cannot help."""


class NothingFoundError(InvalidInputError):
    """A valid request for which the catalog holds nothing."""


class TransientError(TerramosaicError):
    """A failure of a server or a network that may be over at the next attempt."""


class AssetReadError(TerramosaicError):
    """An asset that could not be read after all retries; a later attempt may succeed."""


class UnreadableAssetError(AssetReadError, InvalidInputError):
    """An asset that is not there, or is no raster that can be decoded: no attempt can read it."""
