"""The snapshot: one digest for the same scenes, and no half-written file."""

import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs.scene import Asset, Radiometry, RejectedScene, Scene
from catalogs.search import scene_selection
from catalogs.snapshot import Snapshot
from tests.support.stac_documents import WORLD, find


def a_scene(name, **changed):
    metres = Radiometry(scale=1, offset=0, unit="m")
    values = {
        "id": name,
        "collection": "cop-dem-glo-30",
        "provider": "demo",
        "modality": "DEM",
        "datetime": None,
        "footprint": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        "bbox": (0, 0, 1, 1),
        "assets": {
            "DEM": Asset(
                band="DEM", href=f"/here/{name}.tif", radiometry=metres, nodata=float("nan")
            )
        },
    }
    return Scene(**values | changed)


SCENES = tuple(a_scene(f"d{number}") for number in range(5))


def move_asset(scene):
    asset = dataclasses.replace(scene.assets["DEM"], href="/there/else.tif")
    return dataclasses.replace(scene, assets={"DEM": asset})


def test_the_digest_is_independent_of_order_and_hrefs():
    shuffled = list(SCENES)
    random.Random(1).shuffle(shuffled)
    digest = Snapshot(scenes=SCENES).digest
    assert Snapshot(scenes=tuple(shuffled)).digest == digest
    assert Snapshot(scenes=tuple(map(move_asset, SCENES))).digest == digest
    assert Snapshot(scenes=SCENES, refused=(RejectedScene(id="x", reason="y"),)).digest == digest
    assert Snapshot(scenes=SCENES[1:]).digest != digest
    changed = (a_scene("d0", baseline="1.0"), *SCENES[1:])
    assert Snapshot(scenes=changed).digest != digest
    assert len(digest) == 64


def test_the_digest_is_stable():
    assert Snapshot(scenes=SCENES[:1]).digest == (
        "e70ca704f32f118b90551b5c7cba872e810e84abe9ff752e60fe2921b3341efe"
    )
    # ^ a change here makes the receipts of finished tiles stale: make it knowingly


def test_a_duplicate_scene_is_refused():
    with pytest.raises(ValueError, match="d1"):
        Snapshot(scenes=(*SCENES, SCENES[1]))


REAL = (
    ("earth-search-v1", "earth-search", ("S2L2A", "DEM")),
    ("planetary-computer", "planetary-computer", ("S2L2A", "S1RTC", "DEM")),
    ("cdse", "cdse", ("S2L2A",)),
)


@pytest.mark.parametrize(("folder", "provider", "modalities"), REAL)
def test_any_order_of_real_documents_gives_one_digest(
    realdata, tmp_path, folder, provider, modalities
):
    paths = sorted((realdata / "stac" / folder).glob("**/*.json"))
    documents = [json.loads(path.read_text()) for path in paths]
    documents = [document for document in documents if isinstance(document, dict)]
    items = [item for item in documents if item.get("type") == "Feature"]
    items += [item for document in documents for item in document.get("features", ())]
    items += [
        item | {"properties": item["properties"] | {"eo:cloud_cover": 99, "updated": "2026-01-01"}}
        for item in items[::3]
    ]
    # ^ the catalog moved while it was being read: two documents of one id

    @settings(max_examples=12)
    @given(st.permutations(items))
    def check(order):
        path = tmp_path / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": order}))
        result = find(path, modalities, region=WORLD, period=None, provider=provider)
        selection = scene_selection.select_scenes(result.scenes, WORLD)
        snapshot = Snapshot(scenes=result.scenes, refused=result.refused)
        results.add((snapshot.digest, snapshot.refused, result.caveats,
                                          Snapshot(scenes=selection.used,
                              refused=selection.refused).digest))  # fmt: skip

    results = set()
    check()
    assert len(results) == 1
