"""Searching STAC APIs with pystac-client: bounded paging, one host, items as plain JSON."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

import shapely
from pystac_client import ItemSearch
from pystac_client.stac_api_io import StacApiIO

from catalogs import href_policy, lonlat_geometry
from catalogs.errors import InvalidInputError, TransientError
from catalogs.sources import http_client, static_catalog

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import requests

PAGE_SIZE = 100
"""Items per page that are requested; a server may return fewer."""

MAX_PAGES = 5000
"""Most pages of one search; a server that offers more is taken to be in a loop."""

MAX_REGION_VERTICES = {"POST": 500, "GET": 50}
"""Most vertices of a region in a request; a finer region is replaced by bounding boxes."""

MALFORMED_PAGE_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RecursionError,
)
"""Exceptions that a malformed page raises while its link to the next page is followed."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StacApi:
    """An open connection to a STAC API."""

    url: str

    search_url: str
    """URL of the item search."""

    method: str
    """POST, or GET where the API offers nothing else."""

    serves_items: bool
    """Whether items have addresses of their own, as OGC API - Features defines them."""

    stac_io: _SameHostStacApiIO

    def item_url(self, document: Mapping[str, Any], collection: str) -> str | None:
        """Return the URL of an item, without a query; None where it has none.

        It follows from the API's own URL, which has just been reached. What the item states is
        used only if the API serves no items: behind a proxy, servers state hosts and paths that do
        not exist.
        """
        item_id = document.get("id")
        if self.serves_items and isinstance(item_id, str):
            names = quote(collection, safe=""), quote(item_id, safe="")
            root = href_policy.redact(self.url).rstrip("/")
            return f"{root}/collections/{names[0]}/items/{names[1]}"
        self_href = static_catalog.get_self_href(document)
        host = urlsplit(self.url).netloc.lower()
        if self_href is None or urlsplit(self_href).netloc.lower() != host:
            return None
        return href_policy.redact(self_href)


@dataclass(slots=True, kw_only=True)
class MatchCount:
    """Number of items of a search."""

    returned: int = 0
    """Distinct items that were returned."""

    matched: int | None = None
    """Number of items that the API states; an estimate with some APIs."""


@contextmanager
def connect(url: str) -> Iterator[StacApi]:
    """Open a STAC API, as a context manager.

    Raises:
        InvalidInputError: The URL is no STAC API with an item search.
        TransientError: The server is busy, unreachable or sends a broken response.
    """
    with http_client.open_session() as session:
        landing = http_client.fetch_json(session, url)
        classes = landing.get("conformsTo")
        if not isinstance(classes, list) or not any("item-search" in str(uri) for uri in classes):
            raise InvalidInputError(
                f"{href_policy.redact(url)} is no STAC API with an item search."
            )
        search, method = _find_search_link(landing, url)
        yield StacApi(
            url=url,
            search_url=search,
            method=method,
            serves_items=any("ogcapi-features" in str(uri) for uri in classes),
            stac_io=_SameHostStacApiIO(session, search),
        )


def search_items(
    api: StacApi,
    collections: Sequence[str],
    region: Any,
    datetime: str | None,
    count: MatchCount | None = None,
) -> Iterator[Any]:
    """Search an API and yield the items of all pages, each document once.

    Args:
        api: From :func:`connect`.
        collections: Ids of the collections.
        region: Shapely area in longitude and latitude, within ±180 degrees.
        datetime: Interval in STAC's form, or None for any time.
        count: Counter to update, if any.

    Raises:
        InvalidInputError: The server refuses the request, or its pages cannot be followed.
        TransientError: The server is busy, unreachable or sends a broken response.
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
    """Yield each document once; stop at the stated number, or at a page without new items.

    Some servers link to a next page for ever. The stated number ends the search only at a page
    that is not full, as it may be an estimate that is too low.
    """
    count = MatchCount() if count is None else count
    keys: set[tuple[str, str]] = set()
    hashes: set[int] = set()
    for page in pages:
        previous = len(keys)
        for item in page["features"]:
            document_hash = _hash_document(item)
            keys.add(_item_key(item, document_hash))
            if document_hash not in hashes:
                hashes.add(document_hash)
                yield item
        count.returned, count.matched = len(keys), static_catalog.read_number_matched(page)
        is_full = len(page["features"]) >= PAGE_SIZE
        is_complete = count.matched and count.returned >= count.matched and not is_full
        if len(keys) == previous or is_complete:
            return


def describe_extents(api: StacApi, collections: Sequence[str]) -> dict[str, str]:
    """Return the extents of collections as the API states them, as text."""
    extents = {}
    for name in collections:
        url = f"{api.url.rstrip('/')}/collections/{name}"
        try:
            extents[name] = _format_extent(
                http_client.fetch_json(api.stac_io.session, url)["extent"]
            )
        except (InvalidInputError, TransientError, *MALFORMED_PAGE_ERRORS) as error:
            _LOG.info("no extent of %s: %s", name, error)
            extents[name] = "of unknown extent"
            # ^ the extent only completes the message of another error
    return extents


class _SameHostStacApiIO(StacApiIO):
    """Reader of the pages of a search, all from one host."""

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
        url = urljoin(self.search_url, href)
        if not http_client.is_same_host(url, self.search_url):
            raise http_client.cross_host_error(self.search_url, url)
        options = {"json": parameters} if method == "POST" else {"params": parameters}
        body = http_client.fetch(
            self.session, url, method=method or "GET", headers=headers, **options
        )
        return body.decode(json.detect_encoding(body), "replace")

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
    """Return the URL and method of the item search; POST where it is offered."""
    links = landing.get("links")
    url_by_method = {
        str(link.get("method") or "GET").upper(): urljoin(url, str(link.get("href")))
        for link in (links if isinstance(links, list) else [])
        if isinstance(link, dict) and link.get("rel") == "search"
    }
    method = "POST" if "POST" in url_by_method else "GET"
    if method not in url_by_method:
        raise InvalidInputError(
            f"{href_policy.redact(url)} is a STAC API without a link to its item search."
        )
    if not http_client.is_same_host(url_by_method[method], url):
        raise http_client.cross_host_error(url, url_by_method[method])
    return url_by_method[method], method


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
    """Return a hash that equal documents share."""
    try:
        return hash(json.dumps(item, sort_keys=True))
    except RecursionError:
        return id(item)
        # ^ nested a thousand levels deep: no item, and refused later


def _item_key(item: Any, document_hash: int) -> tuple[str, str]:
    if not isinstance(item, dict):
        return ("", str(document_hash))
    return (str(item.get("collection")), str(item.get("id", document_hash)))


def _format_extent(extent: Mapping[str, Any]) -> str:
    start, end = extent["temporal"]["interval"][0]
    box = ", ".join(f"{float(value):.6g}" for value in extent["spatial"]["bbox"][0])
    return f"from {str(start)[:10]} to {str(end)[:10] if end else 'today'} in [{box}]"


def _simplify_region(region: Any, max_vertices: int) -> Any:
    """Return the region, or bounding boxes of its parts where it has too many vertices."""
    if shapely.get_num_coordinates(region) <= max_vertices:
        return region
    parts = shapely.union_all([shapely.box(*part.bounds) for part in shapely.get_parts(region)])
    if shapely.get_num_coordinates(parts) <= max_vertices:
        return parts
    sides = [shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90)]
    # ^ one box on each side of Greenwich, so that a region across 180 degrees gets no wide box
    halves = [region.intersection(side) for side in sides]
    return shapely.union_all([shapely.box(*half.bounds) for half in halves if half.area > 0])
