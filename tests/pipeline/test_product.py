"""The STAC item, the collection and the report: valid, complete, without local paths or secrets."""

import base64
import datetime as dt
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pystac
import pytest
import rasterio

from catalogs import sensors
from catalogs.legend import LAND_COVER
from catalogs.scene import Asset, ItemReference, Radiometry, RejectedScene, Scene
from pipeline import layer_table
from pipeline.grid.grid import Grid
from pipeline.product import descriptions, stac_collection, stac_item
from pipeline.product.product import Document, MissingTile, Product, Provenance, Raster
from pipeline.product.report import quicklook, rendering, report
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.quality.quality_metrics import ProportionEstimate, QualityMetrics
from pipeline.quality.seam_test import Seam
from pipeline.runtime import atomic_files
from pipeline.storage import cog, styles
from pipeline.storage.store import LocalStore
from tests.support import stac_schemas

GRID = Grid(epsg=32632, resolution=10.0, left=500000.0, top=6300000.0, height=60, width=80)
RING = [[9.0, 56.5], [9.1, 56.5], [9.1, 56.6], [9.0, 56.6], [9.0, 56.5]]
PLAN = "9c" * 32


def make_scene(name, modality="S2L2A", *, scl=True, folder="/data/catalog"):
    bands = {"S2L2A": ["B02", "B03", "B04"], "S1RTC": ["VV", "VH"], "DEM": ["DEM"]}[modality]
    bands += ["SCL"] if scl and modality == "S2L2A" else []
    radiometry = Radiometry(scale=1.0, offset=0.0, unit="m")
    return Scene(
        id=name,
        collection=modality.lower(),
        provider="demo",
        modality=modality,
        datetime=None if modality == "DEM" else dt.datetime(2024, 6, 3, 10, 30, tzinfo=dt.UTC),
        footprint={"type": "Polygon", "coordinates": [RING]},
        bbox=(9.0, 56.5, 9.1, 56.6),
        assets={
            band: Asset(band=band, href=f"{folder}/{name}/{band}.tif", radiometry=radiometry)
            for band in bands
        },
    )


def make_values(layer, bands):
    rng = np.random.default_rng(4)
    shape = (len(bands), GRID.height, GRID.width)
    if layer.has_legend:
        values = rng.choice([1, 2, 5, 7, 11], shape).astype("uint8")
        values[:, :9] = 0
        return values
    if layer.dtype == "float32":
        values = rng.normal(size=shape).astype("float32")
        values[:, 0] = np.nan
        return values
    values = rng.integers(0, 101, shape).astype(layer.dtype)
    values[:, :5] = layer.fill_value
    return values


BANDS = {
    "probabilities": ("water", "trees", "crops", "built", "rangeland"),
    "composite_S2L2A": ("B02", "B03", "B04"),
    "composite_S1RTC": ("VV_ascending", "VH_ascending"),
}
NAMES = [layer.name for layer in layer_table.list_layers() if layer.bands or layer.name in BANDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "jutland" / "2024-05-01_2024-09-30"


@pytest.fixture(scope="module")
def product(folder):
    stem = PLAN[:12]
    rasters = []
    for name in NAMES:
        layer = layer_table.get(name)
        bands = layer.band_names(BANDS.get(name, ()))
        values = make_values(layer, bands)
        href = f"{stem}/32632/{name}.tif"
        info = cog.write_cog(
            folder,
            href,
            GRID,
            layer,
            lambda first, last, layer_values=values: layer_values[:, first:last],
            BANDS.get(name, ()),
        )
        raster = Raster(key=name, href=href, layer=layer, grid=GRID, bands=bands, info=info)
        rasters.append(raster)
    style = folder / stem / "32632" / "land_cover.qml"
    atomic_files.write_atomic(style, styles.qml(LAND_COVER).encode())
    (folder / stem / "cube.zarr").mkdir()
    documents = [
        Document.from_object(LocalStore(folder), f"{stem}/32632/land_cover.qml", kind="style"),
        Document(key="zarr", href=f"{stem}/cube.zarr", kind="zarr"),
    ]
    return Product(
        name="jutland",
        title="Jutland <north>",
        start=dt.date(2024, 5, 1),
        end=dt.date(2024, 9, 30),
        created=dt.datetime(2026, 11, 20, 12, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        region={"type": "Polygon", "coordinates": (tuple(map(tuple, RING)),)},
        bbox=(9.0, 56.5, 9.1, 56.6),
        grids=(GRID,),
        rasters=tuple(rasters),
        documents=tuple(documents),
        scenes=(make_scene("S2A_one"), make_scene("S2B two", scl=False), make_scene("dem", "DEM")),
        refused=(
            RejectedScene(id="S2A_old", reason="cannot open /data/catalog/x/B02.tif"),
            RejectedScene(
                id="S2A_far", reason="see https://example.org/a/B02.tif?sig=SECRET for it"
            ),
        ),
        provenance=Provenance(
            plan_digest=PLAN,
            model="demo",
            model_digest="ab" * 32,
            s2_convention="offset-free",
            version="0.1.0",
            software={"numpy": "2.4.6"},
            recipe={"inputs": ("S2L2A", "DEM"), "dilate_m": 40.0},
            main_layer=layer_table.get("land_cover"),
        ),
        accuracy=AccuracyMetrics(
            overall=0.91, macro_f1=0.84, n=4000, f1={"water": 0.95, "crops": 0.8}
        ),
        accuracy_reference="the country's truth",
        notices=(sensors.SENTINEL_NOTICE,),
    )


@pytest.fixture(scope="module")
def validator():
    return stac_schemas.validator()


def test_the_item_is_valid_with_every_declared_extension(product, validator):
    stac_schemas.check(stac_item.build_item(product), validator)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("properties", "proj:shape"), [60]),
        (("properties", "processing:software"), {"numpy": 2}),
        (("properties", "datetime"), "yesterday"),
        (("assets", "confidence", "file:size"), -1),
        (("assets", "confidence", "raster:bands"), [{"data_type": "uint7"}]),
        (("assets", "land_cover", "classification:classes"), [{"value": 1}]),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_an_invalid_item_fails_the_validation(product, validator, path, value):
    document = json.loads(json.dumps(stac_item.build_item(product)))
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises((pystac.STACValidationError, ValueError)):
        stac_schemas.check(document, validator)


def test_the_item_describes_its_files(product, folder):
    document = stac_item.build_item(product)
    assert document["id"] == "jutland_2024-05-01_2024-09-30"
    assert document["properties"]["datetime"] is None
    assert document["properties"]["start_datetime"] == "2024-05-01T00:00:00Z"
    assert document["properties"]["end_datetime"] == "2024-09-30T23:59:59Z"
    assert document["properties"]["created"] == "2026-11-20T11:00:00Z"
    for name in NAMES:
        asset = document["assets"][name]
        path = folder / asset["href"]
        assert asset["file:checksum"] == "1220" + atomic_files.sha256(path)
        assert asset["file:size"] == path.stat().st_size
        with rasterio.open(path) as source:
            assert asset["proj:code"] == f"EPSG:{source.crs.to_epsg()}"
            assert asset["proj:shape"] == list(source.shape)
            assert asset["proj:transform"] == list(source.transform)[:6]
            assert [band["name"] for band in asset["bands"]] == list(source.descriptions)
            band = asset["raster:bands"][0]
            assert band["data_type"] == asset["data_type"] == source.dtypes[0]
            assert band["nodata"] == asset["nodata"]
            assert str(band["nodata"]) == str(source.nodata) or band["nodata"] == source.nodata
            assert band.get("scale", 1.0) == source.scales[0]
            valid = source.read(1, masked=True).compressed()
            assert band["statistics"]["minimum"] == valid.min()
            assert band["statistics"]["maximum"] == valid.max()


def test_pystac_reads_projection_and_classes(product):
    item = pystac.Item.from_dict(stac_item.build_item(product))
    assert item.ext.proj.epsg == 32632
    asset = item.assets["land_cover"]
    assert asset.media_type == pystac.MediaType.COG
    codes = [entry.value for entry in asset.ext.classification.classes]
    assert codes == [0, 1, 2, 4, 5, 7, 8, 9, 10, 11]


def test_only_used_extensions_are_declared(product):
    bare = replace(product, rasters=(), documents=())
    assert stac_item.build_item(bare)["stac_extensions"] == [
        stac_item.PROCESSING,
        stac_item.PROJECTION,
    ]
    assert len(stac_item.build_item(product)["stac_extensions"]) == 5


def _find_links(document, rel):
    return [link["href"] for link in document["links"] if link["rel"] == rel]


def test_links_lead_to_the_parent_and_to_the_items_of_the_inputs(product, tmp_path, validator):
    """An id in place of an address leads nowhere."""
    url = "https://example.org/stac/collections/s2l2a/items/S2A_one"
    local = tmp_path / "catalog" / "S2B two.json"
    local.parent.mkdir()
    local.write_text(json.dumps({"id": "S2B two"}))
    scenes = [
        replace(scene, item_href=href)
        for scene, href in zip(product.scenes, (url, str(local), None), strict=True)
    ]
    folder = tmp_path / "out" / product.period_dir
    folder.mkdir(parents=True)
    document = stac_item.build_item(replace(product, scenes=tuple(scenes)), folder=str(folder))
    stac_schemas.check(document, validator)
    assert _find_links(document, "derived_from") == [url, "../../catalog/S2B%20two.json"]
    assert {link["rel"] for link in document["links"]} == {
        *("parent", "collection", "derived_from", "license")
    }
    atomic_files.write_json(folder / "item.json", document)
    item = pystac.Item.from_file(folder / "item.json")
    absolute = [link.get_absolute_href() for link in item.get_links("derived_from")]
    assert absolute[0] == url
    assert json.loads(Path(unquote(absolute[1])).read_text()) == {"id": "S2B two"}
    assert all(link.media_type for link in item.links)


def test_a_scene_of_two_items_has_a_link_to_each(product):
    first, *others = (
        replace(scene, item_href=f"https://example.org/{scene.id}") for scene in product.scenes
    )
    band, asset = next(iter(first.assets.items()))
    item = ItemReference(collection="s2c1", id="S2A_c1", href="https://example.org/c1")
    united = replace(first, assets={**first.assets, band: replace(asset, item=item)})
    document = stac_item.build_item(replace(product, scenes=(united, *others)), folder="/srv/out")
    assert item.href in _find_links(document, "derived_from")
    listed = [entry["id"] for entry in document["properties"]["terramosaic:scenes"]]
    assert listed[:2] == ["S2A_one", "S2A_c1"]


def test_items_that_are_not_known_are_no_links(product):
    """Their ids are among the properties."""
    document = stac_item.build_item(product, folder="/srv/out")
    assert _find_links(document, "derived_from") == []
    assert len(document["properties"]["terramosaic:scenes"]) == len(product.scenes)


def test_local_items_are_no_links_of_a_product_elsewhere(product):
    scenes = tuple(replace(scene, item_href="/data/x.json") for scene in product.scenes)
    for folder in (None, "memory://out"):
        document = stac_item.build_item(replace(product, scenes=scenes), folder=folder)
        assert _find_links(document, "derived_from") == []


def test_inputs_and_conditions_of_the_run_are_recorded(product):
    values = stac_item.build_item(product)["properties"]
    assert values["terramosaic:plan"] == PLAN
    assert values["terramosaic:inputs_without_scl"] == ["S2B two"]
    assert any("treated as clear" in note for note in values["terramosaic:notes"])
    assert [entry["id"] for entry in values["terramosaic:scenes"]] == ["S2A_one", "S2B two", "dem"]
    assert values["terramosaic:s2_convention"] == "offset-free"
    assert values["terramosaic:accuracy"]["overall"] == 0.91
    assert "terramosaic:partial" not in values


def test_a_partial_product_declares_its_missing_tiles(product, validator):
    partial = replace(product, missing_tiles=(MissingTile(tile="0003_0001", reason="unreadable"),))
    document = stac_item.build_item(partial)
    stac_schemas.check(document, validator)
    assert document["properties"]["terramosaic:partial"] is True
    assert document["properties"]["terramosaic:holes"] == [
        {"tile": "0003_0001", "reason": "unreadable"}
    ]
    assert any("partial" in note for note in descriptions.list_limitations(partial))


def test_no_local_path_and_no_secret_is_published(product, folder):
    images = report.ReportImages(quicklook=rendering.encode_png(np.zeros((2, 2, 3), "uint8")))
    for text in (
        json.dumps(stac_item.build_item(product)),
        report.render_report(product, images),
    ):
        assert "/data/" not in text
        assert "SECRET" not in text
        assert str(folder) not in text
        assert str(Path.home()) + "/" not in text
    assert (
        descriptions.redact_message("cannot open /data/catalog/x/B02.tif: gone")
        == "cannot open B02.tif: gone"
    )
    assert (
        descriptions.redact_message("read https://a.org/b/c.tif?x=1 now")
        == "read https://a.org/b/c.tif now"
    )
    assert descriptions.redact_message("file:///srv/a/b.tif") == "b.tif"
    assert descriptions.redact_message("12/40 pixels, m/s") == "12/40 pixels, m/s"


@pytest.mark.parametrize("href", ["/srv/x.tif", "../x.tif", "https://a.org/x.tif", "C:\\x.tif"])
def test_an_href_outside_of_the_product_is_refused(product, href):
    with pytest.raises(ValueError, match="relative path"):
        replace(product.rasters[0], href=href)
    with pytest.raises(ValueError, match="relative path"):
        Document(key="report", kind="report", href=href)


def test_invalid_products_are_refused(product):
    for change, message in (
        ({"end": dt.date(2024, 4, 1)}, "ends before it begins"),
        ({"created": product.created.replace(tzinfo=None)}, "time zone"),
        ({"rasters": product.rasters * 2}, "come twice"),
        ({"grids": ()}, "at least one grid"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(product, **change)


def test_two_grids_have_separate_projections(product, validator):
    second_grid = replace(GRID, epsg=32633)
    first_raster = product.rasters[0]
    rasters = (
        replace(first_raster, key="land_cover_32632"),
        replace(first_raster, key="land_cover_32633", grid=second_grid),
    )
    document = stac_item.build_item(replace(product, grids=(GRID, second_grid), rasters=rasters))
    stac_schemas.check(document, validator)
    assert document["properties"]["proj:code"] is None
    assert document["assets"]["land_cover_32633"]["proj:code"] == "EPSG:32633"


def test_the_collection_spans_its_items_and_is_valid(product, validator, tmp_path):
    later = replace(product, start=dt.date(2025, 5, 1), end=dt.date(2025, 9, 30))
    moved = replace(later, bbox=(8.0, 56.0, 9.0, 57.0))
    for entry in (moved, product):
        atomic_files.write_json(
            tmp_path / entry.period_dir / "item.json", stac_item.build_item(entry)
        )
    document = stac_collection.build_collection(
        stac_collection.read_items(tmp_path), title="Jutland", license_id="other"
    )
    stac_schemas.check(document, validator)
    assert document["extent"]["spatial"]["bbox"] == [[8.0, 56.0, 9.1, 57.0]]
    assert document["extent"]["temporal"]["interval"] == [
        ["2024-05-01T00:00:00Z", "2025-09-30T23:59:59Z"]
    ]
    items = [link["href"] for link in document["links"] if link["rel"] == "item"]
    assert items == [f"./{entry.period_dir}/item.json" for entry in (product, moved)]
    atomic_files.write_json(tmp_path / "collection.json", document)
    collection = pystac.Collection.from_file(tmp_path / "collection.json")
    assert [item.id for item in collection.get_items()] == [product.id, moved.id]
    assert all(item.get_parent().id == "jutland" for item in collection.get_items())
    with pytest.raises(ValueError, match="of one product"):
        stac_collection.build_collection([], title="Jutland", license_id="other")


class PageParser(HTMLParser):
    """Collects tags, texts and sources, and checks that tags close in order."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.sources += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            assert values["alt"]
        if tag not in ("meta", "img", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def render_images(product, folder):
    paths = {raster.key: folder / raster.href for raster in product.rasters}
    thumbnails = {
        name: rendering.read_thumbnail(paths[name], layer_table.get(name), 760)
        for name in ("land_cover", "observations", "confidence")
    }
    view = quicklook.layout_classes(
        thumbnails["land_cover"],
        layer_table.get("land_cover"),
        quicklook.ObservedLayers(observations=thumbnails["observations"]),
        quicklook.Heading(title=product.title, subtitle="x"),
    )
    return report.ReportImages(
        quicklook=quicklook.render_png(view),
        confidence=rendering.encode_png(
            rendering.apply_ramp(thumbnails["confidence"], "confidence", 0, 100)
        ),
        observations=rendering.encode_png(
            rendering.apply_ramp(thumbnails["observations"], "count", 0, 100)
        ),
        max_observations=100,
    )


def test_the_report_is_one_complete_page(product, folder):
    text = report.render_report(product, render_images(product, folder))
    page = PageParser(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 3
    assert "svg" in page.tags
    for source in page.sources:
        assert source.startswith(("data:image/png;base64,", "https://sentinels.copernicus.eu"))
    for source in page.sources[:1]:
        assert base64.b64decode(source.partition(",")[2]).startswith(b"\x89PNG")
    page_text = " ".join(page.texts)
    for phrase in (
        *("Jutland <north>", "1 May 2024 to 30 September 2024", "Crops", "91.0 %", "0.840"),
        *("S2B two", "no SCL: treated as clear", "cannot open B02.tif", PLAN, "ab" * 32, "2.4.6"),
    ):
        assert phrase in page_text
    assert "Jutland <north>" not in text


def test_the_report_states_the_area_of_each_class(product, folder):
    text = report.render_report(product, render_images(product, folder))
    counts = product.count_values("land_cover")
    assert sum(counts.values()) == GRID.height * GRID.width
    assert f"<td>{counts[5] * 100 / 1e6:,.2f}</td>" in text


def test_the_report_of_composites_alone_mentions_no_map(product):
    rasters = tuple(
        raster for raster in product.rasters if raster.layer.name.startswith("composite")
    )
    provenance = replace(product.provenance, model=None, model_digest=None)
    composites_only = replace(
        product, rasters=rasters, provenance=provenance, accuracy=None, scenes=(), refused=()
    )
    images = report.ReportImages(quicklook=rendering.encode_png(np.zeros((2, 2, 3), "uint8")))
    text = report.render_report(composites_only, images)
    PageParser(text)
    assert "composites only" in text
    assert "Area by class" not in text
    assert "Accuracy" not in text


def test_random_weights_are_mentioned_first(product):
    assert "random" not in json.dumps(stac_item.build_item(product)).lower()
    options = {"task": "land_cover", "weights": {"random": 3}}
    provenance = replace(product.provenance, is_random=True, model_options=options)
    random_product = replace(product, provenance=provenance)
    properties = stac_item.build_item(random_product)["properties"]
    assert properties["description"].startswith(descriptions.RANDOM_WEIGHTS_WARNING)
    assert properties["terramosaic:random_weights"] is True
    assert properties["terramosaic:model_options"] == options
    assert properties["terramosaic:notes"][0] == descriptions.RANDOM_WEIGHTS_WARNING
    images = report.ReportImages(quicklook=rendering.encode_png(np.zeros((2, 2, 3), "uint8")))
    assert f'<p class="warning">{descriptions.RANDOM_WEIGHTS_WARNING}</p>' in report.render_report(
        random_product, images
    )


def test_observed_pixels_without_a_class_are_counted_separately(product):
    counts = np.concatenate(
        [
            make_values(raster.layer, raster.bands)
            for raster in product.rasters_for_layer("observations")
        ]
    )
    codes = np.concatenate(
        [
            make_values(raster.layer, raster.bands)
            for raster in product.rasters_for_layer("land_cover")
        ]
    )
    inside = counts != layer_table.get("observations").fill_value
    unobserved, classified = int((counts == 0).sum()), int((codes > 0).sum())
    assert unobserved > 0
    properties = stac_item.build_item(product)["properties"]
    unobserved_percent = 100 * unobserved / inside.sum()
    assert properties["terramosaic:not_observed_percent"] == pytest.approx(
        unobserved_percent, abs=1e-3
    )
    unclassified_percent = 100 * (inside.sum() - unobserved - classified) / inside.sum()
    assert unclassified_percent > 0
    assert properties["terramosaic:not_classified_percent"] == pytest.approx(
        unclassified_percent, abs=1e-3
    )
    images = report.ReportImages(quicklook=rendering.encode_png(np.zeros((2, 2, 3), "uint8")))
    sentence = (
        f"{100 - unobserved_percent:.1f} % observed; "
        f"{unclassified_percent:.1f} % not classified although observed"
    )
    assert sentence in report.render_report(product, images)


def replace_main_layer(product, folder, layer, bands):
    """Return the product as if the main output of its model were another layer."""
    values = make_values(layer, bands)
    href = f"{PLAN[:12]}/32632/other_{layer.name}.tif"
    read = lambda first, last: values[:, first:last]
    info = cog.write_cog(folder, href, GRID, layer, read, () if layer.bands else bands)
    raster = Raster(key=layer.name, href=href, layer=layer, grid=GRID, bands=bands, info=info)
    counts = product.rasters_for_layer("observations")
    provenance = replace(product.provenance, main_layer=layer)
    return replace(
        product, rasters=(raster, *counts), provenance=provenance, documents=(), accuracy=None
    )


MAIN_LAYERS = {
    "embedding": tuple(f"e{index:03d}" for index in range(24)),
    "generated_NDVI": ("NDVI",),
    "generated_S1RTC": ("VV", "VH"),
    "generated_S2L2A": ("B02", "B03", "B04"),
}


@pytest.mark.parametrize("name", MAIN_LAYERS)
def test_other_main_layers_are_described_by_their_own_terms(product, folder, validator, name):
    layer, bands = layer_table.get(name), MAIN_LAYERS[name]
    changed_product = replace_main_layer(product, folder, layer, bands)
    document = stac_item.build_item(changed_product)
    stac_schemas.check(document, validator)
    asset = document["assets"][name]
    assert [band["name"] for band in asset["bands"]] == list(bands)
    assert [band["unit"] for band in asset["raster:bands"]] == [layer.unit] * len(bands)
    assert [band.get("scale", 1.0) for band in asset["raster:bands"]] == [layer.scale] * len(bands)
    assert document["properties"]["terramosaic:answer"] == name
    assert layer.title in document["properties"]["processing:lineage"]
    text = report.render_report(
        changed_product,
        report.ReportImages(quicklook=rendering.encode_png(np.zeros((2, 2, 3), "uint8"))),
    )
    PageParser(text)
    collection = stac_collection.build_collection([document], title="Jutland", license_id="other")
    stac_schemas.check(collection, validator)
    for output in (json.dumps(document), text, json.dumps(collection)):
        assert "land cover" not in output.lower()
        assert "land-cover" not in output.lower()
    assert collection["description"].startswith(f"{layer.title} of Jutland")
    mean = changed_product.rasters[0].info.statistics[0].mean * layer.scale
    assert (f"<td>{mean:.4g}</td>" in text) == (name != "embedding")


def test_a_collection_names_all_main_layers_of_its_items(product, folder):
    ndvi_product = replace_main_layer(product, folder, layer_table.get("generated_NDVI"), ("NDVI",))
    later = replace(ndvi_product, start=dt.date(2025, 5, 1), end=dt.date(2025, 9, 30))
    items = [stac_item.build_item(product), stac_item.build_item(later)]
    collection = stac_collection.build_collection(items, title="Jutland", license_id="other")
    assert collection["description"].startswith("Land cover and Generated NDVI of Jutland")
    composites_only = replace(
        product, rasters=(), provenance=replace(product.provenance, model=None, main_layer=None)
    )
    collection = stac_collection.build_collection(
        [stac_item.build_item(composites_only)], title="Jutland", license_id="other"
    )
    assert collection["description"].startswith("Composites of Jutland")


def test_the_report_has_a_section_on_seams(product):
    seam = Seam(z=0.4, lines=7, rate=0.06, excess=0.01, worst=0.03)
    sample = ProportionEstimate(n=2000, share=0.04, low=0.03, high=0.05)
    quality = QualityMetrics(
        window=seam, disagreement=sample, rate_by_phase=(0.05, 0.06, 0.05, 0.06), blend_length=2
    )
    images = report.ReportImages(quicklook=rendering.encode_png(np.zeros((2, 2, 3), "uint8")))
    page = report.render_report(replace(product, quality=quality), images)
    PageParser(page)
    assert "<h2>Seams</h2>" in page
    assert "4.00 % of 2,000 sampled pixels get another class" in page
    assert page.count("<polyline") == 2
    assert "<h2>Seams</h2>" not in report.render_report(product, images)
