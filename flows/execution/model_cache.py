"""The predictor that this process has loaded for planning, reused for the plan's tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.predictor.predictor import Predictor
    from pipeline.plan.plan import Plan


class _Cache:
    predictor: Predictor | None = None


def store_predictor(predictor: Predictor | None) -> None:
    """Keep a predictor in place of the previous one; None = keep none."""
    _Cache.predictor = predictor


def find_predictor(plan: Plan) -> Predictor | None:
    """Return the kept predictor if its weights, precision and device are those of a plan."""
    predictor, spec = _Cache.predictor, plan.model
    if predictor is None or spec is None or predictor.digest != spec.digest:
        return None
    if (predictor.precision, predictor.device_type) != (spec.precision, spec.device):
        return None
    if spec.device == "cuda":
        predictor.batch_size = spec.batch
    return predictor
