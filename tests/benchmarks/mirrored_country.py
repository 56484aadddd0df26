"""Ground of any size to measure on: a granule of the embedded country, mirrored on and on.

The scenes keep their dates, bands, clouds and words; only their extent grows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
import shapely
import yaml
from rasterio.transform import Affine
from scipy import ndimage

from catalogs import demo
from catalogs.demo import cog, frame, passes

GRANULE = "T32UQU"
SOURCE = 1024
"""Side of the granule that is mirrored, pixels."""

AROUND = 256
"""Pixels of scenes beyond each side of the region: windows there have their context."""

EPSG = 32632


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Scenes of one catalog around a region."""

    folder: Path
    left: float
    top: float
    """Of the region, metres in the zone."""

    height: int
    width: int
    """Of the region, pixels of 10 m."""

    @property
    def catalog(self) -> Path:
        """Return the catalog's file."""
        return self.folder / "catalog" / "catalog.json"

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return left, bottom, right, top in the zone."""
        return (self.left, self.top - 10 * self.height, self.left + 10 * self.width, self.top)

    @property
    def period(self) -> str:
        """Return the period of all scenes."""
        return "/".join(day.isoformat() for day in passes.PERIOD)

    def job(self, name: str, out: Path, **sections: Any) -> Path:
        """Write a job that maps the region; the sections complete it."""
        left, bottom, right, top = self.bounds
        inside = shapely.box(left + 1, bottom + 1, right - 1, top - 1)
        # ^ a metre less: what is snapped to pixels is the region itself
        region = _lonlat(inside)
        path = self.folder / f"{name}-region.geojson"
        path.write_text(json.dumps(shapely.geometry.mapping(region)))
        values = {
            "name": name,
            "region": {"file": path.name},
            "period": self.period,
            "catalog": {"path": str(self.catalog), "provider": "demo"},
            "grid": {"crs": f"EPSG:{EPSG}", "resolution": 10},
            "output": {"path": str(out)},
        }
        job = self.folder / f"{name}.yaml"
        job.write_text(yaml.safe_dump(values | sections))
        return job


def lay(folder: Path, height: int, width: int) -> Ground:
    """Make ground with a region of this size in a folder, or find it there."""
    plan = frame.lay_out(SOURCE)
    granule = plan.granules[0]
    ground = Ground(
        folder=folder,
        left=granule.left + 10 * AROUND,
        top=granule.top - 10 * AROUND,
        height=height,
        width=width,
    )
    if ground.catalog.is_file():
        return ground
    country = demo.build(folder.parent / f"country-{SOURCE}", size=SOURCE)
    source, target = country.catalog.parent, folder / "catalog"
    shutil.rmtree(target, ignore_errors=True)
    extent = _Extent(granule.left, granule.top, height + 2 * AROUND, width + 2 * AROUND)
    with ThreadPoolExecutor(2) as pool:
        for collection in ("sentinel-2-l2a", "sentinel-1-rtc"):
            documents = _documents(source / collection)
            list(pool.map(lambda one: _widen(*one, target, extent, plan), documents))
    _heights(source / "cop-dem-glo-30", target, extent)
    for path in [source / "catalog.json", *source.glob("*/collection.json")]:
        _relink(path, target / path.relative_to(source))
    return ground


@dataclass(frozen=True, slots=True)
class _Extent:
    left: float
    top: float
    height: int
    width: int

    def outline(self) -> shapely.Polygon:
        return shapely.box(
            self.left, self.top - 10 * self.height, self.left + 10 * self.width, self.top
        )


def _lonlat(outline: shapely.Polygon) -> shapely.Polygon:
    return frame.outline_lonlat(shapely.segmentize(outline, 1000.0))


def _documents(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return [
        (path, one)
        for path, one in found
        if one["type"] == "Feature" and (GRANULE in one["id"] or "sentinel-1" in one["collection"])
    ]


def _widen(
    path: Path, document: dict[str, Any], target: Path, extent: _Extent, plan: frame.Frame
) -> None:
    radar = "sentinel-1" in document["collection"]
    row, column = plan.offset(plan.granules[0]) if radar else (0, 0)
    whole = path.parent.parent
    for asset in document["assets"].values():
        with rasterio.open(path.parent / asset["href"]) as file:
            step = round(file.res[0] / 10)
            values = file.read(1)[row : row + SOURCE, column : column + SOURCE]
            nodata = file.nodata
        size = (-(-extent.height // step), -(-extent.width // step))
        out = target / (path.parent / asset["href"]).resolve().relative_to(whole.resolve())
        grid = _write(out, _mirrored(values, size), extent, 10 * step, nodata)
        told = {"file:size": out.stat().st_size, "file:checksum": cog.multihash(out)}
        asset.update(told if radar else told | grid)
    if radar:
        document["properties"] |= grid | {"s1:shape": grid["proj:shape"][::-1]}
    _publish(document, target / path.relative_to(whole), _lonlat(extent.outline()))


def _mirrored(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    extra = [(0, max(wanted - there, 0)) for wanted, there in zip(size, values.shape, strict=True)]
    return np.pad(values, extra, mode="symmetric")[: size[0], : size[1]]


def _write(
    path: Path, values: np.ndarray, extent: _Extent, metres: int, nodata: float | None
) -> Mapping[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(metres, 0.0, extent.left, 0.0, -metres, extent.top)
    cog.write(path, values, epsg=EPSG, transform=transform, nodata=nodata)
    right, bottom = transform @ (values.shape[1], values.shape[0])
    return {
        "proj:bbox": [extent.left, bottom, right, extent.top],
        "proj:shape": list(values.shape),
        "proj:transform": list(transform)[:6],
    }


def _heights(source: Path, target: Path, extent: _Extent) -> None:
    """Write the elevation model in longitude and latitude, as the country has it."""
    _, document = next(
        (path, one)
        for path in sorted(source.glob("Cop*.json"))
        for one in [json.loads(path.read_text())]
    )
    near = np.full((SOURCE, SOURCE), np.nan, np.float32)
    here = Affine(10, 0, extent.left, 0, -10, extent.top)
    for path in sorted(source.glob("*/*.tif")):
        with rasterio.open(path) as file:
            part = np.full_like(near, np.nan)
            rasterio.warp.reproject(
                rasterio.band(file, 1),
                part,
                dst_transform=here,
                dst_crs=EPSG,
                dst_nodata=np.nan,
                resampling=rasterio.warp.Resampling.bilinear,
            )
        near = np.where(np.isfinite(near), near, part)
    near = np.where(np.isfinite(near), near, np.nanmean(near))
    outline = _lonlat(extent.outline())
    west, south, east, north = outline.bounds
    step = 1 / 3600
    height, width = round((north - south) / step), round((east - west) / step)
    transform = Affine(step, 0, west, 0, -step, north)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = rasterio.warp.transform(
        4326, EPSG, (west + step * columns).ravel(), (north - step * rows).ravel()
    )
    places = ((extent.top - np.array(y)) / 10 - 0.5, (np.array(x) - extent.left) / 10 - 0.5)
    values = ndimage.map_coordinates(near, places, order=1, mode="reflect").reshape(height, width)
    name = document["id"]
    out = target / source.name / name / f"{name}.tif"
    out.parent.mkdir(parents=True)
    cog.write(out, values.astype(np.float32), epsg=4326, transform=transform, nodata=None)
    document["assets"]["data"] |= {
        "file:size": out.stat().st_size,
        "file:checksum": cog.multihash(out),
    }
    document["properties"] |= {
        "proj:shape": [height, width],
        "proj:transform": list(transform)[:6],
    }
    edge = shapely.box(west, north - step * height, west + step * width, north)
    _publish(document, target / source.name / f"{name}.json", edge)


def _publish(document: dict[str, Any], path: Path, outline: shapely.Polygon) -> None:
    document["geometry"] = shapely.geometry.mapping(outline)
    document["bbox"] = list(outline.bounds)
    path.write_text(json.dumps(document))


def _relink(path: Path, target: Path) -> None:
    """Copy a collection or the catalog, with links to what is there."""
    document = json.loads(path.read_text())
    document["links"] = [
        link
        for link in document["links"]
        if link["rel"] != "item" or (target.parent / link["href"]).is_file()
    ]
    target.write_text(json.dumps(document))
