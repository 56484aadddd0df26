"""Which weights are meant: those given, a card's own, or the published ones; and of what they are.

A file of weights does not say what it is for, but its keys do: our segmentation head has names of
its own, and everything else with official names belongs to the family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import ModelError, WeightsError, join_names
from model.predictor.cards import Card
from model.terramind import config
from model.terramind.modalities import get_target_modality
from model.terramind.tokenizers.config import NAME_PREFIX, TokenizerConfig
from model.weights import contents, hub, loading
from model.weights.loading import WeightSource


def find_published_name(card: Card) -> str | None:
    """Return the published name of a card's architecture, None if it is one of your own."""
    every = ((name, config.resolve_architecture(name)) for name in config.ARCHITECTURES)
    return next((name for name, size in every if size == card.architecture), None)


def choose_source(name: str, card: Card, requested: WeightSource) -> WeightSource:
    """Return the weights given, or else those that the name implies.

    "hub" for a configuration of one's own stands for the card's weights, if it names some.

    Raises:
        WeightsError: nothing is given, and nothing is implied.
    """
    loading.check_weight_source(requested)
    own = name not in config.ARCHITECTURES
    if requested is not None and not (own and requested == "hub"):
        return requested
    if own and card.weights is not None:
        return card.weights
    if find_published_name(card):
        return "hub"
    raise WeightsError(
        f"no weights for {name}: no published ones fit its sizes. Give `weights:` the path of a "
        ".safetensors file, or {random: SEED} to try the machinery with a meaningless answer"
    )


def has_head(source: WeightSource, name: str, *, family: bool) -> bool:
    """Tell weights of a segmenter, with our head in them, from those of the family.

    Args:
        source: see `weights.Source`.
        name: the model's name, for a folder of official files.
        family: what random weights are for.

    Raises:
        WeightsError: the file cannot be read, or it is TerraTorch's.
    """
    if source == "hub":
        return False
    if isinstance(source, Mapping) and set(source) == {"random"}:
        return not family
    kind = contents.detect_kind(_read_tensors(source, name))
    if kind == "terratorch":
        raise WeightsError(
            f"{_describe_source(source)} is a checkpoint of TerraTorch: give it as `checkpoint:`, with "
            "`classes:` and `stats:`"
        )
    return kind == "segmenter"


def choose_tokenizer_source(
    modality: str,
    requested: Mapping[str, WeightSource] | None,
    source: WeightSource,
    name: str,
    sizes: Mapping[str, Any] | None = None,
) -> WeightSource:
    """Return where a tokenizer's weights are; None = in the model's own.

    They are where it is said; made together with a random model; in the model's file if that
    holds them; under their official name beside the model's file; else, for one of the published
    size, wherever official files are found.

    Args:
        modality: whose tokenizer.
        requested: what is said, by modality.
        source: of the model's weights.
        name: of the model, for a folder of official files.
        sizes: of the tokenizer, as a card gives them; None for the published ones.

    Raises:
        WeightsError: the weights hold no decoder, or there is no file that could fit.
    """
    if requested and modality in requested:
        return requested[modality]
    if source == "hub":
        return source
    if isinstance(source, Mapping) and set(source) == {"random"}:
        return None
        # ^ a seed and a name in the model decide a tensor: the same as `model.generator` makes
    tensors = _read_tensors(source, name)
    if any(key.startswith(f"tokenizer.{get_target_modality(modality).key}.") for key in tensors):
        return None
    path = _source_path(source)
    if path is None:
        return "hub"
    wanted = hub.get_official_file(NAME_PREFIX + modality.lower())
    folder = path if path.is_dir() else path.parent
    beside = (entry for entry in hub.list_candidate_paths(folder, wanted) if entry.is_file())
    return next(beside, None) or _require_published_size(modality, path, sizes)


def check_decoder(modality: str, source: WeightSource, name: str) -> None:
    """Refuse weights of an encoder alone where something is to be generated.

    Raises:
        WeightsError: there is no decoder in them.
    """
    if source == "hub" or (isinstance(source, Mapping) and set(source) == {"random"}):
        return
    kind = contents.detect_kind(_read_tensors(source, name))
    if kind == "encoder":
        raise WeightsError(
            f"{_describe_source(source)} holds an encoder alone: {modality} is made by a decoder and a "
            "tokenizer, which it lacks. Ask for the task embedding, or give whole weights"
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
    """Refuse tokenizers that nothing asks for.

    Raises:
        ModelError: which.
    """
    extra = [name for name in requested or {} if name not in used]
    if extra:
        raise ModelError(
            f"tokenizers {join_names(extra)}: "
            + (f"only that of {join_names(used)} is used here" if used else "none is used here")
        )


def _read_tensors(source: WeightSource, name: str) -> loading.StateDict:
    path = _source_path(source)
    if path is not None:
        sha256 = source.get("sha256") if isinstance(source, Mapping) else None
        return loading.read_state_dict(loading.find_weight_file(path, name), sha256)
        # ^ what is not the pinned file is not opened; the file is mapped, so tensors cost nothing
    return loading.extract_state_dict(source) if isinstance(source, Mapping) and source else {}


def _source_path(source: WeightSource) -> Path | None:
    if isinstance(source, Mapping):
        source = source.get("path") if isinstance(source.get("path"), str | Path) else None
    return Path(source) if isinstance(source, str | Path) and source != "hub" else None


def _describe_source(source: WeightSource) -> str:
    path = _source_path(source)
    return f"{path}" if path else "this state dict"
