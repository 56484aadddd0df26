"""Parse options that come from a file, before anything is built from them.

An option that is not supported is refused by its name, because a model that ignored it would not
be the model that was trained. `owner` is the part of the model that an option belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from model.errors import ModelError, join_names

_T = TypeVar("_T")


def check_names(owner: str, values: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Check that the owner has all options.

    Raises:
        ModelError: it lacks some; the message names these and the known ones.
    """
    names = list(allowed)
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ModelError(
            f"{owner} does not take {join_names(unknown)}; it takes {join_names(names, 12)}"
        )


def parse_int(owner: str, name: str, value: object, minimum: int | None = 1) -> int:
    """Return a whole number, not below `minimum`.

    Raises:
        ModelError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"{owner}: {name} must be a whole number, not {value!r}")
    if minimum is not None and value < minimum:
        raise ModelError(f"{owner}: {name} must be at least {minimum}, not {value}")
    return value


def parse_ints(owner: str, name: str, value: object, minimum: int | None = 1) -> tuple[int, ...]:
    """Return a list of whole numbers, one or more.

    Raises:
        ModelError: anything else.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ModelError(f"{owner}: {name} must be a list of whole numbers, not {value!r}")
    return tuple(parse_int(owner, name, entry, minimum) for entry in value)


def parse_bool(owner: str, name: str, value: object) -> bool:
    """Return true or false.

    Raises:
        ModelError: anything else.
    """
    if not isinstance(value, bool):
        raise ModelError(f"{owner}: {name} must be true or false, not {value!r}")
    return value


def parse_choice(owner: str, name: str, value: object, choices: Mapping[Any, _T]) -> _T:
    """Return the meaning of a value.

    Raises:
        ModelError: the value is none of the choices.
    """
    for choice, meaning in choices.items():
        if type(choice) is type(value) and choice == value:
            # ^ 1 is not true here
            return meaning
    raise ModelError(f"{owner}: {name} {value!r} is not supported; {join_names(choices, 12)} are")


def parse_index(owner: str, name: str, value: object, count: int) -> int:
    """Return an index into a sequence of length `count`, counted from the front.

    Raises:
        ModelError: not a whole number, or outside -count..count-1.
    """
    index = parse_int(owner, name, value, None)
    if not -count <= index < count:
        raise ModelError(f"{owner}: {name} {index} is outside {-count}..{count - 1}")
    return index % count
