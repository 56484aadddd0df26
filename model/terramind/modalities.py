"""Modalities of TerraMind: bands in order, unit, statistics, and official key.

Band order and version 1 statistics are those that the published weights were trained with. The keys
are those of the official state dicts: `untok_…` for pixels, `tok_…` for token ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model.errors import ModelError, join_names

_SHORT_BAND = re.compile(r"^B(\d)$")

PATCH_SIZE = 16
"""Side of a token's patch, px."""

IMAGE_SIZE = 224
"""Side of the images that the published position tables are made for, px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Mean and standard deviation per band, in the modality's own unit."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ModelError(f"{len(self.mean)} means but {len(self.std)} standard deviations")
        if not all(value > 0 for value in self.std):
            raise ModelError(f"standard deviations must be positive, not {self.std}")

    def to_mapping(self) -> dict[str, list[float]]:
        """Return plain lists, as in a model card."""
        return {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterModality:
    """A raster input, given to the encoder as pixels."""

    name: str
    key: str
    """Name of its embedding in the official state dicts."""

    bands: tuple[str, ...]
    """Band names of the satellite products, in the order of the channels."""

    aliases: tuple[str, ...]
    """TerraMind's names of the same bands, in the same order."""

    unit: str
    """DN (reflectance x 10 000), dB, m, or count (8-bit display values)."""

    statistics: Statistics
    """Version 1 statistics over the pre-training data."""

    def band_index(self, band: str) -> int:
        """Return the channel of a band, by either of its names, in upper or lower case.

        B2 is B02, and a member of an enumeration may have the name of its class before it.

        Raises:
            ModelError: no such band.
        """
        text = _SHORT_BAND.sub(r"B0\1", band.rpartition(".")[2].strip().upper())
        for names in (self.bands, self.aliases):
            upper = [name.upper() for name in names]
            if text in upper:
                return upper.index(text)
        raise ModelError(
            f"{self.name} has no band {band!r}; it has {join_names(self.bands, 13)} "
            f"(or {join_names(self.aliases, 13)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenModality:
    """A modality of token ids: such an input, or an output of the generator."""

    name: str
    key: str
    vocab_size: int
    is_sequence: bool = False
    """True for a sequence of ids (coordinates), False for ids on the patch grid."""

    statistics: Statistics | None = None
    """Version 1 statistics of the raster that is tokenised; None where it has no unit."""


_L2A_BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06"),
    *("B07", "B08", "B8A", "B09", "B11", "B12"),
)

_L2A_ALIASES = (
    "COASTAL_AEROSOL",
    "BLUE",
    "GREEN",
    "RED",
    "RED_EDGE_1",
    "RED_EDGE_2",
    "RED_EDGE_3",
    "NIR_BROAD",
    "NIR_NARROW",
    "WATER_VAPOR",
    "SWIR_1",
    "SWIR_2",
)

_S2L2A = RasterModality(
    name="S2L2A",
    key="untok_sen2l2a@224",
    bands=_L2A_BANDS,
    aliases=_L2A_ALIASES,
    unit="DN",
    statistics=Statistics(
        mean=(
            *(1390.458, 1503.317, 1718.197, 1853.910, 2199.100, 2779.975),
            *(2987.011, 3083.234, 3132.220, 3162.988, 2424.884, 1857.648),
        ),
        std=(
            *(2106.761, 2141.107, 2038.973, 2134.138, 2085.321, 1889.926),
            *(1820.257, 1871.918, 1753.829, 1797.379, 1434.261, 1334.311),
        ),
    ),
)

_S2L1C = RasterModality(
    name="S2L1C",
    key="untok_sen2l1c@224",
    bands=(*_L2A_BANDS[:10], "B10", *_L2A_BANDS[10:]),
    aliases=(*_L2A_ALIASES[:10], "CIRRUS", *_L2A_ALIASES[10:]),
    unit="DN",
    statistics=Statistics(
        mean=(
            *(2357.089, 2137.385, 2018.788, 2082.986, 2295.651, 2854.537, 3122.849),
            *(3040.560, 3306.481, 1473.847, 506.070, 2472.825, 1838.929),
        ),
        std=(
            *(1624.683, 1675.806, 1557.708, 1833.702, 1823.738, 1733.977, 1732.131),
            *(1679.732, 1727.260, 1024.687, 442.165, 1331.411, 1160.419),
        ),
    ),
)

_RGB = RasterModality(
    name="RGB",
    key="untok_sen2rgb@224",
    bands=("B04", "B03", "B02"),
    aliases=("RED", "GREEN", "BLUE"),
    # ^ the guide of the reference lists BLUE first; its code and the means have red first
    unit="count",
    statistics=Statistics(mean=(87.271, 80.931, 66.667), std=(58.767, 47.663, 42.631)),
)

_S1GRD = RasterModality(
    name="S1GRD",
    key="untok_sen1grd@224",
    bands=("VV", "VH"),
    aliases=("VV", "VH"),
    unit="dB",
    statistics=Statistics(mean=(-12.599, -20.293), std=(5.195, 5.890)),
)

_S1RTC = RasterModality(
    name="S1RTC",
    key="untok_sen1rtc@224",
    bands=("VV", "VH"),
    aliases=("VV", "VH"),
    unit="dB",
    statistics=Statistics(mean=(-10.930, -17.329), std=(4.391, 4.459)),
)

_DEM = RasterModality(
    name="DEM",
    key="untok_dem@224",
    bands=("DEM",),
    aliases=("DEM",),
    unit="m",
    statistics=Statistics(mean=(670.665,), std=(951.272,)),
)

RASTER_MODALITIES: Mapping[str, RasterModality] = {
    entry.name: entry for entry in (_S2L2A, _S2L1C, _RGB, _S1GRD, _S1RTC, _DEM)
}
"""Inputs given as pixels, by name."""

_NDVI = Statistics(mean=(0.327,), std=(0.322,))

TOKEN_MODALITIES: Mapping[str, TokenModality] = {
    entry.name: entry
    for entry in (
        TokenModality(name="LULC", key="tok_lulc@224", vocab_size=4375),
        TokenModality(name="NDVI", key="tok_ndvi@224", vocab_size=15360, statistics=_NDVI),
        TokenModality(name="Coords", key="coords", vocab_size=30000, is_sequence=True),
    )
}
"""Inputs given as token ids, by name."""

TARGET_MODALITIES: Mapping[str, TokenModality] = {
    **{
        entry.name: TokenModality(
            name=entry.name,
            key=entry.key.replace("untok_", "tok_"),
            vocab_size=15360,
            statistics=entry.statistics,
        )
        for entry in (_S2L2A, _S1GRD, _S1RTC, _DEM)
    },
    **TOKEN_MODALITIES,
}
"""Outputs of the generator, by name; their official keys are also keys of inputs."""

LULC_CLASSES = (
    "nodata",
    "water",
    "trees",
    "flooded_vegetation",
    "crops",
    "built",
    "bare",
    "snow_ice",
    "clouds",
    "rangeland",
)
"""Classes of the LULC modality, in the order of their indices."""

MODALITIES_BY_KEY: Mapping[str, RasterModality | TokenModality] = {
    **{modality.key: modality for modality in RASTER_MODALITIES.values()},
    **{modality.key: modality for modality in TARGET_MODALITIES.values()},
}
"""All modalities, by official key."""

_INPUT_RULES = (
    ("sen2l2a", "untok_sen2l2a@224"),
    ("sen2l1c", "untok_sen2l1c@224"),
    ("sen1rtc", "untok_sen1rtc@224"),
    ("sen1", "untok_sen1grd@224"),
    ("rgb", "untok_sen2rgb@224"),
    ("dem", "untok_dem@224"),
    ("lulc", "tok_lulc@224"),
    ("ndvi", "tok_ndvi@224"),
    ("coord", "coords"),
)
# ^ (part of a name, key); the first match wins, and the order is part of the published interface

_TARGET_RULES = (
    ("sen2l2a", "tok_sen2l2a@224"),
    ("sen1rtc", "tok_sen1rtc@224"),
    ("sen1", "tok_sen1grd@224"),
    ("dem", "tok_dem@224"),
    ("lulc", "tok_lulc@224"),
    ("ndvi", "tok_ndvi@224"),
    ("coord", "coords"),
)
# ^ the published map takes every name of Sentinel-2 for S2L2A, so that a request for L1C or RGB
#   generates L2A; here such names have no key


def find_modality_key(name: str) -> str | None:
    """Return the official key of an input's name, or None."""
    return _match_key(name, _INPUT_RULES)


def find_target_key(name: str) -> str | None:
    """Return the official key of an output's name, or None."""
    key = _match_key(name, _TARGET_RULES)
    return key if isinstance(MODALITIES_BY_KEY.get(key or ""), TokenModality) else None


def is_sequence_key(key: str) -> bool:
    """Return whether a modality's tokens form a sequence (coordinates), and not a grid."""
    modality = MODALITIES_BY_KEY.get(key)
    return isinstance(modality, TokenModality) and modality.is_sequence


def get_target_modality(name: str) -> TokenModality:
    """Return the modality that is generated under a name.

    Raises:
        ModelError: no output of that name.
    """
    modality = MODALITIES_BY_KEY.get(find_target_key(name) or "")
    if not isinstance(modality, TokenModality):
        raise ModelError(
            f"{name!r} cannot be generated: there are tokens for "
            f"{join_names(TARGET_MODALITIES)} only"
        )
    return modality


def _match_key(name: str, rules: Sequence[tuple[str, str]]) -> str | None:
    if name in MODALITIES_BY_KEY:
        return name
    long_name = name.lower().replace("s2", "sen2").replace("s1", "sen1")
    long_name = long_name.replace("location", "coords")
    return next((key for part, key in rules if part in long_name), None)


def get_raster_modality(name: str) -> RasterModality:
    """Return the raster modality of a name.

    Raises:
        ModelError: no raster modality of that name.
    """
    modality = MODALITIES_BY_KEY.get(find_modality_key(name) or "")
    if not isinstance(modality, RasterModality):
        raise ModelError(f"unknown input {name!r}; known are {join_names(RASTER_MODALITIES)}")
    return modality


def band_indices(modality: RasterModality, bands: Iterable[str]) -> tuple[int, ...]:
    """Return the channels of some bands of a modality.

    Raises:
        ModelError: no bands, an unknown one, or one twice.
    """
    indices = tuple(modality.band_index(band) for band in bands)
    if not indices or len(set(indices)) != len(indices):
        raise ModelError(f"{modality.name}: give at least one band, and each band once")
    return indices


def get_statistics(
    inputs: Mapping[str, Sequence[str]], overrides: Mapping[str, Statistics] | None = None
) -> dict[str, Statistics]:
    """Return the statistics of every input's bands: those of `overrides`, else version 1.

    Args:
        inputs: bands by modality.
        overrides: statistics by modality.

    Raises:
        ModelError: statistics for another number of bands than the input has.
    """
    statistics: dict[str, Statistics] = {}
    for name, bands in inputs.items():
        if overrides and name in overrides:
            statistics[name] = overrides[name]
        else:
            statistics[name] = select_statistics(get_raster_modality(name), bands)
        count = len(statistics[name].mean)
        if count != len(bands):
            raise ModelError(f"{name}: statistics of {count} bands, but {len(bands)} bands")
    return statistics


def select_statistics(modality: RasterModality, bands: Sequence[str]) -> Statistics:
    """Return the version 1 statistics of some bands of a modality."""
    indices = band_indices(modality, bands)
    mean, std = modality.statistics.mean, modality.statistics.std
    return Statistics(mean=tuple(mean[i] for i in indices), std=tuple(std[i] for i in indices))
