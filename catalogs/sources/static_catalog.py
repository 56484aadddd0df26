"""Static catalogs: JSON files that link to each other, in a folder or on a web server."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catalogs import href_policy, providers
from catalogs.errors import Wrong
from catalogs.sources import http_client

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import requests

    from catalogs.href_policy import Trust

DEEPEST = 50
"""Levels of catalogs below each other; one that goes on is made up as it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An item and where its document lies."""

    item: Any
    """As it was found; an object, if all is well."""

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


def absolute(location: str) -> str:
    """Return a catalog's location as an address or an absolute path; a folder's catalog.json.

    Raises:
        Wrong: There is no such file.
    """
    if location.lower().startswith("s3://"):
        raise Wrong(f"{location} cannot be read as a catalog: give its https address, or a copy.")
    if href_policy.is_remote(location):
        return location
    path = Path(location).resolve()
    file = path / "catalog.json" if path.is_dir() else path
    if not file.is_file():
        raise Wrong(f"There is no catalog file {file}: give the path of a catalog.json.")
    return str(file)


def read(location: str, http: requests.Session | None = None) -> Mapping[str, Any]:
    """Return the JSON document at a path or address.

    Raises:
        Wrong: It is missing or is no JSON object.
        Transient: Its server does not answer properly.
    """
    if not href_policy.is_remote(location):
        return http_client.parse(_load(location), location)
    if http is not None:
        return http_client.document(http, location)
    with http_client.session() as opened:
        return http_client.document(opened, location)


def walk(location: str, trusted: Trust, wanted: Collection[str]) -> Walk:
    """Read every item of the wanted collections under a catalog.

    Items count by their own collection; a collection that is not wanted is not entered. A child
    that bears the name of another known provider is passed by: its conventions are not ours.

    Raises:
        Wrong: A document is missing, broken, outside of the trusted places, or its own ancestor.
        Transient: A server does not answer properly.
    """
    with http_client.session(lanes=trusted.provider.connections) as http:
        walker = _Walker(trusted=trusted, wanted=frozenset(wanted), http=http)
        walker.enter(location, read(location, http), ancestors=())
    return walker.done


@dataclass(slots=True, kw_only=True)
class _Walker:
    trusted: Trust
    wanted: frozenset[str]
    http: requests.Session
    done: Walk = field(default_factory=Walk)
    seen: set[str] = field(default_factory=set)

    def enter(self, place: str, document: Mapping[str, Any], ancestors: tuple[str, ...]) -> None:
        """Visit a document and all below it."""
        self.seen.add(place)
        kind = document.get("type")
        if kind == "FeatureCollection":
            self._keep([(feature, place) for feature in _list(place, document, "features")])
        elif kind == "Collection" or "extent" in document:
            self.done.collections.add(str(document.get("id")))
            if document.get("id") in self.wanted:
                self._descend(place, document, ancestors)
        elif kind in ("Catalog", None) and "links" in document:
            self._descend(place, document, ancestors)
        else:
            raise Wrong(
                f"{href_policy.redact(place)} is no STAC catalog or collection but a {kind}: "
                "give the path of a catalog.json."
            )

    def _descend(self, place: str, document: Mapping[str, Any], ancestors: tuple[str, ...]) -> None:
        self._open_items([link for link in _links(place, document) if link["rel"] == "item"], place)
        for link in _links(place, document):
            if link["rel"] == "child" and not self._of_another_provider(link):
                self._open_child(link, place, (*ancestors, place))

    def _open_child(self, link: Mapping[str, Any], place: str, ancestors: tuple[str, ...]) -> None:
        if len(ancestors) > DEEPEST:
            raise Wrong(
                f"The catalog goes deeper than {DEEPEST} levels, at {href_policy.redact(place)}: give "
                "the path of a catalog further down."
            )
        child = self.trusted.settle(link["href"], place)
        if child in ancestors:
            raise Wrong(
                f"The catalog goes in a circle: {href_policy.redact(place)} has its own ancestor "
                f"{href_policy.redact(child)} as a child."
            )
        if child not in self.seen:
            self.enter(child, self._read_linked(child, place), ancestors)

    def _open_items(self, links: Sequence[Mapping[str, Any]], place: str) -> None:
        places = []
        for link in links:
            try:
                places.append(self.trusted.settle(link["href"], place))
            except href_policy.Untrusted as error:
                self.done.astray.append((href_policy.redact(link["href"]), str(error)))
        fresh = [item for item in dict.fromkeys(places) if item not in self.seen]
        self.seen.update(fresh)
        lanes = self.trusted.provider.connections if any(map(href_policy.is_remote, fresh)) else 1
        with ThreadPoolExecutor(max_workers=lanes) as pool:
            documents = list(pool.map(self._read_item, fresh))
        self._keep([pair for pair in zip(documents, fresh, strict=True) if pair[0] is not None])

    def _keep(self, items: Sequence[tuple[Any, str]]) -> None:
        for item, base in items:
            if not isinstance(item, Mapping):
                self.done.astray.append((href_policy.redact(base), f"{item!r:.40} is no item"))
            elif item.get("collection") is None:
                self.done.astray.append((href_policy.redact(base), "it names no collection"))
            elif item.get("collection") in self.wanted:
                self.done.entries.append(Entry(item=item, base=base))

    def _read_item(self, target: str) -> Mapping[str, Any] | None:
        """Return an item's document, or None and a note where it is missing or broken."""
        try:
            return read(target, self.http)
        except Wrong as error:
            self.done.astray.append((href_policy.redact(target), str(error).rstrip(".")))
            return None

    def _read_linked(self, target: str, place: str) -> Mapping[str, Any]:
        try:
            return read(target, self.http)
        except Wrong as error:
            raise Wrong(
                f"{href_policy.redact(place)} links to a broken document: {error}"
            ) from error

    def _of_another_provider(self, link: Mapping[str, Any]) -> bool:
        path = urlsplit(link["href"]).path.split("/")
        names = {str(link.get("title")), path[-2] if len(path) > 1 else ""}
        return bool(names & (set(providers.names()) - {self.trusted.provider.name}))


def _links(place: str, document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = _list(place, document, "links")
    for link in links:
        if not (
            isinstance(link, Mapping)
            and isinstance(link.get("rel"), str)
            and isinstance(link.get("href"), str)
        ):
            raise Wrong(
                f"{href_policy.redact(place)} has a link without rel or href: {link!r:.80}."
            )
    return links


def _list(place: str, document: Mapping[str, Any], key: str) -> list[Any]:
    values = document.get(key) or []
    if not isinstance(values, list):
        raise Wrong(f"{href_policy.redact(place)} has no list of {key}, but {values!r:.40}.")
    return values


def _load(location: str) -> bytes:
    try:
        return Path(location).read_bytes()
    except (OSError, ValueError) as error:
        raise Wrong(f"{location} cannot be read: {error}.") from error
