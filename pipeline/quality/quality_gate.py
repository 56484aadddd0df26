"""Compare the quality figures of a product with the limits of its job."""

from __future__ import annotations

from catalogs import number_format
from pipeline.plan.plan import Plan
from pipeline.plan.settings import QualityLimits
from pipeline.quality.quality_metrics import ProportionEstimate, QualityMetrics
from pipeline.quality.seam_test import Seam

ADVICE = {
    "window": "Raise model.overlap, or choose a model that needs less context.",
    "tile": "The windows of neighbouring tiles differ: run terramosaic verify, and report it as a "
    "bug if no tile is damaged.",
    "zone": "Look at the mosaic along the border of the zones: the scenes, or their dates, may "
    "differ on either side.",
}
"""Kind of seam → what to do about it."""


def find_violations(plan: Plan, quality: QualityMetrics | None) -> list[str]:
    """Return a sentence for each figure above its limit; none with ``gate: off``."""
    limits = plan.settings.quality_limits
    if limits.gate == "off" or quality is None:
        return []
    return check_limits(quality, limits)


def list_refusals(plan: Plan, quality: QualityMetrics | None) -> list[str]:
    """Return why a product with these figures must not be published; empty where it may be."""
    is_strict = plan.settings.quality_limits.gate == "refuse"
    return find_violations(plan, quality) if is_strict else []


def check_limits(metrics: QualityMetrics, limits: QualityLimits) -> list[str]:
    """Return a message for each figure that exceeds its limit, with what to do."""
    checks = (
        *(_check_seam(kind, seam, limits.max_seam_z) for kind, seam in metrics.seams().items()),
        _check_disagreement(metrics.disagreement, limits.max_disagreement),
        _check_precision(metrics.precision, limits.min_agreement),
        _check_finite(metrics.silent),
    )
    return [message for message in checks if message is not None]


def _check_seam(kind: str, seam: Seam, max_z: float) -> str | None:
    if seam.z <= max_z:
        return None
    rate, usual = _format_percent(seam.rate), _format_percent(seam.rate - seam.excess)
    z, limit = number_format.format_apart(seam.z, max_z, digits=2)
    return (
        f"Seams at {kind} lines: {rate} of the neighbours across them differ, where {usual} would "
        f"be usual, and at the most visible line {_format_points(seam.worst)} more than usual "
        f"(z = {z}, qc.max_seam_z is {limit}). {ADVICE[kind]}"
    )


def _check_disagreement(sample: ProportionEstimate | None, limit: float) -> str | None:
    if sample is None or sample.low <= limit:
        return None
    low, _ = number_format.format_apart(100 * sample.low, 100 * limit, digits=3)
    return (
        f"{_format_percent(sample.share)} of the pixels get another class where the windows are "
        f"shifted by half a stride, and at least {low} % with 95 % confidence "
        f"(qc.max_disagreement is {limit:g}). "
        f"{ADVICE['window']}"
    )


def _check_precision(sample: ProportionEstimate | None, limit: float) -> str | None:
    if sample is None or sample.share >= limit:
        return None
    share, _ = number_format.format_apart(100 * sample.share, 100 * limit, digits=4)
    return (
        f"Only {share} % of the pixels keep their class in full precision "
        f"(qc.min_agreement is {limit:g}). Set execution.precision: fp32."
    )


def _check_finite(window_count: int) -> str | None:
    if not window_count:
        return None
    return (
        f"{window_count} windows had no finite output: pixels that no other window covers are not "
        "classified. Compute in fp32, and run terramosaic models check on the weights."
    )


def _format_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _format_points(share: float) -> str:
    return f"{100 * share:.2g} percentage points"
