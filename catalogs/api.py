"""STAC APIs, through pystac-client: paging that ends, retries, and plain JSON as the answer."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from catalogs import footprint, static, trust
from catalogs.errors import Transient, Wrong

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pystac_client import Client

PAGE = 100
"""Items per page."""

LARGEST_OUTLINE = 500
"""Corners that are sent to a server; of a finer region it gets the boxes of the parts."""

_LOG = logging.getLogger(__name__)


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """Open a client of the API at that address, for a with statement.

    Raises:
        Wrong: There is no STAC API with a search.
        Transient: The server does not answer properly.
    """
    from pystac_client import Client, ConformanceClasses  # noqa: PLC0415
    from pystac_client.exceptions import APIError  # noqa: PLC0415
    from pystac_client.stac_api_io import StacApiIO  # noqa: PLC0415

    guard = _Guard(urlsplit(address).netloc)
    io = StacApiIO(max_retries=static.retries())
    with io.session as web:
        web.hooks["response"].append(guard.check_answer)
        try:
            with _quiet():
                client = Client.open(
                    address, stac_io=io, timeout=static.TIMEOUT, request_modifier=guard.check
                )
                # ^ what was set on the io itself is overwritten by open
        except APIError as error:
            raise _understood(error, address) from error
        if not client.conforms_to(ConformanceClasses.ITEM_SEARCH):
            raise Wrong(f"{trust.redact(address)} is a STAC API without item search.")
        yield client


def items(
    client: Client, collections: Sequence[str], region: Any, when: str | None
) -> Iterator[Mapping[str, Any]]:
    """Yield the items of all pages, each once.

    Args:
        client: From :func:`connect`.
        collections: Their ids.
        region: Shapely area in longitude and latitude.
        when: Interval as STAC writes it, or None for any time.

    Raises:
        Wrong: The server refuses the question.
        Transient: The server does not answer properly.
    """
    from pystac_client.exceptions import APIError  # noqa: PLC0415

    address = str(client.get_self_href())
    try:
        with _quiet():
            search = client.search(
                method="POST",
                collections=list(collections),
                intersects=footprint.geojson(_outline(region)),
                datetime=when,
                limit=PAGE,
            )
        yield from until_nothing_new(search.pages_as_dicts())
    except APIError as error:
        raise _understood(error, address) from error


def until_nothing_new(pages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield each item once; end when the stated number is reached or a page brings no new one.

    Servers exist that offer a next page after the last one, and for ever.
    """
    seen: set[tuple[str, str]] = set()
    for page in pages:
        before = len(seen)
        for item in page.get("features", []):
            key = (str(item.get("collection")), str(item.get("id")))
            if key not in seen:
                seen.add(key)
                yield item
        if len(seen) == before or _complete(page, len(seen)):
            return


def extents(client: Client, collections: Sequence[str]) -> dict[str, str]:
    """Return what the API states about the extent of collections, in words."""
    from pystac_client.exceptions import APIError  # noqa: PLC0415

    told = {}
    for name in collections:
        try:
            document = static.read(f"{str(client.get_self_href()).rstrip('/')}/collections/{name}")
            told[name] = _extent_in_words(document["extent"])
        except (APIError, Wrong, Transient, KeyError, IndexError, TypeError) as error:
            _LOG.info("no extent of %s: %s", name, error)
            told[name] = "of unknown extent"
            # ^ it only adorns a message that is about to be given
    return told


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pystac-client's warnings about links and conformance that we check ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _extent_in_words(extent: Mapping[str, Any]) -> str:
    start, end = extent["temporal"]["interval"][0]
    box = ", ".join(f"{float(value):.6g}" for value in extent["spatial"]["bbox"][0])
    return f"from {str(start)[:10]} to {str(end)[:10] if end else 'today'} in [{box}]"


def _complete(page: Mapping[str, Any], count: int) -> bool:
    matched = page.get("numberMatched", (page.get("context") or {}).get("matched"))
    return isinstance(matched, int) and count >= matched


def _outline(region: Any) -> Any:
    from shapely import box, get_num_coordinates, union_all  # noqa: PLC0415

    if get_num_coordinates(region) <= LARGEST_OUTLINE:
        return region
    parts = union_all([box(*part.bounds) for part in getattr(region, "geoms", [region])])
    return parts if get_num_coordinates(parts) <= LARGEST_OUTLINE else box(*region.bounds)


def _understood(error: Exception, address: str) -> Wrong | Transient:
    """Return the error that says whether trying again helps."""
    if isinstance(error.__context__, Wrong):
        return error.__context__
        # ^ our own, from the guard: pystac-client wraps whatever it meets
    status = getattr(error, "status_code", None)
    detail = str(error).strip()[:300]
    if status is not None and 400 <= status < 500 and status not in static.RETRIED:
        return Wrong(f"{trust.redact(address)} refuses the search ({status}): {detail}")
    return Transient(
        f"{trust.redact(address)} does not answer properly ({status or 'no answer'}): {detail} "
        "Try again later."
    )


class _Guard:
    """Keeps the links and redirections of an API from leading us to another host."""

    def __init__(self, host: str) -> None:
        self.host = host

    def check(self, request: Any) -> None:
        """Refuse a request to any other host."""
        self._refuse(request.url)

    def check_answer(self, answer: Any, *_args: object, **_kwargs: object) -> None:
        """Refuse a redirection to any other host."""
        if answer.is_redirect:
            answer.close()
            self._refuse(urljoin(answer.url, answer.headers["location"]))

    def _refuse(self, address: str) -> None:
        if urlsplit(address).netloc != self.host:
            raise Wrong(
                f"The API at {self.host} leads to another host, {trust.redact(address)}: "
                "give that one's address if you trust it."
            )
