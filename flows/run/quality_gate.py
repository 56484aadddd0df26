"""Quality gate: the quality figures of a product against the limits of its job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.config.processing import QualityGate
from pipeline.plan.plan import Plan
from pipeline.quality import gates


def get_limits(plan: Plan) -> QualityGate:
    """Return the limits of a plan's job; those that it leaves out have their defaults."""
    return QualityGate(**plan.job.get("qc", {}))


def find_violations(plan: Plan, quality: Mapping[str, Any] | None) -> list[str]:
    """Return a sentence for each figure above its limit; none with ``gate: off``."""
    limits = get_limits(plan)
    if limits.gate == "off" or not quality:
        return []
    return gates.check_limits(quality, limits.model_dump())


def is_refused(plan: Plan, quality: Mapping[str, Any] | None) -> bool:
    """Tell whether a product with these figures must not be published."""
    return get_limits(plan).gate == "refuse" and bool(find_violations(plan, quality))
