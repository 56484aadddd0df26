"""Checkpoints of `terratorch fit` that are refused, and the messages."""

from __future__ import annotations

import copy

import pytest
import torch

import model
from model.errors import ModelError, WeightsError
from model.terramind.modalities import get_raster_modality
from tests.support.lightning_checkpoints import (
    ARGS,
    LEARNED,
    RESHAPE,
    SELECT,
    as_stored,
    build_model,
    load,
    whole_model,
)
from tests.support.oracle import one_thread  # noqa: F401


@pytest.fixture(scope="module")
def network():
    return whole_model()


@pytest.fixture
def stored_checkpoint(network):
    return copy.deepcopy(as_stored(network))


class FileWritingPickle:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_program_in_a_checkpoint_does_not_run(stored_checkpoint, tmp_path):
    stored_checkpoint["hyper_parameters"]["optimizer_hparams"] = FileWritingPickle(tmp_path / "ran")
    torch.save(stored_checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError) as error:
        load(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()
    for phrase in ("io.open", "weights_only=False", "state_dict", ".yaml"):
        assert phrase in str(error.value)


def test_damaged_and_absent_files_have_messages_of_their_own(tmp_path):
    with pytest.raises(WeightsError, match="do not exist"):
        load(tmp_path / "none.ckpt")
    (tmp_path / "a.ckpt").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(WeightsError, match="damaged"):
        load(tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match="no state dict"):
        load({"state_dict": [1], "hyper_parameters": {"model_args": ARGS}})


def test_tensors_that_do_not_fit_are_named(stored_checkpoint):
    state = stored_checkpoint["state_dict"]
    removed_keys = [key for key in state if "running_var" in key][:2]
    for key in removed_keys:
        del state[key]
    state["model.encoder.encoder_embeddings.untok_dem@224.mod_emb"] = torch.ones(1, 1, 32)
    state["model.head.head.2.bias"] = torch.ones(7)
    with pytest.raises(WeightsError) as error:
        load(stored_checkpoint)
    for key in (*removed_keys, "model.encoder.encoder_embeddings.untok_dem@224.mod_emb"):
        assert key.removeprefix("model.") in str(error.value)
    assert "head.head.2.bias (7,) instead of (3,)" in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.encoder.encoder.0.attn.qkv.ia3_l.default", "merge_and_unload"),
        ("model.encoder.encoder.0.attn.proj.lora_embedding_A.default", "merge_and_unload"),
        ("model.encoder.encoder.0.attn.qkv.lora_A.default.weight", "peft_config"),
        ("model.encoder.encoder.encoder_norm.weight", "one date"),
    ],
)
def test_adapters_and_wrappers_are_refused_by_their_keys(stored_checkpoint, key, message):
    stored_checkpoint["state_dict"][key] = torch.ones(2)
    with pytest.raises(ModelError, match=message) as error:
        load(stored_checkpoint)
    assert message == "peft_config" or key.removeprefix("model.") in str(error.value)


REFUSED = {
    "backbone_num_register_tokens": (4, "num_register_tokens 4"),
    "backbone_use_temporal": (True, "several dates"),
    "backbone_window_size": (7, "window_size"),
    "backbone_merge_method": ("dict", "merge_method 'dict'"),
    "backbone_img_size": ("big", "img_size"),
    "backbone_modalities": (["S2"], "S2"),
    "backbone_bands": ({"DEM": ["DEM"]}, "DEM"),
    "decoder": ("ASPPHead", "ASPPHead"),
    "decoder_channels": ([16, 12], "2 channels for 4 maps"),
    "decoder_interpolation_mode": ("bicubic", "interpolation_mode"),
    "decoder_attention_type": ("se", "attention_type 'se'"),
    "decoder_use_batchnorm": ("layernorm", "use_batchnorm 'layernorm'"),
    "head_final_act": ("torch.nn.Sigmoid", "final_act"),
    "head_channel_list": ("64", "channel_list"),
    "head_dropout": ("much", "dropout"),
    "necks": ([{"name": "AggregateTokens"}], "AggregateTokens"),
    "num_classes": (1, "at least two"),
    "num_outputs": (1, "num_outputs"),
    "peft_config": (["LORA"], "peft_config"),
    "image_size_out": ([100, 100], "image_size_out"),
    "rescale": ("no", "rescale"),
    "novelty": (1, "novelty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_model_arguments_are_refused_by_name(stored_checkpoint, name):
    value, message = REFUSED[name]
    stored_checkpoint["hyper_parameters"]["model_args"][name] = value
    with pytest.raises(ModelError, match=message):
        load(stored_checkpoint)


NECKS_REFUSED = {
    "no images": [SELECT],
    "nothing": [],
    "too early": [SELECT, LEARNED, RESHAPE],
    "PermuteDims": [SELECT, RESHAPE, {"name": "PermuteDims", "new_order": [0, 2, 1]}],
    "exactly 4": [RESHAPE | {"name": "ReshapeTokensToImage"}, SELECT | {"indices": [1]}, LEARNED],
    "effective_time_dim": [SELECT, RESHAPE | {"effective_time_dim": 3}, LEARNED],
    "outside": [SELECT | {"indices": [0, 1, 2, 4]}, RESHAPE, LEARNED],
    "output_ordered_dict": [SELECT, RESHAPE, LEARNED, {"name": "FeaturePyramidNetworkNeck"}],
    "mode": [SELECT, RESHAPE, {"name": "InterpolateToPyramidal", "mode": "cubic"}],
    "stride": [SELECT, RESHAPE, {"name": "MaxpoolToPyramidal", "stride": 2}],
}
MESSAGES = {"no images": "ReshapeTokensToImage once", "nothing": "ReshapeTokensToImage once"}
MESSAGES |= {"too early": "must come after"}


@pytest.mark.parametrize("reason", NECKS_REFUSED)
def test_invalid_necks_are_refused_when_the_model_is_built(reason):
    with pytest.raises(ModelError, match=MESSAGES.get(reason, reason)):
        whole_model(necks=NECKS_REFUSED[reason])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_temporal": True, "temporal_pooling": "concat", "temporal_n_timestamps": 4},
         "on 4 dates of each input .*'concat'.*one date"),
        ({"use_temporal": True, "temporal_pooling": "diff"}, "on several dates .*'diff'"),
        ({"use_temporal": True, "temporal_concat": True, "temporal_subset_lengths": [2, 2]},
         "on several dates"),
    ],
)  # fmt: skip
def test_models_of_several_dates_are_refused_with_the_reason(stored_checkpoint, options, message):
    stored_checkpoint["hyper_parameters"]["model_args"] |= {
        f"backbone_{name}": value for name, value in options.items()
    }
    with pytest.raises(ModelError, match=message):
        load(stored_checkpoint)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "regression"}, "regression"),
        ({"_class_path": "terratorch.tasks.PixelwiseRegressionTask"}, "PixelwiseRegressionTask"),
        ({"model_factory": "GenericUnetModelFactory"}, "GenericUnetModelFactory"),
        ({"model": torch.nn.Identity()}, "<Identity>"),
    ],
)
def test_other_tasks_and_factories_are_refused(stored_checkpoint, arguments, message):
    stored_checkpoint["hyper_parameters"] |= arguments
    with pytest.raises(ModelError, match=message):
        load(stored_checkpoint)


def test_backbones_that_are_not_encoders_are_refused(stored_checkpoint):
    args = stored_checkpoint["hyper_parameters"]["model_args"]
    for name, message in {
        "terramind_v1_base_generate": "no features to segment",
        "terramind_v1_base_encdec": "no features to segment",
        "prithvi_eo_v2_300": "not TerraMind",
        "terramind_v01_base": "`config`",
    }.items():
        args["backbone"] = name
        with pytest.raises(ModelError, match=message):
            model.fine_tuned(stored_checkpoint)


def test_a_known_backbone_needs_no_config():
    args = {"backbone": "terratorch_terramind_v1_tiny", "necks": [RESHAPE], "num_classes": 2}
    args |= {"backbone_modalities": ["DEM"], "decoder": "IdentityDecoder"}
    with torch.device("meta"):
        segmenter = build_model("terramind_v1_tiny", ["DEM"], 2, [RESHAPE], "IdentityDecoder")
        content = {"state_dict": segmenter.state_dict(), "hyper_parameters": {"model_args": args}}
        assert model.fine_tuned(content).architecture.dim == 192


def test_a_model_without_a_class_for_each_pixel_is_refused_when_it_is_loaded(
    stored_checkpoint, tmp_path
):
    stored_checkpoint["hyper_parameters"]["model_args"]["rescale"] = False
    path = tmp_path / "coarse.ckpt"
    torch.save(stored_checkpoint, path)
    (tmp_path / "micro.yaml").write_text(
        "architecture: {dim: 32, heads: 2, depth: 4, gated: false, bias: true}\n"
        "inputs: [S2L2A, S1GRD]\n"
    )
    options = {
        "checkpoint": path,
        "classes": ["water", "trees", "crops"],
        "stats": {
            name: get_raster_modality(name).statistics.to_mapping() for name in ("S2L2A", "S1GRD")
        },
        "inputs": ["S2L2A", "S1GRD"],
    }
    with pytest.raises(ModelError, match=r"gives 56 x 56 values for a window of 224") as error:
        model.load(str(tmp_path / "micro.yaml"), **options)
    exec(str(error.value).partition("does: ")[2], {"torch": torch, "path": path})
    assert model.load(str(tmp_path / "micro.yaml"), **options).window == 224
