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
from model.errors import ModelError, WeightsError, join_names
from model.predictor import cards, registry
from model.terramind import config
from model.terramind.modalities import MODALITIES_BY_KEY, TOKEN_MODALITIES, RasterModality
from model.terramind.tokenizers.config import COORDS_NAME, NAME_PREFIX, RASTER_CHANNELS
from model.terramind.tokenizers.tokenizer import TokenizerPart
from model.terratorch.checkpoint import fine_tuned
from model.tokenizer_loading import coords_tokenizer, tokenizer
from model.weights import contents, hub, loading
from model.weights.contents import EmbeddedModality, WeightsContents
from model.weights.loading import StateDict, StateDictMismatch

_VARIANT_SUFFIXES = ("", "_generate", "_tim")

_TOKENIZER_PARTS: tuple[TokenizerPart, ...] = ("encoder", "decoder")

TERRATORCH = "terratorch"
"""The name under which a checkpoint of TerraTorch fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInspection:
    """A file, held against the models that could take it."""

    path: Path
    sha256: str
    contents: WeightsContents
    fits: tuple[str, ...]
    """Names of the models that take it as it is."""

    nearest_model: str | None
    """The model that it was held against: as asked, or the one that it comes nearest to."""

    mismatch: StateDictMismatch
    """In what it differs from that model."""

    @property
    def is_usable(self) -> bool:
        """Whether it can be used."""
        return not self.mismatch and bool(self.fits) and not self.contents.non_finite_keys

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as the command prints them."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "bytes": self.path.stat().st_size,
            **self.contents.to_mapping(),
            "ok": self.is_usable,
            "fits": list(self.fits),
            "nearest": self.nearest_model,
            "missing": list(self.mismatch.missing),
            "unexpected": list(self.mismatch.unexpected),
            "differing": list(self.mismatch.mismatched),
        }


def inspect_file(path: str | Path, name: str | None = None) -> WeightsInspection:
    """Tell what a file is, and which model takes it, or why the asked one does not.

    Args:
        path: of the file.
        name: the model that it should fit; default whichever it does.

    Raises:
        WeightsError: the file cannot be read. ModelError: there is no model of that name.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _inspect_vocabulary(path, name)
    held, tensors = read_contents(path)
    names = list_candidate_models(held, path) if name is None else (name,)
    found = {one: _compare_with_model(one, path, held, tensors) for one in names}
    fits = tuple(one for one, misfit in found.items() if not misfit)
    nearest = min(found, key=lambda one: _count_differences(found[one]), default=None)
    return WeightsInspection(
        path=path,
        sha256=loading.digest_of_file(path),
        contents=held,
        fits=fits,
        nearest_model=nearest,
        mismatch=StateDictMismatch() if nearest is None else found[nearest],
    )


def read_contents(path: str | Path) -> tuple[WeightsContents, dict[str, Tensor]]:
    """Read a file and tell what it holds.

    Raises:
        WeightsError: absent, damaged, unsafe, or it holds no tensors.
    """
    try:
        tensors = loading.read_state_dict(path)
    except WeightsError:
        if Path(path).suffix != ".ckpt":
            raise
        tensors = fine_tuned(path).state_dict()
        # ^ which knows one object that a training may have put beside the tensors
    return contents.inspect_state_dict(tensors), tensors


def list_candidate_models(file_contents: WeightsContents, path: Path) -> tuple[str, ...]:
    """Return the names of the models that a file could be meant for."""
    every = {name: config.resolve_architecture(name).dim for name in config.ARCHITECTURES}
    sizes = tuple(name for name, dim in every.items() if dim == file_contents.width) or tuple(every)
    if file_contents.kind == "encoder":
        return sizes
    if file_contents.kind == "encoder-decoder":
        return tuple(name + variant for name in sizes for variant in _VARIANT_SUFFIXES)
    if file_contents.kind in ("generator", "tim"):
        variant = "_generate" if file_contents.kind == "generator" else "_tim"
        return tuple(name + variant for name in sizes)
    if file_contents.kind == "tokenizer":
        given = {entry.size for entry in file_contents.inputs}
        alike = [name for name, count in RASTER_CHANNELS.items() if count in given] or list(
            RASTER_CHANNELS
        )
        return tuple(NAME_PREFIX + modality.lower() for modality in alike)
    if file_contents.kind == "segmenter":
        card = path.with_name("card.json")
        return (str(card), registry.DEMO) if card.is_file() else (registry.DEMO,)
    return (TERRATORCH,) if file_contents.kind == "terratorch" else ()


def build_meta_model(name: str, file_contents: WeightsContents) -> nn.Module:
    """Build a model without memory, for the modalities that a file holds.

    Raises:
        ModelError: no such model, or the file holds no modality that it could take.
    """
    with torch.device("meta"):
        if name.startswith(NAME_PREFIX) and name != COORDS_NAME:
            return tokenizer(name, part=_find_tokenizer_part(file_contents))
        if name == registry.DEMO or config.is_config_file(name):
            return _build_from_card(
                cards.read(registry.DEMO_CARD_PATH if name == registry.DEMO else name),
                file_contents,
            )
        base = next((one for one in config.ARCHITECTURES if name.startswith(one)), "")
        variant = name.removeprefix(base)
        if base and variant in _VARIANT_SUFFIXES:
            return _build_terramind_model(name, variant, file_contents)
    raise ModelError(
        f"unknown model {name!r}; known are {join_names((registry.DEMO, *hub.OFFICIAL_FILES), 30)}"
    )


def _build_from_card(card: cards.Card, found: WeightsContents) -> nn.Module:
    """Build what a job would build of a card for such a file."""
    if card.tokenizer is None or found.kind == "segmenter":
        return registry.build_segmenter(card)
    if found.kind == "encoder":
        return _build_terramind_model(card.architecture, "", found)
    if found.kind == "tokenizer":
        name = list_candidate_models(found, Path())[0].removeprefix(NAME_PREFIX).upper()
        return tokenizer({"modality": name, **card.tokenizer}, part=_find_tokenizer_part(found))
    return _build_terramind_model(
        card.architecture, "_tim" if found.kind == "tim" else "_generate", found
    )


def _find_tokenizer_part(found: WeightsContents) -> TokenizerPart:
    halves: list[TokenizerPart] = [one for one in _TOKENIZER_PARTS if one in found.parts]
    return halves[0] if len(halves) == 1 else "both"


def _build_terramind_model(
    name: str | config.Architecture, variant: str, found: WeightsContents
) -> nn.Module:
    wanted = [_to_declaration(entry) for entry in found.inputs if _is_backbone_input(entry)]
    if not wanted:
        told = name if isinstance(name, str) else "the card"
        raise ModelError(f"no embedding of an input of {told} is in the file")
    if not variant:
        return factory.backbone(name, wanted, image_size=found.image_size)
    pixels = [
        entry.name
        for entry in found.inputs
        if not entry.is_tokens and entry.key in MODALITIES_BY_KEY
    ]
    made = [entry.name for entry in found.outputs if entry.key in MODALITIES_BY_KEY]
    if not pixels or not made:
        raise ModelError(
            "generation needs pixels to start from, and a decoder: the file lacks these"
        )
    if variant == "_generate":
        return factory.generator(name, pixels, made, tokenizers={})
    thoughts = made if found.kind == "tim" or "LULC" not in made else ["LULC"]
    return factory.tim(name, pixels, thoughts, image_size=found.image_size)


def _compare_with_model(
    name: str, path: Path, found: WeightsContents, tensors: StateDict
) -> StateDictMismatch:
    if name == TERRATORCH:
        return _compare_with_terratorch(path)
    if config.is_config_file(name) and found.kind == "terratorch":
        return _compare_with_terratorch(path, name)
    if name not in (registry.DEMO, *hub.OFFICIAL_FILES) and not config.is_config_file(name):
        build_meta_model(name, found)
        # ^ raises, and says which names there are
    try:
        module = build_meta_model(name, found)
    except WeightsError:
        raise
    except ModelError as error:
        return StateDictMismatch(mismatched=(str(error),))
    return loading.compare_state_dict(module, tensors)[1]


def _compare_with_terratorch(path: Path, card: str | None = None) -> StateDictMismatch:
    try:
        fine_tuned(path, card)
    except ModelError as error:
        return StateDictMismatch(mismatched=(str(error),))
    return StateDictMismatch()


def _count_differences(misfit: StateDictMismatch) -> int:
    return len(misfit.missing) + len(misfit.unexpected) + len(misfit.mismatched)


def _is_backbone_input(entry: EmbeddedModality) -> bool:
    """Tell an input of the backbone from what only chained generation reads."""
    return not entry.is_tokens or entry.name in TOKEN_MODALITIES


def _to_declaration(entry: EmbeddedModality) -> str | dict[str, int]:
    is_known = isinstance(MODALITIES_BY_KEY.get(entry.key), RasterModality) or entry.is_tokens
    return entry.name if is_known else {entry.key: entry.size}


def _inspect_vocabulary(path: Path, name: str | None) -> WeightsInspection:
    if name not in (None, COORDS_NAME):
        raise ModelError(f"{path} could be a vocabulary only: {COORDS_NAME}, not {name}")
    if not path.is_file():
        raise WeightsError(f"the vocabulary {path} does not exist")
    try:
        coords_tokenizer(path)
        misfit = StateDictMismatch()
    except WeightsError as error:
        misfit = StateDictMismatch(mismatched=(str(error),))
    return WeightsInspection(
        path=path,
        sha256=loading.digest_of_file(path),
        contents=WeightsContents(kind="unknown" if misfit else "vocabulary", parts={}, dtypes={}),
        fits=() if misfit else (COORDS_NAME,),
        nearest_model=COORDS_NAME,
        mismatch=misfit,
    )
