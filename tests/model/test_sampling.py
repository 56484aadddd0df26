"""Sampling of tokens: filters, draws, schedules and seeds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ModelError
from model.terramind.generation import sampling_strategy
from model.terramind.generation.sampling_strategy import SamplingStrategy
from tests.support.oracle import one_thread  # noqa: F401


def filter_by_definition(row, top_k, top_p):
    """Return the ids that the filters keep, computed by their definition."""
    ids = sorted(range(len(row)), key=lambda index: (-row[index], index))
    if top_k:
        count = max(1, int(top_k * len(row))) if top_k < 1 else min(int(top_k), len(row))
        ids = [index for index in ids if row[index] >= row[ids[count - 1]]]
    if not 0 < top_p < 1:
        return set(ids)
    weights = [math.exp(row[index] - row[ids[0]]) for index in ids]
    kept_ids, cumulative_weight = set(), 0.0
    for index, weight in zip(ids, weights, strict=True):
        if cumulative_weight > top_p * sum(weights):
            break
        kept_ids.add(index)
        cumulative_weight += weight
    return kept_ids


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    size=st.sampled_from([7, 300, 700]),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 5, 290, 0.1]),
    top_p=st.sampled_from([0.0, 0.3, 0.77, 1.0]),
    is_rounded=st.booleans(),
)
def test_the_filter_follows_its_definition(seed, size, scale, top_k, top_p, is_rounded):
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(seed)) * scale
    logits = logits.round(decimals=1) if is_rounded else logits
    # ^ so that there are many ties
    actual = sampling_strategy.filter_logits(logits, top_k, top_p)
    for row, mask in zip(logits.double().tolist(), actual.isfinite(), strict=True):
        expected = filter_by_definition(row, top_k, top_p)
        assert set(mask.nonzero()[:, 0].tolist()) == expected
    assert torch.equal(actual[actual.isfinite()], logits[actual.isfinite()])


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.8), (5, 0.0), (10, 0.5), (0, 0.0)])
def test_samples_follow_the_filtered_distribution(top_k, top_p):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 400, generator=generator)
    uniforms = (torch.arange(20000) + 0.5) / 20000
    ids = sampling_strategy.sample_ids(logits.expand(20000, -1), uniforms, 0.7, top_k, top_p)
    frequencies = torch.bincount(ids, minlength=400) / 20000
    expected = (sampling_strategy.filter_logits(logits, top_k, top_p)[0] / 0.7).softmax(0)
    assert float((frequencies - expected).abs().max()) < 2e-4
    if top_k or top_p:
        assert int(ids[0]) == int(logits.argmax())


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24, 1.0])
def test_filtered_tokens_are_never_sampled(uniform):
    logits = torch.tensor([[0.0, 3.0, 1.0, -2.0], [5.0, -100.0, -100.0, 4.0]])
    ids = sampling_strategy.sample_ids(logits, torch.full((2,), uniform), 1.0, 2, 0.0)
    assert ids[0] in (1, 2)
    assert ids[1] in (0, 3)


def test_a_row_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(2)
    flat_logits, sharp_logits = torch.randn(4, 900, generator=generator), torch.randn(4, 900) * 6
    uniforms = torch.rand(8, generator=generator)
    ids = sampling_strategy.sample_ids(
        torch.cat([flat_logits, sharp_logits]), uniforms, 1.0, 0, 0.9
    )
    # ^ the flat rows need more than the first candidates
    assert torch.equal(
        sampling_strategy.sample_ids(flat_logits, uniforms[:4], 1.0, 0, 0.9), ids[:4]
    )
    assert torch.equal(
        sampling_strategy.sample_ids(sharp_logits, uniforms[4:], 1.0, 0, 0.9), ids[4:]
    )


def test_random_numbers_depend_on_seed_and_purpose_only():
    uniforms = sampling_strategy.draw_uniforms([4, 9], 6, "a")
    assert torch.equal(uniforms, sampling_strategy.draw_uniforms([9, 4], 6, "a").flip(0))
    assert not torch.equal(uniforms, sampling_strategy.draw_uniforms([4, 9], 6, "b"))
    assert 0 <= float(uniforms.min()) <= float(uniforms.max()) < 1
    order = sampling_strategy.draw_orders([4, 4, 5], 30, "a")
    assert torch.equal(order[0], order[1])
    assert not torch.equal(order[0], order[2])
    assert torch.equal(order.sort(dim=1).values, torch.arange(30).expand(3, 30))


def test_each_sample_gets_a_seed():
    assert sampling_strategy.expand_seeds(7, 3) == [7, 7, 7]
    assert sampling_strategy.expand_seeds([1, -2, 3], 3) == [1, -2, 3]
    assert sampling_strategy.expand_seeds(torch.tensor([4, 5]), 2) == [4, 5]
    for seeds in ([1, 2], [1, 2, 3.5], True, 2**63):
        with pytest.raises(ModelError, match="seed"):
            sampling_strategy.expand_seeds(seeds, 3)


@settings(max_examples=80, deadline=None)
@given(count=st.integers(1, 400), steps=st.integers(1, 450))
def test_schedules_decide_every_position_once(count, steps):
    for schedule in ("linear", "cosine"):
        shares = SamplingStrategy(decoding_steps=steps, schedule=schedule).step_counts(count)
        assert sum(shares) == count
        assert min(shares) >= 1
        assert len(shares) <= steps
    linear = sampling_strategy.linear_schedule(count, steps)
    assert max(linear) - min(linear) <= 1
    assert linear == sorted(linear, reverse=True)


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "greedy"},
        {"schedule": "roar"},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 1.2},
        {"top_k": 2.5},
        {"top_k": -1},
        {"decoding_steps": 0},
        {"decoding_steps": 1.0},
        {"decoding_steps": True},
    ],
)
def test_invalid_strategies_are_refused(options):
    with pytest.raises(ModelError):
        SamplingStrategy(**options)


def test_the_likeliest_token_needs_no_random_numbers():
    logits = torch.tensor([[[0.0, 2.0, 1.0]]])
    assert SamplingStrategy().choose_ids(logits, None).tolist() == [[1]]
    assert not SamplingStrategy(sampling="sample", temperature=0).is_stochastic
