"""Whether a product is good enough to be published: its figures against the limits of its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.plan.plan import Plan
from pipeline.quality import gates


def find_violations(plan: Plan, quality: Mapping[str, Any] | None) -> list[str]:
    """Say which figures are above their limits; nothing where the job does not want to know."""
    limits = plan.settings.quality_limits
    if limits.gate == "off" or not quality:
        return []
    return gates.check_limits(quality, asdict(limits))


def is_refused(plan: Plan, quality: Mapping[str, Any] | None) -> bool:
    """Tell whether the job wants nothing published with these figures."""
    return plan.settings.quality_limits.gate == "refuse" and bool(find_violations(plan, quality))
