"""Which satellite flew over when, and what became of its data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

PERIOD = (date(2021, 4, 1), date(2021, 9, 30))


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """One processing of a pass: the baseline says whether 1000 is added to the numbers."""

    baseline: str
    processed: datetime

    @property
    def offset(self) -> int:
        """Return what was added to reflectance × 10 000 (since baseline 04.00)."""
        return 1000 if self.baseline >= "04.00" else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpticalPass:
    """A pass of Sentinel-2 over all granules, and its trials.

    ``clouds`` and ``veil`` are shares of the land; ``older`` is a second processing of the first
    granule; ``missing`` names a band that the second granule lacks; ``cut`` tells that the edge of
    the swath runs through the third granule.
    """

    platform: str
    sensed: datetime
    orbit: int
    absolute: int
    clouds: float
    veil: float
    haze: float
    edition: Edition
    older: Edition | None = None
    missing: str | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RadarPass:
    """A pass of Sentinel-1; ``cut`` tells that its slice ends within the country."""

    platform: str
    start: datetime
    stop: datetime
    state: str
    orbit: int
    absolute: int
    cut: bool = False


def _at(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)


def _edition(baseline: str, processed: str) -> Edition:
    return Edition(baseline=baseline, processed=_at(processed))


OPTICAL = (
    OpticalPass(
        platform="Sentinel-2B",
        sensed=_at("20210418T100559"),
        orbit=22,
        absolute=21498,
        clouds=0.04,
        veil=0.02,
        haze=1.2,
        edition=_edition("03.00", "20210418T132241"),
    ),
    OpticalPass(
        platform="Sentinel-2A",
        sensed=_at("20210513T101031"),
        orbit=22,
        absolute=30764,
        clouds=0.80,
        veil=0.10,
        haze=1.6,
        edition=_edition("03.00", "20210513T143814"),
    ),
    OpticalPass(
        platform="Sentinel-2A",
        sensed=_at("20210602T101031"),
        orbit=22,
        absolute=31050,
        clouds=0.12,
        veil=0.04,
        haze=0.8,
        edition=_edition("05.00", "20230213T021457"),
    ),
    OpticalPass(
        platform="Sentinel-2A",
        sensed=_at("20210625T102031"),
        orbit=65,
        absolute=31379,
        clouds=0.06,
        veil=0.03,
        haze=1.0,
        edition=_edition("03.00", "20210625T145233"),
        cut=True,
    ),
    OpticalPass(
        platform="Sentinel-2A",
        sensed=_at("20210712T101031"),
        orbit=22,
        absolute=31622,
        clouds=0.26,
        veil=0.05,
        haze=1.1,
        edition=_edition("05.00", "20230131T205912"),
        older=_edition("03.01", "20210712T131903"),
    ),
    OpticalPass(
        platform="Sentinel-2B",
        sensed=_at("20210806T101029"),
        orbit=22,
        absolute=23071,
        clouds=0.90,
        veil=0.10,
        haze=1.7,
        edition=_edition("03.01", "20210806T124420"),
    ),
    OpticalPass(
        platform="Sentinel-2A",
        sensed=_at("20210831T101031"),
        orbit=22,
        absolute=32337,
        clouds=0.01,
        veil=0.01,
        haze=0.7,
        edition=_edition("05.00", "20230117T094025"),
    ),
    OpticalPass(
        platform="Sentinel-2B",
        sensed=_at("20210925T100729"),
        orbit=22,
        absolute=23786,
        clouds=0.18,
        veil=0.03,
        haze=1.0,
        edition=_edition("03.01", "20210925T135811"),
        missing="B05",
    ),
)
# ^ the relative orbits over 12 degrees east and their repeat of ten days are the real ones; so is
#   the mixture of baselines within a season, which reprocessed archives have

RADAR = (
    RadarPass(
        platform="SENTINEL-1A",
        start=_at("20210427T165927"),
        stop=_at("20210427T165952"),
        state="ascending",
        orbit=117,
        absolute=37639,
    ),
    RadarPass(
        platform="SENTINEL-1A",
        start=_at("20210506T052640"),
        stop=_at("20210506T052705"),
        state="descending",
        orbit=168,
        absolute=37763,
    ),
    RadarPass(
        platform="SENTINEL-1A",
        start=_at("20210602T165929"),
        stop=_at("20210602T165954"),
        state="ascending",
        orbit=117,
        absolute=38164,
    ),
    RadarPass(
        platform="SENTINEL-1A",
        start=_at("20210712T052644"),
        stop=_at("20210712T052709"),
        state="descending",
        orbit=168,
        absolute=38740,
    ),
    RadarPass(
        platform="SENTINEL-1A",
        start=_at("20210813T165934"),
        stop=_at("20210813T165959"),
        state="ascending",
        orbit=117,
        absolute=39214,
    ),
    RadarPass(
        platform="SENTINEL-1A",
        start=_at("20210910T052647"),
        stop=_at("20210910T052712"),
        state="descending",
        orbit=168,
        absolute=39615,
        cut=True,
    ),
)
