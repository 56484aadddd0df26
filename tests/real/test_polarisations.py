"""Recorded scenes with HH are used where the job requests HH, and refused elsewhere."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import rasterio

from catalogs import providers
from catalogs.errors import NothingFoundError
from catalogs.search import search
from pipeline.compositing import modality_composite
from pipeline.grid.grid import Grid
from tests.support import real_items


def _iterate_horizontal(realdata):
    """Yield (provider, recorded item) of all GRD items with HH, some of them also with HV."""
    for path in sorted((realdata / "stac").glob("*/sentinel-1*/*.json")):
        item = json.loads(path.read_text())
        folder = path.parents[1].name
        provider = "stactools" if folder.startswith("stactools") else folder.removesuffix("-v1")
        if (
            isinstance(item, dict)
            and item.get("type") == "Feature"
            and "hh" in item.get("assets", {})
            and real_items.get_modality(item) == "S1GRD"
            and provider in providers.list_names()
            and real_items.select_known_collections(provider, [item])
        ):
            yield provider, item


def _geocode(item, real_item, folder):
    """Return a recorded item as if its product had been geocoded to real pixels, in a folder."""
    folder.mkdir(parents=True)
    geocoded = copy.deepcopy(real_item)
    geocoded["id"] = item["id"]
    geocoded["properties"] |= {
        key: value for key, value in item["properties"].items() if not key.startswith("proj:")
    }
    geocoded["assets"] = {}
    for name, other in {"hh": "vv", "hv": "vh"}.items():
        if name in item["assets"]:
            asset = copy.deepcopy(real_item["assets"][other])
            asset["href"] = shutil.copy(asset["href"], folder / f"{name}.tif")
            for entry in (asset, *asset.get("eo:bands", ()), *asset.get("bands", ())):
                entry.pop("name", None)
            geocoded["assets"][name] = asset | {"href": str(asset["href"])}
    return geocoded


def test_recorded_horizontal_scenes_are_used_where_requested(realdata, tmp_path):
    items_by_modality = {
        real_items.get_modality(item): item for _, item in real_items.iterate_radar(realdata)
    }
    tested = set()
    for number, (_, item) in enumerate(_iterate_horizontal(realdata)):
        for modality, real_item in items_by_modality.items():
            geocoded = _geocode(item, real_item, tmp_path / f"{number}-{modality}-pixels")
            polarisations = [name.upper() for name in geocoded["assets"]]
            location = real_items.publish_catalog(tmp_path / f"{number}-{modality}", [geocoded])
            with pytest.raises(NothingFoundError, match=f"it has {' and '.join(polarisations)}"):
                real_items.create_plan(
                    location, "planetary-computer", [geocoded], "refuse", inputs=[modality]
                )
            options = {"inputs": [modality], "bands": {modality: polarisations}}
            plan = real_items.create_plan(
                location, "planetary-computer", [geocoded], "refuse", **options
            )
            assert plan.bands(modality) == tuple(polarisations)
            if len(polarisations) == 1:
                both_options = {"inputs": [modality], "bands": {modality: ["HH", "HV"]}}
                with pytest.raises(NothingFoundError, match="lacks the polarisation HV"):
                    real_items.create_plan(
                        location, "planetary-computer", [geocoded], "refuse", **both_options
                    )
            _check_composite(plan, modality, polarisations, geocoded)
            tested.add((modality, len(polarisations)))
    assert {modality for modality, _ in tested} == set(items_by_modality)


def _check_composite(plan, modality, polarisations, item):
    """Check that each polarisation comes from its own file, in power."""
    scenes = plan.snapshot.scenes
    for index, name in enumerate(polarisations):
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
        composite = modality_composite.compose_modality(
            modality, scenes, polarisations, grid, recipe=plan.recipe
        )
        actual = composite.values[index].compute(scheduler="synchronous").values
        above_noise = power > 10**-3.5
        assert np.allclose(actual[above_noise], power[above_noise], rtol=2e-6, atol=0)


def test_horizontal_scenes_in_radar_geometry_are_refused_with_advice(realdata, tmp_path):
    for number, (provider, item) in enumerate(_iterate_horizontal(realdata)):
        location = real_items.publish_catalog(tmp_path / str(number), [item])
        source = search.CatalogSource(provider=provider, location=str(location))
        with pytest.raises(NothingFoundError, match=r"radar geometry.*S1RTC"):
            search.find_scenes(source, ["S1GRD"], real_items.WORLD, None)
