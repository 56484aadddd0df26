"""A map with a model's own classes: every file of the product follows the legend of the plan."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio
import xarray as xr
from PIL import Image

from catalogs.legend import LAND_COVER, ClassDefinition, build_legend
from pipeline import layer_table, reuse, tile, tile_layers
from pipeline.grid import grid as grids
from pipeline.inference import output_layers
from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.plan import Plan, from_geojson
from pipeline.product import product_writer, stac_collection, stac_item
from pipeline.product.report import quicklook, rendering
from pipeline.product.report.rendering import Thumbnail
from pipeline.quality import accuracy, quality_metrics
from pipeline.storage import cog, mosaic, plan_file, receipt, zarr_store
from tests.support import large_plan, stac_schemas
from tests.support.fake_predictors import Brightness
from tests.support.small_plan import MODEL, make_plan

NAMES = ("Wälder & <Forst>", "水体", "Clouds")
LEGEND = build_legend(
    [
        ClassDefinition(name=NAMES[0]),
        ClassDefinition(name=NAMES[1], title="Water 水体", color=(1, 2, 3)),
        ClassDefinition(name=NAMES[2], is_gap=True),
    ]
)
OUTPUT = OutputSpec(class_names=NAMES, legend=LEGEND, layer="land_use")
HEADING = quicklook.Heading(title="Own", subtitle="classes")


class Bright(Brightness):
    """Brightness with more clouds."""

    def predict_values(self, values, places):
        return super().predict_values(values * 1.3, places)


class OwnClasses(Bright):
    """The classes of Brightness under other names."""

    outputs = (OUTPUT,)


def make_own_plan(folder, output=OUTPUT, **recipe):
    plan = make_plan(folder, model=dataclasses.replace(MODEL, outputs=(output,)))
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, **recipe))


def build_tiles(plan, plan_dir, predictor):
    plan_dir.mkdir(parents=True)
    plan_file.write_plan_file(plan_dir / "plan.json", plan)
    zarr_store.create(plan_dir, plan, tile_layers.list_layer_bands(plan))
    for entry in plan.tiles:
        tile.build_tile(plan, entry, predictor, plan_dir, threads=1)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """Publish a product; return plan, folder and item."""
    folder = tmp_path_factory.mktemp("own")
    plan = make_own_plan(folder, probabilities=True, average_below=0.7)
    product_dir = folder / "product" / "2024-06-01_2024-06-30"
    build_tiles(plan, product_dir / plan.short_digest, OwnClasses())
    name = product_writer.publish_product(plan, product_dir)
    return plan, product_dir, json.loads((product_dir / name).read_text())


@pytest.fixture(scope="module")
def land_cover_codes(tmp_path_factory):
    """Return the same map with classes of land cover."""
    folder = tmp_path_factory.mktemp("public")
    plan = make_plan(folder)
    plan = dataclasses.replace(
        plan, recipe=dataclasses.replace(plan.recipe, probabilities=True, average_below=0.7)
    )
    build_tiles(plan, folder / "plan", Bright())
    with xr.open_zarr(folder / "plan" / zarr_store.STORE_NAME, mask_and_scale=False) as cube:
        return cube.land_cover.values, cube.second_class.values


def read_asset(product, key):
    _, product_dir, item = product
    return (product_dir / item["assets"][key]["href"]).read_text()


def test_the_pixels_are_those_of_the_same_map_with_other_codes(product, land_cover_codes):
    plan, product_dir, _ = product
    path = product_dir / plan.short_digest / zarr_store.STORE_NAME
    with xr.open_zarr(path, mask_and_scale=False) as cube:
        actual = cube.land_use.values, cube.second_class.values
        assert cube.probabilities.shape[0] == 3
    recoded = np.full(256, 99, np.uint8)
    recoded[[0, 1, 8, 10]] = 255, 0, 1, 2
    for own, public in zip(actual, land_cover_codes, strict=True):
        assert np.array_equal(own, recoded[public])
    assert {0, 1} <= set(np.unique(actual[0]).tolist()) <= {0, 1, 255}


def test_the_cog_has_the_colours_and_names_of_the_legend(product):
    _, product_dir, item = product
    with rasterio.open(product_dir / item["assets"]["land_use"]["href"]) as file:
        assert file.nodata == 255
        assert file.descriptions == ("land_use",)
        assert file.tags()["TITLE"] == "Land use"
        colors = file.colormap(1)
        for entry in LEGEND.mapped_classes:
            assert colors[entry.code] == (*entry.color, 255)
        assert colors[255][3] == 0
        codes = file.read(1)
    sidecar = ET.parse(product_dir / f"{item['assets']['land_use']['href']}.aux.xml").getroot()
    titles = [entry.title for entry in LEGEND.mapped_classes]
    assert [category.text for category in sidecar.iter("Category")] == titles
    rows = [[cell.text for cell in row] for row in sidecar.iter("Row")]
    assert [(row[0], row[2]) for row in rows] == [
        (str(entry.code), entry.title) for entry in LEGEND.classes
    ]
    assert [int(row[1]) for row in rows] == [
        int((codes == entry.code).sum()) for entry in LEGEND.classes
    ]
    with rasterio.open(product_dir / item["assets"]["probabilities"]["href"]) as file:
        assert file.descriptions == NAMES


def test_zarr_item_and_collection_have_the_classes(product):
    plan, product_dir, item = product
    with xr.open_zarr(product_dir / plan.short_digest / zarr_store.STORE_NAME) as cube:
        assert cube.land_use.attrs["flag_values"] == [0, 1, 2]
        assert cube.land_use.attrs["flag_meanings"] == "Walder_Forst class_1 Clouds"
        assert cube.land_use.attrs["long_name"] == "Land use"
    validator = stac_schemas.validator()
    stac_schemas.check(item, validator)
    for key in ("land_use", "second_class"):
        classes = item["assets"][key]["classification:classes"]
        assert [(entry["value"], entry["name"], entry["title"]) for entry in classes] == [
            (0, "Walder_Forst", NAMES[0]),
            (1, "class_1", "Water 水体"),
            (2, "Clouds", "Clouds"),
            (255, "nodata", "No data"),
        ]
        assert [entry.get("nodata", False) for entry in classes] == [False, False, False, True]
    percentages = [
        entry["percentage"]
        for entry in item["assets"]["land_use"]["classification:classes"]
        if "percentage" in entry
    ]
    assert sum(percentages) == pytest.approx(100, abs=1e-3)
    assert item["properties"]["terramosaic:answer"] == "land_use"
    assert item["properties"]["terramosaic:not_classified_percent"] > 0
    collection = json.loads((product_dir.parent / "collection.json").read_text())
    stac_schemas.check(collection, validator)
    assert collection["description"].startswith("Land use of test")
    (first, *_) = collection["item_assets"]["land_use"]["classification:classes"]
    assert (first["title"], "count" in first) == (NAMES[0], False)
    assert stac_collection.build_collection([item], title="x", license_id="other")


def test_styles_and_report_name_the_classes(product):
    plan, _, item = product
    qml, sld = (
        ET.fromstring(re.sub(r"<!DOCTYPE.*?>", "", read_asset(product, key)))
        for key in ("style", "sld")
    )
    assert [
        (entry.get("value"), entry.get("color"), entry.get("label"))
        for entry in qml.iter("paletteEntry")
    ] == [
        (str(entry.code), f"#{entry.color_hint.lower()}", entry.title)
        for entry in LEGEND.mapped_classes
    ]
    entries = [entry for entry in sld.iter() if entry.tag.endswith("ColorMapEntry")]
    assert {(entry.get("quantity"), entry.get("opacity")) for entry in entries} == {
        ("0", "1"), ("1", "1"), ("2", "1"), ("255", "0"),
    }  # fmt: skip
    report = read_asset(product, "report")
    for text in ("Wälder &amp; &lt;Forst&gt;", "Water 水体", "#010203", "Area by class"):
        assert text in report
    assert "one that is never mapped: clouds and no data" in report
    for text in (report, json.dumps(item)):
        assert "land cover" not in text.lower()
        assert "land-cover" not in text.lower()
    assert plan.settings is not None


def test_the_windows_beside_the_lattice_are_compared(product):
    plan, product_dir, _ = product
    plan_dir = product_dir / plan.short_digest
    for entry in receipt.read_finished(plan_dir, plan).values():
        assert entry.samples["windows"] > 0
    metrics = quality_metrics.measure_quality(plan, plan_dir)
    assert metrics.silent == 0
    assert metrics.disagreement is None or metrics.disagreement.share == 0


def test_a_plan_keeps_its_legend_and_tiles_do_not_depend_on_colours(tmp_path):
    plan = make_own_plan(tmp_path)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))).model == plan.model
    definitions = [ClassDefinition(name=name) for name in NAMES[:2]]
    recoloured = build_legend(
        [
            dataclasses.replace(definitions[0], color=(9, 9, 9)),
            definitions[1],
            ClassDefinition(name=NAMES[2], is_gap=True),
        ]
    )
    ungapped = build_legend([*definitions, ClassDefinition(name=NAMES[2])])
    changes = {
        name: make_own_plan(tmp_path, dataclasses.replace(OUTPUT, **change))
        for name, change in (
            ("colours", {"legend": recoloured}),
            ("gap", {"legend": ungapped}),
            ("layer", {"layer": "classes"}),
        )
    }
    (first, *_) = plan.tiles
    keys = {name: changed.tile_key(first) for name, changed in changes.items()}
    assert [name for name, key in keys.items() if key == plan.tile_key(first)] == ["colours"]
    assert len({plan.digest, *(changed.digest for changed in changes.values())}) == 4


def test_a_product_in_new_colours_reuses_its_tiles(product):
    plan, product_dir, _ = product
    colored = build_legend(
        [
            ClassDefinition(name=name, color=(number, 0, 0), is_gap=name == "Clouds")
            for number, name in enumerate(NAMES)
        ]
    )
    output = dataclasses.replace(OUTPUT, legend=colored)
    repainted = dataclasses.replace(plan, model=dataclasses.replace(plan.model, outputs=(output,)))
    plan_dir = product_dir / repainted.short_digest
    plan_dir.mkdir()
    zarr_store.create(plan_dir, repainted, tile_layers.list_layer_bands(repainted))
    reusable = reuse.find_reusable_tiles(plan_dir, repainted, repainted.tiles)
    assert reuse.copy_tiles(plan_dir, repainted, reusable) == {entry.id for entry in plan.tiles}


def test_plans_of_land_cover_do_not_mention_a_legend():
    output = OutputSpec(class_names=("water", "bare"))
    assert output.to_dict() == {"class_names": ["water", "bare"]} == output.identity()
    assert output.layers["land_cover"] is layer_table.get("land_cover")
    assert output.codes == (1, 8)
    with pytest.raises(ValueError, match="the legend of the output has no class 'lava'"):
        OutputSpec(class_names=("water", "lava"))


def test_own_classes_may_be_called_land_cover():
    output = dataclasses.replace(OUTPUT, layer=None)
    assert output.layer_name == "land_cover"
    assert output.main_layer.legend == LEGEND
    assert output.main_layer.title == "Land cover"
    assert output.layers["second_class"].nodata == 255
    assert layer_table.get("land_cover").legend == LAND_COVER


def test_a_mosaic_of_zones_has_the_layer(tmp_path):
    plan = large_plan.plan(tmp_path, 4)
    mosaic_grid = grids.build_covering_grid(from_geojson(plan.region), 3035, 10.0, (0.0, 0.0))
    plan = dataclasses.replace(
        plan,
        mosaic_grids=(mosaic_grid,),
        tile_size=512,
        model=dataclasses.replace(plan.model, outputs=(OUTPUT,)),
    )
    bands = {"land_use": ("land_use",), "observations": ("observations",)}
    zarr_store.create(tmp_path, plan, bands)
    for entry in plan.tiles:
        shape = plan.tile_grid(entry).shape
        values = {
            "land_use": np.full(shape, entry.epsg == 32633, np.uint8),
            "observations": np.ones(shape, np.uint16),
        }
        zarr_store.write_tile(tmp_path, plan, entry, values)
    mosaic.write_mosaic(plan, tmp_path, mosaic_grid, tmp_path / "mosaic", bands)
    codes = zarr_store.read_layer(
        tmp_path / "mosaic", "land_use", slice(0, mosaic_grid.height), slice(0, mosaic_grid.width)
    )
    assert set(np.unique(codes).tolist()) == {0, 1, 255}


def test_accuracy_is_measured_with_the_codes_of_the_legend():
    predicted = np.array([0, 0, 1, 1, 255, 0], np.uint8)
    reference = np.array([0, 1, 1, 1, 0, 2], np.uint8)
    matrix = accuracy.confusion_matrix(predicted, reference, LEGEND)
    metrics = accuracy.compute_accuracy(matrix, LEGEND)
    assert (metrics.n, metrics.overall) == (4, 0.75)
    assert metrics.f1 == {NAMES[0]: pytest.approx(2 / 3), NAMES[1]: 0.8}


@pytest.mark.parametrize("count", [2, 13, 100, 254])
def test_any_number_of_classes_can_be_mapped_and_drawn(tmp_path, count):
    names = tuple(f"class {number}" for number in range(count))
    legend = build_legend([ClassDefinition(name=name) for name in names])
    output = OutputSpec(class_names=names, legend=legend, layer="classes")
    probabilities = np.zeros((count, 1, count), np.float32)
    probabilities[np.arange(count), 0, np.arange(count)] = 1
    values = output_layers.to_layers(
        output, probabilities, np.ones((1, count), bool), include_probabilities=True
    )
    assert values["classes"].tolist() == [list(range(count))]
    codes = np.tile(values["classes"], (8, 1))
    grid = grids.Grid(epsg=32632, resolution=10.0, left=0.0, top=80.0, height=8, width=count)
    layer = output.main_layer
    cog.write_cog(tmp_path, "x.tif", grid, layer, lambda first, last: codes[None, first:last])
    with rasterio.open(tmp_path / "x.tif") as file:
        colors = file.colormap(1)
        assert len({colors[code] for code in range(count)}) == count
    classes = stac_item.classification_classes(legend)
    assert len({entry["name"] for entry in classes}) == count + 1
    thumbnail = Thumbnail(values=codes[None], bands=("classes",), metres_per_pixel=10, nodata=255)
    layout = quicklook.layout_classes(thumbnail, layer, quicklook.ObservedLayers(), HEADING)
    shown = min(count, quicklook.MAX_LEGEND_CLASSES)
    assert len(layout.legend_entries) == shown + (count > shown)
    assert sum(entry.share for entry in layout.legend_entries) == pytest.approx(100)
    image = Image.open(io.BytesIO(quicklook.render_png(layout)))
    assert image.width <= quicklook.MAX_WIDTH
    assert image.height < 1500


def test_the_quicklook_writes_what_its_font_can_draw():
    codes = np.array([[0, 1, 255, 255]], np.uint8)
    thumbnail = Thumbnail(values=codes[None], bands=("x",), metres_per_pixel=10, nodata=255)
    legend = build_legend([ClassDefinition(name=name) for name in NAMES])
    layer = dataclasses.replace(OUTPUT, legend=legend).main_layer
    layout = quicklook.layout_classes(thumbnail, layer, quicklook.ObservedLayers(), HEADING)
    assert [entry.title for entry in layout.legend_entries] == ["Walder & <Forst>", "Class 1"]
    pixels = rendering.render_classes(thumbnail, legend)
    assert tuple(pixels[0, 2]) == rendering.OUTSIDE_COLOR
    assert tuple(pixels[0, 0]) == legend.by_code[0].color


def test_a_layer_without_a_legend_is_not_drawn_as_classes():
    thumbnail = Thumbnail(
        values=np.zeros((1, 2, 2), np.uint8), bands=("x",), metres_per_pixel=10, nodata=255
    )
    layer = layer_table.get("confidence")
    with pytest.raises(ValueError, match="'confidence' has no classes"):
        quicklook.layout_classes(thumbnail, layer, quicklook.ObservedLayers(), HEADING)
