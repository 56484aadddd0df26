"""The tokens of other modalities, from what was given: one pass, or several.

    one step      every position of a target is asked for at once
    several       in an order; what is decided is an input of the encoder in the next step
    chained       a target that is done is an input of the next one; otherwise all share one context
    in words      coordinates, one word after the other; where they are to come, [S_1] stands among
                  the inputs of a chain, as published

The published model is trained for random orders: parts of a target as input, parts asked for
(random-order autoregression, ROAR, as in the 4M family, Mizrahi et al. 2023); the positions of a
step do not depend on each other's choice. The order "confidence" asks for all that is open and
keeps what the model is surest of (MaskGIT, Chang et al. 2022, arXiv:2202.04200).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.terramind.decoder import DecoderContext, EmbeddedInputs, EncoderDecoder, PatchGrid
from model.terramind.generation.sampling import SamplingStrategy, draw_orders, draw_uniforms
from model.terramind.modalities import MODALITIES_BY_KEY, TokenModality

START_ID, EOS_ID, STOP_ID = 5, 3, 6
"""Ids of [S_1], before what is said in words; of [EOS], the end of coordinates; of [S_2], after."""

COORDS_LENGTH = 3
"""Length of an answer in words: a latitude, a longitude, and the end."""


class Sampler(nn.Module):
    """An encoder-decoder, and how its tokens are drawn."""

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
        """Return the ids of targets, (B, h, w), or (B, 3) for coordinates with their end.

        Args:
            embedded: the inputs.
            keys: the targets, in the order in which they are made.
            strategy: how ids are chosen.
            seeds: one for each sample.
            grid: rows and columns of tokens; None = those of the inputs.

        Raises:
            ModelError: no grid is known; or a target is to be fed back that the encoder does not
                know.
        """
        grid = grid or embedded.grid
        rasters = [key for key in keys if not is_sequence_key(key)]
        if rasters and grid is None:
            raise ModelError("no input lies on a grid: give the size of what is generated")
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
        found: dict[str, Tensor] = {}
        for place, key in enumerate(keys):
            here = self._append_start_tokens(embedded, keys[place:])
            found[key] = self._sample_target(
                here, self.model.encode_context(here), key, strategy, seeds, grid
            )
            if place + 1 < len(keys):
                embedded = self.model.append_tokens(embedded, key, found[key])
        return found

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
        found: dict[str, Tensor] = {}
        if rasters and strategy.decoding_steps == 1:
            found = self._sample_one_step(context, rasters, strategy, seeds, grid)
        for key in keys:
            if key not in found:
                found[key] = self._sample_target(embedded, context, key, strategy, seeds, grid)
        return {key: found[key] for key in keys}

    def _append_start_tokens(self, embedded: EmbeddedInputs, keys: Sequence[str]) -> EmbeddedInputs:
        """Return inputs with [S_1] in the place of words to come, where the encoder knows them."""
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
        if not keys:
            return {}
        every = self.model.logits(context, keys, grid)
        return {
            key: _choose_ids(strategy, logits, seeds, f"{key} 0").view(-1, *grid)
            for key, logits in zip(keys, every, strict=True)
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
        open_ = draw_orders(seeds, count, f"{key} order").to(device)
        done = open_[:, :0]
        # ^ positions (B, n): those to come, in their order, and those decided, ascending
        for step, share in enumerate(strategy.step_counts(count)):
            if step:
                more = self.model.append_tokens(embedded, key, ids.view(-1, *grid), done)
                context = self.model.encode_context(more)
            sure = strategy.order == "confidence"
            asked = open_.sort(dim=1).values if sure else open_[:, :share].sort(dim=1).values
            (logits,) = self.model.logits(context, [key], grid, asked)
            chosen = _choose_ids(strategy, logits, seeds, f"{key} {step}")
            if sure:
                best = _most_confident(logits, chosen, share)
                asked, chosen = asked.gather(1, best), chosen.gather(1, best)
            ids.scatter_(1, asked, chosen)
            done = torch.cat([done, asked], dim=1).sort(dim=1).values
            open_ = _remove_positions(open_, asked, count)
        return ids.view(-1, *grid)

    def _sample_sequence(
        self, context: DecoderContext, key: str, strategy: SamplingStrategy, seeds: Sequence[int]
    ) -> Tensor:
        """Return the words that follow [S_1], one after the other, up to their end."""
        ids = torch.full((len(seeds), 1), START_ID, device=context.encoded.device)
        for step in range(COORDS_LENGTH):
            logits = self.model.next_logits(context, key, ids)[:, None]
            ids = torch.cat([ids, _choose_ids(strategy, logits, seeds, f"{key} {step}")], dim=1)
        said = ids[:, 1:]
        over = (said == STOP_ID).cumsum(dim=1) > 0
        return said.masked_fill(over, EOS_ID)
        # ^ always three, as the encoder knows coordinates: [lat, lon, EOS]


def _choose_ids(
    strategy: SamplingStrategy, logits: Tensor, seeds: Sequence[int], purpose: str
) -> Tensor:
    """Return ids (B, N) for logits (B, N, V)."""
    lots = draw_uniforms(seeds, logits.shape[1], purpose) if strategy.is_stochastic else None
    return strategy.choose_ids(logits, lots)


def _most_confident(logits: Tensor, chosen: Tensor, share: int) -> Tensor:
    """Return the places (B, share) whose chosen ids have the highest probability, ascending."""
    score = logits.float().log_softmax(dim=2).gather(2, chosen[:, :, None])[:, :, 0]
    first = score.sort(dim=1, descending=True, stable=True).indices[:, :share]
    return first.sort(dim=1).values


def _remove_positions(positions: Tensor, taken: Tensor, count: int) -> Tensor:
    """Return positions (B, n) without those taken (B, k), in their order, (B, n - k)."""
    gone = torch.zeros(len(positions), count, dtype=torch.bool, device=positions.device)
    left = ~gone.scatter_(1, taken, value=True).gather(1, positions)
    return positions[left].view(len(positions), -1)


def is_sequence_key(key: str) -> bool:
    """Tell a modality whose tokens stand in a row, not on the grid."""
    known = MODALITIES_BY_KEY.get(key)
    return isinstance(known, TokenModality) and known.is_sequence
