"""The card of a segmenter of a few thousand weights."""

from __future__ import annotations

from catalogs.sensors import SENSORS

CARD = {
    "name": "tiny",
    "architecture": {"dim": 32, "heads": 2, "depth": 1, "gated": False, "bias": True},
    "inputs": {
        "S2L2A": list(SENSORS["S2L2A"].default_bands),
        "S1RTC": ["VV", "VH"],
        "DEM": ["DEM"],
    },
    "width": 8,
    "window": 64,
}
