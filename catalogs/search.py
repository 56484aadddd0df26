"""Find the scenes over a region and in a period, in a static catalog or through a STAC API."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import href_policy, lonlat_geometry, providers, scene_selection
from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.scene import TIMELESS_MODALITIES
from catalogs.search_results import ModalityResults, describe_no_results, format_bbox
from catalogs.sources import static_catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalogs.href_policy import HrefPolicy
    from catalogs.providers import Provider
    from catalogs.scene import Scene
    from catalogs.scene_selection import RejectedScene

    TimeRange = tuple[dt.datetime, dt.datetime]
    ItemKey = tuple[str, str]
    # ^ collection, id


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSource:
    """A catalog as the job names it."""

    provider: str
    """Name of a provider, or path of the YAML of one: whose conventions hold."""

    location: str | None = None
    """Path or address of a static catalog, address of an API, or None for the provider's API."""

    allow: tuple[str, ...] = ()
    """More folders, hosts and s3 buckets that assets may lie in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """What a catalog left open about a scene that is used all the same."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The answer: scenes by time and id, what was refused, and what is doubtful."""

    scenes: tuple[Scene, ...]
    refused: tuple[RejectedScene, ...]
    caveats: tuple[Caveat, ...] = ()


def find_scenes(
    source: CatalogSource, modalities: Sequence[str], region: Any, period: TimeRange | None
) -> SearchResult:
    """Return every scene of the modalities that touches the region in the period.

    Args:
        source: Which catalog.
        modalities: Keys of scene.BANDS.
        region: Shapely area in longitude and latitude; what lies beyond 180 degrees is brought
            to the other side.
        period: (start, end), aware; an end at midnight stands for that whole day. None is any
            time. Timeless modalities (DEM) ignore it.

    Raises:
        InvalidInputError: The question cannot be asked, or the catalog is broken.
        NothingFoundError: One of the modalities has no usable scene; says what there is instead.
        TransientError: A server does not answer properly.
    """
    provider = providers.get(source.provider)
    _check_modalities(provider, modalities)
    region = _check_region(region)
    shapely.prepare(region)
    span = None if period is None else _to_utc_range(period)
    located = _locate_catalog(source, provider)
    trusted = href_policy.HrefPolicy(
        provider=provider,
        origin=located.location if located.is_user_named else None,
        allow=source.allow,
    )
    results = [
        ModalityResults(
            provider=provider,
            modality=modality,
            region=region,
            time_range=None if modality in TIMELESS_MODALITIES else span,
            policy=trusted,
        )
        for modality in dict.fromkeys(modalities)
    ]
    gather = _search_api if located.is_api else _search_static_catalog
    gather(located.location, trusted, results)
    return _merge_results(results)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CatalogLocation:
    location: str
    is_user_named: bool
    """Whether the user named the place, and so vouches for it."""

    is_api: bool


def _check_modalities(provider: Provider, modalities: Sequence[str]) -> None:
    if not modalities:
        raise InvalidInputError("No input is asked for: name at least one of S2L2A, S1RTC, DEM.")
    for modality in modalities:
        if modality not in provider.collections_by_modality:
            raise InvalidInputError(
                f"{provider.name} has no {modality}: it has {', '.join(provider.collections_by_modality)}. "
                "Leave it out of the inputs or use another catalog."
            )


def _check_region(region: Any) -> Any:
    if region.is_empty or region.geom_type not in ("Polygon", "MultiPolygon"):
        raise InvalidInputError("The region covers no area: give a polygon or a bbox.")
    if not region.is_valid:
        raise InvalidInputError(
            f"The region is no valid polygon: {shapely.is_valid_reason(region)}."
        )
    if not shapely.box(-360, -90, 360, 90).covers(region):
        raise InvalidInputError(
            f"The region reaches to {format_bbox(region.bounds)}, beyond longitude and "
            "latitude: write it in degrees."
        )
    return lonlat_geometry.wrap_longitudes(region)


def _to_utc_range(period: TimeRange) -> TimeRange:
    """Return the first and last moment, UTC, both inclusive."""
    start, end = period
    if start.tzinfo is None or end.tzinfo is None:
        raise InvalidInputError("The period has no time zone: give it in UTC.")
    start, end = start.astimezone(dt.UTC), end.astimezone(dt.UTC)
    if end.time() == dt.time.min:
        end += dt.timedelta(days=1, microseconds=-1)
    if start > end:
        raise InvalidInputError(f"The period is reversed: {start.date()} is after {end.date()}.")
    return start, end


def _locate_catalog(source: CatalogSource, provider: Provider) -> _CatalogLocation:
    if source.location is None:
        if provider.api is None:
            raise InvalidInputError(
                f"{provider.name} has no address of its own: give the path of its catalog."
            )
        return _CatalogLocation(location=provider.api, is_user_named=False, is_api=True)
    place = static_catalog.resolve_location(source.location)
    is_api = href_policy.is_remote(place) and _has_search_link(static_catalog.read_json(place))
    return _CatalogLocation(location=place, is_user_named=True, is_api=is_api)


def _has_search_link(document: Mapping[str, Any]) -> bool:
    links = document.get("links")
    return "conformsTo" in document or any(
        isinstance(link, Mapping) and link.get("rel") == "search"
        for link in (links if isinstance(links, list) else [])
    )


def _search_static_catalog(
    location: str, policy: HrefPolicy, results: Sequence[ModalityResults]
) -> None:
    """Fill the sieves from a static catalog."""
    by_collection = {name: sieve for sieve in results for name in sieve.collections}
    walked = static_catalog.walk(location, policy, by_collection)
    for entry in walked.items:
        by_collection[str(entry.item.get("collection"))].add_item(entry)
    for sieve in results:
        sieve.location = location
        for href, why in walked.skipped_items:
            sieve.reject_item(("", href), why)
        if not walked.collections & set(sieve.collections):
            have = ", ".join(sorted(walked.collections)) or "none"
            sieve.catalog_description = f" The catalog's collections are: {have}."


def _search_api(location: str, policy: HrefPolicy, results: Sequence[ModalityResults]) -> None:
    """Fill the sieves from a STAC API."""
    from catalogs.sources import api  # noqa: PLC0415
    # ^ pystac-client takes a while to load, and static catalogs do without

    del policy
    with api.connect(location) as opened:
        for sieve in results:
            sieve.location = location
            when = (
                None if sieve.time_range is None else "/".join(map(_format_time, sieve.time_range))
            )
            count = api.MatchCount()
            for document in api.search_items(opened, sieve.collections, sieve.region, when, count):
                sieve.add_item(
                    static_catalog.ItemDocument(item=document, base=_base_href(location, document))
                )
            if count.matched is not None and count.returned < count.matched:
                sieve.incomplete_reason = (
                    f"the catalog states {count.matched} items and gave {count.returned}"
                )
            if not sieve.parsed_items:
                told = api.describe_extents(opened, sieve.collections)
                sieve.catalog_description = "".join(
                    f" {name} runs {extent}." for name, extent in told.items()
                )


def _base_href(location: str, document: Any) -> str:
    """Return the folder that an item's relative hrefs start from."""
    collection = document.get("collection") if isinstance(document, Mapping) else None
    return f"{location.rstrip('/')}/collections/{collection}/items/"


def _format_time(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _merge_results(results: Sequence[ModalityResults]) -> SearchResult:
    empty = [sieve for sieve in results if not sieve.parsed_items]
    if empty:
        raise NothingFoundError(" ".join(describe_no_results(sieve) for sieve in empty))
    parsed = [one for sieve in results for one in sieve.parsed_items.values()]
    doubts = {Caveat(id=one.scene.id, text=text) for one in parsed for text in one.caveats}
    doubts |= {
        Caveat(id=", ".join(sieve.collections), text=sieve.incomplete_reason)
        for sieve in results
        if sieve.incomplete_reason
    }
    refused = {refusal for sieve in results for refusal in sieve.refused}
    return SearchResult(
        scenes=tuple(sorted((one.scene for one in parsed), key=scene_selection.sort_key)),
        refused=tuple(sorted(refused, key=lambda refusal: (refusal.id, refusal.reason))),
        caveats=tuple(sorted(doubts, key=lambda doubt: (doubt.id, doubt.text))),
    )
