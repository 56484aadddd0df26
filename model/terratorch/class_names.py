"""Names of the classes of a fine-tuned model: from its checkpoint, its training and its user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import ModelError, join_names
from model.terratorch.datamodule import Training

_LISTED = 20
# ^ names that a message lists


class UnreadableNamesError(ModelError):
    """A file states names of classes in a form that is not read."""


def find_class_names(
    arguments: Mapping[str, Any], training: Training | None = None
) -> tuple[str, ...] | None:
    """Return the names that a checkpoint or its training states; None where neither does.

    Args:
        arguments: hyper-parameters of the checkpoint, as :func:`read_task_arguments` returns them.
        training: the configuration of `terratorch fit`; names are read from its `model` section,
            else from its data module.

    Raises:
        UnreadableNamesError: the names are no list of texts.
        ModelError: the checkpoint and its training contradict.
    """
    stored = _parse_names(arguments.get("class_names"), "the checkpoint")
    configured = None if training is None else _read_training(training)
    if training and stored and configured and stored != configured:
        raise ModelError(
            f"the checkpoint has the classes {join_names(stored, _LISTED)}, but {training.path} "
            f"has {join_names(configured, _LISTED)}: give the configuration of the "
            "training that wrote this checkpoint"
        )
    return stored or configured


def choose_class_names(
    stated: Sequence[str] | None, stored: Sequence[str] | None, num_classes: int
) -> tuple[str, ...]:
    """Return the names of a model's classes: the stated ones, else those of its files.

    Other names than those of the files are accepted, as they rename the classes; the same names in
    another order are a mistake.

    Args:
        stated: what the user states.
        stored: what :func:`find_class_names` returned.
        num_classes: number of the model's classes.

    Raises:
        ModelError: there are no names, another number of them, or names at another place.
    """
    names = stored if stated is None else stated
    if names is None:
        raise ModelError(
            f"the model has {num_classes} classes, and neither the checkpoint nor its training "
            "names them: add `classes:` with their names, in the order of the model's output"
        )
    if len(names) != num_classes:
        origin = "the checkpoint or its training" if stated is None else "classes:"
        raise ModelError(
            f"{len(names)} class names for a model of {num_classes} classes: {origin} has "
            f"{join_names(names, _LISTED)}"
        )
    moved = [
        name
        for index, name in enumerate(names)
        if stored is not None
        and _fold(name) in map(_fold, stored)
        and (index >= len(stored) or _fold(stored[index]) != _fold(name))
    ]
    if moved and stored is not None:
        raise ModelError(
            f"classes: {join_names(moved, _LISTED)} at another place than in the checkpoint or its "
            f"training, whose order is {join_names(stored, _LISTED)}: write them in this order, or "
            "remove `classes:`"
        )
    return tuple(names)


def find_ignored_class(arguments: Mapping[str, Any], num_classes: int) -> int | None:
    """Return the index of the class that the training ignored; None where there is none.

    An `ignore_index` beyond the classes, usually -1 or 255, marks labels without a class.
    """
    index = arguments.get("ignore_index")
    is_class = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < num_classes
    return index if is_class else None


def _read_training(training: Training) -> tuple[str, ...] | None:
    names = _parse_names(training.task.get("class_names"), training.path)
    return names or _parse_names(training.data.get("class_names"), training.path)


def _parse_names(names: object, origin: str | Path) -> tuple[str, ...] | None:
    """Return names, those of a mapping in the order of the indices that are its keys.

    Whole numbers are names, too; a truth value stands for a word that YAML has not kept, as No.
    """
    if names is None:
        return None
    entries = names
    if isinstance(names, Mapping):
        by_index = {str(key): name for key, name in names.items()}
        entries = [by_index.get(str(index)) for index in range(len(by_index))]
    if not isinstance(entries, (list, tuple)) or not all(map(_is_name, entries)):
        value = repr(names) if isinstance(names, (list, tuple, Mapping)) else "an object"
        raise UnreadableNamesError(
            f"{origin}: class_names must be a list of texts, not {value}. State the names in the "
            "order of the model's output: classes: [name, name]"
        )
    return tuple(map(str, entries))


def _is_name(name: object) -> bool:
    return isinstance(name, (str, int)) and not isinstance(name, bool)


def _fold(name: str) -> str:
    return name.strip().casefold()
