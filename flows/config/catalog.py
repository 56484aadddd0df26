"""Section ``catalog`` and list ``allow`` of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from catalogs import href_policy, providers
from catalogs.errors import InvalidInputError
from catalogs.sources import static_catalog
from flows.config.base import (
    ConfigModel,
    check_choice,
    resolve_existing_file,
    resolve_path,
)


def _resolve_catalog_path(value: object, info: ValidationInfo) -> Path:
    path = resolve_path(value, info)
    if not path.is_dir():
        return resolve_existing_file(value, info)
    try:
        return Path(static_catalog.resolve_location(str(path)))
    except InvalidInputError as error:
        raise ValueError(str(error)) from error


class Catalog(ConfigModel):
    """The STAC catalog that is searched."""

    provider: str = Field(
        title="Whose conventions of collections, bands and radiometry the catalog follows",
        description=f"{', '.join(providers.list_names())}, or the path of a YAML file that "
        "describes another (docs/providers.md)",
        examples=["planetary-computer"],
    )
    path: Annotated[Path, BeforeValidator(_resolve_catalog_path)] | None = Field(
        title="A static catalog on disk",
        default=None,
        description="the path of a static catalog's JSON file, or of its folder",
    )
    url: str | None = Field(
        title="A static catalog or a STAC API on the web; by default the provider's own API",
        default=None,
        description="an https:// address",
        pattern=r"^https?://",
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_provider_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if providers.is_yaml_path(value):
            return {"provider": value}
        if "/" in value or value.endswith(".json"):
            key = "url" if "://" in value else "path"
            raise ValueError(
                f"name the provider whose conventions {value!r} follows: "
                f"{{{key}: {value}, provider: NAME}}, NAME one of "
                f"{', '.join(providers.list_names())}, or the path of your own provider file "
                "(docs/providers.md)."
            )
        return {"provider": value}

    @field_validator("provider")
    @classmethod
    def _check_provider(cls, value: str, info: ValidationInfo) -> str:
        if not providers.is_yaml_path(value):
            return check_choice(
                value, providers.list_names(), "catalog provider", extra_choices=", or a .yaml file"
            )
        path = str(resolve_existing_file(value, info))
        try:
            providers.get(path)
        except InvalidInputError as error:
            raise ValueError(str(error)) from error
        return path

    @model_validator(mode="after")
    def _check_location(self) -> Catalog:
        if self.path is not None and self.url is not None:
            raise ValueError("give path or url, not both.")
        if self.location is None and providers.get(self.provider).api is None:
            raise ValueError(
                f"{self.provider!r} has no API address: "
                f"write {{path: catalog.json, provider: {self.provider}}}."
            )
        return self

    @property
    def location(self) -> str | None:
        """Return the catalog's path or URL; ``None`` = the provider's own API."""
        return str(self.path) if self.path is not None else self.url


def resolve_location(text: str, info: ValidationInfo) -> str:
    """Return an absolute folder, a host or a bucket of the ``allow`` list.

    Raises:
        ValueError: The text is neither an existing folder nor a host.
    """
    if href_policy.is_remote(text):
        return text.rstrip("/")
    folder = resolve_path(text, info)
    if folder.is_dir():
        return str(folder)
    host = href_policy.parse_host(text)
    if host is not None and "." in host.strip("."):
        return host
    raise ValueError(f"{text!r} is neither a host nor a folder that exists ({folder}).")
