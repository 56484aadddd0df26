"""STAC APIs that answer by script: paging, busy servers, and other faults of servers."""

import contextlib
import email.utils
import itertools
import json
import time

import pytest
import shapely

from catalogs.errors import InvalidInputError, NothingFoundError, TerramosaicError, TransientError
from catalogs.search import scene_selection
from catalogs.snapshot import Snapshot
from catalogs.sources import http_client, stac_api
from tests.servers.scripted_stac_api import (
    Answer,
    Server,
    landing,
    page,
    paged,
    serve,
)
from tests.support.stac_documents import (
    ALL_FIVE,
    FIVE,
    HERE,
    WORLD,
    an_item,
    day,
    find,
    ids,
)

ELSEWHERE = "http://169.254.169.254"


pytestmark = pytest.mark.usefixtures("quick_retries")


def answer_without_end(features_of, number_matched=None):
    """Return an answer that always has a next page, with ``features_of(n)`` as page n."""
    counter = itertools.count()

    def body(request):
        number = next(counter)
        link = {"rel": "next", "href": "/search", "method": "POST", "body": request.body}
        fields = {} if number_matched is None else {"numberMatched": number_matched}
        return {"features": features_of(number), "links": [link], **fields}

    return Answer(body=body)


# -- paging -------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("number_matched", [5, None])
def test_an_api_is_searched_page_by_page(merge, number_matched):
    with serve(Answer(body=paged(FIVE, merge=merge, number_matched=number_matched))) as server:
        result = find(server.url)
    assert ids(result) == ALL_FIVE
    assert result.caveats == ()
    requests = server.list_requests("/search")
    assert [request.method for request in requests] == ["POST"] * 3
    for request in requests:
        assert request.body["collections"] == ["sentinel-2-l2a"]
        assert request.body["datetime"] == "2024-06-01T00:00:00Z/2024-06-30T23:59:59.999999Z"
        assert request.body["limit"] == stac_api.PAGE_SIZE
        assert shapely.geometry.shape(request.body["intersects"]).equals(HERE)
    assert [request.body.get("token") for request in requests] == [None, 2, 4]
    href = result.scenes[0].assets["B02"].href
    assert href == f"{server.url}/collections/sentinel-2-l2a/items/s0.tif"
    assert server.max_concurrent == 1


def test_an_api_that_supports_only_get_is_searched():
    with serve(Answer(body=paged(FIVE)), methods=("GET",)) as server:
        assert ids(find(server.url)) == ALL_FIVE
    requests = server.list_requests("/search")
    assert [request.method for request in requests] == ["GET"] * 3
    assert requests[0].query["collections"] == "sentinel-2-l2a"
    assert shapely.geometry.shape(json.loads(requests[0].query["intersects"])).equals(HERE)


@pytest.mark.parametrize("matched", [5, None])
def test_paging_ends_at_a_page_without_new_items(matched):
    pages = [FIVE[:2], FIVE[2:4], FIVE[4:]]
    with serve(answer_without_end(lambda n: pages[min(n, 2)], matched)) as server:
        result = find(server.url)
    assert ids(result) == ALL_FIVE
    assert len(server.list_requests("/search")) == (3 if matched else 4)


def test_a_repeated_page_ends_the_search_with_a_caveat():
    pages = [FIVE[:2], FIVE[:2], FIVE[2:]]
    with serve(answer_without_end(lambda n: pages[min(n, 2)], 5)) as server:
        result = find(server.url)
    assert ids(result) == ["s0", "s1"]
    assert [caveat.text for caveat in result.caveats] == [
        "the catalog states 5 items and returned 2"
    ]


def test_a_stated_number_that_is_too_low_loses_nothing(monkeypatch):
    monkeypatch.setattr(stac_api, "PAGE_SIZE", 2)
    with serve(Answer(body=paged(FIVE, number_matched=2))) as server:
        assert ids(find(server.url)) == ALL_FIVE


def test_too_many_pages_are_an_error(monkeypatch):
    monkeypatch.setattr(stac_api, "MAX_PAGES", 20)
    with (
        serve(answer_without_end(lambda n: [an_item(f"x{n}")])) as server,
        pytest.raises(InvalidInputError, match="more than 20 pages: ask for a smaller region"),
    ):
        find(server.url)
    assert len(server.list_requests("/search")) <= 21


@pytest.mark.parametrize(
    "links",
    [
        [{"rel": "next"}],
        [{"rel": "next", "href": 7}],
        [{"rel": "next", "href": "/search", "method": "POST", "body": [1]}],
        [{"rel": "next", "href": "/search", "method": "POST", "merge": True, "body": 7}],
        [{"rel": "next", "href": "/search", "headers": 7}],
        [{"rel": "next", "href": "/search", "method": ["x"]}],
        [{"rel": "next", "href": "http://[::1"}],
        [{"href": "/search"}],
        [7],
        7,
    ],
)
def test_a_malformed_next_link_is_one_clear_error(links):
    with serve(page(FIVE[:2], links=links), page(FIVE[:2])) as server:
        with contextlib.suppress(TerramosaicError):
            assert ids(find(server.url)) == ["s0", "s1"]
        # ^ where it can still be followed, it is; nothing else may be raised
        assert len(server.list_requests("/search")) <= 2


def test_duplicates_over_pages_count_once_and_the_newest_is_kept():
    def processed(stamp):
        properties = FIVE[0]["properties"] | {"s2:generation_time": stamp}
        return FIVE[0] | {"properties": properties}

    old, new = processed("2024-06-11T00:00:00Z"), processed("2024-06-12T00:00:00Z")
    digests = set()
    for documents in itertools.permutations([old, new, old, FIVE[1]]):
        with serve(Answer(body=paged(documents, size=3))) as server:
            result = find(server.url)
        assert ids(result) == ["s0", "s1"]
        assert result.scenes[0].processed == day("2024-06-12T00:00:00")
        digests.add(Snapshot(scenes=result.scenes).digest)
    assert len(digests) == 1


# -- busy servers -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_to_a_busy_server_is_repeated(status, method):
    busy = Answer(status=status, body={"description": "storm"})
    with serve(busy, busy, Answer(body=paged(FIVE)), methods=(method,)) as server:
        assert ids(find(server.url)) == ALL_FIVE
    assert len(server.list_requests("/search")) == 5


def test_a_server_that_stays_busy_is_a_transient_error():
    with (
        serve(Answer(status=503)) as server,
        pytest.raises(TransientError, match="answers 503: try"),
    ):
        find(server.url)
    assert len(server.list_requests("/search")) == http_client.MAX_RETRIES + 1


def http_date_in(seconds):
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    "retry_after", [lambda: "1", lambda: http_date_in(2)], ids=["seconds", "date"]
)
def test_retry_after_is_waited_for(retry_after):
    busy = Answer(status=429, headers={"Retry-After": retry_after()})
    with serve(busy, page(FIVE)) as server:
        assert ids(find(server.url)) == ALL_FIVE
    first, second = (request.at for request in server.list_requests("/search"))
    assert 0.9 <= second - first < 10
    # ^ a date has whole seconds, so two may be little more than one


@pytest.mark.parametrize("retry_after", ["", "soon", "-5", "9" * 5000, "Thu, 99 Foo 2099", "0"])
def test_an_invalid_retry_after_is_ignored(retry_after):
    retry = http_client.build_retry_policy()
    assert retry.parse_retry_after(retry_after) == 0.0


@pytest.mark.parametrize("retry_after", [lambda: "3600", lambda: http_date_in(3600)])
def test_a_retry_after_that_is_too_long_is_an_error_at_once(retry_after):
    busy = Answer(status=429, headers={"Retry-After": retry_after()})
    with (
        serve(busy) as server,
        pytest.raises(TransientError, match=r"answers 429 and asks to come back in 3[56]\d\d s"),
    ):
        find(server.url)
    assert len(server.list_requests("/search")) == 1


def test_a_refused_request_is_not_repeated():
    refusal = Answer(status=400, body={"description": "datetime is odd"})
    with (
        serve(refusal) as server,
        pytest.raises(InvalidInputError, match=r"answers 400.*datetime is odd"),
    ):
        find(server.url)
    assert len(server.list_requests("/search")) == 1


def test_an_unreachable_server_is_a_transient_error():
    with serve() as server:
        url = server.url
    with pytest.raises(TransientError, match="does not answer"):
        find(url)


# -- messages and requests ----------------------------------------------------------------------


def test_the_error_of_an_empty_result_states_the_extent():
    with serve(page([])) as server, pytest.raises(NothingFoundError) as raised:
        find(server.url)
    assert "sentinel-2-l2a runs from 2015-06-27 to today in [9, 56, 10, 57]" in str(raised.value)
    assert server.url in str(raised.value)


@pytest.mark.parametrize("methods", [("POST",), ("GET",)])
def test_a_region_of_many_corners_is_sent_as_boxes(methods):
    wiggly = shapely.Point(9.5, 56.5).buffer(0.3, quad_segs=400)
    with serve(page(FIVE), methods=methods) as server:
        assert ids(find(server.url, region=wiggly)) == ALL_FIVE
    requests = server.list_requests("/search")[0]
    sent = (
        requests.body["intersects"] if requests.body else json.loads(requests.query["intersects"])
    )
    sent = shapely.geometry.shape(sent)
    assert shapely.get_num_coordinates(sent) <= stac_api.MAX_REGION_VERTICES[methods[0]]
    assert sent.buffer(1e-9).covers(wiggly)


def test_a_region_across_180_degrees_is_sent_in_two_parts():
    circle = shapely.Point(180, 0).buffer(2, quad_segs=400)
    for region in (shapely.box(178, -2, 182, 2), circle):
        with serve(page([])) as server, pytest.raises(NothingFoundError):
            find(server.url, region=region)
        sent = shapely.geometry.shape(server.list_requests("/search")[0].body["intersects"])
        assert sent.geom_type == "MultiPolygon"
        assert sent.area == pytest.approx(16, rel=0.01)
        assert WORLD.covers(sent)


# -- recorded responses, through the real client ------------------------------------------------


def replay(folder, names):
    """Return a server that gives recorded responses, with links to itself."""
    missing = [name for name in names if not (folder / f"{name}.response.json").is_file()]
    if missing:
        pytest.skip(f"{missing} are not among the real documents")

    def script(url):
        def local(name):
            text = (folder / f"{name}.response.json").read_text()
            request = json.loads((folder / f"{name}.request.json").read_text())
            return json.loads(text.replace(request["url"], f"{url}/search"))

        return {
            "/": Answer(body=landing(url)),
            "/search": [Answer(body=local(name)) for name in names],
        }

    return Server(script)


def read_recorded_request(folder, name):
    return json.loads((folder / f"{name}.request.json").read_text())["body"]


def test_sixteen_recorded_hits_are_eight_scenes(realdata):
    folder = realdata / "stac/earth-search-v1/_api"
    names = ["search_s2_duplicates_page1", "search_s2_duplicates_page2"]
    recorded = read_recorded_request(folder, names[0])
    region = shapely.box(*recorded["bbox"])
    period = (day("2020-03-01"), day("2020-03-05"))
    with replay(folder, names) as server:
        result = find(server.url, region=region, period=period, provider="earth-search")
    requests = server.list_requests("/search")
    assert len(requests) == 2
    # ^ the last page has a link to a next one all the same
    assert requests[1].body == read_recorded_request(folder, names[1])
    sent = requests[0].body
    assert shapely.geometry.shape(sent["intersects"]).equals(region)
    assert set(recorded["collections"]) <= set(sent["collections"])
    assert sent["datetime"].split("/")[0] == recorded["datetime"].split("/")[0]
    assert sent["datetime"].split("/")[1][:19] == recorded["datetime"].split("/")[1][:19]
    pages = [json.loads((folder / f"{name}.response.json").read_text()) for name in names]
    documents = {item["id"] for page in pages for item in page["features"]}
    assert {scene.id for scene in result.scenes} == documents
    assert result.refused == result.caveats == ()
    selection = scene_selection.select_scenes(result.scenes, region)
    assert len(selection.used) == len(selection.refused) == len(documents) / 2
    assert all("reprocessed as" in refusal.reason for refusal in selection.refused)
    assert {scene.baseline for scene in selection.used} == {"05.00"}


@pytest.mark.parametrize(
    ("path", "name", "provider", "modality", "counts"),
    [
        ("earth-search-v1", "search_multi_collection", "earth-search", "S2L2A", (1, 1)),
        ("earth-search-v1", "search_copdem_page1", "earth-search", "DEM", (10, 0)),
        ("earth-search-v1", "search_c1_fields_only", "earth-search", "S2L2A", (0, 10)),
        ("cdse", "search_s2_4items", "cdse", "S2L2A", (4, 0)),
        ("earth-search-v0", "search_limit1", "earth-search-v0", "S2L2A", (1, 0)),
    ],
)
def test_recorded_responses(realdata, path, name, provider, modality, counts):
    with replay(realdata / "stac" / path / "_api", [name]) as server:
        source = {"modalities": (modality,), "region": WORLD, "period": None, "provider": provider}
        if counts[0] == 0:
            with pytest.raises(NothingFoundError, match=f"of {counts[1]} items cannot be used"):
                find(server.url, **source)
            return
        result = find(server.url, **source)
    assert (len(result.scenes), len(result.refused)) == counts


def test_a_recorded_response_of_planetary_computer(realdata):
    path = realdata / "stac/planetary-computer/_api/site2-2020_jun_jul-35MNM.response.json"
    recorded = json.loads(path.read_text())
    query = recorded["properties"]["query"]
    with serve(page(recorded["features"])) as server:
        period = (day("2020-06-01"), day("2020-07-31"))
        result = find(server.url, region=WORLD, period=period, provider="planetary-computer")
        sent = server.list_requests("/search")[0].body
    assert len(result.scenes) == 13
    assert sent["collections"] == query["collections"]
    assert sent["datetime"][:30] == query["datetime"][:30]
