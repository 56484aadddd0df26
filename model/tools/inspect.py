"""What a file of weights is: told by its keys and shapes, and by the models that take it.

Models are built on the meta device for this, where they have shapes but cost no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model import factory
from model.errors import ModelError, WeightsError, listed
from model.predictor import cards, registry
from model.terramind import config
from model.terramind.modalities import KEYS, TOKENS, Modality
from model.terramind.tokenizers.config import CHANNELS, PREFIX
from model.terramind.tokenizers.coordinates import HUB_NAME, coords_tokenizer
from model.terramind.tokenizers.tokenizer import Part, tokenizer
from model.terratorch.checkpoint import fine_tuned
from model.weights import contents, hub, loading
from model.weights.contents import Contents, Input
from model.weights.loading import Misfit, State

_VARIANTS = ("", "_generate", "_tim")

_HALVES: tuple[Part, ...] = ("encoder", "decoder")

TERRATORCH = "terratorch"
"""The name under which a checkpoint of TerraTorch fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A file, held against the models that could take it."""

    path: Path
    sha256: str
    contents: Contents
    fits: tuple[str, ...]
    """Names of the models that take it as it is."""

    nearest: str | None
    """The model that it was held against: as asked, or the one that it comes nearest to."""

    misfit: Misfit
    """In what it differs from that model."""

    @property
    def ok(self) -> bool:
        """Whether it can be used."""
        return not self.misfit and bool(self.fits) and not self.contents.broken

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as the command prints them."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "bytes": self.path.stat().st_size,
            **self.contents.to_mapping(),
            "ok": self.ok,
            "fits": list(self.fits),
            "nearest": self.nearest,
            "missing": list(self.misfit.missing),
            "unexpected": list(self.misfit.unexpected),
            "differing": list(self.misfit.differing),
        }


def check(path: str | Path, name: str | None = None) -> Report:
    """Tell what a file is, and which model takes it, or why the asked one does not.

    Args:
        path: of the file.
        name: the model that it should fit; default whichever it does.

    Raises:
        WeightsError: the file cannot be read. ModelError: there is no model of that name.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _vocabulary(path, name)
    held, tensors = read(path)
    names = candidates(held, path) if name is None else (name,)
    found = {one: _misfit(one, path, held, tensors) for one in names}
    fits = tuple(one for one, misfit in found.items() if not misfit)
    nearest = min(found, key=lambda one: _size(found[one]), default=None)
    return Report(
        path=path,
        sha256=loading.digest_of_file(path),
        contents=held,
        fits=fits,
        nearest=nearest,
        misfit=Misfit() if nearest is None else found[nearest],
    )


def read(path: str | Path) -> tuple[Contents, dict[str, Tensor]]:
    """Read a file and tell what it holds.

    Raises:
        WeightsError: absent, damaged, unsafe, or it holds no tensors.
    """
    try:
        tensors = loading.read(path)
    except WeightsError:
        if Path(path).suffix != ".ckpt":
            raise
        tensors = fine_tuned(path).state_dict()
        # ^ which knows one object that a training may have put beside the tensors
    return contents.of(tensors), tensors


def candidates(found: Contents, path: Path) -> tuple[str, ...]:
    """Return the names of the models that a file could be meant for."""
    every = {name: config.architecture(name).dim for name in config.ARCHITECTURES}
    sizes = tuple(name for name, dim in every.items() if dim == found.width) or tuple(every)
    if found.kind == "encoder":
        return sizes
    if found.kind == "encoder-decoder":
        return tuple(name + variant for name in sizes for variant in _VARIANTS)
    if found.kind in ("generator", "tim"):
        variant = "_generate" if found.kind == "generator" else "_tim"
        return tuple(name + variant for name in sizes)
    if found.kind == "tokenizer":
        given = {entry.size for entry in found.inputs}
        alike = [name for name, count in CHANNELS.items() if count in given] or list(CHANNELS)
        return tuple(PREFIX + modality.lower() for modality in alike)
    if found.kind == "segmenter":
        card = path.with_name("card.json")
        return (str(card), registry.DEMO) if card.is_file() else (registry.DEMO,)
    return (TERRATORCH,) if found.kind == "terratorch" else ()


def blank(name: str, found: Contents) -> nn.Module:
    """Build a model without memory, for the modalities that a file holds.

    Raises:
        ModelError: no such model, or the file holds no modality that it could take.
    """
    with torch.device("meta"):
        if name.startswith(PREFIX) and name != HUB_NAME:
            return tokenizer(name, part=_half(found))
        if name == registry.DEMO or config.is_file_name(name):
            return _of_card(
                cards.read(registry.DEMO_CARD if name == registry.DEMO else name), found
            )
        base = next((one for one in config.ARCHITECTURES if name.startswith(one)), "")
        variant = name.removeprefix(base)
        if base and variant in _VARIANTS:
            return _family(name, variant, found)
    raise ModelError(f"unknown model {name!r}; known are {listed((registry.DEMO, *hub.HUB), 30)}")


def _of_card(card: cards.Card, found: Contents) -> nn.Module:
    """Build what a job would build of a card for such a file."""
    if card.tokenizer is None or found.kind == "segmenter":
        return registry.build(card)
    if found.kind == "encoder":
        return _family(card.architecture, "", found)
    if found.kind == "tokenizer":
        name = candidates(found, Path())[0].removeprefix(PREFIX).upper()
        return tokenizer({"modality": name, **card.tokenizer}, part=_half(found))
    return _family(card.architecture, "_tim" if found.kind == "tim" else "_generate", found)


def _half(found: Contents) -> Part:
    halves: list[Part] = [one for one in _HALVES if one in found.parts]
    return halves[0] if len(halves) == 1 else "both"


def _family(name: str | config.Architecture, variant: str, found: Contents) -> nn.Module:
    wanted = [_declared(entry) for entry in found.inputs if _taken(entry)]
    if not wanted:
        told = name if isinstance(name, str) else "the card"
        raise ModelError(f"no embedding of an input of {told} is in the file")
    if not variant:
        return factory.backbone(name, wanted, image_size=found.image_size)
    pixels = [entry.name for entry in found.inputs if not entry.tokens and entry.key in KEYS]
    made = [entry.name for entry in found.outputs if entry.key in KEYS]
    if not pixels or not made:
        raise ModelError(
            "generation needs pixels to start from, and a decoder: the file lacks these"
        )
    if variant == "_generate":
        return factory.generator(name, pixels, made, tokenizers={})
    thoughts = made if found.kind == "tim" or "LULC" not in made else ["LULC"]
    return factory.tim(name, pixels, thoughts, image_size=found.image_size)


def _misfit(name: str, path: Path, found: Contents, tensors: State) -> Misfit:
    if name == TERRATORCH:
        return _misfit_of_checkpoint(path)
    if config.is_file_name(name) and found.kind == "terratorch":
        return _misfit_of_checkpoint(path, name)
    if name not in (registry.DEMO, *hub.HUB) and not config.is_file_name(name):
        blank(name, found)
        # ^ raises, and says which names there are
    try:
        module = blank(name, found)
    except WeightsError:
        raise
    except ModelError as error:
        return Misfit(differing=(str(error),))
    return loading.compare(module, tensors)[1]


def _misfit_of_checkpoint(path: Path, card: str | None = None) -> Misfit:
    try:
        fine_tuned(path, card)
    except ModelError as error:
        return Misfit(differing=(str(error),))
    return Misfit()


def _size(misfit: Misfit) -> int:
    return len(misfit.missing) + len(misfit.unexpected) + len(misfit.differing)


def _taken(entry: Input) -> bool:
    """Tell an input of the backbone from what only chained generation reads."""
    return not entry.tokens or entry.name in TOKENS


def _declared(entry: Input) -> str | dict[str, int]:
    is_known = isinstance(KEYS.get(entry.key), Modality) or entry.tokens
    return entry.name if is_known else {entry.key: entry.size}


def _vocabulary(path: Path, name: str | None) -> Report:
    if name not in (None, HUB_NAME):
        raise ModelError(f"{path} could be a vocabulary only: {HUB_NAME}, not {name}")
    if not path.is_file():
        raise WeightsError(f"the vocabulary {path} does not exist")
    try:
        coords_tokenizer(path)
        misfit = Misfit()
    except WeightsError as error:
        misfit = Misfit(differing=(str(error),))
    return Report(
        path=path,
        sha256=loading.digest_of_file(path),
        contents=Contents(kind="unknown" if misfit else "vocabulary", parts={}, dtypes={}),
        fits=() if misfit else (HUB_NAME,),
        nearest=HUB_NAME,
        misfit=misfit,
    )
