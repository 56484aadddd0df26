"""The quality of a finished product that no truth is needed for: seams, and windows that disagree.

Figures are taken from what is stored and from the receipts, so that anybody can take them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.plan.plan import Plan
from pipeline.quality import seam_profiles
from pipeline.quality.seam_test import Seam
from pipeline.storage import receipt

FloatArray = NDArray[np.float64]

Z_95 = 1.96
"""Standard deviations of an interval that holds the truth in 95 of 100 cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProportionEstimate:
    """A share that was counted in samples, with its 95 % interval (Wilson 1927)."""

    n: int
    share: float
    low: float
    high: float

    @classmethod
    def from_samples(cls, samples: Sequence[tuple[int, int]]) -> ProportionEstimate | None:
        """Return the share over samples of neighbouring pixels, which are alike; None of nothing.

        Args:
            samples: of each the pixels, and those that count.
        """
        pixels, counts = np.array(samples, dtype=float).reshape(-1, 2).T
        n = int(pixels.sum())
        if not n:
            return None
        share = float(counts.sum()) / n
        worth = _effective_sample_size(pixels, counts, share)
        square = Z_95**2 / worth
        middle = (share + square / 2) / (1 + square)
        half = sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
        return cls(n=n, share=share, low=max(middle - half, 0.0), high=min(middle + half, 1.0))


def _effective_sample_size(pixels: FloatArray, counts: FloatArray, share: float) -> float:
    """Return how many independent pixels would tell as much (Kish 1965, of a ratio of clusters)."""
    samples = int((pixels > 0).sum())
    variance = ((counts - share * pixels) ** 2).sum() / pixels.sum() ** 2
    if samples < 2 or not variance:
        return float(samples)
    variance *= samples / (samples - 1)
    return float(min(max(share * (1 - share) / variance, 1.0), pixels.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMetrics:
    """The figures of one product; None where its size, or what it holds, does not allow one."""

    window: Seam | None = None
    """At the lines where model windows blend."""

    tile: Seam | None = None
    """At the lines between tiles."""

    zone: Seam | None = None
    """At the borders of UTM zones, on the first mosaic."""

    disagreement: ProportionEstimate | None = None
    """Pixels whose class is another one where the windows lie half a stride further."""

    precision: ProportionEstimate | None = None
    """Pixels that keep their class in full precision."""

    silent: int = 0
    """Windows without a finite answer."""

    rate_by_phase: tuple[float, ...] = ()
    """Rate at each boundary of a stride, from the first one at which two windows blend."""

    blend_length: int = 0
    """Boundaries over which they do."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values, without what only a picture needs."""
        values = asdict(self)
        del values["rate_by_phase"], values["blend_length"]
        return {key: _round_values(value) for key, value in values.items()}


def _round_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_values(one) for key, one in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def measure_quality(plan: Plan, plan_dir: Path) -> QualityMetrics:
    """Take the figures of a plan from its store and its receipts.

    Memory is bounded by a tile and a row of pixels, whatever the region's size.

    Raises:
        TerramosaicError: the store is damaged.
    """
    if plan.model is None or plan.lattice is None:
        return QualityMetrics()
    answer = plan.model.primary_output
    lines = seam_profiles.build_profiles(plan, plan_dir, answer, plan.lattice)
    return QualityMetrics(
        window=lines.evaluate_windows(),
        tile=lines.evaluate_tiles(),
        zone=seam_profiles.evaluate_zones(plan, plan_dir, answer),
        **_pool_samples(plan, plan_dir),
        rate_by_phase=lines.rate_by_phase(),
        blend_length=lines.lattice.overlap + 1,
    )


def _pool_samples(plan: Plan, plan_dir: Path) -> dict[str, Any]:
    """Return what the receipts' samples tell together."""
    told = [one.samples for one in receipt.read_finished(plan_dir, plan).values()]

    def pooled(name: str) -> ProportionEstimate | None:
        return ProportionEstimate.from_samples(
            [(n, count) for one in told for n, count in one.get(name, ())]
        )

    return {
        "disagreement": pooled("shifted"),
        "precision": pooled("precision"),
        "silent": sum(int(one.get("silent", 0)) for one in told),
    }


def check_limits(metrics: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """Say which figures are above their limits, and what to do.

    Args:
        metrics: :meth:`Quality.to_dict`'s values.
        limits: the job's ``max_seam_z``, ``max_disagreement`` and ``min_agreement``.
    """
    found = []
    for kind, advice in ADVICE.items():
        seam = metrics.get(kind)
        if seam and seam["z"] > limits["max_seam_z"]:
            found.append(
                f"Seams at {kind} lines: {_format_percent(seam['rate'])} of the neighbours across them "
                f"differ, where {_format_percent(seam['rate'] - seam['excess'])} would be usual, and at "
                f"their most visible place {_format_points(seam['worst'])} more than usual "
                f"(z = {seam['z']:.1f}, qc.max_seam_z is {limits['max_seam_z']:g}). {advice}"
            )
    other = metrics.get("disagreement")
    if other and other["low"] > limits["max_disagreement"]:
        found.append(
            f"{_format_percent(other['share'])} of the pixels get another class where the windows lie "
            f"half a stride further, and at least {_format_percent(other['low'])} as far as samples tell "
            f"(qc.max_disagreement is {limits['max_disagreement']:g}). "
            f"{ADVICE['window']}"
        )
    same = metrics.get("precision")
    if same and same["share"] < limits["min_agreement"]:
        found.append(
            f"Only {100 * same['share']:.2f} % of the pixels keep their class in full precision "
            f"(qc.min_agreement is {limits['min_agreement']:g}). Set execution.precision: fp32."
        )
    if metrics.get("silent"):
        found.append(
            f"{metrics['silent']} windows had no finite answer: what no other window sees is not "
            "classified. Compute in fp32, and run terramosaic models check on the weights."
        )
    return found


def largest_z(metrics: Mapping[str, Any]) -> float:
    """Return the largest z of figures as JSON; the lowest number where there is none."""
    return max((metrics[kind]["z"] for kind in ADVICE if metrics.get(kind)), default=float("-inf"))


ADVICE = {
    "window": "Raise model.overlap, or take a model with less need of context.",
    "tile": "The windows of neighbouring tiles differ: run terramosaic verify, and report it if "
    "every tile is sound.",
    "zone": "Look at the mosaic along the border of the zones: other scenes, or other dates, may "
    "have been used on either side.",
}


def _format_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _format_points(share: float) -> str:
    return f"{100 * share:.2g} percentage points"
