"""DDIM: from noise to an image in few steps, without adding noise on the way.

Song et al. 2021, arXiv:2010.02502, equation 12 with sigma = 0. The schedule is the linear one of
1000 steps, shifted so that the last step is pure noise; the steps used are spaced from that end
(Lin et al. 2024, arXiv:2305.08891). The network predicts the clean image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from model.errors import ModelError

TRAINING_STEPS = 1000
"""Number of steps of the training schedule."""

_BETA_START, _BETA_END = 1e-4, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class DDIMStep:
    """A step from the noise level of `t` to that of `t - stride`."""

    t: int
    signal: float
    """Share of the clean image at t: the square root of alpha-bar."""

    noise: float
    """Share of the noise at t."""

    next_signal: float
    next_noise: float


@cache
def alphas_cumprod() -> Tensor:
    """Return alpha-bar of every training step, (1000,) float32; the last one is zero."""
    roots = (
        (1.0 - torch.linspace(_BETA_START, _BETA_END, TRAINING_STEPS, device="cpu"))
        .cumprod(0)
        .sqrt()
    )
    first, last = roots[0].clone(), roots[-1].clone()
    rescaled = (roots - last) * (first / (first - last))
    # ^ shifted to zero at the end, and scaled so that the first value stays
    squared = rescaled**2
    ratios = torch.cat([squared[:1], squared[1:] / squared[:-1]])
    return ratios.cumprod(0)
    # ^ computed back from the single betas, as published: the same numbers but for the last bits


def timesteps(count: int) -> tuple[int, ...]:
    """Return the training steps that are used for a requested count, from 999 down.

    They lie 1000 // count apart, down to zero, so that a count that does not divide 1000 gives more
    steps: 4 for 3, 8 for 7, 31 for 30. That is the published schedule, and images depend on it.
    With 1, 2, 4, 5, 8, 10, 20, 25, 40 or 50 the number is the requested one.

    Raises:
        ModelError: not a whole number from 1 to 1000.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= TRAINING_STEPS:
        raise ModelError(
            f"timesteps={count!r}: give a whole number from 1 to {TRAINING_STEPS}, such as 10"
        )
    return tuple(range(TRAINING_STEPS - 1, -1, -(TRAINING_STEPS // count)))


def make_steps(count: int) -> tuple[DDIMStep, ...]:
    """Return the steps for a requested count, with their shares of image and noise."""
    return tuple(make_step(t, TRAINING_STEPS // count) for t in timesteps(count))


def make_step(t: int, stride: int) -> DDIMStep:
    """Return the step from t to t - stride; below zero there is no noise left."""
    alpha = float(alphas_cumprod()[t])
    next_alpha = float(alphas_cumprod()[t - stride]) if t >= stride else 1.0
    return DDIMStep(
        t=t,
        signal=alpha**0.5,
        noise=(1.0 - alpha) ** 0.5,
        next_signal=next_alpha**0.5,
        next_noise=(1.0 - next_alpha) ** 0.5,
    )


def advance(x: Tensor, clean: Tensor, step: DDIMStep, *, clamp: bool) -> Tensor:
    """Return the image at the next noise level, float32.

    Args:
        x: the noisy image at this level, (B, C, H, W).
        clean: the network's prediction of the image without noise, same shape.
        step: the two noise levels.
        clamp: clamp the prediction to -1..1. The noise is estimated from the unclamped one.
    """
    x, clean = x.float(), clean.float()
    clamped = clean.clamp(-1.0, 1.0) if clamp else clean
    if not step.next_noise:
        return step.next_signal * clamped
    noise = (x - step.signal * clean) / step.noise
    return step.next_signal * clamped + step.next_noise * noise


def draw_noise(shape: Sequence[int], seeds: int | Sequence[int]) -> Tensor:
    """Draw standard normal noise of a shape (B, C, H, W), float32 on the CPU.

    Each sample has a random generator of its own, so that its noise does not depend on its batch,
    its position there or earlier draws; the global generator is not used.

    Args:
        shape: batch first.
        seeds: one for each sample, or one for all, which then get the same noise.

    Raises:
        ModelError: not one whole number for each sample.
    """
    batch, *rest = shape
    sample_seeds = list(seeds) if isinstance(seeds, Iterable) else [seeds] * batch
    if len(sample_seeds) != batch or not all(_is_seed(seed) for seed in sample_seeds):
        raise ModelError(
            f"seed={seeds!r}: give one whole number of up to 63 bits, or one for each of the "
            f"{batch} samples"
        )
    noise = [
        torch.randn(rest, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        for seed in sample_seeds
    ]
    return torch.stack(noise)


def check_noise(values: Tensor) -> None:
    """Refuse noise that is not finite.

    Raises:
        ModelError: NaN or infinite values.
    """
    if not bool(torch.isfinite(values).all()):
        raise ModelError("the noise holds NaN or infinite values: draw it with torch.randn")


def _is_seed(seed: object) -> bool:
    return isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) < 2**63
