"""Recorded scenes with HH: used where they are asked for, refused with the reason where not."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import rasterio

from catalogs.errors import NothingFoundError
from catalogs.search import search
from pipeline.compositing import modality_composite
from pipeline.grid.grid import Grid
from tests.support import real_items


def _horizontal(realdata):
    """Yield (folder, recorded item) of those that have HH, some with HV."""
    for path in sorted((realdata / "stac").glob("*/sentinel-1*/*.json")):
        item = json.loads(path.read_text())
        if item.get("type") == "Feature" and "hh" in item.get("assets", {}):
            yield path.parents[1].name, item


def _geocoded(item, real):
    """Return a recorded item as if its product had been geocoded to real pixels."""
    made = copy.deepcopy(real)
    made["id"] = item["id"]
    made["properties"] |= {
        key: value for key, value in item["properties"].items() if not key.startswith("proj:")
    }
    made["properties"]["datetime"] = real["properties"]["datetime"]
    names = {"hh": "vv", "hv": "vh"}
    made["assets"] = {name: real["assets"][names[name]] for name in names if name in item["assets"]}
    return made


def test_recorded_horizontal_scenes_are_used_where_they_are_asked_for(realdata, tmp_path):
    by_kind = {real_items.modality(item): item for _, item in real_items.radar(realdata)}
    seen = set()
    for number, (_, item) in enumerate(_horizontal(realdata)):
        for kind, real in by_kind.items():
            made = _geocoded(item, real)
            pair = [name.upper() for name in made["assets"]]
            location = real_items.publish(tmp_path / f"{number}-{kind}", [made])
            with pytest.raises(NothingFoundError, match=f"it has {' and '.join(pair)}"):
                real_items.plan(location, "planetary-computer", [made], "refuse", inputs=[kind])
            asked = {"inputs": [kind], "bands": {kind: pair}}
            plan = real_items.plan(location, "planetary-computer", [made], "refuse", **asked)
            assert plan.bands(kind) == tuple(pair)
            if len(pair) == 1:
                both = {"inputs": [kind], "bands": {kind: ["HH", "HV"]}}
                with pytest.raises(NothingFoundError, match="lacks the polarisation HV"):
                    real_items.plan(location, "planetary-computer", [made], "refuse", **both)
            _is_composed(plan, kind, pair, made)
            seen.add((kind, len(pair)))
    assert {kind for kind, _ in seen} == set(by_kind)


def _is_composed(plan, kind, pair, item):
    """Check that each polarisation comes from its own file, in power."""
    scenes = plan.snapshot.scenes
    for index, name in enumerate(pair):
        asset = item["assets"][name.lower()]
        with rasterio.open(asset["href"]) as file:
            stored = file.read(1).astype(np.float64)
            grid = Grid(
                epsg=file.crs.to_epsg(),
                resolution=file.transform.a,
                left=file.transform.c,
                top=file.transform.f,
                height=file.height,
                width=file.width,
            )
        power = 10 ** (stored / 10) if asset["raster:bands"][0]["unit"] == "dB" else stored
        made = modality_composite.compose_modality(kind, scenes, pair, grid, recipe=plan.recipe)
        found = made.values[index].compute(scheduler="synchronous").values
        sure = power > 10**-3.5
        assert np.allclose(found[sure], power[sure], rtol=2e-6, atol=0)


def test_horizontal_scenes_in_radar_geometry_are_refused_with_the_way_out(realdata, tmp_path):
    for number, (folder, item) in enumerate(_horizontal(realdata)):
        provider = "stactools" if folder.startswith("stactools") else folder.removesuffix("-v1")
        location = real_items.publish(tmp_path / str(number), [item])
        source = search.CatalogSource(provider=provider, location=str(location))
        with pytest.raises(NothingFoundError, match=r"radar geometry.*S1RTC"):
            search.find_scenes(source, ["S1GRD"], real_items.WORLD, None)
