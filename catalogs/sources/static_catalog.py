"""Static catalogs: JSON files that link to each other, in a folder or on a web server."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catalogs import href_policy, providers
from catalogs.errors import InvalidInputError
from catalogs.sources import http_client

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import requests

    from catalogs.href_policy import HrefPolicy

MAX_DEPTH = 50
"""Levels of catalogs below each other; one that goes on is made up as it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDocument:
    """An item and where its document lies."""

    item: Any
    """As it was found; an object, if all is well."""

    base: str
    """Path or address that its relative hrefs start from."""


@dataclass(slots=True, kw_only=True)
class WalkResult:
    """What was met on the way through a static catalog."""

    items: list[ItemDocument] = field(default_factory=list)
    collections: set[str] = field(default_factory=set)
    """Ids of all collections, wanted or not."""

    skipped_items: list[tuple[str, str]] = field(default_factory=list)
    """(href, reason) of the items that were not opened."""


def resolve_location(location: str) -> str:
    """Return a catalog's location as an address or an absolute path; a folder's catalog.json.

    Raises:
        InvalidInputError: There is no such file.
    """
    if location.lower().startswith("s3://"):
        raise InvalidInputError(
            f"{location} cannot be read as a catalog: give its https address, or a copy."
        )
    if href_policy.is_remote(location):
        return location
    path = Path(location).resolve()
    file = path / "catalog.json" if path.is_dir() else path
    if not file.is_file():
        raise InvalidInputError(
            f"There is no catalog file {file}: give the path of a catalog.json."
        )
    return str(file)


def read_json(location: str, session: requests.Session | None = None) -> Mapping[str, Any]:
    """Return the JSON document at a path or address.

    Raises:
        InvalidInputError: It is missing or is no JSON object.
        TransientError: Its server does not answer properly.
    """
    if not href_policy.is_remote(location):
        return http_client.parse_json_object(_read_file(location), location)
    if session is not None:
        return http_client.fetch_json(session, location)
    with http_client.open_session() as opened:
        return http_client.fetch_json(opened, location)


def walk(location: str, policy: HrefPolicy, collections: Collection[str]) -> WalkResult:
    """Read every item of the wanted collections under a catalog.

    Items count by their own collection; a collection that is not wanted is not entered. A child
    that bears the name of another known provider is passed by: its conventions are not ours.

    Raises:
        InvalidInputError: A document is missing, broken, outside of the trusted places, or its own ancestor.
        TransientError: A server does not answer properly.
    """
    with http_client.open_session(pool_maxsize=policy.provider.connections) as http:
        walker = _Walker(policy=policy, collections=frozenset(collections), session=http)
        walker.visit(location, read_json(location, http), ancestors=())
    return walker.result


@dataclass(slots=True, kw_only=True)
class _Walker:
    policy: HrefPolicy
    collections: frozenset[str]
    session: requests.Session
    result: WalkResult = field(default_factory=WalkResult)
    visited: set[str] = field(default_factory=set)

    def visit(self, location: str, document: Mapping[str, Any], ancestors: tuple[str, ...]) -> None:
        """Visit a document and all below it."""
        self.visited.add(location)
        kind = document.get("type")
        if kind == "FeatureCollection":
            self._add_items(
                [(feature, location) for feature in _get_list(location, document, "features")]
            )
        elif kind == "Collection" or "extent" in document:
            self.result.collections.add(str(document.get("id")))
            if document.get("id") in self.collections:
                self._visit_links(location, document, ancestors)
        elif kind in ("Catalog", None) and "links" in document:
            self._visit_links(location, document, ancestors)
        else:
            raise InvalidInputError(
                f"{href_policy.redact(location)} is no STAC catalog or collection but a {kind}: "
                "give the path of a catalog.json."
            )

    def _visit_links(
        self, location: str, document: Mapping[str, Any], ancestors: tuple[str, ...]
    ) -> None:
        self._read_items(
            [link for link in _get_links(location, document) if link["rel"] == "item"], location
        )
        for link in _get_links(location, document):
            if link["rel"] == "child" and not self._belongs_to_other_provider(link):
                self._visit_child(link, location, (*ancestors, location))

    def _visit_child(
        self, link: Mapping[str, Any], location: str, ancestors: tuple[str, ...]
    ) -> None:
        if len(ancestors) > MAX_DEPTH:
            raise InvalidInputError(
                f"The catalog goes deeper than {MAX_DEPTH} levels, at {href_policy.redact(location)}: give "
                "the path of a catalog further down."
            )
        child = self.policy.resolve(link["href"], location)
        if child in ancestors:
            raise InvalidInputError(
                f"The catalog goes in a circle: {href_policy.redact(location)} has its own ancestor "
                f"{href_policy.redact(child)} as a child."
            )
        if child not in self.visited:
            self.visit(child, self._read_child(child, location), ancestors)

    def _read_items(self, links: Sequence[Mapping[str, Any]], location: str) -> None:
        places = []
        for link in links:
            try:
                places.append(self.policy.resolve(link["href"], location))
            except href_policy.UntrustedHrefError as error:
                self.result.skipped_items.append((href_policy.redact(link["href"]), str(error)))
        fresh = [item for item in dict.fromkeys(places) if item not in self.visited]
        self.visited.update(fresh)
        lanes = self.policy.provider.connections if any(map(href_policy.is_remote, fresh)) else 1
        with ThreadPoolExecutor(max_workers=lanes) as pool:
            documents = list(pool.map(self._read_item, fresh))
        self._add_items(
            [pair for pair in zip(documents, fresh, strict=True) if pair[0] is not None]
        )

    def _add_items(self, items: Sequence[tuple[Any, str]]) -> None:
        for item, base in items:
            if not isinstance(item, Mapping):
                self.result.skipped_items.append(
                    (href_policy.redact(base), f"{item!r:.40} is no item")
                )
            elif item.get("collection") is None:
                self.result.skipped_items.append(
                    (href_policy.redact(base), "it names no collection")
                )
            elif item.get("collection") in self.collections:
                self.result.items.append(ItemDocument(item=item, base=base))

    def _read_item(self, target: str) -> Mapping[str, Any] | None:
        """Return an item's document, or None and a note where it is missing or broken."""
        try:
            return read_json(target, self.session)
        except InvalidInputError as error:
            self.result.skipped_items.append((href_policy.redact(target), str(error).rstrip(".")))
            return None

    def _read_child(self, target: str, location: str) -> Mapping[str, Any]:
        try:
            return read_json(target, self.session)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{href_policy.redact(location)} links to a broken document: {error}"
            ) from error

    def _belongs_to_other_provider(self, link: Mapping[str, Any]) -> bool:
        path = urlsplit(link["href"]).path.split("/")
        names = {str(link.get("title")), path[-2] if len(path) > 1 else ""}
        return bool(names & (set(providers.list_names()) - {self.policy.provider.name}))


def _get_links(location: str, document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = _get_list(location, document, "links")
    for link in links:
        if not (
            isinstance(link, Mapping)
            and isinstance(link.get("rel"), str)
            and isinstance(link.get("href"), str)
        ):
            raise InvalidInputError(
                f"{href_policy.redact(location)} has a link without rel or href: {link!r:.80}."
            )
    return links


def _get_list(location: str, document: Mapping[str, Any], key: str) -> list[Any]:
    values = document.get(key) or []
    if not isinstance(values, list):
        raise InvalidInputError(
            f"{href_policy.redact(location)} has no list of {key}, but {values!r:.40}."
        )
    return values


def _read_file(location: str) -> bytes:
    try:
        return Path(location).read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{location} cannot be read: {error}.") from error
