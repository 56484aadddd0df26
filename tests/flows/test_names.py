"""Names of jobs, scenes, folders and files as people write them, in whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pystac
import pytest
import rasterio
import xarray as xr
import yaml

from flows.cli import main
from flows.orchestration import artifacts
from tests.support import small_catalogs

FOLDER = "Ausgabe für #1 & (neu) 100% [x]?"


def _run(job: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main.main(["run", str(job), "--json"]) == 0
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return result


def _resolve(href: str, base: Path) -> Path:
    """Return the path of a relative or absolute href of a STAC document."""
    parts = urlsplit(href)
    assert not parts.query
    assert not parts.fragment
    return base.parent / unquote(parts.path)


def _check_product(path: Path) -> None:
    """Check that every href of an item leads to a file, for us, pystac, GDAL and xarray."""
    document = json.loads(path.read_text())
    for asset in document["assets"].values():
        assert _resolve(asset["href"], path).exists(), asset["href"]
    for link in document["links"]:
        if not link["href"].startswith("https://"):
            assert _resolve(link["href"], path).exists(), link["href"]
    assert pystac.Item.from_dict(document).collection_id == document["collection"]
    with rasterio.open(_resolve(document["assets"]["composite_S2L2A"]["href"], path)) as file:
        assert (file.read(1) > 0).any()
    with xr.open_zarr(_resolve(document["assets"]["zarr"]["href"], path)) as dataset:
        assert dataset


@pytest.mark.parametrize("scene", ["S2A_1", "a/b", "S2 #1 & (grün)?", "../../x", "item"])
def test_a_product_in_a_folder_of_any_name(tmp_path, capsys, scene):
    folder = tmp_path / "my scenes (ü) #2"
    folder.mkdir()
    bands = {"blue": 1000, "green": 1100, "red": 1200, "nir": 3000}
    item = small_catalogs.an_item(folder, "raster", bands) | {"id": scene}
    job = small_catalogs.write_job(folder, [item], output={"path": FOLDER, "composites": True})
    result = _run(job, capsys)
    product = Path(str(result["item"]))
    assert product.is_relative_to(folder / FOLDER)
    _check_product(product)
    assert {"quicklook", "report"} <= set(json.loads(product.read_text())["assets"])
    assert main.main(["verify", str(folder / FOLDER)]) == 0
    capsys.readouterr()
    assert _run(job, capsys)["item"] == str(product)


@pytest.mark.parametrize(
    "name",
    ["item.json", "collection.json", "plan.json", "item", "latest", "catalog", "CON", "a.b", "0"],
)
def test_a_job_may_be_named_like_one_of_our_files(tmp_path, capsys, name):
    item = small_catalogs.an_item(tmp_path, "S2A_1", {"blue": 1000, "red": 1000})
    job = small_catalogs.write_job(
        tmp_path, [item], name=name, output={"path": "out", "composites": True}
    )
    product = Path(str(_run(job, capsys)["item"]))
    assert product.parent.parent == tmp_path / "out" / name
    _check_product(product)
    for location in (tmp_path / "out", tmp_path / "out" / name, product.parent, product):
        assert main.main(["verify", str(location), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["ok"]


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("..", "letters, digits, dot, dash and underscore"),
        (".hidden", "letters, digits"),
        ("a/b", "letters, digits"),
        ("jütland", "letters, digits"),
        ("two words", "letters, digits"),
        ("ends.", "letters, digits"),
        ("x" * 101, "letters, digits"),
        (2024, 'For instance: name: "2024"'),
        (False, 'For instance: name: "false"'),
    ],
)
def test_another_name_of_a_job_is_refused_with_advice(tmp_path, capsys, name, phrase):
    item = small_catalogs.an_item(tmp_path, "S2A_1", {"blue": 1000})
    job = small_catalogs.write_job(tmp_path, [item], name=name)
    assert main.main(["search", str(job)]) == 2
    assert phrase in capsys.readouterr().err


def test_a_catalog_beside_the_products_is_not_one_of_them(tmp_path, capsys):
    item = small_catalogs.an_item(tmp_path, "S2A_1", {"blue": 1000, "red": 1000})
    job = small_catalogs.write_job(tmp_path, [item], output={"path": ".", "composites": True})
    _run(job, capsys)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "item.json").write_text(json.dumps(item))
    assert main.main(["verify", str(tmp_path)]) == 0


def test_names_that_differ_have_different_keys_in_prefect():
    names = ["jutland-2024", "jutland.2024", "Jutland-2024", "JUTLAND-2024", "jutland_2024"]
    keys = {artifacts.artifact_key(name, "plan") for name in names}
    assert len(keys) == len(names)
    assert artifacts.artifact_key("jutland-2024", "plan") == "jutland-2024-plan"


def test_a_renamed_raster_is_found_by_each_spelling_of_its_name(tmp_path, capsys):
    item = small_catalogs.an_item(tmp_path, "S2A_1", {"blue": 1000, "red": 1200})
    folder = tmp_path / "10 m (grün)"
    folder.mkdir()
    for name in ("blue", "red"):
        shutil.move(item["assets"][name]["href"], folder / f"{name} #1+2.tif")
    item["assets"]["blue"]["href"] = "./10 m (grün)/blue #1+2.tif"
    item["assets"]["red"]["href"] = "./10%20m%20(gr%C3%BCn)/red%20%231+2.tif"
    job = small_catalogs.write_job(tmp_path, [item], output={"path": "out", "composites": True})
    _check_product(Path(str(_run(job, capsys)["item"])))


def test_a_provider_table_of_any_name(tmp_path, capsys):
    item = small_catalogs.an_item(tmp_path, "S2A_1", {"blue": 1000, "red": 1200})
    table = tmp_path / "Mein Anbieter (ü) #1.YAML"
    names = {"B02": "blue", "B04": "red"}
    table.write_text(
        yaml.safe_dump({"collections": {"sentinel-2-l2a": {"modality": "S2L2A", "names": names}}})
    )
    job = small_catalogs.write_job(
        tmp_path, [item], provider=table.name, output={"path": "out", "composites": True}
    )
    _check_product(Path(str(_run(job, capsys)["item"])))
