"""Whatever a catalog states wrongly of correct files, the pixels are right or the fact is named."""

from __future__ import annotations

import os
import random
import re
from dataclasses import replace

import numpy as np
import pytest

from catalogs.errors import InvalidInputError
from catalogs.snapshot import Snapshot
from flows.config import job as jobs
from flows.run import planning
from pipeline.compositing import composite_block
from tests.support import contradicting_catalogs as catalogs

CASES = 1000 if os.environ.get("TERRAMOSAIC_NIGHTLY") else 100


def _plan(location, files, check="refuse"):
    job = {
        "name": "facts",
        "region": {"bbox": list(catalogs.REGION)},
        "period": "2020-06-01/2020-06-30",
        "catalog": {"path": str(location), "provider": "planetary-computer"},
        "inputs": [files.modality],
        "bands": {files.modality: list(files.bands)},
        "grid": {"crs": f"EPSG:{catalogs.EPSG}", "resolution": 10},
        "composite": {"max_cloud_cover": 100},
        "radiometry": {"proof": check},
        "model": {"name": "none"},
        "output": {"path": "out", "composites": True},
    }
    return planning.create_plan(jobs.parse(job, folder=location.parent))


def _compose(plan):
    """Return (band, y, x) composite of a plan, tile by tile as a run computes it."""
    (tile,) = plan.tiles
    scenes = plan.tile_scenes(tile)
    block = composite_block.compose(plan, scenes, plan.context_grid(tile), threads=1)
    return block.values[plan.recipe.inputs[0]].values


@pytest.fixture(scope="module", params=range(len(catalogs.KINDS)))
def world(request, tmp_path_factory):
    """Return the files of one kind, their folder, and the plan of a catalog that is right."""
    files = catalogs.KINDS[request.param]
    folder = tmp_path_factory.mktemp("world")
    catalogs.write_files(folder, files)
    items = [catalogs.build_item(files, day) for day in range(len(files.days))]
    plan = _plan(catalogs.write_catalog(folder, files, items), files)
    return files, folder, plan


def _expected_values(files, day, band):
    """Return (y, x) physical values of a file, in the unit of composites; NaN = none."""
    values = files.stored_values(day, band).astype(np.float64) * files.scale
    values = values * (10_000 if files.modality == "S2L2A" else 1)
    if files.nodata is not None:
        values[catalogs.VOID] = np.nan
    return values


def test_a_catalog_that_is_right_gives_the_values_of_the_files(world):
    files, _, plan = world
    assert [scene.id for scene in plan.snapshot.scenes] == [
        files.item_id(day) for day in range(len(files.days))
    ]
    assert not plan.snapshot.refused
    assert not [caveat.text for caveat in plan.caveats if "taken as they are" in caveat.text]
    composite = _compose(plan)
    grid = plan.grid
    row = round((catalogs.TOP - grid.top) / 10)
    column = round((grid.left - catalogs.LEFT) / 10)
    window = np.s_[row : row + grid.height, column : column + grid.width]
    for band in range(len(files.bands)):
        days = [_expected_values(files, day, band)[window] for day in range(len(files.days))]
        with np.errstate(all="ignore"):
            expected = np.mean(days, axis=0)
        valid = np.isfinite(composite[band])
        assert np.allclose(composite[band][valid], expected[valid], rtol=1e-5)
        assert valid.mean() > 0.5
        if files.modality != "S1RTC":
            assert np.array_equal(valid, np.isfinite(expected))


def _plan_or_message(location, files, check):
    try:
        return _plan(location, files, check), ""
    except InvalidInputError as error:
        return None, str(error)


def _check_wrong_catalog(world, seed):
    """Plan a catalog with one or two wrong facts; compare its pixels, or find what is named."""
    files, folder, right_plan = world
    dice = random.Random(seed)
    facts = dice.sample(sorted(catalogs.CHANGES), dice.randint(1, 2))
    items = [catalogs.build_item(files, day) for day in range(len(files.days))]
    wrong = dice.sample(items, dice.randint(1, len(items)))
    for item in wrong:
        for fact in facts:
            catalogs.CHANGES[fact](item, dice)
    words = re.compile("|".join(catalogs.WORDS[fact] for fact in facts))
    location = catalogs.write_catalog(folder, files, items)
    check = dice.choice(["refuse", "refuse", "warn", "off"])
    plan, message = _plan_or_message(location, files, check)
    if plan is None:
        assert words.search(message), (facts, message)
        return "refused"
    if check != "refuse" and any("states an offset" in caveat.text for caveat in plan.caveats):
        return "right"
        # ^ told, and used as stated, as the job asks for
    used = {scene.id for scene in plan.snapshot.scenes}
    reasons = {scene.id: scene.reason for scene in plan.snapshot.refused}
    for item in items:
        assert item["id"] in used or words.search(reasons.get(item["id"], "")), (facts, reasons)
    right_scenes = [scene for scene in right_plan.snapshot.scenes if scene.id in used]
    right = replace(right_plan, snapshot=Snapshot(scenes=tuple(right_scenes)))
    assert plan.grids == right.grids, facts
    np.testing.assert_allclose(
        _compose(plan), _compose(right), rtol=1e-6, err_msg=f"{facts}, {check}"
    )
    changed = {item["id"] for item in wrong} & used
    if changed and set(facts) & {"transform", "epsg", "shape", "dtype"}:
        told = {caveat.id for caveat in plan.caveats if words.search(caveat.text)}
        assert changed <= told, (facts, plan.caveats)
    return "right"


def test_wrong_statements_give_the_right_pixels_or_are_named(world):
    index = catalogs.KINDS.index(world[0])
    seeds = range(index, CASES, len(catalogs.KINDS))
    outcomes = [_check_wrong_catalog(world, seed) for seed in seeds]
    assert {"right"} <= set(outcomes) <= {"right", "refused"}
