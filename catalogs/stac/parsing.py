"""Reading values of STAC documents that may be malformed."""

from __future__ import annotations

import math
import reprlib
from typing import TYPE_CHECKING, Any

import shapely

from catalogs.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

MALFORMED_ITEM_ERRORS = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError),
    shapely.errors.ShapelyError,
)
"""Exceptions that are raised while a document of unexpected form is read."""


class UnusableItemError(InvalidInputError):
    """An item that cannot become a scene; the message is the reason, a clause without a stop."""


def parse_number(value: object, label: str, *, finite: bool = True) -> float:
    """Return a JSON number, or a number written as a string ("nan", "-0.1").

    Args:
        value: The value as it stands in the document.
        label: What the value is, for the error message.
        finite: Whether infinity and NaN are refused.

    Raises:
        UnusableItemError: It is no number, or not finite where it must be.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = None
        if number is not None and (math.isfinite(number) or not finite):
            return number
    raise UnusableItemError(f"its {label} is {format_value(value)}, which is no number")


def format_value(value: object) -> str:
    """Return a value of a document for a message: at most 63 printable ASCII characters."""
    text = ascii(value) if isinstance(value, str) else reprlib.repr(value)
    # ^ reprlib limits the depth: a list that is nested a thousand times has a repr, too
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:60]}..."


def get_list(values: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list under a key; an empty list where there is none."""
    value = values.get(key)
    return value if isinstance(value, list) else []
