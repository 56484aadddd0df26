"""The kinds of predictors, by the network that computes and the outputs of its encoder pass.

    segmentation   our head over the encoder -> classes; the encoder's last tokens -> embedding
    fine-tuned     an encoder and decoder fine-tuned with TerraTorch -> classes
    embedding      the encoder's last tokens -> a vector for each 16 x 16 pixels
    generative     the same; the land-cover tokens, as expected over their distribution -> classes;
                   the likeliest tokens of other modalities, decoded -> their values

Each is a network, its specification in plain values, and the few lines between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.errors import ModelError, join_names
from model.predictor.card_file import TASKS, Card
from model.predictor.predictor import InferenceOptions, Predictor, WindowBatch
from model.predictor.spec import OutputSpec, PredictorSpec, build_spec, select_inputs
from model.predictor.task_options import embedding_output, generated_output
from model.terramind.encoder import Encoder
from model.terramind.generation.encoded_batch import EncodedBatch
from model.terramind.generation.generator import Generator
from model.terramind.generation.value_scaling import Scaling
from model.terramind.modalities import LULC_CLASSES, PATCH_SIZE, TARGET_MODALITIES
from model.terramind.segmentation_head import Segmenter
from model.terramind.tokenizers import ddim
from model.terratorch.class_names import find_ignored_class
from model.terratorch.segmentation_model import PixelWiseModel
from model.weights import loading

NOISE_SEED = 0
"""Seed of the noise that diffusion starts from."""


class SegmentationPredictor(Predictor):
    """Our segmenter with its card; its head is given which pixels are missing."""

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
        selected = select_inputs(card, inputs)
        classes = _class_output(card)
        if "embedding" in tasks:
            outputs = (classes, embedding_output(segmenter.encoder))
            spec = build_spec(card, selected, segmenter, outputs)
        else:
            state = loading.hash_state_dict(segmenter.state_dict())
            spec = PredictorSpec(
                window=card.window,
                inputs=selected,
                statistics=card.statistics,
                outputs=(classes,),
                digest=card.digest(f"{state} {' '.join(selected)}"),
            )
            # ^ the digest of segmenters is older than `build_spec`
        super().__init__(segmenter, spec, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return the probabilities (B, K, H, W), and the tokens as a map where requested."""
        if len(self.outputs) == 1:
            return [torch.softmax(self._segmenter(windows.pixels).float(), dim=1)]
        logits, tokens = self._segmenter.forward_with_tokens(windows.pixels)
        return [torch.softmax(logits.float(), dim=1), _tokens_to_map(tokens, windows.pixels)]


class FineTunedPredictor(Predictor):
    """A segmentation model that TerraTorch fine-tuned.

    Class names and statistics come with the card.
    """

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
        ignored = find_ignored_class(network.hyper_parameters, network.num_classes)
        spec = build_spec(
            card,
            select_inputs(card, inputs),
            network,
            [_class_output(card, ignored)],
            options={"hyper_parameters": network.hyper_parameters},
        )
        super().__init__(network, spec, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return the probabilities (B, K, H, W)."""
        logits = self._network.forward_unchecked(windows.fill_missing())
        return [torch.softmax(logits.float(), dim=1)]


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
        spec = build_spec(card, select_inputs(card, inputs), encoder, [embedding_output(encoder)])
        super().__init__(encoder, spec, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return the tokens as a map (B, D, H / 16, W / 16)."""
        (tokens,) = self._encoder.forward_layers(windows.fill_missing(), [self._encoder.depth - 1])
        if not isinstance(tokens, Tensor):
            raise ModelError("an encoder that merges its modalities is needed")
        return [_tokens_to_map(tokens, windows.pixels)]


class GenerativePredictor(Predictor):
    """The published generative model without fine-tuning: land cover, embeddings, modalities.

    Land cover takes one pass and no sampling. Its legend is the model's own, with clouds and
    nodata, which a map treats as gaps. Another modality is generated from the likeliest tokens by
    diffusion, which starts from noise that depends on the position on the ground.
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
        # ^ an impossible number is refused here, not at the first window
        self._generator, self._timesteps = generator, timesteps
        outputs_by_task = {
            "land_cover": [OutputSpec(task="land_cover", class_names=LULC_CLASSES)],
            "embedding": [embedding_output(generator.model)],
            "generate": [generated_output(name) for name in modalities],
        }
        spec = build_spec(
            card,
            select_inputs(card, inputs),
            generator,
            [output for task in TASKS if task in tasks for output in outputs_by_task[task]],
            options={"timesteps": timesteps, "seed": NOISE_SEED, "noise": "of the ground"}
            if "generate" in tasks
            else {},
        )
        super().__init__(generator, spec, options or InferenceOptions())

    def forward(self, windows: WindowBatch) -> Sequence[Tensor]:
        """Return probabilities (B, 10, H, W), tokens, and values (B, C, H, W) in their units."""
        encoded = EncodedBatch.encode(self._generator, windows.fill_missing())
        return [self._compute_output(encoded, output, windows) for output in self.outputs]

    def _compute_output(
        self, encoded: EncodedBatch, output: OutputSpec, windows: WindowBatch
    ) -> Tensor:
        if output.task == "embedding":
            return encoded.feature_map()
        if output.modality is None:
            probabilities = encoded.class_probabilities()
            return probabilities / probabilities.sum(dim=1, keepdim=True)
        values = encoded.generate_values(
            output.modality, seed=NOISE_SEED, timesteps=self._timesteps, origins=windows.origins
        )
        modality = TARGET_MODALITIES[output.modality]
        if modality.statistics is None:
            raise ModelError(f"{output.modality} has no unit")
        return Scaling().restore_units(modality.key, values)


def _class_output(card: Card, ignored_index: int | None = None) -> OutputSpec:
    """Return the output of the classes of a card, one of which the training may have ignored."""
    ignored = () if ignored_index is None else (card.class_names[ignored_index],)
    return OutputSpec(
        task="land_cover",
        class_names=card.class_names,
        class_colors=card.class_colors,
        ignored_classes=ignored,
        layer=card.layer,
    )


def _tokens_to_map(tokens: Tensor, pixels: Mapping[str, Tensor]) -> Tensor:
    """Return tokens (B, N, D) of windows of pixels (B, C, H, W) as (B, D, H / 16, W / 16)."""
    rows, columns = (side // PATCH_SIZE for side in next(iter(pixels.values())).shape[2:])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)
