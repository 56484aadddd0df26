"""Choose the source of a model's weights: those requested, the card's own, or the published ones.

What a file of weights is for follows from its keys: our segmentation head has keys of its own, and
everything else with official keys belongs to TerraMind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import ModelError, WeightsError, join_names
from model.predictor.card_file import Card
from model.terramind import architectures
from model.terramind.modalities import get_target_modality
from model.terramind.tokenizers.config import NAME_PREFIX, TokenizerConfig
from model.terratorch import lightning_checkpoint
from model.weights import hub, loading, state_dict_contents
from model.weights.loading import WeightSource


def find_published_name(card: Card) -> str | None:
    """Return the published name of a card's architecture; None for any other architecture."""
    published = (
        (name, architectures.resolve_architecture(name)) for name in architectures.ARCHITECTURES
    )
    return next(
        (name for name, architecture in published if architecture == card.architecture), None
    )


def choose_source(name: str, card: Card, requested: WeightSource) -> WeightSource:
    """Return the requested source of weights, or the default one of the model.

    Args:
        name: the model's name, or the path of its card.
        card: its card.
        requested: as a job or a caller gives it; "hub" for a model card stands for the weights that
            the card names, if it does.

    Raises:
        WeightsError: no source is requested, and the model has no default one.
    """
    loading.check_weight_source(requested)
    is_custom = name not in architectures.ARCHITECTURES
    if requested is not None and not (is_custom and requested == "hub"):
        return requested
    if is_custom and card.weights is not None:
        return card.weights
    if find_published_name(card):
        return "hub"
    raise WeightsError(
        f"no weights for {name}: no published ones fit its sizes. Give `weights:` the path of a "
        ".safetensors file, or {random: SEED} for a test run with meaningless outputs"
    )


def has_head(source: WeightSource, name: str, *, is_terramind: bool) -> bool:
    """Tell whether weights are of a segmenter, with our head in them, and not of TerraMind.

    Args:
        source: see :data:`model.weights.loading.WeightSource`.
        name: the model's name, for a folder of official files.
        is_terramind: whether random weights are for a TerraMind model.

    Raises:
        WeightsError: the file cannot be read, or it is a checkpoint of TerraTorch.
    """
    if source == "hub":
        return False
    if isinstance(source, Mapping) and set(source) == {"random"}:
        return not is_terramind
    kind = state_dict_contents.detect_kind(_read_tensors(source, name))
    if kind == "terratorch":
        raise WeightsError(
            f"{_describe_source(source)} is a checkpoint of TerraTorch: give it as "
            "`checkpoint:`, with `classes:` and `stats:`"
        )
    return kind == "segmenter"


def choose_tokenizer_source(
    modality: str,
    requested: Mapping[str, WeightSource] | None,
    source: WeightSource,
    name: str,
    sizes: Mapping[str, Any] | None = None,
) -> WeightSource:
    """Return the source of a tokenizer's weights; None = they are among the model's.

    In this order: the requested source; random weights for a random model; the model's file, if it
    holds them; a file of the official name beside it; for a tokenizer of the published size the
    official file.

    Args:
        modality: of the tokenizer.
        requested: sources by modality.
        source: of the model's weights.
        name: of the model, for a folder of official files.
        sizes: of the tokenizer, as a card gives them; None for the published ones.

    Raises:
        WeightsError: no file fits the sizes of the tokenizer.
    """
    if requested and modality in requested:
        return requested[modality]
    if source == "hub":
        return source
    if isinstance(source, Mapping) and set(source) == {"random"}:
        return None
        # ^ seed and key decide a random tensor: the same ones as in `model.generator`
    tensors = _read_tensors(source, name)
    if any(key.startswith(f"tokenizer.{get_target_modality(modality).key}.") for key in tensors):
        return None
    path = _source_path(source)
    if path is None:
        return "hub"
    official_file = hub.get_official_file(NAME_PREFIX + modality.lower())
    folder = path if path.is_dir() else path.parent
    candidates = hub.list_candidate_paths(folder, official_file)
    return next(
        (candidate for candidate in candidates if candidate.is_file()), None
    ) or _require_published_size(modality, path, sizes)


def check_decoder(modality: str, source: WeightSource, name: str) -> None:
    """Check that weights hold a decoder, which generates a modality.

    Raises:
        WeightsError: they hold an encoder alone.
    """
    if source == "hub" or (isinstance(source, Mapping) and set(source) == {"random"}):
        return
    kind = state_dict_contents.detect_kind(_read_tensors(source, name))
    if kind == "encoder":
        raise WeightsError(
            f"{_describe_source(source)} holds an encoder alone: {modality} is generated by a "
            "decoder and a tokenizer, which it lacks. Request the task embedding, or give the "
            "weights of the whole model"
        )


def _require_published_size(
    modality: str, path: Path, sizes: Mapping[str, Any] | None
) -> WeightSource:
    if sizes is not None and TokenizerConfig.parse({"modality": modality, **sizes}) != (
        TokenizerConfig(modality=modality)
    ):
        raise WeightsError(
            f"{path} holds no tokenizer of {modality}, and no published one has the sizes of this "
            f"card: give `tokenizers: {{{modality}: a path or {{random: SEED}}}}`"
        )
    return "hub"


def check_tokenizers(requested: Mapping[str, WeightSource] | None, used: Sequence[str]) -> None:
    """Check that requested tokenizers are used.

    Raises:
        ModelError: some are not; the message names them.
    """
    unused = [name for name in requested or {} if name not in used]
    if unused:
        raise ModelError(
            f"tokenizers {join_names(unused)}: "
            + (f"only that of {join_names(used)} is used here" if used else "none is used here")
        )


def _read_tensors(source: WeightSource, name: str) -> loading.StateDict:
    path = _source_path(source)
    if path is not None:
        sha256 = source.get("sha256") if isinstance(source, Mapping) else None
        return lightning_checkpoint.read_tensors(loading.find_weight_file(path, name), sha256)
        # ^ a file of another checksum is not opened; tensors are memory-mapped and not read here
    return loading.extract_state_dict(source) if isinstance(source, Mapping) and source else {}


def _source_path(source: WeightSource) -> Path | None:
    if isinstance(source, Mapping):
        source = source.get("path") if isinstance(source.get("path"), str | Path) else None
    return Path(source) if isinstance(source, str | Path) and source != "hub" else None


def _describe_source(source: WeightSource) -> str:
    path = _source_path(source)
    return f"{path}" if path else "this state dict"
