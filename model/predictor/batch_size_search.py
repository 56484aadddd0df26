"""Batch size of a predictor: on a GPU, the number of windows that fits into its memory.

The batch size is part of a plan, because outputs are bit-identical only for the same batch size.
It is measured once per model and GPU, and cached beside the checksums of the weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import ModelError
from model.predictor.predictor import Predictor
from model.weights import checksums

CPU_BATCH_SIZE = 4
"""Windows per call on a CPU: each core computes one, and outputs do not depend on the number."""

MAX_BATCH_SIZE = 512
MEMORY_FRACTION = 0.8
"""Share of the free GPU memory that a batch may take; the rest is for the next batch and others."""


def find_batch_size(predictor: Predictor) -> int:
    """Return the batch size of a predictor.

    On a GPU it is the largest power of two up to 512 whose peak memory stays within 80 % of what
    is free once the weights are loaded; on a CPU it is a constant.

    Raises:
        ModelError: not even one window fits.
    """
    if predictor.device.type != "cuda":
        return CPU_BATCH_SIZE
    torch.cuda.empty_cache()
    available = int(MEMORY_FRACTION * torch.cuda.mem_get_info(predictor.device)[0])
    device_name = torch.cuda.get_device_name(predictor.device)
    key = f"{predictor.digest} {device_name} {predictor.precision}"
    cached = _read_cache().get(key)
    if cached is not None and cached["peak"] <= available:
        return cached["batch"]
    batch_size, peak = _try_batch_sizes(predictor, available)
    _write_cache(key, {"batch": batch_size, "peak": peak})
    return batch_size


def _try_batch_sizes(predictor: Predictor, available: int) -> tuple[int, int]:
    """Return the largest batch size within the available bytes, and its peak memory in bytes."""
    batch_size, peak = 0, 0
    previous = predictor.batch_size
    candidate = 1
    try:
        while candidate <= MAX_BATCH_SIZE:
            candidate_peak = _measure_peak_memory(predictor, candidate)
            if candidate_peak is None or candidate_peak > available:
                break
            batch_size, peak = candidate, candidate_peak
            candidate *= 2
    finally:
        predictor.batch_size = previous
        torch.cuda.empty_cache()
    if not batch_size:
        raise ModelError(
            f"{predictor.device} has {available / 1e9:.1f} GB available, and one window of "
            f"{predictor.window} px needs more: free its memory, or compute on the CPU"
        )
    return batch_size, peak


def _measure_peak_memory(predictor: Predictor, batch_size: int) -> int | None:
    """Return the peak memory of a batch in bytes, without the weights; None if it does not fit."""
    device = predictor.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    reserved_before = torch.cuda.memory_reserved(device)
    predictor.batch_size = batch_size
    try:
        predictor.predict(_make_mean_chips(predictor, batch_size), [(0, 0)] * batch_size)
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_reserved(device) - reserved_before
    # ^ reserved, not allocated: gaps between tensors are not available to other processes either


def _make_mean_chips(predictor: Predictor, batch_size: int) -> dict[str, NDArray[np.float32]]:
    """Return windows of every input, filled with the mean of the training data."""
    side = predictor.window
    return {
        name: np.broadcast_to(
            np.array(predictor.spec.statistics[name].mean, np.float32)[:, None, None],
            (batch_size, len(bands), side, side),
        )
        for name, bands in predictor.inputs.items()
    }


def _cache_path() -> Path:
    return checksums.home_dir() / "batches.json"


def _read_cache() -> dict[str, dict[str, int]]:
    with suppress(OSError, ValueError):
        content = json.loads(_cache_path().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return {
                key: entry
                for key, entry in content.items()
                if isinstance(entry, dict) and {"batch", "peak"} <= entry.keys()
            }
    return {}


def _write_cache(key: str, entry: Mapping[str, int]) -> None:
    with suppress(OSError), checksums.lock_pins():
        # ^ a folder that cannot be written to has no cache: the next process measures again
        text = json.dumps({**_read_cache(), key: dict(entry)}, indent=1, sort_keys=True)
        part = _cache_path().with_name(f"{_cache_path().name}.{os.getpid()}.part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(_cache_path())
