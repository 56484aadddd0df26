"""Land cover over the whole distribution of its tokens, where a single token map knows one answer.

Wanted is the mean of softmax(scores(tokens)) over all token maps, each weighted by its probability;
positions are independent given the inputs, as the model decodes them in one step. The scores depend
on all tokens together, so that the mean has no closed form.

    mean code   the decoder, once, at the mean of the codes
    draws       the average over token maps that are spread evenly through the distribution
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.terramind.generation.sampling import SamplingStrategy, draw_uniforms, filter_logits
from model.terramind.tokenizers.tokenizer import Tokenizer


def expected_classes(
    tokenizer: Tokenizer,
    logits: Tensor,
    grid: tuple[int, int],
    strategy: SamplingStrategy,
    seeds: Sequence[int],
    draws: int,
) -> Tensor:
    """Return class probabilities (B, 10, H, W), float32, for logits (B, h * w, V).

    Args:
        tokenizer: of land cover, with its decoder.
        logits: of one parallel step.
        grid: h and w.
        strategy: temperature and filters of the distribution.
        seeds: one for each sample.
        draws: the number of token maps, or 0 for the mean code.
    """
    if not draws:
        codes = compute_mean_codes(tokenizer, logits, strategy).transpose(1, 2)
        return tokenizer.class_logits(codes.reshape(*codes.shape[:2], *grid)).float().softmax(dim=1)
    total = torch.zeros((), device=logits.device)
    for ids in draw_stratified(logits, strategy, seeds, draws):
        total = total + tokenizer.decode(ids.view(-1, *grid)).float().softmax(dim=1)
    return total / draws


def compute_mean_codes(tokenizer: Tokenizer, logits: Tensor, strategy: SamplingStrategy) -> Tensor:
    """Return the mean of the codes (B, N, 5) under the distribution of logits (B, N, V).

    The codes enter the tokenizer's decoder through a linear map, so that the decoder sees the mean
    of its inputs; what it answers is the first-order value of the mean of its answers.
    """
    vocabulary = logits.shape[2]
    ids = torch.arange(vocabulary, device=logits.device).view(1, 1, -1)
    codes = tokenizer.ids_to_codes(ids)[0, :, 0].T
    # ^ (V, 5)
    if not strategy.is_stochastic:
        return codes[logits.argmax(dim=2)]
    kept = filter_logits(logits.float().flatten(0, 1), strategy.top_k, strategy.top_p)
    share = (kept / strategy.temperature).softmax(dim=1)
    return (share @ codes).view(*logits.shape[:2], -1)


def draw_stratified(
    logits: Tensor, strategy: SamplingStrategy, seeds: Sequence[int], count: int
) -> Iterator[Tensor]:
    """Yield token maps (B, N) that together cover the distribution evenly at each position.

    A Latin hypercube (McKay et al. 1979): each position's quantiles are cut into `count` strata,
    and each map gets one number from each position's own shuffled strata. The average over the
    maps is unbiased for every count, with less noise than that of independent draws.
    """
    batch, positions, _ = logits.shape
    within, shuffle = (
        draw_uniforms(seeds, positions * count, f"expected {part}").view(batch, positions, count)
        for part in ("draws", "strata")
    )
    lots = (shuffle.argsort(dim=2) + within) / count
    for index in range(count):
        yield strategy.choose_ids(logits, lots[:, :, index])
