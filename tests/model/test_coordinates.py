"""Tokenizers of coordinates and captions: rounding, invalid values, and vocabulary files."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import model
from model.errors import ModelError, WeightsError
from model.terramind.tokenizers.coordinates import CoordsTokenizer

SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[SOS]": 2, "[EOS]": 3, "[S_0]": 4, "[S_1]": 5, "[S_2]": 6}


def list_quarter_degrees(limit):
    return [step / 4 for step in range(-4 * limit, 4 * limit + 1)]


WORDS = [f"lat={value:.2f}" for value in list_quarter_degrees(90)] + [
    f"lon={value:.2f}" for value in list_quarter_degrees(180)
]
VOCABULARY = SPECIAL | {word: word_id for word_id, word in enumerate(WORDS, start=len(SPECIAL))}
COORDS_TOKENIZER = CoordsTokenizer(VOCABULARY)


def write_vocabulary(path, vocabulary, as_added_tokens):
    """Write a vocabulary file as the `tokenizers` library does, with own or added words."""
    words = [
        {"id": word_id, "content": word, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for word, word_id in vocabulary.items()
    ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": words if as_added_tokens else [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": SPECIAL if as_added_tokens else vocabulary,
            "unk_token": "[UNK]",
        },
    }
    path.write_text(json.dumps(content))
    return path


def test_coordinates_are_encoded_as_latitude_longitude_and_end():
    ids = COORDS_TOKENIZER.encode(torch.tensor([[7.1, -3.38]]))
    assert ids.tolist() == [[VOCABULARY["lat=-3.50"], VOCABULARY["lon=7.00"], 3]]
    assert ids.dtype == torch.int64


@given(st.floats(-180, 180), st.floats(-90, 90))
def test_all_coordinates_are_decoded_to_the_rounded_ones(longitude, latitude):
    ids = COORDS_TOKENIZER.encode([[longitude, latitude]])
    assert ids.shape == (1, 3)
    decoded = COORDS_TOKENIZER.decode(ids)[0].tolist()
    assert abs(decoded[0] - longitude) <= 0.125
    assert abs(decoded[1] - latitude) <= 0.125
    assert all(math.copysign(1, value) == 1 for value in decoded if value == 0)
    assert COORDS_TOKENIZER.encode([decoded]).tolist() == ids.tolist()


def test_halfway_coordinates_are_rounded_to_the_even_quarter():
    words = COORDS_TOKENIZER.to_words([[0.125, 0.375], [-0.125, -0.375]])
    assert words == [("lat=0.50", "lon=0.00"), ("lat=-0.50", "lon=0.00")]


@pytest.mark.parametrize("value", [-0.1, -0.0, 0.0, 0.1, -0.125])
def test_values_near_zero_have_one_word(value):
    assert COORDS_TOKENIZER.encode([[value, value]]).tolist() == [
        [VOCABULARY["lat=0.00"], VOCABULARY["lon=0.00"], 3]
    ]


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        ([[200.0, 0.0]], "lon=200 is outside"),
        ([[0.0, -90.5]], "lat=-90.5 is outside"),
        ([[0.0, 120.0]], r"\[lon, lat\]"),
        ([[float("nan"), 0.0]], "outside"),
        ([[0.0, float("inf")]], "outside"),
        ([7.0, 3.0], r"\(B, 2\)"),
        ([[7.0, 3.0, 1.0]], r"\(B, 2\)"),
        (torch.ones(1, 2, dtype=torch.bool), r"\(B, 2\)"),
    ],
)
def test_invalid_coordinates_are_refused(coordinates, message):
    with pytest.raises(ModelError, match=message):
        COORDS_TOKENIZER.encode(coordinates)


@pytest.mark.parametrize("value", [None, "Rome", [["a", "b"]], [[1.0, 2.0], [3.0]]])
def test_values_that_are_not_numbers_are_refused(value):
    tokenizer = CoordsTokenizer(VOCABULARY)
    with pytest.raises(ModelError, match="lon, lat"):
        tokenizer.encode(value)
    with pytest.raises(ModelError, match="a torch tensor"):
        tokenizer.decode(value)


def test_coordinates_missing_from_the_vocabulary_are_named():
    small_tokenizer = CoordsTokenizer(SPECIAL | {"lat=0.00": 7, "lon=0.00": 8})
    with pytest.raises(ModelError, match=r"no word for lat=1\.00, lon=2\.00"):
        small_tokenizer.encode([[2.0, 1.0], [0.0, 0.0]])


def test_ids_that_are_not_coordinates_are_decoded_to_nan():
    north, east = VOCABULARY["lat=0.25"], VOCABULARY["lon=0.50"]
    rows = [[north, east, 3], [east, north, 3], [3, 3, 3], [north, north, 3], [-1, 10**6, 0]]
    degrees = COORDS_TOKENIZER.decode(torch.tensor(rows))
    assert degrees.dtype == torch.float32
    assert degrees[0].tolist() == [0.5, 0.25]
    assert bool(degrees[1:].isnan().all())
    assert COORDS_TOKENIZER.decode(torch.tensor([[north, east]])).tolist() == [[0.5, 0.25]]
    with pytest.raises(ModelError, match="L >= 2"):
        COORDS_TOKENIZER.decode(torch.tensor([north, east]))
    with pytest.raises(ModelError, match="L >= 2"):
        COORDS_TOKENIZER.decode(torch.zeros(1, 3))


@pytest.mark.parametrize("as_added_tokens", [True, False])
def test_the_vocabulary_is_read_from_a_file_of_the_tokenizers_library(tmp_path, as_added_tokens):
    path = write_vocabulary(tmp_path / "config.json", VOCABULARY, as_added_tokens)
    assert (
        model.coords_tokenizer(path)
        .encode([[7.0, 3.0]])
        .equal(COORDS_TOKENIZER.encode([[7.0, 3.0]]))
    )
    assert model.coords_tokenizer(str(path)).eos_id == 3


def test_the_official_file_is_found_in_the_weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(tmp_path))
    folder = tmp_path / "TerraMind-1.0-Tokenizer-Coords"
    folder.mkdir()
    write_vocabulary(folder / "config.json", VOCABULARY, as_added_tokens=True)
    assert (
        model.coords_tokenizer().encode([[7.0, 3.0]]).equal(COORDS_TOKENIZER.encode([[7.0, 3.0]]))
    )


def test_a_missing_file_names_the_download(tmp_path):
    with pytest.raises(WeightsError) as error:
        model.coords_tokenizer(tmp_path / "absent.json")
    for phrase in (
        "absent.json",
        "config.json",
        "ibm-esa-geospatial/TerraMind-1.0-Tokenizer-Coords",
    ):
        assert phrase in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", "model.vocab"),
        ('{"model": {"vocab": 3}}', "model.vocab"),
        ('{"model": {"vocab": {"[EOS]": 3, "lat": 4, "lon=x": 5}}}', "not the vocabulary"),
        ('{"model": {"vocab": {"lat=0.00": 3, "lon=0.00": 5}}}', r"\[EOS\]"),
        ('{"model": {"vocab": {"[EOS]": 3, "lat=0.00": 5}}}', "not the vocabulary"),
    ],
)
def test_an_invalid_vocabulary_file_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(WeightsError, match=message):
        model.coords_tokenizer(path)


# captions


CAPTION_VOCABULARY = SPECIAL | {"a": 7, "river": 8, "in": 9, "winter": 10}


def make_captions_tokenizer(tmp_path):
    pytest.importorskip("tokenizers", reason="captions need the optional package tokenizers")
    path = write_vocabulary(tmp_path / "config.json", CAPTION_VOCABULARY, as_added_tokens=False)
    content = json.loads(path.read_text())
    content["added_tokens"] = [
        {"id": word_id, "content": word, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for word, word_id in SPECIAL.items()
    ]
    path.write_text(json.dumps(content))
    return model.captions_tokenizer(path)


def test_a_caption_is_encoded_as_words_sentinel_and_end(tmp_path):
    tokenizer = make_captions_tokenizer(tmp_path)
    ids = tokenizer.encode(["A river in winter", "winter"])
    assert ids.tolist() == [[7, 8, 9, 10, 5, 3], [10, 5, 3, 0, 0, 0]]
    assert tokenizer.encode(["winter"], length=5).tolist() == [[10, 5, 3, 0, 0]]
    assert tokenizer.decode(ids) == ["a river in winter", "winter"]


@pytest.mark.parametrize("texts", ["a river", []])
def test_captions_must_be_a_list_of_one_per_sample(tmp_path, texts):
    with pytest.raises(ModelError, match="list of captions"):
        make_captions_tokenizer(tmp_path).encode(texts)


def test_a_caption_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(ModelError, match="more than 4"):
        make_captions_tokenizer(tmp_path).encode(["a river in winter"], length=4)


def test_a_vocabulary_without_the_sentinel_is_refused(tmp_path):
    pytest.importorskip("tokenizers", reason="captions need the optional package tokenizers")
    path = write_vocabulary(tmp_path / "config.json", {"a": 0, "[UNK]": 1}, as_added_tokens=False)
    with pytest.raises(WeightsError, match="S_1"):
        model.captions_tokenizer(path)
    path.write_text("{}")
    with pytest.raises(WeightsError, match="not a vocabulary"):
        model.captions_tokenizer(path)


def test_without_the_package_the_error_names_the_installation(tmp_path, monkeypatch):
    path = write_vocabulary(tmp_path / "config.json", CAPTION_VOCABULARY, as_added_tokens=False)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModelError, match="pip install"):
        model.captions_tokenizer(path)


def test_a_missing_vocabulary_of_captions_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.json.*version 1 takes no captions"):
        model.captions_tokenizer(tmp_path / "absent.json")
