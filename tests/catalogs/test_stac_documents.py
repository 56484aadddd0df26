"""Real STAC documents of every version and dialect: each becomes a scene or says what it lacks.

What a scene must hold is worked out here from the raw JSON, kind by kind, without the code under
test; the folder is any that has documents of these kinds.
"""

import copy
import datetime as dt
import json
import math
import os
import re
from pathlib import Path

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
"""The table that a user would write for items of STAC 0.8 beside SAFE products."""

FACTS = re.compile(
    r"no STAC item|has no (properties|assets)|neither datetime nor start_datetime|is not one of"
    r"|no usable \w+ asset|not geocoded .* use S1RTC|states no coordinate system|Zarr array"
    r"|states no unit|has no href|not a host of|a bucket that is not|no raster by its name"
)
"""The facts that a refusal of a real document names."""


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    table = tmp_path_factory.mktemp("table") / "safe.yaml"
    table.write_text(SAFE)
    return str(table)


def documents(folder):
    """Yield (path, document) of every JSON document, and of every one inside another."""
    for path in sorted(folder.rglob("*.json")):
        yield from parts(path, json.loads(path.read_text()))


def parts(path, document):
    yield path, document
    if isinstance(document, dict):
        for feature in document.get("features") or []:
            yield from parts(path, feature)


REAL = list(documents(FOLDER)) if FOLDER.is_dir() else []


def hrefs(document):
    return " ".join(str(asset.get("href")) for asset in document["assets"].values())


def kind_of(document):
    """Return (provider, modality) of a document that we want as a scene, or None."""
    if not isinstance(document, dict) or document.get("type") != "Feature":
        return None
    if "assets" not in document:
        return None
    where, collection = hrefs(document), document.get("collection")
    if ".zarr" in where:
        return None
    if ".blob.core.windows.net/" in where:
        found = {
            "sentinel-2-l2a": "S2L2A",
            "sentinel-1-rtc": "S1RTC",
            "sentinel-1-grd": "S1GRD",
            "cop-dem-glo-30": "DEM",
        }
        return ("planetary-computer", found[collection]) if collection in found else None
    if "s3://eodata/" in where:
        return ("cdse", "S2L2A" if collection == "sentinel-2-l2a" else "S1GRD")
    if collection == "sentinel-s2-l2a-cogs":
        return ("earth-search-v0", "S2L2A")
    if str(document.get("stac_version")).startswith("0."):
        return ("safe", "S2L2A")
    if collection in ("sentinel1-rtc-aws", "sentinel1-grd"):
        return ("stactools", "S1RTC" if "rtc" in collection else "S1GRD")
    if collection is None and "blue" in document["assets"]:
        return ("stactools", "S2L2A")
    found = {
        "sentinel-2-l2a": "S2L2A",
        "sentinel-2-c1-l2a": "S2L2A",
        "sentinel-2-l1c": "S2L1C",
        "sentinel-1-grd": "S1GRD",
        "cop-dem-glo-30": "DEM",
    }
    return ("earth-search", found[collection]) if collection in found else None


def parse(document, provider, modality):
    known = providers.get(provider)
    trusted = href_policy.HrefPolicy(provider=known, origin="/catalog/catalog.json", allow=())
    return item.parse(document, provider=known, modality=modality, policy=trusted, base=BASE)


def scene_or_reason(document, provider, modality):
    try:
        item.read_footprint(document)
        item.read_datetime(document)
        return parse(document, provider, modality).scene
    except InvalidInputError as error:
        return str(error)


def wanted(kind):
    return [(path, one) for path, one in REAL if kind_of(one) == kind]


KINDS = sorted({kind for _, one in REAL if (kind := kind_of(one))})


@real
def test_every_stac_document_is_a_scene_or_says_what_it_lacks(safe):
    assert REAL
    used = 0
    for path, document in REAL:
        for name in (*providers.list_names(), safe):
            for modality in providers.get(name).collections_by_modality:
                answer = scene_or_reason(document, name, modality)
                if isinstance(answer, str):
                    assert FACTS.search(answer), f"{path}: {answer}"
                else:
                    used += 1
                    assert answer.assets
    assert used >= len(KINDS) / 2
    # ^ GRD of every provider is a kind too, and refused


@real
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_stac_documents_of_a_kind_are_used_or_refused_alike(kind, safe):
    provider, modality = kind
    for path, document in wanted(kind):
        if modality == "S1GRD":
            with pytest.raises(UnusableItemError, match=r"not geocoded .*use S1RTC.*terrain"):
                parse(document, provider, modality)
            continue
        name = safe if provider == "safe" else provider
        if lacking := missing_fact(document, modality):
            with pytest.raises(UnusableItemError, match=lacking):
                parse(document, name, modality)
            continue
        scene = parse(document, name, modality).scene
        check_names(document, scene)
        check_place(document, scene)
        check_time(document, scene)
        check_numbers(document, scene, provider)
        assert scene.provider == name, path


@real
def test_stac_documents_that_are_no_scenes_of_ours_say_why():
    assert KINDS
    for path, document in REAL:
        if not isinstance(document, dict) or document.get("type") != "Feature":
            with pytest.raises(UnusableItemError, match="no STAC item"):
                parse(document, "earth-search", "S2L2A")
        elif ".zarr" in json.dumps(document.get("assets")):
            with pytest.raises(InvalidInputError, match=r"Zarr|no usable S2L2A asset"):
                parse(document | {"collection": "sentinel-2-l2a"}, "cdse", "S2L2A")
        elif kind_of(document) is None and "assets" in document:
            with pytest.raises(
                UnusableItemError, match=r"its collection .* is not one of|has neither"
            ):
                parse(document, "earth-search", "S2L2A")
        assert path


def missing_fact(document, modality):
    """Return the refusal to expect of a document of a kind that is read, or None."""
    properties = document["properties"]
    stamp = properties.get("datetime") or properties.get("start_datetime")
    if stamp is None:
        return None if modality == "DEM" else "neither datetime nor start_datetime"
    if not re.search(r"(Z|[+-]\d\d:\d\d)$", stamp):
        return "has no zone"
    sources = [properties, *document["assets"].values()]
    if not any(source.get("proj:epsg") or source.get("proj:code") for source in sources):
        return "states no coordinate system"
    return None


def product_names(document):
    properties = document["properties"]
    keys = ("s2:product_uri", "sentinel:product_id", "s2:datatake_id", "eopf:datatake_id")
    return [str(properties[key]) for key in keys if properties.get(key)] + [document["id"]]


def in_names(document, pattern):
    for name in product_names(document):
        if found := re.search(pattern, name):
            return found[1]
    return None


def check_names(document, scene):
    properties = document["properties"]
    assert scene.id == document["id"]
    assert scene.collection == (document.get("collection") or "")
    states = ("ascending", "descending")
    assert scene.orbit_state == next((state for state in states if state in str(properties)), None)
    orbit = properties.get("sat:relative_orbit") or in_names(document, r"_R(\d{3})_")
    assert scene.relative_orbit == (None if orbit is None else int(orbit))
    takes = [value for key, value in properties.items() if key.endswith(":datatake_id")]
    assert [scene.datatake] == (takes or [None])
    letters = properties.get("platform") or properties.get("eo:platform")
    if letters and scene.modality.startswith("S"):
        assert scene.platform == f"sentinel-{letters[-2:]}".lower()
    if scene.modality.startswith("S2"):
        doubtful = properties.get("sentinel:valid_cloud_cover") is False
        assert scene.cloud_cover == (None if doubtful else properties.get("eo:cloud_cover"))
        assert scene.baseline == baseline_of(document)
        cell = re.search(r"\d\d[A-Z]{3}", str(properties.get("s2:mgrs_tile")))
        cell = cell or re.search(r"_T(\d\d[A-Z]{3})_", " ".join(product_names(document)) + "_")
        cell = cell or re.search(r"_(\d\d?[A-Z]{3})_", document["id"])
        assert scene.tile == cell[cell.lastindex or 0].rjust(5, "0")


def baseline_of(document):
    digits = in_names(document, r"_N(\d\d\.?\d\d)(?:_|$)")
    digits = digits or document["properties"].get("s2:processing_baseline", "").rjust(5, "0")
    digits = digits.replace(".", "")
    return f"{digits[:2]}.{digits[2:]}" if digits.strip("0") else None


def positions(coordinates):
    if isinstance(coordinates[0], int | float):
        return [coordinates]
    return [one for part in coordinates if part for one in positions(part)]


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
        corners = positions(document["geometry"]["coordinates"])
        latitudes = [min(90, max(-90, corner[1])) for corner in corners]
        assert south == pytest.approx(min(latitudes)) or south == -90
        assert north == pytest.approx(max(latitudes)) or north == 90
        # ^ a ring that goes round a pole holds it
    for band, asset in scene.assets.items():
        raw = raw_asset(document, asset)
        merged = document["properties"] | raw
        code = merged.get("proj:epsg") or merged.get("proj:code")
        assert f"EPSG:{asset.epsg}" == f"EPSG:{str(code).removeprefix('EPSG:')}", band
        matrix, counts = merged.get("proj:transform"), merged.get("proj:shape")
        assert asset.transform == (None if matrix is None else tuple(matrix[:6]))
        assert asset.shape == (None if counts is None else tuple(counts))
        assert asset.checksum == raw.get("file:checksum")


def raw_asset(document, asset):
    """Return the raw asset whose file a scene's asset points to."""
    name = asset.href.rpartition("/")[2]
    found = [raw for raw in document["assets"].values() if f"/{raw['href']}".endswith(f"/{name}")]
    assert len({raw["href"] for raw in found}) == 1, name
    return found[0]


def check_time(document, scene):
    properties = document["properties"]
    stamp = properties.get("datetime") or properties.get("start_datetime")
    if stamp is None:
        assert scene.datetime is None
    else:
        year, month, day, hour, minute, second = map(int, re.findall(r"\d+", stamp)[:6])
        zone = re.search(r"([+-])(\d\d):(\d\d)$", stamp)
        ahead = int(f"{zone[1]}1") * (60 * int(zone[2]) + int(zone[3])) if zone else 0
        fraction = re.search(r"\.(\d+)", stamp)
        micro = int(fraction[1].ljust(6, "0")[:6]) if fraction and second < 60 else 0
        whole = dt.datetime(year, month, day, hour, minute, tzinfo=dt.UTC)
        later = dt.timedelta(minutes=-ahead, seconds=second, microseconds=micro)
        assert scene.datetime == whole + later
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
        raw = raw_asset(document, asset)
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
                digital_offset(document, message, provider)
            )
        elif scene.modality == "S1RTC":
            unit = "dB" if message.get("unit") == "dB" else "power"
            assert (meaning.unit, meaning.scale, meaning.offset) == (unit, 1, 0)
            fallback = -32768 if provider == "planetary-computer" else 0
            assert asset.nodata == message.get("nodata", fallback)
        else:
            assert (meaning.unit, meaning.scale, meaning.offset) == ("m", 1, 0)


def digital_offset(document, said, provider):
    """Return what is to be added to the stored number, as the facts about each catalog have it."""
    implied = -1000 if float(baseline_of(document) or 0) >= 4 else 0
    if provider == "earth-search-v0":
        return 0
    if provider == "earth-search" and document["collection"] == "sentinel-2-l2a":
        return 0
    if "offset" in said:
        return said["offset"] * 10000
    return implied


@real
def test_one_acquisition_in_the_stac_documents_of_two_catalogs_is_one_place():
    """The same product at Earth Search and elsewhere has the same names, so that twins are seen."""
    seen = {}
    for kind in KINDS:
        if kind[1] != "S2L2A" or kind[0] == "safe":
            continue
        for _, document in wanted(kind):
            scene = parse(document, *kind).scene
            uri = next((name for name in product_names(document) if "_MSIL2A_" in name), None)
            key = uri and re.match(r"(S2.)_MSIL2A_(\d{8}T\d{6}).*_(T\w{5})", uri)
            if key:
                seen.setdefault(key.groups(), set()).add((scene.platform, scene.tile))
    assert seen
    assert all(len(names) == 1 for names in seen.values())


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
    *((kind, document) for kind in KINDS if kind[0] != "safe" for _, document in wanted(kind)[:2]),
]

READ = re.compile(
    r"^(id|type|collection|properties|assets|geometry|coordinates|bbox|href|alternate|bands|\d+"
    r"|(start_|end_)?datetime|platform|nodata|unit|scale|offset|(proj|raster|sat|s1|s2|eo|grid|mgrs"
    r"|sentinel|processing|eopf|file):.*)$"
)
"""Keys that are read; half of all changes are aimed at them."""


def nested(depth):
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
    st.sampled_from([1, 7, 60, 5000, 100_000]).map(nested),
)


def places(value, found=None):
    """Return (holder, key) of every value inside a document."""
    found = [] if found is None else found
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        found.append((value, key))
        if isinstance(inner, dict | list):
            places(inner, found)
    return found


@st.composite
def mutated(draw):
    kind, original = draw(st.sampled_from(FUZZED))
    document = copy.deepcopy(original)
    everywhere = places(document)
    aimed = [place for place in everywhere if READ.match(str(place[1]))]
    for _ in range(draw(st.integers(1, 3))):
        choice = aimed if draw(st.booleans()) else everywhere
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
@given(mutated())
def test_changed_stac_documents_are_scenes_or_wrong(changed):
    (provider, modality), document = changed
    scene = scene_or_reason(document, provider, modality)
    if isinstance(scene, str):
        assert 0 < len(scene.strip().encode()) < 2000
        return
    written = json.dumps(scene.to_dict(), allow_nan=False)
    assert Scene.from_dict(json.loads(written)) == scene
    assert snapshot.compute_digest([scene])
    assert scene.datetime is None or scene.solar_day
    known = providers.get(provider)
    for asset in scene.assets.values():
        host = re.match(r"(?:https|s3)://([^/]+)/", asset.href)
        assert (
            host[1] in {*known.hosts, *known.buckets}
            if host
            else asset.href.startswith("/catalog/")
        )


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [[]], {"type": "Feature"}, math.nan])
def test_what_is_no_stac_document_at_all(value):
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
        (("geometry", "coordinates"), nested(1001), "in place of coordinates"),
        (("properties", "proj:epsg"), nested(100_000), "RecursionError"),
        (("properties", "datetime"), nested(100_000), "is no time"),
        (("assets", "B02", "type"), nested(100_000), "RecursionError"),
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
def test_malformed_stac_documents_are_told_in_one_clause(path, value, reason):
    document = copy.deepcopy(A_DOCUMENT)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(InvalidInputError, match=reason) as raised:
        parse(document, "planetary-computer", "S2L2A")
    assert len(str(raised.value)) < 500
    assert str(raised.value).isprintable()
