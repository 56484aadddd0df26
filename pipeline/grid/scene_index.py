"""A spatial index of scenes: which of them intersect a grid."""

from __future__ import annotations

from collections.abc import Sequence

import shapely
from affine import Affine
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry
from catalogs.scene import Scene
from pipeline.grid.grid import Grid

BBOX_BUFFER_DEGREES = 0.01
"""Degrees by which a scene's bounding box is buffered: catalogs round their coordinates."""


class SceneIndex:
    """Two R-trees over scenes, for queries with grids of one CRS.

    Scenes in that CRS are indexed by the extent of their rasters, all others by the bounding box
    that the catalog states, buffered by :data:`BBOX_BUFFER_DEGREES`.
    """

    def __init__(self, scenes: Sequence[Scene], epsg: int) -> None:
        """Build the index.

        Args:
            scenes: the scenes.
            epsg: EPSG code of the grids of later queries.
        """
        self._epsg = epsg
        outlines = [_raster_outline(scene, epsg) for scene in scenes]
        self._raster_positions = [
            index for index, outline in enumerate(outlines) if outline is not None
        ]
        self._bbox_positions = [index for index, outline in enumerate(outlines) if outline is None]
        self._raster_tree = shapely.STRtree(
            [outline for outline in outlines if outline is not None]
        )
        self._bbox_tree = shapely.STRtree(
            [
                lonlat_geometry.from_bbox(scenes[index].bbox).buffer(BBOX_BUFFER_DEGREES)
                for index in self._bbox_positions
            ]
        )

    def query(self, area: Grid) -> tuple[int, ...]:
        """Return the indices of the scenes that may intersect a grid, ascending."""
        indices: list[int] = []
        if self._raster_positions:
            outline = shapely.box(*area.bounds)
            hits = self._raster_tree.query(outline, predicate="intersects")
            indices += [self._raster_positions[hit] for hit in hits]
        if self._bbox_positions:
            hits = self._bbox_tree.query(_lonlat_outline(area), predicate="intersects")
            indices += [self._bbox_positions[hit] for hit in hits]
        return tuple(sorted(indices))


def find_intersecting_scenes(scenes: Sequence[Scene], area: Grid) -> tuple[Scene, ...]:
    """Return the scenes that may intersect a grid, in their order."""
    return tuple(scenes[index] for index in SceneIndex(scenes, area.epsg).query(area))


def _raster_outline(scene: Scene, epsg: int) -> BaseGeometry | None:
    """Return the extent of a scene's raster in a CRS; None where the catalog states none."""
    asset = next(
        (
            asset
            for asset in scene.assets.values()
            if asset.epsg and asset.transform and asset.shape
        ),
        None,
    )
    if asset is None or asset.epsg != epsg or not asset.transform or not asset.shape:
        return None
    rows, columns = asset.shape
    corners = ((0, 0), (columns, 0), (columns, rows), (0, rows))
    return shapely.Polygon([Affine(*asset.transform) * corner for corner in corners])
    # ^ a raster may be rotated


def _lonlat_outline(area: Grid) -> BaseGeometry:
    bounds = lonlat_geometry.get_transformer(area.epsg).transform_bounds(
        *area.bounds, densify_pts=21, direction="INVERSE"
    )
    # ^ across 180 degrees, west is larger than east
    outline: BaseGeometry = lonlat_geometry.from_bbox(bounds)
    return outline
