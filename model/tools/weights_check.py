"""Inspect a file of weights: what it holds by its keys and shapes, and which models it fits.

Models are built on the meta device for this, where they have shapes but need no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import ModelError, WeightsError, join_names
from model.predictor import card_file, registry
from model.terramind import architectures
from model.terramind.modalities import MODALITIES_BY_KEY, TOKEN_MODALITIES, RasterModality
from model.terramind.tokenizers.config import COORDS_NAME, NAME_PREFIX, RASTER_CHANNELS
from model.terramind.tokenizers.tokenizer import TokenizerPart
from model.terratorch import lightning_checkpoint
from model.terratorch.lightning_checkpoint import fine_tuned
from model.weights import (
    checksums,
    factory,
    hub,
    loading,
    state_dict_contents,
)
from model.weights.loading import StateDict, StateDictMismatch
from model.weights.state_dict_contents import EmbeddedModality, WeightsContents
from model.weights.tokenizer_loading import coords_tokenizer, tokenizer

_VARIANT_SUFFIXES = ("", "_generate", "_tim")

_TOKENIZER_PARTS: tuple[TokenizerPart, ...] = ("encoder", "decoder")

TERRATORCH = "terratorch"
"""The name under which a checkpoint of TerraTorch fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInspection:
    """A file of weights, compared with the models that it could fit."""

    path: Path
    sha256: str
    contents: WeightsContents
    fits: tuple[str, ...]
    """Names of the models that it fits as it is."""

    nearest_model: str | None
    """The requested model, or the one with the fewest differences; None if there is none."""

    mismatch: StateDictMismatch
    """Differences from that model."""

    @property
    def is_usable(self) -> bool:
        """Whether the file fits a model, the requested one if any, and all values are finite."""
        return not self.mismatch and bool(self.fits) and not self.contents.non_finite_keys


def inspect_file(path: str | Path, name: str | None = None) -> WeightsInspection:
    """Inspect a file of weights and compare it with models.

    Args:
        path: of the file.
        name: the model that it should fit; None = all that are possible.

    Raises:
        WeightsError: the file cannot be read.
        ModelError: there is no model of that name.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _inspect_vocabulary(path, name)
    file_contents, tensors = read_contents(path)
    names = list_candidate_models(file_contents, path) if name is None else (name,)
    mismatches = {
        model_name: _compare_with_model(model_name, path, file_contents, tensors)
        for model_name in names
    }
    fits = tuple(model_name for model_name, mismatch in mismatches.items() if not mismatch)
    nearest = min(
        mismatches, key=lambda model_name: _count_differences(mismatches[model_name]), default=None
    )
    return WeightsInspection(
        path=path,
        sha256=checksums.hash_file(path),
        contents=file_contents,
        fits=fits,
        nearest_model=nearest,
        mismatch=StateDictMismatch() if nearest is None else mismatches[nearest],
    )


def read_contents(path: str | Path) -> tuple[WeightsContents, dict[str, Tensor]]:
    """Read a file of weights; return what it holds, and its tensors.

    Raises:
        WeightsError: the file is absent, damaged or unsafe, or holds no tensors.
    """
    tensors = lightning_checkpoint.read_tensors(path)
    return state_dict_contents.summarise_state_dict(tensors), tensors


def list_candidate_models(file_contents: WeightsContents, path: Path) -> tuple[str, ...]:
    """Return the names of the models that a file could fit."""
    dims = {
        name: architectures.resolve_architecture(name).dim for name in architectures.ARCHITECTURES
    }
    sizes = tuple(name for name, dim in dims.items() if dim == file_contents.width) or tuple(dims)
    if file_contents.kind == "encoder":
        return sizes
    if file_contents.kind == "encoder-decoder":
        return tuple(name + variant for name in sizes for variant in _VARIANT_SUFFIXES)
    if file_contents.kind in ("generator", "tim"):
        variant = "_generate" if file_contents.kind == "generator" else "_tim"
        return tuple(name + variant for name in sizes)
    if file_contents.kind == "tokenizer":
        channels = {entry.size for entry in file_contents.inputs}
        rasters = [name for name, count in RASTER_CHANNELS.items() if count in channels]
        return tuple(NAME_PREFIX + name.lower() for name in rasters or RASTER_CHANNELS)
    if file_contents.kind == "segmenter":
        card = path.with_name("card.json")
        return (str(card), registry.DEMO) if card.is_file() else (registry.DEMO,)
    return (TERRATORCH,) if file_contents.kind == "terratorch" else ()


def build_meta_model(name: str, file_contents: WeightsContents) -> nn.Module:
    """Build a model on the meta device, with the modalities that a file holds.

    Raises:
        ModelError: there is no such model, or the file holds no modality of it.
    """
    with torch.device("meta"):
        if name.startswith(NAME_PREFIX) and name != COORDS_NAME:
            return tokenizer(name, part=_find_tokenizer_part(file_contents))
        if name == registry.DEMO or architectures.is_config_file(name):
            return _build_from_card(
                card_file.read(registry.DEMO_CARD_PATH if name == registry.DEMO else name),
                file_contents,
            )
        base = next(
            (prefix for prefix in architectures.ARCHITECTURES if name.startswith(prefix)), ""
        )
        variant = name.removeprefix(base)
        if base and variant in _VARIANT_SUFFIXES:
            return _build_terramind_model(name, variant, file_contents)
    raise ModelError(
        f"unknown model {name!r}; known are {join_names((registry.DEMO, *hub.OFFICIAL_FILES), 30)}"
    )


def _build_from_card(card: card_file.Card, file_contents: WeightsContents) -> nn.Module:
    """Build the model that a job would build from a card for such a file."""
    if card.tokenizer is None or file_contents.kind == "segmenter":
        return registry.build_segmenter(card)
    if file_contents.kind == "encoder":
        return _build_terramind_model(card.architecture, "", file_contents)
    if file_contents.kind == "tokenizer":
        name = list_candidate_models(file_contents, Path())[0].removeprefix(NAME_PREFIX).upper()
        return tokenizer(
            {"modality": name, **card.tokenizer}, part=_find_tokenizer_part(file_contents)
        )
    return _build_terramind_model(
        card.architecture, "_tim" if file_contents.kind == "tim" else "_generate", file_contents
    )


def _find_tokenizer_part(file_contents: WeightsContents) -> TokenizerPart:
    halves: list[TokenizerPart] = [part for part in _TOKENIZER_PARTS if part in file_contents.parts]
    return halves[0] if len(halves) == 1 else "both"


def _build_terramind_model(
    name: str | architectures.Architecture, variant: str, file_contents: WeightsContents
) -> nn.Module:
    declarations = [
        _to_declaration(entry) for entry in file_contents.inputs if _is_backbone_input(entry)
    ]
    if not declarations:
        owner = name if isinstance(name, str) else "the card"
        raise ModelError(f"no embedding of an input of {owner} is in the file")
    if not variant:
        return factory.backbone(name, declarations, image_size=file_contents.image_size)
    inputs = [
        entry.name
        for entry in file_contents.inputs
        if not entry.is_tokens and entry.key in MODALITIES_BY_KEY
    ]
    outputs = [entry.name for entry in file_contents.outputs if entry.key in MODALITIES_BY_KEY]
    if not inputs or not outputs:
        raise ModelError("generation needs raster inputs and a decoder, which the file lacks")
    if variant == "_generate":
        return factory.generator(name, inputs, outputs, tokenizers={})
    generated = outputs if file_contents.kind == "tim" or "LULC" not in outputs else ["LULC"]
    return factory.tim(name, inputs, generated, image_size=file_contents.image_size)


def _compare_with_model(
    name: str, path: Path, file_contents: WeightsContents, tensors: StateDict
) -> StateDictMismatch:
    if name == TERRATORCH:
        return _compare_with_terratorch(path)
    if architectures.is_config_file(name) and file_contents.kind == "terratorch":
        return _compare_with_terratorch(path, name)
    if name not in (registry.DEMO, *hub.OFFICIAL_FILES) and not architectures.is_config_file(name):
        build_meta_model(name, file_contents)
        # ^ raises an error that lists the names
    try:
        module = build_meta_model(name, file_contents)
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


def _count_differences(mismatch: StateDictMismatch) -> int:
    return len(mismatch.missing) + len(mismatch.unexpected) + len(mismatch.mismatched)


def _is_backbone_input(entry: EmbeddedModality) -> bool:
    """Tell whether the backbone reads an input, and not chained generation alone."""
    return not entry.is_tokens or entry.name in TOKEN_MODALITIES


def _to_declaration(entry: EmbeddedModality) -> str | dict[str, int]:
    is_known = isinstance(MODALITIES_BY_KEY.get(entry.key), RasterModality) or entry.is_tokens
    return entry.name if is_known else {entry.key: entry.size}


def _inspect_vocabulary(path: Path, name: str | None) -> WeightsInspection:
    if name not in (None, COORDS_NAME):
        raise ModelError(f"{path} can only be a vocabulary, {COORDS_NAME}, and not {name}")
    if not path.is_file():
        raise WeightsError(f"the vocabulary {path} does not exist")
    try:
        coords_tokenizer(path)
        mismatch = StateDictMismatch()
    except WeightsError as error:
        mismatch = StateDictMismatch(mismatched=(str(error),))
    return WeightsInspection(
        path=path,
        sha256=checksums.hash_file(path),
        contents=WeightsContents(kind="unknown" if mismatch else "vocabulary", parts={}, dtypes={}),
        fits=() if mismatch else (COORDS_NAME,),
        nearest_model=COORDS_NAME,
        mismatch=mismatch,
    )
