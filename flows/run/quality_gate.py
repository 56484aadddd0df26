"""Whether a product is good enough to be published: its figures against the limits of its job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.config.processing import Gate
from pipeline.plan.plan import Plan
from pipeline.quality import gates


def gate(plan: Plan) -> Gate:
    """Return the limits that a plan's job sets, or those that hold where it sets none."""
    return Gate(**plan.job.get("qc", {}))


def findings(plan: Plan, figures: Mapping[str, Any] | None) -> list[str]:
    """Say which figures are above their limits; nothing where the job does not want to know."""
    limits = gate(plan)
    if limits.gate == "off" or not figures:
        return []
    return gates.findings(figures, limits.model_dump())


def refused(plan: Plan, figures: Mapping[str, Any] | None) -> bool:
    """Tell whether the job wants nothing published with these figures."""
    return gate(plan).gate == "refuse" and bool(findings(plan, figures))
