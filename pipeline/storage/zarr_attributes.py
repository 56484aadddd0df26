"""Attributes of a product's Zarr store, by the conventions that readers obey.

- CF 1.11 (https://cfconventions.org): ``_FillValue``, ``scale_factor``, ``units``, ``flag_…``,
  ``grid_mapping``; xarray, rioxarray, cf_xarray and GDAL read these.
- GeoZarr's conventions ``proj`` and ``spatial`` (https://github.com/zarr-conventions), version
  0.1: coordinate system and transform as plain attributes of every array and group.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from pyproj import CRS

from pipeline.grid.grid import Grid
from pipeline.layer_table import Layer
from pipeline.plan.plan import Plan

GRID_MAPPING = "spatial_ref"
"""Name of the variable that holds the coordinate system."""

_CF_VERSION = "CF-1.11"

_ZARR_CONVENTIONS: tuple[Mapping[str, str], ...] = (
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/proj/refs/tags/v0.1/"
        "schema.json",
        "spec_url": "https://github.com/zarr-conventions/proj/blob/v0.1/README.md",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj",
        "description": "Coordinate reference system information for geospatial data",
    },
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v0.1/"
        "schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial",
        "description": "Spatial coordinate information",
    },
)
"""Registration of the conventions; a reader recognises one by its uuid."""


def describe_root(plan: Plan) -> dict[str, Any]:
    """Return the attributes of the Zarr group that holds the groups of several grids."""
    title = f"{plan.name}, {plan.period[0]} to {plan.period[1]}"
    return {"Conventions": _CF_VERSION, "title": title}


def describe_group(plan: Plan, grid: Grid) -> dict[str, Any]:
    """Return the attributes of the Zarr group of a grid."""
    return {**describe_root(plan), **_geozarr_attributes(grid)}


def describe_layer(layer: Layer, grid: Grid) -> dict[str, Any]:
    """Return the attributes of the array of a layer.

    Bit fields get no ``_FillValue``: xarray would decode them to floats, whose bits cannot be
    tested, and 0 means that no bit is set.
    """
    attributes: dict[str, Any] = {"long_name": layer.title, "comment": layer.description}
    if layer.standard_name is not None:
        attributes["standard_name"] = layer.standard_name
    if layer.cf_units is not None:
        attributes["units"] = layer.cf_units
        if " since " in layer.cf_units:
            attributes["calendar"] = "standard"
    if layer.scale != 1.0:
        attributes["scale_factor"] = layer.scale
        # ^ without add_offset, which would be 0
    if not layer.bitfields:
        attributes["_FillValue"] = _encode_fill_value(layer)
    return {
        **attributes,
        **_flag_attributes(layer),
        "grid_mapping": GRID_MAPPING,
        "coordinates": GRID_MAPPING,
        **_geozarr_attributes(grid),
    }


def describe_grid_mapping(grid: Grid) -> dict[str, Any]:
    """Return the attributes of the variable :data:`GRID_MAPPING`."""
    crs = CRS.from_epsg(grid.epsg)
    transform = " ".join(repr(value) for value in grid.transform.to_gdal())
    return {
        **crs.to_cf(),
        "long_name": "coordinate reference system",
        "spatial_ref": crs.to_wkt(),
        "GeoTransform": transform,
    }


def describe_coordinate(name: str) -> dict[str, Any]:
    """Return the attributes of the coordinate ``x`` or ``y``, the centres of the pixels."""
    return {
        "standard_name": f"projection_{name}_coordinate",
        "long_name": f"{name} of the centres of the pixels",
        "units": "m",
        "axis": name.upper(),
    }


def _encode_fill_value(layer: Layer) -> int | str:
    """Return nodata as xarray decodes ``_FillValue`` in Zarr 3: floats as the base64 of a double.

    JSON has no NaN. The array's own ``fill_value``, which other readers use, is the same number.
    """
    if np.dtype(layer.dtype).kind == "f":
        return base64.standard_b64encode(struct.pack("<d", layer.nodata)).decode("ascii")
    return int(layer.nodata)


def _flag_attributes(layer: Layer) -> dict[str, Any]:
    """Return the codes or bits of a layer and their meanings; empty for other layers."""
    if layer.bitfields:
        return {
            "flag_masks": [bit for bit, _ in layer.bitfields],
            "flag_meanings": " ".join(name for _, name in layer.bitfields),
        }
    if layer.legend is None:
        return {}
    classes = layer.legend.mapped_classes
    return {
        "flag_values": [entry.code for entry in classes],
        "flag_meanings": " ".join(layer.legend.identifiers[entry.code] for entry in classes),
        # ^ words that are separated by blanks, so the names themselves could not be read
        "flag_colors": " ".join(f"#{entry.color_hint}" for entry in classes),
    }


def _geozarr_attributes(grid: Grid) -> dict[str, Any]:
    """Return coordinate system and transform of a grid by GeoZarr's conventions."""
    return {
        "zarr_conventions": [dict(convention) for convention in _ZARR_CONVENTIONS],
        "proj:code": f"EPSG:{grid.epsg}",
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(grid.shape),
        "spatial:bbox": list(grid.bounds),
        "spatial:transform_type": "affine",
        "spatial:transform": list(grid.transform)[:6],
        "spatial:registration": "pixel",
    }
