"""STAC APIs, through pystac-client: paging that ends, on one host, and plain JSON as the answer."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import shapely
from pystac_client import ItemSearch
from pystac_client.stac_api_io import StacApiIO

from catalogs import href_policy, lonlat_geometry
from catalogs.errors import InvalidInputError, TransientError
from catalogs.sources import http_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import requests

PAGE_SIZE = 100
"""Items per page that are asked for; a server may give fewer."""

MAX_PAGES = 5000
"""Pages of one question. A server that still offers more is not believed."""

MAX_REGION_VERTICES = {"POST": 500, "GET": 50}
"""Corners that are sent to a server; of a finer region it gets the boxes of the parts."""

MALFORMED_PAGE_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RecursionError,
)
"""What a page of unexpected form raises while its link to the next is followed."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StacApi:
    """An open STAC API."""

    url: str

    search_url: str
    """Address that is searched."""

    method: str
    """POST, or GET where that is all it has."""

    stac_io: _SameHostStacApiIO


@dataclass(slots=True, kw_only=True)
class MatchCount:
    """How much of an answer was there."""

    returned: int = 0
    """Different items."""

    matched: int | None = None
    """What the API itself says; some only estimate it."""


@contextmanager
def connect(url: str) -> Iterator[StacApi]:
    """Open the API at that address, for a with statement.

    Raises:
        InvalidInputError: There is no STAC API with a search.
        TransientError: The server does not answer properly.
    """
    with http_client.open_session() as http:
        landing = http_client.fetch_json(http, url)
        conforms = landing.get("conformsTo")
        if not isinstance(conforms, list) or not any("item-search" in str(it) for it in conforms):
            raise InvalidInputError(
                f"{href_policy.redact(url)} is no STAC API with an item search."
            )
        search, method = _find_search_link(landing, url)
        yield StacApi(
            url=url, search_url=search, method=method, stac_io=_SameHostStacApiIO(http, search)
        )


def search_items(
    api: StacApi,
    collections: Sequence[str],
    region: Any,
    datetime: str | None,
    count: MatchCount | None = None,
) -> Iterator[Any]:
    """Yield the items of all pages, each document once.

    Args:
        api: From :func:`connect`.
        collections: Their ids.
        region: Shapely area in longitude and latitude, within ±180 degrees.
        datetime: Interval as STAC writes it, or None for any time.
        count: Where to note how many there were.

    Raises:
        InvalidInputError: The server refuses the question, or its pages cannot be followed.
        TransientError: The server does not answer properly.
    """
    search = ItemSearch(
        api.search_url,
        method=api.method,
        stac_io=api.stac_io,
        collections=list(collections),
        intersects=lonlat_geometry.to_geojson(
            _simplify_region(region, MAX_REGION_VERTICES[api.method])
        ),
        datetime=datetime,
        limit=PAGE_SIZE,
    )
    yield from deduplicate_items(_iter_pages(search, api.search_url), count)


def deduplicate_items(
    pages: Iterable[Mapping[str, Any]], count: MatchCount | None = None
) -> Iterator[Any]:
    """Yield each document once; end at the stated number, or when a page brings no new item.

    Servers exist that offer a next page after the last one, and for ever. The stated number ends
    the search only at a page that is not full, because it may be an estimate that is too low.
    """
    count = MatchCount() if count is None else count
    known: set[tuple[str, str]] = set()
    yielded: set[int] = set()
    for page in pages:
        before = len(known)
        for item in page["features"]:
            mark = _hash_document(item)
            known.add(_item_key(item, mark))
            if mark not in yielded:
                yielded.add(mark)
                yield item
        count.returned, count.matched = len(known), _read_number_matched(page)
        full = len(page["features"]) >= PAGE_SIZE
        if len(known) == before or (count.matched and count.returned >= count.matched and not full):
            return


def describe_extents(api: StacApi, collections: Sequence[str]) -> dict[str, str]:
    """Return what the API states about the extent of collections, in words."""
    told = {}
    for name in collections:
        place = f"{api.url.rstrip('/')}/collections/{name}"
        try:
            told[name] = _format_extent(
                http_client.fetch_json(api.stac_io.session, place)["extent"]
            )
        except (InvalidInputError, TransientError, *MALFORMED_PAGE_ERRORS) as error:
            _LOG.info("no extent of %s: %s", name, error)
            told[name] = "of unknown extent"
            # ^ it only adorns a message that is about to be given
    return told


class _SameHostStacApiIO(StacApiIO):
    """Pages of a search, all from one host."""

    def __init__(self, session: requests.Session, search_url: str) -> None:
        super().__init__(max_retries=None)
        self.session = session
        self.search_url = search_url

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        address = urljoin(self.search_url, href)
        if not http_client.is_same_host(address, self.search_url):
            raise http_client.cross_host_error(self.search_url, address)
        asked = {"json": parameters} if method == "POST" else {"params": parameters}
        text = http_client.fetch(
            self.session, address, method=method or "GET", headers=headers, **asked
        )
        return text.decode("utf-8-sig")

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        page = dict(
            http_client.parse_json_object(self.read_text(source, *args, **kwargs), self.search_url)
        )
        if not isinstance(page.get("features"), list):
            raise InvalidInputError(
                f"{href_policy.redact(self.search_url)} answers with no list of features: "
                f"{json.dumps(page)[:200]}."
            )
        return page


def _find_search_link(landing: Mapping[str, Any], url: str) -> tuple[str, str]:
    """Return where to search, by POST where that is offered."""
    links = landing.get("links")
    offered = {
        str(link.get("method") or "GET").upper(): urljoin(url, str(link.get("href")))
        for link in (links if isinstance(links, list) else [])
        if isinstance(link, dict) and link.get("rel") == "search"
    }
    method = "POST" if "POST" in offered else "GET"
    if method not in offered:
        raise InvalidInputError(
            f"{href_policy.redact(url)} is a STAC API that does not say where to search."
        )
    if not http_client.is_same_host(offered[method], url):
        raise http_client.cross_host_error(url, offered[method])
    return offered[method], method


def _iter_pages(search: ItemSearch, url: str) -> Iterator[Mapping[str, Any]]:
    pages = search.pages_as_dicts()
    for _ in range(MAX_PAGES):
        try:
            page = next(pages, None)
        except MALFORMED_PAGE_ERRORS as error:
            raise InvalidInputError(
                f"{href_policy.redact(url)} sends a page whose link to the next one cannot be "
                f"followed ({type(error).__name__}: {error})."
            ) from error
        if page is None:
            return
        yield page
    raise InvalidInputError(
        f"{href_policy.redact(url)} offers more than {MAX_PAGES} pages: ask for a smaller region "
        "or a shorter period."
    )


def _hash_document(item: Any) -> int:
    """Return a number that two equal documents have in common."""
    try:
        return hash(json.dumps(item, sort_keys=True))
    except RecursionError:
        return id(item)
        # ^ nested a thousand deep: no item, and refused as such


def _item_key(item: Any, document_hash: int) -> tuple[str, str]:
    if not isinstance(item, dict):
        return ("", str(document_hash))
    return (str(item.get("collection")), str(item.get("id", document_hash)))


def _read_number_matched(page: Mapping[str, Any]) -> int | None:
    context = page.get("context")
    matched = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else 0)
    return matched if isinstance(matched, int) and matched > 0 else None


def _format_extent(extent: Mapping[str, Any]) -> str:
    start, end = extent["temporal"]["interval"][0]
    box = ", ".join(f"{float(value):.6g}" for value in extent["spatial"]["bbox"][0])
    return f"from {str(start)[:10]} to {str(end)[:10] if end else 'today'} in [{box}]"


def _simplify_region(region: Any, max_vertices: int) -> Any:
    """Return the region, or boxes around it, as an area of few corners."""
    if shapely.get_num_coordinates(region) <= max_vertices:
        return region
    parts = shapely.union_all([shapely.box(*part.bounds) for part in shapely.get_parts(region)])
    if shapely.get_num_coordinates(parts) <= max_vertices:
        return parts
    sides = [shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90)]
    # ^ one box each side of Greenwich, so that a region across 180 degrees asks for no belt
    halves = [region.intersection(side) for side in sides]
    return shapely.union_all([shapely.box(*half.bounds) for half in halves if half.area > 0])
