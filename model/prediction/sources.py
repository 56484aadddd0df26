"""Which weights are meant: those given, a card's own, or the published ones; and of what they are.

A file of weights does not say what it is for, but its keys do: our segmentation head has names of
its own, and everything else with official names belongs to the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model import config, weights
from model.errors import ModelError, WeightsError, listed
from model.files import contents, hub
from model.modalities import target
from model.prediction.cards import Card
from model.tokenizers.config import PREFIX
from model.weights import Source


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
    modality: str, given: Mapping[str, Source] | None, source: Source, name: str
) -> Source:
    """Return where a tokenizer's weights are; None = in the model's own.

    They are where it is said; random with random; in the model's file if that holds them; under
    their official name beside the model's file; else wherever official files are found.

    Args:
        modality: whose tokenizer.
        given: what is said, by modality.
        source: of the model's weights.
        name: of the model, for a folder of official files.
    """
    if given and modality in given:
        return given[modality]
    if source == "hub" or (isinstance(source, Mapping) and set(source) == {"random"}):
        return source
    inside = f"tokenizer.{target(modality).key}."
    if any(key.startswith(inside) for key in _tensors(source, name)):
        return None
    path = _path(source)
    if path is None:
        return "hub"
    wanted = hub.official(PREFIX + modality.lower())
    folder = path if path.is_dir() else path.parent
    beside = (entry for entry in hub.names_in(folder, wanted) if entry.is_file())
    return next(beside, "hub")


def check_tokenizers(given: Mapping[str, Source] | None, modality: str | None) -> None:
    """Refuse tokenizers that nothing asks for.

    Raises:
        ModelError: which.
    """
    extra = [name for name in given or {} if name != modality]
    if extra:
        raise ModelError(
            f"tokenizers {listed(extra)}: only that of {modality or 'nothing'} is used here"
        )


def _tensors(source: Source, name: str) -> weights.State:
    path = _path(source)
    if path is not None:
        sha256 = source.get("sha256") if isinstance(source, Mapping) else None
        return weights.read(weights.file_in(path, name), sha256)
        # ^ what is not the pinned file is not opened; the file is mapped, so tensors cost nothing
    return weights.unwrapped(source) if isinstance(source, Mapping) and source else {}


def _path(source: Source) -> Path | None:
    if isinstance(source, Mapping):
        source = source.get("path") if isinstance(source.get("path"), str | Path) else None
    return Path(source) if isinstance(source, str | Path) and source != "hub" else None


def _told(source: Source) -> str:
    path = _path(source)
    return f"{path}" if path else "this state dict"
