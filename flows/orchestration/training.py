"""The flow of a training: weights and card of the small model, by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.orchestration import server

server.prepare_environment()

import prefect  # noqa: E402
from prefect import runtime  # noqa: E402

from flows.orchestration import concurrency  # noqa: E402

# ^ Prefect's settings are read when it is imported


def _flow_run_name() -> str:
    return Path(runtime.flow_run.parameters["out"]).name


@prefect.flow(
    name="train", persist_result=False, result_serializer="json", flow_run_name=_flow_run_name
)
def train(
    out: str,
    recipe: str | None = None,
    seeds: list[int] | None = None,
    steps: int | None = None,
    device: str = "auto",
    minutes: float | None = None,
    slot: str | None = None,
) -> dict[str, Any]:
    """Train the small model on demo countries and write weights and card.

    Args:
        out: Folder of the result.
        recipe: Path of a recipe; empty: the shipped one.
        seeds: Countries to learn from, instead of the recipe's.
        steps: Optimiser steps, instead of the recipe's.
        device: auto, cpu, cuda or cuda:N.
        minutes: Of fitting, at most.
        slot: Name of what runs take turns at, as a GPU; empty: nothing.

    Returns:
        What ``terramosaic train --json`` prints.
    """
    from flows.demo import train as training  # noqa: PLC0415
    from flows.observe.progress import NullProgress  # noqa: PLC0415

    # ^ torch takes seconds to import, and a worker that only names the flow needs none
    server.enable_info_logging()
    with concurrency.hold_slot(slot):
        return training.run(
            Path(recipe) if recipe else None,
            out=Path(out),
            seeds=seeds,
            steps=steps,
            device=device,
            minutes=minutes,
            progress=NullProgress(),
        )
