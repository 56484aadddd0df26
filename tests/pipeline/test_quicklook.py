"""The quicklook: the same bytes every time, the legend's colours, and no false emptiness."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catalogs import legend as land_cover_legend
from pipeline import layer_table
from pipeline.grid.grid import Grid
from pipeline.product import product
from pipeline.product.report import quicklook, rendering, true_color
from pipeline.storage import cog

HEADING = quicklook.Heading(title="Jutland", subtitle="1 May 2024 to 30 September 2024")
CODES = [entry.code for entry in land_cover_legend.CLASSES]


def thumbnail(values, bands=("x",), nodata=0, metres=10.0):
    values = np.asarray(values)
    stacked = values if values.ndim == 3 else values[None]
    return rendering.Thumbnail(values=stacked, bands=bands, metres_per_pixel=metres, nodata=nodata)


def view(height=60, width=90, *, colored=True, counts=None, **changes):
    random = np.random.default_rng(2)
    codes = random.choice(CODES, (height, width)).astype("uint8")
    seen = random.integers(0, 3, (height, width)).astype("uint16")
    seen[0] = 65535
    colours = random.integers(0, 4000, (3, height, width)).astype("int16")
    colours[:, codes == 0] = -32768
    options = {
        "observations": thumbnail(seen, nodata=65535),
        "composite": thumbnail(colours, ("B04", "B03", "B02"), -32768) if colored else None,
    }
    ground = quicklook.ObservedLayers(**{**options, **changes})
    return quicklook.layout_land_cover(thumbnail(codes), ground, HEADING, counts=counts)


def test_the_same_arrays_give_the_same_bytes():
    assert quicklook.render_png(view()) == quicklook.render_png(view())


@pytest.mark.parametrize("composite", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (7, 300), (224, 226), (700, 900)], ids=str)
def test_any_shape_makes_a_picture_no_wider_than_promised(shape, composite):
    image = Image.open(io.BytesIO(quicklook.render_png(view(*shape, colored=composite))))
    image.load()
    assert image.format == "PNG"
    assert image.width <= quicklook.MAX_WIDTH
    assert image.info == {}


def test_every_class_has_its_colour():
    codes = np.array([CODES], "uint8")
    pixels = rendering.render_land_cover(thumbnail(codes))
    found = {code: tuple(pixel) for code, pixel in zip(CODES, pixels[0].tolist(), strict=True)}
    due = {entry.code: entry.color for entry in land_cover_legend.CLASSES}
    assert found == {**due, 0: rendering.OUTSIDE_COLOR}


def test_not_observed_looks_different_from_outside():
    codes = np.zeros((16, 16), "uint8")
    codes[:, 8:] = 5
    seen = np.full((16, 16), 65535, "uint16")
    seen[8:] = 0
    pixels = rendering.hatch_pixels(
        rendering.render_land_cover(thumbnail(codes)),
        rendering.gap_mask(thumbnail(codes), thumbnail(seen, nodata=65535)),
    )
    assert {tuple(pixel) for pixel in pixels[:8, :8].reshape(-1, 3).tolist()} == {
        rendering.OUTSIDE_COLOR
    }
    assert {tuple(pixel) for pixel in pixels[8:, :8].reshape(-1, 3).tolist()} == {
        rendering.UNOBSERVED_COLOR,
        rendering.HATCH_COLOR,
    }
    assert (pixels[:, 8:] == land_cover_legend.CLASS_BY_CODE[5].color).all()


def test_what_was_seen_and_has_no_class_is_not_called_unseen():
    codes = np.full((16, 20), 5, "uint8")
    codes[:, :10] = 0
    seen = np.full((16, 20), 3, "uint16")
    seen[:, :2] = 65535
    seen[:, 2:6] = 0
    ground = quicklook.ObservedLayers(observations=thumbnail(seen, nodata=65535))
    shown = quicklook.layout_land_cover(thumbnail(codes), ground, HEADING)
    told = {entry.title: round(entry.share, 3) for entry in shown.legend_entries}
    assert told == {"Crops": 100.0, "Not classified": 22.222, "Not observed": 22.222}
    colors = [{tuple(p) for p in column.tolist()} for column in shown.panels[0][1].swapaxes(0, 1)]
    assert colors[0] == {rendering.OUTSIDE_COLOR}
    assert rendering.UNOBSERVED_COLOR in colors[2]
    assert rendering.UNCLASSIFIED_COLOR in colors[8]
    assert rendering.UNOBSERVED_COLOR not in colors[8]
    whole = product.CoverageCounts(inside=1000, unobserved=400, unclassified=0)
    shown = quicklook.layout_land_cover(
        thumbnail(codes), replace(ground, coverage_counts=whole), HEADING
    )
    assert [(entry.title, entry.share) for entry in shown.legend_entries][1:] == [
        ("Not observed", 40.0)
    ]


def test_the_stretch_runs_from_2_to_98_percent():
    values = np.arange(1001, dtype="int16").reshape(1, 7, 143).repeat(3, 0)
    pixels = true_color.render_true_color(thumbnail(values, ("B02", "B03", "B04"), -32768))
    flat = pixels[..., 0].ravel()
    assert (flat[:21] == 0).all()
    assert (flat[980:] == 255).all()
    assert flat[500] == 128
    assert (np.diff(flat.astype(int)) >= 0).all()


def test_bands_come_out_as_red_green_and_blue():
    values = np.zeros((3, 4, 50), "int16")
    values[2, :, :25] = 900  # B04 is red
    pixels = true_color.render_true_color(thumbnail(values, ("B02", "B03", "B04"), -32768))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[0, 30].tolist() == [0, 0, 0]


def test_a_picture_of_nothing_is_pale():
    values = np.full((3, 4, 4), -32768, "int16")
    pixels = true_color.render_true_color(thumbnail(values, ("B02", "B03", "B04"), -32768))
    assert (pixels == rendering.OUTSIDE_COLOR).all()


@given(st.floats(0.2, 1e7))
@settings(max_examples=200)
def test_the_scale_bar_is_round_and_as_long_as_fits(metres):
    length = quicklook._round_length(metres)
    assert metres / 2.5 * (1 - 1e-6) < length <= metres * (1 + 1e-6)
    assert f"{length:e}"[0] in "125"


def test_graded_layers_leave_nodata_pale_and_darken_with_the_value():
    pixels = rendering.apply_ramp(
        thumbnail(np.array([[0, 50, 100, 255]]), nodata=255), "count", 0, 100
    )
    lightness = pixels[0, :3].sum(axis=1)
    assert lightness[0] > lightness[1] > lightness[2]
    assert tuple(pixels[0, 3]) == rendering.OUTSIDE_COLOR


def test_features_are_shown_by_what_varies_most():
    random = np.random.default_rng(7)
    place = np.linspace(-1, 1, 80, dtype="float32")[None, None].repeat(30, axis=1)
    noise = random.normal(0, 0.01, (6, 30, 80)).astype("float32")
    values = noise + place * np.array([3, -3, 0, 0, 0, 0], "float32")[:, None, None]
    values[:, :, -4:] = np.nan
    names = tuple("abcdef")
    pixels = rendering.render_principal_components(thumbnail(values, names, np.nan))
    assert (pixels[:, -4:] == rendering.OUTSIDE_COLOR).all()
    red = pixels[:, :-4, 0].astype(int)
    slope = np.diff(red.mean(axis=0))
    assert (slope <= 0.5).all() or (slope >= -0.5).all()
    assert np.ptp(red.mean(axis=0)) > 230
    again = rendering.render_principal_components(thumbnail(values, names, np.nan))
    assert np.array_equal(pixels, again)


@pytest.mark.parametrize("bands", [1, 2, 5])
@pytest.mark.parametrize("known", [0, 1, 2, 40])
def test_few_features_of_few_cells_make_a_picture_all_the_same(bands, known):
    values = np.full((bands, 5, 8), np.nan, "float32")
    values.reshape(bands, -1)[:, :known] = np.random.default_rng(1).normal(size=(bands, known))
    pixels = rendering.render_principal_components(
        thumbnail(values, tuple("abcde"[:bands]), np.nan)
    )
    assert pixels.shape == (5, 8, 3)
    assert (pixels == rendering.OUTSIDE_COLOR).all(axis=2).sum() >= 40 - known


def test_features_and_values_get_a_page_with_what_their_colours_mean():
    random = np.random.default_rng(2)
    seen = thumbnail(random.integers(0, 3, (40, 60)).astype("uint16"), nodata=65535)
    values = random.normal(0.3, 0.1, (40, 60)).astype("float32")
    values[seen.values[0] == 0] = np.nan
    ground = quicklook.ObservedLayers(observations=seen)
    features = quicklook.layout_embedding(thumbnail(values, nodata=np.nan), ground, HEADING)
    assert features.note == quicklook.RELATIVE_COLORS_NOTE
    assert [entry.title for entry in features.legend_entries] == [quicklook.NOT_OBSERVED]
    layer = layer_table.get("generated_DEM")
    terrain = quicklook.layout_generated(
        thumbnail(1000 * values, nodata=np.nan), layer, ground, HEADING
    )
    low, high = np.nanpercentile(1000 * values, [2, 98])
    assert terrain.color_bar.low == f"{low:.4g} m or less"
    assert terrain.color_bar.high == f"{high:.4g} m or more"
    assert terrain.panels[0][0] == "Generated terrain"
    for made in (features, terrain):
        image = Image.open(io.BytesIO(quicklook.render_png(made)))
        assert image.width <= quicklook.MAX_WIDTH
        assert quicklook.render_png(made) == quicklook.render_png(made)


def test_generated_bands_that_make_a_picture_are_shown_as_one():
    values = np.random.default_rng(4).uniform(0, 3000, (3, 20, 30)).astype("float32")
    colored = thumbnail(values, ("B04", "B03", "B02"), np.nan)
    shown = quicklook.layout_generated(
        colored, layer_table.get("generated_S2L2A"), quicklook.ObservedLayers(), HEADING
    )
    assert shown.panels[0][0] == "Generated Sentinel-2, true colour"
    assert shown.color_bar is None
    radar = thumbnail(values[:1], ("VV",), np.nan)
    shown = quicklook.layout_generated(
        radar, layer_table.get("generated_S1RTC"), quicklook.ObservedLayers(), HEADING
    )
    assert shown.panels[0][0] == "Generated Sentinel-1 RTC, VV"


def test_layers_of_other_shapes_are_refused():
    small = thumbnail(np.zeros((3, 5, 5), "int16"), ("B04", "B03", "B02"), -32768)
    with pytest.raises(ValueError, match="must have one shape"):
        view(10, 10, composite=small)
    with pytest.raises(ValueError, match="at one size"):
        view(10, 10, observations=thumbnail(np.zeros((5, 5), "uint16")))


def test_shares_are_of_the_whole_map_when_its_counts_are_known():
    counts = {0: 10, 1: 300, 5: 100}
    legend = view(observations=None, counts=counts).legend_entries
    assert [(entry.title, entry.share) for entry in legend] == [("Water", 75.0), ("Crops", 25.0)]
    assert quicklook.format_percent(0.01) == "< 0.1 %"
    assert quicklook.format_percent(0.0) == "0.0 %"


def test_thumbnails_come_from_the_file(tmp_path):
    grid = Grid(epsg=32632, resolution=10.0, left=0.0, top=0.0, height=900, width=1200)
    layer = layer_table.get("land_cover")
    codes = np.full((1, 900, 1200), 5, "uint8")
    codes[:, :, :600] = 2
    codes[:, ::3, ::3] = 11
    path = tmp_path / "map.tif"
    cog.write_cog(path.parent, path.name, grid, layer, lambda first, last: codes[:, first:last])
    small = rendering.read_thumbnail(path, layer, 300)
    assert small.values.shape == (1, 225, 300)
    assert small.metres_per_pixel == pytest.approx(40.0)
    assert set(np.unique(small.values)) <= {2, 5, 11}
    assert (small.values == 2).mean() > 0.45
    whole = rendering.read_thumbnail(path, layer, 5000)
    assert np.array_equal(whole.values, codes)
    with pytest.raises(ValueError, match="no band"):
        rendering.read_thumbnail(path, layer, 300, ("B04",))
