"""The collection of an item: the one that it states, or the only one that it can belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from catalogs.stac.asset_selection import describe_assets, select_assets
from catalogs.stac.parsing import UnusableItemError, format_value

if TYPE_CHECKING:
    from catalogs.providers.schema import Provider

OPTICAL_LEVELS = ("S2L1C", "S2L2A")
"""Modalities that no collection may confuse: reflectance above and below the atmosphere."""

_MODALITY_BY_PRODUCT_TYPE = {
    "S2MSI1C": "S2L1C",
    "S2MSI2A": "S2L2A",
    "RTC": "S1RTC",
    "GRD": "S1GRD",
}
_PRODUCT_TYPE_KEYS = ("product:type", "s2:product_type", "sar:product_type")
_LEVEL_IN_NAME = re.compile(r"_MSI(L1C|L2A)_", re.ASCII)


def identify_collection(item: Any, provider: Provider, *, parent: str | None = None) -> str:
    """Return the id of the collection that an item belongs to.

    An item that states none, as stactools writes them, belongs to the collection whose document
    links to it, or else to the only collection of the provider whose asset names it has.

    Args:
        item: A STAC item, or any other JSON value.
        provider: The provider whose conventions hold.
        parent: Id of the collection whose document links to the item.

    Raises:
        UnusableItemError: It states no collection, and none or several of the provider fit.
    """
    if not isinstance(item, Mapping):
        raise UnusableItemError(f"it is no STAC item but {format_value(item)}")
    stated = item.get("collection")
    if stated is not None and stated != "":
        return stated if isinstance(stated, str) else format_value(stated)
    if parent is not None:
        return parent
    candidates = {
        name: collection.modality
        for name, collection in provider.collections_by_id.items()
        if select_assets(item, collection)
    }
    modality = _read_product_modality(item)
    of_modality = [name for name in candidates if candidates[name] == modality]
    names = of_modality or list(candidates)
    if not names:
        raise UnusableItemError(
            "it names no collection, and its assets are those of no collection of "
            f"{provider.name}: {describe_assets(item)}"
        )
    if len(names) > 1:
        raise UnusableItemError(
            f"it names no collection, and its assets fit {' and '.join(names)} of "
            f"{provider.name}: write one of them into its `collection`"
        )
    if modality in OPTICAL_LEVELS and not of_modality:
        raise UnusableItemError(
            f"it names no collection, and is a product of {modality}, while {names[0]} of "
            f"{provider.name} holds {candidates[names[0]]}"
        )
    return names[0]


def _read_product_modality(item: Mapping[str, Any]) -> str | None:
    """Return the modality that the item's product type or name states."""
    properties = item.get("properties")
    if isinstance(properties, Mapping):
        for key in _PRODUCT_TYPE_KEYS:
            modality = _MODALITY_BY_PRODUCT_TYPE.get(str(properties.get(key)).upper())
            if modality is not None:
                return modality
    level = _LEVEL_IN_NAME.search(str(item.get("id")))
    return f"S2{level[1]}" if level else None
