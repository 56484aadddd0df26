"""Checkpoints of `terratorch fit`: loading, and the loaded model."""

from __future__ import annotations

import argparse
import copy
import enum
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import model
from model.errors import ModelError, WeightsError
from model.terramind.modalities import get_raster_modality
from model.terratorch import hyperparameters, segmentation_model
from model.tools.convert import convert
from model.weights import checksums, loading
from tests.support.lightning_checkpoints import (
    ARGS,
    PYRAMID,
    RESHAPE,
    SIZE,
    as_stored,
    build_model,
    load,
    random_inputs,
    same_outputs,
    whole_model,
)
from tests.support.oracle import one_thread  # noqa: F401


@pytest.fixture(scope="module")
def network():
    return whole_model()


@pytest.fixture
def stored_checkpoint(network):
    return copy.deepcopy(as_stored(network))


def test_a_checkpoint_file_is_loaded_as_the_trained_model(network, tmp_path):
    path = tmp_path / "epoch=3.ckpt"
    content = as_stored(network, class_names=["sea", "ice", "land"], class_weights=[1.0, 2.0, 1.0])
    content["state_dict"]["criterion.weight"] = torch.ones(3)
    torch.save(content, path)
    loaded = load(path, sha256=checksums.hash_file(path))
    assert same_outputs(loaded, network)
    assert not loaded.training
    assert loaded.num_classes == 3
    assert loaded.class_names == ("sea", "ice", "land")
    assert loaded.inputs == {
        "S2L2A": get_raster_modality("S2L2A").bands,
        "S1GRD": get_raster_modality("S1GRD").bands,
    }
    assert loaded.architecture.to_mapping().items() >= SIZE.items()
    assert loaded.hyper_parameters["model_args"]["decoder_channels"] == [16, 12, 8, 8]
    with pytest.raises(WeightsError, match="pinned"):
        load(path, sha256="0" * 64)


def test_two_other_forms_of_arguments_of_the_command_line_are_read(network, stored_checkpoint):
    arguments = stored_checkpoint["hyper_parameters"]
    del arguments["task"]
    path = "terratorch.tasks.SemanticSegmentationTask"
    for hyper_parameters in (
        {
            "_class_path": path,
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
            **arguments,
        },
        {"class_path": path, "init_args": arguments, "_instantiator": "instantiate_module"},
    ):
        assert same_outputs(
            load(stored_checkpoint | {"hyper_parameters": hyper_parameters}), network
        )


WRAPPED = {
    "timm, before 1.0": lambda key: key.replace("model.encoder.", "model.encoder._timm_module.", 1),
    "compiled": lambda key: key.replace("model.", "model._orig_mod.", 1),
    "several GPUs": lambda key: f"module.{key}",
    "compiled task": lambda key: f"_orig_mod.{key}",
    "several GPUs, compiled": lambda key: key.replace("model.", "model._orig_mod.module.", 1),
    "fully sharded": lambda key: (
        f"_forward_module.{key.replace('.attn.', '._fsdp_wrapped_module.attn.')}"
    ),
    "bare": lambda key: key.removeprefix("model."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrapper_prefixes_of_keys_are_removed(network, stored_checkpoint, wrapper):
    stored_checkpoint["state_dict"]["criterion.weight"] = torch.ones(3)
    state = {WRAPPED[wrapper](key): value for key, value in stored_checkpoint["state_dict"].items()}
    assert set(state) != set(stored_checkpoint["state_dict"])
    assert same_outputs(load(stored_checkpoint | {"state_dict": state}), network)


def test_a_moving_average_beside_the_weights_is_for_its_user_to_choose(
    network, stored_checkpoint, tmp_path
):
    average = whole_model(seed=4)
    state = stored_checkpoint["state_dict"]
    state |= {f"ema_model.module.model.{key}": v for key, v in average.state_dict().items()}
    state["ema_model.n_averaged"] = torch.tensor(7)
    path = tmp_path / "a.ckpt"
    torch.save(stored_checkpoint, path)
    with pytest.raises(WeightsError, match="moving average") as error:
        load(path)
    exec(str(error.value).partition("For the average: ")[2], {"torch": torch, "path": path})
    assert same_outputs(load(path), average)


def test_weights_that_lightning_averaged_are_those_of_the_state_dict(network, stored_checkpoint):
    other = {f"model.{key}": value for key, value in whole_model(seed=4).state_dict().items()}
    stored_checkpoint |= {"current_model_state": other, "averaging_state": {"n_averaged": 3}}
    assert same_outputs(load(stored_checkpoint), network)


def test_parts_used_in_training_only_are_ignored(network, stored_checkpoint):
    stored_checkpoint["state_dict"] |= {
        "criterion.weight": torch.ones(3),
        "train_metrics.loss.total": torch.ones(1),
        "teacher.encoder.encoder_norm.weight": torch.ones(32),
        "model.aux_heads.deep.0.convs.0.0.weight": torch.ones(4, 4, 2, 2),
        "model.aux_heads.deep.1.head.2.weight": torch.ones(3, 4, 1, 1),
    }
    stored_checkpoint["hyper_parameters"] |= {
        "aux_heads": [{"name": "deep", "decoder": "FCNDecoder"}]
    }
    loaded = load(stored_checkpoint)
    assert same_outputs(loaded, network)
    assert not any(key.startswith("aux_heads") for key in loaded.state_dict())


def test_auxiliary_heads_can_be_read_without_terratorch(network, stored_checkpoint, tmp_path):
    module = types.ModuleType("terratorch.models.model")

    @dataclass
    class AuxiliaryHead:
        name: str
        decoder: str

    AuxiliaryHead.__module__, AuxiliaryHead.__qualname__ = module.__name__, "AuxiliaryHead"
    module.AuxiliaryHead = AuxiliaryHead
    names = ["terratorch", "terratorch.models", module.__name__]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, module)
        stored_checkpoint["hyper_parameters"]["aux_heads"] = [AuxiliaryHead("deep", "FCNDecoder")]
        torch.save(stored_checkpoint, tmp_path / "a.ckpt")
    assert module.__name__ not in sys.modules
    loaded = load(tmp_path / "a.ckpt")
    assert same_outputs(loaded, network)
    assert loaded.hyper_parameters["aux_heads"] == ["<Auxiliary>"]
    with pytest.raises(WeightsError, match="more than tensors"):
        loading.read_state_dict(tmp_path / "a.ckpt")
        # ^ the exemption applies to one call only


class _Bands(enum.Enum):
    BLUE = "BLUE"
    RED = "RED"


class _Loss(torch.nn.Module):
    pass


def test_objects_of_other_packages_are_read_without_their_code(tmp_path):
    encoder = model.backbone(SIZE, ["S2L2A", "S1GRD"], bands={"S2L2A": ["B02", "B04"]})
    segmenter = loading.initialise(
        segmentation_model.assemble_model(
            encoder, 3, PYRAMID, decoder_options={"channels": [16, 12, 8, 8]}
        ),
        0,
    )
    module = types.ModuleType("terratorch.datasets.utils")
    content = as_stored(
        segmenter,
        {"backbone_bands": {"S2L2A": [_Bands.BLUE, _Bands.RED]}},
        loss=_Loss(),
        path_to_record_metrics=Path("metrics"),
        optimizer_hparams=argparse.Namespace(lr=1e-4, betas=(0.9, 0.99)),
    )
    content["callbacks"] = {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}}
    with pytest.MonkeyPatch.context() as patch:
        for kind in (_Bands, _Loss):
            patch.setattr(kind, "__module__", module.__name__)
            setattr(module, kind.__name__, kind)
        patch.setitem(sys.modules, "terratorch", types.ModuleType("terratorch"))
        patch.setitem(sys.modules, "terratorch.datasets", types.ModuleType("terratorch.datasets"))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save(content, tmp_path / "a.ckpt")
    loaded = load(tmp_path / "a.ckpt")
    assert "terratorch" not in sys.modules
    assert loaded.inputs["S2L2A"] == ("B02", "B04")
    assert loaded.hyper_parameters["loss"] == "<_Loss>"
    assert loaded.hyper_parameters["optimizer_hparams"] == {"lr": 1e-4, "betas": [0.9, 0.99]}
    convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors")
    inputs = random_inputs()
    inputs["S2L2A"] = inputs["S2L2A"][:, :2]
    with torch.inference_mode():
        expected = segmenter(inputs)
        for network in (loaded, load(tmp_path / "a.safetensors")):
            assert torch.equal(network(inputs), expected)
    with pytest.raises(WeightsError, match="give it as `checkpoint:`"):
        model.load("terramind_v1_tiny", tmp_path / "a.ckpt", device="cpu")


def test_options_that_state_the_defaults_change_nothing(network, stored_checkpoint):
    stored_checkpoint["hyper_parameters"]["model_args"] |= {
        "aux_decoders": None,
        "backbone_bands": None,
        "backbone_drop_path_rate": 0.1,
        "backbone_encoder_norm": True,
        "backbone_img_size": 224,
        "backbone_modality_drop_rate": 0.0,
        "backbone_num_register_tokens": 0,
        "backbone_patch_size": 16,
        "backbone_qk_norm": False,
        "backbone_temporal_concat": None,
        "backbone_temporal_features_permute_op": None,
        "backbone_temporal_n_timestamps": None,
        "backbone_temporal_pooling": "mean",
        "backbone_temporal_subset_lengths": None,
        "backbone_use_temporal": False,
        "decoder_attention_type": None,
        "decoder_use_batchnorm": "batchnorm",
        "head_channel_list": None,
        "head_dropout": 0,
        "image_size_out": None,
        "num_outputs": None,
        "peft_config": None,
        "rescale": True,
    }
    assert same_outputs(load(stored_checkpoint), network)


def test_the_number_of_classes_is_held_against_the_head(stored_checkpoint):
    stored_checkpoint["hyper_parameters"]["model_args"]["num_classes"] = 5
    with pytest.raises(WeightsError, match="gives 3 classes, but its hyper-parameters state"):
        load(stored_checkpoint)


def test_windows_are_those_of_the_authors_else_of_the_images(stored_checkpoint):
    arguments = stored_checkpoint["hyper_parameters"]
    for tiling, expected in (
        (None, (224, None)),
        ({"crop": 256, "stride": 208}, (256, 48)),
        ({"h_crop": 512, "w_crop": 512, "h_stride": 448, "w_stride": 448}, (512, 64)),
        # ^ as these parameters were called before
        ({"h_crop": 512, "w_crop": 256, "h_stride": 448, "w_stride": 448}, (224, None)),
        ({"crop": 250, "stride": 200}, (224, None)),
        ({"crop": 224, "stride": 56}, (224, 112)),
        # ^ two windows share half of a window at most
    ):
        arguments["tiled_inference_parameters"] = tiling
        settings = load(stored_checkpoint).settings
        assert (settings.window, settings.overlap) == expected
    arguments["tiled_inference_parameters"] = None
    arguments["model_args"]["backbone_img_size"] = 256
    position_tables = {
        key: torch.zeros(1, 256, 32)
        for key in stored_checkpoint["state_dict"]
        if key.endswith(".pos_emb")
    }
    stored_checkpoint["state_dict"] |= position_tables
    assert load(stored_checkpoint).settings.window == 256


def test_tensors_without_hyper_parameters_need_the_yaml_of_their_training(
    network, stored_checkpoint, tmp_path
):
    torch.save(stored_checkpoint["state_dict"], tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"does not describe its model.*\.yaml"):
        load(tmp_path / "a.pt")
    (tmp_path / "a.yaml").write_text(
        """
model:
  class_path: terratorch.tasks.SemanticSegmentationTask
  init_args:
    model_factory: EncoderDecoderFactory
    model_args:
      backbone: micro
      backbone_modalities: [S2L2A, S1GRD]
      num_classes: 3
      necks:
        - {name: SelectIndices, indices: [0, 1, 2, -1]}
        - {name: ReshapeTokensToImage}
        - {name: LearnedInterpolateToPyramidal}
      decoder: UNetDecoder
      decoder_channels: [16, 12, 8, 8]
"""
    )
    assert same_outputs(load(tmp_path / "a.pt", hyper_parameters=tmp_path / "a.yaml"), network)
    loading.write_state_dict(tmp_path / "a.safetensors", stored_checkpoint["state_dict"])
    args = {"model_args": ARGS}
    assert same_outputs(load(tmp_path / "a.safetensors", hyper_parameters=args), network)


def test_options_may_be_grouped_in_mappings(network, stored_checkpoint):
    args = {
        "backbone": "terratorch_micro",
        "backbone_kwargs": {"modalities": ["S2L2A", "S1GRD"], "pretrained": False},
        "decoder": "terratorch_UNetDecoder",
        "decoder_kwargs": {"channels": [16, 12, 8, 8]},
        "head_kwargs": {"dropout": 0.1, "num_classes": 3},
        # ^ TerraTorch adds the number of classes to the mapping that it stores
        "num_classes": 3,
        "necks": PYRAMID,
        "aux_decoders": None,
    }
    stored_checkpoint["hyper_parameters"]["model_args"] = args
    assert same_outputs(load(stored_checkpoint), network)
    args["decoder_channels"] = [16, 12, 8, 8]
    with pytest.raises(ModelError, match="either decoder_kwargs"):
        load(stored_checkpoint)


def test_band_lists_give_the_channels_in_their_order():
    encoder = model.backbone(SIZE, ["S2L2A", "S1GRD"], weights={"random": 0})
    encoder.select_bands({"S2L2A": ["B08", "B04", "B02"]})
    segmenter = loading.initialise(
        segmentation_model.assemble_model(
            encoder, 3, PYRAMID, decoder_options={"channels": [16, 12, 8, 8]}
        ),
        3,
    )
    inputs = random_inputs()
    inputs["S2L2A"] = inputs["S2L2A"][:, :3]
    with torch.inference_mode():
        expected = segmenter(inputs)
    for names, expected_bands in (
        (["NIR_BROAD", "RED", "BLUE"], ("B08", "B04", "B02")),
        (["NIR_BROAD", "RED", "SLOPE"], ("B08", "B04", "SLOPE")),
        # ^ the published class trains a separate channel for an unknown name
    ):
        loaded = load(as_stored(segmenter, {"backbone_bands": {"S2L2A": names}}))
        assert loaded.inputs["S2L2A"] == expected_bands
        with torch.inference_mode():
            assert torch.equal(loaded(inputs), expected)
    renamed = load(
        as_stored(segmenter, {"backbone_bands": {"S2L2A": ["a", "b", "c"]}}),
        bands={"S2L2A": ["B8A", "B04", "B02"]},
    )
    assert renamed.inputs["S2L2A"] == ("B8A", "B04", "B02")
    with pytest.raises(ModelError, match="3 channels, but 1 band names"):
        load(
            as_stored(segmenter, {"backbone_bands": {"S2L2A": ["a", "b", "c"]}}),
            bands={"S2L2A": "a"},
        )
    with pytest.raises(WeightsError, match=r"untok_sen2l2a@224\.proj\.weight \(32, 768\)"):
        load(as_stored(segmenter))
        # ^ no channels are selected if their number differs


def test_new_modalities_and_concatenation(stored_checkpoint):
    modalities = [{"SOIL": 5}, "S1GRD"]
    segmenter = loading.initialise(
        build_model(SIZE, modalities, 3, [RESHAPE], "FCNDecoder", {"channels": 8}, merge="concat"),
        5,
    )
    changes = {
        "backbone_modalities": modalities,
        "backbone_merge_method": "concat",
        "necks": [RESHAPE],
        "decoder": "FCNDecoder",
        "decoder_channels": 8,
    }
    content = as_stored(segmenter, changes)
    loaded = load(content)
    assert loaded.inputs == {"SOIL": ("1", "2", "3", "4", "5"), "S1GRD": ("VV", "VH")}
    inputs = {"SOIL": torch.randn(1, 5, 64, 64)}
    with torch.inference_mode():
        assert torch.equal(loaded(inputs), segmenter(inputs))
    del content["state_dict"]["model.encoder.missing_mod_token"]
    with pytest.raises(WeightsError, match="missing_mod_token"):
        load(content)
        # ^ it was trained: a new one would change the model


def test_a_linear_decoder_has_a_head_if_the_tensors_contain_one():
    for options, has_head in (
        ({"upsampling_size": 16, "num_classes": 3}, True),
        ({"upsampling_size": 16}, False),
    ):
        segmenter = whole_model(necks=[RESHAPE], decoder="LinearDecoder", decoder_options=options)
        assert any(key.startswith("head.") for key in segmenter.state_dict()) == has_head
        for decoder_arguments in ({"decoder_num_classes": 3}, {}):
            args = {key: value for key, value in ARGS.items() if key[:8] != "decoder_"}
            args |= {"necks": [RESHAPE], "decoder": "LinearDecoder", "decoder_upsampling_size": 16}
            content = as_stored(segmenter)
            content["hyper_parameters"]["model_args"] = args | decoder_arguments
            del args["head_dropout"]
            content["hyper_parameters"]["model_args"].pop("head_dropout")
            if has_head and not decoder_arguments:
                with pytest.raises(WeightsError, match=r"head\.head\.2"):
                    load(content)
            else:
                assert same_outputs(load(content), segmenter)


TIM_SIZE = SIZE | {"depth": 2, "decoder_depth": 1}
READ = [{"name": "SelectIndices", "indices": [-1]}, RESHAPE]
TIM = {"backbone": "micro_tim", "necks": READ, "decoder_channels": [8], "backbone_tim_temps": 1.0}


def build_tim_segmenter(**options):
    encoder = model.tim(TIM_SIZE, ["S2L2A", "S1GRD"], **options)
    segmenter = segmentation_model.assemble_model(
        encoder, 3, READ, decoder_options={"channels": [8]}
    )
    return loading.initialise(segmenter, 7)


@pytest.mark.parametrize("options", [{}, {"chained": False}, {"merge": "concat"}])
def test_a_tim_backbone_is_loaded_with_its_sampler(options):
    segmenter = build_tim_segmenter(**options)
    merge = {"backbone_merge_method": options.get("merge", "mean")}
    content = as_stored(segmenter, TIM | merge)
    unused = "model.encoder.tokenizer.tok_lulc@224.encoder.norm_mlp.weight"
    content["state_dict"][unused] = torch.ones(3)
    loaded = model.fine_tuned(content, config=TIM_SIZE)
    assert same_outputs(loaded, segmenter)
    assert same_outputs(loaded, loaded)
    # ^ the published class samples anew at each call
    assert list(loaded.inputs) == ["S2L2A", "S1GRD"]
    sampler_keys = [key for key in content["state_dict"] if "sampler.model.decoder.0" in key]
    for key in sampler_keys[:2]:
        del content["state_dict"][key]
    with pytest.raises(WeightsError) as error:
        model.fine_tuned(content, config=TIM_SIZE)
    assert sampler_keys[0].removeprefix("model.") in str(error.value)


def test_embeddings_of_encoder_and_sampler_may_differ():
    content = as_stored(build_tim_segmenter(), TIM)
    key = "encoder_embeddings.untok_sen2l2a@224.mod_emb"
    before = content["state_dict"][f"model.encoder.{key}"]
    trained = before + 1
    content["state_dict"][f"model.encoder.{key}"] = trained
    loaded = model.fine_tuned(content, config=TIM_SIZE).state_dict()
    assert torch.equal(loaded[f"encoder.{key}"], trained)
    assert torch.equal(loaded[f"encoder.sampler.model.{key}"], before)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"backbone_tim_decoding_steps": 2}, "tim_decoding_steps 2"),
        ({"backbone_tim_modalities": "LULC"}, "list of names"),
        ({"backbone_tim_cfg": 2}, "tim_cfg"),
        ({"backbone_bands": {"S1GRD": ["VV"]}}, "all bands"),
        ({"backbone_modalities": [{"NEW": 2}, "S1GRD"]}, "known modalities only"),
        ({"backbone": "micro", "backbone_tim_modalities": ["LULC"]}, "tim_modalities"),
    ],
)
def test_unsupported_tim_options_are_refused(option, message):
    with pytest.raises(ModelError, match=message):
        model.fine_tuned(as_stored(build_tim_segmenter(), TIM | option), config=TIM_SIZE)


def test_a_tokenizer_in_the_checkpoint_encodes_rasters_of_its_modality():
    neck_options = [{"name": "SelectIndices", "indices": [0]}, RESHAPE]
    with torch.device("meta"):
        tokenizers = {"LULC": None}
        encoder = model.backbone(SIZE, ["S1GRD", "LULC"], tokenizers=tokenizers)
        segmenter = segmentation_model.assemble_model(encoder, 3, neck_options, "IdentityDecoder")
        args = {"backbone_modalities": ["S1GRD", "LULC"], "necks": neck_options}
        content = as_stored(segmenter, args | {"decoder": "IdentityDecoder"})
        del content["hyper_parameters"]["model_args"]["decoder_channels"]
        tokenizer_keys = [key for key in content["state_dict"] if ".tokenizer." in key]
        decoder = "model.encoder.tokenizer.tok_lulc@224.decoder.out_proj.weight"
        content["state_dict"][decoder] = torch.ones(2)
        loaded = load(content)
        assert tokenizer_keys
        assert loaded.encoder.tokenizer.get_raster_tokenizer("tok_lulc@224")
        assert loaded.inputs == {"S1GRD": ("VV", "VH"), "LULC": ()}
        del content["state_dict"]["model.encoder.tokenizer.tok_lulc@224.quant_proj.weight"]
        with pytest.raises(WeightsError, match=r"tok_lulc@224\.quant_proj\.weight"):
            load(content)
        for key in (*tokenizer_keys, decoder):
            content["state_dict"].pop(key, None)
        assert load(content).encoder.tokenizer.get_raster_tokenizer("tok_lulc@224") is None


def test_hyper_parameters_are_parsed_into_parts():
    result = hyperparameters.parse_hyper_parameters(
        hyperparameters.read_task_arguments({"model_args": ARGS})
    )
    assert result.backbone == "micro"
    assert result.decoder_options == {"channels": [16, 12, 8, 8]}
    assert result.head_options == {"dropout": 0.1}
    assert result.rescale is True
    assert hyperparameters.to_plain_values({"a": (1, {2.5}), "b": object()}) == {
        "a": [1, [2.5]],
        "b": "<object>",
    }
