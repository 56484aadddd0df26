"""Some windows made twice: beside the lattice, and in full precision.

A map that depends on where the windows happen to lie cannot be trusted near their edges; so every
now and then a window is predicted half a stride off, where the corners of four windows of the
lattice meet, and compared with the map.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import legend
from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.inference.classify import NON_LAND_COVER_CLASSES
from pipeline.inference.predictor import Predictor
from pipeline.inference.tiled import SampleWindow
from pipeline.plan.plan import Plan

SAMPLE_INTERVAL = 65
"""One window of so many has a sample beside it; which ones follows from the lattice alone."""

SAMPLE_LATTICE_STEP = 8
"""The sampled windows are a lattice themselves, of squares: 65 = 1² + 8²."""


def select_sample_windows(
    placement: WindowPlacement, lattice: Lattice, output_stride: int
) -> dict[int, tuple[int, ...]]:
    """Return first row → first columns of the sampled windows of a tile, on its context.

    A sample belongs to the tile that holds its middle: tiles share none, however they are cut.
    """
    shift = lattice.stride // 2
    shift -= shift % output_stride
    if not shift:
        return {}
    middle = shift + lattice.window // 2
    rows, columns = (
        [
            (start + shift, (first + start) // lattice.stride)
            for start in starts[:-1]
            if 0 <= start + middle - offset < size
        ]
        for starts, first, offset, size in zip(
            (placement.window_rows, placement.window_columns),
            placement.origin_index,
            placement.tile_offset,
            placement.tile_shape,
            strict=True,
        )
    )
    found = {
        row: tuple(
            column
            for column, across in columns
            if not (down + SAMPLE_LATTICE_STEP * across) % SAMPLE_INTERVAL
        )
        for row, down in rows
    }
    return {row: some for row, some in found.items() if some}


def compare_samples(
    plan: Plan,
    placement: WindowPlacement,
    samples: Sequence[SampleWindow],
    land_cover: NDArray[np.uint8] | None,
    predictor: Predictor,
) -> dict[str, Any]:
    """Return what the samples of a tile tell.

    Args:
        plan: the plan.
        placement: the tile's windows.
        samples: the windows beside the lattice.
        land_cover: (y, x) the tile's map; None where there is none.
        predictor: the model.

    Returns:
        ``shifted``: for each sample the pixels compared and those of another class, in the middle
        half of the window; ``precision``: the pixels compared and those of the same class in
        fp32, on GPUs where the model computes in another precision.
    """
    if land_cover is None or plan.model is None:
        return {}
    said = next(one for one in plan.model.outputs if one.task == "land_cover")
    index = plan.model.outputs.index(said)
    codes = np.array([legend.CLASS_BY_NAME[name].code for name in said.class_names], dtype=np.uint8)
    none = [legend.CLASS_BY_NAME[name].code for name in NON_LAND_COVER_CLASSES]
    found: dict[str, Any] = defaultdict(list)
    for one in samples:
        answer = one.outputs[index]
        side = answer.shape[-1]
        core = slice(side // 4, side - side // 4)
        own = codes[answer.argmax(axis=0)][core, core]
        row = one.row - placement.tile_offset[0] + core.start
        column = one.column - placement.tile_offset[1] + core.start
        top, left = max(-row, 0), max(-column, 0)
        mapped = land_cover[max(row, 0) : row + len(own), max(column, 0) : column + len(own)]
        own = own[top : top + mapped.shape[0], left : left + mapped.shape[1]]
        known = (mapped != legend.NODATA) & ~np.isin(own, none)
        found["shifted"].append([int(known.sum()), int((known & (mapped != own)).sum())])
        if plan.model.device == "cuda" and predictor.predict_reference is not None:
            # ^ a CPU has no memory to spare for a second model; docs/mapping.md has its figure
            full = predictor.predict_reference(one.chips, [one.origin])
            same = full[index][0].argmax(axis=0) == answer.argmax(axis=0)
            finite = np.isfinite(full[index][0]).all(axis=0) & np.isfinite(answer).all(axis=0)
            found["precision"].append([int(finite.sum()), int((same & finite).sum())])
    return dict(found)
