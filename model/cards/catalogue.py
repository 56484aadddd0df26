"""The models that have a name, told without building them: no torch is imported here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from model.terramind import config, modalities
from model.weights import hub

COUNTED_INPUTS = tuple(modalities.RASTER_MODALITIES)
"""The inputs that an encoder's parameters are counted with: the six of images."""

TOKENIZER_PARAMETERS: Mapping[str, int] = {
    "terramind_v1_tokenizer_s2l2a": 289_094_085,
    "terramind_v1_tokenizer_s1grd": 286_390_565,
    "terramind_v1_tokenizer_s1rtc": 286_390_565,
    "terramind_v1_tokenizer_dem": 286_120_213,
    "terramind_v1_tokenizer_lulc": 183_500_805,
    "terramind_v1_tokenizer_ndvi": 286_120_213,
}
"""Parameters of the tokenizers, counted once; position tables are buffers."""

COORDS_TOKENIZER = "terramind_v1_tokenizer_coords"


def list_models() -> list[dict[str, Any]]:
    """List name, kind, parameters (None where there is nothing to count), purpose, and weights.

    The kind is model for what a job can name, tokenizer for what goes with it. The weights are
    shipped, missing, fetched, on the hub, or none.
    """
    models = [_demo_row(), *map(_encoder_row, config.ARCHITECTURES), _none_row()]
    return [*models, *map(_tokenizer_row, TOKENIZER_PARAMETERS), _coords_row()]


def _demo_row() -> dict[str, Any]:
    files = [
        Path(str(entry))
        for entry in (resources.files("model") / "demo").iterdir()
        if entry.name.endswith(".safetensors")
    ]
    return {
        "name": "demo",
        "kind": "model",
        "parameters": sum(map(count_stored_parameters, files)) if files else None,
        "about": "small land-cover model, trained on invented countries",
        "weights": "shipped" if files else "missing",
    }


def count_stored_parameters(path: Path) -> int:
    """Count the numbers in a safetensors file from its header: a length, then JSON."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    tensors = (entry for name, entry in header.items() if name != "__metadata__")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _encoder_row(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "model",
        "parameters": count_encoder_parameters(config.resolve_architecture(name)),
        "about": "TerraMind: encoder (counted with its six image inputs), decoder",
        "weights": _weights_status(name),
    }


def _none_row() -> dict[str, Any]:
    about = "composites only"
    return {"name": "none", "kind": "model", "parameters": None, "about": about, "weights": "none"}


def _tokenizer_row(name: str) -> dict[str, Any]:
    raster = name.rpartition("_")[2].upper()
    decoder = "a transformer" if raster == "LULC" else "diffusion"
    return {
        "name": name,
        "kind": "tokenizer",
        "parameters": TOKENIZER_PARAMETERS[name],
        "about": f"{raster} to tokens and, by {decoder}, back",
        "weights": _weights_status(name),
    }


def _coords_row() -> dict[str, Any]:
    return {
        "name": COORDS_TOKENIZER,
        "kind": "tokenizer",
        "parameters": None,
        "about": "vocabulary of coordinates",
        "weights": _weights_status(COORDS_TOKENIZER),
    }


def _weights_status(name: str) -> str:
    return "on the hub" if hub.find_local_file(name) is None else "fetched"


def count_encoder_parameters(
    size: config.Architecture, inputs: Sequence[str] = COUNTED_INPUTS
) -> int:
    """Count an encoder's parameters with some inputs; position tables are buffers."""
    return sum(_count_embedding_parameters(size, name) for name in inputs) + count_block_parameters(
        size
    )


def count_parts(size: config.Architecture, variant: str) -> dict[str, int]:
    """Count the parts of a model of the family; the encoder with its six image inputs.

    Args:
        size: of the transformer.
        variant: "" for the encoder alone, _generate, or _tim.
    """
    encoder = {"encoder": count_encoder_parameters(size)}
    if not variant:
        return encoder
    rest = count_family_parameters(size) - count_encoder_parameters(size)
    # ^ with the vectors of tokens, which the encoder reads and the decoder predicts
    if variant == "_tim":
        return {**encoder, "sampler": rest + count_block_parameters(size)}
        # ^ the embeddings are shared, the blocks stand twice
    return {**encoder, "decoder": rest}


def count_block_parameters(size: config.Architecture) -> int:
    """Count the parameters of an encoder behind its embeddings: the blocks and the last norm."""
    return size.depth * _count_parameters_per_block(size) + size.dim


def count_family_parameters(size: config.Architecture) -> int:
    """Count an encoder and a decoder with every modality that either of them has.

    What is one tensor under two names counts once: the modality's own vector on both sides, and
    the tokens' vectors where they also make the logits.
    """
    targets = list(modalities.TARGET_MODALITIES.values())
    raw = count_encoder_parameters(size, tuple(modalities.RASTER_MODALITIES))
    tokens = sum(size.dim * (entry.vocab_size + 1) for entry in targets)
    logits = sum(size.dim * entry.vocab_size for entry in targets)
    cross = 4 * size.dim**2 + (4 * size.dim if size.bias else 0) + 2 * size.dim
    # ^ queries, keys and values, projection; one norm for the queries, one for the context
    decoder = size.decoder_depth * (_count_parameters_per_block(size) + cross) + size.dim
    context = size.dim**2 + size.dim
    mask = size.dim
    return raw + tokens + logits + decoder + context + mask


def _count_embedding_parameters(size: config.Architecture, name: str) -> int:
    entry = modalities.MODALITIES_BY_KEY[modalities.find_modality_key(name) or ""]
    if isinstance(entry, modalities.RasterModality):
        return size.dim * (modalities.PATCH_SIZE**2 * len(entry.bands) + 1)
    return size.dim * (entry.vocab_size + 1)


def _count_parameters_per_block(size: config.Architecture) -> int:
    matrices = 4 * size.dim**2 + (3 if size.gated else 2) * size.dim * size.mlp_hidden_dim
    biases = 5 * size.dim + size.mlp_hidden_dim if size.bias else 0
    norms = 2 * size.dim
    return matrices + biases + norms
