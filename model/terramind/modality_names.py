"""Modalities as a caller declares them, resolved to official keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model.errors import ModelError, join_names
from model.terramind.modalities import (
    RASTER_MODALITIES,
    TARGET_MODALITIES,
    TOKEN_MODALITIES,
    find_modality_key,
    get_target_modality,
)

ModalityDeclaration = str | Mapping[str, int]
"""The name of a modality, or {new name: number of channels}."""


def resolve_modality_keys(modalities: Sequence[ModalityDeclaration]) -> dict[str, str]:
    """Return the official key of each input modality, by the name it is declared with.

    A new modality's key is its name.

    Raises:
        ModelError: no modality, an unknown one, or one twice.
    """
    known = join_names([*RASTER_MODALITIES, *TOKEN_MODALITIES], 9)
    if isinstance(modalities, str) or not modalities:
        raise ModelError(f"give a list of modalities; known are {known}")
    keys: dict[str, str] = {}
    for declaration in modalities:
        for name in [declaration] if isinstance(declaration, str) else declaration:
            key = find_modality_key(name) if isinstance(declaration, str) else name
            if key is None:
                raise ModelError(
                    f"unknown modality {name!r}; known are {known}, or {{name: channels}} for a "
                    "new one"
                )
            if name in keys or key in keys.values() or "." in key:
                raise ModelError(f"modality {name!r} is declared twice or holds a dot")
            keys[name] = key
    return keys


def new_modality_channels(modalities: Sequence[ModalityDeclaration]) -> dict[str, int]:
    """Return the number of channels of each new modality, by name.

    Raises:
        ModelError: not a positive whole number.
    """
    channels: dict[str, int] = {}
    for declaration in modalities:
        if isinstance(declaration, Mapping):
            channels.update(declaration)
    for name, count in channels.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ModelError(f"{name}: the number of channels must be positive, not {count!r}")
    return channels


def resolve_output_keys(outputs: Sequence[str]) -> dict[str, str]:
    """Return the official key of each generated modality, by the name it is declared with.

    Raises:
        ModelError: no output, one that cannot be generated, or one twice.
    """
    if isinstance(outputs, str) or not outputs:
        raise ModelError(f"give a list of outputs, of {join_names(TARGET_MODALITIES, 9)}")
    keys = {name: get_target_modality(name).key for name in outputs}
    if len(set(keys.values())) < len(outputs):
        raise ModelError(f"outputs {join_names(outputs)}: one is declared twice")
    return keys
