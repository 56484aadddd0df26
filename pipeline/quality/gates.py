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

Numbers = NDArray[np.float64]

SIGMAS = 1.96
"""Standard deviations of an interval that holds the truth in 95 of 100 cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share that was counted in samples, with its 95 % interval (Wilson 1927)."""

    n: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[tuple[int, int]]) -> Share | None:
        """Return the share over samples of neighbouring pixels, which are alike; None of nothing.

        Args:
            samples: of each the pixels, and those that count.
        """
        pixels, counts = np.array(samples, dtype=float).reshape(-1, 2).T
        n = int(pixels.sum())
        if not n:
            return None
        share = float(counts.sum()) / n
        worth = _worth(pixels, counts, share)
        square = SIGMAS**2 / worth
        middle = (share + square / 2) / (1 + square)
        half = sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
        return cls(n=n, share=share, low=max(middle - half, 0.0), high=min(middle + half, 1.0))


def _worth(pixels: Numbers, counts: Numbers, share: float) -> float:
    """Return how many independent pixels would tell as much (Kish 1965, of a ratio of clusters)."""
    samples = int((pixels > 0).sum())
    variance = ((counts - share * pixels) ** 2).sum() / pixels.sum() ** 2
    if samples < 2 or not variance:
        return float(samples)
    variance *= samples / (samples - 1)
    return float(min(max(share * (1 - share) / variance, 1.0), pixels.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The figures of one product; None where its size, or what it holds, does not allow one."""

    window: Seam | None = None
    """At the lines where model windows blend."""

    tile: Seam | None = None
    """At the lines between tiles."""

    zone: Seam | None = None
    """At the borders of UTM zones, on the first mosaic."""

    disagreement: Share | None = None
    """Pixels whose class is another one where the windows lie half a stride further."""

    precision: Share | None = None
    """Pixels that keep their class in full precision."""

    silent: int = 0
    """Windows without a finite answer."""

    around: tuple[float, ...] = ()
    """Rate at each boundary of a stride, from the first one at which two windows blend."""

    blend: int = 0
    """Boundaries over which they do."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values, without what only a picture needs."""
        values = asdict(self)
        del values["around"], values["blend"]
        return {key: _rounded(value) for key, value in values.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def measure(plan: Plan, folder: Path) -> Quality:
    """Take the figures of a plan from its store and its receipts.

    Memory is bounded by a tile and a row of pixels, whatever the region's size.

    Raises:
        TerramosaicError: the store is damaged.
    """
    if plan.model is None or plan.lattice is None:
        return Quality()
    answer = plan.model.main
    lines = seam_profiles.of(plan, folder, answer, plan.lattice)
    return Quality(
        window=lines.windows(),
        tile=lines.tiles(),
        zone=seam_profiles.zones(plan, folder, answer),
        **_pooled(plan, folder),
        around=lines.around(),
        blend=lines.lattice.ramp + 1,
    )


def _pooled(plan: Plan, folder: Path) -> dict[str, Any]:
    """Return what the receipts' samples tell together."""
    told = [one.samples for one in receipt.finished(folder, plan).values()]

    def pooled(name: str) -> Share | None:
        return Share.of([(n, count) for one in told for n, count in one.get(name, ())])

    return {
        "disagreement": pooled("shifted"),
        "precision": pooled("precision"),
        "silent": sum(int(one.get("silent", 0)) for one in told),
    }


def findings(figures: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """Say which figures are above their limits, and what to do.

    Args:
        figures: :meth:`Quality.to_dict`'s values.
        limits: the job's ``max_seam_z``, ``max_disagreement`` and ``min_agreement``.
    """
    found = []
    for kind, advice in ADVICE.items():
        seam = figures.get(kind)
        if seam and seam["z"] > limits["max_seam_z"]:
            found.append(
                f"Seams at {kind} lines: {_percent(seam['rate'])} of the neighbours across them "
                f"differ, where {_percent(seam['rate'] - seam['excess'])} would be usual, and at "
                f"their most visible place {_points(seam['worst'])} more than usual "
                f"(z = {seam['z']:.1f}, qc.max_seam_z is {limits['max_seam_z']:g}). {advice}"
            )
    other = figures.get("disagreement")
    if other and other["low"] > limits["max_disagreement"]:
        found.append(
            f"{_percent(other['share'])} of the pixels get another class where the windows lie "
            f"half a stride further, and at least {_percent(other['low'])} as far as samples tell "
            f"(qc.max_disagreement is {limits['max_disagreement']:g}). "
            f"{ADVICE['window']}"
        )
    same = figures.get("precision")
    if same and same["share"] < limits["min_agreement"]:
        found.append(
            f"Only {100 * same['share']:.2f} % of the pixels keep their class in full precision "
            f"(qc.min_agreement is {limits['min_agreement']:g}). Set execution.precision: fp32."
        )
    if figures.get("silent"):
        found.append(
            f"{figures['silent']} windows had no finite answer: what no other window sees is not "
            "classified. Compute in fp32, and run terramosaic models check on the weights."
        )
    return found


def worst(figures: Mapping[str, Any]) -> float:
    """Return the largest z of figures as JSON; the lowest number where there is none."""
    return max((figures[kind]["z"] for kind in ADVICE if figures.get(kind)), default=float("-inf"))


ADVICE = {
    "window": "Raise model.overlap, or take a model with less need of context.",
    "tile": "The windows of neighbouring tiles differ: run terramosaic verify, and report it if "
    "every tile is sound.",
    "zone": "Look at the mosaic along the border of the zones: other scenes, or other dates, may "
    "have been used on either side.",
}


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _points(share: float) -> str:
    return f"{100 * share:.2g} percentage points"
