"""The script a user writes today: stackstac, a median, TerraTorch's tiled inference, rioxarray.

It is written as well as we know how: superseded products and the offset of baseline 04.00 are seen
to, clouds are masked, time is one chunk, the model is in inference mode and nothing is computed
twice. It is run as it stands, as a process of its own, by `endtoend`:

``python tests/benchmarks/baseline.py catalog.json out.tif LEFT BOTTOM RIGHT TOP START/END``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pystac
import rioxarray  # noqa: F401
import stackstac
import torch
import xarray as xr

ROOT = Path(__file__).parents[2]
BANDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
CLEAR = [2, 4, 5, 6, 7, 11]
EPSG = 32632


def find(catalog: str, period: str) -> list[pystac.Item]:
    """Return the period's Sentinel-2 items, the newest edition of each."""
    first, last = (pd.Timestamp(day, tz="UTC") for day in period.split("/"))
    newest: dict[tuple[Any, ...], pystac.Item] = {}
    for item in pystac.Catalog.from_file(catalog).get_items(recursive=True):
        told = item.properties
        if item.collection_id != "sentinel-2-l2a":
            continue
        if not first <= pd.Timestamp(item.datetime) < last + pd.Timedelta(days=1):
            continue
        item.make_asset_hrefs_absolute()
        key = (told["s2:mgrs_tile"], item.datetime)
        if (
            key not in newest
            or told["s2:generation_time"] > newest[key].properties["s2:generation_time"]
        ):
            newest[key] = item
    return sorted(newest.values(), key=lambda item: item.datetime)


def composite(items: list[pystac.Item], bounds: tuple[float, ...]) -> xr.DataArray:
    """Return the median of the clear observations, DN without offset: (band, y, x)."""
    grid = {"epsg": EPSG, "resolution": 10, "bounds": bounds, "rescale": False}
    chunks = {
        "chunksize": (-1, 1, 1024, 1024),
        "fill_value": np.float32(np.nan),
        "dtype": "float32",
    }
    cube = stackstac.stack(items, assets=BANDS, **grid, **chunks)
    classes = stackstac.stack(items, assets=["SCL"], **grid, **chunks).squeeze("band", drop=True)
    offset = [1000 if item.properties["s2:processing_baseline"] >= "04.00" else 0 for item in items]
    values = cube.where(cube > 0) - xr.DataArray(np.float32(offset), dims="time")
    values = values.clip(min=0).where(classes.isin(CLEAR))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN")
        return values.median("time", skipna=True).astype("float32").compute()


def build(name: str, *, autocast: bool) -> tuple[Any, Any]:
    """Return the network with random weights, and what tiled inference calls."""
    sys.path.insert(0, str(ROOT))
    from tests.reference import terramind

    # ^ TerraTorch without what its packages import beside it; a user imports it plainly
    torch.manual_seed(0)
    network = terramind.register()
    make = getattr(network, f"{name}_generate")
    model = make(modalities=["S2L2A"], output_modalities=["LULC"], standardize=True).eval()

    def forward(chips: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model({"S2L2A": chips})["LULC"].float()

    return model, forward


def main() -> None:
    """Map a region."""
    parser = argparse.ArgumentParser()
    parser.add_argument("catalog")
    parser.add_argument("out")
    parser.add_argument("bounds", nargs=4, type=float)
    parser.add_argument("period")
    parser.add_argument("--model", default="terramind_v1_base")
    parser.add_argument("--autocast", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    image = composite(find(given.catalog, given.period), tuple(given.bounds))
    seconds["composite"] = time.perf_counter() - started

    started = time.perf_counter()
    model, forward = build(given.model, autocast=given.autocast)
    seconds["model"] = time.perf_counter() - started

    started = time.perf_counter()
    from tests.reference import terramind

    values = torch.from_numpy(image.values).nan_to_num_(nan=1500.0)[None]
    scores = terramind.tiling().tiled_inference(forward, values)
    seconds["predict"] = time.perf_counter() - started

    started = time.perf_counter()
    classes = image.isel(band=0, drop=True).copy(data=scores[0].argmax(dim=0).numpy().astype("u1"))
    classes.rio.write_crs(EPSG).rio.to_raster(given.out, compress="deflate", tiled=True)
    seconds["write"] = time.perf_counter() - started
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    print(json.dumps({"seconds": seconds, "weights": weights, "shape": list(classes.shape)}))


if __name__ == "__main__":
    main()
