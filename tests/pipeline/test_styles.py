"""Styles: every format shows the same legend, with names."""

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pystac.extensions.classification import Classification

from catalogs.legend import LAND_COVER
from pipeline import layer_table
from pipeline.product import stac_item
from pipeline.storage import color_ramps, styles
from pipeline.storage.band_statistics import BandStatistics

MAPPED = [entry for entry in LAND_COVER.classes if entry.code != LAND_COVER.nodata]


def test_qgis_gets_a_palette_with_labels_and_full_opacity():
    root = ET.fromstring(re.sub(r"<!DOCTYPE.*?>", "", styles.qml(LAND_COVER)))
    renderer = root.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    assert float(renderer.get("opacity")) == 1
    entries = renderer.findall("colorPalette/paletteEntry")
    assert [
        (int(entry.get("value")), entry.get("color"), entry.get("label")) for entry in entries
    ] == [(entry.code, f"#{entry.color_hint.lower()}", entry.title) for entry in MAPPED]
    assert {entry.get("alpha") for entry in entries} == {"255"}


def test_sld_names_and_colours_every_code():
    root = ET.fromstring(styles.sld(layer_table.get("land_cover"), LAND_COVER).encode())
    namespaces = {"sld": "http://www.opengis.net/sld"}
    color_map = root.find(".//sld:ColorMap", namespaces)
    assert color_map.get("type") == "values"
    actual = {
        int(entry.get("quantity")): (entry.get("color"), entry.get("label"), entry.get("opacity"))
        for entry in color_map
    }
    assert actual == {
        entry.code: (f"#{entry.color_hint}", entry.title, "1" if entry.code else "0")
        for entry in LAND_COVER.classes
    }


def test_continuous_layers_get_a_ramp_from_low_to_high():
    layer = layer_table.get("generated_NDVI")
    band = BandStatistics(
        valid=9, total=9, minimum=-0.2, maximum=0.9, mean=0.4, stddev=0.2, counts=None
    )
    stops = color_ramps.ramp_stops(layer, band)
    assert [round(value, 3) for value, _ in (stops[0], stops[-1])] == [0.0, 0.8]
    root = ET.fromstring(re.sub(r"<!DOCTYPE.*?>", "", styles.ramp_qml(stops)))
    renderer = root.find("pipe/rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor"
    items = renderer.findall("rastershader/colorrampshader/item")
    assert [float(item.get("value")) for item in items] == pytest.approx(
        [value for value, _ in stops]
    )
    sld = ET.fromstring(styles.ramp_sld(layer, stops).encode())
    color_map = sld.find(".//sld:ColorMap", {"sld": "http://www.opengis.net/sld"})
    assert color_map.get("type") == "ramp"
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for _, color in stops]
    assert [entry.get("color") for entry in color_map] == colors
    assert [item.get("color") for item in items] == colors
    constant = BandStatistics(valid=1, total=1, minimum=2, maximum=2, mean=2, stddev=0, counts=None)
    values = [value for value, _ in color_ramps.ramp_stops(layer, constant)]
    assert values == sorted(set(values))
    empty = BandStatistics(
        valid=0, total=9, minimum=None, maximum=None, mean=None, stddev=None, counts=None
    )
    with pytest.raises(ValueError, match="no valid values"):
        color_ramps.ramp_stops(layer, empty)


def test_the_ramp_of_a_scaled_layer_has_physical_values():
    """QGIS applies the scale of a band before it looks up the colour."""
    layer = replace(layer_table.get("generated_NDVI"), dtype="int16", nodata=-32768, scale=0.01)
    band = BandStatistics(
        valid=9, total=9, minimum=-20, maximum=90, mean=40, stddev=20, counts=None
    )
    (_, _, qml), (_, _, sld) = styles.render_styles(layer, band)
    root = ET.fromstring(re.sub(r"<!DOCTYPE.*?>", "", qml))
    shader = root.find("pipe/rasterrenderer/rastershader/colorrampshader")
    assert (float(shader.get("minimumValue")), float(shader.get("maximumValue"))) == (0, 0.8)
    values = [
        float(entry.get("quantity"))
        for entry in ET.fromstring(sld).iter()
        if entry.get("quantity") is not None
    ]
    assert (values[0], values[-1]) == (0, 0.8)


def test_stac_classes_are_those_of_the_legend_and_readable_by_pystac():
    entries = stac_item.classification_classes(LAND_COVER, {0: 5, 1: 1, 5: 3})
    classifications = [Classification(entry) for entry in entries]
    assert [(entry.value, entry.name, entry.color_hint) for entry in classifications] == [
        (entry.code, entry.name, entry.color_hint) for entry in LAND_COVER.classes
    ]
    by_value = {entry["value"]: entry for entry in entries}
    assert by_value[0]["nodata"] is True
    assert "percentage" not in by_value[0]
    assert (by_value[1]["percentage"], by_value[5]["percentage"]) == (25.0, 75.0)
    assert (by_value[0]["count"], by_value[5]["count"], by_value[2]["count"]) == (5, 3, 0)
    assert all("count" not in entry for entry in stac_item.classification_classes(LAND_COVER))


@given(
    st.dictionaries(st.sampled_from([e.code for e in LAND_COVER.classes]), st.integers(0, 10**12))
)
def test_shares_of_the_mapped_pixels_add_up(counts):
    shares = styles.class_percentages(LAND_COVER, counts)
    mapped = sum(count for code, count in counts.items() if code != LAND_COVER.nodata)
    assert sum(shares.values()) == pytest.approx(100 if mapped else 0)
    assert set(shares) == {entry.code for entry in MAPPED}


def test_bit_offsets_are_stable():
    fields = stac_item.classification_bitfields(layer_table.get("inputs_used"))
    assert {field["name"]: 1 << field["offset"] for field in fields} == {
        "sentinel_2": 1,
        "sentinel_1": 2,
        "dem": 4,
        "generated": 8,
    }
    assert all(field["length"] == 1 for field in fields)


def test_gdal_palette_is_the_table_with_nodata_transparent():
    table = styles.colormap(LAND_COVER)
    assert table[0][3] == 0
    assert {code: color[:3] for code, color in table.items()} == {
        entry.code: entry.color for entry in LAND_COVER.classes
    }
