"""Read objects of other packages in a pickle as inert records: their values, and no code.

A checkpoint of TerraTorch may hold more than tensors and plain values: descriptions of auxiliary
heads, members of the enumeration of bands, paths, losses. None of them is needed to build the model
but the names of bands. They are read by torch's restricted unpickler (`weights_only=True`), with an
empty class in place of each of theirs, so that nothing of their packages is imported or called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

_T = TypeVar("_T")

_DATA_MODULES = (
    *("argparse", "collections", "datetime", "decimal", "enum", "fractions", "pathlib"),
    *("types", "uuid"),
)
# ^ modules of the standard library whose classes hold values; the others can run programs, and a
#   file that names them is refused

_CLASS_NAMES = {"terratorch.models.model.AuxiliaryHead": "Auxiliary"}
# ^ digests of fine-tuned models cover the names of classes, and this one was written otherwise


class InertObject:
    """Stand-in for an object of another package."""

    arguments: tuple[Any, ...]
    """What the object was made with."""

    state: object
    """Its attributes."""

    def __new__(cls, *arguments: object, **_: object) -> Self:
        """Keep the arguments."""
        instance = object.__new__(cls)
        instance.arguments, instance.state = arguments, None
        return instance

    def __init__(self, *_: object, **__: object) -> None:
        """Do nothing with the arguments, which are kept already."""

    def __setstate__(self, state: object) -> None:
        """Keep the attributes."""
        self.state = state

    @property
    def plain_value(self) -> str | Mapping[str, Any] | None:
        """The text of a member of an enumeration, such as a band, or the values of a namespace.

        None for any other object.
        """
        if type(self).__name__ == "Namespace" and isinstance(self.state, Mapping):
            return self.state
        is_text = len(self.arguments) == 1 and isinstance(self.arguments[0], str)
        return self.arguments[0] if is_text and self.state is None else None


def read_inert(path: str | Path, read: Callable[[], _T]) -> _T:
    """Return what `read` returns, with the objects of other packages in the file as inert records.

    Args:
        path: of the file that `read` reads with `torch.load(weights_only=True)`.
        read: called once.
    """
    import torch  # noqa: PLC0415

    # ^ not needed to tell inert objects from others

    with torch.serialization.safe_globals([(_stand_in(name), name) for name in _list_names(path)]):
        return read()


def _list_names(path: str | Path) -> list[str]:
    """Return the full names of the classes that a file needs and that can stay inert."""
    import torch  # noqa: PLC0415

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # noqa: BLE001
        return []
        # ^ absent, damaged or not a pickle: reading it says which
    return [name for name in names if _is_inert(name)]


def _is_inert(name: str) -> bool:
    module = name.partition(".")[0]
    is_standard = module in sys.stdlib_module_names or module == "builtins"
    return not is_standard or module in _DATA_MODULES


def _stand_in(name: str) -> type[InertObject]:
    return type(_CLASS_NAMES.get(name, name.rpartition(".")[2]), (InertObject,), {})
