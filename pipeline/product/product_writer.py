"""Write a product from its finished tiles: COGs, pictures, report, and the STAC item last."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import lonlat_geometry
from catalogs.sensors import Notice, get_sensor
from pipeline import tile_layers
from pipeline.grid.grid import Grid
from pipeline.plan.plan import Plan, from_geojson
from pipeline.product import (
    model_provenance,
    published_item,
    stac_collection,
    stac_item,
)
from pipeline.product.product import Document, MissingTile, Product, Provenance, Raster
from pipeline.product.report import report, report_images
from pipeline.quality import completeness
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.quality.completeness import ProductCounts
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.runtime import cancellation, software_versions
from pipeline.storage import cog, mosaic, plan_file, receipt, styles, zarr_store
from pipeline.storage.store import Store, StoreLike, open_store, write_json


def publish_product(
    plan: Plan,
    product_dir: StoreLike,
    *,
    missing_tiles: Sequence[MissingTile] = (),
    accuracy: AccuracyMetrics | None = None,
    quality: QualityMetrics | None = None,
    formats: Sequence[str] = ("cog", "zarr"),
    on_layer: Callable[[str], None] | None = None,
) -> str:
    """Write all files of a product; return the name of its item in the product's folder.

    Args:
        plan: the plan, all of whose tiles are finished or declared as missing.
        product_dir: the period's folder; it holds the plan's folder, and gets ``item.json``.
        missing_tiles: tiles that are missing.
        accuracy: agreement with a reference map, where there is one.
        quality: seam and sample figures.
        formats: ``cog``, ``zarr`` or both.
        on_layer: called with the name of each finished COG.
    """
    store, plan_name = open_store(product_dir), plan.short_digest
    rasters = tuple(_write_rasters(plan, store, on_layer)) if "cog" in formats else ()
    documents = list(_write_documents(plan, store, rasters, formats))
    receipts = receipt.read_finished(store.child(plan_name), plan)
    build_product = functools.partial(
        _build_product,
        plan,
        rasters,
        counts=completeness.add_counts(plan, receipts),
        missing_tiles=missing_tiles,
        accuracy=accuracy,
        quality=quality,
    )
    images = report_images.draw_report_images(plan, store, rasters)
    if images is not None:
        quicklook_name, report_name = f"{plan_name}/quicklook.png", f"{plan_name}/report.html"
        store.write(quicklook_name, images.quicklook)
        documents.append(Document.from_object(store, quicklook_name, kind="quicklook"))
        product = build_product(documents)
        store.write(report_name, report.render_report(product, images).encode())
        documents.append(Document.from_object(store, report_name, kind="report"))
    product = build_product(documents)
    item = stac_item.build_item(product, folder=store.location)
    write_json(store, published_item.ITEM_NAME, item)
    items = stac_collection.read_items(store.parent())
    collection = stac_collection.build_collection(
        items, title=plan.name, license_id=product.license
    )
    write_json(store.parent(), published_item.COLLECTION_NAME, collection)
    published_item.mark_damaged(store, [])
    return published_item.ITEM_NAME


PARALLEL_LAYERS = 2
"""Layers written in parallel: GDAL compresses each on one core and holds some of its blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _GridLayers:
    """Layers on one grid of a product: of a zone, the only grid, or a mosaic."""

    grid: Grid
    source: Store
    """Zarr group of the layers."""

    cog_dir: str
    """Folder of the COGs, relative to the product's folder."""

    suffix: str
    """What follows the layer's name in its asset keys."""

    is_mosaic: bool
    layer_bands: Mapping[str, tuple[str, ...]]
    """Layer → names of its bands."""


def _write_rasters(
    plan: Plan, store: Store, on_layer: Callable[[str], None] | None
) -> Iterator[Raster]:
    """Write the COGs of all grids, and of all mosaics."""
    plan_store = store.child(plan.short_digest)
    layers_by_factor = zarr_store.group_layers_by_factor(plan, tile_layers.list_layer_bands(plan))
    for grid, (factor, layer_bands) in itertools.product(plan.grids, layers_by_factor.items()):
        grid_layers = _GridLayers(
            grid=grid.coarsen(factor),
            source=zarr_store.grid_store(plan_store, plan, grid.epsg, factor),
            cog_dir=f"{plan.short_digest}/{grid.epsg}",
            suffix="" if len(plan.grids) == 1 else f"_{grid.epsg}",
            is_mosaic=False,
            layer_bands=layer_bands,
        )
        yield from _write_grid_layers(plan, store, grid_layers, on_layer)
    for grid in plan.mosaic_grids:
        with plan_store.temporary_directory() as directory:
            source = open_store(directory / zarr_store.STORE_NAME)
            mosaic.write_mosaic(plan, plan_store, grid, source, layers_by_factor[1])
            # ^ coarser outputs stay in their zones: their cells do not coincide
            grid_layers = _GridLayers(
                grid=grid,
                source=source,
                cog_dir=f"{plan.short_digest}/{published_item.mosaic_dir_name(grid)}",
                suffix="" if _is_default_mosaic(plan, grid) else f"_mosaic_{grid.epsg}",
                is_mosaic=True,
                layer_bands=layers_by_factor[1],
            )
            yield from _write_grid_layers(plan, store, grid_layers, on_layer)


def _is_default_mosaic(plan: Plan, grid: Grid) -> bool:
    """Return whether a mosaic's layers have the plain names: true of the first mosaic."""
    return len(plan.grids) > 1 and grid == plan.mosaic_grids[0]


def _write_grid_layers(
    plan: Plan, store: Store, grid_layers: _GridLayers, on_layer: Callable[[str], None] | None
) -> Iterator[Raster]:
    def write(name: str) -> Raster:
        layer, bands = plan.layer(name), grid_layers.layer_bands[name]
        href = f"{grid_layers.cog_dir}/{name}.tif"
        info = cog.write_cog(
            store,
            href,
            grid_layers.grid,
            layer,
            functools.partial(_read_rows, grid_layers.source, name, grid_layers.grid.width),
            bands=bands,
            tags=_cog_tags(plan),
        )
        if on_layer is not None:
            on_layer(name)
        return Raster(
            key=f"{name}{grid_layers.suffix}",
            href=href,
            layer=layer,
            grid=grid_layers.grid,
            bands=bands,
            info=info,
            is_mosaic=grid_layers.is_mosaic,
        )

    with cancellation.CancellableThreadPool(PARALLEL_LAYERS, "layer") as pool:
        yield from pool.map(write, grid_layers.layer_bands)


def _read_rows(source: Store, name: str, width: int, start: int, stop: int) -> NDArray[Any]:
    """Read a strip of a layer: (bands, rows, width)."""
    values = zarr_store.read_layer(source, name, slice(start, stop), slice(0, width))
    return values if values.ndim == 3 else values[np.newaxis]


def _cog_tags(plan: Plan) -> Mapping[str, str]:
    return {
        "TERRAMOSAIC_PLAN": plan.digest,
        "TERRAMOSAIC_PERIOD": "/".join(plan.period),
        "TIFFTAG_SOFTWARE": f"terramosaic {importlib.metadata.version('terramosaic')}",
    }


def _write_documents(
    plan: Plan, store: Store, rasters: Sequence[Raster], formats: Sequence[str]
) -> Iterator[Document]:
    """Write the styles; yield the plan, the Zarr store and the styles."""
    plan_name = plan.short_digest
    yield Document.from_object(store, f"{plan_name}/{plan_file.PLAN_NAME}", kind="plan")
    if "zarr" in formats:
        yield Document(
            key="zarr",
            href=f"{plan_name}/{zarr_store.STORE_NAME}",
            kind="zarr",
            description=_describe_groups(plan),
        )
    styled: set[str] = set()
    for raster in rasters:
        if raster.key != raster.layer.name:
            continue
            # ^ the zones of a mosaic share its style
        for kind, suffix, text in styles.render_styles(raster.layer, raster.info.statistics[0]):
            name = f"{raster.href.removesuffix('.tif')}.{suffix}"
            # ^ beside the COG and of its name, where QGIS looks for it
            store.write(name, text.encode())
            key = f"{kind}_{raster.key}" if kind in styled else kind
            # ^ the main output comes first, and has the plain key
            styled.add(kind)
            yield Document.from_object(store, name, kind=kind, key=key)


def _describe_groups(plan: Plan) -> str:
    """Return in which groups of the Zarr store the layers are, for readers that open one."""
    by_factor = zarr_store.group_layers_by_factor(plan, tile_layers.list_layer_bands(plan))
    groups = [
        zarr_store.grid_store_name(plan, grid.epsg, factor).removeprefix(zarr_store.STORE_NAME)
        for grid in plan.grids
        for factor in by_factor
    ]
    names = ", ".join(group or "/" for group in groups)
    return f"Zarr 3, sharded, with CF and GeoZarr attributes. Groups with layers: {names}."


def _build_product(
    plan: Plan,
    rasters: Sequence[Raster],
    documents: Sequence[Document],
    *,
    counts: ProductCounts,
    missing_tiles: Sequence[MissingTile],
    accuracy: AccuracyMetrics | None,
    quality: QualityMetrics | None,
) -> Product:
    software = {
        name: version
        for name, version in software_versions.package_versions().items()
        if name != "terramosaic"
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
        caveats=(*completeness.find_uniform_bands(counts), *plan.caveats),
        coverage_warnings=tuple(completeness.list_coverage_warnings(plan, counts)),
        verdict_counts=plan.radiometry_verdicts,
        provenance=Provenance(
            plan_digest=plan.digest,
            model=plan.model.name if plan.model else None,
            model_digest=plan.model.digest if plan.model else None,
            s2_convention="offset-free",
            version=importlib.metadata.version("terramosaic"),
            software=software,
            recipe=plan.recipe.to_dict(),
            main_layer=plan.model.primary_output.main_layer if plan.model else None,
            model_options=model_provenance.model_options(plan),
            is_random=model_provenance.is_random(plan),
        ),
        missing_tiles=tuple(missing_tiles),
        accuracy=accuracy,
        quality=quality,
        accuracy_reference="the true land cover of the synthetic country" if accuracy else "",
        notices=_list_notices(plan),
    )


def _list_notices(plan: Plan) -> tuple[Notice, ...]:
    """Return the notices of the sensors whose scenes a product is made of, each once."""
    sensors = (get_sensor(scene.modality) for scene in plan.snapshot.scenes)
    return tuple(dict.fromkeys(sensor.notice for sensor in sensors if sensor.notice is not None))
