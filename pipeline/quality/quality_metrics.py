"""Measure the quality of a product without reference data: seams, and agreement between windows.

The figures are computed from the stored layers and the receipts, so they can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.plan.plan import Plan
from pipeline.quality.seam_test import Seam
from pipeline.storage import receipt
from pipeline.storage.store import StoreLike

FloatArray = NDArray[np.float64]

Z_95 = 1.96
"""Half the width of a 95 % interval, in standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProportionEstimate:
    """A proportion estimated from samples, with its 95 % interval (Wilson 1927)."""

    n: int
    share: float
    low: float
    high: float

    @classmethod
    def from_samples(cls, samples: Sequence[tuple[int, int]]) -> ProportionEstimate | None:
        """Estimate a proportion from clusters of neighbouring pixels; None without pixels.

        Args:
            samples: number of pixels and number of positives in each cluster.
        """
        pixels, counts = np.array(samples, dtype=float).reshape(-1, 2).T
        n = int(pixels.sum())
        if not n:
            return None
        share = float(counts.sum()) / n
        effective_n = _effective_sample_size(pixels, counts, share)
        square = Z_95**2 / effective_n
        middle = (share + square / 2) / (1 + square)
        half = sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
        return cls(n=n, share=share, low=max(middle - half, 0.0), high=min(middle + half, 1.0))


def _effective_sample_size(pixels: FloatArray, counts: FloatArray, share: float) -> float:
    """Return the number of independent pixels of equal variance (Kish 1965, ratio of clusters)."""
    samples = int((pixels > 0).sum())
    variance = ((counts - share * pixels) ** 2).sum() / pixels.sum() ** 2
    if samples < 2 or not variance:
        return float(samples)
    variance *= samples / (samples - 1)
    return float(min(max(share * (1 - share) / variance, 1.0), pixels.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMetrics:
    """The quality figures of one product; None where its size or content does not allow one."""

    window: Seam | None = None
    """Seams where model windows blend."""

    tile: Seam | None = None
    """Seams between tiles."""

    zone: Seam | None = None
    """Seams at the borders of UTM zones, on the first mosaic."""

    disagreement: ProportionEstimate | None = None
    """Pixels whose class changes where the windows are shifted by half a stride."""

    precision: ProportionEstimate | None = None
    """Pixels whose class stays the same in full precision."""

    silent: int = 0
    """Windows without a finite output."""

    rate_by_phase: tuple[float, ...] = ()
    """Rate at each boundary of a stride, from the first one at which two windows blend."""

    blend_length: int = 0
    """Boundaries over which they do."""

    def seams(self) -> dict[str, Seam]:
        """Return the seams that could be tested, by kind: window, tile and zone."""
        seams = {"window": self.window, "tile": self.tile, "zone": self.zone}
        return {kind: seam for kind, seam in seams.items() if seam is not None}

    @property
    def largest_z(self) -> float:
        """Largest z of the seams; minus infinity without any."""
        return max((seam.z for seam in self.seams().values()), default=float("-inf"))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QualityMetrics:
        """Build the figures from :meth:`to_dict`'s values.

        Raises:
            TypeError: a figure has another form.
        """

        def read_seam(kind: str) -> Seam | None:
            return Seam(**values[kind]) if values.get(kind) else None

        def read_proportion(name: str) -> ProportionEstimate | None:
            return ProportionEstimate(**values[name]) if values.get(name) else None

        return cls(
            window=read_seam("window"),
            tile=read_seam("tile"),
            zone=read_seam("zone"),
            disagreement=read_proportion("disagreement"),
            precision=read_proportion("precision"),
            silent=values.get("silent", 0),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values, without those that only a chart needs."""
        values = asdict(self)
        del values["rate_by_phase"], values["blend_length"]
        return {key: _round_values(value) for key, value in values.items()}


def _round_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_values(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def measure_quality(plan: Plan, plan_dir: StoreLike) -> QualityMetrics:
    """Compute the figures of a plan from its Zarr store and its receipts.

    Memory is bounded by a tile and a row of pixels, whatever the region's size.

    Raises:
        TerramosaicError: the store is damaged.
    """
    if plan.model is None or plan.lattice is None:
        return QualityMetrics()
    from pipeline.quality import seam_profiles  # noqa: PLC0415

    # ^ slow to import (zarr), and who only reads published figures does not need it
    output = plan.model.primary_output
    profiles = seam_profiles.build_profiles(plan, plan_dir, output, plan.lattice)
    return QualityMetrics(
        window=profiles.evaluate_windows(),
        tile=profiles.evaluate_tiles(),
        zone=seam_profiles.evaluate_zones(plan, plan_dir, output),
        **_pool_samples(plan, plan_dir),
        rate_by_phase=profiles.rate_by_phase(),
        blend_length=profiles.lattice.overlap + 1,
    )


def _pool_samples(plan: Plan, plan_dir: StoreLike) -> dict[str, Any]:
    """Pool the samples of all receipts."""
    receipts = receipt.read_finished(plan_dir, plan).values()
    samples_by_tile = [tile_receipt.samples for tile_receipt in receipts]

    def pool(name: str) -> ProportionEstimate | None:
        return ProportionEstimate.from_samples(
            [(n, count) for samples in samples_by_tile for n, count in samples.get(name, ())]
        )

    return {
        "disagreement": pool("shifted"),
        "precision": pool("precision"),
        "silent": sum(int(samples.get("silent", 0)) for samples in samples_by_tile),
    }
