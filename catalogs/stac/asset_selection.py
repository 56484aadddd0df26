"""Select the asset of each band of an item, by the names that the provider's table lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from catalogs.stac.parsing import format_value, get_list

if TYPE_CHECKING:
    from catalogs.providers.schema import ProviderCollection


def select_assets(
    item: Mapping[str, Any], collection: ProviderCollection
) -> dict[str, Mapping[str, Any]]:
    """Return the asset of each band: the first named asset that exists and holds one band.

    Names that differ in upper and lower case only are equal, unless two assets have such names.
    """
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        return {}
    names_by_folded: dict[str, list[str]] = {}
    for name in assets:
        names_by_folded.setdefault(str(name).casefold(), []).append(name)
    selected = {}
    for band, candidates in collection.names.items():
        for candidate in candidates:
            spellings = names_by_folded.get(candidate.casefold(), [])
            name = candidate if candidate in assets or len(spellings) != 1 else spellings[0]
            asset = assets.get(name)
            if isinstance(asset, Mapping) and _count_bands(asset) == 1:
                selected[band] = asset
                break
    return selected


def describe_assets(item: Mapping[str, Any]) -> str:
    """Return the names of an item's assets for a message."""
    assets = item.get("assets")
    names = ", ".join(sorted(map(str, assets))[:8]) if isinstance(assets, Mapping) else ""
    return format_value(names or "none")[1:-1]


def _count_bands(asset: Mapping[str, Any]) -> int:
    return max(1, *(len(get_list(asset, key)) for key in ("bands", "raster:bands", "eo:bands")))
