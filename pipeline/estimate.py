"""What a plan will take, before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan import Plan

BYTES_PER_PIXEL = {"S2L2A": 1.3, "S1RTC": 3.5, "S1GRD": 3.5, "DEM": 3.0}
"""Compressed bytes of one stored pixel, as seen on the embedded country and on real scenes."""

BLOCK = 512
"""Side of a COG's block, pixels: the least that one request fetches."""

BASE_BYTES = 600_000_000
"""Python with torch, GDAL and Prefect before any pixel is read; a model's weights come on top."""

PIXELS_PER_SECOND = 6.0e6
"""Stored pixels read and composed in a second by one core."""

SECONDS_PER_WINDOW = {"land_cover": 1 / 6, "embedding": 0.3, "generate": 1.0}
"""On two cores: the demo model's map, the base model's features and tokens."""

SECONDS_PER_STEP = 1.0
"""Of diffusion, for one window on two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Rough figures: a factor of two either way is nothing unusual."""

    bytes: int
    requests: int
    peak_memory_bytes: int
    seconds: float


def of(plan: Plan, *, workers: int) -> Estimate:
    """Estimate bytes, requests, memory and time of all tiles of a plan."""
    stored = volume = 0.0
    requests = peak = 0
    windows = 0.0
    for one in plan.tiles:
        area = plan.context(one)
        scenes = plan.scenes(one)
        depth: dict[str, int] = {}
        for scene in scenes:
            bands = {*plan.bands(scene.modality), "SCL"}
            depth[scene.modality] = depth.get(scene.modality, 0) + 1
            for asset in scene.assets.values():
                if asset.band not in bands:
                    continue
                size = abs(asset.transform[0]) if asset.transform else area.resolution
                share = (area.resolution / max(size, area.resolution)) ** 2
                pixels = area.height * area.width * share
                stored += pixels
                volume += pixels * BYTES_PER_PIXEL[scene.modality]
                requests += 2 + round(pixels / BLOCK**2)
        pixels = area.height * area.width
        bands_held = sum(len(plan.bands(name)) for name in plan.recipe.inputs)
        deepest = max(depth.values(), default=1)
        held = pixels * (4 * bands_held + 4 * deepest * 2)
        if plan.model and plan.lattice:
            held += pixels // plan.cell**2 * 8 * len(plan.model.channels)
            windows += (plan.tile / plan.lattice.stride + 1) ** 2
        peak = max(peak, held)
    seconds = stored / PIXELS_PER_SECOND / max(workers, 1) + windows * _seconds(plan)
    return Estimate(
        bytes=round(volume),
        requests=requests,
        peak_memory_bytes=BASE_BYTES + peak * max(workers, 1),
        seconds=round(seconds, 1),
    )


def _seconds(plan: Plan) -> float:
    """Return the seconds that a window takes."""
    if plan.model is None:
        return 0.0
    steps = int(plan.job["model"].get("timesteps", 0))
    return SECONDS_PER_WINDOW[plan.model.task] + SECONDS_PER_STEP * steps
