"""Evaluate a segmenter on whole mosaics, with the encoder's tokens or without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import ModelError
from model.predictor.predictor import resolve_device
from model.terramind.modalities import IMAGE_SIZE, Statistics, get_statistics
from model.terramind.segmentation_head import Segmenter, TokenUse
from model.train.dataset import LabelledMosaic, standardise
from model.train.scores import Scores, compute_scores

CONTEXT = 32
"""Context at the edge of a window, px, which the next window predicts; at most a quarter."""


def evaluate(
    segmenter: Segmenter,
    mosaics: Sequence[LabelledMosaic],
    *,
    statistics: Mapping[str, Statistics] | None = None,
    device: str = "auto",
    tokens: TokenUse = "encoder",
    window: int = IMAGE_SIZE,
) -> Scores:
    """Map all mosaics and return the scores over all of their pixels.

    Args:
        segmenter: to evaluate.
        mosaics: with their labels.
        statistics: to standardise with; default those of TerraMind v1.
        device: auto, cpu, cuda or cuda:N.
        tokens: "zero" replaces the encoder's tokens by zeros.
        window: side of a window, px.

    Raises:
        ModelError: a mosaic is smaller than a window.
    """
    predictions = [
        predict_probabilities(
            segmenter, mosaic, statistics=statistics, device=device, tokens=tokens, window=window
        ).argmax(axis=0)
        for mosaic in mosaics
    ]
    labels = [mosaic.labels for mosaic in mosaics]
    return compute_scores(labels, predictions, segmenter.head.classes)


def predict_probabilities(
    segmenter: Segmenter,
    mosaic: LabelledMosaic,
    *,
    statistics: Mapping[str, Statistics] | None = None,
    device: str = "auto",
    tokens: TokenUse = "encoder",
    window: int = IMAGE_SIZE,
) -> NDArray[np.float32]:
    """Return probabilities (K, H, W) of a whole mosaic, from the middles of overlapping windows.

    Args and errors are those of :func:`evaluate`.
    """
    torch_device = resolve_device(device)
    channels = segmenter.head.channels
    bands = {name: segmenter.encoder.band_names(name) for name in segmenter.modalities}
    height, width = mosaic.labels.shape
    if min(height, width) < window:
        raise ModelError(f"a mosaic of {height} x {width} is smaller than a window of {window}")
    planes = standardise(mosaic, channels, get_statistics(bands, statistics)).to(torch_device)
    segmenter = segmenter.to(torch_device).eval()
    probabilities = np.zeros((segmenter.head.classes, height, width), np.float32)
    with torch.inference_mode():
        for rows, inner_rows in _iter_axis_windows(height, window):
            for columns, inner_columns in _iter_axis_windows(width, window):
                inputs = _select_present(planes[:, rows, columns][None], channels)
                if not inputs:
                    continue
                logits = segmenter(inputs, tokens=tokens)
                predicted = logits.float().softmax(dim=1)[0].cpu().numpy()
                middle = (
                    _relative_slice(inner_rows, rows),
                    _relative_slice(inner_columns, columns),
                )
                probabilities[:, inner_rows, inner_columns] = predicted[:, middle[0], middle[1]]
    segmenter.to("cpu")
    return probabilities


def _select_present(planes: torch.Tensor, channels: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Return the modalities that have any valid pixel."""
    parts = torch.split(planes, list(channels.values()), dim=1)
    named_parts = zip(channels, parts, strict=True)
    return {name: part for name, part in named_parts if bool(torch.isfinite(part).any())}


def _iter_axis_windows(size: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Yield windows along one axis, each with the part that is taken from its output."""
    context = min(CONTEXT, window // 4)
    starts = [*range(0, size - window, window - 2 * context), size - window]
    for index, start in enumerate(starts):
        first = 0 if index == 0 else start + context
        last = size if index == len(starts) - 1 else start + window - context
        yield slice(start, start + window), slice(first, last)


def _relative_slice(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)
