"""The land-cover legend: codes, names and colours for rasters, styles, STAC and docs.

Codes and colours are the public ones of the Impact Observatory / Esri 10 m land cover
(nine-class legend); the index is the order of TerraMind's LULC modality, which squeezes the
same classes to 0..9.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LandCoverClass:
    """One class of the legend."""

    code: int
    """Value in the published raster."""

    index: int
    """Position in TerraMind's LULC modality."""

    name: str
    """Identifier, in the form of STAC's classification extension."""

    title: str
    """Title for legends and reports."""

    color: tuple[int, int, int]
    """Red, green and blue, 0 to 255."""

    @property
    def color_hint(self) -> str:
        """Return the colour as six hexadecimal digits, without ``#``."""
        return "".join(f"{channel:02X}" for channel in self.color)


NODATA = 0
"""Code of pixels without a class: outside of the region or not observed."""

CLASSES: tuple[LandCoverClass, ...] = (
    LandCoverClass(code=0, index=0, name="nodata", title="No data", color=(0, 0, 0)),
    LandCoverClass(code=1, index=1, name="water", title="Water", color=(65, 155, 223)),
    LandCoverClass(code=2, index=2, name="trees", title="Trees", color=(57, 125, 73)),
    LandCoverClass(
        code=4,
        index=3,
        name="flooded_vegetation",
        title="Flooded vegetation",
        color=(122, 135, 198),
    ),
    LandCoverClass(code=5, index=4, name="crops", title="Crops", color=(228, 150, 53)),
    LandCoverClass(code=7, index=5, name="built", title="Built area", color=(196, 40, 27)),
    LandCoverClass(code=8, index=6, name="bare", title="Bare ground", color=(165, 155, 143)),
    LandCoverClass(code=9, index=7, name="snow_ice", title="Snow and ice", color=(168, 235, 255)),
    LandCoverClass(code=10, index=8, name="clouds", title="Clouds", color=(97, 97, 97)),
    LandCoverClass(code=11, index=9, name="rangeland", title="Rangeland", color=(227, 226, 195)),
)

CLASS_BY_NAME = {entry.name: entry for entry in CLASSES}
CLASS_BY_CODE = {entry.code: entry for entry in CLASSES}
