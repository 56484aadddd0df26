"""Searching a static catalog or a STAC API for the scenes of a region and a period."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import href_policy, lonlat_geometry, passes, providers
from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.scene import Caveat, format_time
from catalogs.search.search_results import (
    ModalityResults,
    TimeRange,
    describe_no_results,
    format_bbox,
)
from catalogs.sensors import get_sensor
from catalogs.sources import static_catalog
from catalogs.stac.collection import identify_collection
from catalogs.stac.parsing import UnusableItemError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalogs.href_policy import HrefPolicy
    from catalogs.providers import Provider
    from catalogs.scene import RejectedScene, Scene
    from catalogs.sources.stac_api import StacApi


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSource:
    """The catalog to search, as the job names it."""

    provider: str
    """Name of the provider whose conventions hold, or path of a provider table (YAML)."""

    location: str | None = None
    """Path or URL of a static catalog, URL of an API, or None for the provider's API."""

    allow: tuple[str, ...] = ()
    """More folders, hosts and S3 buckets that assets may be read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The scenes of a search by time and id, the rejected ones, and caveats."""

    scenes: tuple[Scene, ...]
    refused: tuple[RejectedScene, ...]
    caveats: tuple[Caveat, ...] = ()


def find_scenes(
    source: CatalogSource, modalities: Sequence[str], region: Any, period: TimeRange | None
) -> SearchResult:
    """Find every scene of the modalities that touches the region in the period.

    Args:
        source: The catalog to search.
        modalities: Names of sensors.
        region: Shapely area in longitude and latitude; it may extend beyond 180 degrees.
        period: (start, end) with a time zone, both inclusive; an end at midnight includes that
            whole day, an end in whole seconds that whole second. None is any time. The time of an
            item in UTC decides. Modalities without a time (DEM) ignore it.

    Raises:
        InvalidInputError: The request is invalid, or the catalog is broken.
        NothingFoundError: A modality has no usable scene; the message says what there is instead.
        TransientError: A server is busy, unreachable or sends a broken response.
    """
    provider = providers.get(source.provider)
    _check_modalities(provider, modalities)
    region = _check_region(region)
    shapely.prepare(region)
    time_range = None if period is None else _to_utc_range(period)
    catalog = _locate_catalog(source, provider)
    policy = href_policy.HrefPolicy(
        provider=provider,
        origin=catalog.location if catalog.is_user_named else None,
        allow=source.allow,
    )
    results = [
        ModalityResults(
            provider=provider,
            modality=modality,
            region=region,
            time_range=time_range if get_sensor(modality).is_temporal else None,
            policy=policy,
        )
        for modality in dict.fromkeys(modalities)
    ]
    if catalog.is_api:
        _search_api(catalog.location, results)
    else:
        _search_static_catalog(catalog.location, policy, results)
    return _merge_results(results)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CatalogLocation:
    location: str
    is_user_named: bool
    """Whether the user named the location, so that its folder or host is trusted."""

    is_api: bool


def _check_modalities(provider: Provider, modalities: Sequence[str]) -> None:
    if not modalities:
        raise InvalidInputError("The job has no inputs: name at least one of S2L2A, S1RTC, DEM.")
    for modality in modalities:
        if modality not in provider.collections_by_modality:
            raise InvalidInputError(
                f"{provider.name} has no {modality}: it has "
                f"{', '.join(provider.collections_by_modality)}. Leave {modality} out of the "
                "inputs or use another catalog."
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
            f"The region extends to {format_bbox(region.bounds)}, which is no longitude and "
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
    elif not end.microsecond:
        end += dt.timedelta(seconds=1, microseconds=-1)
        # ^ else a scene in the last second of a period would be in none
    if start > end:
        raise InvalidInputError(f"The period is reversed: {start.date()} is after {end.date()}.")
    return start, end


def _locate_catalog(source: CatalogSource, provider: Provider) -> _CatalogLocation:
    if source.location is None:
        if provider.api is None:
            raise InvalidInputError(
                f"{provider.name} has no STAC API of its own: give the path or URL of a catalog."
            )
        return _CatalogLocation(location=provider.api, is_user_named=False, is_api=True)
    location = static_catalog.resolve_location(source.location)
    is_api = href_policy.is_remote(location) and _has_search_link(
        static_catalog.read_json(location)
    )
    return _CatalogLocation(location=location, is_user_named=True, is_api=is_api)


def _has_search_link(document: Mapping[str, Any]) -> bool:
    links = document.get("links")
    return "conformsTo" in document or any(
        isinstance(link, Mapping) and link.get("rel") == "search"
        for link in (links if isinstance(links, list) else [])
    )


def _search_static_catalog(
    location: str, policy: HrefPolicy, results: Sequence[ModalityResults]
) -> None:
    """Fill the results from a static catalog."""
    by_collection = {name: result for result in results for name in result.collections}
    walked = static_catalog.walk(location, policy, by_collection)
    for entry in walked.items:
        by_collection[entry.collection].add_item(entry)
    for result in results:
        result.location = location
        result.incomplete_reason = "; ".join(walked.incomplete_reasons)
        for href, reason in walked.skipped_items:
            result.reject_item(("", href), reason)
        if not walked.collections & set(result.collections):
            result.catalog_description = _describe_collections(walked)


def _search_api(location: str, results: Sequence[ModalityResults]) -> None:
    """Fill the results from a STAC API."""
    from catalogs.sources import stac_api  # noqa: PLC0415
    # ^ pystac-client takes a while to load, and static catalogs do without

    with stac_api.connect(location) as connection:
        for result in results:
            result.location = location
            interval = (
                None if result.time_range is None else "/".join(map(format_time, result.time_range))
            )
            count = stac_api.MatchCount()
            for document in stac_api.search_items(
                connection, result.collections, result.region, interval, count
            ):
                _add_api_item(result, document, connection)
            if count.matched is not None and count.returned < count.matched:
                result.incomplete_reason = (
                    f"the catalog states {count.matched} items and returned {count.returned}"
                )
            if not result.documents:
                extents = stac_api.describe_extents(connection, result.collections)
                result.catalog_description = "".join(
                    f" {name} runs {extent}." for name, extent in extents.items()
                )


def _add_api_item(result: ModalityResults, document: Any, api: StacApi) -> None:
    """Add an item of an API, which may state no collection where one was requested."""
    is_only = len(result.collections) == 1
    base = static_catalog.get_self_href(document)
    try:
        name = identify_collection(
            document, result.provider, parent=result.collections[0] if is_only else None
        )
    except UnusableItemError as error:
        item_id = document.get("id") if isinstance(document, Mapping) else None
        result.reject_item(("", str(item_id or href_policy.redact(api.url))), str(error))
        return
    result.add_item(
        static_catalog.ItemDocument(
            item=document,
            collection=name,
            base=base or f"{api.url.rstrip('/')}/collections/{name}/items/",
            href=api.item_url(document, name),
        )
    )


def _describe_collections(walked: static_catalog.WalkResult) -> str:
    """Return what a catalog has instead of the requested collections, as sentences."""
    names = ", ".join(sorted(walked.collections)) or "none"
    text = f" The catalog's collections are: {names}."
    if walked.collections:
        text += (
            " A collection of another name, or in other upper and lower case, can be mapped with "
            "a provider table of your own (docs/providers.md)."
        )
    if walked.skipped_children:
        text += (
            f" Its parts {', '.join(sorted(walked.skipped_children))} were not entered, as they "
            "have the names of other providers."
        )
    return text


def _merge_results(results: Sequence[ModalityResults]) -> SearchResult:
    empty = [result for result in results if not result.documents]
    if empty:
        raise NothingFoundError(" ".join(map(describe_no_results, empty)))
    parsed = [item for result in results for item in result.parsed_items]
    caveats = {Caveat(id=item.scene.id, text=text) for item in parsed for text in item.caveats}
    caveats |= {
        Caveat(id=", ".join(result.collections), text=result.incomplete_reason)
        for result in results
        if result.incomplete_reason
    }
    refused = {scene for result in results for scene in result.refused}
    return SearchResult(
        scenes=tuple(sorted((item.scene for item in parsed), key=passes.sort_key)),
        refused=tuple(sorted(refused, key=lambda scene: (scene.id, scene.reason))),
        caveats=tuple(sorted(caveats, key=lambda caveat: (caveat.id, caveat.text))),
    )
