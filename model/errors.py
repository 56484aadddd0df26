"""What this package raises. Both are ValueErrors: the request is wrong, not the weather."""

from __future__ import annotations

from collections.abc import Iterable


class ModelError(ValueError):
    """A name, a configuration or an input that the model cannot take."""


class WeightsError(ModelError):
    """Weights that are absent, damaged, unsafe, or made for another model."""


def join_names(names: Iterable[object], limit: int = 8) -> str:
    """Join names for a message, cut after `limit` of them."""
    every = [str(name) for name in names]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return (", ".join(every[:limit]) or "none") + more
