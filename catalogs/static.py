"""Static catalogs: JSON files that link to each other, in a folder or on a web server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catalogs import providers, trust
from catalogs.errors import Transient, Wrong

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import requests

    from catalogs.trust import Trust

TIMEOUT = (5.0, 60.0)
"""Seconds to wait for a connection, and between two packets."""

ATTEMPTS = 5
"""Retries of a request that was answered by a busy or broken server."""

RETRIED = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An item and where its document lies."""

    item: Mapping[str, Any]

    base: str
    """Path or address that its relative hrefs start from."""


@dataclass(slots=True, kw_only=True)
class Walk:
    """What was met on the way through a static catalog."""

    entries: list[Entry] = field(default_factory=list)
    collections: set[str] = field(default_factory=set)
    """Ids of all collections, wanted or not."""

    astray: list[tuple[str, str]] = field(default_factory=list)
    """(href, reason) of the items that were not opened."""


def session() -> requests.Session:
    """Return an HTTP session that retries, also what is not idempotent by its method."""
    import requests  # noqa: PLC0415
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    opened = requests.Session()
    for scheme in ("https://", "http://"):
        opened.mount(scheme, HTTPAdapter(max_retries=retries()))
    return opened


def retries() -> Any:
    """Return the retry policy of every request to a catalog, POST included."""
    from urllib3.util import Retry  # noqa: PLC0415

    return Retry(
        total=ATTEMPTS,
        backoff_factor=0.3,
        status_forcelist=RETRIED,
        allowed_methods=None,
        raise_on_status=False,
    )


def absolute(location: str) -> str:
    """Return a catalog's location as an address or an absolute path; a folder's catalog.json.

    Raises:
        Wrong: There is no such file.
    """
    if trust.is_remote(location):
        return location
    path = Path(location).resolve()
    file = path / "catalog.json" if path.is_dir() else path
    if not file.is_file():
        raise Wrong(f"There is no catalog file {file}: give the path of a catalog.json.")
    return str(file)


def read(location: str, web: requests.Session | None = None) -> Mapping[str, Any]:
    """Return the JSON document at a path or address.

    Raises:
        Wrong: It is missing or is no JSON object.
        Transient: Its server does not answer properly.
    """
    if not trust.is_remote(location):
        text = _load(location)
    elif web is not None:
        text = _download(location, web)
    else:
        with session() as opened:
            text = _download(location, opened)
    try:
        document = json.loads(text)
    except ValueError as error:
        raise Wrong(f"{trust.redact(location)} is no JSON: {error}.") from error
    if not isinstance(document, dict):
        raise Wrong(
            f"{trust.redact(location)} is no STAC document, but a {type(document).__name__}."
        )
    return document


def walk(location: str, trusted: Trust, wanted: Collection[str]) -> Walk:
    """Read every item of the wanted collections under a catalog.

    Items count by their own collection; a collection that is not wanted is not entered. A child
    that bears the name of another known provider is passed by: its conventions are not ours.

    Raises:
        Wrong: A document is missing, broken, outside of the trusted places, or its own ancestor.
        Transient: A server does not answer properly.
    """
    with session() as web:
        walker = _Walker(trusted=trusted, wanted=frozenset(wanted), web=web)
        walker.enter(location, read(location, web), ancestors=())
    return walker.done


@dataclass(slots=True, kw_only=True)
class _Walker:
    trusted: Trust
    wanted: frozenset[str]
    web: requests.Session
    done: Walk = field(default_factory=Walk)
    seen: set[str] = field(default_factory=set)

    def enter(self, place: str, document: Mapping[str, Any], ancestors: tuple[str, ...]) -> None:
        """Visit a document and all below it."""
        self.seen.add(place)
        kind = document.get("type")
        if kind == "FeatureCollection":
            self._keep([(feature, place) for feature in document["features"]])
        elif kind == "Collection" or "extent" in document:
            self.done.collections.add(str(document.get("id")))
            if document.get("id") in self.wanted:
                self._descend(place, document, ancestors)
        elif kind in ("Catalog", None) and "links" in document:
            self._descend(place, document, ancestors)
        else:
            raise Wrong(
                f"{trust.redact(place)} is no STAC catalog or collection but a {kind}: "
                "give the path of a catalog.json."
            )

    def _descend(self, place: str, document: Mapping[str, Any], ancestors: tuple[str, ...]) -> None:
        self._open_items([link for link in _links(place, document) if link["rel"] == "item"], place)
        for link in _links(place, document):
            if link["rel"] == "child" and not self._of_another_provider(link):
                self._open_child(link, place, (*ancestors, place))

    def _open_child(self, link: Mapping[str, Any], place: str, ancestors: tuple[str, ...]) -> None:
        child = self.trusted.settle(link["href"], place)
        if child in ancestors:
            raise Wrong(
                f"The catalog goes in a circle: {trust.redact(place)} has its own ancestor "
                f"{trust.redact(child)} as a child."
            )
        if child not in self.seen:
            self.enter(child, self._read_linked(child, place), ancestors)

    def _open_items(self, links: Sequence[Mapping[str, Any]], place: str) -> None:
        places = []
        for link in links:
            try:
                places.append(self.trusted.settle(link["href"], place))
            except trust.Untrusted as error:
                self.done.astray.append((trust.redact(link["href"]), str(error)))
        fresh = [item for item in dict.fromkeys(places) if item not in self.seen]
        self.seen.update(fresh)
        lanes = self.trusted.provider.connections if any(map(trust.is_remote, fresh)) else 1
        with ThreadPoolExecutor(max_workers=lanes) as pool:
            documents = list(pool.map(lambda item: self._read_linked(item, place), fresh))
        self._keep(list(zip(documents, fresh, strict=True)))

    def _keep(self, items: Sequence[tuple[Mapping[str, Any], str]]) -> None:
        self.done.entries += [
            Entry(item=item, base=base)
            for item, base in items
            if item.get("collection") in self.wanted
        ]

    def _read_linked(self, target: str, place: str) -> Mapping[str, Any]:
        try:
            return read(target, self.web)
        except Wrong as error:
            raise Wrong(f"{trust.redact(place)} links to a broken document: {error}") from error

    def _of_another_provider(self, link: Mapping[str, Any]) -> bool:
        path = urlsplit(link["href"]).path.split("/")
        names = {str(link.get("title")), path[-2] if len(path) > 1 else ""}
        return bool(names & (set(providers.PROVIDERS) - {self.trusted.provider.name}))


def _links(place: str, document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = document.get("links") or []
    for link in links:
        if not isinstance(link, Mapping) or "rel" not in link or "href" not in link:
            raise Wrong(f"{trust.redact(place)} has a link without rel or href: {link!r}.")
    return list(links)


def _load(location: str) -> str:
    try:
        return Path(location).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Wrong(f"{location} cannot be read: {error}.") from error


def _download(location: str, web: requests.Session) -> str:
    import requests  # noqa: PLC0415

    try:
        answer = web.get(location, timeout=TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        raise Transient(
            f"{trust.redact(location)} does not answer ({type(error).__name__}): try again later."
        ) from error
    if answer.status_code in RETRIED:
        raise Transient(f"{trust.redact(location)} answers {answer.status_code}: try again later.")
    if answer.status_code != 200:
        # ^ a redirection is refused as well: nobody has vouched for where it leads
        raise Wrong(f"{trust.redact(location)} answers {answer.status_code}, not a document.")
    return answer.text
