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
from catalogs.errors import Wrong
from pipeline import tile
from pipeline.grid.grid import Grid
from pipeline.plan import layers
from pipeline.plan.plan import Plan, geometry
from pipeline.product import provenance, stac_collection, stac_item
from pipeline.product.product import Document, Hole, Product, Provenance, Raster
from pipeline.quality.accuracy import Agreement
from pipeline.quality.gates import Quality
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
    home: Path,
    *,
    holes: Sequence[Hole] = (),
    accuracy: Agreement | None = None,
    quality: Quality | None = None,
    formats: Sequence[str] = ("cog", "zarr"),
    on_layer: Callable[[str], None] | None = None,
) -> Path:
    """Write everything that a product has and return its item.

    Args:
        plan: the plan, all of whose tiles are finished or declared as holes.
        home: the product's folder, where ``item.json`` goes.
        holes: tiles that are missing.
        accuracy: agreement with a truth, where one is known.
        quality: what was found at the lines by which the work was cut.
        formats: ``cog``, ``zarr`` or both.
        on_layer: called with the name of each finished COG.
    """
    folder = home / plan.short
    rasters = tuple(_rasters(plan, home, folder, on_layer)) if "cog" in formats else ()
    documents = list(_documents(home, folder, rasters, formats))
    drawn = figures.of(plan, home, rasters)
    if drawn is not None:
        look, page = folder / "quicklook.png", folder / "report.html"
        atomic_files.write_atomic(look, drawn.quicklook)
        documents.append(Document.of(look, beside=home, kind="quicklook"))
        product = _product(plan, rasters, documents, holes, accuracy, quality)
        atomic_files.write_atomic(page, report.html(product, drawn).encode())
        documents.append(Document.of(page, beside=home, kind="report"))
    product = _product(plan, rasters, documents, holes, accuracy, quality)
    atomic_files.write_json(home / "item.json", stac_item.item(product))
    items = stac_collection.items_in(home.parent)
    whole = stac_collection.of(items, title=plan.name, license=product.license)
    atomic_files.write_json(home.parent / "collection.json", whole)
    return home / "item.json"


LANES = 2
"""Layers written side by side: GDAL compresses one on one core, and holds some blocks of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """One grid of a product: a zone's, the only one, or a mosaic's."""

    grid: Grid
    store: Path
    folder: Path
    suffix: str
    """What its asset keys have after the layer's name."""

    mosaic: bool
    layers: Mapping[str, tuple[str, ...]]
    """Layer → names of its bands."""


def _rasters(
    plan: Plan, home: Path, folder: Path, on_layer: Callable[[str], None] | None
) -> Iterator[Raster]:
    sheets = zarr_store.sheets(plan, tile.variables(plan))
    for grid, (factor, held) in itertools.product(plan.grids, sheets.items()):
        sheet = _Sheet(
            grid=grid.coarsened(factor),
            store=zarr_store.of(folder, plan, grid.epsg, factor),
            folder=folder / str(grid.epsg),
            suffix="" if len(plan.grids) == 1 else f"_{grid.epsg}",
            mosaic=False,
            layers=held,
        )
        yield from _sheet(plan, home, sheet, on_layer)
    for grid in plan.mosaics:
        with atomic_files.workspace(folder) as work:
            path = work / zarr_store.NAME
            mosaic.join(plan, folder, grid, path, sheets[1])
            # ^ coarser answers stay in their zones: their cells do not meet
            sheet = _Sheet(
                grid=grid,
                store=path,
                folder=folder / mosaic_folder(grid),
                suffix="" if _plain(plan, grid) else f"_mosaic_{grid.epsg}",
                mosaic=True,
                layers=sheets[1],
            )
            yield from _sheet(plan, home, sheet, on_layer)


def _plain(plan: Plan, grid: Grid) -> bool:
    """Tell whether a mosaic's layers carry the plain names: the first of several zones'."""
    return len(plan.grids) > 1 and grid == plan.mosaics[0]


def mosaic_folder(grid: Grid) -> str:
    """Return the name of the folder that a mosaic's COGs lie in."""
    return f"mosaic_{grid.epsg}"


def main_folder(plan: Plan) -> str:
    """Return the folder of the COGs that show all of a product: those of the plain names."""
    return str(plan.grid.epsg) if len(plan.grids) == 1 else mosaic_folder(plan.mosaics[0])


def _sheet(
    plan: Plan, home: Path, sheet: _Sheet, on_layer: Callable[[str], None] | None
) -> Iterator[Raster]:
    def write(name: str) -> Raster:
        layer, bands = layers.get(name), sheet.layers[name]
        path = sheet.folder / f"{name}.tif"
        info = cog.write(
            path,
            sheet.grid,
            layer,
            functools.partial(_rows, sheet.store, name, sheet.grid.width),
            bands=bands,
            tags=_tags(plan),
        )
        if on_layer is not None:
            on_layer(name)
        return Raster(
            key=f"{name}{sheet.suffix}",
            href=path.relative_to(home).as_posix(),
            layer=layer,
            grid=sheet.grid,
            bands=bands,
            info=info,
            mosaic=sheet.mosaic,
        )

    with cancellation.Pool(LANES, "layer") as pool:
        yield from pool.map(write, sheet.layers)


def _rows(path: Path, name: str, width: int, start: int, stop: int) -> NDArray[Any]:
    values = zarr_store.read(path, name, slice(start, stop), slice(0, width))
    return values if values.ndim == 3 else values[np.newaxis]


def _tags(plan: Plan) -> Mapping[str, str]:
    return {
        "TERRAMOSAIC_PLAN": plan.digest,
        "TERRAMOSAIC_PERIOD": "/".join(plan.period),
        "TIFFTAG_SOFTWARE": f"terramosaic {importlib.metadata.version('terramosaic')}",
    }


def _documents(
    home: Path, folder: Path, rasters: Sequence[Raster], formats: Sequence[str]
) -> Iterator[Document]:
    yield Document.of(folder / "plan.json", beside=home, kind="plan")
    if "zarr" in formats:
        yield Document.of(folder / zarr_store.NAME, beside=home, kind="zarr")
    styled: set[str] = set()
    for raster in rasters:
        if raster.key != raster.layer.name:
            continue
            # ^ the parts look like the whole
        for kind, suffix, text in _styles(raster):
            path = folder / f"{raster.key}.{suffix}"
            atomic_files.write_atomic(path, text.encode())
            key = f"{kind}_{raster.key}" if kind in styled else kind
            # ^ the leading answer comes first, and has the plain one
            styled.add(kind)
            yield Document.of(path, beside=home, kind=kind, key=key)


def _styles(raster: Raster) -> Iterator[tuple[str, str, str]]:
    """Return kind, suffix and text of the styles of an answer that has colours of its own."""
    layer, band = raster.layer, raster.info.statistics[0]
    if layer.name == "land_cover":
        yield "style", "qml", styles.qml()
        yield "sld", "sld", styles.sld(layer)
    elif layer.name.startswith("generated_") and layer.planar and band.mean is not None:
        stops = rendering.stops(layer, band)
        yield "style", "qml", styles.ramp_qml(stops)
        yield "sld", "sld", styles.ramp_sld(layer, stops)


def _product(
    plan: Plan,
    rasters: Sequence[Raster],
    documents: Sequence[Document],
    holes: Sequence[Hole],
    accuracy: Agreement | None,
    quality: Quality | None,
) -> Product:
    software = {name: version for name, version in tile.versions().items() if name != "terramosaic"}
    return Product(
        name=plan.name,
        title=plan.name,
        start=dt.date.fromisoformat(plan.period[0]),
        end=dt.date.fromisoformat(plan.period[1]),
        created=dt.datetime.now(dt.UTC),
        region=plan.region,
        bbox=lonlat_geometry.bounds(geometry(plan.region)),
        grids=plan.grids,
        rasters=tuple(rasters),
        documents=tuple(documents),
        scenes=plan.snapshot.scenes,
        refused=plan.snapshot.refused,
        doubts=plan.doubts,
        proof=plan.proof,
        provenance=Provenance(
            plan=plan.digest,
            model=plan.model.name if plan.model else None,
            model_digest=plan.model.digest if plan.model else None,
            s2_convention="offset-free",
            version=importlib.metadata.version("terramosaic"),
            software=software,
            recipe=plan.recipe.to_dict(),
            answer=plan.model.main.layer if plan.model else "",
            options=provenance.options(plan),
            random=provenance.is_random(plan),
        ),
        holes=tuple(holes),
        accuracy=accuracy,
        quality=quality,
        reference="the truth of the embedded country" if accuracy else "",
        notices=NOTICES,
    )


def stands(item: Path, plan: Plan) -> bool:
    """Tell whether an item is the complete product of a plan, with all its files."""
    values = _read(item)
    if values is None or values["properties"].get("terramosaic:plan") != plan.digest:
        return False
    if values["properties"].get("terramosaic:holes"):
        return False
    return all((item.parent / asset["href"]).exists() for asset in values["assets"].values())


def accuracy_in(item: Path) -> dict[str, Any] | None:
    """Return the accuracy that an item states."""
    values = _read(item)
    stated = (values or {"properties": {}})["properties"].get("terramosaic:accuracy")
    if not stated:
        return None
    return {key: stated[key] for key in ("overall", "macro_f1", "n")}


def seam_in(item: Path) -> dict[str, Any] | None:
    """Return the figures of seams that an item states."""
    values = _read(item) or {"properties": {}}
    stated: dict[str, Any] | None = values["properties"].get("terramosaic:seam")
    return stated


def not_observed_in(item: Path) -> float | None:
    """Return the per cent of the region that an item says was never observed."""
    values = _read(item) or {"properties": {}}
    stated: float | None = values["properties"].get("terramosaic:not_observed_percent")
    return stated


def holes_in(home: Path) -> set[str]:
    """Return the tiles that a product declares as missing."""
    values = _read(home / "item.json") or {"properties": {}}
    return {hole["tile"] for hole in values["properties"].get("terramosaic:holes", [])}


def made_in(home: Path) -> set[str]:
    """Return the tiles of the product that stands, by their names; none where there is none."""
    try:
        plan, folder = current(home)
    except Wrong:
        return set()
    return set(receipt.finished(folder, plan))


def homes(out: Path) -> list[Path]:
    """Return the products' folders under an output folder, a product folder or an item.

    Raises:
        Wrong: there is no product.
    """
    if out.name == "item.json" and out.is_file():
        return [out.parent]
    found = sorted(path.parent for path in out.rglob("item.json")) if out.is_dir() else []
    if not found:
        raise Wrong(
            f"There is no product at {out}: no item.json in it. "
            "Give the output folder, a product's folder or its item.json."
        )
    return found


def current(home: Path) -> tuple[Plan, Path]:
    """Return the plan that an item points at, and its folder.

    Raises:
        Wrong: the item or the plan cannot be read.
    """
    values = _read(home / "item.json")
    if values is None or "plan" not in values["assets"]:
        raise Wrong(f"{home / 'item.json'} is not the item of a product of ours.")
    path = home / values["assets"]["plan"]["href"]
    return Plan.read(path), path.parent


def damaged_files(home: Path) -> list[dict[str, str]]:
    """Compare each published file with the checksum in the item."""
    bad = []
    for asset in (_read(home / "item.json") or {"assets": {}})["assets"].values():
        path, stated = home / asset["href"], asset.get("file:checksum")
        if not path.exists():
            bad.append({"tile": "", "file": asset["href"], "reason": "the file is missing"})
        elif stated and not stated.endswith(atomic_files.sha256(path)):
            bad.append(
                {"tile": "", "file": asset["href"], "reason": "the file is not what was published"}
            )
    return bad


def _read(item: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(item.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Wrong(f"{item} is not JSON: {error}") from error
    return values
