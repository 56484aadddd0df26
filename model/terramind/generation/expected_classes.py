"""Class probabilities of land cover over the whole distribution of its tokens.

A single token map gives one of many possible maps. The expected probabilities are the mean of
softmax(scores(tokens)) over all token maps, each weighted by its probability. The scores depend on
all tokens together, so that this mean has no closed form; it is approximated by one pass of the
tokenizer's decoder at the mean of the codes. That is exact where the model is sure of a token, and
smooth between tokens whose codes are close. Where two distant tokens are equally likely, the
decoder sees a code between them, which may stand for neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.terramind.generation.sampling_strategy import SamplingStrategy, filter_logits
from model.terramind.tokenizers.tokenizer import Tokenizer


def compute_class_probabilities(
    tokenizer: Tokenizer, logits: Tensor, grid: tuple[int, int], strategy: SamplingStrategy
) -> Tensor:
    """Return class probabilities (B, 10, 16 * h, 16 * w), float32, at the mean code.

    Args:
        tokenizer: of land cover, with its decoder.
        logits: of one decoding step, (B, h * w, V).
        grid: h and w.
        strategy: temperature and filters of the distribution.
    """
    codes = compute_mean_codes(tokenizer, logits, strategy).transpose(1, 2)  # (B, 5, h * w)
    scores = tokenizer.class_logits(codes.reshape(*codes.shape[:2], *grid))
    return scores.float().softmax(dim=1)


def compute_mean_codes(tokenizer: Tokenizer, logits: Tensor, strategy: SamplingStrategy) -> Tensor:
    """Return the mean of the codes, (B, N, 5), under the distribution of logits (B, N, V).

    The decoder's first layer is linear in the codes, so that it sees the mean of its inputs; the
    result is the first-order approximation of the mean of its outputs.
    """
    vocabulary = logits.shape[2]
    ids = torch.arange(vocabulary, device=logits.device).view(1, 1, -1)
    codes = tokenizer.ids_to_codes(ids)[0, :, 0].T  # (V, 5)
    if not strategy.is_stochastic:
        return codes[logits.argmax(dim=2)]
    filtered = filter_logits(logits.float().flatten(0, 1), strategy.top_k, strategy.top_p)
    probabilities = (filtered / strategy.temperature).softmax(dim=1)  # (B * N, V)
    return (probabilities @ codes).view(*logits.shape[:2], -1)
