"""TerraTorch's TerraMind modules, imported without the rest of TerraTorch.

Its packages import Lightning, torchgeo, timm and more from their `__init__`. Here those packages
are present as bare folders, so that only the modules that are asked for run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

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
    """Tell whether TerraTorch is there, without importing it."""
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
    # ^ imported by it and called nowhere; the real module wants torchvision
    return importlib.import_module("terratorch.tasks.tiled_inference")


def _stand_in() -> None:
    found = importlib.util.find_spec("terratorch")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("no terratorch here: run `make reference`")
    root = Path(found.submodule_search_locations[0])
    for name in BARE:
        _add(name, root.joinpath(*name.split(".")[1:]))
    registry = importlib.import_module("terratorch.registry.registry")
    vars(sys.modules["terratorch.registry"]).update(
        {name: value for name, value in vars(registry).items() if not name.startswith("_")}
    )
    if importlib.util.find_spec("torchvision") is None:
        importlib.import_module("diffusers")
        # ^ first: it looks for torchvision and would find the empty one
        for name in UNUSED:
            _add(name, None)
        # ^ a helper that nothing calls imports them


def _add(name: str, folder: Path | None) -> None:
    spec = ModuleSpec(name, loader=None, is_package=True)
    if folder is not None:
        spec.submodule_search_locations = [str(folder)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
