"""What becomes of each item of a search: a scene, dropped with a reason, or off the question."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import href_policy
from catalogs.errors import Wrong
from catalogs.scene_selection import Refusal
from catalogs.stac import item

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catalogs.href_policy import Trust
    from catalogs.providers import Provider
    from catalogs.sources.static_catalog import Entry

    Period = tuple[dt.datetime, dt.datetime]
    Key = tuple[str, str]
    # ^ collection, id

MALFORMED = (
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
class Sieve:
    """Takes the entries of one modality one by one, and knows afterwards what it saw."""

    provider: Provider
    modality: str
    region: Any
    span: Period | None
    trusted: Trust
    place: str = ""
    kept: dict[Key, item.Parsed] = field(default_factory=dict)
    dropped: dict[Key, str] = field(default_factory=dict)
    """Why it cannot be used; what lies off the question is not dropped, but no answer to it."""

    short: str = ""
    """What is missing of the answer, in words."""

    seen: set[Key] = field(default_factory=set)
    over_region: dict[Key, dt.datetime] = field(default_factory=dict)
    times: list[dt.datetime] = field(default_factory=list)
    bounds: list[tuple[float, float, float, float]] = field(default_factory=list)
    told: str = ""
    """What the catalog itself says about its collections."""

    @property
    def collections(self) -> tuple[str, ...]:
        """Return the ids of the collections that serve the modality."""
        return self.provider.collections[self.modality]

    @property
    def refused(self) -> list[Refusal]:
        """Return what cannot be used; a document whose twin is whole is not missed."""
        unusable = (key for key in sorted(self.dropped) if key not in self.kept)
        return [
            Refusal(id=key[1], reason=self.dropped[key], collection=key[0], modality=self.modality)
            for key in unusable
        ]

    def take(self, entry: Entry) -> None:
        """Sort one item into scenes, dropped, or off the question."""
        key = _key(entry)
        self.seen.add(key)
        if key[0] not in self.collections:
            self.drop(key, f"it is of the collection {key[0]!r}, which was not asked for")
            return
        try:
            area = item.area_of(entry.item)
            if self._asked_for(key, entry.item, area):
                self._keep(key, entry, area)
        except Wrong as error:
            self.drop(key, str(error))
        except MALFORMED as error:
            self.drop(key, f"malformed item: {type(error).__name__} {error}")

    def drop(self, key: Key, reason: str) -> None:
        """Remember that an item cannot be used, with one reason whatever the order of documents."""
        self.dropped[key] = min(reason.rstrip("."), self.dropped.get(key, "\U0010ffff"))

    def _asked_for(self, key: Key, document: Mapping[str, Any], area: Any) -> bool:
        """Return whether an item lies over the region and in the period."""
        moment = item.time_of(document)
        self.bounds.append(area.bounds)
        if moment is not None:
            self.times.append(moment)
        if not shapely.intersects(self.region, area):
            return False
        if moment is not None:
            self.over_region[key] = moment
        return self.span is None or moment is None or self.span[0] <= moment <= self.span[1]

    def _keep(self, key: Key, entry: Entry, area: Any) -> None:
        """Keep the newest of the documents that bear one id."""
        parsed = item.parse(
            entry.item,
            area=area,
            provider=self.provider,
            modality=self.modality,
            trust=self.trusted,
            base=entry.base,
        )
        twin = self.kept.get(key)
        if twin is None or _newness(parsed) > _newness(twin):
            self.kept[key] = parsed


def _key(entry: Entry) -> Key:
    """Return an item's collection and id; its address where it has none."""
    if not isinstance(entry.item, Mapping):
        return ("", entry.base)
    return (str(entry.item.get("collection")), str(entry.item.get("id") or entry.base))


def _newness(parsed: item.Parsed) -> tuple[dt.datetime, str]:
    """Return a key that is larger for a later processing; the rest only settles the order."""
    processed = parsed.scene.processed or dt.datetime.min.replace(tzinfo=dt.UTC)
    return (processed, json.dumps(parsed.scene.to_dict(), sort_keys=True))


def why_nothing(sieve: Sieve) -> str:
    """Say what was looked at and what to change."""
    when = "" if sieve.span is None else f" from {sieve.span[0].date()} to {sieve.span[1].date()}"
    looked = (
        f"No {sieve.modality} scene{when} over {box_in_words(sieve.region.bounds)} in "
        f"{' and '.join(sieve.collections)} of {href_policy.redact(sieve.place)}:"
    )
    return f"{looked} {_what_there_is(sieve)}{sieve.told}"


def _what_there_is(sieve: Sieve) -> str:
    seen, refused = len(sieve.seen), sieve.refused
    if refused:
        some = "; ".join(f"{one.id}: {one.reason}" for one in refused[:3])
        return f"{seen} items were looked at, {len(refused)} of them cannot be used ({some})."
    if not seen:
        return (
            f"it holds no such item. Change region or period, or leave {sieve.modality} out of "
            "the inputs."
        )
    dates = f", dated {_dates(sieve.times)}" if sieve.times else ""
    there = f"it has {seen} items{dates}, within {box_in_words(_union(sieve.bounds))}."
    if sieve.over_region and sieve.span is not None:
        return (
            f"{there} {len(sieve.over_region)} of them touch the region, dated "
            f"{_dates(sieve.over_region.values())}: change the period."
        )
    return f"{there} None of them touches the region: change the region."


def _dates(times: Iterable[dt.datetime]) -> str:
    ordered = sorted(times)
    return f"{ordered[0].date()} to {ordered[-1].date()}"


def _union(
    bounds: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    wests, souths, easts, norths = zip(*bounds, strict=True)
    return (min(wests), min(souths), max(easts), max(norths))


def box_in_words(bounds: Sequence[float]) -> str:
    """Return west, south, east, north as they are read in a message."""
    return f"[{', '.join(f'{value:.7g}' for value in bounds)}]"
