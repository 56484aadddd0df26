"""Sensors: one record for each modality that can be an input, with all facts about it.

A new sensor is one entry of :data:`SENSORS`, and the collections of the provider tables that hold
it (see docs/providers.md).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from catalogs.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Group = Literal["optical", "radar", "elevation"]

GROUPS: tuple[Group, ...] = ("optical", "radar", "elevation")
"""Groups in order of precedence: the first one present aligns grids and counts observations."""

DN = "1e-4"
"""Unit of optical composites: ten-thousandths of reflectance."""

POWER = "m2 m-2"
"""Unit of radar composites: backscattered power per area, linear."""

DECIBEL = "dB"
"""Unit of radar values in the model's inputs, and nowhere before."""

METRE = "m"
"""Unit of elevation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFlag:
    """One bit of the layer ``inputs_used``; sensors of one mission share it."""

    bit: int
    """Value of the bit: a power of two. 8 is reserved for inputs that a model generated."""

    name: str
    """Identifier, in the form of STAC's classification extension."""

    title: str
    """Name in descriptions."""

    def __post_init__(self) -> None:
        if self.bit not in (1, 2, 4, 16, 32, 64, 128):
            raise ValueError(
                f"The bit of {self.name} is 1, 2, 4, 16, 32, 64 or 128, not {self.bit}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A licence or legal notice that products made of an input carry as a link."""

    title: str
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """The facts about one modality: bands, units, storage, and how its scenes are handled."""

    name: str
    """Name of the modality, as jobs and provider tables write it."""

    group: Group
    """How its scenes are selected, composited and checked."""

    title: str
    """Title of its layers."""

    quantity: str
    """What its bands measure, for descriptions."""

    standard_name: str | None = None
    """Name of the quantity in CF's table of standard names; None where it has none."""

    default_bands: tuple[str, ...]
    """Bands that are used where the job names none, in the order of the model's bands."""

    optional_bands: tuple[str, ...] = ()
    """Bands that a job can name in addition."""

    mask_bands: tuple[str, ...] = ()
    """Bands that classify pixels rather than measure: SCL, scene classes; CLD, percent of cloud."""

    unit: str
    """Unit of its composites: DN, POWER or METRE."""

    model_unit: str
    """Unit of the model's inputs: DN (the word), dB or m."""

    input_flag: InputFlag
    """Its bit of the layer ``inputs_used``."""

    notice: Notice | None = None
    """What a product must say of the source; None where it need not."""

    bytes_per_pixel: float
    """Compressed bytes of one stored pixel, for cost estimates."""

    stored_scale: float = 1.0
    """Scale of the stored values where the catalog states none."""

    stored_nodata: float | None = None
    """Stored value without data by the product's definition; None where the catalog states it."""

    has_baseline: bool = False
    """Whether items state a processing baseline, which implies the offset (Sentinel-2)."""

    can_be_in_radar_geometry: bool = False
    """Whether products exist that are not geocoded; they are refused."""

    is_temporal: bool = True
    """Whether scenes have a time; those of elevation models may lack it."""

    is_surface_reflectance: bool = False
    """Whether reflectances are corrected for the atmosphere, so that dark ground is dark."""

    probe_bands: tuple[tuple[str, ...], ...] = ()
    """Bands that the radiometry check reads: of each group, the first that a scene has."""

    offset_probe_bands: tuple[str, ...] = ()
    """Bands whose dark end tells whether the offset is stored; empty where that is not checked."""

    @property
    def measured_bands(self) -> tuple[str, ...]:
        """Return all bands that measure something."""
        return self.default_bands + self.optional_bands

    @property
    def bands(self) -> tuple[str, ...]:
        """Return all bands, those that mask last."""
        return self.measured_bands + self.mask_bands


SENTINEL_2 = InputFlag(bit=1, name="sentinel_2", title="Sentinel-2")
SENTINEL_1 = InputFlag(bit=2, name="sentinel_1", title="Sentinel-1")
TERRAIN = InputFlag(bit=4, name="dem", title="terrain")

SENTINEL_NOTICE = Notice(
    title="Sentinel data legal notice",
    href="https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice",
)
COPERNICUS_DEM_NOTICE = Notice(
    title="Copernicus DEM licence",
    href="https://spacedata.copernicus.eu/collections/copernicus-digital-elevation-model",
)

_S2L2A = Sensor(
    name="S2L2A",
    group="optical",
    title="Sentinel-2",
    quantity="surface reflectances",
    standard_name="surface_bidirectional_reflectance",
    default_bands=(
        *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09"),
        *("B11", "B12"),
    ),
    mask_bands=("SCL", "CLD"),
    unit=DN,
    model_unit="DN",
    input_flag=SENTINEL_2,
    notice=SENTINEL_NOTICE,
    bytes_per_pixel=1.3,
    # ^ this and those below: measured on the demo country and on real scenes
    stored_scale=1e-4,
    # ^ Sentinel-2 Products Specification, QUANTIFICATION_VALUE: 1/10000
    stored_nodata=0.0,
    # ^ the same; catalogs and files often lack the tag
    has_baseline=True,
    is_surface_reflectance=True,
    probe_bands=(("B02",), ("B04",), ("B8A", "B08"), ("B12", "B11")),
    offset_probe_bands=("B02", "B04"),
)

_S2L1C = Sensor(
    name="S2L1C",
    group="optical",
    title="Sentinel-2 L1C",
    quantity="top-of-atmosphere reflectances",
    standard_name="toa_bidirectional_reflectance",
    default_bands=(*_S2L2A.default_bands[:10], "B10", *_S2L2A.default_bands[10:]),
    unit=DN,
    model_unit="DN",
    input_flag=SENTINEL_2,
    notice=SENTINEL_NOTICE,
    bytes_per_pixel=1.3,
    # ^ taken from L2A: the same sensor, resolution and compression
    stored_scale=1e-4,
    stored_nodata=0.0,
    has_baseline=True,
    probe_bands=(("B10",), ("B12", "B11")),
    # ^ at the top of the atmosphere blue and red are never dark, as air scatters
    offset_probe_bands=("B10", "B12", "B11"),
)

_S1RTC = Sensor(
    name="S1RTC",
    group="radar",
    title="Sentinel-1",
    quantity="backscatter",
    default_bands=("VV", "VH"),
    optional_bands=("HH", "HV"),
    unit=POWER,
    model_unit=DECIBEL,
    input_flag=SENTINEL_1,
    notice=SENTINEL_NOTICE,
    bytes_per_pixel=3.5,
    probe_bands=(("VV", "HH"), ("VH", "HV")),
)

_S1GRD = Sensor(
    name="S1GRD",
    group="radar",
    title="Sentinel-1 GRD",
    quantity="backscatter",
    default_bands=("VV", "VH"),
    optional_bands=("HH", "HV"),
    unit=POWER,
    model_unit=DECIBEL,
    input_flag=SENTINEL_1,
    notice=SENTINEL_NOTICE,
    bytes_per_pixel=3.5,
    can_be_in_radar_geometry=True,
    probe_bands=(("VV", "HH"), ("VH", "HV")),
)

_DEM = Sensor(
    name="DEM",
    group="elevation",
    title="Terrain",
    quantity="height",
    standard_name="surface_altitude",
    default_bands=("DEM",),
    unit=METRE,
    model_unit=METRE,
    input_flag=TERRAIN,
    notice=COPERNICUS_DEM_NOTICE,
    bytes_per_pixel=3.0,
    is_temporal=False,
    probe_bands=(("DEM",),),
)

SENSORS: Mapping[str, Sensor] = {
    sensor.name: sensor for sensor in (_S2L2A, _S2L1C, _S1RTC, _S1GRD, _DEM)
}
"""All sensors by the name of their modality."""


def get_sensor(name: str) -> Sensor:
    """Return the sensor of a modality.

    Raises:
        InvalidInputError: There is none of that name; the message lists all and suggests one.
    """
    try:
        return SENSORS[name]
    except KeyError:
        raise InvalidInputError(describe_unknown_sensor(name)) from None


def choose_counted_sensor(modalities: Sequence[str]) -> str:
    """Return the modality whose days are counted: of the first group of sensors that is present."""
    return min(modalities, key=lambda modality: GROUPS.index(get_sensor(modality).group))


def describe_unknown_sensor(name: str) -> str:
    """Return the message for a name that is no modality, with a suggestion where one is close."""
    by_folded_name = {modality.casefold(): modality for modality in SENSORS}
    close = difflib.get_close_matches(name.casefold(), by_folded_name, n=1)
    hint = f" Did you mean {by_folded_name[close[0]]!r}?" if close else ""
    return f"unknown modality {name!r}.{hint} Known: {', '.join(SENSORS)}."
