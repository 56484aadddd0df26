"""Coverage by date: its numbers against plain arithmetic, its picture, and the page of a search."""

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

REGION = shapely.box(10, 40, 14, 44)
NOON = dt.datetime(2024, 6, 1, 10, tzinfo=dt.UTC)
SVG = "{http://www.w3.org/2000/svg}"


def a_scene(name, box, *, day=0, cloud_cover=None, modality="S2L2A"):
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


def sphere(west, south, east, north):
    """Return the area of a box on the unit sphere."""
    return math.radians(east - west) * (
        math.sin(math.radians(north)) - math.sin(math.radians(south))
    )


@given(st.integers(-89, 88), st.integers(1, 60), st.floats(0.1, 1), st.floats(0.1, 1))
def test_a_share_is_that_of_areas_on_the_sphere(south, tall, wide, part):
    north = min(90, south + tall)
    region = (20, south, 30, north)
    middle = south + part * (north - south)
    box = (20, south, 20 + 10 * wide, middle)
    expected = sphere(*box) / sphere(*region)
    share = lonlat_geometry.covered_fraction(shapely.box(*box), shapely.box(*region))
    assert share == pytest.approx(expected, rel=1e-6)


def test_days_of_each_input():
    scenes = [
        a_scene("west", (9, 40, 12, 44), cloud_cover=10),
        a_scene("east", (11, 40, 13, 44), cloud_cover=40),
        a_scene("later", (10, 40, 11, 44), day=5),
        a_scene("heights", (9, 39, 15, 45), modality="DEM"),
    ]
    refused = [
        RejectedScene(id="cloudy", reason="clouds", modality="S2L2A", day="2024-06-01", share=0.4),
        RejectedScene(id="alone", reason="clouds", modality="S2L2A", day="2024-06-03", share=1.0),
        RejectedScene(id="unread", reason="malformed"),
    ]
    first, alone, later, heights = coverage.group_by_day(scenes, refused, REGION)
    assert (first.modality, first.date) == ("S2L2A", dt.date(2024, 6, 1))
    assert first.share == pytest.approx(0.75)
    assert first.cloud_cover == pytest.approx((10 * 0.5 + 40 * 0.5) / 1.0)
    assert first.scenes == ("west", "east")
    assert first.refused == (refused[0],)
    assert (alone.share, alone.scenes, alone.cloud_cover) == (0, (), None)
    assert (later.share, later.cloud_cover) == (pytest.approx(0.25), None)
    assert (heights.modality, heights.date, heights.share) == ("DEM", None, 1)


def drawn(days):
    """Return bars as (x, height, tooltip) and the labels of a drawing."""
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


def days_of(count, step=1):
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
def test_every_day_is_a_bar_inside_the_picture_and_labels_do_not_meet(count, step):
    days = days_of(count, step)
    root, bars, _ = drawn(days)
    assert len(bars) == count
    wide = float(root.get("viewBox").split()[2])
    assert all(0 < x < wide for x, _, _ in bars)
    assert [x for x, _, _ in bars] == sorted({x for x, _, _ in bars})
    heights = [height for _, height, _ in bars]
    shares = [day.share for day in days]
    assert heights == pytest.approx([share * max(heights) / max(shares) for share in shares])
    below = [one for one in root.iter(f"{SVG}text") if one.get("text-anchor") == "middle"]
    spans = [(float(one.get("x")), 3.8 * len(one.text)) for one in below]
    assert spans
    for (x, half), (next_x, next_half) in pairwise(spans):
        assert x + half < next_x - next_half
    assert all(x + half <= wide for x, half in spans)


def test_what_was_left_out_says_why_without_secrets():
    left = RejectedScene(id="S2<x>", reason="see https://a.org/B02.tif?sig=SECRET", share=0.5)
    day = DayCoverage(
        modality="S2L2A", date=dt.date(2024, 1, 5), share=0, cloud_cover=None, scenes=(),
        refused=(left,),
    )  # fmt: skip
    _, [(_, _, tooltip)], labels = drawn([day])
    assert tooltip.startswith("S2L2A 2024-01-05, left out\nS2<x>: see ")
    assert "SECRET" not in coverage_chart.draw_coverage([day])
    assert "left out" in labels


def test_the_picture_is_also_told_in_words():
    heights = DayCoverage(modality="DEM", date=None, share=0.5, cloud_cover=None, scenes=("d",))
    root, _, _ = drawn([*days_of(8), heights])
    assert root.get("role") == "img"
    assert root.get("aria-label") == (
        "Coverage by date. S2L2A: used on 8 days, 2 of which cover the whole region, "
        "0 scenes left out; DEM: covers 50 % of the region, 0 scenes left out."
    )
    assert coverage_chart.draw_coverage([]) == ""


def a_job(realdata, tmp_path):
    values = {
        "name": "tw",
        "region": {"bbox": [14.9, 45.3, 15.6, 46.3]},
        "period": "2023-08-01/2023-08-31",
        "catalog": {"path": str(realdata / "catalog/earth-search/catalog.json")}
        | {"provider": "earth-search"},
        "allow": [str(realdata)],
        "inputs": ["S2L2A"],
        "composite": {"max_cloud_cover": 60},
        "model": {"name": "none"},
        "output": {"composites": True},
    }
    return jobs.parse(values, folder=tmp_path)


def test_a_search_of_real_scenes(realdata, tmp_path):
    page = tmp_path / "deep" / "search.html"
    found = search_report.search(a_job(realdata, tmp_path), progress.NullProgress(), page).to_dict()
    assert [len(found["used"]), len(found["refused"])] == [4, 2]
    assert [day["date"] for day in found["coverage"]] == ["2023-08-10", "2023-08-13", "2023-08-18"]
    clear = found["coverage"][1]
    region = shapely.box(14.9, 45.3, 15.6, 46.3)
    items = realdata / "catalog/earth-search/sentinel-2-l2a"
    documents = (next(items.rglob(f"{name}*.json")).read_text() for name in clear["used"])
    footprints = [shapely.geometry.shape(json.loads(text)["geometry"]) for text in documents]
    planar = shapely.union_all(footprints).intersection(region).area / region.area
    assert clear["coverage"] == pytest.approx(planar, abs=0.01)
    assert clear["refused"] == []
    assert found["coverage"][0]["used"] == []
    assert json.dumps(found)
    text = page.read_text()
    assert "<script" not in text
    for scene in (*found["used"], *found["refused"]):
        assert scene["id"] in text
    assert len(re.findall(r"<title>S2L2A 2023-08-1[038]", text)) == 3


def test_a_report_that_cannot_be_written(realdata, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="Name another file with --report"):
        search_report.search(
            a_job(realdata, tmp_path), progress.NullProgress(), tmp_path / "file" / "search.html"
        )
