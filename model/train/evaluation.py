"""Map whole mosaics with a segmenter and score them, with its tokens or without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import ModelError
from model.predictor.predictor import resolve_device
from model.segmentation_head import Segmenter, TokenUse
from model.terramind.modalities import IMAGE_SIZE, Statistics, get_statistics
from model.train.dataset import LabelledMosaic, standardise
from model.train.metrics import Scores, compute_scores

CONTEXT = 32
"""Width of a window's rim that is left to the neighbouring window, px; a quarter at most."""


def evaluate(
    segmenter: Segmenter,
    mosaics: Sequence[LabelledMosaic],
    *,
    statistics: Mapping[str, Statistics] | None = None,
    device: str = "auto",
    tokens: TokenUse = "encoder",
    window: int = IMAGE_SIZE,
) -> Scores:
    """Score the maps of all mosaics as one; `tokens="zero"` blanks the encoder."""
    answers = [
        predict_probabilities(
            segmenter, chip, statistics=statistics, device=device, tokens=tokens, window=window
        ).argmax(axis=0)
        for chip in mosaics
    ]
    return compute_scores([chip.labels for chip in mosaics], answers, segmenter.head.classes)


def predict_probabilities(
    segmenter: Segmenter,
    mosaic: LabelledMosaic,
    *,
    statistics: Mapping[str, Statistics] | None = None,
    device: str = "auto",
    tokens: TokenUse = "encoder",
    window: int = IMAGE_SIZE,
) -> NDArray[np.float32]:
    """Return (K, H, W) for a whole mosaic: overlapping windows, each giving its middle."""
    place = resolve_device(device)
    channels = segmenter.head.channels
    bands = {name: segmenter.encoder.band_names(name) for name in segmenter.modalities}
    height, width = mosaic.labels.shape
    if min(height, width) < window:
        raise ModelError(f"a mosaic of {height} x {width} is smaller than a window of {window}")
    planes = standardise(mosaic, channels, get_statistics(bands, statistics)).to(place)
    segmenter = segmenter.to(place).eval()
    result = np.zeros((segmenter.head.classes, height, width), np.float32)
    with torch.inference_mode():
        for rows, inner_rows in _iter_axis_windows(height, window):
            for columns, inner_columns in _iter_axis_windows(width, window):
                given = _select_present(planes[:, rows, columns][None], channels)
                if not given:
                    continue
                answer = segmenter(given, tokens=tokens).float().softmax(dim=1)[0].cpu().numpy()
                local = (_relative_slice(inner_rows, rows), _relative_slice(inner_columns, columns))
                result[:, inner_rows, inner_columns] = answer[:, local[0], local[1]]
    segmenter.to("cpu")
    return result


def _select_present(planes: torch.Tensor, channels: Mapping[str, int]) -> dict[str, torch.Tensor]:
    parts = torch.split(planes, list(channels.values()), dim=1)
    found = zip(channels, parts, strict=True)
    return {name: part for name, part in found if bool(torch.isfinite(part).any())}


def _iter_axis_windows(size: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Yield windows along one axis with the part that each of them answers for."""
    margin = min(CONTEXT, window // 4)
    starts = [*range(0, size - window, window - 2 * margin), size - window]
    for index, start in enumerate(starts):
        first = 0 if index == 0 else start + margin
        last = size if index == len(starts) - 1 else start + window - margin
        yield slice(start, start + window), slice(first, last)


def _relative_slice(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)
