"""Catalogue of named models, with parameter counts that need neither torch nor the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from model.terramind import architectures, modalities
from model.weights import hub

COUNTED_INPUTS = tuple(modalities.RASTER_MODALITIES)
"""Inputs that an encoder's parameters are counted with: the six raster modalities."""

TOKENIZER_PARAMETERS: Mapping[str, int] = {
    "terramind_v1_tokenizer_s2l2a": 289_094_085,
    "terramind_v1_tokenizer_s1grd": 286_390_565,
    "terramind_v1_tokenizer_s1rtc": 286_390_565,
    "terramind_v1_tokenizer_dem": 286_120_213,
    "terramind_v1_tokenizer_lulc": 183_500_805,
    "terramind_v1_tokenizer_ndvi": 286_120_213,
}
"""Parameters of the tokenizers, counted with torch; position embeddings are buffers."""

COORDS_TOKENIZER = "terramind_v1_tokenizer_coords"

ModelKind = Literal["model", "tokenizer"]
WeightsStatus = Literal["shipped", "missing", "fetched", "on the hub", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A named model in the list of all models."""

    name: str
    kind: ModelKind
    """``model`` for a name that a job may use."""

    parameters: int | None
    """Number of parameters; None where there is nothing to count."""

    about: str
    """A short description."""

    weights: WeightsStatus
    """Where the weights are."""


def list_models() -> list[ListedModel]:
    """List all models, and after them the tokenizers."""
    models = [_list_demo(), *map(_list_encoder, architectures.ARCHITECTURES), _list_none()]
    return [*models, *map(_list_tokenizer, TOKENIZER_PARAMETERS), _list_coords()]


def _list_demo() -> ListedModel:
    files = [
        Path(str(entry))
        for entry in (resources.files("model") / "demo").iterdir()
        if entry.name.endswith(".safetensors")
    ]
    return ListedModel(
        name="demo",
        kind="model",
        parameters=sum(map(count_stored_parameters, files)) if files else None,
        about="small land-cover model, trained on synthetic countries",
        weights="shipped" if files else "missing",
    )


def count_stored_parameters(path: Path) -> int:
    """Count the values in a safetensors file by its header: a length, then JSON."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    tensors = (entry for name, entry in header.items() if name != "__metadata__")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _list_encoder(name: str) -> ListedModel:
    return ListedModel(
        name=name,
        kind="model",
        parameters=count_encoder_parameters(architectures.resolve_architecture(name)),
        about="TerraMind: encoder (counted with its six image inputs), decoder",
        weights=_find_weights_status(name),
    )


def _list_none() -> ListedModel:
    return ListedModel(
        name="none", kind="model", parameters=None, about="composites only", weights="none"
    )


def _list_tokenizer(name: str) -> ListedModel:
    return ListedModel(
        name=name,
        kind="tokenizer",
        parameters=TOKENIZER_PARAMETERS[name],
        about=describe_tokenizer(name),
        weights=_find_weights_status(name),
    )


def describe_tokenizer(name: str) -> str:
    """Return what a tokenizer of rasters does."""
    raster = name.rpartition("_")[2].upper()
    decoder = "a transformer" if raster == "LULC" else "diffusion"
    return f"{raster} to tokens and, by {decoder}, back"


def _list_coords() -> ListedModel:
    return ListedModel(
        name=COORDS_TOKENIZER,
        kind="tokenizer",
        parameters=None,
        about="vocabulary of coordinates",
        weights=_find_weights_status(COORDS_TOKENIZER),
    )


def _find_weights_status(name: str) -> WeightsStatus:
    return "on the hub" if hub.find_local_file(name) is None else "fetched"


def count_encoder_parameters(
    size: architectures.Architecture, inputs: Sequence[str] = COUNTED_INPUTS
) -> int:
    """Count an encoder's parameters with some inputs; position embeddings are buffers."""
    return sum(_count_embedding_parameters(size, name) for name in inputs) + count_block_parameters(
        size
    )


def count_parts(size: architectures.Architecture, variant: str) -> dict[str, int]:
    """Count the parameters of each part of a TerraMind model, the encoder with six raster inputs.

    Args:
        size: its architecture.
        variant: "" for the encoder alone, "_generate" or "_tim".
    """
    encoder = {"encoder": count_encoder_parameters(size)}
    if not variant:
        return encoder
    rest = count_family_parameters(size) - count_encoder_parameters(size)
    # ^ with the token embeddings, which the encoder reads and the decoder predicts
    if variant == "_tim":
        return {**encoder, "sampler": rest + count_block_parameters(size)}
        # ^ the embeddings are shared, the encoder blocks are not
    return {**encoder, "decoder": rest}


def count_block_parameters(size: architectures.Architecture) -> int:
    """Count the parameters of an encoder after its embeddings: the blocks and the last norm."""
    return size.depth * _count_parameters_per_block(size) + size.dim


def count_family_parameters(size: architectures.Architecture) -> int:
    """Count the parameters of an encoder and a decoder with all modalities of either.

    A tensor with two keys counts once: the modality embedding that both sides share, and token
    embeddings that also give the logits.
    """
    targets = list(modalities.TARGET_MODALITIES.values())
    encoder = count_encoder_parameters(size, tuple(modalities.RASTER_MODALITIES))
    tokens = sum(size.dim * (entry.vocab_size + 1) for entry in targets)
    logits = sum(size.dim * entry.vocab_size for entry in targets)
    cross = 4 * size.dim**2 + (4 * size.dim if size.bias else 0) + 2 * size.dim
    # ^ queries, keys and values, projection; one norm for the queries, one for the context
    decoder = size.decoder_depth * (_count_parameters_per_block(size) + cross) + size.dim
    context = size.dim**2 + size.dim
    mask = size.dim
    return encoder + tokens + logits + decoder + context + mask


def _count_embedding_parameters(size: architectures.Architecture, name: str) -> int:
    entry = modalities.MODALITIES_BY_KEY[modalities.find_modality_key(name) or ""]
    if isinstance(entry, modalities.RasterModality):
        return size.dim * (modalities.PATCH_SIZE**2 * len(entry.bands) + 1)
    return size.dim * (entry.vocab_size + 1)


def _count_parameters_per_block(size: architectures.Architecture) -> int:
    matrices = 4 * size.dim**2 + (3 if size.gated else 2) * size.dim * size.mlp_hidden_dim
    biases = 5 * size.dim + size.mlp_hidden_dim if size.bias else 0
    norms = 2 * size.dim
    return matrices + biases + norms
