"""Quality gate: the quality figures of a product against the limits of its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.plan.plan import Plan
from pipeline.quality import quality_metrics


def find_violations(plan: Plan, quality: Mapping[str, Any] | None) -> list[str]:
    """Return a sentence for each figure above its limit; none with ``gate: off``."""
    limits = plan.settings.quality_limits
    if limits.gate == "off" or not quality:
        return []
    return quality_metrics.check_limits(quality, asdict(limits))


def is_refused(plan: Plan, quality: Mapping[str, Any] | None) -> bool:
    """Tell whether a product with these figures must not be published."""
    return plan.settings.quality_limits.gate == "refuse" and bool(find_violations(plan, quality))
