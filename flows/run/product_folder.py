"""Folders of a product: one for its name and period, and in it one for each plan."""

from __future__ import annotations

from pathlib import Path

from flows.config.job import Job
from pipeline.plan.plan import Plan


def product_dir(source: Job | Plan) -> Path:
    """Return the folder of a job's or a plan's product, which holds ``item.json``."""
    if isinstance(source, Job):
        output_dir, period = source.output.folder, source.resolved_period
        start, end = period.start.isoformat(), period.end.isoformat()
    else:
        output_dir = Path(source.settings.output_dir)
        start, end = source.period
    return output_dir / source.name / f"{start}_{end}"


def plan_dir(plan: Plan) -> Path:
    """Return the folder of a plan, which holds its plan file, receipts, store and layers."""
    return product_dir(plan) / plan.short_digest
