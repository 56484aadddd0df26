"""Real STAC documents of every version and provider become scenes or are refused with the reason.

The expected fields of a scene are derived from the raw JSON for each kind of document, without the
code under test. Any folder with documents of these kinds can be used.
"""

import copy
import datetime as dt
import json
import math
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from catalogs import href_policy, providers, snapshot
from catalogs.errors import InvalidInputError
from catalogs.scene import Scene
from catalogs.sensors import SENSORS
from catalogs.stac import item
from catalogs.stac.parsing import UnusableItemError

NIGHTLY = bool(os.environ.get("TERRAMOSAIC_NIGHTLY"))
FOLDER = Path(os.environ.get("TERRAMOSAIC_REALDATA") or "/nonexistent") / "stac"
real = pytest.mark.skipif(not FOLDER.is_dir(), reason="TERRAMOSAIC_REALDATA is unset")

BASE = "/catalog/item.json"

SAFE = """
collections:
  collection:
    modality: S2L2A
    names: {B01: B01, B02: B02, B03: B03, B04: B04, B05: B05, B06: B06, B07: B07, B08: B08,
            B8A: B8A, B09: B09, B11: B11, B12: B12, SCL: SCL}
"""
"""The provider table that a user would write for items of STAC 0.8 beside SAFE products."""


@pytest.fixture(scope="module")
def safe_table(tmp_path_factory):
    table = tmp_path_factory.mktemp("table") / "safe.yaml"
    table.write_text(SAFE)
    return str(table)


def documents(folder):
    """Yield (path, document) of every JSON document, and of every one inside another."""
    for path in sorted(folder.rglob("*.json")):
        yield from iterate_features(path, json.loads(path.read_text()))


def iterate_features(path, document):
    yield path, document
    if isinstance(document, dict):
        for feature in document.get("features") or []:
            yield from iterate_features(path, feature)


REAL = list(documents(FOLDER)) if FOLDER.is_dir() else []


SOURCES = {
    "planetary-computer": (
        (r"^https://\w+\.blob\.core\.windows\.net/",),
        {
            "sentinel-2-l2a": "S2L2A",
            "sentinel-1-rtc": "S1RTC",
            "sentinel-1-grd": "S1GRD",
            "cop-dem-glo-30": "DEM",
        },
    ),
    "cdse": (
        (r"^s3://eodata/", r"^https://zipper\.dataspace\.copernicus\.eu/"),
        {"sentinel-2-l2a": "S2L2A", "sentinel-1-grd": "S1GRD"},
    ),
    "earth-search": (
        (
            r"^https://(sentinel-cogs|e84-earth-search-sentinel-data)\.s3\.us-west-2\.amazonaws\.com/",
            r"^s3://(sentinel-s2-l1c|sentinel-s2-l2a|sentinel-s1-l1c|copernicus-dem-30m)/",
        ),
        {
            "sentinel-2-l2a": "S2L2A",
            "sentinel-2-c1-l2a": "S2L2A",
            "sentinel-2-l1c": "S2L1C",
            "sentinel-1-grd": "S1GRD",
            "cop-dem-glo-30": "DEM",
        },
    ),
    "earth-search-v0": (
        (r"^https://sentinel-cogs\.s3\.us-west-2\.amazonaws\.com/",),
        {"sentinel-s2-l2a-cogs": "S2L2A"},
    ),
    "stactools": (
        (r"^(?!/|\w+:)", r"^https://sentinel-s1-rtc-indigo\.s3\.us-west-2\.amazonaws\.com/"),
        {"sentinel1-rtc-aws": "S1RTC", "sentinel1-grd": "S1GRD"},
    ),
    "safe": ((r"^(?!/|\w+:)",), {"collection": "S2L2A"}),
}
"""Where the files of a provider lie, and its collections, independently of the tables."""

RASTER = re.compile(r"\.(tiff?|jp2)$", re.IGNORECASE)


def find_kind(document):
    """Return (provider, modality) of a document that should become a scene, or None."""
    if not isinstance(document, dict) or document.get("type") != "Feature":
        return None
    if "assets" not in document or not isinstance(document.get("properties"), dict):
        return None
    hrefs = [
        asset["href"]
        for asset in document["assets"].values()
        if RASTER.search(str(asset.get("href")))
    ]
    for provider, (places, collections) in SOURCES.items():
        modality = collections.get(document.get("collection"))
        if provider == "stactools" and is_made_by_stactools(document):
            modality = "S2L2A"
        if provider == "safe" and not str(document.get("stac_version")).startswith("0."):
            modality = None
        # ^ other catalogs have collections of the same names
        if modality and hrefs and all(any(re.search(p, href) for p in places) for href in hrefs):
            return provider, modality
    return None


def is_made_by_stactools(document):
    """Return whether stactools made an item of Sentinel-2 L2A; such an item has no collection."""
    names = (document["id"], str(document["properties"].get("s2:product_uri")))
    is_l2a = any("_MSIL2A_" in name for name in names)
    return document.get("collection") is None and "blue" in document["assets"] and is_l2a


def parse(document, provider, modality):
    provider_table = providers.get(provider)
    policy = href_policy.HrefPolicy(
        provider=provider_table, origin="/catalog/catalog.json", allow=()
    )
    return item.parse(
        document, provider=provider_table, modality=modality, policy=policy, base=BASE
    )


def parse_or_return_reason(document, provider, modality):
    try:
        item.read_footprint(document)
        item.read_datetime(document)
        return parse(document, provider, modality).scene
    except InvalidInputError as error:
        return str(error)


def list_documents(kind):
    return [(path, document) for path, document in REAL if find_kind(document) == kind]


KINDS = sorted({kind for _, document in REAL if (kind := find_kind(document))})


def assert_names_a_fact(reason, path):
    """Check that a refusal is one readable clause, and no exception of a library."""
    assert 10 < len(reason) < 1000, path
    assert reason.isprintable(), path
    assert not re.search(r"malformed item|\w(Error|Exception)\b|Traceback", reason), (path, reason)


@real
def test_every_stac_document_is_a_scene_or_refused_with_the_reason(safe_table):
    assert REAL
    scene_count = 0
    for path, document in REAL:
        for name in (*providers.list_names(), safe_table):
            for modality in providers.get(name).collections_by_modality:
                scene = parse_or_return_reason(document, name, modality)
                if isinstance(scene, str):
                    assert_names_a_fact(scene, path)
                else:
                    scene_count += 1
                    assert scene.assets
    assert scene_count >= len(KINDS) / 2
    # ^ GRD of every provider is a kind too, and refused


@real
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_stac_documents_of_a_kind_are_used_or_refused_alike(kind, safe_table):
    provider, modality = kind
    table = safe_table if provider == "safe" else provider
    for path, document in list_documents(kind):
        if missing_fact := find_missing_fact(document, modality):
            with pytest.raises(UnusableItemError, match=missing_fact):
                parse(document, table, modality)
            continue
        scene = parse(document, table, modality).scene
        check_names(document, scene)
        check_place(document, scene)
        check_time(document, scene)
        check_numbers(document, scene, provider)
        assert scene.provider == table, path


@real
def test_stac_documents_of_other_kinds_are_refused_with_the_reason():
    assert KINDS
    for path, document in REAL:
        if not isinstance(document, dict) or document.get("type") != "Feature":
            with pytest.raises(UnusableItemError, match="no STAC item"):
                parse(document, "earth-search", "S2L2A")
        elif ".zarr" in json.dumps(document.get("assets")):
            with pytest.raises(InvalidInputError, match=r"Zarr|no usable S2L2A asset"):
                parse(document | {"collection": "sentinel-2-l2a"}, "cdse", "S2L2A")
        elif find_kind(document) is None and "assets" in document:
            scene = parse_or_return_reason(document, "earth-search", "S2L2A")
            assert isinstance(scene, str) or list_hosts(scene) <= EARTH_SEARCH_HOSTS, path
            # ^ a mixture of files here and elsewhere is of no kind, but may be used in part


EARTH_SEARCH_HOSTS = {
    "sentinel-cogs.s3.us-west-2.amazonaws.com",
    "e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com",
    "copernicus-dem-30m.s3.eu-central-1.amazonaws.com",
    "sentinel-s2-l1c",
    "sentinel-s2-l2a",
    "sentinel-s1-l1c",
    "",
}
"""Hosts and buckets of Earth Search; empty for a file beside the catalog."""


def list_hosts(scene):
    return {urlsplit(asset.href).netloc for asset in scene.assets.values()}


def find_missing_fact(document, modality):
    """Return the expected reason of refusal of a document of a supported kind, or None."""
    properties = document["properties"]
    stamp = properties.get("datetime") or properties.get("start_datetime")
    if stamp is None and modality != "DEM":
        return "neither datetime nor start_datetime"
    if stamp is not None and not re.search(r"(Z|[+-]\d\d:\d\d)$", stamp, re.IGNORECASE):
        return "has no time zone"
    sources = [properties, *document["assets"].values()]
    is_placed = any(source.get("proj:epsg") or source.get("proj:code") for source in sources)
    if modality == "S1GRD":
        is_geocoded = is_placed and any(
            (source.get("proj:epsg") or source.get("proj:code")) not in (None, 4326, "EPSG:4326")
            and source.get("proj:transform")
            for source in sources
        )
        return "states no unit|not geocoded" if is_geocoded else "not geocoded .*use S1RTC.*terrain"
    return None if is_placed else "states no coordinate system"


def list_product_names(document):
    properties = document["properties"]
    keys = ("s2:product_uri", "sentinel:product_id", "s2:datatake_id", "eopf:datatake_id")
    return [str(properties[key]) for key in keys if properties.get(key)] + [document["id"]]


def search_product_names(document, pattern):
    for name in list_product_names(document):
        if match := re.search(pattern, name):
            return match[1]
    return None


def check_names(document, scene):
    properties = document["properties"]
    assert scene.id == document["id"]
    assert scene.collection == (document.get("collection") or "")
    assert scene.orbit_state == properties.get("sat:orbit_state")
    orbit = properties.get("sat:relative_orbit") or search_product_names(document, r"_R(\d{3})_")
    assert scene.relative_orbit == (None if orbit is None else int(orbit))
    datatakes = {value for key, value in properties.items() if key.endswith(":datatake_id")}
    assert {scene.datatake} == (datatakes or {None})
    platform = properties.get("platform") or properties.get("eo:platform")
    if platform and scene.modality.startswith("S"):
        assert scene.platform == f"sentinel-{platform[-2:]}".lower()
    if scene.modality.startswith("S2"):
        is_cover_invalid = properties.get("sentinel:valid_cloud_cover") is False
        assert scene.cloud_cover == (None if is_cover_invalid else properties.get("eo:cloud_cover"))
        assert scene.baseline == find_baseline(document)
        assert scene.tile == find_tile(document)


def find_tile(document):
    """Return the MGRS tile with two digits, from the properties or the names."""
    properties, joined = document["properties"], " ".join(list_product_names(document)) + "_"
    matches = (
        re.search(r"(\d\d?[A-Z]{3})$", str(properties.get("s2:mgrs_tile"))),
        re.search(r"(\d\d?[A-Z]{3})$", str(properties.get("grid:code"))),
        re.search(r"_T(\d\d[A-Z]{3})_", joined),
        re.search(r"_(\d\d?[A-Z]{3})_", document["id"]),
    )
    match = next(filter(None, matches), None)
    parts = [
        properties.get(f"{prefix}:{key}")
        for prefix in ("mgrs", "sentinel")
        for key in ("utm_zone", "latitude_band", "grid_square")
    ]
    stated = match[1] if match else "".join(str(part) for part in parts if part is not None)
    return stated.rjust(5, "0") if stated else None


def find_baseline(document):
    digits = search_product_names(document, r"_N(\d\d\.?\d\d)(?:_|$)")
    properties = document["properties"]
    stated = properties.get("s2:processing_baseline") or properties.get("processing:version") or ""
    digits = digits or str(stated).rjust(5, "0")
    digits = digits.replace(".", "")
    return f"{digits[:2]}.{digits[2:]}" if digits.strip("0") else None


def flatten_positions(coordinates):
    if isinstance(coordinates[0], int | float):
        return [coordinates]
    return [position for part in coordinates if part for position in flatten_positions(part)]


def check_place(document, scene):
    if document.get("bbox"):
        corners = len(document["bbox"]) // 2
        assert scene.bbox == (*document["bbox"][:2], *document["bbox"][corners : corners + 2])
    area = shape(scene.footprint)
    assert area.is_valid
    assert area.area > 0
    west, south, east, north = area.bounds
    assert west >= -180
    assert east <= 180
    if document.get("geometry"):
        corners = flatten_positions(document["geometry"]["coordinates"])
        latitudes = [min(90, max(-90, corner[1])) for corner in corners]
        assert south == pytest.approx(min(latitudes)) or south == -90
        assert north == pytest.approx(max(latitudes)) or north == 90
        # ^ a ring that goes round a pole holds it
    for band, asset in scene.assets.items():
        raw = find_raw_asset(document, asset)
        merged = document["properties"] | raw
        code = merged.get("proj:epsg") or merged.get("proj:code")
        assert f"EPSG:{asset.epsg}" == f"EPSG:{str(code).removeprefix('EPSG:')}", band
        matrix, counts = merged.get("proj:transform"), merged.get("proj:shape")
        assert asset.transform == (None if matrix is None else tuple(matrix[:6]))
        assert asset.shape == (None if counts is None else tuple(counts))
        assert asset.checksum == raw.get("file:checksum")


def find_raw_asset(document, asset):
    """Return the raw asset whose file a scene's asset points to.

    Files in several folders may have one name, so the whole path of an href is compared.
    """
    target = unquote(urlsplit(asset.href).path)
    paths = {
        key: [
            unquote(urlsplit(href).path).lstrip("./")
            for href in list_hrefs(raw)
            if urlsplit(href).path
        ]
        for key, raw in document["assets"].items()
    }
    lengths = {
        key: max((len(path) for path in names if target.endswith(f"/{path}")), default=0)
        for key, names in paths.items()
    }
    longest = max(lengths.values())
    assert longest, target
    matching = [document["assets"][key] for key, length in lengths.items() if length == longest]
    assert len({raw["href"] for raw in matching}) == 1, target
    return matching[0]


def list_hrefs(raw):
    """Return the href of a raw asset and its alternates."""
    alternates = (raw.get("alternate") or {}).values()
    return [str(entry["href"]) for entry in (raw, *alternates) if entry.get("href")]


def check_time(document, scene):
    properties = document["properties"]
    stamp = properties.get("datetime") or properties.get("start_datetime")
    if stamp is None:
        assert scene.datetime is None
    else:
        year, month, day, hour, minute, second = map(int, re.findall(r"\d+", stamp)[:6])
        zone = re.search(r"([+-])(\d\d):(\d\d)$", stamp)
        offset_minutes = int(f"{zone[1]}1") * (60 * int(zone[2]) + int(zone[3])) if zone else 0
        fraction = re.search(r"\.(\d+)", stamp)
        microseconds = int(fraction[1].ljust(6, "0")[:6]) if fraction and second < 60 else 0
        minute_start = dt.datetime(year, month, day, hour, minute, tzinfo=dt.UTC)
        rest = dt.timedelta(minutes=-offset_minutes, seconds=second, microseconds=microseconds)
        assert scene.datetime == minute_start + rest
    keys = ("s2:generation_time", "processing:datetime", "s1:processing_datetime")
    stamps = [properties[key] for key in keys if key in properties]
    assert (scene.processed is None) == (not stamps)
    if stamps:
        assert scene.processed.isoformat()[:19] == stamps[0][:19]


def check_numbers(document, scene, provider):
    assert list(scene.assets) == [
        band for band in SENSORS[scene.modality].bands if band in scene.assets
    ]
    for band, asset in scene.assets.items():
        raw = find_raw_asset(document, asset)
        inner = raw.get("raster:bands") or raw.get("bands") or [{}]
        message = {key.removeprefix("raster:"): value for key, value in inner[0].items()} | {
            key.removeprefix("raster:"): value
            for key, value in raw.items()
            if key in ("raster:offset", "raster:scale", "nodata")
        }
        meaning = asset.radiometry
        if band == "SCL":
            assert (meaning.unit, meaning.scale, meaning.offset) == ("class", 1, 0)
            assert asset.nodata == 0
        elif band == "CLD":
            assert (meaning.unit, meaning.scale, meaning.offset) == ("probability", 1, 0)
            assert asset.nodata is None
        elif scene.modality.startswith("S2"):
            assert (meaning.unit, meaning.scale) == ("reflectance", message.get("scale", 0.0001))
            assert asset.nodata == 0
            assert meaning.offset / meaning.scale == pytest.approx(
                compute_digital_offset(document, message, provider)
            )
        elif scene.modality == "S1RTC":
            unit = "dB" if message.get("unit") == "dB" else "power"
            assert (meaning.unit, meaning.scale, meaning.offset) == (unit, 1, 0)
            fallback = -32768 if provider == "planetary-computer" else 0
            assert asset.nodata == message.get("nodata", fallback)
        else:
            assert (meaning.unit, meaning.scale, meaning.offset) == ("m", 1, 0)


def compute_digital_offset(document, stated, provider):
    """Return the number to add to stored values, by what is known of each catalog."""
    implied = -1000 if float(find_baseline(document) or 0) >= 4 else 0
    if provider == "earth-search-v0":
        return 0
    if provider == "earth-search" and document["collection"] == "sentinel-2-l2a":
        return 0
    if "offset" in stated:
        return stated["offset"] / stated.get("scale", 0.0001)
    return implied


@real
def test_stac_documents_of_one_acquisition_have_the_same_platform_and_tile():
    """Duplicates are found by these, whatever catalog a document comes from."""
    names_by_acquisition = {}
    for kind in KINDS:
        if kind[1] != "S2L2A" or kind[0] == "safe":
            continue
        for _, document in list_documents(kind):
            scene = parse(document, *kind).scene
            uri = next((name for name in list_product_names(document) if "_MSIL2A_" in name), None)
            key = uri and re.match(r"(S2.)_MSIL2A_(\d{8}T\d{6}).*_(T\w{5})", uri)
            if key:
                names_by_acquisition.setdefault(key.groups(), set()).add(
                    (scene.platform, scene.tile)
                )
    assert names_by_acquisition
    assert all(len(names) == 1 for names in names_by_acquisition.values())


A_DOCUMENT = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "S2A_MSIL2A_20240601T100000_R065_T32TMT_20240601T150000",
    "collection": "sentinel-2-l2a",
    "bbox": [9, 56, 10, 57],
    "geometry": {
        "type": "Polygon",
        "coordinates": [[[9, 56], [10, 56], [10, 57], [9, 57], [9, 56]]],
    },
    "properties": {
        "datetime": "2024-06-01T10:00:00Z",
        "proj:epsg": 32632,
        "s2:processing_baseline": "05.10",
        "eo:cloud_cover": 12.5,
    },
    "assets": {
        "B02": {
            "href": "./B02.tif",
            "proj:transform": [10, 0, 300000, 0, -10, 6300000],
            "proj:shape": [100, 200],
            "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}],
        }
    },
}

FUZZED = [
    (("planetary-computer", "S2L2A"), A_DOCUMENT),
    *(
        (kind, document)
        for kind in KINDS
        if kind[0] != "safe"
        for _, document in list_documents(kind)[:2]
    ),
]

READ = re.compile(
    r"^(id|type|collection|properties|assets|geometry|coordinates|bbox|href|alternate|bands|\d+"
    r"|(start_|end_)?datetime|platform|nodata|unit|scale|offset|(proj|raster|sat|s1|s2|eo|grid|mgrs"
    r"|sentinel|processing|eopf|file):.*)$"
)
"""Keys that are read; half of all changes are aimed at them."""


def nest(depth):
    value = []
    for level in range(depth):
        value = [value] if level % 2 else {"coordinates": value}
    return value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70),
    st.integers(),
    st.sampled_from([10**400, -(10**30), 2**63, 1e308, -0.0, math.nan, math.inf, -math.inf]),
    st.floats(),
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Cc", "Zl", "Nd", "So"]), max_size=5),
    st.sampled_from(
        [
            *("nan", "inf", "-Infinity", "1e999", "EPSG:4326", "IAU:30100", "32632", "²"),
            *(
                "2016-12-31T23:59:60Z",
                "2016-12-31T12:30:60Z",
                "2024-06-01",
                "0001-01-01T00:00+14:00",
            ),
            *("9999-12-31T23:59:59-12:00", "2024-06-01T10:00:00", "../../../etc/passwd", "s3://"),
            *(
                "https://[::1",
                "file:///etc/passwd.tif",
                "/vsicurl/x.tif",
                "\x00.tif",
                "Point",
                "T99ZZZ",
            ),
        ]
    ),
    st.lists(st.integers(-200, 200) | st.floats(), max_size=10),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
    st.sampled_from([1, 7, 60, 5000, 100_000]).map(nest),
)


def list_values(value, values=None):
    """Return (holder, key) of every value inside a document."""
    values = [] if values is None else values
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        values.append((value, key))
        if isinstance(inner, dict | list):
            list_values(inner, values)
    return values


@st.composite
def mutated_documents(draw):
    kind, original = draw(st.sampled_from(FUZZED))
    document = copy.deepcopy(original)
    all_values = list_values(document)
    read_values = [value for value in all_values if READ.match(str(value[1]))]
    for _ in range(draw(st.integers(1, 3))):
        choice = read_values if draw(st.booleans()) else all_values
        holder, key = choice[draw(st.integers(0, len(choice) - 1))]
        if isinstance(holder, list) and key >= len(holder):
            continue
        change = draw(st.sampled_from(["drop", "replace", "replace", "nest", "text", "twice"]))
        if change == "drop":
            holder.pop(key, None) if isinstance(holder, dict) else holder.pop(key)
        elif change == "replace":
            holder[key] = draw(VALUES)
        elif change == "nest":
            holder[key] = [holder.get(key) if isinstance(holder, dict) else holder[key]]
        elif change == "text":
            inner = holder.get(key) if isinstance(holder, dict) else holder[key]
            holder[key] = inner if isinstance(inner, dict | list) else str(inner)[:50]
        elif isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[f"{key}{key}"] = draw(VALUES)
    return kind, document


@settings(
    max_examples=10_000 if NIGHTLY else 300,
    derandomize=not NIGHTLY,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(mutated_documents())
def test_mutated_stac_documents_are_scenes_or_refused(changed):
    (provider, modality), document = changed
    scene = parse_or_return_reason(document, provider, modality)
    if isinstance(scene, str):
        assert 0 < len(scene.strip().encode()) < 2000
        return
    text = json.dumps(scene.to_dict(), allow_nan=False)
    assert Scene.from_dict(json.loads(text)) == scene
    assert snapshot.compute_digest([scene])
    assert scene.datetime is None or scene.solar_day
    provider_table = providers.get(provider)
    for asset in scene.assets.values():
        host = re.match(r"(?:https|s3)://([^/]+)/", asset.href)
        assert (
            host[1] in {*provider_table.hosts, *provider_table.buckets}
            if host
            else asset.href.startswith("/catalog/")
        )


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [[]], {"type": "Feature"}, math.nan])
def test_a_value_that_is_not_a_stac_document_is_refused(value):
    for read in (item.read_footprint, item.read_datetime):
        with pytest.raises(InvalidInputError, match=r"no STAC item|its id"):
            read(value)
    with pytest.raises(InvalidInputError, match=r"no STAC item|its id"):
        parse(value, "earth-search", "S2L2A")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("geometry", "type"), ["Polygon"], "TypeError"),
        (("geometry",), "Polygon", "no GeoJSON"),
        (("geometry", "coordinates"), nest(1001), "in place of coordinates"),
        (("properties", "proj:epsg"), nest(100_000), "RecursionError"),
        (("properties", "datetime"), nest(100_000), "is no time"),
        (("assets", "B02", "type"), nest(100_000), "RecursionError"),
        (("assets", "B02", "href"), ["./B02.tif"], "B02 has no href"),
        (("assets", "B02", "href"), "https://[::1", "malformed item: ValueError|Invalid"),
        (("assets", "B02", "proj:transform"), [10, 0, 0, 0, 0, 0], "is no valid transform"),
        (("assets", "B02", "proj:shape"), [10.5, 10], r"not \(rows, columns\)"),
        (("assets", "B02", "raster:bands"), [{"scale": True}], "scale of B02 is True"),
        (("assets", "B02", "raster:bands"), [{"offset": math.nan}], "offset of B02 is nan"),
        (("bbox",), [500000, 56, 600000, 57], "invalid coordinate 500000"),
        (("id",), "a\ud800", "is not printable text"),
    ],
)
def test_malformed_stac_documents_are_refused_in_one_clause(path, value, reason):
    document = copy.deepcopy(A_DOCUMENT)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(InvalidInputError, match=reason) as raised:
        parse(document, "planetary-computer", "S2L2A")
    assert len(str(raised.value)) < 500
    assert str(raised.value).isprintable()
