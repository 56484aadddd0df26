"""Statistics in a job: means and standard deviations of a model's inputs."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from catalogs.sensors import SENSORS
from flows.config import validation_messages, yaml_file
from flows.config.base import (
    ConfigModel,
    LaxTuple,
    check_choice,
    check_unique,
    resolve_existing_file,
)
from model.errors import ModelError
from model.predictor.input_statistics import StatisticsUnit, list_units
from model.terramind import modalities

_OTHER_MODALITIES = tuple(
    name
    for name in (*modalities.RASTER_MODALITIES, *modalities.TOKEN_MODALITIES)
    if name not in SENSORS
)
# ^ modalities of TerraMind that a job cannot give; a file of statistics may have them too


class InputStatistics(ConfigModel):
    """Mean and standard deviation of one input, one number per band in the model's order."""

    mean: Annotated[tuple[float, ...], LaxTuple] = Field(
        title="Means", min_length=1, description="a list of numbers, one per band"
    )
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], LaxTuple] = Field(
        title="Standard deviations",
        min_length=1,
        description="a list of numbers above 0, one per band",
    )

    bands: Annotated[tuple[str, ...], LaxTuple] | None = Field(
        title="Bands of the numbers",
        default=None,
        min_length=1,
        description="a list of names of bands, where not the model's in its order",
    )
    unit: StatisticsUnit | None = Field(
        title="Unit of the numbers",
        default=None,
        description="DN or reflectance (Sentinel-2), dB (Sentinel-1) or m (DEM), where it is not "
        "evident",
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> InputStatistics:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means but {len(self.std)} standard deviations.")
        if self.bands is not None and len(self.bands) != len(self.mean):
            raise ValueError(f"{len(self.bands)} bands but {len(self.mean)} means.")
        return self

    @field_validator("bands")
    @classmethod
    def _check_unique_bands(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else check_unique(value)

    def to_mapping(self) -> dict[str, Any]:
        """Return what is stated, as JSON types."""
        values = {"mean": list(self.mean), "std": list(self.std)}
        bands = {} if self.bands is None else {"bands": list(self.bands)}
        return {**values, **bands, **({} if self.unit is None else {"unit": self.unit})}


def read_statistics(value: Any, info: ValidationInfo) -> Any:
    """Return input → statistics as they are written in the job, or in the file that it names.

    Raises:
        ValueError: There is no such file, an input is unknown, or it has no such unit or band.
    """
    values = value
    if isinstance(value, str):
        values = yaml_file.read(resolve_existing_file(value, info))
        values = {name: entry for name, entry in values.items() if name not in _OTHER_MODALITIES}
    for name, entry in values.items() if isinstance(values, dict) else ():
        check_choice(name, tuple(SENSORS), "input")
        if isinstance(entry, dict):
            _check_unit(name, entry.get("unit"))
            _check_bands(name, entry.get("bands"))
    return values


def _check_unit(name: str, unit: object) -> None:
    if unit is not None:
        check_choice(unit, list_units(name), f"unit of {name}")


def _check_bands(name: str, bands: object) -> None:
    modality = modalities.get_raster_modality(name)
    names = tuple(dict.fromkeys((*modality.bands, *modality.aliases)))
    for band in bands if isinstance(bands, list | tuple) else ():
        try:
            modality.band_index(band if isinstance(band, str) else "")
        except ModelError as error:
            product_name = f"B{band:0>2}" if re.fullmatch("[0-9]{1,2}", str(band)) else str(band)
            hint = validation_messages.suggest_name(product_name, names)
            raise ValueError(
                f"unknown band of {name} {band!r}.{hint} Known: {', '.join(names)}."
            ) from error
