"""Section ``output`` of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from flows.config.base import ConfigModel, LaxTuple, check_choice, check_unique, resolve_path

OUTPUT_FORMATS = ("cog", "zarr")
"""File formats of a product."""


class Output(ConfigModel):
    """Destination and content of the product."""

    path: str = Field(title="Folder of all products", default="out", description="a folder")
    formats: Annotated[tuple[str, ...], LaxTuple] = Field(
        title="File formats of the layers",
        default=OUTPUT_FORMATS,
        min_length=1,
        description="a list out of cog and zarr",
    )
    probabilities: bool = Field(
        title="Whether the probability of every class is stored",
        default=False,
        description="true or false",
    )
    composites: bool = Field(
        title="Whether the composites are stored", default=False, description="true or false"
    )

    @field_validator("path", mode="before")
    @classmethod
    def _resolve_output_path(cls, value: Any, info: ValidationInfo) -> str:
        if isinstance(value, str) and "://" in value:
            raise ValueError(
                f"{value!r} is a URL; output can only be written to a local folder. Give the path "
                "of one, for example of a mounted bucket."
            )
        path = resolve_path(value, info)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; the output must be a folder.")
        return str(path)

    @field_validator("formats")
    @classmethod
    def _check_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_unique(tuple(check_choice(name, OUTPUT_FORMATS, "format") for name in value))

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.path)
