"""How many windows go through at a time: as many as a GPU's memory holds, found by trying.

The number belongs to a plan, since the bits of an answer depend on it. It is tried once for each
model and device, and written down beside the pins of the weights.
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
"""Windows a call where there is no GPU: its cores take one each, so that the number is free."""

MAX_BATCH_SIZE = 512
MEMORY_FRACTION = 0.8
"""Of the memory that is free: the rest is for the next batch, and for whoever else is there."""


def find_batch_size(predictor: Predictor) -> int:
    """Return how many windows a predictor is best given at a time.

    On a GPU the largest power of two up to 512 whose peak of memory stays within 80 % of what is
    free once the weights are there.

    Raises:
        ModelError: not even one window fits.
    """
    if predictor.device.type != "cuda":
        return CPU_BATCH_SIZE
    torch.cuda.empty_cache()
    room = int(MEMORY_FRACTION * torch.cuda.mem_get_info(predictor.device)[0])
    name = torch.cuda.get_device_name(predictor.device)
    key = f"{predictor.digest} {name} {predictor.precision}"
    known = _read_cache().get(key)
    if known is not None and known["peak"] <= room:
        return known["batch"]
    found, peak = _try_batch_sizes(predictor, room)
    _write_cache(key, {"batch": found, "peak": peak})
    return found


def _try_batch_sizes(predictor: Predictor, room: int) -> tuple[int, int]:
    """Return the number of windows, and the bytes that they need beside the weights."""
    found, before = (0, 0), predictor.batch_size
    count = 1
    try:
        while count <= MAX_BATCH_SIZE:
            peak = _measure_peak_memory(predictor, count)
            if peak is None or peak > room:
                break
            found = (count, peak)
            count *= 2
    finally:
        predictor.batch_size = before
        torch.cuda.empty_cache()
    if not found[0]:
        raise ModelError(
            f"{predictor.device} has {room / 1e9:.1f} GB to give, and one window of "
            f"{predictor.window} px needs more: free its memory, or compute on the CPU"
        )
    return found


def _measure_peak_memory(predictor: Predictor, count: int) -> int | None:
    """Return the bytes that so many windows take beside the weights; None if they do not fit."""
    device = predictor.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_reserved(device)
    predictor.batch_size = count
    try:
        predictor.predict(_make_mean_chips(predictor, count), [(0, 0)] * count)
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_reserved(device) - held
    # ^ reserved, not allocated: what lies between two tensors is gone for others as well


def _make_mean_chips(predictor: Predictor, count: int) -> dict[str, NDArray[np.float32]]:
    """Return windows of every input, at the mean of the training data."""
    side = predictor.window
    return {
        name: np.broadcast_to(
            np.array(predictor.spec.statistics[name].mean, np.float32)[:, None, None],
            (count, len(bands), side, side),
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
        # ^ where nothing can be written it is tried again next time
        text = json.dumps({**_read_cache(), key: dict(entry)}, indent=1, sort_keys=True)
        part = _cache_path().with_name(f"{_cache_path().name}.{os.getpid()}.part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(_cache_path())
