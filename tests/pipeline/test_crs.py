"""Coordinate systems: which are accepted, and what their distortion means for pixels and areas."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Proj, Transformer
from pyproj.database import query_crs_info
from pyproj.enums import PJType

from catalogs.errors import InvalidInputError
from pipeline import layer_table
from pipeline.grid import crs, grid, ground_scale
from pipeline.grid.grid import Grid
from pipeline.storage import cog
from pipeline.storage.store import LocalStore

GEOD = Geod(ellps="WGS84")
JUTLAND = shapely.box(9.0, 56.0, 9.2, 56.1)


@pytest.mark.parametrize(
    ("epsg", "phrase"),
    [
        (4326, "not projected in metres but in degree"),
        (4978, "not projected in metres"),
        (2263, "US survey foot"),
        (2277, "US survey foot"),
        (3361, "but in foot"),
        (5703, "not projected"),
        (5555, "Write EPSG:25832"),
        (3901, "Write EPSG:2393"),
        (9895, "heights"),
        (2046, "upside down"),
        (2065, "to the west"),
        (2218, "to the west"),
        (3785, "Write EPSG:3857"),
        (3973, "Write EPSG:6931"),
        (2036, "Write EPSG:"),
        (999999, "does not exist"),
    ],
)
def test_a_system_without_north_up_rasters_in_metres_is_refused(epsg, phrase):
    with pytest.raises(InvalidInputError, match=phrase) as refusal:
        crs.check_crs(epsg)
    assert str(epsg) in str(refusal.value)
    with pytest.raises(InvalidInputError):
        grid.resolve_epsg_codes(f"EPSG:{epsg}", JUTLAND)


@pytest.mark.parametrize(
    "epsg", [3857, 3035, 32632, 5041, 32661, 3413, 3031, 5514, 2056, 27700, 3067]
)
def test_north_up_systems_in_metres_are_accepted(epsg):
    crs.check_crs(epsg)


def test_the_advice_for_refused_systems_is_accepted():
    """Every code that a message recommends is accepted itself."""
    infos = [
        info
        for kind in (PJType.PROJECTED_CRS, PJType.COMPOUND_CRS)
        for info in query_crs_info("EPSG", kind, allow_deprecated=True)
    ]
    recommended = set()
    for info in infos[::5]:
        try:
            crs.check_crs(int(info.code))
        except InvalidInputError as error:
            recommended |= set(re.findall(r"Write EPSG:(\d+)\.$", str(error)))
    assert len(recommended) > 20
    for code in recommended:
        crs.check_crs(int(code))


@pytest.mark.parametrize("epsg", [9311, 32600, 26692])
def test_a_system_that_no_geotiff_can_state_is_refused(epsg):
    """Writing the COG, after all tiles, would fail on it."""
    with pytest.raises(InvalidInputError, match=f"EPSG:{epsg} is read without a code"):
        cog.check_crs(epsg)


def _geodesic_area(epsg, x, y, side=200.0):
    half = side / 2
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    longitudes, latitudes = to_lonlat.transform(
        *zip(*[(x + u, y + v) for u, v in corners], strict=True)
    )
    return abs(GEOD.polygon_area_perimeter(longitudes, latitudes)[0]) / side**2


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([3857, 3395, 4087, 3035, 6933, 8857, 32633, 5041]),
    st.floats(-20, 40),
    st.floats(30, 80),
)
def test_the_ground_scale_is_that_of_geodesics_and_of_proj(epsg, longitude, latitude):
    if epsg == 32633 and abs(longitude - 15) > 4:
        return
    if epsg == 5041 and latitude < 60:
        return
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude, latitude)
    scale = ground_scale.compute_ground_scale(epsg, x, y)
    assert float(scale.area) == pytest.approx(_geodesic_area(epsg, x, y), rel=1e-4)
    factors = Proj(CRS.from_epsg(epsg)).get_factors(longitude, latitude)
    tolerance = 1e-4 if epsg not in (3857, 4087) else 1e-2
    # ^ these are spherical, and PROJ states their factors on the sphere
    assert float(scale.long_side) == pytest.approx(1 / factors.tissot_semiminor, rel=tolerance)
    assert float(scale.short_side) == pytest.approx(1 / factors.tissot_semimajor, rel=tolerance)


def test_the_ground_scale_is_defined_across_180_degrees_and_undefined_off_the_map():
    scale = ground_scale.compute_ground_scale(3832, [0.0, 3_339_584.7], [0.0, 0.0])
    assert scale.area == pytest.approx([1.0, 1.0], abs=0.02)
    assert np.isnan(ground_scale.compute_ground_scale(6933, 0.0, 9e6).area)


@pytest.mark.parametrize(
    ("epsg", "region", "phrases"),
    [
        (3857, JUTLAND, ["3.1", "times the true ones", "sides of 5.6"]),
        (3395, JUTLAND, ["times the true ones"]),
        (4087, JUTLAND, ["times the true ones", "sides of 5.6 to 10.0 m"]),
        (3413, shapely.box(-45, 84, -44, 85), ["0.9"]),
        (6933, JUTLAND, ["shapes are stretched, areas are true"]),
        (3035, JUTLAND, []),
        (3035, shapely.box(25.0, 65.0, 25.1, 65.1), []),
        (25832, JUTLAND, []),
        (3857, shapely.box(10.0, 0.0, 10.1, 0.1), []),
        (5070, shapely.box(-100, 48, -99.9, 48.1), []),
    ],
)
def test_distortion_is_described_where_it_matters(epsg, region, phrases):
    texts = list(ground_scale.describe_distortion(grid.project(region, epsg), epsg, 10.0))
    assert len(texts) == bool(phrases)
    for phrase in phrases:
        assert phrase in texts[0]


@pytest.mark.parametrize(
    ("epsg", "region", "is_mentioned"),
    [
        (27700, shapely.box(-2, 52, -1, 53), False),
        (27700, shapely.box(2, 50, 3, 51), True),
        (2154, shapely.box(10, 44, 11, 45), True),
        (3832, shapely.box(179, -18, 180, -17), False),
        (3857, shapely.box(9, 86, 10, 87), True),
    ],
)
def test_a_region_beyond_the_area_of_use_is_mentioned(epsg, region, is_mentioned):
    texts = list(crs.describe_area_of_use(region, epsg))
    assert len(texts) == is_mentioned


@pytest.mark.parametrize("epsg", [3857, 4087, 32632])
def test_areas_of_classes_are_those_on_the_ground(tmp_path, epsg):
    """Half of the map is one class, half another: their areas add up to that of the region."""
    region = shapely.box(9.0, 50.0, 9.5, 62.0)
    area = grid.build_covering_grid(region, epsg, 500.0, (0.0, 0.0))
    inside = grid.rasterize_region(grid.project(region, epsg), area)
    south = np.arange(area.height)[:, None] > area.height / 2
    values = np.where(inside, np.where(south, 1, 2), 0).astype(np.uint8)
    info = cog.write_cog(
        LocalStore(tmp_path),
        "map.tif",
        area,
        layer_table.get("land_cover"),
        lambda first, last: values[None, first:last],
    )
    dense = shapely.segmentize(region, 0.01)
    truth = abs(GEOD.geometry_area_perimeter(dense)[0]) / 1e6
    assert info.areas[1] + info.areas[2] == pytest.approx(truth, rel=5e-3)
    nominal = (values > 0).sum() * 0.25
    assert (nominal / truth > 1.5) == (epsg != 32632)
    rows = ET.parse(tmp_path / "map.tif.aux.xml").find(".//GDALRasterAttributeTable").iter("Row")
    cells = {row[0].text: [cell.text for cell in row] for row in rows}
    assert float(cells["1"][6]) == pytest.approx(info.areas[1], abs=1e-6)
    share = 100 * info.areas[1] / (info.areas[1] + info.areas[2])
    assert float(cells["1"][7]) == pytest.approx(share, abs=1e-3)


def test_every_accepted_code_is_read_back_from_a_file(tmp_path):
    """A COG is compared with what was written; a code that GDAL changes would fail at the end."""
    for epsg in (3857, 3035, 5041, 3413, 2056, 3067, 31467, 5514):
        crs.check_crs(epsg)
        cog.check_crs(epsg)
        area = Grid(epsg=epsg, resolution=10.0, left=0.0, top=0.0, height=2, width=2)
        values = np.ones((1, 2, 2), np.uint8)
        cog.write_cog(
            LocalStore(tmp_path),
            f"{epsg}.tif",
            area,
            layer_table.get("land_cover"),
            lambda first, last, values=values: values[:, first:last],
        )
        with rasterio.open(tmp_path / f"{epsg}.tif") as source:
            assert source.crs.to_epsg() == epsg
