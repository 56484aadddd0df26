"""Sensors: consistent records, agreement with the models, and a new one by a single entry."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from rasterio.warp import transform_bounds, transform_geom

from catalogs import providers, sensors
from catalogs.errors import InvalidInputError
from catalogs.sensors import SENSORS, InputFlag, Sensor, get_sensor
from catalogs.snapshot import Snapshot
from flows.config import job as jobs
from flows.run import planning
from model.terramind import modalities
from pipeline import layer_table, resource_estimate, tile, tile_layers
from pipeline.product import product_writer
from pipeline.storage import plan_file, zarr_store
from pipeline.storage import receipt as receipts
from tests.support import small_worlds
from tests.support.small_plan import make_plan

LANDSAT = Sensor(
    name="L8SR",
    group="optical",
    title="Landsat 8",
    quantity="surface reflectances",
    default_bands=("RED", "NIR"),
    optional_bands=("TIR",),
    unit=sensors.DN,
    model_unit="DN",
    input_flag=InputFlag(bit=16, name="landsat_8", title="Landsat 8"),
    bytes_per_pixel=1.5,
    stored_scale=2.75e-5,
    stored_nodata=0.0,
    probe_bands=(("RED",), ("NIR",)),
)

PROVIDER = """
collections:
  landsat-c2-l2:
    modality: L8SR
    names: {RED: red, NIR: nir08}
    offset: -0.2
"""

SIZE = 96


@pytest.mark.parametrize("name", SENSORS)
def test_every_sensor_is_complete(name):
    sensor = get_sensor(name)
    assert sensor.name == name
    assert sensor.group in sensors.GROUPS
    assert sensor.default_bands
    assert len(set(sensor.bands)) == len(sensor.bands)
    assert set(sensor.default_bands) <= set(sensor.measured_bands) <= set(sensor.bands)
    assert not set(sensor.mask_bands) & set(sensor.measured_bands)
    assert {band for group in sensor.probe_bands for band in group} <= set(sensor.measured_bands)
    assert set(sensor.offset_probe_bands) <= set(sensor.measured_bands)
    assert sensor.notice is not None
    assert sensor.bytes_per_pixel > 0
    assert layer_table.get(f"composite_{name}").title.startswith(sensor.title)


def test_sensors_of_one_bit_have_one_flag():
    flags = {sensor.input_flag for sensor in SENSORS.values()}
    assert len({flag.bit for flag in flags}) == len({flag.name for flag in flags}) == len(flags)
    with pytest.raises(ValueError, match="not 8"):
        InputFlag(bit=8, name="other", title="Other")


@pytest.mark.parametrize("name", SENSORS)
def test_sensors_and_models_agree(name):
    modality = modalities.get_raster_modality(name)
    sensor = get_sensor(name)
    assert modality.bands == sensor.default_bands
    assert modality.unit == sensor.model_unit


def test_every_sensor_has_a_collection_of_some_provider():
    tables = [providers.get(name) for name in providers.list_names()]
    assert {name for provider in tables for name in provider.collections_by_modality} == set(
        SENSORS
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s2l2a", "unknown modality 's2l2a'. Did you mean 'S2L2A'? Known: S2L2A, S2L1C,"),
        ("S1RCT", "Did you mean 'S1RTC'?"),
        ("ortho", "unknown modality 'ortho'. Known: S2L2A"),
    ],
)
def test_an_unknown_sensor_is_refused_with_a_suggestion(name, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        get_sensor(name)


@pytest.mark.parametrize("name", ["S2L2A", "S2L1C"])
def test_the_cost_of_every_optical_input_is_estimated(tmp_path, name):
    plan = make_plan(tmp_path, model=None)
    scenes = (
        dataclasses.replace(scene, modality=name, assets={"B02": scene.assets["B02"]})
        for scene in plan.snapshot.scenes
    )
    plan = dataclasses.replace(
        plan,
        snapshot=Snapshot(scenes=tuple(scenes)),
        recipe=dataclasses.replace(plan.recipe, inputs=(name,)),
    )
    assert resource_estimate.estimate_resources(plan, workers=1).bytes > 0


def _write_item(folder, name, day, red, nir):
    """Write a Landsat item with its two rasters; return the item."""
    paths = {
        "red": small_worlds.raster(folder / name / "red.tif", red, nodata=0),
        "nir08": small_worlds.raster(folder / name / "nir08.tif", nir, nodata=0),
    }
    side = SIZE * 10.0
    corners = (
        small_worlds.LEFT,
        small_worlds.TOP - side,
        small_worlds.LEFT + side,
        small_worlds.TOP,
    )
    geometry = transform_geom(
        f"EPSG:{small_worlds.EPSG}", "EPSG:4326", shapely.geometry.mapping(shapely.box(*corners))
    )
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "collection": "landsat-c2-l2",
        "geometry": geometry,
        "bbox": transform_bounds(f"EPSG:{small_worlds.EPSG}", "EPSG:4326", *corners),
        "properties": {
            "datetime": f"{day}T10:00:00Z",
            "platform": "landsat-8",
            "eo:cloud_cover": 3.0,
            "proj:code": f"EPSG:{small_worlds.EPSG}",
            "proj:transform": [10, 0, small_worlds.LEFT, 0, -10, small_worlds.TOP],
            "proj:shape": [SIZE, SIZE],
        },
        "links": [],
        "assets": {key: {"href": str(path)} for key, path in paths.items()},
    }


@pytest.fixture
def landsat_job(tmp_path, monkeypatch):
    """Add a sensor by one entry, and write a provider table, a catalog and a job of it."""
    monkeypatch.setitem(SENSORS, LANDSAT.name, LANDSAT)
    (tmp_path / "landsat.yaml").write_text(PROVIDER)
    values = np.random.default_rng(4).integers(8_000, 20_000, (3, 2, SIZE, SIZE)).astype(np.uint16)
    values[0, :, :10, :10] = 0
    items = [
        _write_item(tmp_path, f"LC08_{number}", f"2024-06-{5 + number:02d}", *pixels)
        for number, pixels in enumerate(values)
    ]
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    west, south, east, north = items[0]["bbox"]
    job = {
        "name": "landsat",
        "region": {
            "bbox": [
                west + 0.2 * (east - west),
                south + 0.2 * (north - south),
                west + 0.8 * (east - west),
                south + 0.8 * (north - south),
            ]
        },
        "period": "2024-06",
        "catalog": {"path": str(catalog), "provider": str(tmp_path / "landsat.yaml")},
        "inputs": ["L8SR"],
        "grid": {"crs": f"EPSG:{small_worlds.EPSG}"},
        "composite": {"max_passes": 3},
        "model": {"name": "none"},
        "output": {"path": str(tmp_path / "out"), "composites": True},
        "execution": {"tile": 128},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path, values


def test_a_new_sensor_needs_one_entry_and_a_provider_table(landsat_job, tmp_path):
    path, stored = landsat_job
    plan = planning.create_plan(jobs.load(path))
    assert [scene.id for scene in plan.snapshot.scenes] == ["LC08_0", "LC08_1", "LC08_2"]
    assert plan.bands("L8SR") == ("RED", "NIR")
    assert resource_estimate.estimate_resources(plan, workers=1).bytes > 0

    product_dir = tmp_path / "out" / "landsat" / "2024-06"
    folder = product_dir / plan.short_digest
    folder.mkdir(parents=True)
    plan_file.write_plan_file(folder / "plan.json", plan)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    (only_tile,) = plan.tiles
    receipt = tile.build_tile(plan, only_tile, None, folder, threads=1)
    receipts.write(folder, only_tile, receipt)
    item = json.loads((product_dir / product_writer.publish_product(plan, product_dir)).read_text())

    asset = item["assets"]["composite_L8SR"]
    assert asset["title"] == "Landsat 8 composite"
    assert [band["name"] for band in asset["bands"]] == ["RED", "NIR"]
    assert not [link for link in item["links"] if link["rel"] == "license"]
    # ^ the sensor has no notice
    bits = item["assets"]["inputs_used"]["classification:bitfields"]
    assert "landsat_8" in {bit["name"] for bit in bits}
    with rasterio.open(product_dir / asset["href"]) as file:
        composite = file.read()
    column = round((plan.grid.left - small_worlds.LEFT) / 10)
    row = round((small_worlds.TOP - plan.grid.top) / 10)
    window = stored[:, :, row : row + plan.grid.height, column : column + plan.grid.width]
    dn = np.where(window == 0, np.nan, window * 0.275 - 2000)
    # ^ scale 2.75e-5 and offset -0.2, in units of 1e-4
    valid = composite[0] != layer_table.COMPOSITE_NODATA
    assert valid.mean() > 0.9
    assert np.abs(composite - np.nanmedian(dn, axis=0))[:, valid].max() <= 1
    with rasterio.open(product_dir / item["assets"]["inputs_used"]["href"]) as file:
        assert set(np.unique(file.read(1)[valid])) == {LANDSAT.input_flag.bit}
