"""Check by a sample of pixels that the masks of scenes hold what masks are read for.

A raster that stands for the scene classification but holds other values hides the ground or shows
clouds, and nothing fails. Scene classes are 0 to 11, cloud probabilities 0 to 100 percent.

source: ESA, Sentinel-2 Level-2A Algorithm Theoretical Basis Document, scene classification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import href_policy
from catalogs.scene import Scene
from pipeline.reading import raster_reader
from pipeline.reading.asset_opener import AssetInfo
from pipeline.runtime import cancellation

THUMBNAIL_SIZE = 256
"""Side of the thumbnails that are examined, pixels."""

MAX_OTHER_SHARE = 0.01
"""Share of a mask's pixels that may hold other values: single pixels count as not clear."""

_HIGHEST_VALUES = {"class": 11, "probability": 100}
_FILL_VALUE = 255
# ^ of bytes, where no tag states it


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskVerdict:
    """Result of checking the masks of one scene."""

    reason: str | None = None
    """Why the scene cannot be used."""

    caveat: str | None = None
    """What looks wrong and is used nevertheless."""


def check_scenes(
    scenes: Sequence[Scene], select_bands: Callable[[Scene], Sequence[str]], *, threads: int
) -> list[MaskVerdict]:
    """Check some masks of scenes in parallel; return the verdicts in the order of the scenes.

    Args:
        scenes: settled scenes.
        select_bands: returns the bands of a scene that are used as masks.
        threads: threads that read.

    Raises:
        AssetReadError: a file could not be read.
    """

    def check(scene: Scene) -> MaskVerdict:
        caveats = []
        for band in select_bands(scene):
            asset = scene.assets.get(band)
            if asset is None:
                continue
            values = raster_reader.read_thumbnail(
                asset.href, AssetInfo.from_scene(scene, asset), size=THUMBNAIL_SIZE
            )
            label = f"its {band} ({href_policy.redact(asset.href)})"
            verdict = examine_mask(values, asset.radiometry.unit, label)
            if verdict.reason is not None:
                return verdict
            caveats += [verdict.caveat] if verdict.caveat else []
        return MaskVerdict(caveat="; ".join(caveats) or None)

    with cancellation.CancellableThreadPool(threads, "masks") as pool:
        return list(pool.map(check, scenes))


def examine_mask(thumbnail: NDArray[Any], unit: str, label: str) -> MaskVerdict:
    """Examine the values of a mask.

    Args:
        thumbnail: (height, width) stored values; NaN = nodata.
        unit: ``class`` or ``probability``.
        label: how messages name the mask.
    """
    values = thumbnail[np.isfinite(thumbnail) & (thumbnail != _FILL_VALUE)]
    if not values.size:
        return MaskVerdict()
    highest = _HIGHEST_VALUES[unit]
    unlike = values[(values < 0) | (values > highest) | (values % 1 != 0)]
    kind = "codes of scene classes" if unit == "class" else "percentages of cloud probability"
    if unlike.size > MAX_OTHER_SHARE * values.size:
        return MaskVerdict(
            reason=f"{label} holds values such as {unlike.flat[0]:g}, which are no {kind} (whole "
            f"numbers from 0 to {highest})"
        )
    is_binary = unit == "probability" and values.max() == 1 and np.mean(values) > MAX_OTHER_SHARE
    if is_binary:
        return MaskVerdict(
            caveat=f"{label} holds 0 and 1 only, as a mask of clouds does, and is read as {kind}: "
            "all its pixels count as clear. If it is a mask, remove max_cloud_probability"
        )
    return MaskVerdict()
