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

from catalogs.errors import Wrong
from catalogs.scene import WANTED, Scene
from catalogs.scene_selection import Refusal
from catalogs.search import Doubt
from catalogs.snapshot import Snapshot
from pipeline.grid import grid, utm, window_lattice
from pipeline.grid.grid import Grid, Tile
from pipeline.grid.scene_index import Neighbours
from pipeline.grid.window_lattice import Lattice, Placement
from pipeline.plan.recipe import Model, Recipe
from pipeline.runtime import atomic_files

NUMERICS = 5
"""Raised whenever the same scenes, recipe and model give other numbers than before."""

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
"""What a product may be called: the name becomes a folder, and a plan is a file from anywhere."""

FORMAT = 4
"""Layout of the plan file."""

_AGAIN = "Make a new one with: terramosaic plan JOB -o plan.json"


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

    mosaics: tuple[Grid, ...] = ()
    """The grids on which those of several zones are joined, one per coordinate system."""

    tile: int
    """Side of a tile, cells of the grid."""

    snapshot: Snapshot
    recipe: Recipe
    model: Model | None
    """None: composites only."""

    doubts: tuple[Doubt, ...] = ()
    """What the catalog left open about scenes that are used all the same."""

    proof: Mapping[str, int] = field(default_factory=dict)
    """What the pixels say of what the catalog claims of them → scenes used."""

    job: Mapping[str, Any]
    """How to run it again: the job as it was written. Not part of the identity."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot name a folder")
        for day in self.period:
            dt.date.fromisoformat(day)
        if not self.grids or len({one.epsg for one in self.grids}) < len(self.grids):
            raise ValueError("a plan needs grids, each of another coordinate system")
        origins = [step for one in self.grids for step in self.pixels(one).origin_index()]
        steps = (self.recipe.stride, self.recipe.margin, self.tile * self.cell, *origins)
        if any(step % self.coarsest for step in steps):
            raise ValueError(f"grid, tiles and windows must begin and step by {self.coarsest} px")
            # ^ the cells of neighbouring windows would lie beside each other

    @functools.cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Return the tiles, grid by grid and row by row."""
        several = len(self.grids) > 1
        return tuple(
            tile
            for one in self.grids
            for tile in grid.tiles(one, self.tile, prefix=f"{one.epsg}-" if several else "")
        )

    @functools.cached_property
    def named(self) -> Mapping[str, Tile]:
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

    def on(self, epsg: int) -> Grid:
        """Return the grid of a coordinate system."""
        return next(one for one in self.grids if one.epsg == epsg)

    def ground(self, epsg: int) -> BaseGeometry:
        """Return what a grid answers for: the region, or its part in the grid's own zone.

        No place belongs to two grids. Longitude and latitude.
        """
        return self._grounds[epsg]

    @functools.cached_property
    def _grounds(self) -> Mapping[int, BaseGeometry]:
        region = geometry(self.region)
        if len(self.grids) == 1:
            return {self.grid.epsg: region}
        return {one.epsg: utm.ground(region, one.epsg) for one in self.grids}

    @property
    def cell(self) -> int:
        """Return the pixels along a side of the grid's cells: 1 unless all answers are coarse."""
        return self.model.cell if self.model else 1

    @property
    def coarsest(self) -> int:
        """Return the pixels along the side of the coarsest answer's cell."""
        return self.model.coarsest if self.model else 1

    def factor(self, layer: str) -> int:
        """Return how many cells of the grid make one of a layer, along a side."""
        answers = self.model.answers if self.model else ()
        return next((one.cell // self.cell for one in answers if one.layer == layer), 1)

    @property
    def lattice(self) -> Lattice | None:
        """Return the lattice of the model's windows, in pixels."""
        if self.model is None:
            return None
        return Lattice(
            window=self.model.window, stride=self.recipe.stride, margin=self.recipe.margin
        )

    @functools.cached_property
    def digest(self) -> str:
        """Return the sha256 of everything that decides the product's pixels."""
        return digest(
            {
                "numerics": NUMERICS,
                "period": list(self.period),
                "region": json.loads(json.dumps(self.region)),
                "grids": [one.to_dict() for one in self.grids],
                "mosaics": [one.to_dict() for one in self.mosaics],
                "tile": self.tile,
                "snapshot": self.snapshot.digest,
                "recipe": self.recipe.to_dict(),
                "model": self.model.to_dict() if self.model else None,
            }
        )

    @property
    def short(self) -> str:
        """Return the first twelve digits of the digest: the name of the product's folder."""
        return self.digest[:12]

    @property
    def given(self) -> tuple[str, ...]:
        """Return the inputs that the model sees; all of them where there is no model."""
        shown = self.model.inputs if self.model else self.recipe.inputs
        return tuple(name for name in self.recipe.inputs if name in shown)

    def bands(self, modality: str) -> tuple[str, ...]:
        """Return the bands of a modality that are composed: the model's, or all that exist."""
        if self.model is not None and modality in self.model.inputs:
            return self.model.inputs[modality]
        wanted = self.recipe.bands.get(modality, WANTED[modality])
        return tuple(band for band in wanted if (modality, band) in self._held)

    @functools.cached_property
    def _held(self) -> frozenset[tuple[str, str]]:
        """Return modality and band of everything that the scenes hold."""
        return frozenset(
            (scene.modality, band) for scene in self.snapshot.scenes for band in scene.assets
        )

    def area(self, tile: Tile) -> Grid:
        """Return the grid of a tile's cells."""
        return self.on(tile.epsg).window(
            row=tile.row, column=tile.column, height=tile.height, width=tile.width
        )

    def pixels(self, area: Grid) -> Grid:
        """Return the pixels of an area given in cells: what is read, composed and looked at."""
        return area.refined(self.cell)

    def placement(self, tile: Tile) -> Placement | None:
        """Return the windows that a tile's answers are blended from, in pixels."""
        return (
            window_lattice.place(self.pixels(self.area(tile)), self.lattice)
            if self.lattice
            else None
        )

    def context(self, tile: Tile) -> Grid:
        """Return the pixels that must be read for a tile: its windows, or the tile itself."""
        placed = self.placement(tile)
        return placed.context if placed else self.pixels(self.area(tile))

    def scenes(self, tile: Tile) -> tuple[Scene, ...]:
        """Return the scenes that may touch a tile or its context."""
        return tuple(self.snapshot.scenes[number] for number in self.near(tile))

    def near(self, tile: Tile) -> tuple[int, ...]:
        """Return where, among the snapshot's scenes, those stand that may touch a tile."""
        if tile.id not in self._near:
            self._near[tile.id] = self.meeting(self.context(tile))
        return self._near[tile.id]

    def meeting(self, area: Grid) -> tuple[int, ...]:
        """Return where, among the snapshot's scenes, those stand that may touch a grid."""
        return self._neighbours[area.epsg].of(area)

    @functools.cached_property
    def _near(self) -> dict[str, tuple[int, ...]]:
        return {}

    @functools.cached_property
    def _neighbours(self) -> Mapping[int, Neighbours]:
        return {one.epsg: Neighbours(self.snapshot.scenes, one.epsg) for one in self.grids}

    def key(self, tile: Tile) -> str:
        """Return the sha256 of everything that decides a tile's pixels; no path, no engine."""
        return digest(
            {
                "numerics": NUMERICS,
                "grid": self.area(tile).to_dict(),
                "common": self._common[tile.epsg],
                "scenes": sorted(self._identities[number] for number in self.near(tile)),
            }
        )

    @functools.cached_property
    def _identities(self) -> tuple[str, ...]:
        """Return the sha256 of what each scene is: hashed once, and not for every tile."""
        return tuple(digest(scene.identity()) for scene in self.snapshot.scenes)

    @functools.cached_property
    def _common(self) -> Mapping[int, str]:
        """Return EPSG code → sha256 of what all tiles of a grid have in common."""
        shared = {
            "recipe": self.recipe.to_dict(),
            "model": self.model.to_dict() if self.model else None,
        }
        return {
            one.epsg: digest({"ground": geojson(self.ground(one.epsg)), **shared})
            for one in self.grids
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values, with its digest and that of the whole file."""
        values = {
            "format": FORMAT,
            "plan": self.digest,
            "name": self.name,
            "period": list(self.period),
            "region": self.region,
            "grids": [one.to_dict() for one in self.grids],
            "mosaics": [one.to_dict() for one in self.mosaics],
            "tile": self.tile,
            "tiles": [tile.id for tile in self.tiles],
            "recipe": self.recipe.to_dict(),
            "model": self.model.to_dict() if self.model else None,
            "scenes": [scene.to_dict() for scene in self.snapshot.scenes],
            "refused": [asdict(refusal) for refusal in self.snapshot.refused],
            "doubts": [asdict(doubt) for doubt in self.doubts],
            "proof": dict(self.proof),
            "job": self.job,
        }
        return {**values, "sha256": digest(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build a plan from :meth:`to_dict`'s values.

        Raises:
            Wrong: the values are not those of a plan, or were changed after it was frozen.
        """
        if not isinstance(values, dict):
            raise Wrong(f"This is no plan. {_AGAIN}")
        try:
            rest = {key: value for key, value in values.items() if key != "sha256"}
            if values["sha256"] != digest(rest):
                raise Wrong(f"The plan was edited, or cut short. {_AGAIN}")
            plan = cls(
                name=values["name"],
                period=(values["period"][0], values["period"][1]),
                region=values["region"],
                grids=tuple(Grid.from_dict(one) for one in values["grids"]),
                mosaics=tuple(Grid.from_dict(one) for one in values["mosaics"]),
                tile=values["tile"],
                snapshot=Snapshot(
                    scenes=tuple(Scene.from_dict(scene) for scene in values["scenes"]),
                    refused=tuple(Refusal(**refusal) for refusal in values["refused"]),
                ),
                recipe=Recipe.from_dict(values["recipe"]),
                model=Model.from_dict(values["model"]) if values["model"] else None,
                doubts=tuple(Doubt(**doubt) for doubt in values["doubts"]),
                proof=values["proof"],
                job=values["job"],
            )
            claimed = values["plan"]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise Wrong(
                f"This is no plan, or one of another version ({type(error).__name__}: {error}). "
                f"{_AGAIN}"
            ) from error
        if plan.digest != claimed:
            raise Wrong(
                f"The plan's content has the digest {plan.digest[:12]}, but it says "
                f"{str(claimed)[:12]}: it was made by another version. {_AGAIN}"
            )
        return plan

    def write(self, path: Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        atomic_files.write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan file.

        Raises:
            Wrong: there is no such file, or it is not a plan.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Wrong(f"{path} is not a plan that can be read: {error}") from error
        try:
            return cls.from_dict(values)
        except Wrong as error:
            raise Wrong(f"{path}: {error}") from error


def digest(value: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON-ready values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def geometry(region: Mapping[str, Any]) -> Any:
    """Return a GeoJSON geometry as a shapely one."""
    return shape(region)


def geojson(region: Any) -> dict[str, Any]:
    """Return a shapely geometry as GeoJSON."""
    return json.loads(json.dumps(mapping(region)))  # type: ignore[no-any-return]
