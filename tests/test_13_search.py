"""Search: static catalogs, recorded and live STAC APIs, and what is said when nothing is there."""

import datetime as dt
import itertools
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import shapely

from catalogs import api, search, static
from catalogs.errors import NothingFound, Transient, Wrong

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")
real = pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")

HERE = shapely.box(9.2, 56.2, 9.8, 56.8)
ELSEWHERE = shapely.box(-60, -30, -59, -29)
WORLD = shapely.box(-180, -90, 180, 90)


def day(text):
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


JUNE = (day("2024-06-01"), day("2024-06-30"))


def square(west=9.0, south=56.0, size=1.0):
    east, north = west + size, south + size
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def an_item(name, stamp="2024-06-10T10:00:00Z", *, collection="sentinel-2-l2a", **changed):
    band = {"sentinel-2-l2a": "B02", "sentinel-1-rtc": "vv", "cop-dem-glo-30": "data"}[collection]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": square(),
        "bbox": [9, 56, 10, 57],
        "properties": {"datetime": stamp, "proj:epsg": 32632, "s2:processing_baseline": "05.10"},
        "links": [],
        "assets": {band: {"href": f"./{name}.tif"}},
    } | changed


def dump(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def publish(folder, items, children=()):
    """Write a catalog with one folder per collection and one file per item."""
    by_collection = {}
    for document in items:
        by_collection.setdefault(document["collection"], []).append(document)
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in by_collection]
    links += [{"rel": "root", "href": "./catalog.json"}, *children]
    for name, members in by_collection.items():
        item_links = [{"rel": "item", "href": f"./{one['id']}.json"} for one in members]
        item_links += [{"rel": "parent", "href": "../catalog.json"}]
        dump(
            folder / name / "collection.json",
            {"type": "Collection", "id": name, "extent": {}, "links": item_links},
        )
        for one in members:
            dump(folder / name / f"{one['id']}.json", one)
    return dump(folder / "catalog.json", {"type": "Catalog", "id": "x", "links": links})


def find(location, modalities=("S2L2A",), region=HERE, period=JUNE, provider="demo", allow=()):
    source = search.Source(provider=provider, location=str(location), allow=allow)
    return search.find(source, modalities, region, period)


def ids(found):
    return [scene.id for scene in found.scenes]


def test_a_catalog_is_walked_and_sorted(tmp_path):
    catalog = publish(
        tmp_path,
        [
            an_item("c", "2024-06-10T10:00:00Z"),
            an_item("a", "2024-06-20T10:00:00Z"),
            an_item("b", "2024-06-10T10:00:00Z"),
            an_item("s1", collection="sentinel-1-rtc"),
            an_item("d", collection="cop-dem-glo-30", stamp="2021-04-22T00:00:00Z"),
        ],
    )
    assert ids(find(catalog)) == ["b", "c", "a"]
    everything = find(catalog, ["DEM", "S2L2A", "S1RTC"])
    assert ids(everything) == ["d", "b", "c", "s1", "a"]
    assert everything.refused == ()
    first = everything.scenes[1]
    assert first.assets["B02"].href == str(tmp_path / "sentinel-2-l2a" / "b.tif")
    assert first.assets["B02"].radiometry.offset == -0.1
    assert first.provider == "demo"


def test_a_folder_stands_for_its_catalog_and_a_collection_is_a_catalog_too(tmp_path):
    publish(tmp_path, [an_item("a")])
    assert ids(find(tmp_path)) == ["a"]
    assert ids(find(tmp_path / "sentinel-2-l2a" / "collection.json")) == ["a"]


def test_a_list_of_features_is_a_catalog_too(tmp_path):
    features = {"type": "FeatureCollection", "features": [an_item("a"), an_item("b")]}
    path = dump(tmp_path / "items.json", features)
    assert ids(find(path)) == ["a", "b"]


def test_sub_catalogs_of_other_providers_are_passed_by(tmp_path):
    for name in ("planetary-computer", "earth-search", "landsat"):
        publish(tmp_path / name, [an_item(f"of-{name}")])
    links = [
        {"rel": "child", "href": "./planetary-computer/catalog.json"},
        {"rel": "child", "href": "./earth-search/catalog.json", "title": "earth-search"},
        {"rel": "child", "href": "./landsat/catalog.json"},
    ]
    root = dump(tmp_path / "catalog.json", {"type": "Catalog", "id": "root", "links": links})
    found = find(root, provider="planetary-computer")
    assert ids(found) == ["of-landsat", "of-planetary-computer"]


@pytest.mark.parametrize(
    ("stamp", "inside"),
    [
        ("2024-05-31T23:59:59.999Z", False),
        ("2024-06-01T00:00:00Z", True),
        ("2024-06-30T23:59:59.999999Z", True),
        ("2024-07-01T00:00:00Z", False),
        ("2024-07-01T01:00:00+02:00", True),
    ],
)
def test_the_period_includes_its_last_day(tmp_path, stamp, inside):
    catalog = publish(tmp_path, [an_item("anchor"), an_item("x", stamp)])
    assert ("x" in ids(find(catalog))) is inside


def test_an_end_with_a_time_is_taken_to_the_second(tmp_path):
    catalog = publish(tmp_path, [an_item("a"), an_item("b", "2024-06-30T12:00:01Z")])
    period = (JUNE[0], day("2024-06-30T12:00:00"))
    assert ids(find(catalog, period=period)) == ["a"]
    assert ids(find(catalog, period=None)) == ["a", "b"]


def test_the_footprint_decides_and_the_bbox_where_there_is_none(tmp_path):
    corner = {
        "type": "Polygon",
        "coordinates": [[[9, 56], [9.3, 56], [9, 56.3], [9, 56]]],
    }
    catalog = publish(
        tmp_path,
        [
            an_item("in"),
            an_item("cut", geometry=corner),
            an_item("boxed", geometry=None),
            an_item("off", geometry=None, bbox=[0, 0, 1, 1]),
        ],
    )
    assert ids(find(catalog)) == ["boxed", "in"]


def test_one_bad_item_does_not_stop_the_search(tmp_path):
    time_missing = an_item("time")
    del time_missing["properties"]["datetime"]
    catalog = publish(
        tmp_path,
        [
            an_item("good"),
            time_missing,
            an_item("shapeless", geometry=None, bbox=None),
            an_item("bandless", assets={"thumbnail": {"href": "./t.png"}}),
            an_item("listed", assets=[]),
            an_item("outside", assets={"B02": {"href": "/etc/hosts.tif"}}),
            an_item("remote", assets={"B02": {"href": "https://evil.example/x.tif"}}),
            an_item("virtual", assets={"B02": {"href": "/vsicurl/https://evil.example/x.tif"}}),
            an_item("nowhere", properties={"datetime": "2024-06-10T10:00:00Z"}),
            an_item("scaleless", assets={"B02": {"href": "./x.tif", "raster:scale": 0}}),
        ],
    )
    found = find(catalog)
    assert ids(found) == ["good"]
    reasons = {refusal.id: refusal.reason for refusal in found.refused}
    assert reasons.keys() == {
        *("time", "shapeless", "bandless", "listed", "outside", "remote", "virtual", "nowhere"),
        "scaleless",
    }
    assert "neither datetime" in reasons["time"]
    assert "neither a geometry nor a bbox" in reasons["shapeless"]
    assert "no usable S2L2A asset" in reasons["bandless"]
    assert "malformed" in reasons["listed"]
    assert "allow list" in reasons["outside"]
    assert "evil.example" in reasons["remote"]
    assert "virtual file system" in reasons["virtual"]
    assert "no coordinate system" in reasons["nowhere"]
    assert "scale not zero" in reasons["scaleless"]


def test_hrefs_two_folders_up_need_the_allow_list(tmp_path):
    folder = tmp_path / "catalog"
    catalog = publish(folder, [an_item("a", assets={"B02": {"href": "../../data/a.tif"}})])
    with pytest.raises(NothingFound, match=f"add {tmp_path} to the job's allow list"):
        find(catalog)
    found = find(catalog, allow=(str(tmp_path / "data"),))
    assert found.scenes[0].assets["B02"].href == str(tmp_path / "data" / "a.tif")


def test_an_item_link_out_of_the_catalog_is_refused(tmp_path):
    folder = tmp_path / "catalog"
    catalog = publish(folder, [an_item("a")])
    dump(tmp_path / "secret.json", an_item("secret"))
    collection = folder / "sentinel-2-l2a" / "collection.json"
    document = json.loads(collection.read_text())
    document["links"].append({"rel": "item", "href": "../../secret.json"})
    dump(collection, document)
    found = find(catalog)
    assert ids(found) == ["a"]
    assert [refusal.id for refusal in found.refused] == ["../../secret.json"]


def test_doubts_are_handed_on(tmp_path):
    unsure = an_item("a", properties={"datetime": "2024-06-10T10:00:00Z", "proj:epsg": 32632})
    found = find(publish(tmp_path, [unsure]))
    assert [(doubt.id, "taken as 0" in doubt.text) for doubt in found.doubts] == [("a", True)]


def test_a_catalog_in_a_circle(tmp_path):
    publish(tmp_path, [], children=[{"rel": "child", "href": "./in/catalog.json"}])
    publish(tmp_path / "in", [], children=[{"rel": "child", "href": "../catalog.json"}])
    with pytest.raises(Wrong, match=r"goes in a circle.*in/catalog.json.*own ancestor"):
        find(tmp_path)


def test_two_ways_to_one_child_are_no_circle(tmp_path):
    publish(
        tmp_path,
        [an_item("a")],
        children=[{"rel": "child", "href": "./sentinel-2-l2a/../sentinel-2-l2a/collection.json"}],
    )
    assert ids(find(tmp_path)) == ["a"]


@pytest.mark.parametrize("broken", [None, "{", "[]", '{"type": "Picture"}'])
def test_a_broken_document_is_named(tmp_path, broken):
    catalog = publish(tmp_path, [an_item("a")])
    collection = tmp_path / "sentinel-2-l2a" / "collection.json"
    if broken is None:
        collection.unlink()
    else:
        collection.write_text(broken)
    with pytest.raises(Wrong, match=r"sentinel-2-l2a/collection.json"):
        find(catalog)


def test_a_missing_item_file_is_named(tmp_path):
    catalog = publish(tmp_path, [an_item("a")])
    (tmp_path / "sentinel-2-l2a" / "a.json").unlink()
    with pytest.raises(Wrong, match=r"collection.json links to a broken document.*a.json"):
        find(catalog)


def test_a_link_without_an_address_is_named(tmp_path):
    catalog = publish(tmp_path, [], children=[{"rel": "child"}])
    with pytest.raises(Wrong, match="link without rel or href"):
        find(catalog)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"provider": "landsat"}, "Unknown catalog 'landsat'"),
        ({"location": "nowhere/catalog.json"}, "no catalog file"),
        ({"modalities": ["S2L2A", "S3"]}, "demo has no S3: it has S2L2A, S1RTC"),
        ({"modalities": []}, "No input"),
        ({"period": (JUNE[1], JUNE[0])}, "reversed: 2024-06-30 is after 2024-06-01"),
        ({"period": tuple(moment.replace(tzinfo=None) for moment in JUNE)}, "no time zone"),
        ({"region": shapely.Polygon()}, "no area"),
        ({"region": shapely.Point(9, 56)}, "no area"),
        ({"region": shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])}, "Self-intersection"),
        ({"region": shapely.box(500000, 6200000, 510000, 6210000)}, "write it in degrees"),
    ],
)
def test_what_cannot_be_asked(tmp_path, changed, reason):
    catalog = publish(tmp_path, [an_item("a")])
    with pytest.raises(Wrong, match=reason) as raised:
        find(**{"location": catalog} | changed)
    assert raised.value.exit_code == 2


def test_the_demo_needs_a_place():
    with pytest.raises(Wrong, match="give the path of its catalog"):
        search.find(search.Source(provider="demo"), ["S2L2A"], HERE, JUNE)


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        (
            {"region": ELSEWHERE},
            ["No S2L2A scene from 2024-06-01 to 2024-06-30", "2 items", "2024-06-10 to 2024-06-12",
             "[9, 56, 10, 57]", "None of them touches the region"],
        ),
        (
            {"period": (day("2020-01-01"), day("2020-02-01"))},
            ["2 of them touch the region, dated 2024-06-10 to 2024-06-12", "change the period"],
        ),
        (
            {"modalities": ["S2L2A", "S1RTC"]},
            ["No S1RTC scene", "sentinel-1-rtc", "leave S1RTC out", "are: sentinel-2-l2a"],
        ),
    ],
)  # fmt: skip
def test_nothing_found_says_what_there_is(tmp_path, changed, parts):
    catalog = publish(tmp_path, [an_item("a"), an_item("b", "2024-06-12T10:00:00Z")])
    with pytest.raises(NothingFound) as raised:
        find(catalog, **changed)
    assert raised.value.exit_code == 3
    for part in [*parts, str(catalog)]:
        assert part in str(raised.value)


def test_nothing_usable_says_why(tmp_path):
    catalog = publish(tmp_path, [an_item("a", assets={"x": {"href": "./x.tif"}})])
    with pytest.raises(NothingFound, match=r"1 of them cannot be used \(a: no usable S2L2A"):
        find(catalog)


def test_the_dem_ignores_the_period(tmp_path):
    catalog = publish(tmp_path, [an_item("d", "2011-01-01T00:00:00Z", collection="cop-dem-glo-30")])
    assert ids(find(catalog, ["DEM"])) == ["d"]


# -- recorded answers ---------------------------------------------------------------------------


def recorded(name):
    return json.loads((Path(REALDATA or "") / "stac" / name).read_text())


@real
def test_recorded_pages_hold_every_scene_twice():
    region = shapely.box(9, 47, 10, 48)
    period = (day("2020-03-01"), day("2020-03-05"))
    names = []
    for page in (1, 2):
        answer = (
            Path(REALDATA)
            / f"stac/earth-search-v1/_api/search_s2_duplicates_page{page}.response.json"
        )
        found = find(answer, region=region, period=period, provider="earth-search")
        assert found.refused == ()
        for scene in found.scenes:
            assert {asset.radiometry.offset for asset in scene.assets.values()} == {0.0}
        names += ids(found)
    assert len(names) == len(set(names)) == 16
    assert {"S2A_32TMT_20200305_0_L2A", "S2A_32TMT_20200305_1_L2A"} <= set(names)


@real
def test_a_next_link_on_the_last_page_ends():
    names = [
        f"earth-search-v1/_api/search_s2_duplicates_page{page}.response.json" for page in (1, 2)
    ]
    asked = []

    def session():
        for name in itertools.chain(names, itertools.repeat(names[-1])):
            asked.append(name)
            assert len(asked) < 10
            yield recorded(name)

    assert any(link["rel"] == "next" for link in recorded(names[-1])["links"])
    found = list(api.until_nothing_new(session()))
    assert len(found) == 16
    assert len(asked) == 2


@real
def test_a_recorded_answer_of_cdse():
    answer = Path(REALDATA) / "stac/cdse/_api/search_s2_4items.response.json"
    found = find(answer, region=WORLD, period=None, provider="cdse")
    assert len(found.scenes) == 4
    for scene in found.scenes:
        assert scene.baseline == "05.00"
        assert scene.assets["B02"].href.startswith("s3://eodata/")
        assert scene.assets["B02"].href.endswith("_B02_10m.jp2")
        assert scene.assets["B02"].radiometry.offset == -0.1
        assert scene.assets["B02"].epsg == 32632


@real
@pytest.mark.parametrize(
    ("path", "provider", "modalities", "count"),
    [
        ("planetary-computer/catalog.json", "planetary-computer", ("S2L2A", "S1RTC", "DEM"), 30),
        ("earth-search/catalog.json", "earth-search", ("S2L2A",), 6),
        ("cdse/catalog.json", "cdse", ("S2L2A",), 2),
        ("catalog.json", "planetary-computer", ("S2L2A", "S1RTC", "DEM"), 30),
        ("catalog.json", "earth-search", ("S2L2A",), 6),
    ],
)
def test_real_static_catalogs(path, provider, modalities, count):
    found = find(
        Path(REALDATA) / "catalog" / path,
        modalities,
        region=WORLD,
        period=None,
        provider=provider,
        allow=(REALDATA,),
    )
    assert len(found.scenes) == count
    assert found.refused == ()


@real
def test_each_real_place_has_all_three_inputs():
    for name in ("433D_629L_3_1", "637U_59R_1_3", "282D_485L_3_3"):
        item = recorded(f"../catalog/planetary-computer/sentinel-2-l2a/S2_TM_{name}.json")
        moment = day(item["properties"]["datetime"][:10])
        span = (moment - dt.timedelta(days=5), moment + dt.timedelta(days=5))
        found = find(
            Path(REALDATA) / "catalog/planetary-computer",
            ("S2L2A", "S1RTC", "DEM"),
            region=shapely.box(*item["bbox"]),
            period=span,
            provider="planetary-computer",
            allow=(REALDATA,),
        )
        assert sorted(scene.modality for scene in found.scenes) == ["DEM", "S1RTC", "S2L2A"]


# -- a live API on this machine -----------------------------------------------------------------


class Api:
    """A small STAC API whose every answer can be spoiled."""

    def __init__(self, items, *, page=2, endless=False, matched=True, failures=(), next_host=None):
        self.items, self.page, self.endless, self.matched = items, page, endless, matched
        self.failures, self.next_host = list(failures), next_host
        self.asked = []
        api_self = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                api_self.asked.append(("GET", self.path, None))
                documents = {
                    "/": api_self.landing(),
                    "/collections/sentinel-2-l2a": {
                        "extent": {
                            "spatial": {"bbox": [[9, 56, 10, 57]]},
                            "temporal": {"interval": [["2015-06-27T00:00:00Z", None]]},
                        }
                    },
                }
                if self.path in documents:
                    self.answer(200, documents[self.path])
                else:
                    self.answer(404, {"description": "not here"})

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                api_self.asked.append(("POST", self.path, body))
                if api_self.failures:
                    status = api_self.failures.pop(0)
                    if isinstance(status, str):
                        self.answer(307, {}, location=status)
                    else:
                        self.answer(status, {"description": "storm"})
                else:
                    self.answer(200, api_self.search(body))

            def answer(self, status, document, location=None):
                payload = json.dumps(document).encode()
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def landing(self):
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "api",
            "description": "api",
            "conformsTo": [
                "https://api.stacspec.org/v1.0.0/core",
                "https://api.stacspec.org/v1.0.0/item-search",
            ],
            "links": [
                {"rel": "self", "href": f"{self.url}/"},
                {"rel": "root", "href": f"{self.url}/"},
                {
                    "rel": "search",
                    "type": "application/geo+json",
                    "href": f"{self.url}/search",
                    "method": "POST",
                },
            ],
        }

    def search(self, body):
        start = body.get("token", 0)
        found = [one for one in self.items if one["collection"] in body["collections"]]
        features = found[start : start + self.page]
        more = start + self.page < len(found)
        if self.endless and not more:
            features = found[-self.page :]
        answer = {"type": "FeatureCollection", "features": features, "links": []}
        if self.matched:
            answer["numberMatched"] = len(found)
        if more or self.endless:
            answer["links"] = [
                {
                    "rel": "next",
                    "href": f"{self.next_host or self.url}/search",
                    "method": "POST",
                    "body": body | {"token": start + self.page},
                }
            ]
        return answer

    def posts(self):
        return [body for method, _, body in self.asked if method == "POST"]

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *problem):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """Wait a hundredth of the time between two attempts."""
    original = static.retries
    monkeypatch.setattr(static, "retries", lambda: original().new(backoff_factor=0.003))


FIVE = [an_item(f"s{number}", f"2024-06-1{number}T10:00:00Z") for number in range(5)]


def test_an_api_is_asked_page_by_page():
    with Api(FIVE) as server:
        found = find(server.url)
    assert ids(found) == ["s0", "s1", "s2", "s3", "s4"]
    assert len(server.posts()) == 3
    question = server.posts()[0]
    assert question["collections"] == ["sentinel-2-l2a"]
    assert question["datetime"] == "2024-06-01T00:00:00Z/2024-06-30T23:59:59.999999Z"
    assert shapely.geometry.shape(question["intersects"]).equals(HERE)
    href = found.scenes[0].assets["B02"].href
    assert href == f"{server.url}/collections/sentinel-2-l2a/items/s0.tif"


@pytest.mark.parametrize("matched", [True, False])
def test_paging_ends_though_next_never_does(matched):
    with Api(FIVE, endless=True, matched=matched) as server:
        found = find(server.url)
    assert ids(found) == ["s0", "s1", "s2", "s3", "s4"]
    assert len(server.posts()) <= 4


@pytest.mark.parametrize("status", [503, 429, 500])
def test_a_busy_server_is_asked_again(status):
    with Api(FIVE, failures=[status, status]) as server:
        found = find(server.url)
    assert len(found.scenes) == 5
    assert len(server.posts()) == 5


def test_a_storm_that_lasts_is_transient():
    with Api(FIVE, failures=[503] * 50) as server, pytest.raises(Transient, match="Try again"):
        find(server.url)
    assert len(server.posts()) == static.ATTEMPTS + 1


def test_every_request_has_a_timeout():
    with Api(FIVE) as server, api.connect(server.url) as client:
        assert client._stac_io.timeout == static.TIMEOUT
    assert all(seconds is not None and seconds <= 60 for seconds in static.TIMEOUT)


def test_a_refused_question_is_not_repeated():
    with Api(FIVE, failures=[400] * 9) as server, pytest.raises(Wrong, match=r"refuses.*400"):
        find(server.url)
    assert len(server.posts()) == 1


def test_an_answer_cannot_lead_to_another_host():
    elsewhere = "http://169.254.169.254"
    with (
        Api(FIVE, next_host=elsewhere) as server,
        pytest.raises(Wrong, match="another host") as by_link,
    ):
        find(server.url)
    with (
        Api(FIVE, failures=[f"{elsewhere}/search?token=1"]) as server,
        pytest.raises(Wrong, match="another host") as by_redirection,
    ):
        find(server.url)
    for raised in (by_link, by_redirection):
        assert f"{elsewhere}/search:" in str(raised.value)


def test_an_api_without_an_answer_tells_what_it_holds():
    with Api([]) as server, pytest.raises(NothingFound) as raised:
        find(server.url)
    assert "sentinel-2-l2a runs from 2015-06-27 to today in [9, 56, 10, 57]" in str(raised.value)
    assert server.url in str(raised.value)


def test_a_silent_machine_is_transient():
    with Api([]) as server:
        gone = server.url
    with pytest.raises(Transient, match="does not answer"):
        find(gone)


def test_a_static_catalog_on_a_web_server(tmp_path):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler

    publish(tmp_path, [an_item(f"s{number}") for number in range(20)])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        found = find(f"{root}/catalog.json")
        assert len(found.scenes) == 20
        assert found.scenes[0].assets["B02"].href == f"{root}/sentinel-2-l2a/s0.tif"
        with pytest.raises(Wrong, match="answers 404"):
            find(f"{root}/nothing.json")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_a_region_of_many_corners_is_sent_as_boxes():
    wiggly = shapely.Point(9.5, 56.5).buffer(0.3, quad_segs=400)
    with Api(FIVE) as server:
        found = find(server.url, region=wiggly)
    assert len(found.scenes) == 5
    sent = shapely.geometry.shape(server.posts()[0]["intersects"])
    assert shapely.get_num_coordinates(sent) <= api.LARGEST_OUTLINE
    assert sent.buffer(1e-9).covers(wiggly)
