"""Static STAC catalogs: linked JSON documents in a folder or on a web server."""

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
"""Most levels of nested catalogs; a server could generate them without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDocument:
    """An item and the location of its document."""

    item: Any
    """The JSON value of the document; an object, unless the catalog is malformed."""

    base: str
    """Path or URL that its relative hrefs are resolved against."""


@dataclass(slots=True, kw_only=True)
class WalkResult:
    """The items and collections of a static catalog."""

    items: list[ItemDocument] = field(default_factory=list)
    collections: set[str] = field(default_factory=set)
    """Ids of all collections, requested or not."""

    skipped_items: list[tuple[str, str]] = field(default_factory=list)
    """(href, reason) of the items that could not be read."""


def resolve_location(location: str) -> str:
    """Return a catalog's location as a URL or an absolute path; of a folder, its catalog.json.

    Raises:
        InvalidInputError: There is no such file.
    """
    if location.lower().startswith("s3://"):
        raise InvalidInputError(
            f"{location} cannot be read as a catalog: give its https URL, or the path of a copy."
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
    """Read the JSON document at a path or URL.

    Raises:
        InvalidInputError: It is missing or is no JSON object.
        TransientError: Its server is busy, unreachable or sends a broken response.
    """
    if not href_policy.is_remote(location):
        return http_client.parse_json_object(_read_file(location), location)
    if session is not None:
        return http_client.fetch_json(session, location)
    with http_client.open_session() as new_session:
        return http_client.fetch_json(new_session, location)


def walk(location: str, policy: HrefPolicy, collections: Collection[str]) -> WalkResult:
    """Read every item of the requested collections below a catalog.

    The collection is the one that the item states; other collections are not entered. A child
    that has the name of another known provider is skipped, as it follows other conventions.

    Args:
        location: Path or URL of the root catalog.
        policy: Where hrefs may point to.
        collections: Ids of the requested collections.

    Raises:
        InvalidInputError: A document is missing, broken, not allowed by the policy, or its own
            ancestor.
        TransientError: A server is busy, unreachable or sends a broken response.
    """
    with http_client.open_session(pool_maxsize=policy.provider.connections) as session:
        walker = _Walker(policy=policy, collections=frozenset(collections), session=session)
        walker.visit(location, read_json(location, session), ancestors=())
    return walker.result


@dataclass(slots=True, kw_only=True)
class _Walker:
    policy: HrefPolicy
    collections: frozenset[str]
    session: requests.Session
    result: WalkResult = field(default_factory=WalkResult)
    visited: set[str] = field(default_factory=set)

    def visit(self, location: str, document: Mapping[str, Any], ancestors: tuple[str, ...]) -> None:
        """Visit a document and everything below it."""
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
                f"The catalog has more than {MAX_DEPTH} levels, at {href_policy.redact(location)}: "
                "give the path of a catalog further down."
            )
        child = self.policy.resolve(link["href"], location)
        if child in ancestors:
            raise InvalidInputError(
                f"The catalog links in a circle: {href_policy.redact(location)} has its own "
                f"ancestor {href_policy.redact(child)} as a child."
            )
        if child not in self.visited:
            self.visit(child, self._read_child(child, location), ancestors)

    def _read_items(self, links: Sequence[Mapping[str, Any]], location: str) -> None:
        locations = []
        for link in links:
            try:
                locations.append(self.policy.resolve(link["href"], location))
            except href_policy.UntrustedHrefError as error:
                self.result.skipped_items.append((href_policy.redact(link["href"]), str(error)))
        unvisited = [item for item in dict.fromkeys(locations) if item not in self.visited]
        self.visited.update(unvisited)
        is_remote = any(map(href_policy.is_remote, unvisited))
        threads = self.policy.provider.connections if is_remote else 1
        with ThreadPoolExecutor(max_workers=threads) as pool:
            documents = list(pool.map(self._read_item, unvisited))
        self._add_items(
            [pair for pair in zip(documents, unvisited, strict=True) if pair[0] is not None]
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
        """Read an item's document; note it as skipped and return None where that fails."""
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
