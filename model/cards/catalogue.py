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

RASTERS = tuple(modalities.RAW)
"""The inputs that an encoder's parameters are counted with: the six of images."""

TOKENIZERS: Mapping[str, int] = {
    "terramind_v1_tokenizer_s2l2a": 289_094_085,
    "terramind_v1_tokenizer_s1grd": 286_390_565,
    "terramind_v1_tokenizer_s1rtc": 286_390_565,
    "terramind_v1_tokenizer_dem": 286_120_213,
    "terramind_v1_tokenizer_lulc": 183_500_805,
    "terramind_v1_tokenizer_ndvi": 286_120_213,
}
"""Parameters of the tokenizers, counted once; position tables are buffers."""

COORDS = "terramind_v1_tokenizer_coords"


def rows() -> list[dict[str, Any]]:
    """List name, kind, parameters (None where there is nothing to count), purpose, and weights.

    The kind is model for what a job can name, tokenizer for what goes with it. The weights are
    shipped, missing, fetched, on the hub, or none.
    """
    models = [_demo(), *map(_encoder, config.ARCHITECTURES), _none()]
    return [*models, *map(_tokenizer, TOKENIZERS), _coords()]


def _demo() -> dict[str, Any]:
    files = [
        Path(str(entry))
        for entry in (resources.files("model") / "demo").iterdir()
        if entry.name.endswith(".safetensors")
    ]
    return {
        "name": "demo",
        "kind": "model",
        "parameters": sum(map(stored, files)) if files else None,
        "about": "small land-cover model, trained on invented countries",
        "weights": "shipped" if files else "missing",
    }


def stored(path: Path) -> int:
    """Count the numbers in a safetensors file from its header: a length, then JSON."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    tensors = (entry for name, entry in header.items() if name != "__metadata__")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _encoder(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "model",
        "parameters": parameters(config.architecture(name)),
        "about": "TerraMind: encoder (counted with its six image inputs), decoder",
        "weights": _state(name),
    }


def _none() -> dict[str, Any]:
    about = "composites only"
    return {"name": "none", "kind": "model", "parameters": None, "about": about, "weights": "none"}


def _tokenizer(name: str) -> dict[str, Any]:
    raster = name.rpartition("_")[2].upper()
    decoder = "a transformer" if raster == "LULC" else "diffusion"
    return {
        "name": name,
        "kind": "tokenizer",
        "parameters": TOKENIZERS[name],
        "about": f"{raster} to tokens and, by {decoder}, back",
        "weights": _state(name),
    }


def _coords() -> dict[str, Any]:
    return {
        "name": COORDS,
        "kind": "tokenizer",
        "parameters": None,
        "about": "vocabulary of coordinates",
        "weights": _state(COORDS),
    }


def _state(name: str) -> str:
    return "on the hub" if hub.find(name) is None else "fetched"


def parameters(size: config.Architecture, inputs: Sequence[str] = RASTERS) -> int:
    """Count an encoder's parameters with some inputs; position tables are buffers."""
    return sum(_embedding(size, name) for name in inputs) + blocks(size)


def parts(size: config.Architecture, variant: str) -> dict[str, int]:
    """Count the parts of a model of the family; the encoder with its six image inputs.

    Args:
        size: of the transformer.
        variant: "" for the encoder alone, _generate, or _tim.
    """
    encoder = {"encoder": parameters(size)}
    if not variant:
        return encoder
    rest = family_parameters(size) - parameters(size)
    # ^ with the vectors of tokens, which the encoder reads and the decoder predicts
    if variant == "_tim":
        return {**encoder, "sampler": rest + blocks(size)}
        # ^ the embeddings are shared, the blocks stand twice
    return {**encoder, "decoder": rest}


def blocks(size: config.Architecture) -> int:
    """Count the parameters of an encoder behind its embeddings: the blocks and the last norm."""
    return size.depth * _block(size) + size.dim


def family_parameters(size: config.Architecture) -> int:
    """Count an encoder and a decoder with every modality that either of them has.

    What is one tensor under two names counts once: the modality's own vector on both sides, and
    the tokens' vectors where they also make the logits.
    """
    targets = list(modalities.TARGETS.values())
    raw = parameters(size, tuple(modalities.RAW))
    tokens = sum(size.dim * (entry.vocabulary + 1) for entry in targets)
    logits = sum(size.dim * entry.vocabulary for entry in targets)
    cross = 4 * size.dim**2 + (4 * size.dim if size.bias else 0) + 2 * size.dim
    # ^ queries, keys and values, projection; one norm for the queries, one for the context
    decoder = size.decoder_depth * (_block(size) + cross) + size.dim
    context = size.dim**2 + size.dim
    mask = size.dim
    return raw + tokens + logits + decoder + context + mask


def _embedding(size: config.Architecture, name: str) -> int:
    entry = modalities.KEYS[modalities.key_of(name) or ""]
    if isinstance(entry, modalities.Modality):
        return size.dim * (modalities.PATCH**2 * len(entry.bands) + 1)
    return size.dim * (entry.vocabulary + 1)


def _block(size: config.Architecture) -> int:
    matrices = 4 * size.dim**2 + (3 if size.gated else 2) * size.dim * size.hidden
    biases = 5 * size.dim + size.hidden if size.bias else 0
    norms = 2 * size.dim
    return matrices + biases + norms
