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
from catalogs.stac.collection import identify_collection
from catalogs.stac.parsing import UnusableItemError, format_value

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import requests

    from catalogs.href_policy import HrefPolicy

MAX_DEPTH = 50
"""Most levels of nested catalogs; a server could generate them without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDocument:
    """An item, its collection, and the location of its document."""

    item: Any
    """The JSON value of the document; an object, unless the catalog is malformed."""

    collection: str
    """Id of its collection, stated by the item or derived from its place and assets."""

    base: str
    """Path or URL that its relative hrefs are resolved against."""

    href: str | None = None
    """Path or URL of the item itself, without a query; None where only a list of items is known
    that holds it."""


@dataclass(slots=True, kw_only=True)
class WalkResult:
    """The items and collections of a static catalog."""

    items: list[ItemDocument] = field(default_factory=list)
    collections: set[str] = field(default_factory=set)
    """Ids of all collections, requested or not."""

    skipped_items: list[tuple[str, str]] = field(default_factory=list)
    """(href, reason) of the items that could not be read."""

    skipped_children: set[str] = field(default_factory=set)
    """Names of the children that belong to other providers."""

    incomplete_reasons: list[str] = field(default_factory=list)
    """Which documents hold a part of a search result only."""


def resolve_location(location: str) -> str:
    """Return a catalog's location as a URL or an absolute path.

    Of a folder, it is that of its catalog.json, or else of its collection.json.

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
    files = [path / "catalog.json", path / "collection.json"] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InvalidInputError(
            f"There is no catalog file {files[0]}: give the path of a catalog.json."
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

    The collection is that of :func:`catalogs.stac.collection.identify_collection`; other
    collections are not entered. A child that has the name of another known provider is skipped, as
    it follows other conventions.

    The location may also be that of a collection, a FeatureCollection or a single item.

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
        if kind in ("FeatureCollection", "Feature"):
            self._add_document(document, location, parent=None)
        elif kind == "Collection" or "extent" in document:
            name = str(document.get("id"))
            self.result.collections.add(name)
            if name in self.collections:
                self._check_lists_items(location, document)
                self._visit_links(location, document, ancestors, parent=name)
        elif kind in ("Catalog", None) and "links" in document:
            for collection in _get_list(location, document, "collections"):
                if isinstance(collection, Mapping):
                    self.visit(location, collection, (*ancestors, location))
            self._visit_links(location, document, ancestors)
        else:
            raise InvalidInputError(
                f"{href_policy.redact(location)} is no STAC catalog or collection but a {kind}: "
                "give the path of a catalog.json."
            )

    def _visit_links(
        self,
        location: str,
        document: Mapping[str, Any],
        ancestors: tuple[str, ...],
        parent: str | None = None,
    ) -> None:
        links = _get_links(location, document)
        self._read_items(
            [
                link
                for link in links
                if link["rel"] == "item" or self._is_local_list(link, location)
            ],
            location,
            parent,
        )
        for link in links:
            if link["rel"] == "child" and not self._belongs_to_other_provider(link):
                self._visit_child(link, location, (*ancestors, location))

    def _check_lists_items(self, location: str, document: Mapping[str, Any]) -> None:
        """Raise where a collection's items are listed by an API only."""
        links = _get_links(location, document)
        href_by_rel = {link["rel"]: link for link in links}
        if (
            "items" in href_by_rel
            and href_by_rel.keys().isdisjoint({"item", "child"})
            and not self._is_local_list(href_by_rel["items"], location)
        ):
            root = href_by_rel.get("root", {"href": "the address of the API"})["href"]
            raise InvalidInputError(
                f"{href_policy.redact(location)} is a collection of a STAC API, which holds its "
                f"items: search the API instead, with catalog: {{url: {href_policy.redact(root)}, "
                "provider: …} and the provider of this job."
            )

    def _is_local_list(self, link: Mapping[str, Any], location: str) -> bool:
        """Return whether a link leads to a file on this machine that lists items."""
        href = link["href"]
        return link["rel"] == "items" and not any(map(href_policy.is_remote, (href, location)))

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

    def _read_items(
        self, links: Sequence[Mapping[str, Any]], location: str, parent: str | None
    ) -> None:
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
        for document, target in zip(documents, unvisited, strict=True):
            if document is not None:
                self._add_document(document, target, parent)

    def _add_document(self, document: Mapping[str, Any], location: str, parent: str | None) -> None:
        """Add an item, or the items of a FeatureCollection."""
        if document.get("type") != "FeatureCollection":
            self._add_item(document, location, parent, href_policy.redact(location))
            return
        features = _get_list(location, document, "features")
        reason = _describe_missing_pages(location, document, len(features))
        if reason:
            self.result.incomplete_reasons.append(reason)
        for feature in features:
            self_href = get_self_href(feature)
            is_url = self_href is not None and href_policy.is_remote(self_href)
            href = href_policy.redact(self_href) if self_href and is_url else None
            self._add_item(feature, _get_feature_base(feature, location), parent, href)

    def _add_item(self, item: Any, base: str, parent: str | None, href: str | None) -> None:
        if not isinstance(item, Mapping):
            self.result.skipped_items.append(
                (href_policy.redact(base), f"{format_value(item)} is no item")
            )
            return
        try:
            name = identify_collection(item, self.policy.provider, parent=parent)
        except UnusableItemError as error:
            item_id = item.get("id")
            label = item_id if isinstance(item_id, str) and item_id else href_policy.redact(base)
            self.result.skipped_items.append((label, str(error)))
            return
        self.result.collections.add(name)
        if name in self.collections:
            self.result.items.append(ItemDocument(item=item, collection=name, base=base, href=href))
        elif parent is not None:
            self.result.skipped_items.append(
                (
                    str(item.get("id")),
                    f"it is of the collection {name!r}, although {parent} lists it",
                )
            )

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
        other_providers = names & (set(providers.list_names()) - {self.policy.provider.name})
        self.result.skipped_children |= other_providers
        return bool(other_providers)


def _describe_missing_pages(location: str, document: Mapping[str, Any], count: int) -> str:
    """Return why a FeatureCollection is a part of a search result; empty where it is whole."""
    matched = read_number_matched(document)
    source = href_policy.redact(location)
    if matched is not None:
        is_part = matched > count
        return f"{source} holds {count} of {matched} items of a search" if is_part else ""
    links = document.get("links")
    has_next = any(
        isinstance(link, Mapping) and link.get("rel") == "next"
        for link in (links if isinstance(links, list) else [])
    )
    return f"{source} is one page of a search; the pages after it are not read" if has_next else ""


def read_number_matched(page: Mapping[str, Any]) -> int | None:
    """Return the number of items of a search that one of its pages states."""
    context = page.get("context")
    matched = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else 0)
    return matched if isinstance(matched, int) and matched > 0 else None


def get_self_href(item: Any) -> str | None:
    """Return the absolute address that an item states as its own."""
    links = item.get("links") if isinstance(item, Mapping) else None
    for link in links if isinstance(links, list) else []:
        if isinstance(link, Mapping) and link.get("rel") == "self":
            href = link.get("href")
            if isinstance(href, str) and (href_policy.is_remote(href) or href.startswith("/")):
                return href
    return None


def _get_feature_base(feature: Any, location: str) -> str:
    """Return what the relative hrefs of a feature are resolved against.

    That is the address which it states as its own, as in an ItemCollection that pystac saves;
    beside a file on this machine that holds the rasters, it is the file.
    """
    self_href = get_self_href(feature)
    if self_href is None:
        return location
    assets = feature.get("assets")
    hrefs = [
        asset.get("href")
        for asset in (assets.values() if isinstance(assets, Mapping) else ())
        if isinstance(asset, Mapping)
    ]
    folder = Path(location).parent
    is_beside = not href_policy.is_remote(location) and any(
        isinstance(href, str) and (folder / href).exists() for href in hrefs
    )
    return location if is_beside else self_href


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
