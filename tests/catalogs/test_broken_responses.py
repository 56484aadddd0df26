"""STAC APIs that are slow, endless, broken or redirect to another host: one clear error each."""

import gzip
import json
import time

import pytest

from catalogs.errors import InvalidInputError, TransientError
from catalogs.sources import http_client
from tests.servers.scripted_stac_api import (
    Answer,
    Server,
    page,
    serve,
)
from tests.support.stac_documents import (
    ALL_FIVE,
    FIVE,
    an_item,
    find,
    ids,
)

ELSEWHERE = "http://169.254.169.254"

pytestmark = pytest.mark.usefixtures("quick_retries")


# -- slow, large and broken responses -----------------------------------------------------------


def test_a_silent_server_is_a_transient_error(monkeypatch):
    monkeypatch.setattr(http_client, "TIMEOUT", (1.0, 0.1))
    monkeypatch.setattr(http_client, "MAX_RETRIES", 1)
    with serve(Answer(pause=5)) as server, pytest.raises(TransientError, match="does not answer"):
        find(server.url)
    assert len(server.list_requests("/search")) <= 2


def test_endless_headers_are_a_transient_error(monkeypatch):
    monkeypatch.setattr(http_client, "RESPONSE_DEADLINE", 0.2)
    monkeypatch.setattr(http_client, "MAX_RETRIES", 1)
    start = time.monotonic()
    slow = serve(Answer(trickle=0.1))
    with slow as server, pytest.raises(TransientError, match="does not answer"):
        find(server.url)
    assert len(server.list_requests("/search")) == 2
    assert time.monotonic() - start < 5
    # ^ http.client takes a hundred of them, ten seconds' worth, before it gives up by itself


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_an_endlessly_slow_body_is_a_transient_error(monkeypatch, headers):
    monkeypatch.setattr(http_client, "RESPONSE_DEADLINE", 0.3)
    text = gzip.compress(b"[" * 10**4) if headers else b" " * 10**5
    with (
        serve(Answer(body=text, drip=0.01, headers=headers)) as server,
        pytest.raises(TransientError, match="too slow"),
    ):
        find(server.url)


@pytest.mark.parametrize("is_compressed", [True, False])
def test_a_response_that_is_too_large_is_refused(monkeypatch, is_compressed):
    monkeypatch.setattr(http_client, "MAX_DOCUMENT_BYTES", 2**20)
    text = b" " * 2**23
    response = (
        Answer(body=gzip.compress(text), headers={"Content-Encoding": "gzip"})
        if is_compressed
        else Answer(body=text)
    )
    with serve(response) as server, pytest.raises(InvalidInputError, match="more than 1 MiB"):
        find(server.url)


def test_a_truncated_response_is_requested_again():
    body = {"features": FIVE, "links": []}
    with serve(Answer(body=body, cut=300), Answer(body=body)) as server:
        assert ids(find(server.url)) == ALL_FIVE
    assert len(server.list_requests("/search")) == 2
    with (
        serve(Answer(body=body, cut=300)) as server,
        pytest.raises(TransientError, match="breaks off"),
    ):
        find(server.url)
    assert len(server.list_requests("/search")) == http_client.BODY_ATTEMPTS


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"<html><title>Maintenance</title></html>", InvalidInputError, "is no JSON"),
        (b"", InvalidInputError, "is no JSON"),
        (b"\xff\xfe\x00", InvalidInputError, "/search"),
        (b'{"features": [', TransientError, "broken JSON"),
        (b"[" * 100_000, TransientError, "broken JSON"),
        (b"[]", InvalidInputError, "but a list"),
        (b"7", InvalidInputError, "but a int"),
        (
            {"code": "Oops", "description": "out of order"},
            InvalidInputError,
            "no list of features.*out of",
        ),
        ({"features": {"a": 1}}, InvalidInputError, "no list of features"),
        ({"features": None}, InvalidInputError, "no list of features"),
    ],
)
def test_an_invalid_page_is_refused(body, error, message):
    with serve(Answer(body=body)) as server, pytest.raises(error, match=message):
        find(server.url)
    assert len(server.list_requests("/search")) <= http_client.BODY_ATTEMPTS


def test_invalid_features_are_refused_and_the_others_used():
    deep = json.loads("[" * 500 + "]" * 500)
    invalid = [7, None, "x", [], {}, {"id": "bare", "collection": "sentinel-2-l2a"},
           an_item("deep", assets=deep), an_item("far", geometry={"type": "Polygon",
           "coordinates": [[[1e400, 0], [1, 1], [0, 1], [1e400, 0]]]}, bbox=None),
           an_item("nan", geometry=None, bbox=[float("nan"), 0, 1, 1]),
           an_item("s2-l1c") | {"collection": "sentinel-2-l1c"}]  # fmt: skip
    with serve(page([*invalid, *FIVE])) as server:
        result = find(server.url)
    assert ids(result) == ALL_FIVE
    refused = {refusal.id: refusal.reason for refusal in result.refused}
    assert {"bare", "deep", "far", "nan", "s2-l1c"} <= refused.keys()
    assert "was not requested" in refused["s2-l1c"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"type": "Catalog", "conformsTo": []}, "no STAC API with an item search"),
        ({"type": "Catalog", "conformsTo": 7, "links": 7}, "no STAC API with an item search"),
        ({"conformsTo": ["x/item-search"], "links": []}, "without a link to its item search"),
        ({"conformsTo": ["x/item-search"], "links": [7, {}]}, "without a link to its item search"),
    ],
)
def test_a_landing_page_without_item_search_is_refused(document, message):
    with (
        Server(lambda _: {"/": Answer(body=document)}) as server,
        pytest.raises(InvalidInputError, match=message),
    ):
        find(server.url)


# -- other hosts --------------------------------------------------------------------------------


def test_a_response_cannot_lead_to_another_host():
    links = [{"rel": "next", "href": f"{ELSEWHERE}/search", "method": "POST", "body": {}}]
    servers = [
        serve(page(FIVE[:2], links=links)),
        serve(Answer(status=307, headers={"Location": f"{ELSEWHERE}/search?token=1"})),
        serve(search=f"{ELSEWHERE}/search"),
    ]
    for server in servers:
        with server, pytest.raises(InvalidInputError, match=f"another host, {ELSEWHERE}/search:"):
            find(server.url)


def test_a_redirection_within_the_host_is_followed():
    redirection = Answer(status=308, headers={"Location": "/v2/search"})
    with serve(redirection, **{"/v2/search": page(FIVE)}) as server:
        assert ids(find(server.url)) == ALL_FIVE
    assert server.list_requests("/v2/search")[0].method == "POST"
