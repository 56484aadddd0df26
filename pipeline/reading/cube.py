"""Load scenes on a grid as one lazy, dask-backed array (time, band, y, x).

The compositing of the pipeline calls :func:`load` strip by strip, and a person calls it in a
notebook: see ``docs/cube.md``. This is the only module that calls stackstac.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import rioxarray  # noqa: F401  # registers the accessor .rio
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window
from stackstac.prepare import ASSET_TABLE_DT
from stackstac.raster_spec import RasterSpec
from stackstac.to_dask import items_to_dask

from catalogs.errors import InvalidInputError
from catalogs.scene import Radiometry, Scene
from catalogs.sensors import Sensor, get_sensor
from pipeline.grid.grid import Grid
from pipeline.reading import raster_reader, units
from pipeline.reading.asset_opener import AssetInfo
from pipeline.reading.resampling import MASK_UNITS, choose_resampling

DIMENSIONS = ("time", "band", "y", "x")
"""Dimensions of a cube."""

Radiometries = list[Radiometry | None]
"""Radiometry of a band in each scene; None if the scene lacks the band."""


def load(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    *,
    chunks: int | Mapping[str, int] | None = None,
    stored: bool = False,
) -> xr.DataArray:
    """Load the scenes of one modality on a grid, lazily: no file is opened before it is computed.

    By default the values are physical: Sentinel-2 in ten-thousandths of reflectance without offset
    (``units`` is ``1e-4``), Sentinel-1 in linear power, elevation in metres; float32, and NaN where
    nothing was measured. With ``stored`` they are those of the files; mask bands (SCL, CLD) can
    only be loaded so. Pixels are copied where an asset lies on the grid's pixels, and resampled
    elsewhere; a value does not depend on the other scenes or on the extent of the grid.

    Args:
        scenes: scenes of one modality; ``time`` has their order.
        bands: band names; values of a scene that lacks a band are nodata.
        grid: the output grid.
        chunks: pixels per chunk along ``y`` and ``x``, or size by name of the dimension, -1 for
            all. The default is one chunk per scene and band; small chunks read the same blocks of
            a COG several times.
        stored: whether to return the stored values of the files.

    Returns:
        DataArray (time, band, y, x) with the coordinate system in ``.rio.crs`` and these
        coordinates:

        * along ``time``: ``time`` (UTC), ``solar_day``, ``id`` (of the scene), ``platform``,
          ``orbit_state``, ``baseline`` (all "" if unknown), ``relative_orbit`` (0 if unknown) and
          ``cloud_cover`` (percent; NaN if unknown). Scenes of elevation models have no time: NaT.
        * ``band``, and ``y`` and ``x`` of the pixel centres.
        * with ``stored``, along (time, band): ``scale``, ``offset`` and ``unit``, where
          stored * scale + offset is the value in this unit; NaN and "" if the scene lacks the band.

        Its attributes are ``long_name``, and ``units`` of physical values; nodata is in
        ``.rio.nodata``, and written as ``_FillValue`` with the array.

    Raises:
        InvalidInputError: there are no scenes, several modalities or unknown bands, or physical
            values of a mask band are requested; also, the unit of an asset cannot be converted.
    """
    sensor = _check_request(scenes, bands, stored=stored)
    radiometries = [band_radiometries(scenes, band) for band in bands]
    dtype, fill_value = _stored_dtype(scenes, bands)
    data = _read_lazily(scenes, bands, grid, dtype.type(fill_value), _dask_chunks(chunks))
    coordinates = _coordinates(scenes, bands, grid)
    attributes: dict[str, Any]
    if stored:
        coordinates |= _radiometry_coordinates(radiometries)
        attributes = {"long_name": f"{sensor.title}, stored values"}
    else:
        data = _to_physical(data, radiometries, sensor.unit)
        attributes = {
            "long_name": f"{sensor.title}, {sensor.quantity}",
            "units": sensor.unit,
        }
        fill_value = math.nan
    cube = xr.DataArray(
        data, dims=DIMENSIONS, coords=coordinates, attrs=attributes, name=sensor.name
    )
    referenced: xr.DataArray = cube.rio.write_crs(grid.epsg).rio.write_coordinate_system()
    is_masked = math.isnan(fill_value)
    described: xr.DataArray = referenced.rio.write_nodata(fill_value, encoded=is_masked)
    # ^ as an attribute, NaN would be written to files of JSON, which has none
    return described


def band_radiometries(scenes: Sequence[Scene], band: str) -> Radiometries:
    """Return the radiometry of a band in each scene; None if the scene lacks the band."""
    return [scene.assets[band].radiometry if band in scene.assets else None for scene in scenes]


def _check_request(scenes: Sequence[Scene], bands: Sequence[str], *, stored: bool) -> Sensor:
    """Return the sensor of the scenes.

    Raises:
        InvalidInputError: these scenes or bands cannot form a cube.
    """
    modalities = sorted({scene.modality for scene in scenes})
    if len(modalities) != 1:
        raise InvalidInputError(
            f"A cube needs scenes of one modality, not {', '.join(modalities) or 'no scene'}. "
            "Load one cube per modality."
        )
    sensor = get_sensor(modalities[0])
    unknown = [band for band in bands if band not in sensor.bands]
    if unknown or not bands:
        raise InvalidInputError(
            f"{sensor.name} has no band {', '.join(unknown) or '(none was named)'}. "
            f"Its bands are {', '.join(sensor.bands)}."
        )
    masks = [band for band in bands if band in sensor.mask_bands]
    if masks and not stored:
        raise InvalidInputError(
            f"{', '.join(masks)} has codes or percentages, not physical values. "
            "Load it by itself, with stored=True."
        )
    return sensor


def _stored_dtype(scenes: Sequence[Scene], bands: Sequence[str]) -> tuple[np.dtype[Any], float]:
    """Return the smallest type that can hold all stored values, and the nodata value in it.

    Unsigned integers are the type of Sentinel-2's digital numbers, unless an asset has another one
    (:attr:`catalogs.scene.Asset.dtype`). 32-bit floating point holds all integers of 16 bits.
    """
    assets = [scene.assets[band] for scene in scenes for band in bands if band in scene.assets]
    if assets and all(asset.radiometry.unit in MASK_UNITS for asset in assets):
        return np.dtype(np.uint8), 0
    if assets and all(
        asset.radiometry.unit in MASK_UNITS or units.is_unsigned_dn(asset) for asset in assets
    ):
        return np.dtype(np.uint16), 0
    return np.dtype(np.float32), math.nan


def _dask_chunks(chunks: int | Mapping[str, int] | None) -> tuple[int, ...]:
    """Return the chunk size along each dimension; -1 = the whole dimension."""
    sizes = {"time": 1, "band": 1, "y": -1, "x": -1}
    requested = {"y": chunks, "x": chunks} if isinstance(chunks, int) else dict(chunks or {})
    unknown = [name for name in requested if name not in sizes]
    if unknown:
        raise InvalidInputError(
            f"chunks names {', '.join(map(repr, unknown))}, which is no dimension of a cube. "
            f"Its dimensions are {', '.join(sizes)}."
        )
    return tuple((sizes | requested).values())


def _coordinates(scenes: Sequence[Scene], bands: Sequence[str], grid: Grid) -> dict[str, Any]:
    """Return the coordinates of a cube without those of the stored values."""
    return {
        "time": ("time", np.array([_to_datetime64(scene.datetime) for scene in scenes])),
        "solar_day": ("time", np.array([_solar_day(scene) for scene in scenes])),
        "id": ("time", np.array([scene.id for scene in scenes])),
        "platform": ("time", np.array([scene.platform or "" for scene in scenes])),
        "orbit_state": ("time", np.array([scene.orbit_state or "" for scene in scenes])),
        "relative_orbit": ("time", np.array([scene.relative_orbit or 0 for scene in scenes])),
        "baseline": ("time", np.array([scene.baseline or "" for scene in scenes])),
        "cloud_cover": (
            "time",
            np.array([scene.cloud_cover for scene in scenes], dtype=np.float64),
            {"units": "percent"},
        ),
        "band": list(bands),
        "y": grid.top - (np.arange(grid.height) + 0.5) * grid.resolution,
        "x": grid.left + (np.arange(grid.width) + 0.5) * grid.resolution,
    }


def _to_datetime64(time: dt.datetime | None) -> np.datetime64:
    """Return a time in UTC; NaT if there is none."""
    return np.datetime64("NaT" if time is None else time.replace(tzinfo=None), "ns")


def _solar_day(scene: Scene) -> np.datetime64:
    if scene.day is None and scene.datetime is None:
        return np.datetime64("NaT", "ns")
    return np.datetime64(scene.solar_day, "ns")


def _radiometry_coordinates(radiometries: Sequence[Radiometries]) -> dict[str, Any]:
    """Return the coordinates (time, band) that state the meaning of stored values."""
    columns = {
        name: [
            [getattr(radiometry, name, missing) for radiometry in column] for column in radiometries
        ]
        for name, missing in (("scale", math.nan), ("offset", math.nan), ("unit", ""))
    }
    return {name: (("time", "band"), np.array(values).T) for name, values in columns.items()}


def _to_physical(stored: da.Array, radiometries: Sequence[Radiometries], unit: str) -> da.Array:
    """Convert stored values to a unit, lazily.

    Args:
        stored: (time, band, y, x) stored values.
        radiometries: by band and scene.
        unit: unit of the sensor.
    """
    values = np.empty((*stored.shape[:2], 1, 1), dtype=object)
    for band, column in enumerate(radiometries):
        values[:, band, 0, 0] = column
    table = da.from_array(values, chunks=(*stored.chunks[:2], (1,), (1,)))
    physical: da.Array = da.map_blocks(
        _convert_block,
        stored,
        table,
        unit=unit,
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), dtype=np.float32),
    )
    return physical


def _convert_block(
    stored: NDArray[Any], radiometries: NDArray[np.object_], *, unit: str
) -> NDArray[np.float32]:
    """Convert one chunk (time, band, y, x), given its radiometries (time, band, 1, 1)."""
    result = np.empty(stored.shape, dtype=np.float32)
    for band in range(stored.shape[1]):
        of_scenes: list[Radiometry | None] = radiometries[:, band, 0, 0].tolist()
        result[:, band] = units.convert(stored[:, band], of_scenes, unit)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _AssetRead:
    """One asset and how to read it; it stands in the column of URLs of stackstac's asset table."""

    href: str
    info: AssetInfo
    resampling: Resampling


class _AssetReader:
    """Implementation of stackstac's reader protocol by :func:`pipeline.reading.raster_reader.read`.

    stackstac's own reader turns a missing file into nodata, takes several times as long as a plain
    window read, and writes the href, which may hold a token, into graphs and messages.
    """

    def __init__(
        self,
        *,
        url: _AssetRead,
        spec: RasterSpec,
        dtype: DTypeLike,
        fill_value: float,
        **_unused: Any,
        # ^ among them stackstac's resampling method, which is the same for all assets
    ) -> None:
        self._asset = url
        self._spec = spec
        self._dtype = np.dtype(dtype)
        self._fill_value = fill_value

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window of the output grid: (height, width)."""
        left, _, _, top = self._spec.bounds
        resolution = self._spec.resolutions_xy[0]
        grid = Grid(
            epsg=self._spec.epsg,
            resolution=resolution,
            left=left + window.col_off * resolution,
            top=top - window.row_off * resolution,
            height=int(window.height),
            width=int(window.width),
        )
        return raster_reader.read(
            self._asset.href,
            self._asset.info,
            grid,
            resampling=self._asset.resampling,
            dtype=self._dtype,
            fill_value=self._fill_value,
        )

    def close(self) -> None:
        """Do nothing: a dataset is closed after each read."""


def _read_lazily(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    fill_value: np.generic,
    chunks: tuple[int, ...],
) -> da.Array:
    """Return the stored values (time, band, y, x) as a dask array.

    The asset table of stackstac says of every asset that it covers the grid. If stackstac compares
    bounds itself (``stackstac.stack``), it drops assets by their four corners, which is wrong for
    curved edges, poles and the antimeridian; the reader knows the file and finds out.
    """
    table = np.full((len(scenes), len(bands)), None, dtype=ASSET_TABLE_DT)
    for time, scene in enumerate(scenes):
        for index, band in enumerate(bands):
            if band in scene.assets:
                asset = scene.assets[band]
                table["url"][time, index] = _AssetRead(
                    href=asset.href,
                    info=AssetInfo.from_scene(scene, asset),
                    resampling=choose_resampling(asset, grid),
                )
                table["bounds"][time, index] = grid.bounds
    spec = RasterSpec(grid.epsg, grid.bounds, (grid.resolution, grid.resolution))
    if spec.shape != grid.shape:
        raise AssertionError(f"stackstac derives {spec.shape} pixels of the grid {grid.shape}")
    data: da.Array = items_to_dask(
        table,
        spec,
        chunks,
        dtype=fill_value.dtype,
        fill_value=fill_value,
        rescale=False,
        reader=_AssetReader,
        errors_as_nodata=(),
    )
    return data
