"""How green things are on a day of the year."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

CROPS = ("winter cereal", "rapeseed", "maize", "roots", "ley", "fallow")
CROP_SHARES = (0.28, 0.10, 0.22, 0.08, 0.17, 0.15)

_SEASONS = np.array(
    [
        # rise, its length, fall, its length (days of the year), least and most green
        [82, 16, 172, 9, 0.16, 0.95],
        [74, 14, 166, 12, 0.12, 0.95],
        [164, 10, 258, 10, 0.03, 0.96],
        [150, 11, 275, 14, 0.04, 0.92],
        [88, 18, 300, 25, 0.35, 0.88],
        [110, 30, 250, 40, 0.05, 0.22],
    ],
    np.float32,
)
# ^ W (see spectra): winter crops are green from March and ripe at the end of June, summer crops
#   close in the second half of June


def crop_green(crop: NDArray[np.intp], shift: Values, day: int) -> Values:
    """Return the green share of each field.

    Args:
        crop: index into CROPS.
        shift: days that a field is late.
        day: of the year.

    """
    rise, rising, fall, falling, least, most = _SEASONS[crop].T
    late = np.float32(day) - shift
    up = 1 / (1 + np.exp(-(late - rise) / (rising / 3)))
    down = 1 / (1 + np.exp((late - fall) / (falling / 3)))
    green = least + (most - least) * up * down
    mown = (crop == CROPS.index("ley")) * _mowing(late)
    return np.asarray(np.clip(green * (1 - mown), 0, 1), np.float32)


def crop_ripe(crop: NDArray[np.intp], shift: Values, day: int) -> Values:
    """Return the share of the soil that ripe crop or stubble hides."""
    fall = _SEASONS[crop, 2]
    since = np.float32(day) - shift - fall
    standing = np.exp(-np.clip(since, 0, None) / 45) / (1 + np.exp(-since / 4))
    return np.asarray(0.8 * standing * (crop != CROPS.index("fallow")), np.float32)


def _mowing(late: Values) -> Values:
    """Return what the last of three cuts took and has not grown again."""
    cuts = np.array([138.0, 190.0, 243.0], np.float32)
    since = late[:, None] - cuts
    gone = 0.6 * np.exp(-np.clip(since, 0, None) / 14) * (since >= 0)
    return np.asarray(gone.max(axis=1), np.float32)


def grass_green(shift: Values, day: int) -> Values:
    """Return the green share of unmown grass: green in May, dry in late summer."""
    late = np.float32(day) - shift
    spring = 1 / (1 + np.exp(-(late - 95) / 9))
    drought = 0.45 * np.exp(-(((late - 222) / 42) ** 2))
    autumn = 1 / (1 + np.exp((late - 300) / 12))
    return (0.25 + 0.7 * spring * autumn * (1 - drought)).astype(np.float32)


def leaves(shift: Values, day: int) -> Values:
    """Return the share of leaves on deciduous trees."""
    late = np.float32(day) - shift
    out = 1 / (1 + np.exp(-(late - 118) / 4.5))
    off = 1 / (1 + np.exp((late - 295) / 7))
    return np.asarray(out * off, np.float32)


def reeds(shift: Values, day: int) -> Values:
    """Return the green share of marsh plants, which start late."""
    late = np.float32(day) - shift
    out = 1 / (1 + np.exp(-(late - 140) / 9))
    off = 1 / (1 + np.exp((late - 272) / 10))
    return np.asarray(0.15 + 0.8 * out * off, np.float32)
