"""Write a product from its finished tiles: COGs, pictures, report, and the STAC item last."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import lonlat_geometry
from pipeline import tile, tile_layers
from pipeline.grid.grid import Grid
from pipeline.plan import layers
from pipeline.plan.plan import Plan, from_geojson
from pipeline.product import provenance, published, stac_collection, stac_item
from pipeline.product.product import Document, MissingTile, Product, Provenance, Raster
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.quality.gates import QualityMetrics
from pipeline.report import figures, rendering, report
from pipeline.runtime import atomic_files, cancellation
from pipeline.storage import cog, mosaic, styles, zarr_store

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
    """Write all files of a product; return the path of its item.

    Args:
        plan: the plan, all of whose tiles are finished or declared as missing.
        product_dir: the period's folder, where ``item.json`` goes.
        missing_tiles: tiles that are missing.
        accuracy: agreement with a reference map, where there is one.
        quality: seam and sample figures.
        formats: ``cog``, ``zarr`` or both.
        on_layer: called with the name of each finished COG.
    """
    plan_dir = product_dir / plan.short_digest
    rasters = (
        tuple(_write_rasters(plan, product_dir, plan_dir, on_layer)) if "cog" in formats else ()
    )
    documents = list(_write_documents(product_dir, plan_dir, rasters, formats))
    images = figures.draw_report_images(plan, product_dir, rasters)
    if images is not None:
        quicklook, page = plan_dir / "quicklook.png", plan_dir / "report.html"
        atomic_files.write_atomic(quicklook, images.quicklook)
        documents.append(Document.from_path(quicklook, item_dir=product_dir, kind="quicklook"))
        product = _build_product(plan, rasters, documents, missing_tiles, accuracy, quality)
        atomic_files.write_atomic(page, report.render_report(product, images).encode())
        documents.append(Document.from_path(page, item_dir=product_dir, kind="report"))
    product = _build_product(plan, rasters, documents, missing_tiles, accuracy, quality)
    atomic_files.write_json(product_dir / "item.json", stac_item.build_item(product))
    items = stac_collection.read_items(product_dir.parent)
    collection = stac_collection.build_collection(
        items, title=plan.name, license_id=product.license
    )
    atomic_files.write_json(product_dir.parent / "collection.json", collection)
    return product_dir / "item.json"


PARALLEL_LAYERS = 2
"""Layers written in parallel: GDAL compresses each on one core and holds some of its blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _GridLayers:
    """One grid of a product: a zone's, the only one, or a mosaic's."""

    grid: Grid
    store_path: Path
    cog_dir: Path
    suffix: str
    """What follows the layer's name in its asset keys."""

    is_mosaic: bool
    layer_bands: Mapping[str, tuple[str, ...]]
    """Layer → names of its bands."""


def _write_rasters(
    plan: Plan, product_dir: Path, plan_dir: Path, on_layer: Callable[[str], None] | None
) -> Iterator[Raster]:
    layers_by_factor = zarr_store.group_layers_by_factor(plan, tile_layers.list_layer_bands(plan))
    for grid, (factor, layer_bands) in itertools.product(plan.grids, layers_by_factor.items()):
        grid_layers = _GridLayers(
            grid=grid.coarsen(factor),
            store_path=zarr_store.store_path(plan_dir, plan, grid.epsg, factor),
            cog_dir=plan_dir / str(grid.epsg),
            suffix="" if len(plan.grids) == 1 else f"_{grid.epsg}",
            is_mosaic=False,
            layer_bands=layer_bands,
        )
        yield from _write_grid_layers(plan, product_dir, grid_layers, on_layer)
    for grid in plan.mosaic_grids:
        with atomic_files.temporary_directory(plan_dir) as work_dir:
            path = work_dir / zarr_store.STORE_NAME
            mosaic.write_mosaic(plan, plan_dir, grid, path, layers_by_factor[1])
            # ^ coarser outputs stay in their zones: their cells do not coincide
            grid_layers = _GridLayers(
                grid=grid,
                store_path=path,
                cog_dir=plan_dir / published.mosaic_dir_name(grid),
                suffix="" if _is_default_mosaic(plan, grid) else f"_mosaic_{grid.epsg}",
                is_mosaic=True,
                layer_bands=layers_by_factor[1],
            )
            yield from _write_grid_layers(plan, product_dir, grid_layers, on_layer)


def _is_default_mosaic(plan: Plan, grid: Grid) -> bool:
    """Return whether a mosaic's layers have the plain names: true of the first mosaic."""
    return len(plan.grids) > 1 and grid == plan.mosaic_grids[0]


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
            # ^ the zones of a mosaic share its style
        for kind, suffix, text in _render_styles(raster):
            path = plan_dir / f"{raster.key}.{suffix}"
            atomic_files.write_atomic(path, text.encode())
            key = f"{kind}_{raster.key}" if kind in styled else kind
            # ^ the main output comes first, and has the plain key
            styled.add(kind)
            yield Document.from_path(path, item_dir=product_dir, kind=kind, key=key)


def _render_styles(raster: Raster) -> Iterator[tuple[str, str, str]]:
    """Yield kind, suffix and text of the styles of an output that has a legend or a colour ramp."""
    layer, band = raster.layer, raster.info.statistics[0]
    if layer.kind == "classes":
        yield "style", "qml", styles.qml()
        yield "sld", "sld", styles.sld(layer)
    elif layer.kind == "values" and layer.is_single_band and band.mean is not None:
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
            main_layer=plan.model.primary_output.layer_name if plan.model else "",
            model_options=provenance.model_options(plan),
            is_random=provenance.is_random(plan),
        ),
        missing_tiles=tuple(missing_tiles),
        accuracy=accuracy,
        quality=quality,
        accuracy_reference="the truth of the embedded country" if accuracy else "",
        notices=NOTICES,
    )
