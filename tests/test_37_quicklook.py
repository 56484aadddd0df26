"""The quicklook: the same bytes every time, the legend's colours, and no false emptiness."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catalogs import classes
from pipeline import cog, layers, quicklook
from pipeline.grid import Grid

CODES = [entry.code for entry in classes.CLASSES]


def thumbnail(values, bands=("x",), nodata=0, metres=10.0):
    values = np.asarray(values)
    stacked = values if values.ndim == 3 else values[None]
    return quicklook.Thumbnail(values=stacked, bands=bands, metres=metres, nodata=nodata)


def view(height=60, width=90, *, composite=True, **changes):
    random = np.random.default_rng(2)
    codes = random.choice(CODES, (height, width)).astype("uint8")
    seen = random.integers(0, 3, (height, width)).astype("uint16")
    seen[0] = 65535
    picture = random.integers(0, 4000, (3, height, width)).astype("int16")
    picture[:, codes == 0] = -32768
    options = {
        "title": "Jutland",
        "subtitle": "1 May 2024 to 30 September 2024",
        "land_cover": thumbnail(codes),
        "observations": thumbnail(seen, nodata=65535),
        "composite": thumbnail(picture, ("B04", "B03", "B02"), -32768) if composite else None,
    }
    return quicklook.View(**{**options, **changes})


def test_the_same_arrays_give_the_same_bytes():
    assert quicklook.compose(view()) == quicklook.compose(view())


@pytest.mark.parametrize("composite", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (7, 300), (224, 226), (700, 900)], ids=str)
def test_any_shape_makes_a_picture_no_wider_than_promised(shape, composite):
    image = Image.open(io.BytesIO(quicklook.compose(view(*shape, composite=composite))))
    image.load()
    assert image.format == "PNG"
    assert image.width <= quicklook.WIDTH
    assert image.info == {}


def test_every_class_has_its_colour():
    codes = np.array([CODES], "uint8")
    pixels = quicklook.map_pixels(thumbnail(codes))
    found = {code: tuple(pixel) for code, pixel in zip(CODES, pixels[0].tolist(), strict=True)}
    due = {entry.code: entry.color for entry in classes.CLASSES}
    assert found == {**due, 0: quicklook.OUTSIDE}


def test_not_observed_looks_different_from_outside():
    codes = np.zeros((16, 16), "uint8")
    codes[:, 8:] = 5
    seen = np.full((16, 16), 65535, "uint16")
    seen[8:] = 0
    pixels = quicklook.map_pixels(thumbnail(codes), thumbnail(seen, nodata=65535))
    assert {tuple(pixel) for pixel in pixels[:8, :8].reshape(-1, 3).tolist()} == {quicklook.OUTSIDE}
    assert {tuple(pixel) for pixel in pixels[8:, :8].reshape(-1, 3).tolist()} == {
        quicklook.UNSEEN,
        quicklook.UNSEEN_HATCH,
    }
    assert (pixels[:, 8:] == classes.BY_CODE[5].color).all()


def test_the_stretch_runs_from_2_to_98_percent():
    values = np.arange(1001, dtype="int16").reshape(1, 7, 143).repeat(3, 0)
    pixels = quicklook.true_color(thumbnail(values, ("B02", "B03", "B04"), -32768))
    flat = pixels[..., 0].ravel()
    assert (flat[:21] == 0).all()
    assert (flat[980:] == 255).all()
    assert flat[500] == 128
    assert (np.diff(flat.astype(int)) >= 0).all()


def test_bands_come_out_as_red_green_and_blue():
    values = np.zeros((3, 4, 50), "int16")
    values[2, :, :25] = 900  # B04 is red
    pixels = quicklook.true_color(thumbnail(values, ("B02", "B03", "B04"), -32768))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[0, 30].tolist() == [0, 0, 0]


def test_a_picture_of_nothing_is_pale():
    values = np.full((3, 4, 4), -32768, "int16")
    pixels = quicklook.true_color(thumbnail(values, ("B02", "B03", "B04"), -32768))
    assert (pixels == quicklook.OUTSIDE).all()


@given(st.floats(0.2, 1e7))
@settings(max_examples=200)
def test_the_scale_bar_is_round_and_as_long_as_fits(metres):
    length = quicklook._round_length(metres)
    assert metres / 2.5 * (1 - 1e-6) < length <= metres * (1 + 1e-6)
    assert f"{length:e}"[0] in "125"


def test_graded_layers_leave_nodata_pale_and_darken_with_the_value():
    pixels = quicklook.graded(thumbnail(np.array([[0, 50, 100, 255]]), nodata=255), "count", 0, 100)
    lightness = pixels[0, :3].sum(axis=1)
    assert lightness[0] > lightness[1] > lightness[2]
    assert tuple(pixels[0, 3]) == quicklook.OUTSIDE


def test_layers_of_other_shapes_are_refused():
    small = thumbnail(np.zeros((3, 5, 5), "int16"), ("B04", "B03", "B02"), -32768)
    with pytest.raises(ValueError, match="share a shape"):
        quicklook.compose(replace(view(10, 10), composite=small))
    with pytest.raises(ValueError, match="of one size"):
        quicklook.compose(view(10, 10, observations=thumbnail(np.zeros((5, 5), "uint16"))))


def test_shares_are_of_the_whole_map_when_its_counts_are_known():
    counts = {0: 10, 1: 300, 5: 100}
    legend = quicklook._legend(view(observations=None, counts=counts))
    assert [(entry.title, entry.share) for entry in legend] == [("Water", 75.0), ("Crops", 25.0)]
    assert quicklook.percent(0.01) == "< 0.1 %"
    assert quicklook.percent(0.0) == "0.0 %"


def test_thumbnails_come_from_the_file(tmp_path):
    grid = Grid(epsg=32632, resolution=10.0, left=0.0, top=0.0, height=900, width=1200)
    layer = layers.get("land_cover")
    codes = np.full((1, 900, 1200), 5, "uint8")
    codes[:, :, :600] = 2
    codes[:, ::3, ::3] = 11
    path = tmp_path / "map.tif"
    cog.write(path, grid, layer, lambda first, last: codes[:, first:last])
    small = quicklook.thumbnail(path, layer, 300)
    assert small.values.shape == (1, 225, 300)
    assert small.metres == pytest.approx(40.0)
    assert set(np.unique(small.values)) <= {2, 5, 11}
    assert (small.values == 2).mean() > 0.45
    whole = quicklook.thumbnail(path, layer, 5000)
    assert np.array_equal(whole.values, codes)
    with pytest.raises(ValueError, match="no band"):
        quicklook.thumbnail(path, layer, 300, ("B04",))
