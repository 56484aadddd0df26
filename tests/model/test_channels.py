"""Names of the channels of a fine-tuned model, in every form in which they are written."""

from __future__ import annotations

import pytest

from model.errors import ModelError
from model.terramind.modalities import get_raster_modality
from model.terratorch.channels import name_channels, translate_band
from model.terratorch.datamodule import TrainingInput

OPTICAL = get_raster_modality("S2L2A")
NAMES = ("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2")
BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")


def name(channels=OPTICAL.bands, dataset=None, output=None, stated=None, *, declared=False):
    training = TrainingInput(mean=(1.0,), std=(1.0,), dataset_bands=dataset, output_bands=output)
    return name_channels(OPTICAL, channels, declared=declared, training=training, stated=stated)


@pytest.mark.parametrize(
    "spelling", ["B08", "b08", "B8", "NIR_BROAD", "nir_broad", "HLSBands.NIR_BROAD"]
)
def test_a_band_has_several_spellings(spelling):
    assert translate_band(OPTICAL, spelling) == "B08"


def test_names_of_the_checkpoint_and_of_its_training_are_translated():
    assert name(NAMES, declared=True).bands == BANDS
    assert name(NAMES, dataset=NAMES, declared=True).bands == BANDS
    assert name(BANDS, dataset=OPTICAL.aliases, output=NAMES, declared=True).bands == BANDS
    assert name(dataset=OPTICAL.aliases).bands == OPTICAL.bands
    assert name(dataset=OPTICAL.bands[::-1]).bands == OPTICAL.bands[::-1]
    # ^ the checkpoint does not say otherwise, and the model was given this order
    assert name(("x", "y"), dataset=("RED", "BLUE"), declared=True).bands == ("B04", "B02")
    assert name(("x", "y"), stated=("RED", "b2"), declared=True).bands == ("B04", "B02")


def test_numbers_are_positions_in_the_files():
    whole = tuple(range(12))
    six = name(NAMES, dataset=whole, output=(1, 2, 3, 8, 10, 11), declared=True)
    assert six.bands == BANDS
    assert "taken as B01, B02" in six.note
    from_one = name(NAMES, dataset=tuple(range(1, 13)), output=(2, 3, 4, 9, 11, 12), declared=True)
    assert from_one.bands == BANDS
    assert name(dataset=whole).bands == OPTICAL.bands
    same = (2, 1, 0, 3, 4, 5)
    assert name(NAMES, dataset=same, output=same, declared=True).bands == BANDS
    assert name(dataset=tuple(range(20, 32))).bands == OPTICAL.bands
    # ^ the files hold the channels of the model only
    more = name(NAMES, dataset=(*range(8),), output=(0, 1, 2, 3, 4, 5), declared=True)
    mixed = name(NAMES, dataset=("BLUE", 1, 2, 7, 8, "B12"), declared=True)
    assert more.bands == mixed.bands == BANDS
    # ^ the checkpoint names them


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": NAMES, "dataset": NAMES[::-1], "declared": True},
         "has the bands B02, B03, .* was given B12, B11"),
        ({"channels": NAMES, "dataset": (*NAMES[:5], "RED_EDGE_1"), "declared": True}, "B05"),
        ({"dataset": NAMES}, "has 12 channels, B01, .*B12, and the training names 6, B02"),
        ({"channels": NAMES, "dataset": tuple(range(12)), "output": (0, 1, 2, 3, 4, 5),
          "declared": True}, "was given B01, B02"),
        ({"dataset": tuple(range(6)), "output": (0, 1, 2)}, "given 3 channels, 0, 1, 2, but .* 12"),
        ({"channels": ("1", "2"), "dataset": (0, 1), "declared": True}, "numbers without a name"),
        ({"channels": NAMES, "dataset": ("RED", 1, 2, 3, 4, 5), "declared": True}, "a name"),
        ({"dataset": tuple(range(14)), "output": tuple(range(12))}, "numbers without a name"),
        ({"channels": ("BLUE", "SLOPE"), "declared": True}, "SLOPE of the checkpoint is no band"),
        ({"channels": NAMES, "stated": ("BLUE", "RED")},
         "has 6 channels, B02, .*B12, and the job names 2, B02, B04"),
        ({"channels": NAMES, "stated": ("BLUE", *NAMES[:5])}, "each channel once"),
    ],
)  # fmt: skip
def test_names_that_contradict_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        name(**options)


def test_what_the_user_states_comes_before_a_contradiction():
    named = name(NAMES, dataset=NAMES[::-1], stated=NAMES[::-1], declared=True)
    assert (named.bands, named.note) == (BANDS, None)
    # ^ the order of the numbers, which the statistics tell
    others = ["B01", *BANDS[1:]]
    named = name(NAMES, dataset=NAMES[::-1], stated=others, declared=True)
    assert named.bands == tuple(others)
    assert "as the job states" in named.note
    assert "names its bands B02, B03" in named.note


def test_an_order_that_only_the_user_states_is_told():
    named = name(stated=OPTICAL.bands[::-1])
    assert named.bands == OPTICAL.bands[::-1]
    assert "does not name its bands: they are taken as B12, B11" in named.note
    assert "TerraMind's own order is B01, B02" in named.note
    assert name(stated=OPTICAL.aliases).note is None
    assert name(("1", "2"), stated=("RED", "BLUE")).note is None
    # ^ nothing else names these channels
