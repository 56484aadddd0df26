"""Several outputs from one pass of the encoder.

    inputs -> encoder -> tokens, averaged over the modalities
                      -> decoder -> distribution of a target's tokens -> class probabilities
                                 -> likeliest tokens -> diffusion -> values

Each output has the bits that it has alone: the decoder runs for one target after the other, and no
target is an input of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ModelError
from model.terramind.decoder import DecoderContext, PatchGrid
from model.terramind.generation import ground_noise
from model.terramind.generation.expected_classes import compute_class_probabilities
from model.terramind.generation.generator import Generator
from model.terramind.generation.sampling_strategy import SamplingStrategy
from model.terramind.modalities import PATCH_SIZE, get_target_modality

_FULL_DISTRIBUTION = SamplingStrategy(sampling="sample", top_p=0.0)
# ^ without filters; nothing is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """The encoder's output for a batch of windows."""

    generator: Generator
    inputs: Mapping[str, Tensor]
    context: DecoderContext
    grid: PatchGrid
    """Rows and columns of the tokens."""

    @classmethod
    @torch.no_grad()
    def encode(cls, generator: Generator, inputs: Mapping[str, Tensor]) -> EncodedBatch:
        """Run the encoder.

        Args:
            generator: a generator of these inputs.
            inputs: standardised (B, C, H, W), finite, by the names they were declared with.

        Raises:
            ModelError: an input that is unknown or of a wrong shape.
        """
        checked = generator.model.check_inputs(inputs, check_values=False)
        embedded = generator.model.embed_inputs(checked)
        if embedded.grid is None:
            raise ModelError("no input is a raster: give at least one")
        context = generator.model.encode_context(embedded)
        return cls(generator=generator, inputs=checked, context=context, grid=embedded.grid)

    def feature_map(self) -> Tensor:
        """Return the encoder's tokens, averaged over the images, as (B, D, H / 16, W / 16)."""
        tokens = self.generator.model.average_images(self.inputs, self.context.encoded)
        return tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid)

    @torch.no_grad()
    def class_probabilities(self) -> Tensor:
        """Return land-cover probabilities (B, 10, H, W), as `Generator.class_probabilities`."""
        key = get_target_modality("LULC").key
        tokenizer = self.generator.tokenizer.get_decoder("LULC", key)
        return compute_class_probabilities(
            tokenizer, self._logits(key), self.grid, _FULL_DISTRIBUTION
        )

    @torch.no_grad()
    def generate_values(
        self, name: str, *, seed: int, timesteps: int, origins: Sequence[tuple[int, int]] | None
    ) -> Tensor:
        """Return a modality's standardised values (B, C, H, W), float32, of its likeliest tokens.

        Args:
            name: of the modality.
            seed: of the noise that diffusion starts from.
            timesteps: of the diffusion.
            origins: row and column of each window's first pixel, see `ground_noise.make_noise`;
                None: the same noise for all windows.
        """
        key = get_target_modality(name).key
        tokenizer = self.generator.tokenizer.get_decoder(name, key)
        ids = self._logits(key).argmax(dim=2).view(-1, *self.grid)
        noise: Tensor | None = None
        if origins is not None:
            size = (PATCH_SIZE * self.grid[0], PATCH_SIZE * self.grid[1])
            noise = ground_noise.make_noise(
                seed, name, tokenizer.channels, size, origins, self.context.encoded.device
            )
        return tokenizer.decode(ids, noise=noise, timesteps=timesteps, seed=seed).float()

    def _logits(self, key: str) -> Tensor:
        (logits,) = self.generator.model.logits(self.context, [key], self.grid)
        return logits.float()
