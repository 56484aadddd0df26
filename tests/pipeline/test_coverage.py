"""Coverage by date: its shares against plain arithmetic, its chart, and the search report."""

import datetime as dt
import json
import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from catalogs import lonlat_geometry
from catalogs.errors import InvalidInputError
from catalogs.scene import Asset, Radiometry, RejectedScene, Scene
from flows.config import job as jobs
from flows.observe import progress
from flows.run import search_report
from pipeline.product.report import coverage_chart
from pipeline.quality import coverage
from pipeline.quality.coverage import DayCoverage
from tests.support import real_items

REGION = shapely.box(10, 40, 14, 44)
NOON = dt.datetime(2024, 6, 1, 10, tzinfo=dt.UTC)
SVG = "{http://www.w3.org/2000/svg}"


def make_scene(name, box, *, day=0, cloud_cover=None, modality="S2L2A"):
    band, unit = ("DEM", "m") if modality == "DEM" else ("B02", "reflectance")
    return Scene(
        id=name,
        collection="c",
        provider="demo",
        modality=modality,
        datetime=None if modality == "DEM" else NOON + dt.timedelta(days=day),
        footprint=shapely.geometry.mapping(shapely.box(*box)),
        bbox=box,
        cloud_cover=cloud_cover,
        assets={
            band: Asset(
                band=band, href="/x.tif", radiometry=Radiometry(scale=1, offset=0, unit=unit)
            )
        },
    )


def compute_box_area(west, south, east, north):
    """Return the area of a box on the unit sphere."""
    return math.radians(east - west) * (
        math.sin(math.radians(north)) - math.sin(math.radians(south))
    )


@given(st.integers(-89, 88), st.integers(1, 60), st.floats(0.1, 1), st.floats(0.1, 1))
def test_a_share_is_a_ratio_of_areas_on_the_sphere(south, height, width_fraction, height_fraction):
    north = min(90, south + height)
    region = (20, south, 30, north)
    box_north = south + height_fraction * (north - south)
    box = (20, south, 20 + 10 * width_fraction, box_north)
    expected = compute_box_area(*box) / compute_box_area(*region)
    share = lonlat_geometry.covered_fraction(shapely.box(*box), shapely.box(*region))
    assert share == pytest.approx(expected, rel=1e-6)


def test_days_are_grouped_by_modality_and_date():
    scenes = [
        make_scene("west", (9, 40, 12, 44), cloud_cover=10),
        make_scene("east", (11, 40, 13, 44), cloud_cover=40),
        make_scene("later", (10, 40, 11, 44), day=5),
        make_scene("heights", (9, 39, 15, 45), modality="DEM"),
    ]
    refused_scenes = [
        RejectedScene(id="cloudy", reason="clouds", modality="S2L2A", day="2024-06-01", share=0.4),
        RejectedScene(id="alone", reason="clouds", modality="S2L2A", day="2024-06-03", share=1.0),
        RejectedScene(id="unread", reason="malformed"),
    ]
    first, without_scenes, later, heights = coverage.group_by_day(scenes, refused_scenes, REGION)
    assert (first.modality, first.date) == ("S2L2A", dt.date(2024, 6, 1))
    assert first.share == pytest.approx(0.75)
    assert first.cloud_cover == pytest.approx((10 * 0.5 + 40 * 0.5) / 1.0)
    assert first.scenes == ("west", "east")
    assert first.refused == (refused_scenes[0],)
    assert (without_scenes.share, without_scenes.scenes, without_scenes.cloud_cover) == (
        0,
        (),
        None,
    )
    assert (later.share, later.cloud_cover) == (pytest.approx(0.25), None)
    assert (heights.modality, heights.date, heights.share) == ("DEM", None, 1)


def draw_bars(days):
    """Return the drawing, its bars as (x, height, tooltip), and its labels."""
    text = str(coverage_chart.draw_coverage(days)).replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
    )
    root = ET.fromstring(text)
    bars = [
        (float(bar.get("x")), float(bar.get("height")), bar.find(f"{SVG}title").text)
        for bar in root.iter(f"{SVG}rect")
        if bar.find(f"{SVG}title") is not None
    ]
    return root, bars, [label.text for label in root.iter(f"{SVG}text")]


def make_days(count, step=1):
    return [
        DayCoverage(
            modality="S2L2A",
            date=dt.date(2024, 1, 5) + dt.timedelta(days=step * number),
            share=(number % 4 + 1) / 4,
            cloud_cover=None if number % 5 == 0 else number % 100,
            scenes=(f"s{number}",),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "step"), [(1, 1), (2, 1), (19, 5), (75, 1), (500, 1), (500, 9)])
def test_every_day_has_a_bar_within_the_chart_and_labels_do_not_overlap(count, step):
    days = make_days(count, step)
    root, bars, _ = draw_bars(days)
    assert len(bars) == count
    chart_width = float(root.get("viewBox").split()[2])
    assert all(0 < x < chart_width for x, _, _ in bars)
    assert [x for x, _, _ in bars] == sorted({x for x, _, _ in bars})
    heights = [height for _, height, _ in bars]
    shares = [day.share for day in days]
    assert heights == pytest.approx([share * max(heights) / max(shares) for share in shares])
    date_labels = [
        label for label in root.iter(f"{SVG}text") if label.get("text-anchor") == "middle"
    ]
    spans = [(float(label.get("x")), 3.8 * len(label.text)) for label in date_labels]
    assert spans
    for (x, half_width), (next_x, next_half_width) in pairwise(spans):
        assert x + half_width < next_x - next_half_width
    assert all(x + half_width <= chart_width for x, half_width in spans)


def test_refused_scenes_are_explained_without_secrets():
    refused_scene = RejectedScene(
        id="S2<x>", reason="see https://a.org/B02.tif?sig=SECRET", share=0.5
    )
    day = DayCoverage(
        modality="S2L2A", date=dt.date(2024, 1, 5), share=0, cloud_cover=None, scenes=(),
        refused=(refused_scene,),
    )  # fmt: skip
    _, [(_, _, tooltip)], labels = draw_bars([day])
    assert tooltip.startswith("S2L2A 2024-01-05, left out\nS2<x>: see ")
    assert "SECRET" not in coverage_chart.draw_coverage([day])
    assert "left out" in labels


def test_the_chart_has_a_text_alternative():
    heights = DayCoverage(modality="DEM", date=None, share=0.5, cloud_cover=None, scenes=("d",))
    root, _, _ = draw_bars([*make_days(8), heights])
    assert root.get("role") == "img"
    assert root.get("aria-label") == (
        "Coverage by date. S2L2A: used on 8 days, 2 of which cover the whole region, "
        "0 scenes left out; DEM: covers 50 % of the region, 0 scenes left out."
    )
    assert coverage_chart.draw_coverage([]) == ""


def make_job(realdata, tmp_path):
    items = real_items.select_slovenian_scenes(realdata)
    location = real_items.publish_catalog(tmp_path / "catalog", items)
    values = {
        "name": "tw",
        "region": {"bbox": [14.9, 45.3, 15.6, 46.3]},
        "period": "2023-08-01/2023-08-31",
        "catalog": {"path": str(location), "provider": "earth-search"},
        "allow": [str(realdata)],
        "inputs": ["S2L2A"],
        "composite": {"max_cloud_cover": 60},
        "model": {"name": "none"},
        "output": {"composites": True},
    }
    return jobs.parse(values, folder=tmp_path)


def test_a_search_of_real_scenes_reports_their_coverage(realdata, tmp_path):
    page = tmp_path / "deep" / "search.html"
    result = search_report.search(
        make_job(realdata, tmp_path), progress.NullProgress(), page
    ).to_dict()
    assert [len(result["used"]), len(result["refused"])] == [4, 2]
    assert [day["date"] for day in result["coverage"]] == ["2023-08-10", "2023-08-13", "2023-08-18"]
    clear = result["coverage"][1]
    region = shapely.box(14.9, 45.3, 15.6, 46.3)
    geometries = {
        item["id"]: item["geometry"] for item in real_items.select_slovenian_scenes(realdata)
    }
    footprints = [shapely.geometry.shape(geometries[name]) for name in clear["used"]]
    planar = shapely.union_all(footprints).intersection(region).area / region.area
    assert clear["coverage"] == pytest.approx(planar, abs=0.01)
    assert clear["refused"] == []
    assert result["coverage"][0]["used"] == []
    assert json.dumps(result)
    text = page.read_text()
    assert "<script" not in text
    for scene in (*result["used"], *result["refused"]):
        assert scene["id"] in text
    assert len(re.findall(r"<title>S2L2A 2023-08-1[038]", text)) == 3


def test_a_report_that_cannot_be_written_is_an_error(realdata, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="Name another file with --report"):
        search_report.search(
            make_job(realdata, tmp_path), progress.NullProgress(), tmp_path / "file" / "search.html"
        )
