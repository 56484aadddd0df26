"""Search in static catalogs, and the messages where nothing is found."""

import contextlib
import json
import threading
from http.server import ThreadingHTTPServer
from itertools import pairwise

import pytest
import shapely

from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.search import search
from flows.config import cadence
from flows.config import period as periods
from tests.servers.scripted_stac_api import Answer, Server
from tests.support.stac_documents import (
    HERE,
    JUNE,
    an_item,
    day,
    dump,
    find,
    ids,
    publish,
)

ELSEWHERE = shapely.box(-60, -30, -59, -29)


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
    all_modalities = find(catalog, ["DEM", "S2L2A", "S1RTC"])
    assert ids(all_modalities) == ["d", "b", "c", "s1", "a"]
    assert all_modalities.refused == ()
    optical_scene = all_modalities.scenes[1]
    assert optical_scene.assets["B02"].href == str(tmp_path / "sentinel-2-l2a" / "b.tif")
    assert optical_scene.assets["B02"].radiometry.offset == -0.1
    assert optical_scene.provider == "demo"


def test_a_folder_or_a_collection_can_be_searched(tmp_path):
    publish(tmp_path, [an_item("a")])
    assert ids(find(tmp_path)) == ["a"]
    assert ids(find(tmp_path / "sentinel-2-l2a" / "collection.json")) == ["a"]


def test_a_feature_collection_can_be_searched(tmp_path):
    features = {"type": "FeatureCollection", "features": [an_item("a"), an_item("b")]}
    path = dump(tmp_path / "items.json", features)
    assert ids(find(path)) == ["a", "b"]


def test_sub_catalogs_of_other_providers_are_skipped(tmp_path):
    for name in ("planetary-computer", "earth-search", "landsat"):
        publish(tmp_path / name, [an_item(f"of-{name}")])
    links = [
        {"rel": "child", "href": "./planetary-computer/catalog.json"},
        {"rel": "child", "href": "./earth-search/catalog.json", "title": "earth-search"},
        {"rel": "child", "href": "./landsat/catalog.json"},
    ]
    root = dump(tmp_path / "catalog.json", {"type": "Catalog", "id": "root", "links": links})
    result = find(root, provider="planetary-computer")
    assert ids(result) == ["of-landsat", "of-planetary-computer"]


@pytest.mark.parametrize(
    ("stamp", "inside"),
    [
        ("2024-05-31T23:59:59.999Z", False),
        ("2024-06-01T00:00:00Z", True),
        ("2024-06-30T23:59:59.999999Z", True),
        ("2024-06-30T23:59:60Z", False),
        ("2024-07-01T00:00:00Z", False),
        ("2024-07-01T01:00:00+02:00", True),
    ],
)
def test_the_period_includes_its_last_day(tmp_path, stamp, inside):
    catalog = publish(tmp_path, [an_item("anchor"), an_item("x", stamp)])
    assert ("x" in ids(find(catalog))) is inside


def test_an_end_with_a_time_is_exact_to_the_second(tmp_path):
    items = [
        an_item("a"),
        an_item("b", "2024-06-30T12:00:00.5Z"),
        an_item("c", "2024-06-30T12:00:01Z"),
    ]
    catalog = publish(tmp_path, items)
    period = (JUNE[0], day("2024-06-30T12:00:00"))
    assert ids(find(catalog, period=period)) == ["a", "b"]
    period = (JUNE[0], day("2024-06-30T12:00:00.250"))
    assert ids(find(catalog, period=period)) == ["a"]
    assert ids(find(catalog, period=None)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "stamp",
    [
        *("2023-12-31T23:59:59.999Z", "2024-01-01T00:00:00Z", "2024-01-31T23:59:59.5Z"),
        *("2024-02-01t00:00:00z", "2024-02-29T23:59:59.999999999Z", "2024-03-01T00:00:00,0Z"),
        *("2024-02-29T23:59:60Z", "2024-02-29T18:59:59.7-05:00", "2024-03-01T08:59:59+09:00"),
    ],
)
def test_a_scene_at_the_edge_of_a_month_is_in_one_month(tmp_path, stamp):
    catalog = publish(tmp_path, [an_item("x", stamp)])
    months = cadence.split_period(periods.parse("2023-12/2024-04"), "P1M", max_parts=9)
    found = 0
    for month in months:
        with contextlib.suppress(NothingFoundError):
            found += len(find(catalog, period=month.interval).scenes)
    assert found == 1


def test_a_scene_across_midnight_is_in_the_period_in_which_it_begins(tmp_path):
    document = an_item("x")
    document["properties"] |= {
        "datetime": None,
        "start_datetime": "2024-06-30T23:59:50Z",
        "end_datetime": "2024-07-01T00:00:10Z",
    }
    catalog = publish(tmp_path, [document])
    assert ids(find(catalog)) == ["x"]
    july = (day("2024-07-01"), day("2024-07-31"))
    with pytest.raises(NothingFoundError):
        find(catalog, period=july)


def test_an_item_is_selected_by_its_footprint_or_by_a_bbox_that_contradicts_it(tmp_path):
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
    found = find(catalog)
    assert ids(found) == ["boxed", "cut", "in"]
    assert [scene.id for scene in found.scenes if scene.other_footprint is not None] == ["cut"]
    (caveat,) = [caveat for caveat in found.caveats if "contradict" in caveat.text]
    assert (caveat.id, caveat.text.split(" contradict")[0]) == ("cut", "its geometry and bbox")


def test_a_time_that_its_name_contradicts_is_refused_out_of_the_period_too(tmp_path):
    name = "S2A_MSIL2A_20240610T100031_N0510_R122_T32VNH_20240610T120000"
    wrong_year = an_item(name, "2023-06-10T10:00:31Z")
    catalog = publish(tmp_path, [an_item("anchor"), wrong_year])
    found = find(catalog)
    assert ids(found) == ["anchor"]
    (rejected,) = found.refused
    assert rejected.id == name
    assert rejected.reason.startswith("its datetime is 2023-06-10T10:00:31Z, but its product is of")


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
    result = find(catalog)
    assert ids(result) == ["good"]
    reasons = {refusal.id: refusal.reason for refusal in result.refused}
    assert reasons.keys() == {
        *("time", "shapeless", "bandless", "listed", "outside", "remote", "virtual", "nowhere"),
        "scaleless",
    }
    assert "neither datetime" in reasons["time"]
    assert "neither a geometry nor a bbox" in reasons["shapeless"]
    assert "no usable S2L2A asset" in reasons["bandless"]
    assert "no assets" in reasons["listed"]
    assert "allow list" in reasons["outside"]
    assert "evil.example" in reasons["remote"]
    assert "virtual file system" in reasons["virtual"]
    assert "no coordinate system" in reasons["nowhere"]
    assert "scale of B02 is 0" in reasons["scaleless"]


def test_hrefs_two_folders_up_need_the_allow_list(tmp_path):
    folder = tmp_path / "catalog"
    catalog = publish(folder, [an_item("a", assets={"B02": {"href": "../../data/a.tif"}})])
    with pytest.raises(NothingFoundError, match=f"add {tmp_path} to the job's allow list"):
        find(catalog)
    result = find(catalog, allow=(str(tmp_path / "data"),))
    assert result.scenes[0].assets["B02"].href == str(tmp_path / "data" / "a.tif")


def test_an_item_link_out_of_the_catalog_is_refused(tmp_path):
    folder = tmp_path / "catalog"
    catalog = publish(folder, [an_item("a")])
    dump(tmp_path / "secret.json", an_item("secret"))
    collection = folder / "sentinel-2-l2a" / "collection.json"
    document = json.loads(collection.read_text())
    document["links"].append({"rel": "item", "href": "../../secret.json"})
    dump(collection, document)
    result = find(catalog)
    assert ids(result) == ["a"]
    assert [refusal.id for refusal in result.refused] == ["../../secret.json"]


def test_caveats_are_returned(tmp_path):
    document = an_item("a", properties={"datetime": "2024-06-10T10:00:00Z", "proj:epsg": 32632})
    result = find(publish(tmp_path, [document]))
    assert [(caveat.id, "taken as 0" in caveat.text) for caveat in result.caveats] == [("a", True)]


def test_a_circular_catalog_is_refused(tmp_path):
    publish(tmp_path, [], children=[{"rel": "child", "href": "./in/catalog.json"}])
    publish(tmp_path / "in", [], children=[{"rel": "child", "href": "../catalog.json"}])
    with pytest.raises(InvalidInputError, match=r"in a circle.*in/catalog.json.*own ancestor"):
        find(tmp_path)


def test_a_catalog_of_too_many_levels_is_refused():
    paths = [f"/catalog{'x' * number}.json" for number in range(60)]
    script = {
        path: Answer(body={"type": "Catalog", "links": [{"rel": "child", "href": child}]})
        for path, child in pairwise(paths)
    }
    with (
        Server(lambda _: script) as server,
        pytest.raises(InvalidInputError, match="more than 50 levels"),
    ):
        find(f"{server.url}/catalog.json")


def test_items_are_fetched_on_no_more_connections_than_the_provider_allows():
    names = [f"s{number}" for number in range(24)]
    links = [{"rel": "item", "href": f"./{name}.json"} for name in names]
    script = {f"/{name}.json": Answer(body=an_item(name), pause=0.02) for name in names}
    script["/catalog.json"] = Answer(body={"type": "Catalog", "links": links})
    for provider, connections in (("cdse", 4), ("demo", 32)):
        with Server(lambda _: script) as server:
            with contextlib.suppress(NothingFoundError):
                find(f"{server.url}/catalog.json", provider=provider)
            assert len(server.requests) == 1 + 1 + len(names)
            # ^ the root twice: to see whether it is an API
            assert 2 <= server.max_concurrent <= connections


def test_a_catalog_in_a_bucket_is_refused():
    with pytest.raises(InvalidInputError, match="give its https URL"):
        find("s3://bucket/catalog.json")


@pytest.mark.parametrize("features", [7, {"a": 1}, "x"])
def test_features_that_are_not_a_list_are_refused(tmp_path, features):
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": features})
    with pytest.raises(InvalidInputError, match="no list of features"):
        find(path)


def test_a_feature_that_is_not_an_item_is_refused(tmp_path):
    path = dump(tmp_path / "x.json", {"type": "FeatureCollection", "features": [7, an_item("a")]})
    result = find(path)
    assert ids(result) == ["a"]
    assert [refusal.reason for refusal in result.refused] == ["7 is no item"]


def test_two_links_to_the_same_child_are_not_a_circle(tmp_path):
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
    with pytest.raises(InvalidInputError, match=r"sentinel-2-l2a/collection.json"):
        find(catalog)


@pytest.mark.parametrize("broken", [None, '{"type": "Fea', "[]", "{}"])
def test_a_broken_item_is_refused_and_the_others_are_used(tmp_path, broken):
    catalog = publish(tmp_path, [an_item("a"), an_item("b")])
    file = tmp_path / "sentinel-2-l2a" / "a.json"
    file.unlink() if broken is None else file.write_text(broken)
    result = find(catalog)
    assert [scene.id for scene in result.scenes] == ["b"]
    assert any("a.json" in f"{rejection.id} {rejection.reason}" for rejection in result.refused)
    (tmp_path / "sentinel-2-l2a" / "b.json").unlink()
    with pytest.raises(NothingFoundError, match=r"b.json"):
        find(catalog)


def test_a_link_without_an_address_is_named(tmp_path):
    catalog = publish(tmp_path, [], children=[{"rel": "child"}])
    with pytest.raises(InvalidInputError, match="link without rel or href"):
        find(catalog)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"provider": "landsat"}, "Unknown catalog 'landsat'"),
        ({"location": "nowhere/catalog.json"}, "no catalog file"),
        ({"modalities": ["S2L2A", "S3"]}, "demo has no S3: it has S2L2A, S1RTC"),
        ({"modalities": []}, "has no inputs"),
        ({"period": (JUNE[1], JUNE[0])}, "reversed: 2024-06-30 is after 2024-06-01"),
        ({"period": tuple(moment.replace(tzinfo=None) for moment in JUNE)}, "no time zone"),
        ({"region": shapely.Polygon()}, "no area"),
        ({"region": shapely.Point(9, 56)}, "no area"),
        ({"region": shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])}, "Self-intersection"),
        ({"region": shapely.box(500000, 6200000, 510000, 6210000)}, "write it in degrees"),
    ],
)
def test_an_invalid_request_is_refused(tmp_path, changed, reason):
    catalog = publish(tmp_path, [an_item("a")])
    with pytest.raises(InvalidInputError, match=reason) as raised:
        find(**{"location": catalog} | changed)
    assert type(raised.value) is InvalidInputError


def test_the_demo_needs_a_location():
    with pytest.raises(InvalidInputError, match="give the path or URL of a catalog"):
        search.find_scenes(search.CatalogSource(provider="demo"), ["S2L2A"], HERE, JUNE)


@pytest.mark.parametrize(
    ("changed", "phrases"),
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
def test_the_error_of_an_empty_result_describes_the_catalog(tmp_path, changed, phrases):
    catalog = publish(tmp_path, [an_item("a"), an_item("b", "2024-06-12T10:00:00Z")])
    with pytest.raises(NothingFoundError) as raised:
        find(catalog, **changed)
    for phrase in [*phrases, str(catalog)]:
        assert phrase in str(raised.value)


def test_the_error_without_usable_items_states_the_reasons(tmp_path):
    catalog = publish(tmp_path, [an_item("a", assets={"x": {"href": "./x.tif"}})])
    with pytest.raises(NothingFoundError, match=r"1 items cannot be used \(a: no usable S2L2A"):
        find(catalog)


def test_the_dem_ignores_the_period(tmp_path):
    catalog = publish(tmp_path, [an_item("d", "2011-01-01T00:00:00Z", collection="cop-dem-glo-30")])
    assert ids(find(catalog, ["DEM"])) == ["d"]


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
        result = find(f"{root}/catalog.json")
        assert len(result.scenes) == 20
        assert result.scenes[0].assets["B02"].href == f"{root}/sentinel-2-l2a/s0.tif"
        with pytest.raises(InvalidInputError, match="answers 404"):
            find(f"{root}/nothing.json")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
