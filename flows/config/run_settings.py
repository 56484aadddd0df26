"""Run settings of a plan, taken from the sections of its job."""

from __future__ import annotations

from flows.config.execution import WorkerRange
from flows.config.job import Job
from flows.config.prices import Prices
from pipeline.plan.settings import (
    ExecutionSettings,
    ModelOptions,
    PriceList,
    QualityLimits,
    RunSettings,
)


def build_run_settings(job: Job, model_options: ModelOptions, request_digest: str) -> RunSettings:
    """Return the settings of a job that a run needs and that do not decide the pixels.

    Args:
        job: The job over one period.
        model_options: Options with which the model is loaded.
        request_digest: sha256 of what the job requests.
    """
    execution, limits = job.execution, job.qc
    workers = execution.workers
    return RunSettings(
        output_dir=str(job.output.folder),
        formats=tuple(job.output.formats),
        request_digest=request_digest,
        model=model_options,
        execution=ExecutionSettings(
            tile=execution.tile,
            engine=execution.engine,
            workers=workers.model_dump() if isinstance(workers, WorkerRange) else workers,
            device=execution.device,
            precision=execution.precision,
            batch=execution.batch,
            slot=execution.slot,
            max_hours=execution.max_hours,
        ),
        quality_limits=QualityLimits(
            gate=limits.gate,
            max_seam_z=limits.max_seam_z,
            max_disagreement=limits.max_disagreement,
            min_agreement=limits.min_agreement,
            min_observed=limits.min_observed,
        ),
        prices=_price_list(job.prices) if job.prices else None,
    )


def _price_list(prices: Prices) -> PriceList:
    return PriceList(
        currency=prices.currency,
        cpu_hour=prices.cpu_hour,
        gpu_hour=prices.gpu_hour,
        gb_read=prices.gb_read,
        thousand_requests=prices.thousand_requests,
        gb_month=prices.gb_month,
        months=prices.months,
    )
