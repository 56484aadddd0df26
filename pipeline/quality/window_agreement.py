"""Compare the map with sample windows beside the lattice, and with predictions in fp32.

If a map depends on the positions of the windows, it is unreliable near their edges. So a sample
of windows is predicted a second time half a stride beside the lattice, where the corners of four
windows meet, and compared with the map.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.inference.predictor_protocol import Predictor
from pipeline.inference.tiled_inference import SampleWindow
from pipeline.plan.plan import Plan

SAMPLE_INTERVAL = 65
"""One window of this number has a sample beside it; the lattice alone decides which."""

SAMPLE_LATTICE_STEP = 8
"""The sampled windows form a square lattice themselves: 65 = 1² + 8²."""


def select_sample_windows(
    placement: WindowPlacement, lattice: Lattice, output_stride: int
) -> dict[int, tuple[int, ...]]:
    """Select the sample windows of a tile: first row -> first columns, in its context.

    A sample belongs to the tile that contains its centre: no two tiles share one.

    Args:
        placement: the tile's windows.
        lattice: their geometry, in pixels.
        output_stride: stride of the finest output; windows begin at its multiples.
    """
    shift = lattice.stride // 2
    shift -= shift % output_stride
    if not shift:
        return {}
    centre = shift + lattice.window // 2
    rows, columns = (
        [
            (start + shift, (first + start) // lattice.stride)
            for start in starts[:-1]
            if 0 <= start + centre - offset < size
        ]
        for starts, first, offset, size in zip(
            (placement.window_rows, placement.window_columns),
            placement.origin_index,
            placement.tile_offset,
            placement.tile_shape,
            strict=True,
        )
    )
    columns_by_row = {
        row: tuple(
            column
            for column, column_index in columns
            if not (row_index + SAMPLE_LATTICE_STEP * column_index) % SAMPLE_INTERVAL
        )
        for row, row_index in rows
    }
    return {row: sampled for row, sampled in columns_by_row.items() if sampled}


def compare_samples(
    plan: Plan,
    placement: WindowPlacement,
    samples: Sequence[SampleWindow],
    class_map: NDArray[np.uint8] | None,
    predictor: Predictor,
) -> dict[str, Any]:
    """Compare the sample windows of a tile with its map and with predictions in fp32.

    Args:
        plan: the plan.
        placement: the tile's windows.
        samples: sample windows beside the lattice.
        class_map: (y, x) codes of the tile; None if the model has no classes.
        predictor: the model.

    Returns:
        ``shifted``: for each sample the number of compared pixels and of those with another class,
        in the central half of the window. ``precision``: the number of compared pixels and of those
        with the same class in fp32, on GPUs if the model computes in another precision.
    """
    spec = plan.model.class_output if plan.model else None
    if class_map is None or plan.model is None or spec is None:
        return {}
    index = plan.model.outputs.index(spec)
    codes = np.array(spec.codes, dtype=np.uint8)
    gaps = [entry.code for entry in spec.legend.classes if entry.is_gap]
    counts: dict[str, Any] = defaultdict(list)
    for sample in samples:
        probabilities = sample.outputs[index]
        size = probabilities.shape[-1]
        core = slice(size // 4, size - size // 4)
        shifted = codes[probabilities.argmax(axis=0)][core, core]
        row = sample.row - placement.tile_offset[0] + core.start
        column = sample.column - placement.tile_offset[1] + core.start
        top, left = max(-row, 0), max(-column, 0)
        mapped = class_map[max(row, 0) : row + len(shifted), max(column, 0) : column + len(shifted)]
        shifted = shifted[top : top + mapped.shape[0], left : left + mapped.shape[1]]
        valid = (mapped != spec.legend.nodata) & ~np.isin(shifted, gaps)
        counts["shifted"].append([int(valid.sum()), int((valid & (mapped != shifted)).sum())])
        if plan.model.device == "cuda" and predictor.predict_reference is not None:
            # ^ a CPU has no memory for a second model; docs/mapping.md has the measured difference
            reference = predictor.predict_reference(sample.chips, [sample.origin])[index][0]
            same = reference.argmax(axis=0) == probabilities.argmax(axis=0)
            finite = np.isfinite(reference).all(axis=0) & np.isfinite(probabilities).all(axis=0)
            counts["precision"].append([int(finite.sum()), int((same & finite).sum())])
    return dict(counts)
