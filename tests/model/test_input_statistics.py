"""Statistics of a model are held against the pixels that it will be given."""

from __future__ import annotations

import pytest

from model.errors import ModelError
from model.predictor.input_statistics import (
    StatedStatistics,
    parse_stated_statistics,
    resolve_statistics,
)
from model.terramind.modalities import RASTER_MODALITIES, Statistics, get_raster_modality

HLS = ("B02", "B03", "B04", "B8A", "B11", "B12")
BURN_SCARS = (
    (0.033349, 0.057012, 0.058897, 0.232325, 0.197285, 0.119449),
    (0.022691, 0.026807, 0.040042, 0.077916, 0.087087, 0.072419),
)
# ^ as in the published example of burn scars: reflectance of 0 to 1
FLOOD = (
    (
        *(1223.128, 1251.355, 1423.443, 1408.984, 1786.818, 2448.316),
        *(2685.642, 2745.795, 2817.936, 3194.081, 1964.659, 1399.317),
    ),
    (
        *(2358.709, 2227.598, 2082.363, 2068.519, 2086.682, 2003.085),
        *(2019.494, 2060.309, 2014.732, 2992.644, 1414.951, 1218.357),
    ),
)
# ^ of a published model of floods


def resolve(name, mean, std, bands=None, **options):
    modality = get_raster_modality(name)
    return resolve_statistics(
        modality, bands or modality.bands, StatedStatistics(mean=mean, std=std, **options)
    )


@pytest.mark.parametrize("name", RASTER_MODALITIES)
def test_published_statistics_are_accepted_as_they_are(name):
    own = RASTER_MODALITIES[name].statistics
    resolved = resolve(name, own.mean, own.std)
    assert (resolved.statistics, resolved.notes) == (own, ())


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("S2L2A", *FLOOD),
        ("S1RTC", (-9.98, -15.968), (4.24, 4.105)),
        ("S1GRD", (-22.0, -28.5), (3.1, 2.9)),
        # ^ calm sea
        ("S2L2A", (900.0, 700, 520, 330, 260, 190, 170, 160, 150, 400, 90, 60),
         (400.0, 380, 390, 400, 380, 300, 280, 260, 220, 500, 120, 80)),
        # ^ coastal water: dark infrared
        ("S2L2A", (9000.0,) * 12, (3000.0,) * 12),
        # ^ snow
        ("DEM", (3.2,), (4.5,)),
        # ^ polders
        ("DEM", (4700.0,), (600.0,)),
        ("S2L1C", (1500.0,) * 10 + (4.0, 1500.0, 1500.0), (600.0,) * 10 + (3.0, 600.0, 600.0)),
        # ^ cirrus is dark
    ],
)  # fmt: skip
def test_statistics_of_unusual_places_are_accepted(name, mean, std):
    assert resolve(name, mean, std).notes == ()


def test_reflectance_is_converted_and_told():
    mean, std = BURN_SCARS
    resolved = resolve("S2L2A", mean, std, HLS)
    assert resolved.statistics.mean == pytest.approx(tuple(value * 1e4 for value in mean))
    assert resolved.statistics.std == pytest.approx(tuple(value * 1e4 for value in std))
    (note,) = resolved.notes
    assert "multiplied by 10000" in note
    stated = resolve("S2L2A", mean, std, HLS, unit="reflectance")
    assert (stated.statistics, stated.notes) == (resolved.statistics, ())


def test_a_stated_unit_takes_the_place_of_a_guess():
    mean, std = (120.0, 130.0), (60.0, 70.0)
    with pytest.raises(ModelError, match=r"bytes, percent.*unit: DN") as error:
        resolve("S2L2A", mean, std, ("B11", "B12"))
    assert "stats: {S2L2A: {mean: […], std: […], unit: DN}}" in str(error.value)
    assert resolve("S2L2A", mean, std, ("B11", "B12"), unit="DN").statistics.mean == mean


WRONG = {
    "linear power": ("S1RTC", (0.12, 0.03), (0.1, 0.04), "linear power"),
    "amplitudes": ("S1GRD", (210.0, 90.0), (80.0, 40.0), "linear power or amplitude"),
    "one band is linear": ("S1GRD", (-12.0, 0.03), (4.0, 0.01), "linear power"),
    "no decibel": ("S1GRD", (-120.0, -200.0), (50.0, 60.0), "no decibel"),
    "bytes": ("S2L2A", (87.0, 80.9, 66.7), (58.0, 47.0, 42.0), "bytes, percent"),
    "percent": ("S2L2A", (3.3, 5.7, 5.9), (2.2, 2.7, 4.0), "bytes, percent"),
    "standardised": ("S2L2A", (0.001, -0.02, 0.0), (1.01, 0.98, 1.0), "standardised"),
    "scaled twice": ("S2L2A", (1.4e7, 1.5e7, 1.7e7), (2e7, 2e7, 2e7), "constant_scale"),
    "two units": ("S2L2A", (0.033, 1700.0, 1800.0), (0.02, 800.0, 800.0), "several units.*B02"),
    "deviations are reflectance": ("S2L2A", (1503.0, 1718.0, 1747.0), (0.21, 0.2, 0.2), "several"),
    "deviations are linear": ("S1GRD", (-12.0, -18.0), (0.05, 0.01), "several units"),
    "heights scaled": ("DEM", (0.13,), (0.2,), "scaled to 0 to 1"),
    "decimetres": ("DEM", (6706.0,), (9512.0,), "feet, decimetres"),
    "nothing": ("S2L2A", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "leave pixels as they are"),
    "no radar": ("S1GRD", (0.0, 0.0), (1.0, 1.0), "leave pixels as they are"),
    "zero": ("S1GRD", (-12.0, -20.0), (5.0, 0.0), "must be positive"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_units_are_refused_with_the_reason(case):
    name, mean, std, message = WRONG[case]
    bands = get_raster_modality(name).bands
    with pytest.raises(ModelError, match=f"{name}: .*{message}"):
        resolve(name, mean, std, ("B02", "B03", "B04") if name == "S2L2A" else bands)


def test_swapped_means_and_deviations_are_refused():
    radar = get_raster_modality("S1RTC").statistics
    with pytest.raises(ModelError, match="mean and std are swapped"):
        resolve("S1RTC", radar.std, radar.mean)
    optical = get_raster_modality("S2L2A").statistics
    with pytest.raises(ModelError, match="those of TerraMind with mean and std swapped"):
        resolve("S2L2A", optical.std, optical.mean)
    mean, std = BURN_SCARS
    dn = tuple(tuple(value * 1e4 for value in values) for values in (mean, std))
    with pytest.raises(ModelError, match="look swapped"):
        resolve("S2L2A", dn[1], dn[0], HLS)
    assert resolve("S2L2A", *dn, HLS).notes == ()


def test_the_number_and_the_order_of_bands_are_checked():
    modality = get_raster_modality("S2L2A")
    other = get_raster_modality("S2L1C").statistics
    with pytest.raises(
        ModelError, match="statistics of 13 bands, but the model takes 12 bands: B01"
    ):
        resolve("S2L2A", other.mean, other.std)
    mean, std = modality.statistics.mean[::-1], modality.statistics.std[::-1]
    with pytest.raises(ModelError, match=r"in the order B12, B11, .*bands: \[B12, B11"):
        resolve("S2L2A", mean, std)
    assert resolve("S2L2A", mean, std, modality.bands[::-1]).statistics.mean == mean
    # ^ of a model that has its channels in that order


def test_statistics_may_name_their_bands():
    stated = parse_stated_statistics(
        {
            "S2L2A": {
                "mean": [3000, 1500, 2400],
                "std": [900, 500, 800],
                "bands": ["B8a", "BLUE", "b11"],
            }
        }
    )["S2L2A"]
    modality = get_raster_modality("S2L2A")
    resolved = resolve_statistics(modality, ("B02", "B8A"), stated)
    assert resolved.statistics == Statistics(mean=(1500.0, 3000.0), std=(500.0, 900.0))
    unused, reordered = resolved.notes
    assert unused == "S2L2A: the statistics of B11 are not used, as the model takes B02, B8A"
    assert "of B8A, B02, B11 in this order, and were put in that of the model's" in reordered
    assert resolve_statistics(modality, ("B8A", "B02", "B11"), stated).notes == ()
    for bands, message in ((("B02", "B12"), "name each band once"), (("B02",) * 2, "B02, B02")):
        with pytest.raises(ModelError, match=message):
            resolve_statistics(
                modality, bands, StatedStatistics(mean=(1.0, 2.0), std=(1.0, 1.0), bands=("B02",))
            )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"mean": [1.0]}, "std"),
        ({"mean": ["x"], "std": [1]}, "wrong kind"),
        ({"mean": [-12.0, -20.0], "std": [5.0, 5.0], "unit": "linear"}, "'linear'.*: write dB"),
        ({"mean": [-12.0, -20.0], "std": [5.0, 5.0], "unit": "reflectance"}, "write dB"),
        ({"mean": [1.0], "std": [5.0], "bands": [1]}, "no band '1'; it has VV, VH"),
        ({"mean": [1.0], "std": [5.0], "bands": "VV"}, "bands must be a list, not 'VV'"),
        ({"mean": [1.0], "stds": [5.0]}, "unknown stds; known are mean, std, bands, unit"),
    ],
)
def test_stated_values_of_the_wrong_kind_are_refused(entry, message):
    with pytest.raises(ModelError, match=message):
        parse_stated_statistics({"S1GRD": entry})


def test_reflectance_that_is_none_is_refused():
    with pytest.raises(ModelError, match="no reflectance of 0 to 1"):
        resolve("S2L2A", (1500.0,), (800.0,), ("B02",), unit="reflectance")
