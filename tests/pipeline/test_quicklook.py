"""The quicklook: reproducible, in the colours of the legend, and with gaps shown as gaps."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catalogs.legend import LAND_COVER
from pipeline import layer_table
from pipeline.grid.grid import Grid
from pipeline.product import product
from pipeline.product.report import quicklook, rendering, true_color
from pipeline.storage import cog

HEADING = quicklook.Heading(title="Jutland", subtitle="1 May 2024 to 30 September 2024")
LAYER = layer_table.get("land_cover")
CODES = [entry.code for entry in LAND_COVER.classes]


def make_thumbnail(values, bands=("x",), nodata=0, metres=10.0):
    values = np.asarray(values)
    stacked = values if values.ndim == 3 else values[None]
    return rendering.Thumbnail(values=stacked, bands=bands, metres_per_pixel=metres, nodata=nodata)


def layout_example(height=60, width=90, *, colored=True, counts=None, **changes):
    rng = np.random.default_rng(2)
    codes = rng.choice(CODES, (height, width)).astype("uint8")
    counts_per_pixel = rng.integers(0, 3, (height, width)).astype("uint16")
    counts_per_pixel[0] = 65535
    reflectance = rng.integers(0, 4000, (3, height, width)).astype("int16")
    reflectance[:, codes == 0] = -32768
    options = {
        "observations": make_thumbnail(counts_per_pixel, nodata=65535),
        "composite": make_thumbnail(reflectance, ("B04", "B03", "B02"), -32768)
        if colored
        else None,
    }
    observed_layers = quicklook.ObservedLayers(**{**options, **changes})
    return quicklook.layout_classes(
        make_thumbnail(codes), LAYER, observed_layers, HEADING, counts=counts
    )


def test_the_same_arrays_give_the_same_bytes():
    assert quicklook.render_png(layout_example()) == quicklook.render_png(layout_example())


@pytest.mark.parametrize("has_composite", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (7, 300), (224, 226), (700, 900)], ids=str)
def test_any_shape_is_drawn_within_the_maximum_width(shape, has_composite):
    image = Image.open(
        io.BytesIO(quicklook.render_png(layout_example(*shape, colored=has_composite)))
    )
    image.load()
    assert image.format == "PNG"
    assert image.width <= quicklook.MAX_WIDTH
    assert image.info == {}


def test_every_class_has_its_colour():
    codes = np.array([CODES], "uint8")
    pixels = rendering.render_classes(make_thumbnail(codes), LAND_COVER)
    actual = {code: tuple(pixel) for code, pixel in zip(CODES, pixels[0].tolist(), strict=True)}
    expected = {entry.code: entry.color for entry in LAND_COVER.classes}
    assert actual == {**expected, 0: rendering.OUTSIDE_COLOR}


def test_unobserved_pixels_differ_from_those_outside():
    codes = np.zeros((16, 16), "uint8")
    codes[:, 8:] = 5
    counts = np.full((16, 16), 65535, "uint16")
    counts[8:] = 0
    pixels = rendering.hatch_pixels(
        rendering.render_classes(make_thumbnail(codes), LAND_COVER),
        rendering.gap_mask(make_thumbnail(codes), make_thumbnail(counts, nodata=65535)),
    )
    assert {tuple(pixel) for pixel in pixels[:8, :8].reshape(-1, 3).tolist()} == {
        rendering.OUTSIDE_COLOR
    }
    assert {tuple(pixel) for pixel in pixels[8:, :8].reshape(-1, 3).tolist()} == {
        rendering.UNOBSERVED_COLOR,
        rendering.HATCH_COLOR,
    }
    assert (pixels[:, 8:] == LAND_COVER.by_code[5].color).all()


def test_observed_pixels_without_a_class_are_not_drawn_as_unobserved():
    codes = np.full((16, 20), 5, "uint8")
    codes[:, :10] = 0
    counts = np.full((16, 20), 3, "uint16")
    counts[:, :2] = 65535
    counts[:, 2:6] = 0
    observed_layers = quicklook.ObservedLayers(observations=make_thumbnail(counts, nodata=65535))
    layout = quicklook.layout_classes(make_thumbnail(codes), LAYER, observed_layers, HEADING)
    shares = {entry.title: round(entry.share, 3) for entry in layout.legend_entries}
    assert shares == {"Crops": 100.0, "Not classified": 22.222, "Not observed": 22.222}
    colors = [
        {tuple(pixel) for pixel in column.tolist()} for column in layout.panels[0][1].swapaxes(0, 1)
    ]
    assert colors[0] == {rendering.OUTSIDE_COLOR}
    assert rendering.UNOBSERVED_COLOR in colors[2]
    assert rendering.UNCLASSIFIED_COLOR in colors[8]
    assert rendering.UNOBSERVED_COLOR not in colors[8]
    coverage = product.CoverageCounts(inside=1000, unobserved=400, unclassified=0)
    layout = quicklook.layout_classes(
        make_thumbnail(codes), LAYER, replace(observed_layers, coverage_counts=coverage), HEADING
    )
    assert [(entry.title, entry.share) for entry in layout.legend_entries][1:] == [
        ("Not observed", 40.0)
    ]


def test_the_stretch_runs_from_2_to_98_percent():
    values = np.arange(1001, dtype="int16").reshape(1, 7, 143).repeat(3, 0)
    pixels = true_color.render_true_color(make_thumbnail(values, ("B02", "B03", "B04"), -32768))
    flat = pixels[..., 0].ravel()
    assert (flat[:21] == 0).all()
    assert (flat[980:] == 255).all()
    assert flat[500] == 128
    assert (np.diff(flat.astype(int)) >= 0).all()


def test_bands_are_drawn_as_red_green_and_blue():
    values = np.zeros((3, 4, 50), "int16")
    values[2, :, :25] = 900  # B04 is red
    pixels = true_color.render_true_color(make_thumbnail(values, ("B02", "B03", "B04"), -32768))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[0, 30].tolist() == [0, 0, 0]


def test_an_image_without_data_is_pale():
    values = np.full((3, 4, 4), -32768, "int16")
    pixels = true_color.render_true_color(make_thumbnail(values, ("B02", "B03", "B04"), -32768))
    assert (pixels == rendering.OUTSIDE_COLOR).all()


@given(st.floats(0.2, 1e7))
@settings(max_examples=200)
def test_the_scale_bar_has_the_longest_round_length_that_fits(metres):
    length = quicklook._round_length(metres)
    assert metres / 2.5 * (1 - 1e-6) < length <= metres * (1 + 1e-6)
    assert f"{length:e}"[0] in "125"


def test_a_ramp_darkens_with_the_value_and_leaves_nodata_pale():
    pixels = rendering.apply_ramp(
        make_thumbnail(np.array([[0, 50, 100, 255]]), nodata=255), "count", 0, 100
    )
    lightness = pixels[0, :3].sum(axis=1)
    assert lightness[0] > lightness[1] > lightness[2]
    assert tuple(pixels[0, 3]) == rendering.OUTSIDE_COLOR


def test_embeddings_are_drawn_by_principal_components():
    rng = np.random.default_rng(7)
    position = np.linspace(-1, 1, 80, dtype="float32")[None, None].repeat(30, axis=1)
    noise = rng.normal(0, 0.01, (6, 30, 80)).astype("float32")
    values = noise + position * np.array([3, -3, 0, 0, 0, 0], "float32")[:, None, None]
    values[:, :, -4:] = np.nan
    names = tuple("abcdef")
    pixels = rendering.render_principal_components(make_thumbnail(values, names, np.nan))
    assert (pixels[:, -4:] == rendering.OUTSIDE_COLOR).all()
    red = pixels[:, :-4, 0].astype(int)
    slope = np.diff(red.mean(axis=0))
    assert (slope <= 0.5).all() or (slope >= -0.5).all()
    assert np.ptp(red.mean(axis=0)) > 230
    second_image = rendering.render_principal_components(make_thumbnail(values, names, np.nan))
    assert np.array_equal(pixels, second_image)


@pytest.mark.parametrize("bands", [1, 2, 5])
@pytest.mark.parametrize("valid_count", [0, 1, 2, 40])
def test_embeddings_of_few_bands_and_cells_can_be_drawn(bands, valid_count):
    values = np.full((bands, 5, 8), np.nan, "float32")
    values.reshape(bands, -1)[:, :valid_count] = np.random.default_rng(1).normal(
        size=(bands, valid_count)
    )
    pixels = rendering.render_principal_components(
        make_thumbnail(values, tuple("abcde"[:bands]), np.nan)
    )
    assert pixels.shape == (5, 8, 3)
    assert (pixels == rendering.OUTSIDE_COLOR).all(axis=2).sum() >= 40 - valid_count


def test_layouts_of_embeddings_and_values_explain_their_colours():
    rng = np.random.default_rng(2)
    observations = make_thumbnail(rng.integers(0, 3, (40, 60)).astype("uint16"), nodata=65535)
    values = rng.normal(0.3, 0.1, (40, 60)).astype("float32")
    values[observations.values[0] == 0] = np.nan
    observed_layers = quicklook.ObservedLayers(observations=observations)
    embedding_layout = quicklook.layout_embedding(
        make_thumbnail(values, nodata=np.nan), observed_layers, HEADING
    )
    assert embedding_layout.note == quicklook.RELATIVE_COLORS_NOTE
    assert [entry.title for entry in embedding_layout.legend_entries] == [quicklook.NOT_OBSERVED]
    layer = layer_table.get("generated_DEM")
    terrain_layout = quicklook.layout_generated(
        make_thumbnail(1000 * values, nodata=np.nan), layer, observed_layers, HEADING
    )
    low, high = np.nanpercentile(1000 * values, [2, 98])
    assert terrain_layout.color_bar.low == f"{low:.4g} m or less"
    assert terrain_layout.color_bar.high == f"{high:.4g} m or more"
    assert terrain_layout.panels[0][0] == "Generated terrain"
    for layout in (embedding_layout, terrain_layout):
        image = Image.open(io.BytesIO(quicklook.render_png(layout)))
        assert image.width <= quicklook.MAX_WIDTH
        assert quicklook.render_png(layout) == quicklook.render_png(layout)


def test_generated_optical_bands_are_drawn_as_one_image():
    values = np.random.default_rng(4).uniform(0, 3000, (3, 20, 30)).astype("float32")
    colored = make_thumbnail(values, ("B04", "B03", "B02"), np.nan)
    layout = quicklook.layout_generated(
        colored, layer_table.get("generated_S2L2A"), quicklook.ObservedLayers(), HEADING
    )
    assert layout.panels[0][0] == "Generated Sentinel-2, true colour"
    assert layout.color_bar is None
    radar = make_thumbnail(values[:1], ("VV",), np.nan)
    layout = quicklook.layout_generated(
        radar, layer_table.get("generated_S1RTC"), quicklook.ObservedLayers(), HEADING
    )
    assert layout.panels[0][0] == "Generated Sentinel-1 RTC, VV"


def test_layers_of_different_shapes_are_refused():
    small_composite = make_thumbnail(np.zeros((3, 5, 5), "int16"), ("B04", "B03", "B02"), -32768)
    with pytest.raises(ValueError, match="must have one shape"):
        layout_example(10, 10, composite=small_composite)
    with pytest.raises(ValueError, match="at one size"):
        layout_example(10, 10, observations=make_thumbnail(np.zeros((5, 5), "uint16")))


def test_shares_refer_to_the_whole_map_if_its_counts_are_given():
    counts = {0: 10, 1: 300, 5: 100}
    legend = layout_example(observations=None, counts=counts).legend_entries
    assert [(entry.title, entry.share) for entry in legend] == [("Water", 75.0), ("Crops", 25.0)]
    assert quicklook.format_percent(0.01) == "< 0.1 %"
    assert quicklook.format_percent(0.0) == "0.0 %"


def test_thumbnails_are_read_from_overviews(tmp_path):
    grid = Grid(epsg=32632, resolution=10.0, left=0.0, top=0.0, height=900, width=1200)
    layer = layer_table.get("land_cover")
    codes = np.full((1, 900, 1200), 5, "uint8")
    codes[:, :, :600] = 2
    codes[:, ::3, ::3] = 11
    path = tmp_path / "map.tif"
    cog.write_cog(path.parent, path.name, grid, layer, lambda first, last: codes[:, first:last])
    thumbnail = rendering.read_thumbnail(path, layer, 300)
    assert thumbnail.values.shape == (1, 225, 300)
    assert thumbnail.metres_per_pixel == pytest.approx(40.0)
    assert set(np.unique(thumbnail.values)) <= {2, 5, 11}
    assert (thumbnail.values == 2).mean() > 0.45
    full_size = rendering.read_thumbnail(path, layer, 5000)
    assert np.array_equal(full_size.values, codes)
    with pytest.raises(ValueError, match="no band"):
        rendering.read_thumbnail(path, layer, 300, ("B04",))
