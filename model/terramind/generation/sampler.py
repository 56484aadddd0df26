"""Sample the tokens of other modalities: in one step or several, chained or independent.

    one step      every position of a target is decoded at once
    several       the positions are decoded in a random order; those decided are inputs of the
                  encoder in the next step
    chained       a target that is finished is an input of the next one; otherwise all share one
                  context
    sequences     coordinates, one token after the other; while they are to come, [S_1] stands among
                  the inputs of a chain, as published

The published model is trained for random orders, with parts of a target as input and parts as
output (random-order autoregression, as in the 4M family, Mizrahi et al. 2023). The positions of one
step do not depend on each other's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.terramind.decoder import DecoderContext, EmbeddedInputs, EncoderDecoder, PatchGrid
from model.terramind.generation.sampling_strategy import (
    SamplingStrategy,
    draw_orders,
    draw_uniforms,
)
from model.terramind.modalities import is_sequence_key

START_ID, EOS_ID, STOP_ID = 5, 3, 6
"""Ids of [S_1] before a generated sequence, [EOS] at the end of coordinates, [S_2] after it."""

COORDS_LENGTH = 3
"""Number of tokens of coordinates: latitude, longitude, end."""


class Sampler(nn.Module):
    """An encoder-decoder, and the sampling of its tokens."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def sample_tokens(
        self,
        embedded: EmbeddedInputs,
        keys: Sequence[str],
        strategy: SamplingStrategy,
        seeds: Sequence[int],
        grid: PatchGrid | None = None,
    ) -> dict[str, Tensor]:
        """Return the ids of targets by key, (B, h, w), or (B, 3) for coordinates with their end.

        Args:
            embedded: the inputs.
            keys: of the targets, in the order in which they are generated.
            strategy: how ids are chosen.
            seeds: one for each sample.
            grid: rows and columns of tokens; None = those of the inputs.

        Raises:
            ModelError: no grid is known; or a target is to be an input, for which the encoder has
                no embedding.
        """
        grid = grid or embedded.grid
        rasters = [key for key in keys if not is_sequence_key(key)]
        if rasters and grid is None:
            raise ModelError("no input is a raster: give the size of the outputs")
        self._check_targets(keys, rasters, strategy)
        if strategy.chained:
            return self._sample_chained(embedded, keys, strategy, seeds, grid or (0, 0))
        return self._sample_independent(embedded, keys, strategy, seeds, grid or (0, 0))

    def _sample_chained(
        self,
        embedded: EmbeddedInputs,
        keys: Sequence[str],
        strategy: SamplingStrategy,
        seeds: Sequence[int],
        grid: PatchGrid,
    ) -> dict[str, Tensor]:
        ids: dict[str, Tensor] = {}
        for index, key in enumerate(keys):
            inputs = self._append_start_tokens(embedded, keys[index:])
            context = self.model.encode_context(inputs)
            ids[key] = self._sample_target(inputs, context, key, strategy, seeds, grid)
            if index + 1 < len(keys):
                embedded = self.model.append_tokens(embedded, key, ids[key])
        return ids

    def _sample_independent(
        self,
        embedded: EmbeddedInputs,
        keys: Sequence[str],
        strategy: SamplingStrategy,
        seeds: Sequence[int],
        grid: PatchGrid,
    ) -> dict[str, Tensor]:
        context = self.model.encode_context(embedded)
        rasters = [key for key in keys if not is_sequence_key(key)]
        ids: dict[str, Tensor] = {}
        if rasters and strategy.decoding_steps == 1:
            ids = self._sample_one_step(context, rasters, strategy, seeds, grid)
        for key in keys:
            if key not in ids:
                ids[key] = self._sample_target(embedded, context, key, strategy, seeds, grid)
        return {key: ids[key] for key in keys}

    def _append_start_tokens(self, embedded: EmbeddedInputs, keys: Sequence[str]) -> EmbeddedInputs:
        """Append [S_1] for each sequence to come that the encoder has an embedding for."""
        for key in keys:
            if is_sequence_key(key) and key in self.model.encoder_embeddings:
                ids = torch.full((len(embedded.tokens), 1), START_ID, device=embedded.tokens.device)
                embedded = self.model.append_tokens(embedded, key, ids)
        return embedded

    def _check_targets(
        self, keys: Sequence[str], rasters: Sequence[str], strategy: SamplingStrategy
    ) -> None:
        known = self.model.encoder_embeddings
        if strategy.decoding_steps > 1 and (
            unknown := [key for key in rasters if key not in known]
        ):
            raise ModelError(
                f"several decoding steps feed {unknown[0]} back to the encoder, which has no "
                "embedding for it: build the generator with embed_last=True"
            )
        if strategy.chained and (unknown := [key for key in keys[:-1] if key not in known]):
            raise ModelError(
                f"{unknown[0]} cannot be an input of what follows it: the encoder has no "
                "embedding for it. Keep the order of the model's outputs, use chained=False, or "
                "build the generator with embed_last=True"
            )

    def _sample_one_step(
        self,
        context: DecoderContext,
        keys: Sequence[str],
        strategy: SamplingStrategy,
        seeds: Sequence[int],
        grid: PatchGrid,
    ) -> dict[str, Tensor]:
        logits = self.model.logits(context, keys, grid)
        return {
            key: _choose_ids(strategy, target_logits, seeds, f"{key} 0").view(-1, *grid)
            for key, target_logits in zip(keys, logits, strict=True)
        }

    def _sample_target(
        self,
        embedded: EmbeddedInputs,
        context: DecoderContext,
        key: str,
        strategy: SamplingStrategy,
        seeds: Sequence[int],
        grid: PatchGrid,
    ) -> Tensor:
        if is_sequence_key(key):
            return self._sample_sequence(context, key, strategy, seeds)
        if strategy.decoding_steps == 1:
            return self._sample_one_step(context, [key], strategy, seeds, grid)[key]
        return self._sample_multi_step(embedded, context, key, strategy, seeds, grid)

    def _sample_multi_step(
        self,
        embedded: EmbeddedInputs,
        context: DecoderContext,
        key: str,
        strategy: SamplingStrategy,
        seeds: Sequence[int],
        grid: PatchGrid,
    ) -> Tensor:
        count = grid[0] * grid[1]
        device = embedded.tokens.device
        ids = torch.zeros(len(seeds), count, dtype=torch.long, device=device)
        order = draw_orders(seeds, count, f"{key} order").to(device)  # positions (B, N)
        decided = 0
        for step, share in enumerate(strategy.step_counts(count)):
            if step:
                done = order[:, :decided].sort(dim=1).values
                inputs = self.model.append_tokens(embedded, key, ids.view(-1, *grid), done)
                context = self.model.encode_context(inputs)
            positions = order[:, decided : decided + share].sort(dim=1).values
            (logits,) = self.model.logits(context, [key], grid, positions)
            ids.scatter_(1, positions, _choose_ids(strategy, logits, seeds, f"{key} {step}"))
            decided += share
        return ids.view(-1, *grid)

    def _sample_sequence(
        self, context: DecoderContext, key: str, strategy: SamplingStrategy, seeds: Sequence[int]
    ) -> Tensor:
        """Return the ids (B, 3) that follow [S_1], one after the other, up to their end."""
        ids = torch.full((len(seeds), 1), START_ID, device=context.encoded.device)
        for step in range(COORDS_LENGTH):
            logits = self.model.next_logits(context, key, ids)[:, None]
            ids = torch.cat([ids, _choose_ids(strategy, logits, seeds, f"{key} {step}")], dim=1)
        generated = ids[:, 1:]
        after_end = (generated == STOP_ID).cumsum(dim=1) > 0
        return generated.masked_fill(after_end, EOS_ID)
        # ^ always three ids, as the encoder takes coordinates: [lat, lon, EOS]


def _choose_ids(
    strategy: SamplingStrategy, logits: Tensor, seeds: Sequence[int], purpose: str
) -> Tensor:
    """Return ids (B, N) for logits (B, N, V)."""
    uniforms = draw_uniforms(seeds, logits.shape[1], purpose) if strategy.is_stochastic else None
    return strategy.choose_ids(logits, uniforms)
