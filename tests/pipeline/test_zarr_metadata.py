"""The Zarr store follows CF and GeoZarr: readers decode it without knowing terramosaic."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr
import zarr
from rasterio.errors import NotGeoreferencedWarning
from xarray.backends.zarr import FillValueCoder

from catalogs import legend
from flows.run import verify
from pipeline import layer_table, tile, tile_layers
from pipeline.product import product_writer, published_item
from pipeline.storage import plan_file, receipt, zarr_attributes, zarr_store
from tests.support.fake_predictors import Brightness, Several
from tests.support.small_plan import SEVERAL, make_plan

READERS = {
    "open_zarr": xr.open_zarr,
    "open_dataset": lambda path, **options: xr.open_dataset(path, engine="zarr", **options),
}


def _build_tiles(plan, plan_dir, predictor, tiles):
    zarr_store.create(plan_dir, plan, tile_layers.list_layer_bands(plan))
    for plan_tile in tiles:
        tile.build_tile(plan, plan_tile, predictor, plan_dir, threads=1)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """Return plan, product's folder and Zarr group of a published land-cover map."""
    folder = tmp_path_factory.mktemp("product")
    plan = make_plan(folder)
    product_dir = folder / "out" / "2024-06-01_2024-06-30"
    plan_dir = product_dir / plan.short_digest
    plan_dir.mkdir(parents=True)
    plan_file.write_plan(plan_dir, plan)
    _build_tiles(plan, plan_dir, Brightness(), plan.tiles)
    product_writer.publish_product(plan, product_dir)
    return plan, product_dir, plan_dir / zarr_store.STORE_NAME


def _read_cog(product, name):
    plan, product_dir, _ = product
    with rasterio.open(
        product_dir / plan.short_digest / str(plan.grid.epsg) / f"{name}.tif"
    ) as cog:
        return cog.read(masked=True), cog.profile, cog.scales


@pytest.mark.parametrize("reader", READERS)
def test_nodata_is_missing_and_values_are_physical(product, reader):
    """The mean of a composite was −6754, as −32768 counted as a reflectance."""
    with READERS[reader](product[2]) as cube:
        composite = cube.composite_S2L2A
        stored, profile, scales = _read_cog(product, "composite_S2L2A")
        assert profile["nodata"] == -32768
        assert 0 < stored.mask.sum() < stored.size
        assert np.array_equal(np.isnan(composite.values), stored.mask)
        assert float(composite.mean()) == pytest.approx(stored.mean() * scales[0])
        assert 0 < float(composite.mean()) < 1
        assert composite.attrs["units"] == "1"
        assert composite.attrs["standard_name"] == "surface_bidirectional_reflectance"


@pytest.mark.parametrize("reader", READERS)
def test_stored_values_are_those_of_the_cogs(product, reader):
    with READERS[reader](product[2], mask_and_scale=False, decode_times=False) as cube:
        for name in tile_layers.list_layer_bands(product[0]):
            stored, _, _ = _read_cog(product, name)
            layer = layer_table.get(name)
            assert cube[name].dtype == layer.dtype
            assert np.array_equal(np.atleast_3d(cube[name].values.T).T, stored.data), name


def test_classes_are_codes_with_names(product):
    stored, _, _ = _read_cog(product, "land_cover")
    with xr.open_zarr(product[2]) as cube:
        land_cover = cube.land_cover
        assert np.array_equal(np.isnan(land_cover.values), stored.mask[0])
        words = land_cover.attrs["flag_meanings"].split()
        codes = dict(zip(words, land_cover.attrs["flag_values"], strict=True))
        assert codes == {entry.name: entry.code for entry in legend.LAND_COVER.mapped_classes}
        assert (land_cover == codes["water"]).sum() == (stored.data == 1).sum() > 0
        assert len(land_cover.attrs["flag_colors"].split()) == len(codes)


def test_days_become_dates(product):
    stored, _, _ = _read_cog(product, "last_observed")
    with xr.open_zarr(product[2]) as cube:
        for name in ("first_observed", "last_observed"):
            assert cube[name].dtype.kind == "M"
        dates = cube.last_observed.values
    assert np.array_equal(np.isnat(dates), stored.mask[0])
    assert set(np.unique(dates[~np.isnat(dates)]).astype("datetime64[D]").astype(str)) == {
        "2024-06-01",
        "2024-06-02",
    }


def test_counts_have_the_unit_one(product):
    """A unit of days would make a duration of the number of days."""
    with xr.open_zarr(product[2]) as cube:
        assert cube.observations.attrs["units"] == "1"
        assert cube.observations.attrs["standard_name"] == "number_of_observations"
        assert cube.observations.max() == 2


def test_bit_fields_stay_integers(product):
    """With a fill value they would be decoded to floats, of which no bit can be tested."""
    with xr.open_zarr(product[2]) as cube:
        inputs_used = cube.inputs_used
        masks = dict(
            zip(
                inputs_used.attrs["flag_meanings"].split(),
                inputs_used.attrs["flag_masks"],
                strict=True,
            )
        )
        assert masks == {"sentinel_2": 1, "sentinel_1": 2, "dem": 4, "generated": 8}
        has_sentinel_2 = (inputs_used & masks["sentinel_2"]) > 0
        assert np.array_equal(has_sentinel_2.values, cube.observations.fillna(0).values > 0)


def test_bands_are_selected_by_name(product):
    with xr.open_zarr(product[2]) as cube:
        assert cube.composite_S2L2A.dims == ("band_S2L2A", "y", "x")
        band = cube.composite_S2L2A.sel(band_S2L2A="B02")
        assert np.array_equal(band.values, cube.composite_S2L2A.values[0], equal_nan=True)


def test_coordinates_and_the_grid_mapping_follow_cf(product):
    plan, _, path = product
    with xr.open_zarr(path) as cube:
        assert cube.attrs["Conventions"] == "CF-1.11"
        assert cube.attrs["title"] == "test, 2024-06-01 to 2024-06-30"
        for axis in ("x", "y"):
            attributes = cube[axis].attrs
            assert attributes["standard_name"] == f"projection_{axis}_coordinate"
            assert (attributes["units"], attributes["axis"]) == ("m", axis.upper())
        assert cube.spatial_ref.attrs["grid_mapping_name"] == "transverse_mercator"
        for name, variable in cube.data_vars.items():
            assert variable.rio.crs.to_epsg() == plan.grid.epsg, name
            assert variable.rio.transform() == plan.grid.transform, name
            assert variable.attrs["long_name"] == layer_table.get(name).title


def test_a_variable_that_is_written_as_geotiff_keeps_its_meaning(product, tmp_path):
    with xr.open_zarr(product[2]) as cube:
        cube.composite_S2L2A.rio.to_raster(tmp_path / "composite.tif")
        cube.land_cover.rio.to_raster(tmp_path / "land_cover.tif")
    for name in ("composite", "land_cover"):
        layer_name = {"composite": "composite_S2L2A"}.get(name, name)
        stored, profile, scales = _read_cog(product, layer_name)
        with rasterio.open(tmp_path / f"{name}.tif") as copy:
            assert np.array_equal(copy.read(), stored.data)
            assert (copy.nodata, copy.dtypes[0]) == (profile["nodata"], profile["dtype"])
            assert copy.scales == scales
            assert (copy.crs, copy.transform) == (profile["crs"], profile["transform"])


def test_every_array_and_group_declares_the_conventions_of_geozarr(product):
    plan, _, path = product
    root = zarr.open_group(path, mode="r")
    layers = [root[name] for name in tile_layers.list_layer_bands(plan)]
    for node in (root, *layers):
        attributes = node.attrs.asdict()
        assert [entry["uuid"] for entry in attributes["zarr_conventions"]] == [
            "f17cb550-5864-4468-aeb7-f3180cfb622f",
            "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        ]
        assert attributes["proj:code"] == f"EPSG:{plan.grid.epsg}"
        assert attributes["spatial:dimensions"] == ["y", "x"]
        assert attributes["spatial:transform"] == list(plan.grid.transform)[:6]
        assert attributes["spatial:shape"] == list(plan.grid.shape)
        assert attributes["spatial:bbox"] == list(plan.grid.bounds)


def test_metadata_is_consolidated_and_strict_json(product):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    for file in sorted(product[2].rglob("zarr.json")):
        text = file.read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=refuse)
        if file.parent == product[2]:
            listed = document["consolidated_metadata"]["metadata"]
            for name in tile_layers.list_layer_bands(product[0]):
                own = json.loads((product[2] / name / "zarr.json").read_text(encoding="utf-8"))
                assert listed[name]["attributes"] == own["attributes"]


GDAL_READS_SHARDS = (3, 13)


def _gdal_version():
    return tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])


@pytest.mark.skipif(_gdal_version() < GDAL_READS_SHARDS, reason="needs GDAL 3.13 or later")
def test_gdal_reads_layers_from_version_3_13_on(product):
    plan, _, path = product
    with rasterio.open(f'ZARR:"{path}":/land_cover') as source:
        assert source.crs.to_epsg() == plan.grid.epsg
        assert source.transform == plan.grid.transform
        assert np.array_equal(source.read(), _read_cog(product, "land_cover")[0].data)


@pytest.mark.skipif(_gdal_version() >= GDAL_READS_SHARDS, reason="this GDAL reads shards")
@pytest.mark.filterwarnings("ignore", category=NotGeoreferencedWarning)
def test_gdal_before_3_13_refuses_the_layers(product):
    """README says so: a reader that failed silently would be worse than one that refuses."""
    with (
        pytest.raises(rasterio.errors.RasterioIOError, match="sharding_indexed"),
        rasterio.open(f'ZARR:"{product[2]}":/land_cover'),
    ):
        pass


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo is not installed")
def test_gdalinfo_reads_the_layers_if_it_is_recent_enough(product):
    plan, _, path = product
    version = subprocess.run(["gdalinfo", "--version"], capture_output=True, text=True, check=True)
    numbers = tuple(int(part) for part in version.stdout.split()[1].strip(",").split(".")[:2])
    result = subprocess.run(
        ["gdalinfo", f'ZARR:"{path}":/land_cover'], capture_output=True, text=True, check=False
    )
    is_read = result.returncode == 0 and f'ID["EPSG",{plan.grid.epsg}]' in result.stdout
    assert is_read == (numbers >= GDAL_READS_SHARDS)


# -- the table of layers ------------------------------------------------------------------------


@pytest.mark.parametrize("layer", layer_table.list_layers(), ids=lambda layer: layer.name)
def test_every_layer_is_described_by_names_that_readers_know(product, layer):
    attributes = zarr_attributes.describe_layer(layer, product[0].grid)
    assert not {"nodata", "unit", "scale", "bands"} & set(attributes)
    assert attributes.get("units") == layer.cf_units
    assert attributes.get("scale_factor", 1.0) == layer.scale
    if layer.bitfields:
        assert "_FillValue" not in attributes
    else:
        fill_value = FillValueCoder.decode(attributes["_FillValue"], layer.dtype)
        assert fill_value == layer.nodata or (math.isnan(fill_value) and math.isnan(layer.nodata))
        assert attributes["_FillValue"] == FillValueCoder.encode(
            layer.nodata, np.dtype(layer.dtype)
        )
    json.dumps(attributes, allow_nan=False)


def test_quantities_have_the_standard_names_of_cf():
    names = {layer.name: layer.standard_name for layer in layer_table.list_layers()}
    assert names["composite_S2L1C"] == "toa_bidirectional_reflectance"
    assert names["series_S2L2A"] == "surface_bidirectional_reflectance"
    assert names["composite_DEM"] == names["generated_DEM"] == "surface_altitude"
    assert names["generated_NDVI"] == "normalized_difference_vegetation_index"
    assert names["composite_S1RTC"] is None
    # ^ CF names backscatter as sigma nought only, and this is gamma nought


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["Bare ground", "Snow & ice", "built"], "Bare_ground Snow_ice built"),
        (["rice (paddy)", "N/A", "pine"], "rice_paddy N_A pine"),
        (["Skov", "Bøg, høj", "森林"], "Skov Bg_hj class_2"),
        (["a b", "a_b", "c"], "a_b a_b_1 c"),
    ],
)
def test_every_class_has_one_word(product, names, words):
    """CF separates meanings by blanks, so a name of two words would count as two classes."""
    classes = legend.build_legend([legend.ClassDefinition(name=name) for name in names])
    layer = layer_table.build_class_layers("mine", classes)["mine"]
    attributes = zarr_attributes.describe_layer(layer, product[0].grid)
    assert attributes["flag_meanings"] == words
    assert attributes["flag_values"] == [0, 1, 2]
    assert attributes["_FillValue"] == 255


# -- several groups -----------------------------------------------------------------------------


def test_coarser_layers_lie_in_a_group_that_describes_itself(tmp_path):
    plan = make_plan(tmp_path, model=SEVERAL)
    _build_tiles(plan, tmp_path / "plan", Several(), plan.tiles)
    factor = plan.coarsening_factor("embedding")
    coarse = plan.grid.coarsen(factor)
    path = tmp_path / "plan" / zarr_store.STORE_NAME
    groups = xr.open_groups(path, engine="zarr")
    assert set(groups) == {"/", f"/cells_{factor}"}
    embedding = groups[f"/cells_{factor}"].embedding
    assert list(embedding.band_embedding.values) == ["e000", "e001", "e002"]
    assert embedding.rio.transform() == coarse.transform
    assert embedding.attrs["spatial:transform"] == list(coarse.transform)[:6]
    assert math.isnan(embedding.rio.encoded_nodata)
    with xr.open_zarr(path, group=f"cells_{factor}") as cube:
        assert cube.embedding.identical(embedding)


def test_the_item_names_the_groups_that_hold_layers(tmp_path):
    """Of several zones, the group at the root opens as an empty dataset."""
    plan = make_plan(tmp_path, model=SEVERAL)
    product_dir = tmp_path / "out" / "2024-06-01_2024-06-30"
    plan_dir = product_dir / plan.short_digest
    plan_dir.mkdir(parents=True)
    plan_file.write_plan(plan_dir, plan)
    _build_tiles(plan, plan_dir, Several(), plan.tiles)
    product_writer.publish_product(plan, product_dir)
    asset = json.loads((product_dir / "item.json").read_text())["assets"]["zarr"]
    _, _, groups = asset["description"].rstrip(".").rpartition(": ")
    assert groups.split(", ") == ["/", f"/cells_{plan.coarsening_factor('embedding')}"]
    layers = set()
    for group in groups.split(", "):
        with xr.open_zarr(product_dir / asset["href"], group=group) as cube:
            layers |= set(cube.data_vars)
    assert layers == set(tile_layers.list_layer_bands(plan))


def test_the_group_of_several_zones_lists_them(tmp_path):
    plan = make_plan(tmp_path)
    second_grid = dataclasses.replace(plan.grid, epsg=32632)
    two_zones = dataclasses.replace(plan, grids=(plan.grid, second_grid))
    zarr_store.create(tmp_path / "plan", two_zones, {"land_cover": ("land_cover",)})
    path = tmp_path / "plan" / zarr_store.STORE_NAME
    with xr.open_datatree(path, engine="zarr") as tree:
        assert set(tree.children) == {"32632", "32633"}
        assert tree.attrs["title"] == "test, 2024-06-01 to 2024-06-30"
    for grid in two_zones.grids:
        with xr.open_zarr(path, group=str(grid.epsg)) as cube:
            assert cube.land_cover.rio.crs.to_epsg() == grid.epsg


# -- stores of earlier releases -----------------------------------------------------------------


def _make_older(path):
    """Give a store the attributes of the release before, without coordinates of bands."""
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, node in list(root.members()):
        if name.startswith("band_"):
            shutil.rmtree(path / name)
        elif name not in {"x", "y", "spatial_ref"}:
            node.attrs.put({"long_name": "old", "nodata": 0, "unit": "1", "scale": 0.1})
    root.attrs.put({})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)
    assert xr.open_zarr(path, mask_and_scale=False).land_cover.attrs["nodata"] == 0


def _read_files(path, pattern):
    files = (file for file in sorted(path.glob(pattern)) if file.is_file())
    return {file.relative_to(path): file.read_bytes() for file in files}


def test_a_half_finished_store_of_the_release_before_is_continued(tmp_path):
    plan, plan_dir = make_plan(tmp_path), tmp_path / "plan"
    _build_tiles(plan, plan_dir, Brightness(), plan.tiles[:4])
    path = plan_dir / zarr_store.STORE_NAME
    _make_older(path)
    chunks = _read_files(path, "*/c/**/*")
    _build_tiles(plan, plan_dir, Brightness(), plan.tiles[4:])
    assert chunks.items() <= _read_files(path, "*/c/**/*").items()
    for plan_tile in plan.tiles:
        digests = receipt.read(plan_dir, plan_tile).digests
        assert zarr_store.check_tile(plan_dir, plan, plan_tile, digests) == []
    _build_tiles(plan, tmp_path / "new", Brightness(), plan.tiles)
    assert _read_files(path, "**/*.json") == _read_files(
        tmp_path / "new" / zarr_store.STORE_NAME, "**/*.json"
    )
    with xr.open_zarr(path) as cube:
        assert 0 < float(cube.composite_S2L2A.sel(band_S2L2A="B02").mean()) < 1


def test_damaged_metadata_are_restored_when_a_run_is_resumed(product, tmp_path):
    plan, _, original = product
    path = tmp_path / "plan" / zarr_store.STORE_NAME
    shutil.copytree(original, path)
    (path / "land_cover" / "zarr.json").write_text("{ half")
    (path / "zarr.json").unlink()
    zarr_store.create(path.parent, plan, tile_layers.list_layer_bands(plan))
    assert _read_files(path, "**/*") == _read_files(original, "**/*")


def test_a_store_of_this_release_is_not_written_again(product):
    plan, _, path = product
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    zarr_store.create(path.parent, plan, tile_layers.list_layer_bands(plan))
    after = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    assert after == before


def test_a_product_of_the_release_before_stays_valid(product, tmp_path):
    plan, product_dir, _ = product
    older = shutil.copytree(product_dir, tmp_path / product_dir.name)
    _make_older(older / plan.short_digest / zarr_store.STORE_NAME)
    assert published_item.is_complete(older, plan)
    assert verify.find_damaged_files(older) == []
    assert len(receipt.read_finished(older / plan.short_digest, plan)) == len(plan.tiles)
