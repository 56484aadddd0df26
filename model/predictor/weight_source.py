"""Which weights are meant: those given, a card's own, or the published ones; and of what they are.

A file of weights does not say what it is for, but its keys do: our segmentation head has names of
its own, and everything else with official names belongs to the family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import ModelError, WeightsError, listed
from model.predictor.cards import Card
from model.terramind import config
from model.terramind.modalities import target
from model.terramind.tokenizers.config import PREFIX, TokenizerSize
from model.weights import contents, hub, loading
from model.weights.loading import Source


def published(card: Card) -> str | None:
    """Return the published name of a card's architecture, None if it is one of your own."""
    every = ((name, config.architecture(name)) for name in config.ARCHITECTURES)
    return next((name for name, size in every if size == card.architecture), None)


def chosen(name: str, card: Card, given: Source) -> Source:
    """Return the weights given, or else those that the name implies.

    "hub" for a configuration of one's own stands for the card's weights, if it names some.

    Raises:
        WeightsError: nothing is given, and nothing is implied.
    """
    loading.check_source(given)
    own = name not in config.ARCHITECTURES
    if given is not None and not (own and given == "hub"):
        return given
    if own and card.weights is not None:
        return card.weights
    if published(card):
        return "hub"
    raise WeightsError(
        f"no weights for {name}: no published ones fit its sizes. Give `weights:` the path of a "
        ".safetensors file, or {random: SEED} to try the machinery with a meaningless answer"
    )


def has_head(source: Source, name: str, *, family: bool) -> bool:
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
    kind = contents.kind_of(_tensors(source, name))
    if kind == "terratorch":
        raise WeightsError(
            f"{_told(source)} is a checkpoint of TerraTorch: give it as `checkpoint:`, with "
            "`classes:` and `stats:`"
        )
    return kind == "segmenter"


def of_tokenizer(
    modality: str,
    given: Mapping[str, Source] | None,
    source: Source,
    name: str,
    sizes: Mapping[str, Any] | None = None,
) -> Source:
    """Return where a tokenizer's weights are; None = in the model's own.

    They are where it is said; made together with a random model; in the model's file if that
    holds them; under their official name beside the model's file; else, for one of the published
    size, wherever official files are found.

    Args:
        modality: whose tokenizer.
        given: what is said, by modality.
        source: of the model's weights.
        name: of the model, for a folder of official files.
        sizes: of the tokenizer, as a card gives them; None for the published ones.

    Raises:
        WeightsError: the weights hold no decoder, or there is no file that could fit.
    """
    if given and modality in given:
        return given[modality]
    if source == "hub":
        return source
    if isinstance(source, Mapping) and set(source) == {"random"}:
        return None
        # ^ a seed and a name in the model decide a tensor: the same as `model.generator` makes
    tensors = _tensors(source, name)
    if any(key.startswith(f"tokenizer.{target(modality).key}.") for key in tensors):
        return None
    path = _path(source)
    if path is None:
        return "hub"
    wanted = hub.official(PREFIX + modality.lower())
    folder = path if path.is_dir() else path.parent
    beside = (entry for entry in hub.names_in(folder, wanted) if entry.is_file())
    return next(beside, None) or _on_the_hub(modality, path, sizes)


def check_decoder(modality: str, source: Source, name: str) -> None:
    """Refuse weights of an encoder alone where something is to be generated.

    Raises:
        WeightsError: there is no decoder in them.
    """
    if source == "hub" or (isinstance(source, Mapping) and set(source) == {"random"}):
        return
    kind = contents.kind_of(_tensors(source, name))
    if kind == "encoder":
        raise WeightsError(
            f"{_told(source)} holds an encoder alone: {modality} is made by a decoder and a "
            "tokenizer, which it lacks. Ask for the task embedding, or give whole weights"
        )


def _on_the_hub(modality: str, path: Path, sizes: Mapping[str, Any] | None) -> Source:
    if sizes is not None and TokenizerSize.parse({"modality": modality, **sizes}) != (
        TokenizerSize(modality=modality)
    ):
        raise WeightsError(
            f"{path} holds no tokenizer of {modality}, and no published one has the sizes of this "
            f"card: give `tokenizers: {{{modality}: a path or {{random: SEED}}}}`"
        )
    return "hub"


def check_tokenizers(given: Mapping[str, Source] | None, used: Sequence[str]) -> None:
    """Refuse tokenizers that nothing asks for.

    Raises:
        ModelError: which.
    """
    extra = [name for name in given or {} if name not in used]
    if extra:
        raise ModelError(
            f"tokenizers {listed(extra)}: "
            + (f"only that of {listed(used)} is used here" if used else "none is used here")
        )


def _tensors(source: Source, name: str) -> loading.State:
    path = _path(source)
    if path is not None:
        sha256 = source.get("sha256") if isinstance(source, Mapping) else None
        return loading.read(loading.file_in(path, name), sha256)
        # ^ what is not the pinned file is not opened; the file is mapped, so tensors cost nothing
    return loading.unwrapped(source) if isinstance(source, Mapping) and source else {}


def _path(source: Source) -> Path | None:
    if isinstance(source, Mapping):
        source = source.get("path") if isinstance(source.get("path"), str | Path) else None
    return Path(source) if isinstance(source, str | Path) and source != "hub" else None


def _told(source: Source) -> str:
    path = _path(source)
    return f"{path}" if path else "this state dict"
