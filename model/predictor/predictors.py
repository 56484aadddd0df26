"""The kinds of predictors: by what computes, and what can be read off it in one encoder pass.

    segmentation   our head over the encoder -> classes; the encoder's last tokens -> embedding
    fine-tuned     a decoder fine-tuned elsewhere over the encoder -> classes
    embedding      the encoder's last tokens -> a vector for each 16 x 16 pixels
    generative     the same; the land-cover tokens, as expected over their distribution -> classes;
                   the likeliest tokens of other modalities, decoded -> their values

Each is a network, what it takes and answers in plain values, and a few lines between the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.predictor.cards import TASKS, Card
from model.predictor.predictor import InferenceOptions, Predictor, WindowBatch
from model.predictor.spec import OutputSpec, PredictorSpec
from model.segmentation_head import Segmenter
from model.terramind.encoder import Encoder
from model.terramind.generation.generator import Generator
from model.terramind.generation.one_pass import EncodedBatch
from model.terramind.modalities import (
    LULC_CLASSES,
    PATCH_SIZE,
    RASTER_MODALITIES,
    TARGET_MODALITIES,
)
from model.terramind.tokenizers import ddim
from model.terratorch.segmentation import PixelWiseModel
from model.weights import loading

NOISE_SEED = 0
"""Of the noise that diffusion starts from."""

GENERATED_MODALITIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    name: (RASTER_MODALITIES[name].bands, RASTER_MODALITIES[name].unit)
    if name in RASTER_MODALITIES
    else ((name,), "1")
    for name, entry in TARGET_MODALITIES.items()
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
        tasks: Sequence[str] = ("land_cover",),
        inputs: Sequence[str] | None = None,
        options: InferenceOptions | None = None,
    ) -> None:
        self._segmenter = segmenter
        used = _select_inputs(card, inputs)
        said = OutputSpec(task="land_cover", class_names=card.class_names)
        if "embedding" in tasks:
            answers = (said, _embedding_spec(segmenter.encoder))
            contract = _build_spec(card, used, segmenter, answers)
        else:
            state = loading.hash_state_dict(segmenter.state_dict())
            contract = PredictorSpec(
                window=card.window,
                inputs=used,
                statistics=card.statistics,
                outputs=(said,),
                digest=card.digest(f"{state} {' '.join(used)}"),
            )
        super().__init__(segmenter, contract, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return the probabilities (B, K, H, W), and the tokens where they are asked for."""
        if len(self.outputs) == 1:
            return [torch.softmax(self._segmenter(windows.pixels).float(), dim=1)]
        logits, tokens = self._segmenter.forward_with_tokens(windows.pixels)
        return [torch.softmax(logits.float(), dim=1), _tokens_to_map(tokens, windows.pixels)]


class FineTunedPredictor(Predictor):
    """A fine-tuned segmentation model; names of classes and statistics are not in its file."""

    def __init__(
        self,
        network: PixelWiseModel,
        card: Card,
        *,
        inputs: Sequence[str] | None = None,
        options: InferenceOptions | None = None,
    ) -> None:
        if network.num_classes != len(card.class_names):
            raise ModelError(
                f"{len(card.class_names)} class names for a model of {network.num_classes} "
                f"classes: {join_names(card.class_names, 12)}"
            )
        self._network = network
        contract = _build_spec(
            card,
            _select_inputs(card, inputs),
            network,
            [OutputSpec(task="land_cover", class_names=card.class_names)],
            how={"hyper_parameters": network.hyper_parameters},
        )
        super().__init__(network, contract, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return the probabilities (B, K, H, W)."""
        return [
            torch.softmax(self._network.forward_unchecked(windows.fill_missing()).float(), dim=1)
        ]


class EmbeddingPredictor(Predictor):
    """The last layer's tokens, averaged over the modalities: one vector for each patch."""

    def __init__(
        self,
        encoder: Encoder,
        card: Card,
        *,
        inputs: Sequence[str] | None = None,
        options: InferenceOptions | None = None,
    ) -> None:
        if encoder.merge != "mean":
            raise ModelError(f"embeddings average the modalities: merge mean, not {encoder.merge}")
        self._encoder = encoder
        contract = _build_spec(
            card, _select_inputs(card, inputs), encoder, [_embedding_spec(encoder)]
        )
        super().__init__(encoder, contract, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return the tokens as a map (B, D, H / 16, W / 16)."""
        (tokens,) = self._encoder.forward_layers(windows.fill_missing(), [self._encoder.depth - 1])
        if not isinstance(tokens, Tensor):
            raise ModelError("an encoder that merges its modalities is needed")
        return [_tokens_to_map(tokens, windows.pixels)]


class GenerativePredictor(Predictor):
    """What the published model knows, out of the box: land cover, embeddings, other sensors.

    Land cover takes one pass and no sampling. Its legend is the model's own, clouds and nodata
    included: whoever maps takes these as gaps. Another modality is what the model imagines: the
    likeliest tokens, then diffusion from the noise of the ground.
    """

    def __init__(
        self,
        generator: Generator,
        card: Card,
        *,
        tasks: Sequence[str] = ("land_cover",),
        modalities: Sequence[str] = (),
        timesteps: int = 10,
        inputs: Sequence[str] | None = None,
        options: InferenceOptions | None = None,
    ) -> None:
        ddim.timesteps(timesteps)
        # ^ refused here, and not at the first window
        self._generator, self._timesteps = generator, timesteps
        offered = {
            "land_cover": [OutputSpec(task="land_cover", class_names=LULC_CLASSES)],
            "embedding": [_embedding_spec(generator.model)],
            "generate": [_generated_spec(name) for name in modalities],
        }
        contract = _build_spec(
            card,
            _select_inputs(card, inputs),
            generator,
            [answer for task in TASKS if task in tasks for answer in offered[task]],
            how={"timesteps": timesteps, "seed": NOISE_SEED, "noise": "of the ground"}
            if "generate" in tasks
            else {},
        )
        super().__init__(generator, contract, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return probabilities (B, 10, H, W), tokens, and values (B, C, H, W) in their units."""
        seen = EncodedBatch.encode(self._generator, windows.fill_missing())
        return [self._compute_output(seen, one, windows) for one in self.outputs]

    def _compute_output(
        self, seen: EncodedBatch, asked: OutputSpec, windows: WindowBatch
    ) -> Tensor:
        if asked.task == "embedding":
            return seen.feature_map()
        if asked.modality is None:
            found = seen.class_probabilities()
            return found / found.sum(dim=1, keepdim=True)
        made = seen.generate_values(
            asked.modality, seed=NOISE_SEED, timesteps=self._timesteps, origins=windows.origins
        )
        scale = TARGET_MODALITIES[asked.modality].statistics
        if scale is None:
            raise ModelError(f"{asked.modality} has no unit")
        mean, std = (made.new_tensor(v).view(1, -1, 1, 1) for v in (scale.mean, scale.std))
        return made * std + mean


def _embedding_spec(encoder: Encoder) -> OutputSpec:
    bands = tuple(f"e{index:03d}" for index in range(encoder.architecture.dim))
    return OutputSpec(task="embedding", bands=bands, stride=PATCH_SIZE)


def _generated_spec(modality: str) -> OutputSpec:
    if modality not in GENERATED_MODALITIES:
        raise ModelError(
            f"modality {modality!r} cannot be generated as values; known are "
            f"{join_names(GENERATED_MODALITIES)} (land cover has a task of its own)"
        )
    bands, unit = GENERATED_MODALITIES[modality]
    return OutputSpec(task="generate", bands=bands, modality=modality, unit=unit)


def _build_spec(
    card: Card,
    inputs: Mapping[str, tuple[str, ...]],
    network: nn.Module,
    outputs: Sequence[OutputSpec],
    *,
    how: Mapping[str, Any] | None = None,
) -> PredictorSpec:
    """Return the contract of a network with a card; its digest covers both and the answers."""
    identity = {
        "card": card.identity(),
        "inputs": {name: list(bands) for name, bands in inputs.items()},
        "answers": [_output_identity(output) for output in outputs],
        "how": dict(how or {}),
        "state": loading.hash_state_dict(network.state_dict()),
    }
    text = json.dumps(identity, sort_keys=True)
    return PredictorSpec(
        window=card.window,
        inputs=inputs,
        statistics=card.statistics,
        outputs=tuple(outputs),
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def _output_identity(output: OutputSpec) -> dict[str, Any]:
    """Return the fields of an output under the names that digests are computed with."""
    values = asdict(output)
    return {"cell" if name == "stride" else name: value for name, value in values.items()}


def _select_inputs(card: Card, inputs: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Return the inputs that will be given, in the card's order: another order changes bits."""
    names = list(card.inputs) if inputs is None else list(inputs)
    return {name: bands for name, bands in card.inputs.items() if name in names}


def _tokens_to_map(tokens: Tensor, pixels: Mapping[str, Tensor]) -> Tensor:
    """Return tokens (B, N, D) of windows of pixels (B, C, H, W) as (B, D, H / 16, W / 16)."""
    rows, columns = (side // PATCH_SIZE for side in next(iter(pixels.values())).shape[2:])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)


def parse_tasks(
    task: str | Sequence[str], modality: str | Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tasks, and what is to be generated, in one order whatever the order asked in.

    Raises:
        ModelError: an unknown one, one twice, none; or one that does not go with the other.
    """
    tasks, modalities = _parse_names(task), _parse_names(modality)
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise ModelError(f"unknown task {join_names(unknown)}; known are {join_names(TASKS)}")
    if ("generate" in tasks and not modalities) or any(
        name not in GENERATED_MODALITIES for name in modalities
    ):
        raise ModelError(
            f"modality {join_names(modalities)}: name what is to be generated, one or more of "
            f"{join_names(GENERATED_MODALITIES)}"
            + (" (land cover is a task of its own)" if "LULC" in modalities else "")
        )
    if modalities and "generate" not in tasks:
        raise ModelError(
            f"modality {join_names(modalities)}: only the task generate has one, not {join_names(tasks)}"
        )
    return (
        tuple(name for name in TASKS if name in tasks),
        tuple(name for name in GENERATED_MODALITIES if name in modalities),
    )


def _parse_names(given: str | Sequence[str] | None) -> list[str]:
    names = [given] if isinstance(given, str) else list(given or ())
    if len(set(names)) < len(names):
        raise ModelError(f"{join_names(names)}: each once")
    return names
