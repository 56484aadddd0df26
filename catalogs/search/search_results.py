"""The items that a search returns for one modality: parsed, rejected, or outside the query."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import href_policy
from catalogs.errors import InvalidInputError
from catalogs.scene import RejectedScene
from catalogs.stac import item
from catalogs.stac.parsing import MALFORMED_ITEM_ERRORS

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
    parsed_items: dict[ItemKey, item.ParsedItem] = field(default_factory=dict)
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
    def refused(self) -> list[RejectedScene]:
        """Return the items that cannot be used, except where another document of the id can."""
        unusable = (key for key in sorted(self.rejection_reasons) if key not in self.parsed_items)
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
                self._keep_newest(key, entry, area)
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
        """Return whether an item touches the region and lies in the period."""
        time = item.read_datetime(document)
        self.bounds.append(area.bounds)
        if time is not None:
            self.times.append(time)
        if not shapely.intersects(self.region, area):
            return False
        if time is not None:
            self.times_over_region[key] = time
        return (
            self.time_range is None
            or time is None
            or self.time_range[0] <= time <= self.time_range[1]
        )

    def _keep_newest(self, key: ItemKey, entry: ItemDocument, area: Any) -> None:
        """Keep the newest of the documents that have the same id."""
        parsed = item.parse(
            entry.item,
            area=area,
            provider=self.provider,
            modality=self.modality,
            policy=self.policy,
            base=entry.base,
            collection_id=entry.collection,
        )
        previous = self.parsed_items.get(key)
        if previous is None or _recency_key(parsed) > _recency_key(previous):
            self.parsed_items[key] = parsed


def _item_key(entry: ItemDocument) -> ItemKey:
    """Return an item's collection and id; the URL of its document in place of a missing id."""
    if not isinstance(entry.item, Mapping):
        return ("", entry.base)
    return (entry.collection, str(entry.item.get("id") or entry.base))


def _recency_key(parsed: item.ParsedItem) -> tuple[dt.datetime, str]:
    """Return a key that is larger for a later processing; the document breaks ties."""
    processed = parsed.scene.processed or dt.datetime.min.replace(tzinfo=dt.UTC)
    return (processed, json.dumps(parsed.scene.to_dict(), sort_keys=True))


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
    return f"[{', '.join(f'{value:.7g}' for value in bounds)}]"
