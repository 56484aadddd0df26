"""What becomes of each item of a search: a scene, dropped with a reason, or off the question."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import href_policy
from catalogs.errors import InvalidInputError
from catalogs.scene_selection import RejectedScene
from catalogs.stac import item

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catalogs.href_policy import HrefPolicy
    from catalogs.providers import Provider
    from catalogs.sources.static_catalog import ItemDocument

    TimeRange = tuple[dt.datetime, dt.datetime]
    ItemKey = tuple[str, str]
    # ^ collection, id

MALFORMED_ITEM_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    ArithmeticError,
    RecursionError,
    shapely.errors.ShapelyError,
)
"""What a foreign document of unexpected form raises while it is read."""


@dataclass(slots=True, kw_only=True)
class ModalityResults:
    """Takes the entries of one modality one by one, and knows afterwards what it saw."""

    provider: Provider
    modality: str
    region: Any
    time_range: TimeRange | None
    policy: HrefPolicy
    location: str = ""
    parsed_items: dict[ItemKey, item.ParsedItem] = field(default_factory=dict)
    rejection_reasons: dict[ItemKey, str] = field(default_factory=dict)
    """Why it cannot be used; what lies off the question is not dropped, but no answer to it."""

    incomplete_reason: str = ""
    """What is missing of the answer, in words."""

    item_keys: set[ItemKey] = field(default_factory=set)
    times_over_region: dict[ItemKey, dt.datetime] = field(default_factory=dict)
    times: list[dt.datetime] = field(default_factory=list)
    bounds: list[tuple[float, float, float, float]] = field(default_factory=list)
    catalog_description: str = ""
    """What the catalog itself says about its collections."""

    @property
    def collections(self) -> tuple[str, ...]:
        """Return the ids of the collections that serve the modality."""
        return self.provider.collections_by_modality[self.modality]

    @property
    def refused(self) -> list[RejectedScene]:
        """Return what cannot be used; a document whose twin is whole is not missed."""
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
        """Sort one item into scenes, dropped, or off the question."""
        key = _item_key(entry)
        self.item_keys.add(key)
        if key[0] not in self.collections:
            self.reject_item(key, f"it is of the collection {key[0]!r}, which was not asked for")
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
        """Remember that an item cannot be used, with one reason whatever the order of documents."""
        self.rejection_reasons[key] = min(
            reason.rstrip("."), self.rejection_reasons.get(key, "\U0010ffff")
        )

    def _matches_query(self, key: ItemKey, document: Mapping[str, Any], area: Any) -> bool:
        """Return whether an item lies over the region and in the period."""
        moment = item.read_datetime(document)
        self.bounds.append(area.bounds)
        if moment is not None:
            self.times.append(moment)
        if not shapely.intersects(self.region, area):
            return False
        if moment is not None:
            self.times_over_region[key] = moment
        return (
            self.time_range is None
            or moment is None
            or self.time_range[0] <= moment <= self.time_range[1]
        )

    def _keep_newest(self, key: ItemKey, entry: ItemDocument, area: Any) -> None:
        """Keep the newest of the documents that bear one id."""
        parsed = item.parse(
            entry.item,
            area=area,
            provider=self.provider,
            modality=self.modality,
            policy=self.policy,
            base=entry.base,
        )
        twin = self.parsed_items.get(key)
        if twin is None or _recency_key(parsed) > _recency_key(twin):
            self.parsed_items[key] = parsed


def _item_key(entry: ItemDocument) -> ItemKey:
    """Return an item's collection and id; its address where it has none."""
    if not isinstance(entry.item, Mapping):
        return ("", entry.base)
    return (str(entry.item.get("collection")), str(entry.item.get("id") or entry.base))


def _recency_key(parsed: item.ParsedItem) -> tuple[dt.datetime, str]:
    """Return a key that is larger for a later processing; the rest only settles the order."""
    processed = parsed.scene.processed or dt.datetime.min.replace(tzinfo=dt.UTC)
    return (processed, json.dumps(parsed.scene.to_dict(), sort_keys=True))


def describe_no_results(results: ModalityResults) -> str:
    """Say what was looked at and what to change."""
    when = (
        ""
        if results.time_range is None
        else f" from {results.time_range[0].date()} to {results.time_range[1].date()}"
    )
    looked = (
        f"No {results.modality} scene{when} over {format_bbox(results.region.bounds)} in "
        f"{' and '.join(results.collections)} of {href_policy.redact(results.location)}:"
    )
    return f"{looked} {_describe_available_items(results)}{results.catalog_description}"


def _describe_available_items(results: ModalityResults) -> str:
    seen, refused = len(results.item_keys), results.refused
    if refused:
        some = "; ".join(f"{one.id}: {one.reason}" for one in refused[:3])
        return f"{seen} items were looked at, {len(refused)} of them cannot be used ({some})."
    if not seen:
        return (
            f"it holds no such item. Change region or period, or leave {results.modality} out of "
            "the inputs."
        )
    dates = f", dated {_format_dates(results.times)}" if results.times else ""
    there = f"it has {seen} items{dates}, within {format_bbox(_merge_bounds(results.bounds))}."
    if results.times_over_region and results.time_range is not None:
        return (
            f"{there} {len(results.times_over_region)} of them touch the region, dated "
            f"{_format_dates(results.times_over_region.values())}: change the period."
        )
    return f"{there} None of them touches the region: change the region."


def _format_dates(times: Iterable[dt.datetime]) -> str:
    ordered = sorted(times)
    return f"{ordered[0].date()} to {ordered[-1].date()}"


def _merge_bounds(
    bounds: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    wests, souths, easts, norths = zip(*bounds, strict=True)
    return (min(wests), min(souths), max(easts), max(norths))


def format_bbox(bounds: Sequence[float]) -> str:
    """Return west, south, east, north as they are read in a message."""
    return f"[{', '.join(f'{value:.7g}' for value in bounds)}]"
