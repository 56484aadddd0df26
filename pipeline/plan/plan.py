"""The frozen plan of a product: scenes, grids, recipe, model and tiles. A run executes it."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import shapely
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from catalogs.errors import InvalidInputError
from catalogs.scene import Caveat, RejectedScene, Scene
from catalogs.sensors import choose_counted_sensor, get_sensor
from catalogs.snapshot import Snapshot
from pipeline import layer_table
from pipeline.grid import grid, utm, window_lattice
from pipeline.grid.grid import Grid, Tile
from pipeline.grid.scene_index import SceneIndex
from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.layer_table import Layer
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.plan.settings import RunSettings

NUMERICS_VERSION = 6
"""Incremented whenever the same scenes, recipe and model give other pixel values than before."""

UNSTATED_NUMERICS = 5
"""Version of the numerics of plan files that do not state it."""

PRODUCT_NAME_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
"""Valid product names: a name becomes a folder, and plan files may come from anywhere."""

FORMAT_VERSION = 4
"""Version of the plan file's format."""

_REPLAN_HINT = "Make a new one with: terramosaic plan JOB -o plan.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the pixels of one product, and how to run it."""

    name: str
    period: tuple[str, str]
    """First and last day, YYYY-MM-DD, both inclusive."""

    region: Mapping[str, Any]
    """GeoJSON geometry in longitude and latitude."""

    grids: tuple[Grid, ...]
    """The grids of the layers, in cells of the finest output: one, or one per UTM zone."""

    mosaic_grids: tuple[Grid, ...] = ()
    """The grids of mosaics that join several zones, one per CRS."""

    tile_size: int
    """Side of a tile, cells of the grids."""

    snapshot: Snapshot
    recipe: Recipe
    model: ModelSpec | None
    """None for a product of composites only."""

    caveats: tuple[Caveat, ...] = ()
    """What the catalog does not state about scenes that are used nevertheless."""

    radiometry_verdicts: Mapping[str, int] = field(default_factory=dict)
    """Verdict of the radiometry check → number of scenes used."""

    numerics: int = NUMERICS_VERSION
    """Version of the numerics; plans of another one can be read, but not run."""

    settings: RunSettings
    """Where and how it runs; not part of the digest. Key ``job`` of the plan file."""

    def __post_init__(self) -> None:
        if not PRODUCT_NAME_PATTERN.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is not a valid name of a product, which becomes a folder"
            )
        for day in self.period:
            dt.date.fromisoformat(day)
        if not self.grids or len({area.epsg for area in self.grids}) < len(self.grids):
            raise ValueError("a plan needs at least one grid, and each in another CRS")
        origins = [index for area in self.grids for index in self.pixel_grid(area).origin_index()]
        lengths = (
            self.recipe.stride,
            self.recipe.margin,
            self.tile_size * self.output_stride,
            *origins,
        )
        if any(length % self.max_output_stride for length in lengths):
            raise ValueError(
                "the origins of grids, tiles and windows must be multiples of "
                f"{self.max_output_stride} px"
            )
            # ^ else the output cells of neighbouring windows would not coincide

    @functools.cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Return the tiles that hold a cell of the region, grid by grid and row by row.

        The cells of coarser layers count as well as those of the grids.
        """
        several = len(self.grids) > 1
        outputs = self.model.outputs if self.model else ()
        factors = {1, *(self.coarsening_factor(output.layer_name) for output in outputs)}
        return tuple(
            tile
            for area in self.grids
            for tile in grid.select_tiles(
                grid.split_into_tiles(
                    area, self.tile_size, id_prefix=f"{area.epsg}-" if several else ""
                ),
                area,
                grid.project(self.region_for(area.epsg), area.epsg),
                factors,
            )
        )

    @functools.cached_property
    def tiles_by_id(self) -> Mapping[str, Tile]:
        """Return id → tile."""
        return {tile.id: tile for tile in self.tiles}

    @property
    def grid(self) -> Grid:
        """Return the grid of a plan that has only one.

        Raises:
            ValueError: the plan has several.
        """
        (only,) = self.grids
        return only

    def grid_for(self, epsg: int) -> Grid:
        """Return the grid with an EPSG code."""
        return next(area for area in self.grids if area.epsg == epsg)

    def region_for(self, epsg: int) -> BaseGeometry:
        """Return the part of the region that a grid maps, in longitude and latitude.

        It is the whole region where there is one grid, else its part in the UTM zone of the grid:
        no point belongs to two grids.
        """
        return self._regions_by_epsg[epsg]

    @functools.cached_property
    def _regions_by_epsg(self) -> Mapping[int, BaseGeometry]:
        region = from_geojson(self.region)
        if len(self.grids) == 1:
            return {self.grid.epsg: region}
        return {area.epsg: utm.clip_to_zone(region, area.epsg) for area in self.grids}

    @property
    def output_stride(self) -> int:
        """Return the pixels along the side of a grid cell: 1 unless all outputs are coarser."""
        return self.model.output_stride if self.model else 1

    @property
    def max_output_stride(self) -> int:
        """Return the pixels along the side of the coarsest output's cell."""
        return self.model.max_output_stride if self.model else 1

    def layer(self, name: str) -> Layer:
        """Return the layer with a name: of the model's outputs, else of the table.

        Raises:
            ValueError: no layer has that name.
        """
        for output in self.model.outputs if self.model else ():
            if name in output.layers:
                return output.layers[name]
        return layer_table.get(name)

    def coarsening_factor(self, layer: str) -> int:
        """Return the grid cells along the side of one cell of a layer."""
        outputs = self.model.outputs if self.model else ()
        return next(
            (
                output.stride // self.output_stride
                for output in outputs
                if output.layer_name == layer
            ),
            1,
        )

    @property
    def lattice(self) -> Lattice | None:
        """Return the lattice of the model's windows, in pixels."""
        if self.model is None:
            return None
        return Lattice(
            window=self.model.window, stride=self.recipe.stride, context_width=self.recipe.margin
        )

    @functools.cached_property
    def digest(self) -> str:
        """Return the sha256 of everything that decides the product's pixels."""
        return hash_json(
            {
                "numerics": self.numerics,
                "period": list(self.period),
                "region": json.loads(json.dumps(self.region)),
                "grids": [area.to_dict() for area in self.grids],
                "mosaics": [area.to_dict() for area in self.mosaic_grids],
                "tile": self.tile_size,
                "snapshot": self.snapshot.digest,
                "recipe": self.recipe.to_dict(),
                "model": self.model.to_dict() if self.model else None,
            }
        )

    @property
    def short_digest(self) -> str:
        """Return the first twelve digits of the digest: the name of the plan's folder."""
        return self.digest[:12]

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """Return the modalities that the model takes; without a model, all inputs."""
        accepted = self.model.inputs if self.model else self.recipe.inputs
        return tuple(modality for modality in self.recipe.inputs if modality in accepted)

    @property
    def counted_modality(self) -> str:
        """Return the modality whose days the layer ``observations`` counts."""
        return choose_counted_sensor(self.model_inputs)

    def required_bands(self, modality: str) -> tuple[str, ...]:
        """Return the bands that a modality must have: the model's, or those that the job names."""
        if self.model is not None and modality in self.model.inputs:
            return self.model.inputs[modality]
        return tuple(self.recipe.bands.get(modality, ()))

    def bands(self, modality: str) -> tuple[str, ...]:
        """Return the bands of a modality to composite: the model's, or those of the scenes."""
        if self.model is not None and modality in self.model.inputs:
            return self.model.inputs[modality]
        requested = self.recipe.bands.get(modality, get_sensor(modality).default_bands)
        return tuple(band for band in requested if (modality, band) in self._available_bands)

    @functools.cached_property
    def _available_bands(self) -> frozenset[tuple[str, str]]:
        """Return (modality, band) of all assets of the scenes."""
        return frozenset(
            (scene.modality, band) for scene in self.snapshot.scenes for band in scene.assets
        )

    def tile_grid(self, tile: Tile) -> Grid:
        """Return the grid of a tile's cells."""
        return self.grid_for(tile.epsg).window(
            row=tile.row, column=tile.column, height=tile.height, width=tile.width
        )

    def clip_tile(self, tile: Tile) -> Tile:
        """Return the smallest part of a tile that holds its part of the region.

        Only this part is read and predicted; all other cells of the tile are nodata.
        """
        return grid.clip_tile(
            tile,
            self.grid_for(tile.epsg),
            self._region_parts[tile.epsg],
            self.max_output_stride // self.output_stride,
        )

    @functools.cached_property
    def _region_parts(self) -> Mapping[int, shapely.STRtree]:
        """Return EPSG code → the polygons of the region of a grid, in its coordinates."""
        return {
            area.epsg: shapely.STRtree(
                shapely.get_parts(grid.project(self.region_for(area.epsg), area.epsg))
            )
            for area in self.grids
        }

    def pixel_grid(self, area: Grid) -> Grid:
        """Return the input pixels of a grid of cells: the resolution at which scenes are read."""
        return area.refine(self.output_stride)

    def window_placement(self, tile: Tile) -> WindowPlacement | None:
        """Return the windows from which a tile's outputs are blended; None without a model."""
        return (
            window_lattice.place_windows(self.pixel_grid(self.tile_grid(tile)), self.lattice)
            if self.lattice
            else None
        )

    def context_grid(self, tile: Tile) -> Grid:
        """Return the pixels to read for a tile: the extent of its windows, or the tile itself."""
        placement = self.window_placement(tile)
        return placement.context_grid if placement else self.pixel_grid(self.tile_grid(tile))

    def tile_scenes(self, tile: Tile) -> tuple[Scene, ...]:
        """Return the scenes that may touch a tile or its context."""
        return tuple(self.snapshot.scenes[index] for index in self.tile_scene_indices(tile))

    def tile_scene_indices(self, tile: Tile) -> tuple[int, ...]:
        """Return the indices of the snapshot's scenes that may touch a tile or its context."""
        if tile.id not in self._scene_indices_by_tile:
            self._scene_indices_by_tile[tile.id] = self.scene_indices(self.context_grid(tile))
        return self._scene_indices_by_tile[tile.id]

    def scene_indices(self, area: Grid) -> tuple[int, ...]:
        """Return the indices of the snapshot's scenes that may touch a grid."""
        return self._scene_indexes[area.epsg].query(area)

    @functools.cached_property
    def _scene_indices_by_tile(self) -> dict[str, tuple[int, ...]]:
        return {}

    @functools.cached_property
    def _scene_indexes(self) -> Mapping[int, SceneIndex]:
        return {area.epsg: SceneIndex(self.snapshot.scenes, area.epsg) for area in self.grids}

    def tile_key(self, tile: Tile) -> str:
        """Return the sha256 of everything that decides a tile's pixels; paths and engine do not."""
        return hash_json(
            {
                "numerics": self.numerics,
                "grid": self.tile_grid(tile).to_dict(),
                "common": self._shared_digests[tile.epsg],
                "scenes": sorted(
                    self._scene_digests[index] for index in self.tile_scene_indices(tile)
                ),
            }
        )

    @functools.cached_property
    def _scene_digests(self) -> tuple[str, ...]:
        """Return the sha256 of each scene's identity, hashed once rather than for every tile."""
        return tuple(hash_json(scene.identity()) for scene in self.snapshot.scenes)

    @functools.cached_property
    def _shared_digests(self) -> Mapping[int, str]:
        """Return EPSG code → sha256 of what all tiles of a grid have in common."""
        shared = {
            "recipe": self.recipe.to_dict(),
            "model": self.model.identity() if self.model else None,
        }
        return {
            area.epsg: hash_json({"ground": to_geojson(self.region_for(area.epsg)), **shared})
            for area in self.grids
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values, with its digest and that of the whole file."""
        values = {
            "format": FORMAT_VERSION,
            "plan": self.digest,
            "numerics": self.numerics,
            "name": self.name,
            "period": list(self.period),
            "region": self.region,
            "grids": [area.to_dict() for area in self.grids],
            "mosaics": [area.to_dict() for area in self.mosaic_grids],
            "tile": self.tile_size,
            "tiles": [tile.id for tile in self.tiles],
            "recipe": self.recipe.to_dict(),
            "model": self.model.to_dict() if self.model else None,
            "scenes": [scene.to_dict() for scene in self.snapshot.scenes],
            "refused": [asdict(refusal) for refusal in self.snapshot.refused],
            "doubts": [asdict(caveat) for caveat in self.caveats],
            "proof": dict(self.radiometry_verdicts),
            "job": self.settings.to_dict(),
        }
        return {**values, "sha256": hash_json(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build a plan from :meth:`to_dict`'s values.

        Raises:
            InvalidInputError: the values are not a plan, or were edited after it was frozen.
        """
        if not isinstance(values, dict):
            raise InvalidInputError(f"This is not a plan. {_REPLAN_HINT}")
        try:
            content = {key: value for key, value in values.items() if key != "sha256"}
            if values["sha256"] != hash_json(content):
                raise InvalidInputError(f"The plan was edited, or is truncated. {_REPLAN_HINT}")
            plan = cls(
                name=values["name"],
                period=(values["period"][0], values["period"][1]),
                region=values["region"],
                grids=tuple(Grid.from_dict(area) for area in values["grids"]),
                mosaic_grids=tuple(Grid.from_dict(area) for area in values["mosaics"]),
                tile_size=values["tile"],
                snapshot=Snapshot(
                    scenes=tuple(Scene.from_dict(scene) for scene in values["scenes"]),
                    refused=tuple(RejectedScene(**refusal) for refusal in values["refused"]),
                ),
                recipe=Recipe.from_dict(values["recipe"]),
                model=ModelSpec.from_dict(values["model"]) if values["model"] else None,
                caveats=tuple(Caveat(**caveat) for caveat in values["doubts"]),
                radiometry_verdicts=values["proof"],
                numerics=values.get("numerics", UNSTATED_NUMERICS),
                settings=RunSettings.from_dict(values["job"]),
            )
            stated_digest = values["plan"]
        except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
            raise InvalidInputError(
                f"This is not a plan, or one of another version ({type(error).__name__}: {error}). "
                f"{_REPLAN_HINT}"
            ) from error
        if plan.digest != stated_digest:
            raise InvalidInputError(
                f"The plan states the digest {str(stated_digest)[:12]}, but its content has "
                f"{plan.digest[:12]}: it was made by another version. {_REPLAN_HINT}"
            )
        return plan

    @classmethod
    def from_json(cls, data: bytes, location: str) -> Plan:
        """Build a plan from the bytes of a plan file.

        Args:
            data: UTF-8 JSON of :meth:`to_dict`'s values.
            location: where it was read, for messages.

        Raises:
            InvalidInputError: it is not a plan.
        """
        try:
            values = json.loads(data.decode("utf-8"))
        except ValueError as error:
            raise InvalidInputError(f"{location} cannot be read as a plan: {error}") from error
        try:
            return cls.from_dict(values)
        except InvalidInputError as error:
            raise InvalidInputError(f"{location}: {error}") from error


def hash_json(value: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON-ready values; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def from_geojson(region: Mapping[str, Any]) -> Any:
    """Return a GeoJSON geometry as a shapely one."""
    return shape(region)


def to_geojson(region: Any) -> dict[str, Any]:
    """Return a shapely geometry as GeoJSON."""
    return json.loads(json.dumps(mapping(region)))  # type: ignore[no-any-return]
