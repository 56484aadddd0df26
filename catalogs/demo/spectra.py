"""How surfaces reflect and scatter: levels taken from real scenes.

All reflectances are DN without offset (reflectance times 10 000), in the order of BANDS.

Source: medians of the pixels of a class in three chips of TerraMesh (IBM and ESA, CC-BY-SA-4.0;
contains modified Copernicus Sentinel data 2017, 2020, 2021) with their land-cover labels eroded
by one pixel, sorted by NDVI (water: by red) and cut at the quantiles 0, 5, 20, 40, 60, 80, 95 and
100 %:

- P: 282D_485L_3_3, Parana coast, Brazil, S2 of 2021-07-23 (offset-free)
- A: 433D_629L_3_1, Araucania, Chile, S2 of 2020-04-08 (1000 subtracted)
- J: 637U_59R_1_3, northern Jutland, Denmark, S2 of 2017-10-30 (offset-free)

and means over parcels of the WorldCereal site W (31UES, Flanders, 19 dates from March to July
2019). Levels of clouds and shadows are means over SCL classes of C (29UNU, Ireland, 2022-10-05,
1000 subtracted) and of 33TW (Slovenia and Croatia, August 2023). No scene holds snow or bare
rock: these two follow the optics of snow (bright in the visible, dark beyond 1.4 um; Warren 1982)
and grey limestone, and are said here to be invented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
RESOLUTION = dict(zip(BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20), strict=True))


def _spectrum(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


WATER_CLEAR = _spectrum(390, 463, 523, 169, 111, 60, 60, 55, 50, 40, 35, 28)
# ^ P water 5-20 %; beyond 700 nm raised to the level of P 0-5 %, which no glint darkens
WATER_DARK = _spectrum(243, 176, 168, 128, 160, 180, 190, 160, 170, 200, 150, 95)
# ^ A water 0-5 % (a river), its red edge halved for the banks mixed into it
WATER_TURBID = _spectrum(572, 560, 690, 560, 520, 330, 330, 290, 290, 320, 170, 110)
# ^ P water 40-60 %, red raised towards 60-80 %
WATER_SHALLOW = _spectrum(700, 780, 980, 900, 850, 620, 620, 600, 590, 560, 420, 330)
# ^ P water: its mean
BROADLEAF = _spectrum(176, 200, 345, 205, 560, 1960, 2480, 2780, 2790, 2750, 1080, 480)
# ^ between P trees 40-60 % and A trees 80-95 %
CONIFER = _spectrum(80, 95, 240, 210, 480, 1150, 1390, 1600, 1680, 1770, 1000, 560)
# ^ J trees 60-95 %; its blue, at the floor of one chip, raised
WOOD_OPEN = _spectrum(234, 286, 400, 357, 690, 1560, 1850, 2000, 2140, 2284, 1260, 680)
# ^ A trees 5-20 %
WOOD_BARE = _spectrum(246, 350, 438, 500, 745, 1300, 1500, 1600, 1720, 1950, 1560, 930)
# ^ A trees 0-5 % and P trees 0-5 %: leafless or thin
SHRUB = _spectrum(280, 300, 440, 480, 870, 1450, 1660, 1830, 1960, 2050, 1760, 1040)
# ^ P rangeland 40-80 %
GRASS_GREEN = _spectrum(200, 310, 600, 350, 1030, 2850, 3350, 3700, 3650, 3600, 1880, 930)
# ^ A rangeland 80-95 % and J rangeland 40-60 %
GRASS_DRY = _spectrum(440, 620, 780, 1060, 1250, 1560, 1740, 1970, 2040, 2060, 2900, 2150)
# ^ A rangeland 5-60 %
CROP_GREEN = _spectrum(220, 340, 600, 380, 1000, 3050, 3850, 4200, 4100, 3950, 1780, 880)
# ^ A crops 95 % and up, J crops 80 % and up, W 2019-04-21 to 2019-06-20
CROP_DRY = _spectrum(380, 560, 800, 880, 1300, 2100, 2450, 2650, 2700, 2700, 2450, 1650)
# ^ W 2019-06-30 mixed with A crops 40-60 %: ripe
SOIL_DRY = _spectrum(372, 514, 730, 1110, 1247, 1363, 1494, 1579, 1641, 1715, 2284, 2233)
# ^ A crops 0-5 %
SOIL_BRIGHT = _spectrum(390, 598, 840, 1220, 1450, 1700, 1880, 2080, 2130, 2160, 2480, 2000)
# ^ A crops 5-20 % and J crops 0-5 %
SOIL_MOIST = _spectrum(184, 255, 515, 733, 1005, 1376, 1561, 1694, 1837, 1967, 1828, 1175)
# ^ J crops 5-20 %
MARSH_GREEN = _spectrum(276, 330, 470, 430, 760, 1500, 1780, 1950, 1980, 1950, 1280, 760)
# ^ A flooded vegetation 80 % and up, summer-green
MARSH_DRY = _spectrum(290, 450, 570, 640, 800, 1240, 1430, 1420, 1560, 1600, 1420, 900)
# ^ A flooded vegetation 0-40 %
ROOF_BRIGHT = _spectrum(560, 1100, 1260, 1480, 1500, 1780, 1930, 2080, 2130, 1950, 2200, 1780)
# ^ A built 0-5 % and J built 0-5 %
ROOF_MID = _spectrum(430, 660, 830, 1080, 1220, 1560, 1740, 1880, 1960, 2020, 2330, 1880)
# ^ A built 5-20 %
ASPHALT = _spectrum(250, 420, 560, 640, 780, 1000, 1120, 1230, 1330, 1550, 1500, 1150)
# ^ J built 5-40 %, without its gardens
GARDEN = _spectrum(300, 300, 420, 400, 780, 1580, 1850, 2120, 2110, 2080, 1560, 960)
# ^ A built 80-95 %, J built 80-95 %
SAND = _spectrum(1550, 2050, 2550, 2850, 3200, 3250, 3350, 3500, 3550, 3150, 4300, 3800)
# ^ P bare 40-95 %
GRAVEL = _spectrum(900, 1080, 1300, 1480, 1750, 1950, 2080, 2250, 2300, 2350, 2700, 2250)
# ^ P rangeland 0-5 % and P bare 95 % and up, darkened by a third
ROCK = _spectrum(620, 760, 930, 1060, 1200, 1320, 1420, 1520, 1580, 1620, 1950, 1700)
# ^ invented: grey limestone, see above
SNOW_CLEAN = _spectrum(7900, 8200, 8200, 8100, 8000, 7800, 7700, 7600, 7400, 6200, 750, 620)
SNOW_DIRTY = _spectrum(5200, 5400, 5400, 5350, 5300, 5150, 5050, 5000, 4850, 4000, 900, 760)
# ^ invented from the optics of snow, see above
CLOUD = _spectrum(6900, 6700, 6350, 6150, 6500, 6900, 7100, 7200, 7250, 5900, 3600, 2800)
# ^ 33TW SCL 9 (blue to near infrared), C SCL 8 and 9 (short-wave infrared)
CIRRUS = _spectrum(2300, 2250, 2150, 2100, 2250, 2500, 2600, 2700, 2750, 2900, 1500, 1150)
# ^ 33TW SCL 10, C SCL 7

SKY = _spectrum(0.62, 0.55, 0.46, 0.40, 0.36, 0.34, 0.33, 0.32, 0.32, 0.31, 0.28, 0.27)
# ^ share of the light that still reaches a shadowed pixel: 33TW SCL 3 over SCL 4 (blue 0.87 where
#   the mask takes in its edges), near infrared 0.33 in C

BACKSCATTER = {
    "water": (-19.0, -25.0),
    "rough_water": (-15.5, -22.0),
    "broadleaf": (-8.4, -14.0),
    "conifer": (-8.0, -13.4),
    "open_wood": (-9.6, -15.3),
    "marsh": (-9.6, -15.8),
    "crop_green": (-11.2, -16.9),
    "crop_bare": (-12.2, -20.2),
    "grass": (-11.6, -17.6),
    "shrub": (-10.0, -14.8),
    "built": (-8.6, -15.2),
    "asphalt": (-14.0, -20.5),
    "sand": (-16.0, -21.4),
    "rock": (-11.5, -18.5),
    "snow": (-14.5, -20.0),
}
"""Gamma nought of VV and VH in decibels.

Source: means of power by class in P (S1 of 2021-07-21), A (2020-04-11) and J (2017-10-30): water
-15 to -18 and -21 to -22 (P, with wind), trees -6.7 to -9.9 and -12.5 to -15.6, crops -8.4 to
-15.5 and -15.9 to -22.8, built -6.6 to -11.3 and -13.3 to -17.2, bare -14 to -18.5 and -19 to
-22, rangeland -9.2 to -16.4 and -13.5 to -22.2, flooded vegetation -9.4 to -11.3 and -14.6 to
-16.7; crops through a season in W. Rock and snow are invented.
"""

LOOKS = 4.4
# ^ equivalent number of looks of the ground-range product (its metadata). Speckle in P, A and J
#   is correlated by 0.65 to 0.75 with the next pixel and by 0.1 to 0.3 with the next but one.
