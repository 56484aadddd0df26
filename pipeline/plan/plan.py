"""The frozen plan: scenes, grids, recipe and model, cut into tiles. A run executes a plan."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from catalogs.errors import InvalidInputError
from catalogs.scene import DEFAULT_BANDS, Scene
from catalogs.scene_selection import RejectedScene
from catalogs.search import Caveat
from catalogs.snapshot import Snapshot
from pipeline.grid import grid, utm, window_lattice
from pipeline.grid.grid import Grid, Tile
from pipeline.grid.scene_index import SceneIndex
from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.runtime import atomic_files

NUMERICS_VERSION = 5
"""Raised whenever the same scenes, recipe and model give other numbers than before."""

PRODUCT_NAME_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
"""What a product may be called: the name becomes a folder, and a plan is a file from anywhere."""

FORMAT_VERSION = 4
"""Layout of the plan file."""

_REPLAN_HINT = "Make a new one with: terramosaic plan JOB -o plan.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One product, frozen."""

    name: str
    period: tuple[str, str]
    """First and last day, YYYY-MM-DD, both inclusive."""

    region: Mapping[str, Any]
    """GeoJSON geometry in longitude and latitude."""

    grids: tuple[Grid, ...]
    """The grids of the product's layers, in cells of the answer: one per UTM zone, or one."""

    mosaic_grids: tuple[Grid, ...] = ()
    """The grids on which those of several zones are joined, one per coordinate system."""

    tile_size: int
    """Side of a tile, cells of the grid."""

    snapshot: Snapshot
    recipe: Recipe
    model: ModelSpec | None
    """None: composites only."""

    caveats: tuple[Caveat, ...] = ()
    """What the catalog left open about scenes that are used all the same."""

    radiometry_verdicts: Mapping[str, int] = field(default_factory=dict)
    """What the pixels say of what the catalog claims of them → scenes used."""

    job: Mapping[str, Any]
    """How to run it again: the job as it was written. Not part of the identity."""

    def __post_init__(self) -> None:
        if not PRODUCT_NAME_PATTERN.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot name a folder")
        for day in self.period:
            dt.date.fromisoformat(day)
        if not self.grids or len({one.epsg for one in self.grids}) < len(self.grids):
            raise ValueError("a plan needs grids, each of another coordinate system")
        origins = [step for one in self.grids for step in self.pixel_grid(one).origin_index()]
        steps = (
            self.recipe.stride,
            self.recipe.margin,
            self.tile_size * self.output_stride,
            *origins,
        )
        if any(step % self.max_output_stride for step in steps):
            raise ValueError(
                f"grid, tiles and windows must begin and step by {self.max_output_stride} px"
            )
            # ^ the cells of neighbouring windows would lie beside each other

    @functools.cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Return the tiles, grid by grid and row by row."""
        several = len(self.grids) > 1
        return tuple(
            tile
            for one in self.grids
            for tile in grid.split_into_tiles(
                one, self.tile_size, id_prefix=f"{one.epsg}-" if several else ""
            )
        )

    @functools.cached_property
    def tiles_by_id(self) -> Mapping[str, Tile]:
        """Return the tiles by their ids."""
        return {tile.id: tile for tile in self.tiles}

    @property
    def grid(self) -> Grid:
        """Return the grid of a plan that has one.

        Raises:
            ValueError: it has several.
        """
        (only,) = self.grids
        return only

    def grid_for(self, epsg: int) -> Grid:
        """Return the grid of a coordinate system."""
        return next(one for one in self.grids if one.epsg == epsg)

    def region_for(self, epsg: int) -> BaseGeometry:
        """Return what a grid answers for: the region, or its part in the grid's own zone.

        No place belongs to two grids. Longitude and latitude.
        """
        return self._regions_by_epsg[epsg]

    @functools.cached_property
    def _regions_by_epsg(self) -> Mapping[int, BaseGeometry]:
        region = from_geojson(self.region)
        if len(self.grids) == 1:
            return {self.grid.epsg: region}
        return {one.epsg: utm.clip_to_zone(region, one.epsg) for one in self.grids}

    @property
    def output_stride(self) -> int:
        """Return the pixels along a side of the grid's cells: 1 unless all answers are coarse."""
        return self.model.output_stride if self.model else 1

    @property
    def max_output_stride(self) -> int:
        """Return the pixels along the side of the coarsest answer's cell."""
        return self.model.max_output_stride if self.model else 1

    def coarsening_factor(self, layer: str) -> int:
        """Return how many cells of the grid make one of a layer, along a side."""
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
                "numerics": NUMERICS_VERSION,
                "period": list(self.period),
                "region": json.loads(json.dumps(self.region)),
                "grids": [one.to_dict() for one in self.grids],
                "mosaics": [one.to_dict() for one in self.mosaic_grids],
                "tile": self.tile_size,
                "snapshot": self.snapshot.digest,
                "recipe": self.recipe.to_dict(),
                "model": self.model.to_dict() if self.model else None,
            }
        )

    @property
    def short_digest(self) -> str:
        """Return the first twelve digits of the digest: the name of the product's folder."""
        return self.digest[:12]

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """Return the inputs that the model sees; all of them where there is no model."""
        shown = self.model.inputs if self.model else self.recipe.inputs
        return tuple(name for name in self.recipe.inputs if name in shown)

    def bands(self, modality: str) -> tuple[str, ...]:
        """Return the bands of a modality that are composed: the model's, or all that exist."""
        if self.model is not None and modality in self.model.inputs:
            return self.model.inputs[modality]
        wanted = self.recipe.bands.get(modality, DEFAULT_BANDS[modality])
        return tuple(band for band in wanted if (modality, band) in self._available_bands)

    @functools.cached_property
    def _available_bands(self) -> frozenset[tuple[str, str]]:
        """Return modality and band of everything that the scenes hold."""
        return frozenset(
            (scene.modality, band) for scene in self.snapshot.scenes for band in scene.assets
        )

    def tile_grid(self, tile: Tile) -> Grid:
        """Return the grid of a tile's cells."""
        return self.grid_for(tile.epsg).window(
            row=tile.row, column=tile.column, height=tile.height, width=tile.width
        )

    def pixel_grid(self, area: Grid) -> Grid:
        """Return the pixels of an area given in cells: what is read, composed and looked at."""
        return area.refine(self.output_stride)

    def window_placement(self, tile: Tile) -> WindowPlacement | None:
        """Return the windows that a tile's answers are blended from, in pixels."""
        return (
            window_lattice.place_windows(self.pixel_grid(self.tile_grid(tile)), self.lattice)
            if self.lattice
            else None
        )

    def context_grid(self, tile: Tile) -> Grid:
        """Return the pixels that must be read for a tile: its windows, or the tile itself."""
        placed = self.window_placement(tile)
        return placed.context_grid if placed else self.pixel_grid(self.tile_grid(tile))

    def tile_scenes(self, tile: Tile) -> tuple[Scene, ...]:
        """Return the scenes that may touch a tile or its context."""
        return tuple(self.snapshot.scenes[number] for number in self.tile_scene_indices(tile))

    def tile_scene_indices(self, tile: Tile) -> tuple[int, ...]:
        """Return where, among the snapshot's scenes, those stand that may touch a tile."""
        if tile.id not in self._scene_indices_by_tile:
            self._scene_indices_by_tile[tile.id] = self.scene_indices(self.context_grid(tile))
        return self._scene_indices_by_tile[tile.id]

    def scene_indices(self, area: Grid) -> tuple[int, ...]:
        """Return where, among the snapshot's scenes, those stand that may touch a grid."""
        return self._scene_indexes[area.epsg].query(area)

    @functools.cached_property
    def _scene_indices_by_tile(self) -> dict[str, tuple[int, ...]]:
        return {}

    @functools.cached_property
    def _scene_indexes(self) -> Mapping[int, SceneIndex]:
        return {one.epsg: SceneIndex(self.snapshot.scenes, one.epsg) for one in self.grids}

    def tile_key(self, tile: Tile) -> str:
        """Return the sha256 of everything that decides a tile's pixels; no path, no engine."""
        return hash_json(
            {
                "numerics": NUMERICS_VERSION,
                "grid": self.tile_grid(tile).to_dict(),
                "common": self._shared_digests[tile.epsg],
                "scenes": sorted(
                    self._scene_digests[number] for number in self.tile_scene_indices(tile)
                ),
            }
        )

    @functools.cached_property
    def _scene_digests(self) -> tuple[str, ...]:
        """Return the sha256 of what each scene is: hashed once, and not for every tile."""
        return tuple(hash_json(scene.identity()) for scene in self.snapshot.scenes)

    @functools.cached_property
    def _shared_digests(self) -> Mapping[int, str]:
        """Return EPSG code → sha256 of what all tiles of a grid have in common."""
        shared = {
            "recipe": self.recipe.to_dict(),
            "model": self.model.to_dict() if self.model else None,
        }
        return {
            one.epsg: hash_json({"ground": to_geojson(self.region_for(one.epsg)), **shared})
            for one in self.grids
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values, with its digest and that of the whole file."""
        values = {
            "format": FORMAT_VERSION,
            "plan": self.digest,
            "name": self.name,
            "period": list(self.period),
            "region": self.region,
            "grids": [one.to_dict() for one in self.grids],
            "mosaics": [one.to_dict() for one in self.mosaic_grids],
            "tile": self.tile_size,
            "tiles": [tile.id for tile in self.tiles],
            "recipe": self.recipe.to_dict(),
            "model": self.model.to_dict() if self.model else None,
            "scenes": [scene.to_dict() for scene in self.snapshot.scenes],
            "refused": [asdict(refusal) for refusal in self.snapshot.refused],
            "doubts": [asdict(doubt) for doubt in self.caveats],
            "proof": dict(self.radiometry_verdicts),
            "job": self.job,
        }
        return {**values, "sha256": hash_json(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build a plan from :meth:`to_dict`'s values.

        Raises:
            InvalidInputError: the values are not those of a plan, or were changed after it was frozen.
        """
        if not isinstance(values, dict):
            raise InvalidInputError(f"This is no plan. {_REPLAN_HINT}")
        try:
            rest = {key: value for key, value in values.items() if key != "sha256"}
            if values["sha256"] != hash_json(rest):
                raise InvalidInputError(f"The plan was edited, or cut short. {_REPLAN_HINT}")
            plan = cls(
                name=values["name"],
                period=(values["period"][0], values["period"][1]),
                region=values["region"],
                grids=tuple(Grid.from_dict(one) for one in values["grids"]),
                mosaic_grids=tuple(Grid.from_dict(one) for one in values["mosaics"]),
                tile_size=values["tile"],
                snapshot=Snapshot(
                    scenes=tuple(Scene.from_dict(scene) for scene in values["scenes"]),
                    refused=tuple(RejectedScene(**refusal) for refusal in values["refused"]),
                ),
                recipe=Recipe.from_dict(values["recipe"]),
                model=ModelSpec.from_dict(values["model"]) if values["model"] else None,
                caveats=tuple(Caveat(**doubt) for doubt in values["doubts"]),
                radiometry_verdicts=values["proof"],
                job=values["job"],
            )
            claimed = values["plan"]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InvalidInputError(
                f"This is no plan, or one of another version ({type(error).__name__}: {error}). "
                f"{_REPLAN_HINT}"
            ) from error
        if plan.digest != claimed:
            raise InvalidInputError(
                f"The plan's content has the digest {plan.digest[:12]}, but it says "
                f"{str(claimed)[:12]}: it was made by another version. {_REPLAN_HINT}"
            )
        return plan

    def write(self, path: Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        atomic_files.write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan file.

        Raises:
            InvalidInputError: there is no such file, or it is not a plan.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"{path} is not a plan that can be read: {error}") from error
        try:
            return cls.from_dict(values)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error}") from error


def hash_json(value: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON-ready values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def from_geojson(region: Mapping[str, Any]) -> Any:
    """Return a GeoJSON geometry as a shapely one."""
    return shape(region)


def to_geojson(region: Any) -> dict[str, Any]:
    """Return a shapely geometry as GeoJSON."""
    return json.loads(json.dumps(mapping(region)))  # type: ignore[no-any-return]
