"""Provider tables: units, offsets, nodata and times of synthetic and of real items."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from catalogs import href_policy, providers
from catalogs.errors import InvalidInputError
from catalogs.providers import schema
from catalogs.sensors import SENSORS
from catalogs.stac import item
from catalogs.stac.parsing import UnusableItemError
from tests.support import real_items

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")
real = pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")

SQUARE = {"type": "Polygon", "coordinates": [[[9, 56], [10, 56], [10, 57], [9, 57], [9, 56]]]}


def a_trust(provider, *allow):
    return href_policy.HrefPolicy(provider=provider, origin="/catalog/catalog.json", allow=allow)


def parse(document, provider="planetary-computer", modality="S2L2A", allow=(), base=None):
    provider_table = providers.get(provider)
    return item.parse(
        document,
        provider=provider_table,
        modality=modality,
        policy=a_trust(provider_table, *allow),
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


def baseline_properties(baseline):
    return {"s2:processing_baseline": baseline}


NEW, OLD = baseline_properties("05.10"), baseline_properties("02.14")
ZERO = {"raster:bands": [{"offset": 0}]}
IN_ID = {"id": "S2A_MSIL2A_20240601T000000_N0400_R1_T32TMT_2"}
ON_ASSET = {"raster:offset": -0.1, "raster:scale": 0.0001}
REMOVED = {"earthsearch:boa_offset_applied": True}
NOT_REMOVED = {"earthsearch:boa_offset_applied": False}
C1 = {"collection": "sentinel-2-c1-l2a"}
V0 = {"collection": "sentinel-s2-l2a-cogs"}
NO_NAME = {"collection": None}


@pytest.mark.parametrize(
    ("provider", "band", "document", "digital_offset"),
    [
        ("planetary-computer", "B02", an_item(properties=NEW), -1000),
        ("planetary-computer", "B02", an_item(properties=baseline_properties("04.00")), -1000),
        ("planetary-computer", "B02", an_item(properties=baseline_properties("03.01")), 0),
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
        ("earth-search-v0", "B02", an_item(properties=NEW, **V0), 0),
        ("earth-search-v0", "B02", an_item(asset=STATED, properties=NEW, **V0), 0),
        ("stactools", "B02", an_item("blue", asset=STATED, properties=NEW, **NO_NAME), -1000),
        ("stactools", "B02", an_item("blue", asset=ZERO, properties=OLD, **NO_NAME), 0),
        ("cdse", "B02", an_item("B02_60m", asset=ON_ASSET), -1000),
        ("cdse", "B02", an_item("B02_10m", properties={"processing:version": "05.11"}), -1000),
        ("cdse", "B02", an_item("B02_10m", properties={"processing:version": "02.11"}), 0),
        ("cdse", "B02", an_item("B02_10m", asset={"bands": [{"raster:offset": -0.1}]}), -1000),
    ],
)  # fmt: skip
def test_reflectance_is_the_same_whoever_has_subtracted_the_offset(
    provider, band, document, digital_offset
):
    radiometry = parse(document, provider).scene.assets[band].radiometry
    assert radiometry.unit == "reflectance"
    assert radiometry.scale == 0.0001
    assert radiometry.offset / radiometry.scale == pytest.approx(digital_offset)


def test_missing_and_contradicting_offsets_are_caveats():
    assert parse(an_item(properties=NEW)).caveats == ()
    assert "neither an offset nor a baseline" in parse(an_item()).caveats[0]
    not_removed = an_item("blue", asset=STATED, properties=NEW | NOT_REMOVED)
    assert "boa_offset_applied is False" in parse(not_removed, "earth-search").caveats[0]
    without_flag = an_item("blue", properties=NEW)
    assert (
        "no flag of removal beside baseline 05.10" in parse(without_flag, "earth-search").caveats[0]
    )
    caveat = parse(an_item(asset=ZERO, properties=NEW)).caveats[0]
    assert "offset of 0 although baseline 05.10 implies -0.1" in caveat


def test_the_finest_asset_of_a_band_is_used():
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
def test_radar_is_power_unless_its_unit_is_decibel(asset, unit, nodata):
    document = an_item("vv", asset=asset, collection="sentinel-1-rtc")
    parsed = parse(document, modality="S1RTC").scene.assets["VV"]
    assert (parsed.radiometry.unit, parsed.nodata) == (unit, nodata)
    assert (parsed.radiometry.scale, parsed.radiometry.offset) == (1, 0)


@pytest.mark.parametrize(
    ("baseline", "asset", "digital_offset"),
    [("05.11", STATED, -1000), ("04.00", {}, -1000), ("03.01", {}, 0), ("02.14", ZERO, 0)],
)
def test_l1c_carries_the_offset_from_the_same_baseline_on(baseline, asset, digital_offset):
    document = an_item(
        "cirrus", asset=asset, properties=baseline_properties(baseline), collection="sentinel-2-l1c"
    )
    bands = parse(document, "earth-search", "S2L1C").scene.assets
    assert list(bands) == ["B10"]
    assert bands["B10"].radiometry.offset * 10000 == pytest.approx(digital_offset)


def test_cloud_probability_of_zero_is_not_nodata():
    document = an_item("blue", asset=STATED, properties=NEW, **C1)
    document["assets"]["cloud"] = {"href": "./CLD_20m.tif", "raster:bands": [{"nodata": 0}]}
    cloud = parse(document, "earth-search").scene.assets["CLD"]
    assert (cloud.radiometry.unit, cloud.radiometry.scale, cloud.nodata) == ("probability", 1, None)


@pytest.mark.parametrize(
    ("hrefs", "expected"),
    [("stated", "s3://eodata/a.jp2"), ("s3", "s3://eodata/a.jp2"), ("https", "https://zip")],
)
def test_the_table_chooses_between_hrefs_of_an_asset(hrefs, expected):
    node = "https://zipper.dataspace.copernicus.eu/odata/v1/Products(1)/Nodes(a.jp2)/$value"
    alternates = {"href": "s3://eodata/a.jp2", "alternate": {"https": {"href": node}}}
    provider_table = providers.get("cdse").model_copy(update={"hrefs": hrefs})
    parsed = item.parse(
        an_item("B02_10m", asset=alternates),
        provider=provider_table,
        modality="S2L2A",
        policy=a_trust(provider_table),
        base="/catalog/item.json",
    )
    assert parsed.scene.assets["B02"].href.startswith(expected)


def test_optical_zero_is_nodata_and_classes_are_classes():
    document = an_item(asset={"raster:bands": [{"nodata": 65535}]})
    document["assets"]["SCL"] = {"href": "./SCL.tif"}
    bands = parse(document).scene.assets
    assert bands["B02"].nodata == bands["SCL"].nodata == 0
    assert bands["SCL"].radiometry.unit == "class"
    assert (bands["SCL"].radiometry.scale, bands["SCL"].radiometry.offset) == (1, 0)


@pytest.mark.parametrize(
    ("fields", "epsg"),
    [
        ({"proj:epsg": 32632}, 32632),
        ({"proj:epsg": "32633"}, 32633),
        ({"proj:code": "EPSG:32701"}, 32701),
        ({"proj:epsg": None, "proj:code": "EPSG:9707"}, 9707),
    ],
)
def test_coordinate_systems_of_stac_1_0_and_1_1(fields, epsg):
    document = an_item(properties=fields | ({} if "proj:epsg" in fields else {"proj:epsg": None}))
    assert parse(document).scene.assets["B02"].epsg == epsg
    document = an_item(asset=fields, properties={"proj:epsg": 4326})
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
        ({"properties": {"datetime": "2024-06-01T10:00:00"}}, "has no time zone"),
        ({"properties": {"datetime": "2024-06-01T12:30:60Z"}}, "is no time"),
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
def test_an_unusable_item_is_refused(changed, reason):
    with pytest.raises(InvalidInputError, match=reason):
        parse(an_item(**changed))


def test_start_datetime_replaces_a_null_datetime():
    stamps = {"datetime": None, "start_datetime": "2024-04-19 04:58:39.221202+02:00"}
    moment = parse(an_item(properties=stamps)).scene.datetime
    assert moment.isoformat() == "2024-04-19T02:58:39.221202+00:00"


@pytest.mark.parametrize(
    ("start", "end", "moment", "caveat"),
    [
        ("2024-06-30T23:59:50Z", "2024-07-01T00:00:10Z", "2024-06-30T23:59:50", None),
        ("2024-07-01T00:00:10Z", "2024-06-30T23:59:50Z", "2024-06-30T23:59:50",
         "start_datetime is after end_datetime: the earlier one is taken as the time"),
        (None, "2024-06-30T23:59:50Z", "2024-06-30T23:59:50", None),
        ("2024-06-30T23:59:50Z", "in July", "2024-06-30T23:59:50", None),
        ("2024-04-01T00:00:00Z", "2024-07-01T00:00:00Z", "2024-04-01T00:00:00",
         "covers 2024-04-01 to 2024-07-01: counts on its first day"),
    ],
)  # fmt: skip
def test_a_time_range_counts_at_its_start(start, end, moment, caveat):
    stamps = {"datetime": None, "start_datetime": start, "end_datetime": end}
    parsed = parse(an_item(properties=NEW | stamps))
    assert parsed.scene.datetime.isoformat() == f"{moment}+00:00"
    assert [text for text in parsed.caveats if "datetime" in text or "covers" in text] == (
        [caveat] if caveat else []
    )
    dated = parse(an_item(properties=NEW | {"start_datetime": start, "end_datetime": end}))
    assert "covers" not in " ".join(dated.caveats)


def test_elevation_may_lack_a_time():
    document = an_item("data", properties={"datetime": None}, collection="cop-dem-glo-30")
    scene = parse(document, modality="DEM").scene
    assert scene.datetime is None
    assert scene.assets["DEM"].radiometry.unit == "m"


STRETCHED = [0.0592, 0, -179, 0, -0.00038, -67]


@pytest.mark.parametrize(
    "properties",
    [
        {"proj:epsg": None},
        {"proj:epsg": 32632},
        {"proj:epsg": 4326, "proj:transform": STRETCHED},
        {
            "proj:epsg": 4326,
            "proj:transform": [1e-4, 0, 74, 0, -1e-4, -44],
            "proj:shape": [26144, 16676],
            "s1:shape": [16676, 26144],
        },
    ],
)
def test_radar_geometry_is_refused_even_if_it_claims_degrees(properties):
    with pytest.raises(UnusableItemError, match=r"not geocoded.*use S1RTC.*correct its terrain"):
        parse(an_item("vv", properties=properties, collection="sentinel-1-grd"), modality="S1GRD")


@pytest.mark.parametrize(
    ("epsg", "transform"),
    [(32632, [10, 0, 3e5, 0, -10, 6e6]), (4326, [1e-4, 0, 74, 0, -1e-4, -44])],
)
def test_geocoded_grd_is_read_where_it_states_its_unit(epsg, transform):
    grid = {"proj:epsg": epsg, "proj:transform": transform}
    decibel = {"raster:bands": [{"unit": "dB"}]}
    without_unit = an_item("vv", properties=grid, collection="sentinel-1-grd")
    in_power = an_item("vv", properties=grid, asset=decibel, collection="sentinel-1-grd")
    assert parse(in_power, modality="S1GRD").scene.assets["VV"].radiometry.unit == "dB"
    with pytest.raises(UnusableItemError, match="VV states no unit"):
        parse(without_unit, modality="S1GRD")
    # ^ ESA's own numbers are amplitudes without calibration
    amplitude = an_item(
        "vv",
        properties=grid,
        asset={"raster:bands": [{"unit": "amplitude"}]},
        collection="sentinel-1-grd",
    )
    with pytest.raises(UnusableItemError, match="unit 'amplitude'"):
        parse(amplitude, modality="S1GRD")


def test_an_hh_scene_is_parsed():
    document = an_item("hh", collection="sentinel-1-rtc")
    assert list(parse(document, modality="S1RTC").scene.assets) == ["HH"]


@pytest.mark.parametrize(
    ("stamp", "moment"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2016-12-31T23:59:60.750Z", "2017-01-01T00:00:00+00:00"),
        ("2017-01-01T05:29:60+05:30", "2017-01-01T00:00:00+00:00"),
        ("2016-12-31t23:59:60,5z", "2017-01-01T00:00:00+00:00"),
        ("2024-06-01T10:00:00,25Z", "2024-06-01T10:00:00.250000+00:00"),
        ("2024-06-30T23:59:59.9999999Z", "2024-06-30T23:59:59.999999+00:00"),
        ("2024-02-29T23:30:00-01:00", "2024-03-01T00:30:00+00:00"),
        ("2024-06-01T10:00:00.123456789Z", "2024-06-01T10:00:00.123456+00:00"),
        ("2024-06-01t10:00:00z", "2024-06-01T10:00:00+00:00"),
        ("2024-06-01T00:30:00-11:30", "2024-06-01T12:00:00+00:00"),
        ("2024-06-01 10:00:00+00:00", "2024-06-01T10:00:00+00:00"),
    ],
)
def test_datetimes_of_every_form_are_converted_to_utc(stamp, moment):
    assert parse(an_item(properties={"datetime": stamp})).scene.datetime.isoformat() == moment


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        ("2024-06-01T10:00:00", "has no time zone"),
        ("2024-06-01", "has no time zone"),
        ("2016-12-31T22:59:60Z", "a leap second ends a UTC day"),
        ("2024-06-31T10:00:00Z", "is no time"),
        ("2024-01-01T00:00:00Z/2024-12-31T00:00:00Z", "is no time"),
        ("0001-01-01T00:00:00+10:00", "is no time"),
        ("1066-10-14T09:00:00Z", "not within the years 1970 to 2199"),
        (20240601, "is no time"),
        ("", "is no time"),
        ("NaT", "is no time"),
    ],
)
def test_invalid_datetimes_are_refused(stamp, reason):
    with pytest.raises(UnusableItemError, match=reason):
        parse(an_item(properties={"datetime": stamp}))
    parsed = parse(an_item(properties=NEW | {"s2:generation_time": stamp}))
    assert parsed.scene.processed is None
    assert "time of processing ignored" in " ".join(parsed.caveats)


def test_ids_of_tiles_and_baselines():
    scene = parse(
        an_item(properties={"grid:code": "MGRS-32TMT", "processing:version": "05.00"})
    ).scene
    assert (scene.tile, scene.baseline) == ("32TMT", "05.00")
    scene = parse(an_item(id="S2A_MSIL2A_20240601T102021_N0500_R065_T32TMT_20230618T173704")).scene
    assert (scene.tile, scene.baseline) == ("32TMT", "05.00")
    assert parse(an_item(id="S2A_33TWM_20240601_0_L2A")).scene.tile == "33TWM"
    assert parse(an_item(id="S2_TM_433D_629L_3_1")).scene.tile is None
    assert parse(an_item(properties={"platform": "Sentinel-2A"})).scene.platform == "sentinel-2a"


@pytest.mark.parametrize(
    ("text", "number"),
    [("05.10", (5, 10)), ("N0400", (4, 0)), ("4.0", (4, 0)), ("", None), (None, None), ("x", None)],
)
def test_baselines_as_numbers(text, number):
    assert providers.parse_baseline(text) == number


def test_the_tables_of_all_providers_are_consistent():
    with pytest.raises(
        InvalidInputError, match=r"Unknown catalog 'landsat'.*earth-search.*docs/providers.md"
    ):
        providers.get("landsat")
    assert {"planetary-computer", "earth-search", "cdse", "demo"} <= set(providers.list_names())
    for name in providers.list_names():
        provider = providers.get(name)
        assert (provider.name, provider.key, provider.file) == (name, name, None)
        assert set(provider.collections_by_modality) <= set(SENSORS)
        for modality, ids in provider.collections_by_modality.items():
            for collection_id in ids:
                assert set(SENSORS[modality].default_bands) <= {
                    *provider.collections_by_id[collection_id].names,
                    "HH",
                    "HV",
                }
    assert set(providers.get("earth-search").collections_by_id["sentinel-2-l2a"].names) == set(
        SENSORS["S2L2A"].bands
    )
    assert providers.get("cdse").connections <= 4


ONE = "collections: {a: {modality: S2L2A, names: {B02: blue}}}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{ONE}\nsigning: sha", "signing 'sha'"),
        (f"{ONE}\nconnections: 0", "connections 0"),
        (f"{ONE}\nconection: 4", "conection 4"),
        (f"{ONE}\nhosts: ['*.example.org']", r"'\*.example.org' is no host"),
        (f"{ONE}\nhosts: [https://a.example.org/b]", "is no host"),
        (f"{ONE}\napi: ftp://a.example.org", "api"),
        (f"{ONE}\nmirrors: {{'s3://a': 'https://b/'}}", "must both end with a slash"),
        (f"{ONE}\nmirrors: {{'s3://a/': 'http://b/'}}", "does not lead from s3:// to https://"),
        (f"{ONE}\nbuckets: {{a_b/c: {{}}}}", "no valid name of an S3 bucket"),
        (f"{ONE}\nbuckets: {{abc: {{access: free}}}}", "buckets.abc.access 'free'"),
        ("collections: {a: {modality: DEM, names: {B02: x}}}", "B02 among the names of DEM"),
        ("collections: {a: {modality: DEM, names: {}}}", "no name among the names of DEM"),
        ("collections: {a: {modality: S3, names: {}}}", "unknown modality 'S3'"),
        (ONE.replace("}}}", "}, offset: subtracted}}"), "offset"),
        (ONE.replace("}}}", "}, offset: .nan}}"), "nan is no offset"),
        ("collections: {}", "collections"),
        ("hosts: []", "collections"),
        (f"{ONE}\nname: mine", "is named like its file"),
        (ONE.replace("collections", "holdings"), "holdings"),
        ("[1, 2]", "no provider table, but a list"),
        ("a: [", "cannot be read as a provider table"),
        ("a: &a [*a]", "a "),
        ("\x00", "cannot be read as a provider table"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path, text, reason):
    table = tmp_path / "wrong.yaml"
    table.write_text(text)
    with pytest.raises(InvalidInputError, match=reason) as raised:
        providers.get(str(table))
    assert str(table) in str(raised.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"provider table .*none.yaml cannot be read"):
        providers.get(str(tmp_path / "none.yaml"))


def read_documented_tables():
    """Return the YAML blocks of the documentation by the name in their first line."""
    text = Path(__file__).parents[2].joinpath("docs/providers.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return {block.split("\n")[0].removeprefix("# "): block for block in blocks}


def test_the_documented_table_is_read(tmp_path):
    blocks = read_documented_tables()
    table = tmp_path / "mountains.yaml"
    table.write_text(blocks["mountains.yaml"] + blocks["buckets:"])
    provider_table = providers.get(str(table))
    assert (provider_table.name, provider_table.key) == ("mountains", str(table))
    assert provider_table.buckets["eodata"].access == "keys"
    document = an_item("blue", properties=NEW, collection="s2-boa")
    document["assets"] |= {
        "blue": {"href": "https://data.example.org/blue.tif"},
        "cloud_probability": {"href": "./cloud.tif"},
        "nir_20m": {"href": "./nir_20m.tif"},
        "nir_10m": {"href": "./nir_10m.tif"},
    }
    scene = parse(document, str(table)).scene
    assert list(scene.assets) == ["B02", "B08", "CLD"]
    assert scene.assets["B08"].href == "/catalog/nir_10m.tif"
    assert scene.assets["B02"].radiometry.offset == -0.1
    radar = parse(an_item("g0_vv", collection="s1-gamma"), str(table), "S1RTC").scene.assets["VV"]
    assert (radar.radiometry.unit, radar.nodata) == ("dB", -99)
    assert scene.provider == str(table)
    assert scene.identity()["provider"] == "mountains"


def test_the_documentation_names_every_key_and_catalog():
    text = Path(__file__).parents[2].joinpath("docs/providers.md").read_text()
    keys = {field.alias or key for key, field in schema.Provider.model_fields.items()}
    keys |= set(schema.ProviderCollection.model_fields) | set(schema.Bucket.model_fields)
    for name in (*(keys - {"name", "file"}), *providers.list_names()):
        assert re.search(rf"`?{name}[`:]", text), name


def test_an_edited_table_is_read_again(tmp_path):
    path = tmp_path / "mine.yaml"
    for number, connections in enumerate((3, 4)):
        path.write_text(f"{ONE}\nconnections: {connections}")
        os.utime(path, ns=(number, number))
        assert providers.get(str(path)).connections == connections


@pytest.mark.parametrize(
    ("offset", "expected"), [("baseline", -0.1), ("removed", 0), ("-0.05", -0.05), ("0", 0)]
)
def test_the_offset_of_a_custom_table_overrides_the_item(tmp_path, offset, expected):
    table = tmp_path / "mine.yaml"
    table.write_text(ONE.replace("}}}", f"}}, offset: {offset}}}}}"))
    stated = {"raster:bands": [{"offset": -0.3}]}
    document = an_item("blue", asset=stated, properties=NEW, collection="a")
    assert parse(document, str(table)).scene.assets["B02"].radiometry.offset == expected


def test_the_command_does_not_load_tables_at_start():
    code = (
        "import sys, flows.cli.main, catalogs.providers as p; p.list_names();"
        "print([m for m in ('yaml', 'pydantic') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


def iterate_real_items(folder):
    root = Path(REALDATA or "")
    for path in sorted((root / folder).rglob("*.json")):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature":
            yield path, document


@real
@pytest.mark.parametrize("provider", ["planetary-computer", "earth-search", "cdse"])
def test_every_real_item_is_a_scene_with_the_offset_of_its_pixels(provider):
    provider_table = providers.get(provider)
    count = 0
    items = [
        item for folder, item in real_items.iterate_items(Path(REALDATA)) if folder == provider
    ]
    known = real_items.select_known_collections(provider, items)
    for document in filter(lambda known_item: real_items.is_usable(provider, known_item), known):
        modality = provider_table.collections_by_id[document["collection"]].modality
        scene = parse(document, provider, modality, allow=(REALDATA,)).scene
        count += 1
        offset = real_items.compute_added_offset(provider, document)
        for band, asset in scene.assets.items():
            assert Path(asset.href).is_file()
            assert asset.transform is not None
            assert asset.shape is not None
            if modality.startswith("S2") and band not in SENSORS[modality].mask_bands:
                stored = asset.radiometry.offset / asset.radiometry.scale
                assert stored == pytest.approx(offset)
    assert count > len(known) / 2


@real
@pytest.mark.parametrize(
    ("provider", "pattern", "digital_offset"),
    [
        ("planetary-computer", "S2_TM_433D_.*", -1000),
        ("planetary-computer", "S2_TM_(637U|282D)_.*", 0),
        ("earth-search", r"S2._33TW[LM]_2023\d+_0_L2A", 0),
        ("cdse", "S2A_.*_N0400_R023_T29UNU_.*", -1000),
        ("cdse", "S2A_.*_N0211_R079_T33SVB_.*", 0),
    ],
)
def test_offsets_of_known_real_items(provider, pattern, digital_offset):
    """The offsets are known from the darkest pixels of these scenes."""
    for folder, document in real_items.iterate_items(Path(REALDATA)):
        if folder == provider and re.fullmatch(pattern, document["id"]):
            assert real_items.compute_added_offset(provider, document) == digital_offset


@real
def test_real_radar_and_elevation(tmp_path):
    table = tmp_path / "geocoded.yaml"
    table.write_text("collections: {sentinel-1-grd-db: {modality: S1GRD, names: {VV: vv, VH: vh}}}")
    names = {
        "planetary-computer/sentinel-1-rtc": ("planetary-computer", "S1RTC", "power", -32768.0),
        "other/sentinel-1-grd-db": (str(table), "S1GRD", "dB", None),
    }
    for folder, (provider, modality, unit, nodata) in names.items():
        documents = list(iterate_real_items(f"catalog/{folder}"))
        assert documents
        for path, document in documents:
            scene = parse(document, provider, modality, (REALDATA,), str(path)).scene
            for name, asset in scene.assets.items():
                stated = (document["assets"][name.lower()].get("raster:bands") or [{}])[0]
                is_power = stated.get("unit", unit) != "dB"
                assert asset.radiometry.unit == ("power" if is_power else "dB")
                expected = stated.get("nodata", nodata)
                assert str(asset.nodata) == str(None if expected is None else float(expected))


@real
@pytest.mark.parametrize(
    ("folder", "provider"),
    [
        ("earth-search-v1/sentinel-1-grd", "earth-search"),
        ("planetary-computer/sentinel-1-grd", "planetary-computer"),
        ("stactools-from-real-SAFE/sentinel-1-grd", "stactools"),
    ],
)
def test_real_radar_geometry_is_refused(folder, provider):
    documents = list(iterate_real_items(f"stac/{folder}"))
    assert documents
    for path, document in documents:
        assets = document["assets"].values()
        is_placed = any("proj:transform" in source for source in (document["properties"], *assets))
        reason = "not geocoded|states no unit" if is_placed else "not geocoded"
        with pytest.raises(UnusableItemError, match=reason):
            parse(document, provider, "S1GRD", (REALDATA,), str(path))


@real
def test_one_real_scene_in_two_collections_means_two_offsets():
    """Pixels of one collection are free of ESA's offset, those of the other are not."""
    root = "stac/earth-search-v1"
    offsets = {}
    for _, document in iterate_real_items(root):
        baseline = document["properties"].get("s2:processing_baseline", "0")
        is_new = baseline >= "04.00" and "red" in document.get("assets", {})
        if is_new and document["collection"] in ("sentinel-2-l2a", "sentinel-2-c1-l2a"):
            scene = parse(document, "earth-search").scene
            offsets.setdefault(document["collection"], set()).add(
                scene.assets["B04"].radiometry.offset
            )
    assert offsets == {"sentinel-2-l2a": {0}, "sentinel-2-c1-l2a": {-0.1}}


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
    documents = [
        document for _, document in iterate_real_items(f"stac/{folder}") if "assets" in document
    ]
    used = 0
    for document in documents:
        try:
            scene = parse(
                document, provider, modality, (REALDATA,), str(Path(REALDATA) / "x.json")
            ).scene
        except UnusableItemError as error:
            assert "malformed" not in str(error)  # noqa: PT017
            continue
        used += 1
        if modality == "S2L2A":
            assert scene.tile is not None
            assert scene.baseline is not None
            assert re.fullmatch("sentinel-2[a-d]", scene.platform)
        assert all("s3://copernicus" not in asset.href for asset in scene.assets.values())
    assert used > len(documents) / 2


@pytest.mark.parametrize(
    ("asset", "message"),
    [
        (
            {"eo:bands": [{"name": "B08", "common_name": "nir"}]},
            "its asset 'B02' name 'B08'",
        ),
        ({"bands": [{"name": "B04", "eo:common_name": "red"}]}, "name 'B04', which is not B02"),
        ({"eo:bands": [{"common_name": "swir16"}]}, "name 'swir16'"),
        ({"href": "./T32TMT_20240601T100000_B8A_20m.jp2"}, "a file of B8A and not of B02"),
        ({"href": "./Nodes(T32TMT_20240601T100000_B08_10m.jp2)/$value"}, "a file of B08"),
    ],
)
def test_an_asset_of_another_band_is_refused(asset, message):
    with pytest.raises(UnusableItemError) as caught:
        parse(an_item(asset=asset))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "asset"),
    [
        ("B02", {"eo:bands": [{"name": "blue", "common_name": "blue"}]}),
        ("B8A", {"eo:bands": [{"name": "B8A", "common_name": "rededge"}]}),
        ("B02", {"eo:bands": [1]}),
        ("B02", {"eo:bands": [{"name": "bands"}]}),
        ("B02", {"href": "./B02_resampled_to_B08.tif"}),
        ("B05", {"eo:bands": [{"name": "B5"}]}),
        ("B02", {"bands": [{"name": "B02_10m"}]}),
    ],
)
def test_other_words_for_the_same_band_are_accepted(name, asset):
    assert list(parse(an_item(name, asset=asset)).scene.assets) == [name]


@pytest.mark.parametrize(
    ("item_id", "stamp", "is_contradicted"),
    [
        ("S2A_MSIL2A_20240601T100031_N0510_R122_T33UWP_20240601T120000", "2024-06-09", True),
        ("S2A_MSIL2A_20240601T100031_N0510_R122_T33UWP_20240901T120000", "2024-06-01", False),
        ("S2A_33UWP_20240601_0_L2A", "2023-06-01", True),
        ("S2A_33UWP_20240601_0_L2A", "2024-06-02", False),
        ("S2A_T33UWP_20240601T100031_L2A", "2024-05-01", True),
        ("S2A_OPER_PRD_MSIL2A_PDMC_20240901T100031_R122_V20240601T100031", "2024-06-01", False),
        ("mosaic-20200101", "2024-06-01", False),
    ],
)
def test_a_time_that_the_name_of_the_product_contradicts_is_refused(
    item_id, stamp, is_contradicted
):
    document = an_item(id=item_id, properties={"datetime": f"{stamp}T10:00:31Z"})
    if not is_contradicted:
        assert parse(document).scene.datetime.date().isoformat() == stamp
        return
    with pytest.raises(UnusableItemError, match=f"its datetime is {stamp}T10:00:31Z, but its"):
        parse(document)


def test_geometry_and_raster_extent_that_contradict_each_other_are_told():
    georeference = {"proj:transform": [10, 0, 500_000, 0, -10, 6_300_000], "proj:shape": [900, 900]}
    parsed = parse(an_item(asset=georeference))
    assert parsed.scene.other_footprint is not None
    assert any(
        "its geometry and proj:transform with proj:shape contradict" in caveat
        for caveat in parsed.caveats
    )
    for asset in (
        {"proj:transform": [500_000, 10, 0, 6_300_000, 0, -10], "proj:shape": [900, 900]},
        georeference | {"proj:code": "EPSG:10857"},
    ):
        assert parse(an_item(asset=asset)).scene.id == "S2A_MSIL2A_1"
