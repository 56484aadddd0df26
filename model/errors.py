"""Errors of this package. All are ValueErrors: the request is wrong, and a retry does not help."""

from __future__ import annotations

from collections.abc import Iterable


class ModelError(ValueError):
    """A name, a configuration or an input that the model cannot take."""


class WeightsError(ModelError):
    """Weights that are absent, damaged, unsafe, or made for another model."""


def join_names(names: Iterable[object], limit: int = 8) -> str:
    """Join names with commas for a message; names beyond `limit` are only counted."""
    texts = [str(name) for name in names]
    rest = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return (", ".join(texts[:limit]) or "none") + rest
