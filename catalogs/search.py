"""Find the scenes over a region and in a period, in a static catalog or through a STAC API."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import api, footprint, item, providers, select, static, trust
from catalogs.errors import NothingFound, Wrong
from catalogs.scene import TIMELESS
from catalogs.select import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from catalogs.providers import Provider
    from catalogs.scene import Scene
    from catalogs.static import Entry
    from catalogs.trust import Trust

    Period = tuple[dt.datetime, dt.datetime]

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What a foreign document of unexpected form raises while it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A catalog as the job names it."""

    provider: str
    """Name in providers.PROVIDERS: whose conventions hold."""

    location: str | None = None
    """Path or address of a static catalog, address of an API, or None for the provider's API."""

    allow: tuple[str, ...] = ()
    """More folders, hosts and s3 buckets that assets may lie in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What a catalog left open about a scene that is used all the same."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer: scenes by time and id, what was refused, and what is doubtful."""

    scenes: tuple[Scene, ...]
    refused: tuple[Refusal, ...]
    doubts: tuple[Doubt, ...] = ()


def find(source: Source, modalities: Sequence[str], region: Any, period: Period | None) -> Found:
    """Return every scene of the modalities that touches the region in the period.

    Args:
        source: Which catalog.
        modalities: Keys of scene.BANDS.
        region: Shapely area in longitude and latitude, within -180..180.
        period: (start, end), aware; an end at midnight stands for that whole day. None is any
            time. Timeless modalities (DEM) ignore it.

    Raises:
        Wrong: The question cannot be asked, or the catalog is broken.
        NothingFound: One of the modalities has no usable scene; says what there is instead.
        Transient: A server does not answer properly.
    """
    provider = providers.get(source.provider)
    _check_modalities(provider, modalities)
    _check_region(region)
    shapely.prepare(region)
    span = None if period is None else _span(period)
    located = _locate(source, provider)
    trusted = trust.Trust(
        provider=provider, origin=located.place if located.named else None, allow=source.allow
    )
    results = [
        _Sieve(
            provider=provider,
            modality=modality,
            region=region,
            span=None if modality in TIMELESS else span,
            trusted=trusted,
        )
        for modality in dict.fromkeys(modalities)
    ]
    gather = _ask if located.is_api else _read
    gather(located.place, trusted, results)
    return _together(results)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Located:
    place: str
    named: bool
    """Whether the user named the place, and so vouches for it."""

    is_api: bool


@dataclass(slots=True, kw_only=True)
class _Sieve:
    """Takes the entries of one modality one by one, and knows afterwards what it saw."""

    provider: Provider
    modality: str
    region: Any
    span: Period | None
    trusted: Trust
    place: str = ""
    scenes: dict[tuple[str, str], Scene] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    seen: int = 0
    over_region: list[dt.datetime] = field(default_factory=list)
    times: list[dt.datetime] = field(default_factory=list)
    bounds: list[tuple[float, float, float, float]] = field(default_factory=list)
    told: str = ""
    """What the catalog itself says about its collections."""

    @property
    def collections(self) -> tuple[str, ...]:
        return self.provider.collections[self.modality]

    def take(self, entry: Entry) -> None:
        """Sort one item into scenes, refused, or off the question."""
        self.seen += 1
        name = str(entry.item.get("id") or entry.base)
        try:
            area = footprint.of_item(entry.item)
            if self._asked_for(entry.item, area):
                self._keep(entry, area)
        except Wrong as error:
            self.refused[name] = Refusal(id=name, reason=str(error).rstrip("."))
        except MALFORMED as error:
            reason = f"malformed item: {type(error).__name__} {error}"
            self.refused[name] = Refusal(id=name, reason=reason.rstrip("."))

    def _asked_for(self, document: Mapping[str, Any], area: Any) -> bool:
        """Return whether an item lies over the region and in the period."""
        moment = item.time_of(document)
        self.bounds.append(area.bounds)
        if moment is not None:
            self.times.append(moment)
        if not shapely.intersects(self.region, area):
            return False
        if moment is not None:
            self.over_region.append(moment)
        return self.span is None or moment is None or self.span[0] <= moment <= self.span[1]

    def _keep(self, entry: Entry, area: Any) -> None:
        parsed = item.parse(
            entry.item,
            area=area,
            provider=self.provider,
            modality=self.modality,
            trust=self.trusted,
            base=entry.base,
        )
        self.scenes.setdefault((parsed.scene.collection, parsed.scene.id), parsed.scene)
        self.doubts += [Doubt(id=parsed.scene.id, text=text) for text in parsed.doubts]


def _check_modalities(provider: Provider, modalities: Sequence[str]) -> None:
    if not modalities:
        raise Wrong("No input is asked for: name at least one of S2L2A, S1RTC, DEM.")
    for modality in modalities:
        if modality not in provider.collections:
            raise Wrong(
                f"{provider.name} has no {modality}: it has {', '.join(provider.collections)}. "
                "Leave it out of the inputs or use another catalog."
            )


def _check_region(region: Any) -> None:
    if region.is_empty or region.geom_type not in ("Polygon", "MultiPolygon"):
        raise Wrong("The region covers no area: give a polygon or a bbox.")
    if not region.is_valid:
        raise Wrong(f"The region is no valid polygon: {shapely.is_valid_reason(region)}.")
    if not footprint.WORLD.covers(region):
        raise Wrong(
            f"The region reaches to {_box_in_words(region.bounds)}, beyond longitude and "
            "latitude: write it in degrees, and in two parts where it crosses 180 degrees."
        )


def _span(period: Period) -> Period:
    """Return the first and last moment, UTC, both inclusive."""
    start, end = period
    if start.tzinfo is None or end.tzinfo is None:
        raise Wrong("The period has no time zone: give it in UTC.")
    start, end = start.astimezone(dt.UTC), end.astimezone(dt.UTC)
    if end.time() == dt.time.min:
        end += dt.timedelta(days=1, microseconds=-1)
    if start > end:
        raise Wrong(f"The period is reversed: {start.date()} is after {end.date()}.")
    return start, end


def _locate(source: Source, provider: Provider) -> _Located:
    if source.location is None:
        if provider.api is None:
            raise Wrong(f"{provider.name} has no address of its own: give the path of its catalog.")
        return _Located(place=provider.api, named=False, is_api=True)
    place = static.absolute(source.location)
    is_api = trust.is_remote(place) and _offers_search(static.read(place))
    return _Located(place=place, named=True, is_api=is_api)


def _offers_search(document: Mapping[str, Any]) -> bool:
    links = document.get("links") or []
    return "conformsTo" in document or any(link.get("rel") == "search" for link in links)


def _read(place: str, trusted: Trust, sieves: Sequence[_Sieve]) -> None:
    """Fill the sieves from a static catalog."""
    by_collection = {name: sieve for sieve in sieves for name in sieve.collections}
    walked = static.walk(place, trusted, by_collection)
    for entry in walked.entries:
        by_collection[str(entry.item.get("collection"))].take(entry)
    for sieve in sieves:
        sieve.place = place
        sieve.refused |= {href: Refusal(id=href, reason=why) for href, why in walked.astray}
        if not walked.collections & set(sieve.collections):
            have = ", ".join(sorted(walked.collections)) or "none"
            sieve.told = f" The catalog's collections are: {have}."


def _ask(place: str, trusted: Trust, sieves: Sequence[_Sieve]) -> None:
    """Fill the sieves from a STAC API."""
    del trusted
    with api.connect(place) as client:
        for sieve in sieves:
            sieve.place = place
            when = None if sieve.span is None else "/".join(map(_stamp, sieve.span))
            for document in api.items(client, sieve.collections, sieve.region, when):
                base = f"{place.rstrip('/')}/collections/{document.get('collection')}/items/"
                sieve.take(static.Entry(item=document, base=base))
            if not sieve.scenes:
                told = api.extents(client, sieve.collections)
                sieve.told = "".join(f" {name} runs {extent}." for name, extent in told.items())


def _stamp(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _together(sieves: Sequence[_Sieve]) -> Found:
    empty = [sieve for sieve in sieves if not sieve.scenes]
    if empty:
        raise NothingFound(" ".join(_why_nothing(sieve) for sieve in empty))
    scenes = [scene for sieve in sieves for scene in sieve.scenes.values()]
    refused = {refusal.id: refusal for sieve in sieves for refusal in sieve.refused.values()}
    doubts = {(doubt.id, doubt.text): doubt for sieve in sieves for doubt in sieve.doubts}
    return Found(
        scenes=tuple(sorted(scenes, key=select.order)),
        refused=tuple(refused[name] for name in sorted(refused)),
        doubts=tuple(doubts[key] for key in sorted(doubts)),
    )


def _why_nothing(sieve: _Sieve) -> str:
    """Say what was looked at and what to change."""
    when = "" if sieve.span is None else f" from {sieve.span[0].date()} to {sieve.span[1].date()}"
    looked = (
        f"No {sieve.modality} scene{when} over {_box_in_words(sieve.region.bounds)} in "
        f"{' and '.join(sieve.collections)} of {trust.redact(sieve.place)}:"
    )
    return f"{looked} {_what_there_is(sieve)}{sieve.told}"


def _what_there_is(sieve: _Sieve) -> str:
    if sieve.refused:
        some = "; ".join(f"{one.id}: {one.reason}" for one in list(sieve.refused.values())[:3])
        return (
            f"{sieve.seen} items were looked at, {len(sieve.refused)} of them cannot be used "
            f"({some})."
        )
    if not sieve.seen:
        return (
            f"it holds no such item. Change region or period, or leave {sieve.modality} out of "
            "the inputs."
        )
    dates = f", dated {_dates(sieve.times)}" if sieve.times else ""
    there = f"it has {sieve.seen} items{dates}, within {_box_in_words(_union(sieve.bounds))}."
    if sieve.over_region and sieve.span is not None:
        return (
            f"{there} {len(sieve.over_region)} of them touch the region, dated "
            f"{_dates(sieve.over_region)}: change the period."
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


def _box_in_words(bounds: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.7g}' for value in bounds)}]"
