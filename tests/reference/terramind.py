"""TerraTorch's TerraMind modules, imported without the rest of TerraTorch.

Its packages import Lightning, torchgeo, timm and more from their `__init__`. Here those packages
are present as empty packages, so that only the requested modules are imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch

BARE = (
    "terratorch",
    "terratorch.models",
    "terratorch.models.backbones",
    "terratorch.models.backbones.terramind",
    "terratorch.registry",
    "terratorch.tasks",
)
UNUSED = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
PLACE = "terratorch.models.backbones.terramind"


def installed() -> bool:
    """Return whether TerraTorch is installed, without importing it."""
    return "terratorch" in sys.modules or importlib.util.find_spec("terratorch") is not None


@cache
def register() -> types.ModuleType:
    """Return the module with TerraTorch's builders (`terramind_v1_base`, ...)."""
    _stand_in()
    return importlib.import_module(f"{PLACE}.model.terramind_register")


def part(name: str) -> types.ModuleType:
    """Return one of TerraTorch's TerraMind modules, such as `tokenizer.tokenizer_register`."""
    register()
    return importlib.import_module(f"{PLACE}.{name}")


@cache
def tiling() -> types.ModuleType:
    """Return TerraTorch's module of tiled inference."""
    register()
    _add("terratorch.models.utils", None)
    sys.modules["terratorch.models.utils"].pad_images = None
    # ^ imported by it and never called; the real module needs torchvision
    return importlib.import_module("terratorch.tasks.tiled_inference")


@cache
def complete_torchvision() -> object:
    """Define the operators that a torchvision for GPUs lacks beside a torch for CPUs.

    Returns:
        What keeps the definitions alive.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


def _stand_in() -> None:
    spec = importlib.util.find_spec("terratorch")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("no terratorch here: run `make reference`")
    root = Path(spec.submodule_search_locations[0])
    for name in BARE:
        _add(name, root.joinpath(*name.split(".")[1:]))
    registry = importlib.import_module("terratorch.registry.registry")
    vars(sys.modules["terratorch.registry"]).update(
        {name: value for name, value in vars(registry).items() if not name.startswith("_")}
    )
    if importlib.util.find_spec("torchvision") is None:
        importlib.import_module("diffusers")
        # ^ first, because it would find the empty torchvision
        for name in UNUSED:
            _add(name, None)
        # ^ imported by a helper that is never called
    else:
        complete_torchvision()


def _add(name: str, folder: Path | None) -> None:
    spec = ModuleSpec(name, loader=None, is_package=True)
    if folder is not None:
        spec.submodule_search_locations = [str(folder)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
