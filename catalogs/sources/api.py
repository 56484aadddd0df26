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
from catalogs.errors import Transient, Wrong
from catalogs.sources import http_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import requests

PAGE = 100
"""Items per page that are asked for; a server may give fewer."""

MOST_PAGES = 5000
"""Pages of one question. A server that still offers more is not believed."""

LARGEST_OUTLINE = {"POST": 500, "GET": 50}
"""Corners that are sent to a server; of a finer region it gets the boxes of the parts."""

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What a page of unexpected form raises while its link to the next is followed."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """An open STAC API."""

    address: str

    search: str
    """Address that is searched."""

    method: str
    """POST, or GET where that is all it has."""

    io: _Pages


@dataclass(slots=True, kw_only=True)
class Count:
    """How much of an answer was there."""

    given: int = 0
    """Different items."""

    stated: int | None = None
    """What the API itself says; some only estimate it."""


@contextmanager
def connect(address: str) -> Iterator[Api]:
    """Open the API at that address, for a with statement.

    Raises:
        Wrong: There is no STAC API with a search.
        Transient: The server does not answer properly.
    """
    with http_client.session() as http:
        landing = http_client.document(http, address)
        conforms = landing.get("conformsTo")
        if not isinstance(conforms, list) or not any("item-search" in str(it) for it in conforms):
            raise Wrong(f"{href_policy.redact(address)} is no STAC API with an item search.")
        search, method = _search_link(landing, address)
        yield Api(address=address, search=search, method=method, io=_Pages(http, search))


def items(
    api: Api,
    collections: Sequence[str],
    region: Any,
    when: str | None,
    count: Count | None = None,
) -> Iterator[Any]:
    """Yield the items of all pages, each document once.

    Args:
        api: From :func:`connect`.
        collections: Their ids.
        region: Shapely area in longitude and latitude, within ±180 degrees.
        when: Interval as STAC writes it, or None for any time.
        count: Where to note how many there were.

    Raises:
        Wrong: The server refuses the question, or its pages cannot be followed.
        Transient: The server does not answer properly.
    """
    search = ItemSearch(
        api.search,
        method=api.method,
        stac_io=api.io,
        collections=list(collections),
        intersects=lonlat_geometry.geojson(_outline(region, LARGEST_OUTLINE[api.method])),
        datetime=when,
        limit=PAGE,
    )
    yield from until_nothing_new(_pages(search, api.search), count)


def until_nothing_new(
    pages: Iterable[Mapping[str, Any]], count: Count | None = None
) -> Iterator[Any]:
    """Yield each document once; end at the stated number, or when a page brings no new item.

    Servers exist that offer a next page after the last one, and for ever. The stated number ends
    the search only at a page that is not full, because it may be an estimate that is too low.
    """
    count = Count() if count is None else count
    known: set[tuple[str, str]] = set()
    yielded: set[int] = set()
    for page in pages:
        before = len(known)
        for item in page["features"]:
            mark = _mark(item)
            known.add(_key(item, mark))
            if mark not in yielded:
                yielded.add(mark)
                yield item
        count.given, count.stated = len(known), _matched(page)
        full = len(page["features"]) >= PAGE
        if len(known) == before or (count.stated and count.given >= count.stated and not full):
            return


def extents(api: Api, collections: Sequence[str]) -> dict[str, str]:
    """Return what the API states about the extent of collections, in words."""
    told = {}
    for name in collections:
        place = f"{api.address.rstrip('/')}/collections/{name}"
        try:
            told[name] = _extent_in_words(http_client.document(api.io.session, place)["extent"])
        except (Wrong, Transient, *MALFORMED) as error:
            _LOG.info("no extent of %s: %s", name, error)
            told[name] = "of unknown extent"
            # ^ it only adorns a message that is about to be given
    return told


class _Pages(StacApiIO):
    """Pages of a search, all from one host."""

    def __init__(self, http: requests.Session, search: str) -> None:
        super().__init__(max_retries=None)
        self.session = http
        self.search = search

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        address = urljoin(self.search, href)
        if not http_client.same_host(address, self.search):
            raise http_client.stray(self.search, address)
        asked = {"json": parameters} if method == "POST" else {"params": parameters}
        text = http_client.fetch(
            self.session, address, method=method or "GET", headers=headers, **asked
        )
        return text.decode("utf-8-sig")

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        page = dict(http_client.parse(self.read_text(source, *args, **kwargs), self.search))
        if not isinstance(page.get("features"), list):
            raise Wrong(
                f"{href_policy.redact(self.search)} answers with no list of features: "
                f"{json.dumps(page)[:200]}."
            )
        return page


def _search_link(landing: Mapping[str, Any], address: str) -> tuple[str, str]:
    """Return where to search, by POST where that is offered."""
    links = landing.get("links")
    offered = {
        str(link.get("method") or "GET").upper(): urljoin(address, str(link.get("href")))
        for link in (links if isinstance(links, list) else [])
        if isinstance(link, dict) and link.get("rel") == "search"
    }
    method = "POST" if "POST" in offered else "GET"
    if method not in offered:
        raise Wrong(
            f"{href_policy.redact(address)} is a STAC API that does not say where to search."
        )
    if not http_client.same_host(offered[method], address):
        raise http_client.stray(address, offered[method])
    return offered[method], method


def _pages(search: ItemSearch, address: str) -> Iterator[Mapping[str, Any]]:
    pages = search.pages_as_dicts()
    for _ in range(MOST_PAGES):
        try:
            page = next(pages, None)
        except MALFORMED as error:
            raise Wrong(
                f"{href_policy.redact(address)} sends a page whose link to the next one cannot be "
                f"followed ({type(error).__name__}: {error})."
            ) from error
        if page is None:
            return
        yield page
    raise Wrong(
        f"{href_policy.redact(address)} offers more than {MOST_PAGES} pages: ask for a smaller region "
        "or a shorter period."
    )


def _mark(item: Any) -> int:
    """Return a number that two equal documents have in common."""
    try:
        return hash(json.dumps(item, sort_keys=True))
    except RecursionError:
        return id(item)
        # ^ nested a thousand deep: no item, and refused as such


def _key(item: Any, mark: int) -> tuple[str, str]:
    if not isinstance(item, dict):
        return ("", str(mark))
    return (str(item.get("collection")), str(item.get("id", mark)))


def _matched(page: Mapping[str, Any]) -> int | None:
    context = page.get("context")
    matched = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else 0)
    return matched if isinstance(matched, int) and matched > 0 else None


def _extent_in_words(extent: Mapping[str, Any]) -> str:
    start, end = extent["temporal"]["interval"][0]
    box = ", ".join(f"{float(value):.6g}" for value in extent["spatial"]["bbox"][0])
    return f"from {str(start)[:10]} to {str(end)[:10] if end else 'today'} in [{box}]"


def _outline(region: Any, most: int) -> Any:
    """Return the region, or boxes around it, as an area of few corners."""
    if shapely.get_num_coordinates(region) <= most:
        return region
    parts = shapely.union_all([shapely.box(*part.bounds) for part in shapely.get_parts(region)])
    if shapely.get_num_coordinates(parts) <= most:
        return parts
    sides = [shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90)]
    # ^ one box each side of Greenwich, so that a region across 180 degrees asks for no belt
    halves = [region.intersection(side) for side in sides]
    return shapely.union_all([shapely.box(*half.bounds) for half in halves if half.area > 0])
