"""Records of a finished product, from which its STAC item and its report are made."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from catalogs.scene import Caveat, RejectedScene, Scene
from catalogs.sensors import Notice, get_sensor
from pipeline.grid.grid import Grid
from pipeline.layer_table import Layer, OutputKind
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.storage.cog import CogInfo
from pipeline.storage.store import Store

DOCUMENT_KINDS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "quicklook": ("Quicklook", "image/png", ("thumbnail", "overview")),
    "zarr": ("Analysis copy", "application/vnd.zarr; version=3", ("data",)),
    "report": ("Report", "text/html", ("metadata",)),
    "style": ("QGIS style", "application/xml", ("style", "metadata")),
    "sld": ("OGC style (SLD)", "application/vnd.ogc.sld+xml", ("style", "metadata")),
    "plan": ("Plan", "application/json", ("metadata",)),
}
"""Kind of document → title, media type, roles."""


@dataclass(frozen=True, kw_only=True)
class Raster:
    """One COG of a product."""

    key: str
    """Asset key: the layer's name, with ``_<epsg>`` on one grid of several, plain on the mosaic."""

    href: str
    """Path relative to the item."""

    layer: Layer
    grid: Grid

    bands: tuple[str, ...]
    """Names of the bands, in their order in the file."""

    info: CogInfo

    is_mosaic: bool = False
    """Whether it repeats the pixels of other rasters: it is not counted."""

    def __post_init__(self) -> None:
        _check_relative_href(self.href)
        if len(self.bands) != len(self.info.statistics):
            raise ValueError(
                f"{self.href} has {len(self.info.statistics)} bands, but the names {self.bands}."
            )

    @property
    def crs_code(self) -> str:
        """Return the code of its coordinate system."""
        return f"EPSG:{self.grid.epsg}"


@dataclass(frozen=True, kw_only=True)
class CoverageCounts:
    """Counts of the region's cells over all grids: all, unobserved, unclassified."""

    inside: int
    unobserved: int
    """Without a clear observation."""

    unclassified: int
    """Observed, but without a class."""

    @classmethod
    def from_rasters(
        cls, rasters: Iterable[Raster], main_layer: Layer | None
    ) -> CoverageCounts | None:
        """Sum the counts of rasters; None if no raster of observations is among them."""
        inside = unobserved = unmapped = 0
        has_observations = False
        has_classes = main_layer is not None and main_layer.kind == "classes"
        for raster in rasters:
            band = raster.info.statistics[0]
            if raster.is_mosaic:
                continue
            if raster.layer.name == "observations":
                has_observations = True
                inside += band.valid
                unobserved += (band.counts or {}).get(0, 0)
                unmapped += band.valid if has_classes else 0
            elif has_classes and raster.layer == main_layer:
                unmapped -= band.valid
        if not has_observations:
            return None
        return cls(
            inside=inside,
            unobserved=unobserved,
            unclassified=max(unmapped - unobserved, 0),
        )

    @property
    def not_observed_percent(self) -> float:
        """Return the percentage of the region without a clear observation."""
        return 100.0 * self.unobserved / max(self.inside, 1)

    @property
    def not_classified_percent(self) -> float:
        """Return the percentage of the region that was observed and has no class."""
        return 100.0 * self.unclassified / max(self.inside, 1)


@dataclass(frozen=True, kw_only=True)
class Document:
    """Any other file of a product."""

    key: str
    """Asset key."""

    href: str
    """Path relative to the item."""

    kind: str
    """quicklook, zarr, report, style, sld or plan."""

    sha256: str | None = None
    """Hexadecimal digest; None for a folder."""

    size: int | None = None
    """Bytes; None for a folder."""

    description: str | None = None
    """What a reader has to know to open it; None for nothing."""

    def __post_init__(self) -> None:
        _check_relative_href(self.href)
        if self.kind not in DOCUMENT_KINDS:
            raise ValueError(
                f"{self.kind!r} is no kind of document; the kinds are {list(DOCUMENT_KINDS)}."
            )

    @classmethod
    def from_object(cls, store: Store, href: str, *, kind: str, key: str | None = None) -> Document:
        """Describe an object in the store of the item's folder.

        Args:
            store: the item's folder.
            href: name of the object.
            kind: as :attr:`kind`.
            key: asset key; the kind by default.

        Raises:
            FileNotFoundError: there is no such object.
        """
        info = store.info(href)
        if info is None:
            raise FileNotFoundError(f"{store.location}/{href}")
        sha256 = store.sha256(href)
        return cls(key=key or kind, href=href, kind=kind, sha256=sha256, size=info.size)


@dataclass(frozen=True, kw_only=True)
class MissingTile:
    """A tile that is missing from a partial product."""

    tile: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made the product."""

    plan_digest: str
    """Hash of the plan."""

    model: str | None
    """Name of the model; None for a product of composites only."""

    model_digest: str | None
    """SHA-256 over the model's configuration, weights and statistics."""

    s2_convention: str
    """How Sentinel-2 numbers reach the model, such as ``offset-free``."""

    version: str
    """Version of terramosaic."""

    software: Mapping[str, str] = field(default_factory=dict)
    """Name → version of the other packages that determine the pixels."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The recipe of the plan, JSON-ready."""

    main_layer: Layer | None = None
    """The layer of the model's main output, where there is a model."""

    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the model and the sources of its weights; JSON-ready, without folders."""

    is_random: bool = False
    """Whether any weights of the model are random: its output is then meaningless."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product: a region in one period, with its files, inputs, provenance and figures."""

    name: str

    title: str

    start: dt.date
    """First day."""

    end: dt.date
    """Last day, inclusive."""

    created: dt.datetime
    """When it was published, with a time zone."""

    region: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, longitude and latitude."""

    bbox: tuple[float, float, float, float]
    """(west, south, east, north) in degrees."""

    grids: tuple[Grid, ...]
    """One per zone, or one."""

    rasters: tuple[Raster, ...]
    """Empty for a product without COGs."""

    documents: tuple[Document, ...]

    scenes: tuple[Scene, ...]
    """Scenes that were used."""

    refused: tuple[RejectedScene, ...]
    provenance: Provenance
    caveats: tuple[Caveat, ...] = ()
    """Open questions about scenes that were used."""

    coverage_warnings: tuple[str, ...] = ()
    """Sentences on noticeable parts of the region that were not observed or lack an input."""

    verdict_counts: Mapping[str, int] = field(default_factory=dict)
    """Status of the radiometry check → number of used scenes."""

    missing_tiles: tuple[MissingTile, ...] = ()
    """Empty unless the product is declared partial."""

    accuracy: AccuracyMetrics | None = None
    """Agreement with a reference map, where there is one."""

    quality: QualityMetrics | None = None
    """Seam and sample figures."""

    accuracy_reference: str = ""
    """Description of the reference map."""

    license: str = "other"
    """SPDX identifier, or ``other`` with links that explain it."""

    notices: tuple[Notice, ...] = ()
    """Licences and legal notices of the inputs."""

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"The period {self.start} to {self.end} ends before it begins.")
        if self.created.tzinfo is None:
            raise ValueError(f"The time of publication {self.created} needs a time zone.")
        if not self.grids:
            raise ValueError("A product needs at least one grid.")
        names = [raster.key for raster in self.rasters]
        keys = Counter([*names, *(document.key for document in self.documents)])
        if twice := [key for key, times in keys.items() if times > 1]:
            raise ValueError(f"Asset keys must be unique; these come twice: {twice}.")

    @property
    def id(self) -> str:
        """Return the item's id."""
        return f"{self.name}_{self.period_dir}"

    @property
    def period_dir(self) -> str:
        """Return the name of the period's folder: both days, as YYYY-MM-DD."""
        return f"{self.start.isoformat()}_{self.end.isoformat()}"

    @property
    def output_kind(self) -> OutputKind | None:
        """Return the kind of the main output; None without a model."""
        return self.provenance.main_layer.kind if self.provenance.main_layer else None

    @property
    def scenes_without_scl(self) -> tuple[str, ...]:
        """Return the ids of Sentinel-2 scenes without any mask band; they count as clear."""
        return tuple(
            scene.id
            for scene in self.scenes
            if (sensor := get_sensor(scene.modality)).group == "optical"
            and not set(sensor.mask_bands) & set(scene.assets)
        )

    @property
    def coverage_counts(self) -> CoverageCounts | None:
        """Return the counts of unobserved and unclassified cells."""
        return CoverageCounts.from_rasters(self.rasters, self.provenance.main_layer)

    def rasters_for_layer(self, layer_name: str) -> tuple[Raster, ...]:
        """Return the rasters of a layer, one per grid, without the mosaics."""
        return tuple(
            raster
            for raster in self.rasters
            if raster.layer.name == layer_name and not raster.is_mosaic
        )

    def count_values(self, layer_name: str) -> dict[int, int]:
        """Return the pixels per value over the first bands of a layer's rasters."""
        return count_values(self.rasters, layer_name)


def count_values(rasters: Iterable[Raster], layer_name: str) -> dict[int, int]:
    """Return the pixels per value over the first bands of a layer's rasters, without mosaics."""
    total: Counter[int] = Counter()
    for raster in rasters:
        if raster.layer.name == layer_name and not raster.is_mosaic:
            total.update(raster.info.statistics[0].counts or {})
    return dict(sorted(total.items()))


def _check_relative_href(href: str) -> None:
    """Raise ValueError for an href that leaves the item's folder or is absolute."""
    if href.startswith(("/", "~")) or ".." in href.split("/") or ":" in href or "\\" in href:
        raise ValueError(
            f"The href of an asset must be a relative path below its item, not {href!r}."
        )
