"""The model that this process has loaded: to plan with, and then to map with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.predictor.predictor import Predictor
    from pipeline.plan.plan import Plan


class _Cache:
    predictor: Predictor | None = None


def store_predictor(predictor: Predictor | None) -> None:
    """Keep a model that was just loaded, instead of the one before; None = none."""
    _Cache.predictor = predictor


def find_predictor(plan: Plan) -> Predictor | None:
    """Return the kept model if it is the very one that a plan was made for."""
    kept, wanted = _Cache.predictor, plan.model
    if kept is None or wanted is None or kept.digest != wanted.digest:
        return None
    same = (kept.precision, kept.device_type) == (wanted.precision, wanted.device)
    if same and wanted.device == "cuda":
        kept.batch_size = wanted.batch
    return kept if same else None
