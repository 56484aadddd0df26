"""From finished tiles to a product: COGs, pictures, report, and the STAC item last."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import lonlat_geometry
from catalogs.errors import InvalidInputError
from pipeline import tile, tile_layers
from pipeline.grid.grid import Grid
from pipeline.plan import layers
from pipeline.plan.plan import Plan, from_geojson
from pipeline.product import provenance, stac_collection, stac_item
from pipeline.product.product import Document, MissingTile, Product, Provenance, Raster
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.quality.gates import QualityMetrics
from pipeline.report import figures, rendering, report
from pipeline.runtime import atomic_files, cancellation
from pipeline.storage import cog, mosaic, receipt, styles, zarr_store

NOTICES = (
    (
        "Sentinel data legal notice",
        "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice",
    ),
    (
        "Copernicus DEM licence",
        "https://spacedata.copernicus.eu/collections/copernicus-digital-elevation-model",
    ),
)


def publish_product(
    plan: Plan,
    product_dir: Path,
    *,
    missing_tiles: Sequence[MissingTile] = (),
    accuracy: AccuracyMetrics | None = None,
    quality: QualityMetrics | None = None,
    formats: Sequence[str] = ("cog", "zarr"),
    on_layer: Callable[[str], None] | None = None,
) -> Path:
    """Write everything that a product has and return its item.

    Args:
        plan: the plan, all of whose tiles are finished or declared as holes.
        product_dir: the product's folder, where ``item.json`` goes.
        missing_tiles: tiles that are missing.
        accuracy: agreement with a truth, where one is known.
        quality: what was found at the lines by which the work was cut.
        formats: ``cog``, ``zarr`` or both.
        on_layer: called with the name of each finished COG.
    """
    folder = product_dir / plan.short_digest
    rasters = tuple(_write_rasters(plan, product_dir, folder, on_layer)) if "cog" in formats else ()
    documents = list(_write_documents(product_dir, folder, rasters, formats))
    drawn = figures.draw_report_images(plan, product_dir, rasters)
    if drawn is not None:
        look, page = folder / "quicklook.png", folder / "report.html"
        atomic_files.write_atomic(look, drawn.quicklook)
        documents.append(Document.from_path(look, item_dir=product_dir, kind="quicklook"))
        product = _build_product(plan, rasters, documents, missing_tiles, accuracy, quality)
        atomic_files.write_atomic(page, report.render_report(product, drawn).encode())
        documents.append(Document.from_path(page, item_dir=product_dir, kind="report"))
    product = _build_product(plan, rasters, documents, missing_tiles, accuracy, quality)
    atomic_files.write_json(product_dir / "item.json", stac_item.build_item(product))
    items = stac_collection.read_items(product_dir.parent)
    whole = stac_collection.build_collection(items, title=plan.name, license=product.license)
    atomic_files.write_json(product_dir.parent / "collection.json", whole)
    return product_dir / "item.json"


PARALLEL_LAYERS = 2
"""Layers written side by side: GDAL compresses one on one core, and holds some blocks of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _GridLayers:
    """One grid of a product: a zone's, the only one, or a mosaic's."""

    grid: Grid
    store_path: Path
    cog_dir: Path
    suffix: str
    """What its asset keys have after the layer's name."""

    is_mosaic: bool
    layer_bands: Mapping[str, tuple[str, ...]]
    """Layer → names of its bands."""


def _write_rasters(
    plan: Plan, product_dir: Path, plan_dir: Path, on_layer: Callable[[str], None] | None
) -> Iterator[Raster]:
    sheets = zarr_store.group_layers_by_factor(plan, tile_layers.list_layer_bands(plan))
    for grid, (factor, held) in itertools.product(plan.grids, sheets.items()):
        sheet = _GridLayers(
            grid=grid.coarsen(factor),
            store_path=zarr_store.store_path(plan_dir, plan, grid.epsg, factor),
            cog_dir=plan_dir / str(grid.epsg),
            suffix="" if len(plan.grids) == 1 else f"_{grid.epsg}",
            is_mosaic=False,
            layer_bands=held,
        )
        yield from _write_grid_layers(plan, product_dir, sheet, on_layer)
    for grid in plan.mosaic_grids:
        with atomic_files.temporary_directory(plan_dir) as work:
            path = work / zarr_store.STORE_NAME
            mosaic.write_mosaic(plan, plan_dir, grid, path, sheets[1])
            # ^ coarser answers stay in their zones: their cells do not meet
            sheet = _GridLayers(
                grid=grid,
                store_path=path,
                cog_dir=plan_dir / mosaic_dir_name(grid),
                suffix="" if _is_default_mosaic(plan, grid) else f"_mosaic_{grid.epsg}",
                is_mosaic=True,
                layer_bands=sheets[1],
            )
            yield from _write_grid_layers(plan, product_dir, sheet, on_layer)


def _is_default_mosaic(plan: Plan, grid: Grid) -> bool:
    """Tell whether a mosaic's layers carry the plain names: the first of several zones'."""
    return len(plan.grids) > 1 and grid == plan.mosaic_grids[0]


def mosaic_dir_name(grid: Grid) -> str:
    """Return the name of the folder that a mosaic's COGs lie in."""
    return f"mosaic_{grid.epsg}"


def main_dir_name(plan: Plan) -> str:
    """Return the folder of the COGs that show all of a product: those of the plain names."""
    return str(plan.grid.epsg) if len(plan.grids) == 1 else mosaic_dir_name(plan.mosaic_grids[0])


def _write_grid_layers(
    plan: Plan, product_dir: Path, grid_layers: _GridLayers, on_layer: Callable[[str], None] | None
) -> Iterator[Raster]:
    def write(name: str) -> Raster:
        layer, bands = layers.get(name), grid_layers.layer_bands[name]
        path = grid_layers.cog_dir / f"{name}.tif"
        info = cog.write_cog(
            path,
            grid_layers.grid,
            layer,
            functools.partial(_read_rows, grid_layers.store_path, name, grid_layers.grid.width),
            bands=bands,
            tags=_cog_tags(plan),
        )
        if on_layer is not None:
            on_layer(name)
        return Raster(
            key=f"{name}{grid_layers.suffix}",
            href=path.relative_to(product_dir).as_posix(),
            layer=layer,
            grid=grid_layers.grid,
            bands=bands,
            info=info,
            is_mosaic=grid_layers.is_mosaic,
        )

    with cancellation.CancellableThreadPool(PARALLEL_LAYERS, "layer") as pool:
        yield from pool.map(write, grid_layers.layer_bands)


def _read_rows(path: Path, name: str, width: int, start: int, stop: int) -> NDArray[Any]:
    values = zarr_store.read_layer(path, name, slice(start, stop), slice(0, width))
    return values if values.ndim == 3 else values[np.newaxis]


def _cog_tags(plan: Plan) -> Mapping[str, str]:
    return {
        "TERRAMOSAIC_PLAN": plan.digest,
        "TERRAMOSAIC_PERIOD": "/".join(plan.period),
        "TIFFTAG_SOFTWARE": f"terramosaic {importlib.metadata.version('terramosaic')}",
    }


def _write_documents(
    product_dir: Path, plan_dir: Path, rasters: Sequence[Raster], formats: Sequence[str]
) -> Iterator[Document]:
    yield Document.from_path(plan_dir / "plan.json", item_dir=product_dir, kind="plan")
    if "zarr" in formats:
        yield Document.from_path(
            plan_dir / zarr_store.STORE_NAME, item_dir=product_dir, kind="zarr"
        )
    styled: set[str] = set()
    for raster in rasters:
        if raster.key != raster.layer.name:
            continue
            # ^ the parts look like the whole
        for kind, suffix, text in _render_styles(raster):
            path = plan_dir / f"{raster.key}.{suffix}"
            atomic_files.write_atomic(path, text.encode())
            key = f"{kind}_{raster.key}" if kind in styled else kind
            # ^ the leading answer comes first, and has the plain one
            styled.add(kind)
            yield Document.from_path(path, item_dir=product_dir, kind=kind, key=key)


def _render_styles(raster: Raster) -> Iterator[tuple[str, str, str]]:
    """Return kind, suffix and text of the styles of an answer that has colours of its own."""
    layer, band = raster.layer, raster.info.statistics[0]
    if layer.name == "land_cover":
        yield "style", "qml", styles.qml()
        yield "sld", "sld", styles.sld(layer)
    elif layer.name.startswith("generated_") and layer.is_single_band and band.mean is not None:
        stops = rendering.ramp_stops(layer, band)
        yield "style", "qml", styles.ramp_qml(stops)
        yield "sld", "sld", styles.ramp_sld(layer, stops)


def _build_product(
    plan: Plan,
    rasters: Sequence[Raster],
    documents: Sequence[Document],
    missing_tiles: Sequence[MissingTile],
    accuracy: AccuracyMetrics | None,
    quality: QualityMetrics | None,
) -> Product:
    software = {
        name: version for name, version in tile.package_versions().items() if name != "terramosaic"
    }
    return Product(
        name=plan.name,
        title=plan.name,
        start=dt.date.fromisoformat(plan.period[0]),
        end=dt.date.fromisoformat(plan.period[1]),
        created=dt.datetime.now(dt.UTC),
        region=plan.region,
        bbox=lonlat_geometry.to_bbox(from_geojson(plan.region)),
        grids=plan.grids,
        rasters=tuple(rasters),
        documents=tuple(documents),
        scenes=plan.snapshot.scenes,
        refused=plan.snapshot.refused,
        caveats=plan.caveats,
        verdict_counts=plan.radiometry_verdicts,
        provenance=Provenance(
            plan_digest=plan.digest,
            model=plan.model.name if plan.model else None,
            model_digest=plan.model.digest if plan.model else None,
            s2_convention="offset-free",
            version=importlib.metadata.version("terramosaic"),
            software=software,
            recipe=plan.recipe.to_dict(),
            main_layer=plan.model.primary_output.layer if plan.model else "",
            model_options=provenance.model_options(plan),
            is_random=provenance.is_random(plan),
        ),
        missing_tiles=tuple(missing_tiles),
        accuracy=accuracy,
        quality=quality,
        accuracy_reference="the truth of the embedded country" if accuracy else "",
        notices=NOTICES,
    )


def is_complete(item_path: Path, plan: Plan) -> bool:
    """Tell whether an item is the complete product of a plan, with all its files."""
    values = _read_item(item_path)
    if values is None or values["properties"].get("terramosaic:plan") != plan.digest:
        return False
    if values["properties"].get("terramosaic:holes"):
        return False
    return all((item_path.parent / asset["href"]).exists() for asset in values["assets"].values())


def read_accuracy(item_path: Path) -> dict[str, Any] | None:
    """Return the accuracy that an item states."""
    values = _read_item(item_path)
    stated = (values or {"properties": {}})["properties"].get("terramosaic:accuracy")
    if not stated:
        return None
    return {key: stated[key] for key in ("overall", "macro_f1", "n")}


def read_seam(item_path: Path) -> dict[str, Any] | None:
    """Return the figures of seams that an item states."""
    values = _read_item(item_path) or {"properties": {}}
    stated: dict[str, Any] | None = values["properties"].get("terramosaic:seam")
    return stated


def read_not_observed(item_path: Path) -> float | None:
    """Return the per cent of the region that an item says was never observed."""
    values = _read_item(item_path) or {"properties": {}}
    stated: float | None = values["properties"].get("terramosaic:not_observed_percent")
    return stated


def read_missing_tiles(product_dir: Path) -> set[str]:
    """Return the tiles that a product declares as missing."""
    values = _read_item(product_dir / "item.json") or {"properties": {}}
    return {hole["tile"] for hole in values["properties"].get("terramosaic:holes", [])}


def read_finished_tiles(product_dir: Path) -> set[str]:
    """Return the tiles of the product that stands, by their names; none where there is none."""
    try:
        plan, folder = read_current_plan(product_dir)
    except InvalidInputError:
        return set()
    return set(receipt.read_finished(folder, plan))


def find_product_dirs(location: Path) -> list[Path]:
    """Return the products' folders under an output folder, a product folder or an item.

    Raises:
        InvalidInputError: there is no product.
    """
    if location.name == "item.json" and location.is_file():
        return [location.parent]
    found = sorted(path.parent for path in location.rglob("item.json")) if location.is_dir() else []
    if not found:
        raise InvalidInputError(
            f"There is no product at {location}: no item.json in it. "
            "Give the output folder, a product's folder or its item.json."
        )
    return found


def read_current_plan(product_dir: Path) -> tuple[Plan, Path]:
    """Return the plan that an item points at, and its folder.

    Raises:
        InvalidInputError: the item or the plan cannot be read.
    """
    values = _read_item(product_dir / "item.json")
    if values is None or "plan" not in values["assets"]:
        raise InvalidInputError(
            f"{product_dir / 'item.json'} is not the item of a product of ours."
        )
    path = product_dir / values["assets"]["plan"]["href"]
    return Plan.read(path), path.parent


def find_damaged_files(product_dir: Path) -> list[dict[str, str]]:
    """Compare each published file with the checksum in the item."""
    bad = []
    for asset in (_read_item(product_dir / "item.json") or {"assets": {}})["assets"].values():
        path, stated = product_dir / asset["href"], asset.get("file:checksum")
        if not path.exists():
            bad.append({"tile": "", "file": asset["href"], "reason": "the file is missing"})
        elif stated and not stated.endswith(atomic_files.sha256(path)):
            bad.append(
                {"tile": "", "file": asset["href"], "reason": "the file is not what was published"}
            )
    return bad


def _read_item(item_path: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(item_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidInputError(f"{item_path} is not JSON: {error}") from error
    return values
