"""Grids of a product: one for each coordinate system, mosaics, and what to know of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shapely.geometry.base import BaseGeometry

from catalogs.scene import Caveat, Scene
from flows.config.job import Job
from flows.run import unmapped_parts
from flows.run.scene_search import SceneSearchResult
from pipeline.grid import crs, grid, ground_scale, utm
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import ModelSpec


def build_grids(
    job: Job, search_result: SceneSearchResult, model: ModelSpec | None = None
) -> tuple[Grid, ...]:
    """Return one grid per coordinate system, in cells of the model's finest output."""
    stride, max_stride = (model.output_stride, model.max_output_stride) if model else (1, 1)
    resolution, grids = job.grid.resolution, list[Grid]()
    for epsg in search_result.epsg_codes:
        part = (
            search_result.region
            if len(search_result.epsg_codes) == 1
            else utm.clip_to_zone(search_result.region, epsg)
        )
        alignment = (
            grid.common_alignment(search_result.selection.used, epsg, resolution)
            if job.grid.align == "auto"
            else (0.0, 0.0)
        )
        pixels = grid.build_covering_grid(part, epsg, resolution, alignment)
        grids.append(pixels.coarsen(max_stride).refine(max_stride // stride))
    return tuple(grids)


def build_mosaic_grids(
    job: Job, search_result: SceneSearchResult, grids: Sequence[Grid]
) -> tuple[Grid, ...]:
    """Return the grids that join several zones: those of the job, else the largest zone's own."""
    if len(grids) == 1 and not job.grid.mosaic:
        return ()
    region = search_result.region
    largest = grids[0]
    if len(grids) > 1:
        largest = max(grids, key=lambda zone_grid: utm.clip_to_zone(region, zone_grid.epsg).area)
    epsg_codes = [
        epsg for name in job.grid.mosaic for epsg in grid.resolve_epsg_codes(name, region)
    ]
    alignments = {zone_grid.epsg: zone_grid.alignment for zone_grid in grids}
    # ^ pixels that already lie on the mosaic's coordinate system are not resampled
    return tuple(
        grid.build_covering_grid(region, epsg, largest.resolution, alignments.get(epsg, (0.0, 0.0)))
        for epsg in epsg_codes or [largest.epsg]
    )


def find_grid_caveats(
    job: Job,
    search_result: SceneSearchResult,
    grids: Sequence[Grid],
    mosaic_grids: Sequence[Grid],
    model: ModelSpec | None,
) -> Iterator[Caveat]:
    """Yield what to know of the grids of a product.

    Raises:
        InvalidInputError: no pixel of a layer or mosaic has its centre in the region.
    """
    yield from _find_misaligned_grids(job, search_result.selection.used, grids)
    yield from _find_distorted_grids(search_result.region, (*grids, *mosaic_grids))
    yield from find_unmapped_parts(job, grids, mosaic_grids, model)


def find_unmapped_parts(
    job: Job,
    grids: Sequence[Grid],
    mosaic_grids: Sequence[Grid],
    model: ModelSpec | None = None,
) -> Iterator[Caveat]:
    """Yield a caveat where the rasters of a product have no pixel in some parts of its region.

    Raises:
        InvalidInputError: no pixel of a layer or mosaic has its centre in the region.
    """
    rasters = {"the grid": grids}
    stride, outputs = (model.output_stride, model.outputs) if model else (1, ())
    for output in sorted(outputs, key=lambda output: output.stride):
        if output.stride > stride:
            factor = output.stride // stride
            rasters[output.layer_name] = [finest.coarsen(factor) for finest in grids]
    rasters |= {f"the mosaic in EPSG:{mosaic.epsg}": [mosaic] for mosaic in mosaic_grids}
    return unmapped_parts.find_unmapped_parts(job.region_parts, rasters, job.grid.resolution)


def _find_misaligned_grids(
    job: Job, used: Sequence[Scene], grids: Sequence[Grid]
) -> Iterator[Caveat]:
    """Yield a caveat where a part of the region, planned alone, could lie on another grid."""
    if job.grid.align != "auto":
        return
    for product_grid in grids:
        alignments = grid.find_alignments(used, product_grid.epsg, job.grid.resolution)
        if len(alignments) > 1 or any(x or y for x, y in alignments):
            cause = (
                "the scenes' grids differ by parts of a pixel, so the map lies on multiples of "
                "the resolution and takes the pixel at each centre, up to half a pixel away"
                if len(alignments) > 1
                else "the map lies on the scenes' own grid, beside the multiples of the resolution"
            )
            yield Caveat(
                id=f"EPSG:{product_grid.epsg}",
                text=f"{cause}; a part of the region that meets other scenes may lie otherwise. "
                "Set grid: {align: multiples} for parts that are to be joined",
            )


def _find_distorted_grids(region: BaseGeometry, grids: Sequence[Grid]) -> Iterator[Caveat]:
    """Yield what to know of the coordinate systems that the job names, once for each."""
    for product_grid in {product_grid.epsg: product_grid for product_grid in grids}.values():
        epsg = product_grid.epsg
        if epsg in utm.zone_polygons() and (
            epsg in utm.find_zones(region) or utm.is_in_reach(region, epsg)
        ):
            continue
            # ^ made for this ground, up to 0.6 % (UTM) and 1.2 % (UPS)
        projected = grid.project(region, epsg)
        for text in (
            *crs.describe_area_of_use(region, epsg),
            *ground_scale.describe_distortion(projected, epsg, product_grid.resolution),
        ):
            yield Caveat(id=f"EPSG:{epsg}", text=text)
