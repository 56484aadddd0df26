"""The kinds of predictors: classes by a head, classes out of the box, features, other sensors.

    segmentation   our head, or a decoder fine-tuned elsewhere, over the encoder -> classes
    zero-shot      the generated land-cover tokens, as expected over their distribution -> classes
    embedding      the encoder's last tokens -> a vector for each 16 x 16 pixels
    generation     the generated tokens of another modality, decoded -> its values

Each is a network, what it takes and answers in plain values, and a few lines between the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model import weights
from model.encoder import Encoder
from model.errors import ModelError, listed
from model.generation.generator import Generator
from model.heads import Segmenter
from model.modalities import LAND_COVER, PATCH, RAW, TARGETS
from model.prediction.cards import Card
from model.prediction.predictor import Contract, Predictor, Running
from model.segmentation.pixelwise import PixelWise
from model.tokenizers import ddim

SEED = 0
"""Of the noise that diffusion starts from: every window starts from the same."""

GENERATED: Mapping[str, tuple[tuple[str, ...], str]] = {
    name: (RAW[name].bands, RAW[name].unit) if name in RAW else ((name,), "1")
    for name, entry in TARGETS.items()
    if entry.statistics is not None
}
"""What can be generated as values: names of the channels, and the unit."""


class SegmentationPredictor(Predictor):
    """Our segmenter with its card: it sees where pixels are missing."""

    def __init__(
        self,
        segmenter: Segmenter,
        card: Card,
        *,
        inputs: Sequence[str] | None = None,
        running: Running | None = None,
    ) -> None:
        self._segmenter = segmenter
        used = _used(card, inputs)
        state = weights.digest_of_state(segmenter.state_dict())
        contract = Contract(
            task="land_cover",
            window=card.window,
            inputs=used,
            statistics=card.statistics,
            class_names=card.class_names,
            digest=card.digest(f"{state} {' '.join(used)}"),
        )
        super().__init__(segmenter, contract, running or Running())

    def answer(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the probabilities (B, K, H, W)."""
        return torch.softmax(self._segmenter(given).float(), dim=1)


class FineTunedPredictor(Predictor):
    """A fine-tuned segmentation model; names of classes and statistics are not in its file."""

    def __init__(
        self,
        network: PixelWise,
        card: Card,
        *,
        inputs: Sequence[str] | None = None,
        running: Running | None = None,
    ) -> None:
        if network.num_classes != len(card.class_names):
            raise ModelError(
                f"{len(card.class_names)} class names for a model of {network.num_classes} "
                f"classes: {listed(card.class_names, 12)}"
            )
        self._network = network
        contract = _contract(
            card,
            _used(card, inputs),
            network,
            task="land_cover",
            class_names=card.class_names,
            how={"hyper_parameters": network.hyper_parameters},
        )
        super().__init__(network, contract, running or Running())

    def answer(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the probabilities (B, K, H, W)."""
        return torch.softmax(self._network.run(_filled(given)).float(), dim=1)


class ZeroShotPredictor(Predictor):
    """Land cover as the published model knows it: one pass, and no sampling.

    The legend is the model's own, clouds and nodata included: whoever maps takes these as gaps.
    """

    def __init__(
        self,
        generator: Generator,
        card: Card,
        *,
        inputs: Sequence[str] | None = None,
        running: Running | None = None,
    ) -> None:
        self._generator = generator
        contract = _contract(
            card, _used(card, inputs), generator, task="land_cover", class_names=LAND_COVER
        )
        super().__init__(generator, contract, running or Running())
        generator.batch = self.batch

    def answer(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the probabilities (B, 10, H, W)."""
        found = self._generator.expected(_filled(given), "LULC", standardize=False).float()
        return found / found.sum(dim=1, keepdim=True)


class EmbeddingPredictor(Predictor):
    """The last layer's tokens, averaged over the modalities: one vector for each patch."""

    def __init__(
        self,
        encoder: Encoder,
        card: Card,
        *,
        inputs: Sequence[str] | None = None,
        running: Running | None = None,
    ) -> None:
        if encoder.merge != "mean":
            raise ModelError(f"embeddings average the modalities: merge mean, not {encoder.merge}")
        self._encoder = encoder
        bands = tuple(f"e{index:03d}" for index in range(encoder.size.dim))
        contract = _contract(
            card, _used(card, inputs), encoder, task="embedding", bands=bands, cell=PATCH
        )
        super().__init__(encoder, contract, running or Running())

    def answer(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the tokens as a map (B, D, H / 16, W / 16)."""
        filled = _filled(given)
        rows, columns = (side // PATCH for side in next(iter(filled.values())).shape[2:])
        (tokens,) = self._encoder.run(filled, [self._encoder.depth - 1])
        if not isinstance(tokens, Tensor):
            raise ModelError("an encoder that merges its modalities is needed")
        return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)


class GenerationPredictor(Predictor):
    """Another modality, as the model imagines it: the likeliest tokens, then diffusion."""

    def __init__(
        self,
        generator: Generator,
        card: Card,
        modality: str,
        *,
        timesteps: int = 10,
        inputs: Sequence[str] | None = None,
        running: Running | None = None,
    ) -> None:
        if modality not in GENERATED:
            raise ModelError(
                f"modality {modality!r} cannot be generated as values; known are "
                f"{listed(GENERATED)} (land cover has a task of its own)"
            )
        ddim.timesteps(timesteps)
        # ^ refused here, and not at the first window
        bands, unit = GENERATED[modality]
        self._generator, self._timesteps = generator, timesteps
        contract = _contract(
            card,
            _used(card, inputs),
            generator,
            task="generate",
            bands=bands,
            modality=modality,
            unit=unit,
            how={"timesteps": timesteps, "seed": SEED},
        )
        super().__init__(generator, contract, running or Running())
        generator.batch = self.batch

    def answer(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the values (B, C, H, W) in the modality's unit."""
        name = self.contract.modality or ""
        made = self._generator.generate(
            _filled(given),
            seed=SEED,
            sampling="argmax",
            timesteps=self._timesteps,
            standardize=False,
        )[name].float()
        scale = TARGETS[name].statistics
        if scale is None:
            raise ModelError(f"{name} has no unit")
        mean, std = (made.new_tensor(v).view(1, -1, 1, 1) for v in (scale.mean, scale.std))
        return made * std + mean


def _contract(
    card: Card,
    inputs: Mapping[str, tuple[str, ...]],
    network: nn.Module,
    *,
    task: str,
    how: Mapping[str, Any] | None = None,
    **answer: Any,
) -> Contract:
    """Return the contract of a network with a card; its digest covers both and the answer."""
    identity = {
        "card": card.identity(),
        "inputs": {name: list(bands) for name, bands in inputs.items()},
        "answer": {"task": task, **{key: answer[key] for key in sorted(answer)}},
        "how": dict(how or {}),
        "state": weights.digest_of_state(network.state_dict()),
    }
    text = json.dumps(identity, sort_keys=True)
    return Contract(
        task=task,
        window=card.window,
        inputs=inputs,
        statistics=card.statistics,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        **answer,
    )


def _used(card: Card, inputs: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Return the inputs that will be given, in the card's order: another order changes bits."""
    names = list(card.inputs) if inputs is None else list(inputs)
    return {name: bands for name, bands in card.inputs.items() if name in names}


def _filled(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return standardised pixels with what is missing at the mean."""
    return {name: torch.nan_to_num(value, 0.0, 0.0, 0.0) for name, value in given.items()}
