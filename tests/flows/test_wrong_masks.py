"""Scenes whose masks hold other values than masks do are left out by name."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from catalogs.errors import InvalidInputError, NothingFoundError
from flows.config import job as jobs
from flows.run import planning
from tests.support import small_catalogs
from tests.support.small_catalogs import SIZE

RAMP = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) % 900 + 300


def write_item(folder, name, day, scl):
    bands = {"B02": RAMP, "B04": RAMP + 40, "SCL": scl}
    properties = {"datetime": f"2024-06-{day:02d}T10:00:00Z", "grid:code": "MGRS-33TWM"}
    return small_catalogs.an_item(folder, name, bands, collection="sentinel-2-l2a", **properties)


def plan(folder, items, **sections):
    sections = {"bands": {"S2L2A": ["B02", "B04"]}} | sections
    path = small_catalogs.write_job(folder, items, provider="planetary-computer", **sections)
    return planning.create_plan(jobs.load(path))


@pytest.mark.parametrize("proof", ["refuse", "off"])
@pytest.mark.parametrize(("scl", "example"), [(40, 40), (RAMP, 300)], ids=["tenfold", "band"])
def test_a_scene_with_other_values_than_classes_is_left_out(tmp_path, scl, example, proof):
    items = [write_item(tmp_path, "bad", 10, scl), write_item(tmp_path, "good", 12, 4)]
    planned = plan(tmp_path, items, radiometry={"proof": proof})
    assert [scene.id for scene in planned.snapshot.scenes] == ["good"]
    (refused,) = planned.snapshot.refused
    assert refused.id == "bad"
    assert f"holds values such as {example}, which are no codes of scene classes" in refused.reason


def test_the_only_scene_is_refused_by_name(tmp_path):
    with pytest.raises(
        (NothingFoundError, InvalidInputError),
        match=r"bad: its SCL .* such as 40.*correct what the reason names",
    ):
        plan(tmp_path, [write_item(tmp_path, "bad", 10, 40)])


def test_classes_at_the_edge_of_a_few_pixels_do_not_matter(tmp_path):
    scl = np.full((SIZE, SIZE), 4, dtype=np.uint8)
    scl[0, 0] = 77
    item = write_item(tmp_path, "good", 10, scl)
    assert [scene.id for scene in plan(tmp_path, [item]).snapshot.scenes] == ["good"]
    (path,) = tmp_path.rglob("*SCL*.tif")
    with rasterio.open(path) as file:
        assert file.read(1).max() == 77
