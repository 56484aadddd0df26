"""The items that a search returns for one modality: parsed, rejected, or outside the query."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import href_policy
from catalogs.errors import InvalidInputError
from catalogs.number_format import format_numbers
from catalogs.scene import RejectedScene
from catalogs.search import duplicates
from catalogs.sensors import get_sensor
from catalogs.stac import item
from catalogs.stac.parsing import MALFORMED_ITEM_ERRORS, UnusableItemError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catalogs.href_policy import HrefPolicy
    from catalogs.providers import Provider
    from catalogs.sources.static_catalog import ItemDocument

TimeRange = tuple[dt.datetime, dt.datetime]
"""First and last moment, UTC, both inclusive."""

ItemKey = tuple[str, str]
"""Collection and id of an item."""


@dataclass(slots=True, kw_only=True)
class ModalityResults:
    """Collects the items of one modality, and the facts for a message where none is usable."""

    provider: Provider
    modality: str
    region: Any
    time_range: TimeRange | None
    policy: HrefPolicy
    location: str = ""
    documents: dict[ItemKey, list[item.ParsedItem]] = field(default_factory=dict)
    """The usable documents of each item; a catalog may hold several of one id."""

    rejection_reasons: dict[ItemKey, str] = field(default_factory=dict)
    """Why an item cannot be used; items outside of region and period have no entry."""

    incomplete_reason: str = ""
    """Why the catalog's response is incomplete; empty where it is complete."""

    item_keys: set[ItemKey] = field(default_factory=set)
    """All items of the response."""

    times_over_region: dict[ItemKey, dt.datetime] = field(default_factory=dict)
    times: list[dt.datetime] = field(default_factory=list)
    bounds: list[tuple[float, float, float, float]] = field(default_factory=list)
    catalog_description: str = ""
    """The catalog's own statement about its collections, a sentence for the message."""

    @property
    def collections(self) -> tuple[str, ...]:
        """Return the ids of the collections that serve the modality."""
        return self.provider.collections_by_modality[self.modality]

    @property
    def parsed_items(self) -> list[item.ParsedItem]:
        """Return the usable items, one for each id."""
        bands = get_sensor(self.modality).bands
        return [_merge_documents(documents, bands) for documents in self.documents.values()]

    @property
    def refused(self) -> list[RejectedScene]:
        """Return the items that cannot be used, except where another document of the id can."""
        unusable = (key for key in sorted(self.rejection_reasons) if key not in self.documents)
        return [
            RejectedScene(
                id=key[1],
                reason=self.rejection_reasons[key],
                collection=key[0],
                modality=self.modality,
            )
            for key in unusable
        ]

    def add_item(self, entry: ItemDocument) -> None:
        """Parse one item of the response; keep the scene, or the reason why it cannot be used."""
        key = _item_key(entry)
        self.item_keys.add(key)
        if key[0] not in self.collections:
            self.reject_item(key, f"it is of the collection {key[0]!r}, which was not requested")
            return
        try:
            area = item.read_footprint(entry.item)
            if self._matches_query(key, entry.item, area):
                self._add_document(key, entry, area)
        except InvalidInputError as error:
            self.reject_item(key, str(error))
        except MALFORMED_ITEM_ERRORS as error:
            self.reject_item(key, f"malformed item: {type(error).__name__} {error}")

    def reject_item(self, key: ItemKey, reason: str) -> None:
        """Note that an item cannot be used; of several reasons, the first by alphabet is kept."""
        self.rejection_reasons[key] = min(
            reason.rstrip("."), self.rejection_reasons.get(key, "\U0010ffff")
        )

    def _matches_query(self, key: ItemKey, document: Mapping[str, Any], area: Any) -> bool:
        """Return whether an item touches the region and lies in the period.

        Where an item contradicts itself, either of its statements may make it match. A wrong time
        matters only of an item that touches the region.
        """
        self.bounds.append(area.bounds)
        is_in_region = self._touches_region(document, area)
        try:
            time = item.read_datetime(document)
        except UnusableItemError:
            if is_in_region:
                raise
            return False
        if time is not None:
            self.times.append(time)
        if not is_in_region:
            return False
        if time is not None:
            self.times_over_region[key] = time
        if self.time_range is None or time is None:
            return True
        start, end = self.time_range
        if start <= time <= end:
            return True
        days = item.read_product_days(document)
        is_contradicted = days is not None and not days[0] <= time <= days[1]
        return days is not None and is_contradicted and days[0] <= end and start <= days[1]

    def _touches_region(self, document: Mapping[str, Any], area: Any) -> bool:
        if shapely.intersects(self.region, area):
            return True
        other_footprint = item.find_other_footprint(document, area)
        return other_footprint is not None and bool(
            shapely.intersects(self.region, other_footprint.area)
        )

    def _add_document(self, key: ItemKey, entry: ItemDocument, area: Any) -> None:
        parsed = item.parse(
            entry.item,
            area=area,
            provider=self.provider,
            modality=self.modality,
            policy=self.policy,
            base=entry.base,
            item_href=entry.href,
            collection_id=entry.collection,
        )
        self.documents.setdefault(key, []).append(parsed)


def _merge_documents(documents: Sequence[item.ParsedItem], bands: Sequence[str]) -> item.ParsedItem:
    """Return the item that several documents of one id describe."""
    if len(documents) == 1:
        return documents[0]
    resolved = duplicates.choose_document(
        [document.scene for document in documents], lambda _: bands
    )
    (scene,) = resolved.scenes
    sources = [document for document in documents if document.scene is scene] or documents
    # ^ a united scene is a new one
    caveats = {text for document in sources for text in document.caveats}
    caveats |= {caveat.text for caveat in resolved.caveats}
    return item.ParsedItem(scene=scene, caveats=tuple(sorted(caveats)))


def _item_key(entry: ItemDocument) -> ItemKey:
    """Return an item's collection and id; the URL of its document in place of a missing id."""
    if not isinstance(entry.item, Mapping):
        return ("", entry.base)
    return (entry.collection, str(entry.item.get("id") or entry.base))


def describe_no_results(results: ModalityResults) -> str:
    """Return a message that says what was searched, what there is, and what to change."""
    period = (
        ""
        if results.time_range is None
        else f" from {results.time_range[0].date()} to {results.time_range[1].date()}"
    )
    query = (
        f"No {results.modality} scene{period} over {format_bbox(results.region.bounds)} in "
        f"{' and '.join(results.collections)} of {href_policy.redact(results.location)}:"
    )
    return f"{query} {_describe_available_items(results)}{results.catalog_description}"


def _describe_available_items(results: ModalityResults) -> str:
    count, refused = len(results.item_keys), results.refused
    if refused:
        examples = "; ".join(f"{scene.id}: {scene.reason}" for scene in refused[:3])
        return f"{len(refused)} of {count} items cannot be used ({examples})."
    if not count:
        return (
            f"it has no such item. Change region or period, or leave {results.modality} out of "
            "the inputs."
        )
    dates = f", dated {_format_dates(results.times)}" if results.times else ""
    extent = format_bbox(_merge_bounds(results.bounds))
    available = f"it has {count} items{dates}, within {extent}."
    if results.times_over_region and results.time_range is not None:
        return (
            f"{available} {len(results.times_over_region)} of them touch the region, dated "
            f"{_format_dates(results.times_over_region.values())}: change the period."
        )
    return f"{available} None of them touches the region: change the region."


def _format_dates(times: Iterable[dt.datetime]) -> str:
    ordered = sorted(times)
    return f"{ordered[0].date()} to {ordered[-1].date()}"


def _merge_bounds(
    bounds: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    wests, souths, easts, norths = zip(*bounds, strict=True)
    return (min(wests), min(souths), max(easts), max(norths))


def format_bbox(bounds: Sequence[float]) -> str:
    """Return (west, south, east, north) as text for a message."""
    return format_numbers(bounds, 7)
