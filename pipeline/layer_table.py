"""The table of layers: one entry each, read by the Zarr store, the COGs and the STAC item."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from catalogs.legend import LAND_COVER, Legend
from catalogs.sensors import DN, METRE, POWER, SENSORS, Group, Sensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OverviewResampling = Literal["mode", "average"]

OutputKind = Literal["classes", "values", "features"]
"""Kinds of model outputs: probabilities of the legend's classes, values in a unit, features."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One raster of a product: the meaning of its pixels and how they are stored."""

    name: str
    """Asset key, Zarr variable and file stem."""

    title: str
    """Name as users read it."""

    description: str
    """One sentence for users; also a tag of the COG."""

    dtype: str
    """NumPy name of the stored data type."""

    nodata: float
    """Stored value of a pixel without a value; NaN for floating-point types."""

    scale: float = 1.0
    """Physical value = stored value * scale."""

    unit: str | None = None
    """Unit of the physical value."""

    is_count: bool = False
    """Whether the values count something, so that CF gives them the unit 1."""

    standard_name: str | None = None
    """Name of the quantity in CF's table of standard names; None where it has none."""

    overview_resampling: OverviewResampling
    """Resampling of overviews: ``mode`` wherever the mean of two values has no meaning."""

    bands: tuple[str, ...] = ()
    """Names of the bands; empty where they depend on the plan."""

    legend: Legend | None = None
    """The classes that the values are codes of; None where they are no codes."""

    bitfields: tuple[tuple[int, str], ...] = ()
    """(value of the bit, its name) where the values are bit fields."""

    kind: OutputKind | None = None
    """Kind of the model output that the layer stores; None where it stores none."""

    stored_unit: str | None = None
    """Unit of the stored values where a scale makes it another one than :attr:`unit`."""

    def __post_init__(self) -> None:
        kind = np.dtype(self.dtype).kind
        if kind not in "uif":
            raise ValueError(f"Layer {self.name!r} cannot have the data type {self.dtype!r}.")
        if np.isnan(self.nodata) != (kind == "f"):
            raise ValueError(
                f"Layer {self.name!r} of type {self.dtype} cannot have nodata {self.nodata}: "
                "floating-point types have NaN, integers a number."
            )
        if not self.scale > 0:
            raise ValueError(f"Layer {self.name!r} needs a positive scale, not {self.scale}.")

    @property
    def fill_value(self) -> np.generic:
        """Return nodata as a NumPy scalar of the stored type."""
        fill: np.generic = np.dtype(self.dtype).type(self.nodata)
        return fill

    @property
    def has_legend(self) -> bool:
        """Tell whether the values are codes of classes."""
        return self.legend is not None

    @property
    def model_unit(self) -> str | None:
        """Return the unit in which a model has to give the values of the layer."""
        return None if self.kind == "features" else self.stored_unit or self.unit

    @property
    def cf_units(self) -> str | None:
        """Return the unit of the physical value by the CF conventions."""
        return "1" if self.is_count else self.unit

    @property
    def is_categorical(self) -> bool:
        """Tell whether the values are labels, which cannot be averaged."""
        return self.overview_resampling == "mode"

    @property
    def is_single_band(self) -> bool:
        """Tell whether the layer is one (y, x) array rather than (band, y, x)."""
        return len(self.bands) == 1

    def valid_mask(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where stored ``values`` are not nodata."""
        valid: NDArray[np.bool_] = (
            ~np.isnan(values) if np.isnan(self.nodata) else values != self.fill_value
        )
        return valid

    def band_names(self, bands: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the names of the bands: the layer's own where it has any, else ``bands``.

        Raises:
            ValueError: ``bands`` differs from the layer's own names, or neither has any.
        """
        if self.bands and bands and tuple(bands) != self.bands:
            raise ValueError(f"Layer {self.name!r} has the bands {self.bands}, not {tuple(bands)}.")
        if not self.bands and not bands:
            raise ValueError(f"Layer {self.name!r} has no bands of its own: pass their names.")
        return self.bands or tuple(bands)


GENERATED_BIT = 8
"""Bit of the layer ``inputs_used``, reserved in the published format: a generated input.

No plan sets it: all inputs of a plan are read from scenes."""

COMPOSITE_NODATA = -32768
"""Stored value of an unobserved pixel of an optical composite; 0 and negatives are data."""


@dataclass(frozen=True, kw_only=True)
class _CompositeStorage:
    """How composites in one unit are stored."""

    dtype: str
    nodata: float
    scale: float = 1.0
    unit: str


_STORAGE_BY_UNIT = {
    DN: _CompositeStorage(dtype="int16", nodata=COMPOSITE_NODATA, scale=1e-4, unit="1"),
    POWER: _CompositeStorage(dtype="float32", nodata=float("nan"), unit="1"),
    METRE: _CompositeStorage(dtype="float32", nodata=float("nan"), unit="m"),
}

_COMPOSITE_DESCRIPTIONS: dict[Group, str] = {
    "optical": "One value of the clear {quantity}, offset removed; slightly negative values are "
    "data.",
    "radar": "Mean of the orbits' mean {quantity}, in linear power.",
    "elevation": "Height of the surface above the geoid.",
}


def _composite_layer(sensor: Sensor) -> Layer:
    """Return the layer of a sensor's composite."""
    storage = _STORAGE_BY_UNIT[sensor.unit]
    return Layer(
        name=f"composite_{sensor.name}",
        title=sensor.title if sensor.group == "elevation" else f"{sensor.title} composite",
        description=_COMPOSITE_DESCRIPTIONS[sensor.group].format(quantity=sensor.quantity),
        dtype=storage.dtype,
        nodata=storage.nodata,
        scale=storage.scale,
        unit=storage.unit,
        standard_name=sensor.standard_name,
        overview_resampling="average",
        bands=() if sensor.is_temporal else sensor.default_bands,
    )


def _series_layer(sensor: Sensor) -> Layer:
    """Return the layer of a sensor's composites of the parts of the period."""
    layer = _composite_layer(sensor)
    return replace(
        layer,
        name=f"series_{sensor.name}",
        title=f"{layer.title}, part by part",
        description=f"{layer.description} One for each part of the period, named by its first day.",
    )


def _inputs_used_layer(sensors: Sequence[Sensor]) -> Layer:
    """Return the layer that says which inputs the model was given."""
    flags = sorted({sensor.input_flag for sensor in sensors}, key=lambda flag: flag.bit)
    bits = ", ".join(f"{flag.bit} {flag.title}" for flag in flags)
    names = {flag.bit: flag.name for flag in flags} | {GENERATED_BIT: "generated"}
    return Layer(
        name="inputs_used",
        title="Inputs used",
        description=f"Bit field of what the model saw: {bits}, {GENERATED_BIT} an input that the "
        "model itself generated.",
        dtype="uint8",
        nodata=0,
        overview_resampling="mode",
        bands=("inputs_used",),
        bitfields=tuple(sorted(names.items())),
    )


LAYERS: tuple[Layer, ...] = (
    Layer(
        name="land_cover",
        title="Land cover",
        description="Most probable land-cover class; 0 outside the region, not observed, or "
        "observed and not classified: the observations tell which.",
        dtype="uint8",
        nodata=LAND_COVER.nodata,
        overview_resampling="mode",
        bands=("land_cover",),
        legend=LAND_COVER,
        kind="classes",
    ),
    Layer(
        name="confidence",
        title="Confidence",
        description="Probability that the model gives to the mapped class, in percent. "
        "It is not an accuracy: a confident pixel can be wrong.",
        dtype="uint8",
        nodata=255,
        unit="%",
        overview_resampling="average",
        bands=("confidence",),
    ),
    Layer(
        name="second_class",
        title="Second class",
        description="Second most probable land-cover class.",
        dtype="uint8",
        nodata=LAND_COVER.nodata,
        overview_resampling="mode",
        bands=("second_class",),
        legend=LAND_COVER,
    ),
    Layer(
        name="margin",
        title="Margin",
        description="Probability of the mapped class less that of the second one, in percent.",
        dtype="uint8",
        nodata=255,
        unit="%",
        overview_resampling="average",
        bands=("margin",),
    ),
    Layer(
        name="observations",
        title="Clear observations",
        description="Days with a clear Sentinel-2 observation (Sentinel-1 where the model is "
        "given no Sentinel-2); 0 inside the region means not observed.",
        dtype="uint16",
        nodata=65535,
        unit="d",
        is_count=True,
        standard_name="number_of_observations",
        overview_resampling="average",
        bands=("observations",),
    ),
    Layer(
        name="first_observed",
        title="First observed",
        description="Day of the oldest clear observation, in days since 1970-01-01.",
        dtype="uint16",
        nodata=0,
        unit="days since 1970-01-01",
        overview_resampling="mode",
        bands=("first_observed",),
    ),
    Layer(
        name="last_observed",
        title="Last observed",
        description="Day of the newest clear observation, in days since 1970-01-01.",
        dtype="uint16",
        nodata=0,
        unit="days since 1970-01-01",
        overview_resampling="mode",
        bands=("last_observed",),
    ),
    Layer(
        name="probabilities",
        title="Class probabilities",
        description="Probability of each class, one band per class.",
        dtype="uint8",
        nodata=255,
        scale=1 / 200,
        unit="1",
        overview_resampling="average",
    ),
    Layer(
        name="embedding",
        title="Embedding",
        description="Features of each patch of 16 x 16 pixels as the encoder sees them, one band "
        "per dimension; they have no unit.",
        dtype="float32",
        nodata=float("nan"),
        unit="1",
        overview_resampling="average",
        kind="features",
    ),
    Layer(
        name="generated_S2L2A",
        title="Generated Sentinel-2",
        description="Surface reflectance as the model imagines it from the inputs; not a "
        "measurement.",
        dtype="float32",
        nodata=float("nan"),
        scale=1e-4,
        unit="1",
        stored_unit="DN",
        standard_name=SENSORS["S2L2A"].standard_name,
        overview_resampling="average",
        kind="values",
    ),
    *(
        Layer(
            name=f"generated_{name}",
            title=f"Generated Sentinel-1 {name.removeprefix('S1')}",
            description="Backscatter in decibel as the model imagines it from the inputs; not a "
            "measurement.",
            dtype="float32",
            nodata=float("nan"),
            unit="dB",
            overview_resampling="average",
            kind="values",
        )
        for name in ("S1GRD", "S1RTC")
    ),
    Layer(
        name="generated_DEM",
        title="Generated terrain",
        description="Height of the surface as the model imagines it from the inputs; not a "
        "measurement.",
        dtype="float32",
        nodata=float("nan"),
        unit="m",
        standard_name=SENSORS["DEM"].standard_name,
        overview_resampling="average",
        bands=("DEM",),
        kind="values",
    ),
    Layer(
        name="generated_NDVI",
        title="Generated NDVI",
        description="Normalised difference vegetation index as the model imagines it from the "
        "inputs; not a measurement.",
        dtype="float32",
        nodata=float("nan"),
        unit="1",
        standard_name="normalized_difference_vegetation_index",
        overview_resampling="average",
        bands=("NDVI",),
        kind="values",
    ),
    Layer(
        name="series_observations",
        title="Clear observations in each part of the period",
        description="Days with a clear observation, one band for each part of the period.",
        dtype="uint16",
        nodata=65535,
        unit="d",
        is_count=True,
        standard_name="number_of_observations",
        overview_resampling="average",
    ),
)
"""Layers that do not depend on the sensors."""

LAYERS_BY_NAME = {layer.name: layer for layer in LAYERS}

CLASS_LAYER = "land_cover"
"""The layer of classes of the land-cover legend; those of other legends follow from it."""

OWN_CLASS_LAYER = "classes"
"""Default name of the layer of classes of another legend."""

_DETAIL_LAYERS = ("confidence", "second_class", "margin", "probabilities")
"""The layers that tell more about the layer of classes."""


@functools.lru_cache(maxsize=16)
def build_class_layers(name: str, legend: Legend) -> dict[str, Layer]:
    """Return the layers of an output of classes, by name: that of the classes comes first.

    Args:
        name: name of the layer of classes.
        legend: its legend.
    """
    main = LAYERS_BY_NAME[CLASS_LAYER]
    details = {detail: LAYERS_BY_NAME[detail] for detail in _DETAIL_LAYERS}
    if name == CLASS_LAYER and legend == LAND_COVER:
        return {name: main, **details}
    main = replace(
        main,
        name=name,
        title=format_title(name),
        bands=(name,),
        legend=legend,
        nodata=legend.nodata,
        description=f"Most probable class; {legend.nodata} outside the region, not observed, or "
        "observed and not classified: the observations tell which.",
    )
    details["second_class"] = replace(
        details["second_class"],
        legend=legend,
        nodata=legend.nodata,
        description="Second most probable class.",
    )
    return {name: main, **details}


def format_title(name: str) -> str:
    """Return the title of a layer from its name: ``burn_scars`` is titled Burn scars."""
    words = name.replace("_", " ").replace("-", " ").strip()
    return words[:1].upper() + words[1:]


@functools.lru_cache(maxsize=4)
def _build_sensor_layers(sensors: tuple[Sensor, ...]) -> dict[str, Layer]:
    """Return the layers that depend on the sensors, by name."""
    sensor_layers = (
        _inputs_used_layer(sensors),
        *map(_composite_layer, sensors),
        *(_series_layer(sensor) for sensor in sensors if sensor.is_temporal),
    )
    return {layer.name: layer for layer in sensor_layers}


def list_layers() -> tuple[Layer, ...]:
    """Return all layers that a product can have."""
    return (*LAYERS_BY_NAME.values(), *_build_sensor_layers(tuple(SENSORS.values())).values())


def get(name: str) -> Layer:
    """Return the layer with a name.

    Raises:
        ValueError: no layer has that name; the message lists all names.
    """
    sensor_layers = _build_sensor_layers(tuple(SENSORS.values()))
    layer = LAYERS_BY_NAME.get(name) or sensor_layers.get(name)
    if layer is None:
        names = ", ".join((*LAYERS_BY_NAME, *sensor_layers))
        raise ValueError(f"No layer is called {name!r}; the layers are: {names}.")
    return layer
