"""Legends: codes, names and colours of classes, for rasters, styles, STAC and reports.

A legend belongs to a model. :data:`LAND_COVER` is that of TerraMind and of models whose classes are
among its ten; other models have a legend of their own, whose codes are the numbers of the classes
in the model's output and, so, those of the masks that it was trained with.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from catalogs import default_class_colors
from catalogs.default_class_colors import Color

OWN_NODATA = 255
"""Nodata of legends other than :data:`LAND_COVER`: 0 is their first class."""

MAX_CLASSES = 254
"""Largest number of classes of a legend: codes have 8 bits."""

MAX_NAME_LENGTH = 100
_NO_DATA_NAMES = ("nodata", "no_data", "no-data", "no data")


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendClass:
    """One class of a legend."""

    code: int
    """Value in the published raster."""

    name: str
    """Name in the model."""

    title: str
    """Title for legends and reports."""

    color: Color

    is_gap: bool = False
    """Whether it is never mapped, as clouds in a map of land cover: a pixel whose most probable
    class it is has no class."""

    @property
    def color_hint(self) -> str:
        """Return the colour as six hexadecimal digits, without ``#``."""
        return default_class_colors.format_color(self.color)


@dataclass(frozen=True, kw_only=True)
class Legend:
    """The classes of a map and the code of pixels without a class."""

    classes: tuple[LegendClass, ...]
    """In the order of tables and styles; the class of nodata is among them."""

    nodata: int
    """Code of pixels without a class: outside of the region, not observed, or not classified."""

    def __post_init__(self) -> None:
        codes = [entry.code for entry in self.classes]
        if len(set(codes)) < len(codes) or not all(0 <= code <= 255 for code in codes):
            raise ValueError(f"the codes of a legend must differ and lie in 0 to 255, not {codes}")
        if self.nodata not in codes:
            raise ValueError(f"the legend has no class with the code of nodata, {self.nodata}")

    @functools.cached_property
    def by_name(self) -> Mapping[str, LegendClass]:
        """Return name → class."""
        return {entry.name: entry for entry in self.classes}

    @functools.cached_property
    def by_code(self) -> Mapping[int, LegendClass]:
        """Return code → class."""
        return {entry.code: entry for entry in self.classes}

    @property
    def mapped_classes(self) -> tuple[LegendClass, ...]:
        """Return the classes that a map can have, without nodata."""
        return tuple(entry for entry in self.classes if entry.code != self.nodata)

    @functools.cached_property
    def identifiers(self) -> Mapping[int, str]:
        """Return code → name in letters, digits, dashes and underscores, as STAC and CF require.

        Accents are removed; a name without any such letter gives ``class_<code>``.
        """
        identifiers: dict[int, str] = {}
        for entry in self.classes:
            ascii_name = fold_to_ascii(entry.name)
            identifier = re.sub(r"[^0-9A-Za-z-]+", "_", ascii_name).strip("_")
            identifier = identifier or f"class_{entry.code}"
            while identifier in identifiers.values():
                identifier += f"_{entry.code}"
            identifiers[entry.code] = identifier
        return identifiers

    def to_dict(self) -> dict[str, Any]:
        """Return the legend as JSON-ready values."""
        return {
            "nodata": self.nodata,
            "classes": [
                {
                    "code": entry.code,
                    "name": entry.name,
                    **({"title": entry.title} if entry.title != entry.name else {}),
                    "color": entry.color_hint,
                    **({"gap": True} if entry.is_gap else {}),
                }
                for entry in self.classes
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Legend:
        """Build a legend from :meth:`to_dict`'s values."""
        return cls(
            nodata=values["nodata"],
            classes=tuple(
                LegendClass(
                    code=entry["code"],
                    name=entry["name"],
                    title=entry.get("title", entry["name"]),
                    color=default_class_colors.parse_color(entry["color"]),
                    is_gap=entry.get("gap", False),
                )
                for entry in values["classes"]
            ),
        )


def fold_to_ascii(text: str) -> str:
    """Return a text without accents and without characters that ASCII lacks."""
    decomposed = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return decomposed.encode("ascii", "ignore").decode().strip()


LAND_COVER = Legend(
    nodata=0,
    classes=(
        LegendClass(code=0, name="nodata", title="No data", color=(0, 0, 0), is_gap=True),
        LegendClass(code=1, name="water", title="Water", color=(65, 155, 223)),
        LegendClass(code=2, name="trees", title="Trees", color=(57, 125, 73)),
        LegendClass(
            code=4, name="flooded_vegetation", title="Flooded vegetation", color=(122, 135, 198)
        ),
        LegendClass(code=5, name="crops", title="Crops", color=(228, 150, 53)),
        LegendClass(code=7, name="built", title="Built area", color=(196, 40, 27)),
        LegendClass(code=8, name="bare", title="Bare ground", color=(165, 155, 143)),
        LegendClass(code=9, name="snow_ice", title="Snow and ice", color=(168, 235, 255)),
        LegendClass(code=10, name="clouds", title="Clouds", color=(97, 97, 97), is_gap=True),
        LegendClass(code=11, name="rangeland", title="Rangeland", color=(227, 226, 195)),
    ),
)
"""The land-cover legend: the public codes and colours of the Impact Observatory / Esri 10 m land
cover (nine classes). The order is that of TerraMind's LULC modality, which squeezes the same
classes to 0..9."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDefinition:
    """What a model or a job states about one of its classes; None for what it leaves open."""

    name: str
    title: str | None = None
    color: Color | None = None
    code: int | None = None
    is_gap: bool = False


def check_class_names(names: Sequence[str]) -> None:
    """Check the names of a model's classes.

    Raises:
        ValueError: there are fewer than two names or too many, one is empty or too long, or two are
            equal or differ only by case.
    """
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"{len(names)} classes: a map has 2 to {MAX_CLASSES}.")
    first_by_key: dict[str, str] = {}
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"the class name {name!r} is not a text of 1 to {MAX_NAME_LENGTH} printable "
                "characters."
            )
        key = unicodedata.normalize("NFKC", name).strip().casefold()
        if key in first_by_key:
            first_name = first_by_key[key]
            problem = (
                f"the class {name!r} is named more than once"
                if first_name == name
                else f"the classes {first_name!r} and {name!r} differ only by case or blanks"
            )
            raise ValueError(f"{problem}: each class needs a name of its own.")
        first_by_key[key] = name


def is_land_cover(definitions: Sequence[ClassDefinition]) -> bool:
    """Tell whether all classes are among the ten of :data:`LAND_COVER`, without other codes."""
    return all(
        definition.name in LAND_COVER.by_name and definition.code is None
        for definition in definitions
    )


def build_legend(definitions: Sequence[ClassDefinition]) -> Legend:
    """Build the legend of a model from what is stated about its classes, in the model's order.

    Classes that are all among the ten of :data:`LAND_COVER` have its codes, and its titles and
    colours where none are stated. Otherwise the code of a class is its number, from 0, and that of
    nodata is :data:`OWN_NODATA`; a class called "no data" is nodata.

    Raises:
        ValueError: the names are not valid, or two classes have the same code.
    """
    check_class_names([definition.name for definition in definitions])
    if is_land_cover(definitions):
        return _customise_land_cover(definitions)
    colors = default_class_colors.choose_colors(
        [definition.name for definition in definitions],
        [definition.color for definition in definitions],
    )
    entries = tuple(
        LegendClass(
            code=_choose_code(definition, index),
            name=definition.name,
            title=definition.title or definition.name,
            color=color,
            is_gap=definition.is_gap or _is_no_data(definition),
        )
        for index, (definition, color) in enumerate(zip(definitions, colors, strict=True))
    )
    codes = [entry.code for entry in entries]
    if len(set(codes)) < len(codes):
        raise ValueError(
            f"the codes of the classes are {', '.join(map(str, codes))}, and one comes more than "
            "once: give each class another code, or none at all."
        )
    no_data = LegendClass(
        code=OWN_NODATA, name="nodata", title="No data", color=(0, 0, 0), is_gap=True
    )
    return Legend(
        nodata=OWN_NODATA, classes=entries if OWN_NODATA in codes else (*entries, no_data)
    )


def _customise_land_cover(definitions: Sequence[ClassDefinition]) -> Legend:
    """Return :data:`LAND_COVER` with the titles and colours that are stated."""
    stated = {definition.name: definition for definition in definitions}
    return replace(
        LAND_COVER,
        classes=tuple(
            replace(
                entry,
                title=stated[entry.name].title or entry.title,
                color=stated[entry.name].color or entry.color,
                is_gap=stated[entry.name].is_gap or entry.is_gap,
            )
            if entry.name in stated
            else entry
            for entry in LAND_COVER.classes
        ),
    )


def _choose_code(definition: ClassDefinition, index: int) -> int:
    if definition.code is not None:
        return definition.code
    return OWN_NODATA if _is_no_data(definition) else index


def _is_no_data(definition: ClassDefinition) -> bool:
    return definition.name.strip().casefold() in _NO_DATA_NAMES
