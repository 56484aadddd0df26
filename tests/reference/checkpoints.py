"""Checkpoints of TerraTorch's own tasks, with the logits that they give.

    python -m tests.reference.checkpoints FOLDER [NAME …]          write NAME.ckpt and NAME.npz
    python -m tests.reference.checkpoints FOLDER NAME --run CODE   run CODE with the task first

Run in a process of its own: other tests of this folder import TerraTorch without its tasks. Weights
are random; all are moved from their initial values, as those of adapters are zero at first.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from tests.reference.terramind import complete_torchvision

HLS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
SELECT = {"name": "SelectIndices", "indices": [2, 5, 8, 11]}
RESHAPE = {"name": "ReshapeTokensToImage", "remove_cls_token": False}
NECKS = [SELECT, RESHAPE, {"name": "LearnedInterpolateToPyramidal"}]
CHANNELS = {"S2L2A": 12, "S2L1C": 13, "S1GRD": 2, "S1RTC": 2, "DEM": 1}


def _args(*modalities: str, **changes: Any) -> dict[str, Any]:
    args = {
        "backbone": "terramind_v1_tiny",
        "backbone_pretrained": False,
        "backbone_modalities": list(modalities or ("S2L2A",)),
        "necks": NECKS,
        "decoder": "UNetDecoder",
        "decoder_channels": [64, 32, 16, 16],
        "num_classes": 3,
    } | changes
    return {key: value for key, value in args.items() if value is not ...}


def _lora(*targets: str, method: str = "LORA", split: bool = False, **options: Any) -> Any:
    config = {"method": method, "peft_config_kwargs": {"target_modules": list(targets), **options}}
    return config | ({"replace_qkv": "qkv"} if split else {})


_FCN = {"decoder": "FCNDecoder", "decoder_channels": 16, "decoder_num_convs": 4}
_KWARGS = {
    "backbone_kwargs": {"pretrained": False, "modalities": ["S2L2A"]},
    "decoder_kwargs": {"channels": [64, 32, 16, 16]},
    "head_kwargs": {"dropout": 0.1},
}

LOADED = MappingProxyType(
    {
        "unet": _args(head_dropout=0.1),
        "upernet_defaults": _args(decoder="UperNetDecoder", decoder_channels=...),
        "fcn_pick": _args(necks=[{**SELECT, "indices": [-1]}, RESHAPE], **_FCN),
        "old_order_of_necks": _args(necks=[RESHAPE, SELECT, NECKS[2]]),
        "hls6": _args(backbone_bands={"S2L2A": HLS}),
        "enum_bands": _args(backbone_bands={"S2L2A": HLS[:3]}),
        "l1c_grd": _args("S2L1C", "S1GRD"),
        "max": _args("S2L2A", "DEM", backbone_merge_method="max"),
        "concat": _args("S2L2A", "S1RTC", backbone_merge_method="concat"),
        "img256": _args(backbone_img_size=256),
        "kwargs": _args(
            backbone_pretrained=..., backbone_modalities=..., decoder_channels=..., **_KWARGS
        ),
        "rescale_without_effect": _args(necks=[RESHAPE], rescale=False, **_FCN),
        "explicit_defaults": _args(
            backbone_use_temporal=False,
            backbone_temporal_pooling="mean",
            backbone_temporal_n_timestamps=None,
            backbone_modality_drop_rate=0.0,
            decoder_attention_type=None,
            head_channel_list=None,
            image_size_out=None,
            peft_config=None,
            rescale=True,
        ),
        "lora_split": _args(
            peft_config=_lora("qkv.q_linear", "qkv.v_linear", split=True, r=8, lora_alpha=16)
        ),
        "lora_patterns": _args(
            peft_config=_lora(
                *("attn.qkv", "attn.proj", "mlp.fc1"),
                r=16,
                lora_alpha=32,
                use_rslora=True,
                bias="all",
                alpha_pattern={"attn.proj": 4},
                rank_pattern={"attn.proj": 2},
            )
        ),
        "lora_lengths": _args(
            peft_config=_lora("attn.qkv", r=4, use_dora=True, modules_to_save=["encoder_norm"])
        ),
        "compiled": _args(),
    }
)
"""Variants whose logits are compared: name → `model_args`."""

UNMERGED = {"ia3": _args(peft_config=_lora("attn.qkv", method="IA3", feedforward_modules=[]))}
"""Variants with adapters that have to be merged where they were trained."""

COARSE = {"no_rescaling": _args(rescale=False)}
"""Variants whose logits are coarser than pixels."""

VARIANTS = {**LOADED, **UNMERGED, **COARSE}


def build_task(name: str) -> Any:
    """Return TerraTorch's task of a variant."""
    complete_torchvision()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from terratorch.datasets.utils import HLSBands
    from terratorch.models.model import AuxiliaryHead
    from terratorch.tasks import SemanticSegmentationTask

    torch.set_float32_matmul_precision("highest")
    # ^ importing TerraTorch's Clay backbone sets "medium", which is bfloat16 on processors with AMX
    args, options = dict(VARIANTS[name]), {}
    if name == "enum_bands":
        args["backbone_bands"] = {"S2L2A": [HLSBands(band) for band in HLS[:3]]}
    if name == "unet":
        auxiliary = {"decoder_channels": 16, "decoder_num_convs": 1, "decoder_in_index": -1}
        options = {
            "aux_heads": [AuxiliaryHead("aux", "FCNDecoder", auxiliary)],
            "aux_loss": {"aux": 0.4},
            "class_weights": [1.0, 2.0, 0.5],
            "class_names": ["Others", "Burned", "Clouds"],
        }
    torch.manual_seed(0)
    task = SemanticSegmentationTask(
        model_args=args, model_factory="EncoderDecoderFactory", plot_on_val=False, **options
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return task.eval()


def make_inputs(args: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return standardised inputs of a variant."""
    generator = torch.Generator().manual_seed(1)
    size = args.get("backbone_img_size", 224)
    bands = args.get("backbone_bands") or {}
    modalities = args.get("backbone_modalities") or args["backbone_kwargs"]["modalities"]
    return {
        name: torch.randn(
            *(2, len(bands.get(name, ())) or CHANNELS[name], size, size), generator=generator
        )
        for name in modalities
    }


def write(folder: Path, name: str, code: str | None = None) -> None:
    """Write a checkpoint of a variant, and its inputs and logits.

    Args:
        folder: where to.
        name: of the variant.
        code: Python that is run with the task instead of saving it.
    """
    task, inputs = build_task(name), make_inputs(VARIANTS[name])
    with torch.no_grad():
        logits = task(dict(inputs)).output
    np.savez(folder / f"{name}.npz", out=logits, **{f"in_{k}": v for k, v in inputs.items()})
    if name == "compiled":
        task.model = torch.compile(task.model, backend="eager")
    if code is not None:
        os.chdir(folder)
        exec(code, {"task": task, "torch": torch})
        return
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "hparams_name": "kwargs",
    }
    torch.save(content, folder / f"{name}.ckpt")


def main(arguments: list[str]) -> None:
    """Write the variants that are named, or all."""
    warnings.simplefilter("ignore")
    folder, *names = arguments
    if "--run" in names:
        name, _, code = names
        write(Path(folder), name, code)
        return
    for name in names or VARIANTS:
        write(Path(folder), name)


if __name__ == "__main__":
    main(sys.argv[1:])
