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
    """An asset that could not be read after all retries."""

    def __init__(self, fact: str, advice: str = "") -> None:
        """Build the error.

        Args:
            fact: what could not be read and why, a sentence.
            advice: what to do next; empty if the fact says it.
        """
        super().__init__(f"{fact} {advice}".strip())
        self.fact = fact
