"""The catalogs we know: one short YAML each, of the same form as a user's own."""

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
    """Return the names of the catalogs that come with terramosaic, without reading them."""
    return tuple(sorted(path.stem for path in _YAML_FOLDER.glob("*.yaml")))


def is_yaml_path(provider: str) -> bool:
    """Return whether a provider is named by the path of a table rather than by its name."""
    return provider.lower().endswith((".yaml", ".yml"))


def get(provider: str) -> Provider:
    """Return the provider of that name, or the one that a YAML file describes.

    Raises:
        InvalidInputError: There is none, or the file is no table of a provider.
    """
    if is_yaml_path(provider):
        try:
            changed = Path(provider).stat().st_mtime_ns
        except OSError as error:
            raise InvalidInputError(
                f"{provider}, the table of a catalog, cannot be read: {error}."
            ) from error
        return _load_custom(provider, changed)
    if provider not in list_names():
        raise InvalidInputError(
            f"Unknown catalog {provider!r}: use one of {', '.join(list_names())}, name a catalog file "
            "as {path: catalog.json, provider: planetary-computer}, or write a table of your own "
            "(docs/providers.md)."
        )
    return _load_builtin(provider)


@cache
def _load_builtin(name: str) -> Provider:
    return read(_YAML_FOLDER / f"{name}.yaml").model_copy(update={"file": None})


@lru_cache(maxsize=64)
def _load_custom(path: str, modified: int) -> Provider:
    del modified
    # ^ part of the key alone: a table that was edited is read again
    return read(path)


def read(path: Path | str) -> Provider:
    """Return the provider that a YAML file describes.

    Raises:
        InvalidInputError: It is missing, no YAML, or says something that cannot be.
    """
    import yaml  # noqa: PLC0415
    from pydantic import ValidationError  # noqa: PLC0415

    from catalogs.providers.schema import Provider  # noqa: PLC0415

    # ^ half a second that no other command has to pay

    file = Path(path).resolve()
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise InvalidInputError(f"{file} is no table of a catalog but {type(values).__name__}.")
        if not values.keys().isdisjoint({"name", "file"}):
            raise InvalidInputError(
                f"{file}: the keys name and file have no place in a table, which is named as its "
                "file. See docs/providers.md."
            )
        return Provider.model_validate({**values, "name": file.stem, "file": str(file)})
    except ValidationError as error:
        raise InvalidInputError(
            f"{file}: {'; '.join(map(_format_error, error.errors()))}. See docs/providers.md."
        ) from (error)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInputError(
            f"{file} cannot be read as the table of a catalog: {error}."
        ) from error


def find_collection(
    provider: Provider, collection: str | None, modality: str
) -> ProviderCollection | None:
    """Return what is known of a collection, or None where it does not hold that modality.

    An item that names no collection is taken for one of the only collection that does.
    """
    candidates = {
        name: one for name, one in provider.collections_by_id.items() if one.modality == modality
    }
    if collection is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    return candidates.get(collection) if isinstance(collection, str) else None


def parse_baseline(baseline: str | None) -> tuple[int, int] | None:
    """Return a baseline such as "05.10", "N0510" or "4.0" as numbers; None where it is none."""
    found = re.fullmatch(r"N?(\d{1,2})\.?(\d{1,2})", baseline or "", flags=re.ASCII)
    return None if found is None else (int(found[1]), int(found[2]))


def _format_error(error: Any) -> str:
    where = ".".join(str(step) for step in error["loc"])
    what = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"the key {where} is missing"
    return f"{where} {error['input']!r:.80}: {what}" if where else what
