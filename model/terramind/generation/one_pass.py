"""One encoder pass over what is given, and all that can be read off it.

    inputs -> encoder -> tokens, averaged over the modalities
                      -> decoder -> the distribution of a target's tokens -> class probabilities
                                 -> the likeliest tokens -> diffusion -> values

Each answer has the bits that it would have alone: the decoder is asked for one target after the
other, and no target is an input of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ModelError
from model.terramind.decoder import DecoderContext, PatchGrid
from model.terramind.generation import detokenize, ground_noise
from model.terramind.generation.expected_classes import expected_classes
from model.terramind.generation.generator import Generator
from model.terramind.generation.sampling import SamplingStrategy
from model.terramind.modalities import PATCH_SIZE, get_target_modality

_FULL_DISTRIBUTION = SamplingStrategy(sampling="sample", top_p=0.0)
# ^ the distribution as it is; nothing is drawn where the mean of the codes is asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """What the encoder made of some windows."""

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
            generator: of these inputs.
            inputs: standardised (B, C, H, W) by the names that they were declared with, finite.

        Raises:
            ModelError: an input that is unknown or of a wrong shape.
        """
        laid = generator.model.embed_inputs(inputs)
        if laid.grid is None:
            raise ModelError("no input lies on a grid")
        context = generator.model.encode_context(laid)
        return cls(generator=generator, inputs=inputs, context=context, grid=laid.grid)

    def feature_map(self) -> Tensor:
        """Return the encoder's last tokens as a map (B, D, H / 16, W / 16), averaged."""
        model = self.generator.model
        found = model.average_tokens(self.context.encoded, model.token_spans(self.inputs))
        return found.transpose(1, 2).reshape(len(found), -1, *self.grid)

    @torch.no_grad()
    def class_probabilities(self) -> Tensor:
        """Return the class probabilities (B, 10, H, W) of land cover, as `Generator.expected`."""
        key = get_target_modality("LULC").key
        tokenizer = detokenize.get_decoder(self.generator.tokenizer, "LULC", key)
        seeds = [0] * len(self.context.encoded)
        return expected_classes(
            tokenizer, self._logits(key), self.grid, _FULL_DISTRIBUTION, seeds, 0
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
            origins: of the windows on the ground, see `field.noise`; None: one noise for all.
        """
        key = get_target_modality(name).key
        tokenizer = detokenize.get_decoder(self.generator.tokenizer, name, key)
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
