"""Statistics that come with a model, compared with the pixels that it will be given.

A mean in another unit does not fail by itself: standardised pixels are then far from zero, all
alike, and the map is a confident nonsense. What is certain is converted and told; what looks wrong
is refused. The rules are wide enough for data sets of water, desert or snow alone; a statement of
the unit takes their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from model.errors import ModelError, join_names
from model.predictor.card_file import Card, parse_numbers
from model.terramind.architectures import read_mapping
from model.terramind.modalities import RasterModality, Statistics, get_raster_modality
from model.terratorch.channels import translate_band

StatisticsUnit = Literal["DN", "reflectance", "dB", "m"]
"""Unit of statistics: that of the pixels, or reflectance of 0 to 1 for DN."""

REFLECTANCE_SCALE = 10_000.0
"""DN of a reflectance of 1."""

_MAX_REFLECTANCE = 1.5
# ^ largest mean and standard deviation of reflectance, also of snow and clouds
_MIN_DN, _MAX_DN = 256.0, 20_000.0
# ^ the brightest band of a data set in DN has a mean between them; bytes and percent lie below
_FLAT_BANDS = ("B10",)
# ^ cirrus is dark: its mean may be of a few DN
_LAND_BANDS = ("B07", "B08", "B8A", "B11", "B12")
_MAX_VARIATION = 1.6
# ^ ratio of standard deviation and mean of these bands, which is below 1 in data sets over land
_MIN_DB, _MIN_DB_STD, _MAX_DB_STD = -50.0, 0.5, 25.0
# ^ speckle alone varies by more than half a decibel
_MAX_HEIGHT, _MAX_HEIGHT_STD = 5_500.0, 3_000.0
# ^ m, of a mean and of a standard deviation


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedStatistics:
    """Statistics of one input as they are stated, before they are compared with the model."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: tuple[str, ...] | None = None
    """Bands of the numbers; None for those of the model, in its order."""

    unit: StatisticsUnit | None = None
    """Their unit; None if not stated: it is then concluded from the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStatistics:
    """Statistics of one input in the unit of its pixels and in the order of its channels."""

    statistics: Statistics
    notes: tuple[str, ...] = ()
    """What was converted, put in another order or left out."""


def list_units(name: str) -> tuple[StatisticsUnit, ...]:
    """Return the units in which statistics of a modality may be stated.

    Raises:
        ModelError: unknown modality.
    """
    pixel_unit = get_raster_modality(name).unit
    return tuple(
        unit
        for unit in get_args(StatisticsUnit)
        if unit == pixel_unit or (unit == "reflectance" and pixel_unit == "DN")
    )


def parse_stated_statistics(values: Mapping[str, Any] | None) -> dict[str, StatedStatistics]:
    """Return statistics by modality from plain values, {modality: {mean: […], std: […]}}.

    `bands` and `unit` may stand beside `mean` and `std`.

    Raises:
        ModelError: unknown modality, or values of the wrong kind.
    """
    statistics: dict[str, StatedStatistics] = {}
    for name, entry in (values or {}).items():
        modality = get_raster_modality(name)
        if isinstance(entry, Statistics):
            stated = StatedStatistics(mean=entry.mean, std=entry.std)
        else:
            mean, std = parse_numbers(name, entry, ("bands", "unit"))
            stated = StatedStatistics(
                mean=mean,
                std=std,
                bands=_parse_bands(modality, entry.get("bands")),
                unit=_parse_unit(modality.name, entry.get("unit")),
            )
        statistics[modality.name] = stated
    return statistics


def check_card(card: Card) -> Card:
    """Return a card whose own statistics are in the unit of the pixels.

    Raises:
        ModelError: they are in another one.
    """
    stated = {
        name: StatedStatistics(mean=entry.mean, std=entry.std, bands=card.inputs[name])
        for name, entry in card.statistics.items()
    }
    return set_statistics(card, stated)[0]


def override_statistics(
    card: Card, stats: str | Path | Mapping[str, Any] | None
) -> tuple[Card, list[str]]:
    """Return a card with other statistics of some inputs, and what was converted.

    Args:
        card: the card.
        stats: {modality: {mean, std}}, or a .yaml with it.

    Raises:
        ModelError: statistics of an input that the card does not have, of the wrong kind, or of
            another unit.
    """
    if isinstance(stats, str | Path):
        stats = read_mapping(stats)
        if "data" in stats:
            raise ModelError(
                "stats: the configuration of a TerraTorch training goes with a checkpoint only"
            )
    stated = parse_stated_statistics(stats)
    unknown = [name for name in stated if name not in card.inputs]
    if unknown:
        raise ModelError(
            f"stats of {join_names(unknown)}: {card.name} takes {join_names(card.inputs)}"
        )
    return set_statistics(card, stated)


def set_statistics(card: Card, stated: Mapping[str, StatedStatistics]) -> tuple[Card, list[str]]:
    """Return a card with stated statistics of some of its inputs, and what was converted.

    Raises:
        ModelError: the statistics do not fit the card's bands or their unit.
    """
    resolved = {
        name: resolve_statistics(get_raster_modality(name), card.inputs[name], entry)
        for name, entry in stated.items()
    }
    statistics = {name: entry.statistics for name, entry in resolved.items()}
    return card.with_statistics(statistics), [
        note for entry in resolved.values() for note in entry.notes
    ]


def resolve_statistics(
    modality: RasterModality, bands: Sequence[str], stated: StatedStatistics
) -> ResolvedStatistics:
    """Return statistics in the order of an input's bands and in the unit of its pixels.

    Raises:
        ModelError: they are of other bands, of another unit, or not positive; the message says
            what to state instead.
    """
    mean, std = _select_bands(modality, bands, stated)
    if min(std) <= 0:
        swapped = min(mean) > 0
        raise ModelError(
            f"{modality.name}: standard deviations must be positive, not {_join(std)}"
            + (": mean and std are swapped" if swapped else "")
        )
    _check_swapped(modality, bands, mean, std)
    notes = tuple(_note_bands(modality, bands, stated))
    unit = stated.unit
    if unit is None:
        reason = _find_other_unit(modality, bands, mean, std)
        if reason == "reflectance":
            unit = "reflectance"
            note = (
                f"{modality.name}: the statistics are in reflectance of 0 to 1 (means "
                f"{_join(mean)}): they were multiplied by {REFLECTANCE_SCALE:.0f}, as the model is "
                "given DN"
            )
            notes += (note,)
        elif reason:
            raise ModelError(f"{modality.name}: means {_join(mean)} and stds {_join(std)} {reason}")
        elif stated.bands is None:
            _check_order(modality, bands, mean)
    elif unit == "DN" and max(map(abs, mean)) <= _MAX_REFLECTANCE:
        note = (
            f"{modality.name}: means {_join(mean)} are stated to be DN, which are whole numbers of "
            "about 1000 to 4000: those of reflectance have the unit reflectance"
        )
        notes += (note,)
    statistics = (
        _scale_reflectance(modality, mean, std)
        if unit == "reflectance"
        else Statistics(mean=mean, std=std)
    )
    return ResolvedStatistics(statistics=statistics, notes=notes)


def _note_bands(
    modality: RasterModality, bands: Sequence[str], stated: StatedStatistics
) -> Iterator[str]:
    """Yield a note where the numbers are of other bands than the model's, or in another order."""
    names = [translate_band(modality, band) for band in stated.bands or bands]
    unused = [name for name in names if name not in bands]
    if unused:
        yield (
            f"{modality.name}: the statistics of {join_names(unused, 13)} are not used, as the "
            f"model takes {join_names(bands, 13)}"
        )
    if [name for name in names if name in bands] != list(bands):
        yield (
            f"{modality.name}: the statistics are of {join_names(names, 13)} in this order, and "
            f"were put in that of the model's bands, {join_names(bands, 13)}"
        )


def _parse_bands(modality: RasterModality, bands: object) -> tuple[str, ...] | None:
    if bands is None:
        return None
    if isinstance(bands, str) or not isinstance(bands, Sequence):
        raise ModelError(f"statistics of {modality.name}: bands must be a list, not {bands!r}")
    return tuple(modality.bands[modality.band_index(str(band))] for band in bands)


def _parse_unit(name: str, unit: object) -> StatisticsUnit | None:
    units = list_units(name)
    if unit is None or unit in units:
        return unit
    advice = f"write {' or '.join(units)}" if units else "remove it"
    raise ModelError(f"statistics of {name}: the unit {unit!r} is not supported: {advice}")


def _select_bands(
    modality: RasterModality, bands: Sequence[str], stated: StatedStatistics
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of an input's bands, in their order."""
    if len(stated.mean) != len(stated.std):
        raise ModelError(
            f"{modality.name}: {len(stated.mean)} means but {len(stated.std)} standard deviations"
        )
    if stated.bands is None:
        if len(stated.mean) != len(bands):
            raise ModelError(
                f"{modality.name}: statistics of {len(stated.mean)} bands, but the model takes "
                f"{len(bands)} bands: {join_names(bands, 13)}. Give a number for each of them, in "
                "this order"
            )
        return stated.mean, stated.std
    names = [translate_band(modality, band) for band in stated.bands]
    missing = [band for band in bands if band not in names]
    if missing or len(names) != len(stated.mean) or len(set(names)) < len(names):
        raise ModelError(
            f"{modality.name}: {len(stated.mean)} numbers of the bands {join_names(names, 13)}, "
            f"but the model takes {join_names(bands, 13)}: name each band once, with one "
            "number each"
        )
    indices = [names.index(band) for band in bands]
    return (
        tuple(stated.mean[index] for index in indices),
        tuple(stated.std[index] for index in indices),
    )


def _scale_reflectance(
    modality: RasterModality, mean: tuple[float, ...], std: tuple[float, ...]
) -> Statistics:
    if max(map(abs, mean)) > _MAX_REFLECTANCE:
        raise ModelError(
            f"{modality.name}: means {_join(mean)} are no reflectance of 0 to 1: remove the unit, "
            "or write DN"
        )
    return Statistics(
        mean=tuple(value * REFLECTANCE_SCALE for value in mean),
        std=tuple(value * REFLECTANCE_SCALE for value in std),
    )


def _find_other_unit(
    modality: RasterModality,
    bands: Sequence[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> str:
    """Return why statistics cannot be in the unit of the pixels, `reflectance`, or nothing."""
    largest_mean, largest_std = max(map(abs, mean)), max(std)
    advice = (
        f". If they are right, state their unit: stats: {{{modality.name}: {{mean: […], std: […], "
        f"unit: {modality.unit}}}}}"
    )
    if largest_mean == 0 and std == (1.0,) * len(std):
        return (
            "leave pixels as they are, and do not tell their unit in the training; the model is "
            f"given {modality.unit}{advice}"
        )
    if modality.unit == "DN":
        reason = _find_other_unit_than_dn(bands, mean, std)
    elif modality.unit == "dB":
        reason = _find_other_unit_than_db(mean, largest_std)
    elif modality.unit == "m":
        reason = _find_other_unit_than_metres(largest_mean, largest_std)
    else:
        reason = ""
    return reason if reason in ("", "reflectance") else reason + advice


def _find_other_unit_than_dn(
    bands: Sequence[str], mean: tuple[float, ...], std: tuple[float, ...]
) -> str:
    largest_mean, largest_std = max(map(abs, mean)), max(std)
    expected = "the model is given DN (reflectance x 10 000), whose means are about 1000 to 4000"
    if largest_mean <= _MAX_REFLECTANCE and largest_std <= _MAX_REFLECTANCE:
        is_centred = min(mean) < 0 or largest_mean < largest_std / 10
        return f"are of standardised values: {expected}" if is_centred else "reflectance"
    if largest_mean < _MIN_DN:
        return f"are of bytes, percent or another scale: {expected}"
    dark = [
        band
        for band, value, deviation in zip(bands, mean, std, strict=True)
        if min(abs(value), deviation) <= _MAX_REFLECTANCE and band not in _FLAT_BANDS
    ]
    if dark:
        return f"are in several units, as those of {join_names(dark)} are not in DN: {expected}"
    if largest_mean > _MAX_DN or largest_std > _MAX_DN or min(mean) < -_MIN_DN:
        return (
            f"are no DN: {expected}. If the training has a constant_scale, its means are in the "
            "scaled unit"
        )
    variations = [
        deviation / abs(value)
        for band, value, deviation in zip(bands, mean, std, strict=True)
        if band in _LAND_BANDS
    ]
    if variations and min(variations) > _MAX_VARIATION:
        return (
            "look swapped: in the near and short-wave infrared, no data set over land varies more "
            "than its mean"
        )
    return ""


def _find_other_unit_than_db(mean: tuple[float, ...], largest_std: float) -> str:
    expected = (
        "the model is given decibel, 10 log10(power), whose means are about -25 to -5. A model "
        "that was trained on other values than decibel is not supported"
    )
    if max(mean) >= 0:
        return f"are of linear power or amplitude: {expected}"
    if largest_std < _MIN_DB_STD:
        return f"are in several units, as the stds are not in decibel: {expected}"
    if min(mean) < _MIN_DB or largest_std > _MAX_DB_STD:
        return f"are no decibel: {expected}"
    return ""


def _find_other_unit_than_metres(largest_mean: float, largest_std: float) -> str:
    expected = "the model is given heights in metres"
    if largest_mean <= _MAX_REFLECTANCE and largest_std <= _MAX_REFLECTANCE:
        return f"are of heights scaled to 0 to 1: {expected}"
    if largest_mean > _MAX_HEIGHT or largest_std > _MAX_HEIGHT_STD:
        return f"are of feet, decimetres or another unit: {expected}"
    return ""


def _check_swapped(
    modality: RasterModality,
    bands: Sequence[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    """Refuse the published numbers of the bands with mean and std exchanged."""
    indices = [modality.band_index(band) for band in bands]
    published = modality.statistics
    if _are_close(mean, [published.std[index] for index in indices]) and _are_close(
        std, [published.mean[index] for index in indices]
    ):
        raise ModelError(
            f"{modality.name}: the numbers are those of TerraMind with mean and std swapped: "
            "exchange them"
        )


def _check_order(modality: RasterModality, bands: Sequence[str], mean: tuple[float, ...]) -> None:
    """Refuse the published means of the bands in another order than that of the bands."""
    published = [modality.statistics.mean[modality.band_index(band)] for band in bands]
    if _are_close(mean, published) or not _are_close(sorted(mean), sorted(published)):
        return
    order = [
        min(
            bands, key=lambda band: abs(modality.statistics.mean[modality.band_index(band)] - value)
        )
        for value in mean
    ]
    raise ModelError(
        f"{modality.name}: the means are those of TerraMind in the order {join_names(order, 13)}, "
        f"but the model takes {join_names(bands, 13)}. Give them in this order, or name theirs: "
        f"stats: {{{modality.name}: {{bands: [{', '.join(order)}], mean: […], std: […]}}}}"
    )


def _are_close(values: Sequence[float], published: Sequence[float]) -> bool:
    return all(abs(a - b) <= 1e-3 * abs(b) for a, b in zip(values, published, strict=True))


def _join(values: Sequence[float]) -> str:
    return join_names((f"{value:.4g}" for value in values), 13)
