"""Train segmenters with `fit`, score them with `evaluate`, and compare them with a baseline."""

from __future__ import annotations

from model.train.dataset import IGNORE_INDEX, LabelledMosaic, compute_band_statistics
from model.train.evaluation import evaluate, predict_probabilities
from model.train.fitting import FitProgress, FitRecord, fit
from model.train.qda import Qda
from model.train.scores import Scores

__all__ = [
    "IGNORE_INDEX",
    "FitProgress",
    "FitRecord",
    "LabelledMosaic",
    "Qda",
    "Scores",
    "compute_band_statistics",
    "evaluate",
    "fit",
    "predict_probabilities",
]
