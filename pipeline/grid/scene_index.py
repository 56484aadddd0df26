"""Which scenes meet which ground: the same answer for one tile as for a hundred thousand."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry
from catalogs.scene import Scene
from pipeline.grid.grid import Grid

BBOX_BUFFER_DEGREES = 0.01
"""Degrees by which a scene's box is widened: catalogs round their coordinates."""


class SceneIndex:
    """The scenes of a plan as one coordinate system sees them, in two trees.

    Scenes of the system itself are told by the corners of their rasters, all others by the box
    that the catalog states, widened by :data:`BBOX_BUFFER_DEGREES`.
    """

    def __init__(self, scenes: Sequence[Scene], epsg: int) -> None:
        """Look at each scene once.

        Args:
            scenes: the scenes.
            epsg: code of the system whose grids will be asked about.
        """
        self._epsg = epsg
        own = [_raster_outline(scene, epsg) for scene in scenes]
        self._raster_positions = [number for number, raster in enumerate(own) if raster is not None]
        self._bbox_positions = [number for number, raster in enumerate(own) if raster is None]
        self._raster_tree = shapely.STRtree([raster for raster in own if raster is not None])
        self._bbox_tree = shapely.STRtree(
            [
                lonlat_geometry.from_bbox(scenes[number].bbox).buffer(BBOX_BUFFER_DEGREES)
                for number in self._bbox_positions
            ]
        )

    def query(self, area: Grid) -> tuple[int, ...]:
        """Return the places, in the sequence of the scenes, of those that may meet a grid."""
        found: list[int] = []
        if self._raster_positions:
            outline = shapely.box(*area.bounds)
            near = self._raster_tree.query(outline, predicate="intersects")
            found += [self._raster_positions[number] for number in near]
        if self._bbox_positions:
            near = self._bbox_tree.query(_lonlat_outline(area), predicate="intersects")
            found += [self._bbox_positions[number] for number in near]
        return tuple(sorted(found))


def find_intersecting_scenes(scenes: Sequence[Scene], area: Grid) -> tuple[Scene, ...]:
    """Return the scenes whose rasters meet a grid; footprints count where the catalog is silent."""
    return tuple(scenes[number] for number in SceneIndex(scenes, area.epsg).query(area))


def _raster_outline(scene: Scene, epsg: int) -> BaseGeometry | None:
    """Return the outline of a scene's raster, where the catalog states one of this system."""
    known = next(
        (one for one in scene.assets.values() if one.epsg and one.transform and one.shape), None
    )
    if known is None or known.epsg != epsg or not known.transform or not known.shape:
        return None
    a, _, left, _, e, top = known.transform
    outline: BaseGeometry = shapely.box(
        left, top + e * known.shape[0], left + a * known.shape[1], top
    )
    return outline


def _lonlat_outline(area: Grid) -> BaseGeometry:
    bounds = _lonlat_transformer(area.epsg).transform_bounds(*area.bounds, densify_pts=21)
    # ^ west of 180 degrees and east of it, west is the larger number
    outline: BaseGeometry = lonlat_geometry.from_bbox(bounds)
    return outline


@functools.cache
def _lonlat_transformer(epsg: int) -> Transformer:
    """Return what is made once: from a code, again for every tile, it costs more than all else."""
    return Transformer.from_crs(epsg, 4326, always_xy=True)
