"""What the numbers of each catalog mean, by fixtures and by the real items."""

import json
import os
from pathlib import Path

import pytest

from catalogs import item, providers, trust
from catalogs.errors import Wrong
from catalogs.scene import BANDS

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")
real = pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")

SQUARE = {"type": "Polygon", "coordinates": [[[9, 56], [10, 56], [10, 57], [9, 57], [9, 56]]]}


def a_trust(provider, *allow):
    return trust.Trust(provider=provider, origin="/catalog/catalog.json", allow=allow)


def parse(document, provider="planetary-computer", modality="S2L2A", allow=(), base=None):
    known = providers.get(provider)
    return item.parse(
        document,
        provider=known,
        modality=modality,
        trust=a_trust(known, *allow),
        base=base or "/catalog/item.json",
    )


def an_item(name="B02", *, asset=None, properties=None, **changed):
    return {
        "type": "Feature",
        "id": "S2A_MSIL2A_1",
        "collection": "sentinel-2-l2a",
        "geometry": SQUARE,
        "bbox": [9, 56, 10, 57],
        "properties": {"datetime": "2024-06-01T10:00:00Z", "proj:epsg": 32632} | (properties or {}),
        "assets": {name: {"href": f"./{name}.tif"} | (asset or {})},
    } | changed


STATED = {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]}


def made_by(baseline):
    return {"s2:processing_baseline": baseline}


NEW, OLD = made_by("05.10"), made_by("02.14")
ZERO = {"raster:bands": [{"offset": 0}]}
IN_ID = {"id": "S2A_MSIL2A_20220201T000000_N0400_R1_T32TMT_2"}
ON_ASSET = {"raster:offset": -0.1, "raster:scale": 0.0001}
REMOVED = {"earthsearch:boa_offset_applied": True}
NOT_REMOVED = {"earthsearch:boa_offset_applied": False}
C1 = {"collection": "sentinel-2-c1-l2a"}


@pytest.mark.parametrize(
    ("provider", "band", "document", "digital_offset"),
    [
        ("planetary-computer", "B02", an_item(properties=NEW), -1000),
        ("planetary-computer", "B02", an_item(properties=made_by("04.00")), -1000),
        ("planetary-computer", "B02", an_item(properties=made_by("03.01")), 0),
        ("planetary-computer", "B02", an_item(properties=OLD), 0),
        ("planetary-computer", "B02", an_item(asset=STATED, properties=OLD), -1000),
        ("planetary-computer", "B02", an_item(asset=ZERO, properties=NEW), 0),
        ("planetary-computer", "B02", an_item(**IN_ID), -1000),
        ("planetary-computer", "B02", an_item(), 0),
        ("demo", "B02", an_item(properties=NEW), -1000),
        ("earth-search", "B02", an_item("blue", asset=STATED, properties=NEW | REMOVED), 0),
        ("earth-search", "B02", an_item("blue", asset=STATED, properties=NEW | NOT_REMOVED), 0),
        ("earth-search", "B02", an_item("blue", properties=OLD | NOT_REMOVED), 0),
        ("earth-search", "B02", an_item("blue", asset=STATED, properties=NEW, **C1), -1000),
        ("earth-search", "B02", an_item("blue", properties=NEW, **C1), -1000),
        ("cdse", "B02", an_item("B02_60m", asset=ON_ASSET), -1000),
        ("cdse", "B02", an_item("B02_10m", properties={"processing:version": "05.11"}), -1000),
        ("cdse", "B02", an_item("B02_10m", properties={"processing:version": "02.11"}), 0),
        ("cdse", "B02", an_item("B02_10m", asset={"bands": [{"raster:offset": -0.1}]}), -1000),
    ],
)  # fmt: skip
def test_one_reflectance_whoever_has_subtracted_the_offset(
    provider, band, document, digital_offset
):
    radiometry = parse(document, provider).scene.assets[band].radiometry
    assert radiometry.unit == "reflectance"
    assert radiometry.scale == 0.0001
    assert radiometry.offset / radiometry.scale == pytest.approx(digital_offset)


def test_what_a_catalog_leaves_open_is_told():
    assert parse(an_item(properties=NEW)).doubts == ()
    assert "neither an offset nor a baseline" in parse(an_item()).doubts[0]
    lying = an_item("blue", asset=STATED, properties=NEW | NOT_REMOVED)
    assert "boa_offset_applied is False" in parse(lying, "earth-search").doubts[0]


def test_the_finest_asset_of_a_band_is_taken():
    document = an_item("B02_20m")
    document["assets"]["B02_10m"] = {"href": "./fine.jp2"}
    assert parse(document, "cdse").scene.assets["B02"].href == "/catalog/fine.jp2"


@pytest.mark.parametrize(
    ("asset", "unit", "nodata"),
    [
        ({}, "power", -32768.0),
        ({"raster:bands": [{"unit": "1", "nodata": -9999}]}, "power", -9999.0),
        ({"raster:bands": [{"unit": "dB", "nodata": 0}]}, "dB", 0.0),
        ({"bands": [{"unit": "dB"}], "nodata": -99}, "dB", -99.0),
    ],
)
def test_radar_is_power_unless_it_says_decibel(asset, unit, nodata):
    document = an_item("vv", asset=asset, collection="sentinel-1-rtc")
    parsed = parse(document, modality="S1RTC").scene.assets["VV"]
    assert (parsed.radiometry.unit, parsed.nodata) == (unit, nodata)
    assert (parsed.radiometry.scale, parsed.radiometry.offset) == (1, 0)


def test_optical_zero_is_nodata_and_classes_are_classes():
    document = an_item(asset={"raster:bands": [{"nodata": 65535}]})
    document["assets"]["SCL"] = {"href": "./SCL.tif"}
    bands = parse(document).scene.assets
    assert bands["B02"].nodata == bands["SCL"].nodata == 0
    assert bands["SCL"].radiometry.unit == "class"
    assert (bands["SCL"].radiometry.scale, bands["SCL"].radiometry.offset) == (1, 0)


@pytest.mark.parametrize(
    ("where", "epsg"),
    [
        ({"proj:epsg": 32632}, 32632),
        ({"proj:epsg": "32633"}, 32633),
        ({"proj:code": "EPSG:32701"}, 32701),
        ({"proj:epsg": None, "proj:code": "EPSG:9707"}, 9707),
    ],
)
def test_coordinate_systems_of_stac_1_0_and_1_1(where, epsg):
    document = an_item(properties=where | ({} if "proj:epsg" in where else {"proj:epsg": None}))
    assert parse(document).scene.assets["B02"].epsg == epsg
    document = an_item(asset=where, properties={"proj:epsg": 4326})
    assert parse(document).scene.assets["B02"].epsg == epsg


def test_the_grid_comes_from_the_asset_or_the_item():
    matrix = [10, 0, 300000, 0, -10, 6300000, 0, 0, 1]
    on_item = an_item(properties={"proj:transform": matrix, "proj:shape": [100, 200]})
    on_asset = an_item(asset={"proj:transform": matrix[:6], "proj:shape": [100, 200]})
    for document in (on_item, on_asset):
        asset = parse(document).scene.assets["B02"]
        assert asset.transform == tuple(matrix[:6])
        assert asset.shape == (100, 200)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"properties": {"datetime": None}}, "neither datetime nor start_datetime"),
        ({"properties": {"datetime": "2024-06-01T10:00:00"}}, "has no zone"),
        ({"properties": {"datetime": "2024-06-01T23:59:60Z"}}, "is no time"),
        ({"properties": {"datetime": "yesterday"}}, "is no time"),
        ({"properties": {"proj:epsg": None}}, "states no coordinate system"),
        ({"properties": {"proj:code": "IAU_2015:30100", "proj:epsg": None}}, "unknown coordinate"),
        ({"assets": {"visual": {"href": "./TCI.tif"}}}, "no usable S2L2A asset: it has visual"),
        ({"assets": {"B02": {"href": "./all.tif", "raster:bands": [{}, {}]}}}, "no usable"),
        ({"geometry": None, "bbox": None}, "neither a geometry nor a bbox"),
        ({"geometry": {"type": "Point", "coordinates": [9, 56]}}, "is a Point"),
        ({"asset": {"href": "/etc/passwd"}}, "outside of the catalog's own folder"),
    ],
)  # fmt: skip
def test_why_an_item_is_refused(changed, reason):
    with pytest.raises((Wrong, ValueError), match=reason):
        parse(an_item(**changed))


def test_start_datetime_stands_in_for_a_null_datetime():
    stamps = {"datetime": None, "start_datetime": "2024-04-19 04:58:39.221202+02:00"}
    moment = parse(an_item(properties=stamps)).scene.datetime
    assert moment.isoformat() == "2024-04-19T02:58:39.221202+00:00"


def test_elevation_may_lack_a_time():
    document = an_item("data", properties={"datetime": None}, collection="cop-dem-glo-30")
    scene = parse(document, modality="DEM").scene
    assert scene.datetime is None
    assert scene.assets["DEM"].radiometry.unit == "m"


def test_radar_geometry_is_refused_even_if_it_claims_degrees():
    claims = {"proj:epsg": 4326, "proj:transform": [1e-4, 0, 74, 0, -1e-4, -44]}
    for properties in ({"proj:epsg": None}, claims, {"proj:epsg": 32632}):
        with pytest.raises(item.Unusable, match="not geocoded"):
            parse(an_item("vv", properties=properties), modality="S1GRD")
    projected = {"proj:epsg": 32632, "proj:transform": [10, 0, 3e5, 0, -10, 6e6]}
    assert parse(an_item("vv", properties=projected), modality="S1GRD").scene.modality == "S1GRD"


def test_ids_of_tiles_and_baselines():
    scene = parse(
        an_item(properties={"grid:code": "MGRS-32TMT", "processing:version": "05.00"})
    ).scene
    assert (scene.tile, scene.baseline) == ("32TMT", "05.00")
    scene = parse(an_item(id="S2A_MSIL2A_20200302T102021_N0500_R065_T32TMT_20230618T173704")).scene
    assert (scene.tile, scene.baseline) == ("32TMT", "05.00")
    assert parse(an_item(id="S2A_33TWM_20230818_0_L2A")).scene.tile == "33TWM"
    assert parse(an_item(id="S2_TM_433D_629L_3_1")).scene.tile is None
    assert parse(an_item(properties={"platform": "Sentinel-2A"})).scene.platform == "sentinel-2a"


@pytest.mark.parametrize(
    ("text", "number"),
    [("05.10", (5, 10)), ("N0400", (4, 0)), ("4.0", (4, 0)), ("", None), (None, None), ("x", None)],
)
def test_baselines_as_numbers(text, number):
    assert providers.number_of(text) == number


def test_the_table_is_sound():
    with pytest.raises(Wrong, match=r"Unknown catalog 'landsat'.*planetary-computer, earth-search"):
        providers.get("landsat")
    for provider in providers.PROVIDERS.values():
        assert set(provider.names) == set(provider.collections) <= set(BANDS)
        assert not any("*" in host or "/" in host for host in provider.hosts)
    names = providers.get("earth-search").names["S2L2A"]
    assert set(names) == set(BANDS["S2L2A"])
    assert providers.get("cdse").connections <= 4
    assert providers.get("planetary-computer").modality_of("sentinel-1-rtc") == "S1RTC"
    assert providers.get("planetary-computer").modality_of("landsat-c2-l2") is None


def test_a_wrong_declaration_cannot_be_built():
    good = {
        "name": "x",
        "api": None,
        "hosts": (),
        "collections": {},
        "names": {},
        "offset": providers.stated_or_baseline,
        "connections": 1,
    }
    for wrong in ({"signing": "sha"}, {"connections": 0}, {"names": {"DEM": {"B02": ("x",)}}}):
        with pytest.raises(ValueError, match="Provider x"):
            providers.Provider(**good | wrong)


def of_real(folder):
    root = Path(REALDATA or "")
    for path in sorted((root / folder).rglob("*.json")):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature":
            yield path, document


@real
@pytest.mark.parametrize(
    ("provider", "count"), [("planetary-computer", 30), ("earth-search", 6), ("cdse", 2)]
)
def test_every_real_item_parses(provider, count):
    known = providers.get(provider)
    scenes = {}
    for path, document in of_real(f"catalog/{provider}"):
        modality = known.modality_of(document["collection"])
        parsed = parse(document, provider, modality, allow=(REALDATA,), base=str(path))
        scenes[parsed.scene.id] = parsed.scene
        for asset in parsed.scene.assets.values():
            assert Path(asset.href).is_file()
            assert asset.transform is not None
            assert asset.shape is not None
    assert len(scenes) == count


@real
@pytest.mark.parametrize(
    ("provider", "part", "digital_offset"),
    [
        ("planetary-computer", "S2_TM_433D", -1000),
        ("planetary-computer", "S2_TM_637U", 0),
        ("planetary-computer", "S2_TM_282D", 0),
        ("earth-search", "33TW", 0),
        ("cdse", "29UNU", -1000),
        ("cdse", "33SVB", 0),
    ],
)
def test_offsets_of_real_items(provider, part, digital_offset):
    found = 0
    for path, document in of_real(f"catalog/{provider}/sentinel-2-l2a"):
        if part in document["id"]:
            scene = parse(document, provider, "S2L2A", (REALDATA,), str(path)).scene
            for band, asset in scene.assets.items():
                found += 1
                wanted = 0 if band == "SCL" else digital_offset
                stored = asset.radiometry.offset / asset.radiometry.scale
                assert stored == pytest.approx(wanted)
    assert found >= 5


@real
def test_real_radar_and_elevation():
    for path, document in of_real("catalog/planetary-computer/sentinel-1-rtc"):
        scene = parse(document, "planetary-computer", "S1RTC", (REALDATA,), str(path)).scene
        assert {asset.radiometry.unit for asset in scene.assets.values()} == {"power"}
        assert {asset.nodata for asset in scene.assets.values()} == {-32768.0}
    units = set()
    for path, document in of_real("catalog/other/sentinel-1-grd-db"):
        if document["properties"]["proj:epsg"] == 4326:
            continue
            # ^ geocoded in truth, but nothing in the item tells it from radar geometry
        scene = parse(document, "planetary-computer", "S1GRD", (REALDATA,), str(path)).scene
        units |= {asset.radiometry.unit for asset in scene.assets.values()}
    assert units == {"dB"}


@real
@pytest.mark.parametrize(
    ("folder", "provider", "modality", "reason"),
    [
        ("earth-search-v1/sentinel-1-grd", "earth-search", "S1GRD", "no usable S1GRD asset"),
        ("planetary-computer/sentinel-1-grd", "planetary-computer", "S1GRD", "not geocoded|usable"),
        (
            "stactools-from-real-SAFE/sentinel-1-grd",
            "planetary-computer",
            "S1GRD",
            "geocoded|usable",
        ),
    ],
)
def test_real_radar_geometry_is_refused(folder, provider, modality, reason):
    documents = list(of_real(f"stac/{folder}"))
    assert documents
    for path, document in documents:
        with pytest.raises(item.Unusable, match=reason):
            parse(document, provider, modality, (REALDATA,), str(path))


@real
def test_one_real_scene_in_two_collections_means_two_offsets():
    root = "stac/earth-search-v1"
    removed = next(
        document for _, document in of_real(root) if document["id"] == "S2B_20EPT_20250731_0_L2A"
    )
    kept = next(
        document for _, document in of_real(root) if document["collection"] == "sentinel-2-c1-l2a"
    )
    offsets = [
        parse(document, "earth-search").scene.assets["B04"].radiometry.offset
        for document in (removed, kept)
    ]
    assert offsets == [0, -0.1]


@real
@pytest.mark.parametrize(
    ("folder", "provider", "modality"),
    [
        ("planetary-computer/sentinel-2-l2a", "planetary-computer", "S2L2A"),
        ("planetary-computer/sentinel-1-rtc", "planetary-computer", "S1RTC"),
        ("planetary-computer/cop-dem-glo-30", "planetary-computer", "DEM"),
        ("earth-search-v1/sentinel-2-l2a", "earth-search", "S2L2A"),
        ("earth-search-v1/cop-dem-glo-30", "earth-search", "DEM"),
        ("cdse/sentinel-2-l2a", "cdse", "S2L2A"),
    ],
)
def test_real_items_of_the_live_catalogs_parse(folder, provider, modality):
    documents = [document for _, document in of_real(f"stac/{folder}") if "assets" in document]
    assert documents
    for document in documents:
        scene = parse(
            document, provider, modality, (REALDATA,), str(Path(REALDATA) / "x.json")
        ).scene
        if modality == "S2L2A":
            assert scene.tile is not None
            assert scene.baseline is not None
            assert scene.platform in ("sentinel-2a", "sentinel-2b")
        assert all("s3://copernicus" not in asset.href for asset in scene.assets.values())
