"""Train our own segmenters, and measure them honestly: `fit`, `evaluate` and a baseline."""

from __future__ import annotations

from model.train.dataset import IGNORE, Mosaic, band_statistics
from model.train.evaluation import evaluate, probabilities
from model.train.fitting import Progress, Record, fit
from model.train.metrics import Scores
from model.train.qda import Qda

__all__ = [
    "IGNORE",
    "Mosaic",
    "Progress",
    "Qda",
    "Record",
    "Scores",
    "band_statistics",
    "evaluate",
    "fit",
    "probabilities",
]
