"""Legends: names, codes and colours of any model's classes."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs import default_class_colors, legend
from catalogs.default_class_colors import PALETTE
from catalogs.legend import LAND_COVER, ClassDefinition, Legend, build_legend


def build(*names, **details):
    return build_legend([ClassDefinition(name=name, **details) for name in names])


def test_codes_are_those_of_the_masks_and_nodata_is_255():
    burned = build("Others", "Burned")
    assert [(entry.code, entry.name) for entry in burned.classes] == [
        (0, "Others"), (1, "Burned"), (255, "nodata"),
    ]  # fmt: skip
    assert burned.nodata == 255
    assert [entry.title for entry in burned.mapped_classes] == ["Others", "Burned"]


def test_classes_of_land_cover_have_its_codes_and_colours():
    assert build("crops", "water") == LAND_COVER
    assert build("crops", "water", "lichen").by_name["water"].code == 1
    assert build("Crops", "Water").by_name["Water"].code == 1
    coloured = build_legend(
        [
            ClassDefinition(name="water", color=(0, 0, 250), title="Lakes"),
            ClassDefinition(name="trees"),
        ]
    )
    assert (coloured.by_code[1].color, coloured.by_code[1].title) == ((0, 0, 250), "Lakes")
    assert coloured.by_code[2] == LAND_COVER.by_code[2]
    assert coloured.nodata == 0
    coded = build_legend([ClassDefinition(name="water", code=7), ClassDefinition(name="trees")])
    assert [entry.code for entry in coded.classes] == [7, 1, 255]


@pytest.mark.parametrize("name", ["nodata", "No data", "NO_DATA"])
def test_a_class_called_no_data_is_nodata(name):
    cultivated = build(name, "Wheat", "Rye")
    assert [entry.code for entry in cultivated.classes] == [255, 1, 2]
    assert cultivated.by_code[255].is_gap


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Burned",), "1 classes: a map has 2 to 254"),
        ([f"c{number}" for number in range(255)], "255 classes"),
        (("a", "b", "a"), "'a' is named more than once"),
        (("Burned", "burned"), "'Burned' and 'burned' differ only by case"),
        (("Straße", "STRASSE"), "differ only by case"),
        (("ﬁre", "FIRE"), "differ only by case"),
        (("a", "a "), "differ only by case or blanks"),
        (("a", ""), "the class name ''"),
        (("a", "\t"), "the class name"),
        (("a", "b\nc"), "the class name"),
        (("a", "b" * 101), "1 to 100 printable"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(*names)


def test_equal_codes_are_refused():
    with pytest.raises(ValueError, match="codes of the classes are 1, 1"):
        build_legend([ClassDefinition(name="a", code=1), ClassDefinition(name="b")])


@pytest.mark.parametrize(
    ("names", "identifiers"),
    [
        (("Natural Vegetation", "Developed / Barren"), ["Natural_Vegetation", "Developed_Barren"]),
        (("Wälder", "Grünland", "Straße"), ["Walder", "Grunland", "Strasse"]),
        (("水体", "森林"), ["class_0", "class_1"]),
        (("a b", "a/b"), ["a_b", "a_b_1"]),
        (("0", "1"), ["0", "1"]),
        (("nodata!", "x"), ["nodata", "x"]),
    ],
)
def test_identifiers_have_the_characters_that_stac_allows(names, identifiers):
    own = build(*names)
    assert [own.identifiers[entry.code] for entry in own.classes][: len(names)] == identifiers
    assert len(set(own.identifiers.values())) == len(own.classes)


texts = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and text.isprintable())


@given(st.lists(texts, min_size=2, max_size=254))
def test_any_names_give_a_legend_or_a_sentence(names):
    try:
        own = build(*names)
    except ValueError as error:
        assert str(error).endswith(".")  # noqa: PT017
        return
    for identifier in own.identifiers.values():
        assert re.fullmatch(r"[0-9A-Za-z-_]+", identifier)
    assert len(set(own.identifiers.values())) == len(own.classes)
    colors = [entry.color for entry in own.mapped_classes]
    assert len(set(colors)) == len(colors)
    assert Legend.from_dict(json.loads(json.dumps(own.to_dict()))) == own


def test_stated_colours_are_kept_and_not_given_twice():
    own = build_legend(
        [
            ClassDefinition(name="a"),
            ClassDefinition(name="b", color=PALETTE[0]),
            ClassDefinition(name="c"),
        ]
    )
    assert [entry.color for entry in own.mapped_classes] == [
        PALETTE[1], PALETTE[0], PALETTE[2],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("Others", default_class_colors.BACKGROUND_COLOR),
        ("No flood", default_class_colors.BACKGROUND_COLOR),
        ("not_burned", default_class_colors.BACKGROUND_COLOR),
        ("unburned", default_class_colors.BACKGROUND_COLOR),
        ("Open Water", PALETTE[0]),
        ("Flood", PALETTE[0]),
        ("Burn scar", PALETTE[1]),
        ("Deciduous forest", PALETTE[10]),
        ("Natural vegetation", PALETTE[2]),
        ("Norway spruce", PALETTE[3]),
        ("Northern lakes", PALETTE[3]),
    ],
)
def test_colours_follow_what_a_name_suggests(name, color):
    first = [
        PALETTE[0],
        PALETTE[1],
        PALETTE[2],
    ]
    stated = [entry for entry in first if entry != color]
    definitions = [ClassDefinition(name=name)]
    definitions += [
        ClassDefinition(name=f"x{number}", color=entry) for number, entry in enumerate(stated)
    ]
    assert build_legend(definitions).classes[0].color == color


def test_two_classes_of_water_do_not_share_a_colour():
    own = build("permanent water", "flood water", "dry")
    assert len({entry.color for entry in own.mapped_classes}) == 3


@pytest.mark.parametrize(
    ("text", "color"),
    [("#d55e00", (213, 94, 0)), ("D55E00", (213, 94, 0)), (" #FFffFF ", (255,) * 3)],
)
def test_colours_are_read(text, color):
    assert default_class_colors.parse_color(text) == color


@pytest.mark.parametrize("text", ["", "red", "#fff", "#d55e0g", "#d55e000", "213,94,0"])
def test_other_forms_of_a_colour_are_refused(text):
    with pytest.raises(ValueError, match="not of the form '#d55e00'"):
        default_class_colors.parse_color(text)


XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
# ^ source: Machado, Oliveira, Fernandes (2009), A physiologically-based model for simulation of
#   color vision deficiency, matrices of severity 1.0, for linear RGB


def to_lab(colors, vision):
    """Return CIELAB values of sRGB colours as a kind of colour vision sees them."""
    srgb = np.asarray(colors) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ VISIONS[vision].T, 0, 1) @ XYZ.T / (0.9505, 1.0, 1.089)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("count", "least"), [(7, 17), (13, 17), (254, 4)])
def test_colours_of_the_palette_can_be_told_apart(vision, count, least):
    lab = to_lab(PALETTE[:count], vision)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
    assert min(distances) >= least


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_of_the_palette_differ_from_gaps_and_paper(vision):
    from pipeline.product.report import rendering

    paper = [rendering.OUTSIDE_COLOR, (255, 255, 255), rendering.UNOBSERVED_COLOR]
    colors = [*PALETTE[:13], default_class_colors.BACKGROUND_COLOR]
    lab, paper_lab = to_lab(colors, vision), to_lab(paper, vision)
    assert min(np.linalg.norm(a - b) for a in lab for b in paper_lab) >= 10


def test_the_palette_has_a_colour_for_every_class():
    assert len(set(PALETTE)) == legend.MAX_CLASSES == 254
    assert default_class_colors.BACKGROUND_COLOR not in PALETTE


def test_a_legend_needs_different_codes_and_a_class_for_nodata():
    entries = build("a", "b").classes
    with pytest.raises(ValueError, match="must differ"):
        Legend(classes=(*entries, entries[0]), nodata=255)
    with pytest.raises(ValueError, match="code of nodata, 9"):
        Legend(classes=entries, nodata=9)
