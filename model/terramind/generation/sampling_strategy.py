"""Choice of tokens from logits: filters, draws, and the number of positions per step.

Random numbers come from a generator on the CPU for each sample, seeded by the sample's seed and the
purpose of the draw. So the tokens of a sample depend neither on its batch and its position there,
nor on earlier draws, and the global generators are not used.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.errors import ModelError, join_names

SamplingMode = Literal["argmax", "sample"]
StepSchedule = Literal["linear", "cosine"]
Seeds = int | Sequence[int]
"""One seed for all samples, or one for each."""

Candidates = tuple[Tensor, Tensor, Tensor, Tensor]
"""Row indices (r,), and logits, ids and a mask of the candidates that are kept, each (r, n)."""

_TOP_CANDIDATES = 256
"""Number of likeliest tokens that are sorted before the whole vocabulary is."""


DEFAULT_TEMPERATURE = 1.0
"""Temperature of the distribution from which tokens are drawn."""

DEFAULT_TOP_P = 0.8
"""Share of the probability whose likeliest tokens may be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingStrategy:
    """How the tokens of a target are chosen from logits, and in how many steps."""

    sampling: SamplingMode = "argmax"
    """The likeliest token at each position, or one drawn from the distribution."""

    temperature: float = DEFAULT_TEMPERATURE
    """Divisor of the logits before a draw; 0 is argmax."""

    top_k: float = 0
    """Number of likeliest tokens to draw from; below 1 a share of the vocabulary; 0 is off."""

    top_p: float = DEFAULT_TOP_P
    """Draw from the fewest tokens that hold this probability together; 0 and 1 are off."""

    decoding_steps: int = 1
    """1 decodes all positions at once; with more, later positions depend on the earlier ones."""

    schedule: StepSchedule = "linear"
    """Equal numbers of positions in each step, or fewer in the first and the last ones."""

    chained: bool = True
    """Whether a target that is finished is an input of the next ones."""

    def __post_init__(self) -> None:
        _check_choice("sampling", self.sampling, ("argmax", "sample"))
        _check_choice("schedule", self.schedule, ("linear", "cosine"))
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ModelError(f"temperature {self.temperature!r}: a number of 0 or more expected")
        if not 0 <= self.top_p <= 1:
            raise ModelError(f"top_p {self.top_p!r}: a share of 0 to 1 expected")
        if not (0 <= self.top_k < math.inf) or (self.top_k >= 1 and self.top_k != int(self.top_k)):
            raise ModelError(
                f"top_k {self.top_k!r}: a whole number, or a fraction below one, expected"
            )
        steps = self.decoding_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ModelError(f"decoding steps {steps!r}: a whole number of 1 or more expected")

    @property
    def is_stochastic(self) -> bool:
        """Whether tokens are drawn."""
        return self.sampling == "sample" and self.temperature > 0

    def step_counts(self, count: int) -> list[int]:
        """Return how many of `count` positions each step decodes, without empty steps."""
        if self.schedule == "linear":
            return linear_schedule(count, self.decoding_steps)
        steps: list[int] = []
        for share in cosine_schedule(count, self.decoding_steps):
            steps.append(max(0, min(share, count - sum(steps))))
        return [share for share in steps if share]

    def choose_ids(self, logits: Tensor, uniforms: Tensor | None) -> Tensor:
        """Return ids (B, N) for logits (B, N, V); draws need uniform numbers (B, N) in [0, 1)."""
        if uniforms is None or not self.is_stochastic:
            return logits.argmax(dim=-1)
        batch, count, vocabulary = logits.shape
        flat = logits.reshape(-1, vocabulary).float()
        ids = sample_ids(flat, uniforms.reshape(-1), self.temperature, self.top_k, self.top_p)
        return ids.view(batch, count)


def linear_schedule(count: int, steps: int) -> list[int]:
    """Divide `count` positions into equal steps, larger ones first, empty ones left out."""
    ends = [int(step * count / steps) for step in range(steps + 1)]
    shares = sorted((b - a for a, b in itertools.pairwise(ends)), reverse=True)
    return [share for share in shares if share]


def cosine_schedule(count: int, steps: int) -> list[int]:
    """Divide `count` positions into steps along a cosine, fewer in the first and the last ones.

    The last step takes the remainder, which can be negative by rounding, as published;
    `SamplingStrategy.step_counts` corrects that.
    """
    curve = [(1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps + 1)]
    shares = [round(count * (a - b)) for a, b in itertools.pairwise(curve)]
    return [*shares[:-1], count - sum(shares[:-1])]


def filter_logits(logits: Tensor, top_k: float = 0, top_p: float = 0.0) -> Tensor:
    """Return logits (R, V) with -inf for every token that a filter excludes.

    First top-k, where tokens as likely as the k-th are kept too; then top-p among the rest, where
    of equally likely tokens those with smaller ids are kept.
    """
    result = torch.full_like(logits, -math.inf)
    for rows, values, ids, mask in _iter_candidates(logits, top_k, top_p):
        filtered = values.masked_fill(~mask, -math.inf)
        result[rows] = result[rows].scatter(1, ids, filtered)
    return result


def sample_ids(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float = DEFAULT_TEMPERATURE,
    top_k: float = 0,
    top_p: float = DEFAULT_TOP_P,
) -> Tensor:
    """Draw one id (R,) for each row of logits (R, V): filter, softmax(logits / temperature), draw.

    A uniform number gives the id at that quantile of the distribution, with the likeliest ids
    first, or in the order of the ids where nothing is filtered.

    Args:
        logits: float32.
        uniforms: (R,), each in [0, 1).
        temperature: above zero.
        top_k: see `SamplingStrategy`.
        top_p: see `SamplingStrategy`.
    """
    result = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for rows, values, ids, mask in _iter_candidates(logits, top_k, top_p):
        scaled = (values / temperature).masked_fill(~mask, -math.inf)
        cumulative = scaled.double().softmax(dim=1).cumsum(dim=1)
        quantile = uniforms.to(cumulative)[rows, None] * cumulative[:, -1:]
        rank = (cumulative <= quantile).sum(dim=1, keepdim=True)
        last = mask.sum(dim=1, keepdim=True) - 1
        result[rows] = ids.gather(1, torch.minimum(rank, last))[:, 0]
    return result


def draw_uniforms(seeds: Sequence[int], count: int, purpose: str) -> Tensor:
    """Draw uniform numbers in [0, 1), (B, count), from a stream for each seed and purpose."""
    rows = [torch.rand(count, generator=_seeded_generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows)


def draw_orders(seeds: Sequence[int], count: int, purpose: str) -> Tensor:
    """Draw a random order of `count` positions for each seed, (B, count)."""
    rows = [torch.randperm(count, generator=_seeded_generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows)


def expand_seeds(seed: Seeds, batch: int) -> list[int]:
    """Return one seed for each sample.

    Raises:
        ModelError: not one whole number for all samples, or one for each.
    """
    try:
        values = [seed] * batch if isinstance(seed, int) else list(seed)
        seeds = [int(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        values, seeds = [], []
    whole = not isinstance(seed, bool) and seeds == values
    if len(seeds) != batch or not whole or any(abs(value) >= 2**63 for value in seeds):
        raise ModelError(
            f"seed={seed!r}: give one whole number of up to 63 bits, or one for each of the "
            f"{batch} samples"
        )
    return seeds


def _iter_candidates(logits: Tensor, top_k: float, top_p: float) -> Iterator[Candidates]:
    """Yield every row once, with its candidates and a mask of those that are kept.

    The candidates are the likeliest tokens, in order, where all that is kept is among them; for the
    other rows they are the whole vocabulary.
    """
    count, vocabulary = logits.shape
    rows = torch.arange(count, device=logits.device)
    k = max(1, int(top_k * vocabulary)) if 0 < top_k < 1 else int(top_k)
    k = k if 0 < k < vocabulary else vocabulary
    p = top_p if 0 < top_p < 1 else 1.0
    if k == vocabulary and p == 1:
        ids = rows.new_tensor(range(vocabulary)).expand(count, vocabulary)
        yield rows, logits, ids, torch.ones_like(ids, dtype=torch.bool)
        return
    first = min(max(_TOP_CANDIDATES, 2 * k if k < vocabulary else 0), vocabulary)
    values, ids, mask = _rank_candidates(logits, k, p, first)
    complete = ~mask[:, -1] if first < vocabulary else torch.ones_like(mask[:, -1])
    yield rows[complete], values[complete], ids[complete], mask[complete]
    if not bool(complete.all()):
        yield rows[~complete], *_rank_candidates(logits[~complete], k, p, vocabulary)


def _rank_candidates(logits: Tensor, k: int, p: float, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `first` likeliest tokens: logits, ids, and a mask of those kept, each (R, first).

    If `first` is less than the vocabulary and the last token ties with one that is kept, it is
    marked as kept too: further tokens may follow.
    """
    values, ids = _sort_top(logits, first)
    lowest = values[:, k - 1 : k] if k <= first else values[:, -1:] - math.inf
    mask = values >= lowest
    if p < 1:
        inside = values.masked_fill(~mask, -math.inf)
        if first < logits.shape[1]:
            total = logits.masked_fill(logits < lowest, -math.inf).logsumexp(dim=1, keepdim=True)
            cumulative = (inside - total).exp().cumsum(dim=1)
        else:
            cumulative = inside.softmax(dim=1).cumsum(dim=1)
        before = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative[:, :-1]], dim=1)
        mask = mask & (before <= p)
        # ^ the token that passes the threshold is kept as well
    if first < logits.shape[1]:
        tied = (values == values[:, -1:]) & mask
        mask[:, -1] |= tied.any(dim=1)
    return values, ids, mask


def _sort_top(logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return logits and ids of the likeliest tokens, in order; of equal ones smaller ids first."""
    if first == logits.shape[1]:
        return logits.sort(dim=1, descending=True, stable=True)
    values, ids = logits.topk(first, dim=1)
    by_id = ids.argsort(dim=1)
    values, ids = values.gather(1, by_id), ids.gather(1, by_id)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _seeded_generator(seed: int, purpose: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _check_choice(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ModelError(f"unknown {name} {value!r}; known are {join_names(known)}")
