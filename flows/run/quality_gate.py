"""Whether a product is good enough to be published: its figures against the limits of its job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.config.processing import QualityGate
from pipeline.plan.plan import Plan
from pipeline.quality import gates


def get_limits(plan: Plan) -> QualityGate:
    """Return the limits that a plan's job sets, or those that hold where it sets none."""
    return QualityGate(**plan.job.get("qc", {}))


def find_violations(plan: Plan, quality: Mapping[str, Any] | None) -> list[str]:
    """Say which figures are above their limits; nothing where the job does not want to know."""
    limits = get_limits(plan)
    if limits.gate == "off" or not quality:
        return []
    return gates.check_limits(quality, limits.model_dump())


def is_refused(plan: Plan, quality: Mapping[str, Any] | None) -> bool:
    """Tell whether the job wants nothing published with these figures."""
    return get_limits(plan).gate == "refuse" and bool(find_violations(plan, quality))
