"""The official examples of fine-tuning TerraMind with TerraTorch, in as few keys as describe them.

Written from the keys of the configurations in IBM's repository `terramind`: burn scars (HLS),
Sen1Floods11 with the tiny, small and base model and with Thinking in Modalities, and crops of
several dates.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import yaml

import model
from model.terratorch import segmentation_model
from model.weights import loading

HLS_BANDS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
NECKS = [
    {"name": "SelectIndices", "indices": [2, 5, 8, 11]},
    {"name": "ReshapeTokensToImage", "remove_cls_token": False},
    {"name": "LearnedInterpolateToPyramidal"},
]
L1C_MEANS = [
    *(2357.089, 2137.385, 2018.788, 2082.986, 2295.651, 2854.537, 3122.849, 3040.56),
    *(3306.481, 1473.847, 506.07, 2472.825, 1838.929),
]
L1C_STDS = [
    *(1624.683, 1675.806, 1557.708, 1833.702, 1823.738, 1733.977, 1732.131, 1679.732),
    *(1727.26, 1024.687, 442.165, 1331.411, 1160.419),
]
L2A_MEANS = [
    *(1390.458, 1503.317, 1718.197, 1853.91, 2199.1, 2779.975, 2987.011, 3083.234),
    *(3132.22, 3162.988, 2424.884, 1857.648),
]
L2A_STDS = [
    *(2106.761, 2141.107, 2038.973, 2134.138, 2085.321, 1889.926, 1820.257, 1871.918),
    *(1753.829, 1797.379, 1434.261, 1334.311),
]
CROPS = [
    *("Natural Vegetation", "Forest", "Corn", "Soybeans", "Wetlands", "Developed / Barren"),
    *("Open Water", "Winter Wheat", "Alfalfa", "Fallow / Idle Cropland", "Cotton", "Sorghum"),
    "Other",
]


def _training(
    data: dict[str, Any], model_args: dict[str, Any], classes: list[str], **task: Any
) -> dict[str, Any]:
    """Return the configuration of a training with a U-Net."""
    channels = [256, 128, 64, 32] if "base" not in model_args["backbone"] else [512, 256, 128, 64]
    return {
        "data": data,
        "model": {
            "class_path": "terratorch.tasks.SemanticSegmentationTask",
            "init_args": {
                "model_factory": "EncoderDecoderFactory",
                "model_args": {
                    "backbone_pretrained": True,
                    **model_args,
                    "necks": copy.deepcopy(NECKS),
                    "decoder": "UNetDecoder",
                    "decoder_channels": channels,
                    "head_dropout": 0.1,
                    "num_classes": len(classes),
                },
                "ignore_index": -1,
                "freeze_backbone": False,
                "freeze_decoder": False,
                "class_names": classes,
                **task,
            },
        },
    }


def _burn_scars() -> dict[str, Any]:
    data = {
        "class_path": "GenericNonGeoSegmentationDataModule",
        "init_args": {
            "dataset_bands": HLS_BANDS,
            "rgb_indices": [2, 1, 0],
            "means": [0.0333497, 0.0570119, 0.0588975, 0.2323245, 0.1972854, 0.1194491],
            "stds": [0.0226914, 0.0268076, 0.0400411, 0.0779173, 0.0870874, 0.0724198],
            "num_classes": 2,
            "no_data_replace": 0,
            "no_label_replace": -1,
        },
    }
    model_args = {
        "backbone": "terramind_v1_base",
        "backbone_modalities": ["S2L2A"],
        "backbone_bands": {"S2L2A": HLS_BANDS},
    }
    return _training(data, model_args, ["Others", "Burned"], loss="dice")


def _sen1floods11(backbone: str, **model_args: Any) -> dict[str, Any]:
    data = {
        "class_path": "terratorch.datamodules.GenericMultiModalDataModule",
        "init_args": {
            "task": "segmentation",
            "modalities": ["S2L1C", "S1GRD"],
            "rgb_modality": "S2L1C",
            "no_label_replace": -1,
            "no_data_replace": 0,
            "num_classes": 2,
            "means": {
                "S2L1C": L1C_MEANS,
                "S2L2A": L2A_MEANS,
                "S1GRD": [-12.599, -20.293],
                "S1RTC": [-10.93, -17.329],
                "RGB": [87.271, 80.931, 66.667],
                "DEM": [670.665],
            },
            "stds": {
                "S2L1C": L1C_STDS,
                "S2L2A": L2A_STDS,
                "S1GRD": [5.195, 5.89],
                "S1RTC": [4.391, 4.459],
                "RGB": [58.767, 47.663, 42.631],
                "DEM": [951.272],
            },
        },
    }
    model_args = {
        "backbone": backbone,
        "backbone_modalities": ["S2L1C", "S1GRD"],
        "backbone_merge_method": "mean",
        **model_args,
    }
    return _training(data, model_args, ["Others", "Flood"], loss="dice")


def _crops() -> dict[str, Any]:
    data = {
        "class_path": "terratorch.datamodules.MultiTemporalCropClassificationDataModule",
        "init_args": {
            "data_root": "multi-temporal-crop-classification-subset",
            "expand_temporal_dimension": True,
            "use_metadata": False,
            "reduce_zero_label": True,
        },
    }
    model_args = {
        "backbone": "terramind_v1_base",
        "backbone_modalities": ["S2L2A"],
        "backbone_bands": {"S2L2A": HLS_BANDS},
        "backbone_use_temporal": True,
        "backbone_temporal_pooling": "concat",
        "backbone_temporal_n_timestamps": 3,
    }
    return _training(data, model_args, CROPS, loss="ce")


OFFICIAL_TRAININGS = {
    "burn_scars": _burn_scars(),
    "sen1floods11_tiny": _sen1floods11("terramind_v1_tiny"),
    "sen1floods11_small": _sen1floods11("terramind_v1_small"),
    "sen1floods11_base": _sen1floods11("terramind_v1_base"),
    "sen1floods11_tim": _sen1floods11("terramind_v1_base_tim", backbone_tim_modalities=["LULC"]),
    "crops": _crops(),
}

MICRO = {"dim": 32, "heads": 2, "depth": 12, "decoder_depth": 1, "gated": False, "bias": True}
"""A backbone with the layers that the necks read, but narrow."""

MICRO_CHANNELS = [16, 12, 8, 8]


def model_args_of(training: dict[str, Any]) -> dict[str, Any]:
    """Return the `model_args` of a training."""
    return dict(training["model"]["init_args"]["model_args"])


def write_training(folder: Path, training: dict[str, Any], *, seed: int = 1) -> dict[str, Any]:
    """Write the configuration of a training, and a small checkpoint as it would leave.

    The checkpoint has random weights and a narrow model; all else is as in the training.

    Returns:
        The section ``model`` of a job that maps with it.
    """
    args = model_args_of(training) | {"decoder_channels": MICRO_CHANNELS}
    encoder = (
        model.tim(
            MICRO, args["backbone_modalities"], args["backbone_tim_modalities"], chained=False
        )
        if "backbone_tim_modalities" in args
        else model.backbone(
            MICRO, args["backbone_modalities"], bands=args.get("backbone_bands"), merge="mean"
        )
    )
    network = segmentation_model.assemble_model(
        encoder,
        args["num_classes"],
        args["necks"],
        args["decoder"],
        {"channels": args["decoder_channels"]},
        {"dropout": args["head_dropout"]},
    )
    state = loading.initialise(network, seed).state_dict()
    hyper_parameters = {**training["model"]["init_args"], "task": "segmentation"}
    torch.save(
        {
            "state_dict": {f"model.{key}": value for key, value in state.items()},
            "hyper_parameters": hyper_parameters | {"model_args": args},
        },
        folder / "tuned.ckpt",
    )
    (folder / "fit.yaml").write_text(yaml.safe_dump(training, sort_keys=False))
    (folder / "micro.yaml").write_text(yaml.safe_dump({"architecture": MICRO}))
    return {"name": "micro.yaml", "checkpoint": "tuned.ckpt", "stats": "fit.yaml"}
