"""Find the scenes over a region and in a period, in a static catalog or through a STAC API."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import href_policy, lonlat_geometry, providers, scene_selection
from catalogs.errors import NothingFound, Wrong
from catalogs.scene import TIMELESS
from catalogs.search_results import Sieve, box_in_words, why_nothing
from catalogs.sources import static_catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalogs.href_policy import Trust
    from catalogs.providers import Provider
    from catalogs.scene import Scene
    from catalogs.scene_selection import Refusal

    Period = tuple[dt.datetime, dt.datetime]
    Key = tuple[str, str]
    # ^ collection, id


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A catalog as the job names it."""

    provider: str
    """Name of a provider, or path of the YAML of one: whose conventions hold."""

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
        region: Shapely area in longitude and latitude; what lies beyond 180 degrees is brought
            to the other side.
        period: (start, end), aware; an end at midnight stands for that whole day. None is any
            time. Timeless modalities (DEM) ignore it.

    Raises:
        Wrong: The question cannot be asked, or the catalog is broken.
        NothingFound: One of the modalities has no usable scene; says what there is instead.
        Transient: A server does not answer properly.
    """
    provider = providers.get(source.provider)
    _check_modalities(provider, modalities)
    region = _checked(region)
    shapely.prepare(region)
    span = None if period is None else _span(period)
    located = _locate(source, provider)
    trusted = href_policy.Trust(
        provider=provider, origin=located.place if located.named else None, allow=source.allow
    )
    results = [
        Sieve(
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


def _check_modalities(provider: Provider, modalities: Sequence[str]) -> None:
    if not modalities:
        raise Wrong("No input is asked for: name at least one of S2L2A, S1RTC, DEM.")
    for modality in modalities:
        if modality not in provider.collections:
            raise Wrong(
                f"{provider.name} has no {modality}: it has {', '.join(provider.collections)}. "
                "Leave it out of the inputs or use another catalog."
            )


def _checked(region: Any) -> Any:
    if region.is_empty or region.geom_type not in ("Polygon", "MultiPolygon"):
        raise Wrong("The region covers no area: give a polygon or a bbox.")
    if not region.is_valid:
        raise Wrong(f"The region is no valid polygon: {shapely.is_valid_reason(region)}.")
    if not shapely.box(-360, -90, 360, 90).covers(region):
        raise Wrong(
            f"The region reaches to {box_in_words(region.bounds)}, beyond longitude and "
            "latitude: write it in degrees."
        )
    return lonlat_geometry.within_world(region)


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
    place = static_catalog.absolute(source.location)
    is_api = href_policy.is_remote(place) and _offers_search(static_catalog.read(place))
    return _Located(place=place, named=True, is_api=is_api)


def _offers_search(document: Mapping[str, Any]) -> bool:
    links = document.get("links")
    return "conformsTo" in document or any(
        isinstance(link, Mapping) and link.get("rel") == "search"
        for link in (links if isinstance(links, list) else [])
    )


def _read(place: str, trusted: Trust, sieves: Sequence[Sieve]) -> None:
    """Fill the sieves from a static catalog."""
    by_collection = {name: sieve for sieve in sieves for name in sieve.collections}
    walked = static_catalog.walk(place, trusted, by_collection)
    for entry in walked.entries:
        by_collection[str(entry.item.get("collection"))].take(entry)
    for sieve in sieves:
        sieve.place = place
        for href, why in walked.astray:
            sieve.drop(("", href), why)
        if not walked.collections & set(sieve.collections):
            have = ", ".join(sorted(walked.collections)) or "none"
            sieve.told = f" The catalog's collections are: {have}."


def _ask(place: str, trusted: Trust, sieves: Sequence[Sieve]) -> None:
    """Fill the sieves from a STAC API."""
    from catalogs.sources import api  # noqa: PLC0415
    # ^ pystac-client takes a while to load, and static catalogs do without

    del trusted
    with api.connect(place) as opened:
        for sieve in sieves:
            sieve.place = place
            when = None if sieve.span is None else "/".join(map(_stamp, sieve.span))
            count = api.Count()
            for document in api.items(opened, sieve.collections, sieve.region, when, count):
                sieve.take(static_catalog.Entry(item=document, base=_base(place, document)))
            if count.stated is not None and count.given < count.stated:
                sieve.short = f"the catalog states {count.stated} items and gave {count.given}"
            if not sieve.kept:
                told = api.extents(opened, sieve.collections)
                sieve.told = "".join(f" {name} runs {extent}." for name, extent in told.items())


def _base(place: str, document: Any) -> str:
    """Return the folder that an item's relative hrefs start from."""
    collection = document.get("collection") if isinstance(document, Mapping) else None
    return f"{place.rstrip('/')}/collections/{collection}/items/"


def _stamp(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _together(sieves: Sequence[Sieve]) -> Found:
    empty = [sieve for sieve in sieves if not sieve.kept]
    if empty:
        raise NothingFound(" ".join(why_nothing(sieve) for sieve in empty))
    parsed = [one for sieve in sieves for one in sieve.kept.values()]
    doubts = {Doubt(id=one.scene.id, text=text) for one in parsed for text in one.doubts}
    doubts |= {
        Doubt(id=", ".join(sieve.collections), text=sieve.short) for sieve in sieves if sieve.short
    }
    refused = {refusal for sieve in sieves for refusal in sieve.refused}
    return Found(
        scenes=tuple(sorted((one.scene for one in parsed), key=scene_selection.order)),
        refused=tuple(sorted(refused, key=lambda refusal: (refusal.id, refusal.reason))),
        doubts=tuple(sorted(doubts, key=lambda doubt: (doubt.id, doubt.text))),
    )
