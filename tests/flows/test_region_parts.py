"""Parts of a region that are smaller than a pixel are told by name, with advice that works."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import shapely
import yaml
from shapely.geometry import mapping

from catalogs.errors import InvalidInputError
from flows.cli import main
from flows.cli.exit_codes import EXIT_OK, EXIT_USAGE
from flows.config import region
from flows.config.region import RegionPart
from flows.run import unmapped_parts
from pipeline.grid import grid
from pipeline.grid.grid import Grid
from tests.support import small_catalogs, small_worlds, sparse_regions

RAMP = np.arange(small_catalogs.SIZE**2, dtype=np.uint16).reshape(2 * (small_catalogs.SIZE,))
BANDS = {"B02": RAMP + 300, "B04": RAMP + 400, "SCL": 4}
FIELD = sparse_regions.box(120, 120, 200, 150)
POND = sparse_regions.box(411, 131, 3, 2)
"""Pixels of 10 m have their centres 5 m from multiples of 10 m: none lies in it."""

HEDGE = sparse_regions.box(420, 166, 90, 3)


def write_region(folder, *features):
    """Write features, each a projected area with its other members; return the path."""
    documents = [
        {
            "type": "Feature",
            "properties": {},
            "geometry": mapping(sparse_regions.to_lonlat(area)),
            **members,
        }
        for area, members in features
    ]
    path = folder / "region.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": documents}))
    return path


def write_job(folder, *features, **sections):
    item = small_catalogs.an_item(folder, "s2", BANDS, **{"s2:processing_baseline": "02.14"})
    settings = {
        "provider": "planetary-computer",
        "bands": {"S2L2A": ["B02", "B04"]},
        "radiometry": {"proof": "off"},
        "region": {"file": str(write_region(folder, *features))},
    }
    return small_catalogs.write_job(folder, [item], **settings | sections)


def command(capsys, name, job):
    capsys.readouterr()
    code = main.main([name, str(job), "--json"])
    return code, json.loads(capsys.readouterr().out)


def change_job(job, **sections):
    job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | sections))
    return job


NAMED = ((FIELD, {}), (POND, {"properties": {"Name": "Pond"}}), (HEDGE, {"id": 7}))


def test_parts_without_a_pixel_are_told_by_every_command(tmp_path, capsys):
    job = write_job(tmp_path, *NAMED)
    for name in ("search", "plan", "run"):
        code, result = command(capsys, name, job)
        (warning,) = result["warnings"]
        assert code == EXIT_OK
        assert warning.startswith(
            "region: no pixel of the grid has its centre in 2 of its 3 parts, so they are not "
            "mapped: Pond (3 m wide and 2 m high, at "
        )
        assert "id 7 (90 m wide and 3 m high, at " in warning
        assert "A pixel is 10 m wide" in warning
        capsys.readouterr()
        main.main([name, str(job)])
        assert f"warning    {warning}" in capsys.readouterr().out


def test_the_advice_for_parts_without_a_pixel_works(tmp_path, capsys):
    job = write_job(tmp_path, *NAMED)
    (warning,) = command(capsys, "plan", job)[1]["warnings"]
    metres = float(re.search(r"buffer what is not mapped by ([\d.]+) m", warning)[1])
    resolution = float(re.search(r"set grid: \{resolution: ([\d.]+)\}", warning)[1])
    crs = {"crs": f"EPSG:{small_worlds.EPSG}", "align": "multiples"}
    change_job(job, grid=crs | {"resolution": resolution})
    assert command(capsys, "plan", job)[1]["warnings"] == []
    buffered = [(area.buffer(metres), members) for area, members in NAMED[1:]]
    write_region(tmp_path, NAMED[0], *buffered)
    assert command(capsys, "plan", change_job(job, grid=crs))[1]["warnings"] == []


def test_parts_too_small_for_any_resolution_are_to_be_buffered(tmp_path, capsys):
    job = write_job(tmp_path, (FIELD, {}), (sparse_regions.box(411, 131, 0.5, 0.5), {}))
    (warning,) = command(capsys, "search", job)[1]["warnings"]
    assert warning.endswith("A pixel is 10 m wide: buffer what is not mapped by 10 m.")
    assert "feature 2 (0.5 m wide" in warning


def test_many_parts_without_a_pixel_are_one_warning(tmp_path, capsys):
    ponds = [(sparse_regions.box(411, 31 + 10 * row, 3, 3), {}) for row in range(40)]
    job = write_job(tmp_path, (FIELD, {}), *ponds)
    (warning,) = command(capsys, "search", job)[1]["warnings"]
    assert "in 40 of its 41 parts" in warning
    assert warning.count(" m high") == unmapped_parts.MAX_LISTED_PARTS
    assert "; and 35 more. " in warning


def test_a_region_of_parts_without_a_pixel_is_refused(tmp_path, capsys):
    job = write_job(tmp_path, *NAMED[1:])
    reason = "No pixel of the grid has its centre in the region: Pond (3 m wide and 2 m high"
    for name in ("plan", "run"):
        code, result = command(capsys, name, job)
        assert code == EXIT_USAGE
        assert reason in result["error"]
    code, result = command(capsys, "search", job)
    assert code == EXIT_OK
    assert result["warnings"][0].startswith(f"A run will publish nothing. {reason}")


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({}, "feature 2"),
        ({"id": "field-7"}, "id field-7"),
        ({"id": 0}, "id 0"),
        ({"id": None, "properties": {"ID": 4}}, "id 4"),
        ({"id": 3, "properties": {"NAME": " Long\n\x1bmeadow "}}, "Long meadow"),
        ({"properties": {"name": ""}}, "feature 2"),
        ({"properties": {"name": ["a"]}}, "feature 2"),
        ({"properties": None}, "feature 2"),
    ],
)
def test_a_part_is_called_by_its_feature(tmp_path, members, name):
    path = write_region(tmp_path, (FIELD, {}), (POND, members))
    assert [part.name for part in region.read_parts(path)] == ["feature 1", name]


def test_polygons_of_one_feature_are_numbered(tmp_path):
    both = mapping(sparse_regions.to_lonlat(shapely.union_all([FIELD, POND])))
    path = tmp_path / "region.geojson"
    path.write_text(json.dumps(both))
    parts = region.read_parts(path)
    assert [part.name for part in parts] == [
        "polygon 1 of the geometry",
        "polygon 2 of the geometry",
    ]
    assert region.join_parts(parts).equals(region.from_file(path))


def test_a_polygon_of_zero_area_is_refused(tmp_path):
    ring = mapping(shapely.box(9, 56, 10, 57))["coordinates"][0]
    path = tmp_path / "region.geojson"
    polygons = [[ring], [ring, ring]]
    path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": polygons}))
    with pytest.raises(InvalidInputError, match=r"a polygon of zero area: .* or remove it"):
        region.read_parts(path)


def _part(name, *areas):
    return RegionPart(name=name, area=sparse_regions.to_lonlat(shapely.union_all(areas)))


GRID = Grid(
    epsg=small_worlds.EPSG,
    resolution=10.0,
    left=small_worlds.LEFT,
    top=small_worlds.TOP,
    height=64,
    width=64,
)


def find_texts(parts, rasters):
    return [caveat.text for caveat in unmapped_parts.find_unmapped_parts(parts, rasters, 10.0)]


def test_a_part_within_another_part_is_mapped():
    inner = sparse_regions.box(131, 131, 3, 3)
    assert find_texts([_part("field", FIELD), _part("inner", inner)], {"the grid": [GRID]}) == []


def test_every_layer_and_mosaic_tells_the_parts_that_only_it_lacks():
    parts = [_part("field", FIELD), _part("garden", sparse_regions.box(401, 401, 50, 50))]
    rasters = {"the grid": [GRID], "embedding": [GRID.coarsen(16)], "classes": [GRID.coarsen(16)]}
    (text,) = find_texts(parts, rasters)
    assert text.startswith("no pixel of embedding has its centre in 1 of its 2 parts")
    assert "garden (50 m wide" in text
    assert text.endswith("buffer what is not mapped by 160 m, or set grid: {resolution: 2.2}.")


def test_a_part_on_the_edge_of_two_zones_is_mapped_by_either():
    strip = shapely.box(11.9999, 47.8, 12.0001, 47.9)
    sliver = shapely.box(11.99999, 47.85, 12.00001, 47.85001)
    parts = [RegionPart(name="strip", area=strip), RegionPart(name="sliver", area=sliver)]
    zones = [grid.build_covering_grid(strip, epsg, 10, (0, 0)) for epsg in (32632, 32633)]
    assert find_texts(parts[:1], {"the grid": zones}) == []
    coarse = [zone.coarsen(100) for zone in zones]
    mapped = shapely.box(11.9, 47.8, 12.1, 47.9)
    (text,) = find_texts([RegionPart(name="land", area=mapped.difference(strip)), parts[1]],
                         {"the grid": coarse})  # fmt: skip
    assert "sliver (0.7" in text


def test_a_named_system_can_be_joined_on_another_one(tmp_path, capsys):
    job = write_job(tmp_path, (FIELD, {}), grid={"crs": "EPSG:3035", "mosaic": ["EPSG:32633"]})
    code, result = command(capsys, "plan", job)
    assert (code, result["warnings"]) == (EXIT_OK, [])
