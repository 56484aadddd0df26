"""How tokens are chosen from logits: filters, draws, and in how many steps.

Everything random comes from a generator of its own for each sample, on the CPU, named by the
sample's seed and by what is drawn. So a sample's tokens depend neither on the batch it is in, nor
on its place there, nor on what was drawn before, and the global generators are left alone.
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
PositionOrder = Literal["random", "confidence"]
Seeds = int | Sequence[int]
"""One for all samples, or one for each."""

Candidates = tuple[Tensor, Tensor, Tensor, Tensor]
"""Rows (r,), and of each the candidates' logits, ids, and whether they are kept, (r, n)."""

_TOP_CANDIDATES = 256
"""So many of the likeliest tokens are looked at before a whole vocabulary is sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingStrategy:
    """How the tokens of a target are chosen."""

    sampling: SamplingMode = "argmax"
    """The likeliest token at each position, or one drawn from the distribution."""

    temperature: float = 1.0
    """The logits are divided by it before a draw; 0 is argmax."""

    top_k: float = 0
    """Draw among so many likeliest tokens; a fraction below one is of the vocabulary; 0 is off."""

    top_p: float = 0.8
    """Draw among the fewest tokens that hold this much probability together; 0 and 1 are off."""

    decoding_steps: int = 1
    """1 decides all positions at once; with more, later positions see the earlier ones."""

    schedule: StepSchedule = "linear"
    """Equal shares in each step, or few at first and at last."""

    order: PositionOrder = "random"
    """Which positions come first: drawn by the seed, or those that the model is surest of."""

    chained: bool = True
    """Whether a target that is done is an input of the next ones."""

    def __post_init__(self) -> None:
        _check_choice("sampling", self.sampling, ("argmax", "sample"))
        _check_choice("schedule", self.schedule, ("linear", "cosine"))
        _check_choice("order", self.order, ("random", "confidence"))
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ModelError(f"temperature {self.temperature!r}: a number of 0 or more")
        if not 0 <= self.top_p <= 1:
            raise ModelError(f"top_p {self.top_p!r}: a share of 0 to 1")
        if not (0 <= self.top_k < math.inf) or (self.top_k >= 1 and self.top_k != int(self.top_k)):
            raise ModelError(f"top_k {self.top_k!r}: a whole number, or a fraction below one")
        steps = self.decoding_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ModelError(f"decoding steps {steps!r}: a whole number of 1 or more")

    @property
    def is_stochastic(self) -> bool:
        """Whether tokens are drawn."""
        return self.sampling == "sample" and self.temperature > 0

    def step_counts(self, count: int) -> list[int]:
        """Return how many of `count` positions are decided in each step, none of them empty."""
        if self.schedule == "linear":
            return linear_schedule(count, self.decoding_steps)
        shares: list[int] = []
        for share in cosine_schedule(count, self.decoding_steps):
            shares.append(max(0, min(share, count - sum(shares))))
        return [share for share in shares if share]

    def choose_ids(self, logits: Tensor, uniforms: Tensor | None) -> Tensor:
        """Return the ids (B, N) for logits (B, N, V); uniforms (B, N) in [0, 1) where one draws."""
        if uniforms is None or not self.is_stochastic:
            return logits.argmax(dim=-1)
        batch, count, vocabulary = logits.shape
        flat = logits.reshape(-1, vocabulary).float()
        ids = sample_ids(flat, uniforms.reshape(-1), self.temperature, self.top_k, self.top_p)
        return ids.view(batch, count)


def linear_schedule(count: int, steps: int) -> list[int]:
    """Return equal shares of `count` positions, the larger ones first, without empty steps."""
    ends = [int(step * count / steps) for step in range(steps + 1)]
    shares = sorted((b - a for a, b in itertools.pairwise(ends)), reverse=True)
    return [share for share in shares if share]


def cosine_schedule(count: int, steps: int) -> list[int]:
    """Return shares along a cosine, few at first and at last; what rounding leaves comes last.

    The last share can be negative by rounding, as published; `Strategy.shares` mends that.
    """
    curve = [(1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps + 1)]
    shares = [round(count * (a - b)) for a, b in itertools.pairwise(curve)]
    return [*shares[:-1], count - sum(shares[:-1])]


def filter_logits(logits: Tensor, top_k: float = 0, top_p: float = 0.0) -> Tensor:
    """Return logits (R, V) with -inf for every token that must not be drawn.

    First top-k, where tokens as likely as the k-th stay too; then top-p on what is left, where of
    tokens that are equally likely the smaller ids stay.
    """
    result = torch.full_like(logits, -math.inf)
    for rows, values, ids, kept in _iter_candidates(logits, top_k, top_p):
        chosen = values.masked_fill(~kept, -math.inf)
        result[rows] = result[rows].scatter(1, ids, chosen)
    return result


def sample_ids(
    logits: Tensor, uniforms: Tensor, temperature: float = 1.0, top_k: float = 0, top_p: float = 0.8
) -> Tensor:
    """Return one id (R,) for each row of logits (R, V): the filter, softmax(logits / T), a draw.

    A uniform number becomes the id at that quantile of the distribution, with the likeliest ids
    first, or in the order of the ids where nothing is filtered.

    Args:
        logits: float32.
        uniforms: (R,), each in [0, 1).
        temperature: above zero.
        top_k: see `Strategy`.
        top_p: see `Strategy`.
    """
    result = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for rows, values, ids, kept in _iter_candidates(logits, top_k, top_p):
        scaled = (values / temperature).masked_fill(~kept, -math.inf)
        reached = scaled.double().softmax(dim=1).cumsum(dim=1)
        wanted = uniforms.to(reached)[rows, None] * reached[:, -1:]
        place = (reached <= wanted).sum(dim=1, keepdim=True)
        last = kept.sum(dim=1, keepdim=True) - 1
        result[rows] = ids.gather(1, torch.minimum(place, last))[:, 0]
    return result


def draw_uniforms(seeds: Sequence[int], count: int, purpose: str) -> Tensor:
    """Return uniform numbers of [0, 1), (B, count), a stream for each seed and purpose."""
    rows = [torch.rand(count, generator=_seeded_generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows)


def draw_orders(seeds: Sequence[int], count: int, purpose: str) -> Tensor:
    """Return a random order of `count` positions for each seed, (B, count)."""
    rows = [torch.randperm(count, generator=_seeded_generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows)


def expand_seeds(seed: Seeds, batch: int) -> list[int]:
    """Return one seed for each sample.

    Raises:
        ModelError: not one whole number for each.
    """
    try:
        given = [seed] * batch if isinstance(seed, int) else list(seed)
        every = [int(one) for one in given]
    except (TypeError, ValueError, OverflowError):
        given, every = [], []
    whole = not isinstance(seed, bool) and every == given
    if len(every) != batch or not whole or any(abs(one) >= 2**63 for one in every):
        raise ModelError(
            f"seed={seed!r}: give one whole number of up to 63 bits, or one for each of the "
            f"{batch} samples"
        )
    return every


def _iter_candidates(logits: Tensor, top_k: float, top_p: float) -> Iterator[Candidates]:
    """Yield every row once, with its candidates and which of them are kept.

    The candidates are the likeliest tokens, in order, where those are enough to tell; for the rows
    where they are not they are the whole vocabulary.
    """
    rows, wide = len(logits), logits.shape[1]
    every = torch.arange(rows, device=logits.device)
    keep = max(1, int(top_k * wide)) if 0 < top_k < 1 else int(top_k)
    keep = keep if 0 < keep < wide else wide
    nucleus = top_p if 0 < top_p < 1 else 1.0
    if keep == wide and nucleus == 1:
        ids = every.new_tensor(range(wide)).expand(rows, wide)
        yield every, logits, ids, torch.ones_like(ids, dtype=torch.bool)
        return
    first = min(max(_TOP_CANDIDATES, 2 * keep if keep < wide else 0), wide)
    values, ids, kept = _rank_candidates(logits, keep, nucleus, first)
    sure = ~kept[:, -1] if first < wide else torch.ones_like(kept[:, -1])
    yield every[sure], values[sure], ids[sure], kept[sure]
    if not bool(sure.all()):
        yield every[~sure], *_rank_candidates(logits[~sure], keep, nucleus, wide)


def _rank_candidates(
    logits: Tensor, keep: int, nucleus: float, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first tokens in order: logits, ids, and which are kept, each (R, first).

    If fewer than the whole vocabulary are looked at and the last one ties with one that is kept,
    it is shown as kept: then there may be more behind it.
    """
    values, ids = _sort_top(logits, first)
    lowest = values[:, keep - 1 : keep] if keep <= first else values[:, -1:] - math.inf
    kept = values >= lowest
    if nucleus < 1:
        inside = values.masked_fill(~kept, -math.inf)
        if first < logits.shape[1]:
            mass = logits.masked_fill(logits < lowest, -math.inf).logsumexp(dim=1, keepdim=True)
            share = (inside - mass).exp().cumsum(dim=1)
        else:
            share = inside.softmax(dim=1).cumsum(dim=1)
        before = torch.cat([torch.zeros_like(share[:, :1]), share[:, :-1]], dim=1)
        kept = kept & (before <= nucleus)
        # ^ the token that passes the threshold stays as well
    if first < logits.shape[1]:
        tied = (values == values[:, -1:]) & kept
        kept[:, -1] |= tied.any(dim=1)
    return values, ids, kept


def _sort_top(logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return the first tokens, likeliest first and smaller ids first among equals."""
    if first == logits.shape[1]:
        return logits.sort(dim=1, descending=True, stable=True)
    values, ids = logits.topk(first, dim=1)
    by_id = ids.argsort(dim=1)
    values, ids = values.gather(1, by_id), ids.gather(1, by_id)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _seeded_generator(seed: int, purpose: str) -> torch.Generator:
    mixed = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:7], "little"))


def _check_choice(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ModelError(f"unknown {name} {value!r}; known are {join_names(known)}")
