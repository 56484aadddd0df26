"""Providers: catalogs and their conventions, one YAML table each, built in or a user's own."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs.errors import InvalidInputError

if TYPE_CHECKING:
    from catalogs.providers.schema import Provider as Provider
    from catalogs.providers.schema import ProviderCollection as ProviderCollection

_YAML_FOLDER = Path(__file__).parent


@lru_cache(maxsize=1)
def list_names() -> tuple[str, ...]:
    """Return the names of the built-in providers, without reading their tables."""
    return tuple(sorted(path.stem for path in _YAML_FOLDER.glob("*.yaml")))


def is_yaml_path(provider: str) -> bool:
    """Return whether a provider is given as the path of a table rather than by its name."""
    return provider.lower().endswith((".yaml", ".yml"))


def get(provider: str) -> Provider:
    """Return the provider of a name, or the one of a provider table.

    Args:
        provider: Name of a built-in provider, or path of a YAML file.

    Raises:
        InvalidInputError: The name is unknown, or the file is no provider table.
    """
    if is_yaml_path(provider):
        try:
            modified = Path(provider).stat().st_mtime_ns
        except OSError as error:
            raise InvalidInputError(
                f"The provider table {provider} cannot be read: {error}."
            ) from error
        return _load_custom(provider, modified)
    if provider not in list_names():
        raise InvalidInputError(
            f"Unknown catalog {provider!r}: use one of {', '.join(list_names())}, name a catalog "
            "file as {path: catalog.json, provider: planetary-computer}, or write a provider table "
            "of your own (docs/providers.md)."
        )
    return _load_builtin(provider)


@cache
def _load_builtin(name: str) -> Provider:
    return read(_YAML_FOLDER / f"{name}.yaml").model_copy(update={"file": None})


@lru_cache(maxsize=64)
def _load_custom(path: str, modified: int) -> Provider:
    del modified
    # ^ a part of the cache key only: an edited table is read again
    return read(path)


def read(path: Path | str) -> Provider:
    """Read a provider table.

    Args:
        path: A YAML file; the provider is named like the file without its suffix.

    Raises:
        InvalidInputError: It is missing, no YAML, or no valid table.
    """
    import yaml  # noqa: PLC0415
    from pydantic import ValidationError  # noqa: PLC0415

    from catalogs.providers.schema import Provider  # noqa: PLC0415
    from catalogs.strict_yaml import StrictLoader  # noqa: PLC0415

    # ^ these four imports take half a second, which most commands do not need

    file = Path(path).resolve()
    try:
        values = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=StrictLoader)  # noqa: S506
        # ^ StrictLoader is a SafeLoader
        if not isinstance(values, dict):
            raise InvalidInputError(f"{file} is no provider table, but a {type(values).__name__}.")
        if not values.keys().isdisjoint({"name", "file"}):
            raise InvalidInputError(
                f"{file}: the keys name and file are not allowed, as a provider is named like its "
                "file. See docs/providers.md."
            )
        return Provider.model_validate({**values, "name": file.stem, "file": str(file)})
    except ValidationError as error:
        raise InvalidInputError(
            f"{file}: {'; '.join(map(_format_error, error.errors()))}. See docs/providers.md."
        ) from error
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInputError(f"{file} cannot be read as a provider table: {error}.") from error


def find_collection(
    provider: Provider, collection: str | None, modality: str
) -> ProviderCollection | None:
    """Return the collection of an id and modality, or None where the provider has none.

    Without an id, the only collection of the modality is returned, if there is exactly one.
    """
    candidates = {
        name: entry
        for name, entry in provider.collections_by_id.items()
        if entry.modality == modality
    }
    if collection is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    return candidates.get(collection) if isinstance(collection, str) else None


def parse_baseline(baseline: str | None) -> tuple[int, int] | None:
    """Return a baseline such as "05.10", "N0510" or "4.0" as numbers; None for other text."""
    match = re.fullmatch(r"N?(\d{1,2})\.?(\d{1,2})", baseline or "", flags=re.ASCII)
    return None if match is None else (int(match[1]), int(match[2]))


def _format_error(error: Any) -> str:
    key = ".".join(str(step) for step in error["loc"])
    reason = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"the key {key} is missing"
    return f"{key} {error['input']!r:.80}: {reason}" if key else reason
