"""Fit a segmenter to mosaics: seeded, on any device, in a few minutes or as long as you like."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from model.errors import ModelError
from model.predictor.predictor import resolve_device
from model.segmentation_head import Segmenter
from model.terramind.modalities import IMAGE_SIZE, PATCH_SIZE, Statistics, get_statistics
from model.train.augmentation import Augmentation, augment
from model.train.dataset import IGNORE_INDEX, CropBatch, CropSampler, LabelledMosaic, check_sizes

_WARMUP_FRACTION = 0.05
_FINAL_RATE_FACTOR = 0.01
_MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """Where a training stands."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecord:
    """How a training went, for the card."""

    steps: int
    seconds: float
    batch: int
    crop: int
    seed: int
    device: str
    threads: int
    losses: tuple[float, ...]
    """Mean over each twentieth of the steps."""

    def to_mapping(self) -> dict[str, object]:
        """Return plain values."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "losses": [round(value, 4) for value in self.losses]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """What is rarely changed."""

    crop: int = IMAGE_SIZE
    """Side of a crop, px: the window's, so that positions mean the same in training and use."""

    weight_decay: float = 0.05
    label_smoothing: float = 0.03
    """Share of the target that is spread over all classes: edges are not that certain."""

    class_power: float = 0.35
    """Classes weigh share ** -power: 0 follows the area, 1 makes all equal."""

    balanced_share: float = 0.5
    """Share of the crops that are centred on a class drawn evenly."""

    augmentation: Augmentation = Augmentation()  # noqa: RUF009
    # ^ frozen, so the one instance can be shared
    use_bf16: bool = False
    """Multiply in bfloat16 (autocast); for CUDA, and for CPUs that can."""


def fit(  # noqa: PLR0913
    # ^ a recipe is read as one call, so its settings stand in one list
    segmenter: Segmenter,
    mosaics: Sequence[LabelledMosaic],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: str = "auto",
    progress: Callable[[FitProgress], None] | None = None,
    time_budget: float | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    options: FitOptions | None = None,
) -> FitRecord:
    """Train a segmenter in place and leave it in evaluation mode on the CPU.

    Args:
        segmenter: with any weights; what it starts from matters as much as the seed.
        mosaics: mosaics with their truth, all kept on the device.
        steps: number of batches.
        batch: crops per step.
        learning_rate: at its highest, after warming up.
        seed: of the crops and of everything else that is drawn.
        device: auto, cpu, cuda or cuda:N.
        progress: called after every step.
        time_budget: seconds after which the training ends, its schedule compressed to fit; then
            the result depends on the speed of the machine. None = all steps, reproducible on the
            same CPU with the same number of threads.
        statistics: to standardise with; default those of TerraMind v1.
        options: all else.

    Raises:
        ModelError: unusable material or settings, or a loss that is not finite.
    """
    how, place = options or FitOptions(), resolve_device(device)
    _check_settings(steps, batch, learning_rate, how)
    check_sizes(mosaics, how.crop)
    scales = get_statistics(_get_bands(segmenter), statistics)
    rng = np.random.default_rng(seed)
    pool = CropSampler(mosaics, segmenter.head.channels, scales, segmenter.head.classes, place, rng)
    trainer = _Trainer(segmenter.to(place).train(), pool, scales, how, learning_rate)
    clock = _TrainingClock(steps, time_budget)
    losses: list[float] = []
    while (part := clock.fraction_done(len(losses))) < 1:
        losses.append(trainer.step(batch, part))
        if progress is not None:
            progress(clock.to_progress(losses, learning_rate * learning_rate_factor(part)))
    segmenter.to("cpu").eval()
    return FitRecord(
        steps=len(losses),
        seconds=round(clock.elapsed_seconds(), 1),
        batch=batch,
        crop=how.crop,
        seed=seed,
        device=_device_name(place),
        threads=torch.get_num_threads(),
        losses=_summarise_losses(losses),
    )


def learning_rate_factor(fraction: float) -> float:
    """Return the learning rate at a part of the training, relative to its highest: up, then down.

    A short linear rise and a cosine to almost nothing (Loshchilov and Hutter 2017).
    """
    if fraction < _WARMUP_FRACTION:
        return max(fraction / _WARMUP_FRACTION, 0.02)
    fall = (fraction - _WARMUP_FRACTION) / (1 - _WARMUP_FRACTION)
    return _FINAL_RATE_FACTOR + (1 - _FINAL_RATE_FACTOR) * 0.5 * (
        1 + math.cos(math.pi * min(fall, 1.0))
    )


class _TrainingClock:
    """How much of the training is over, by steps or by time."""

    def __init__(self, steps: int, budget: float | None) -> None:
        self.steps, self.budget = steps, budget
        self._start = time.perf_counter()

    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self._start

    def fraction_done(self, done: int) -> float:
        by_steps = done / self.steps
        if self.budget is None:
            return by_steps
        return max(by_steps, self.elapsed_seconds() / self.budget) if done else 0.0

    def to_progress(self, losses: Sequence[float], rate: float) -> FitProgress:
        return FitProgress(
            step=len(losses),
            steps=self.steps,
            loss=losses[-1],
            learning_rate=rate,
            seconds=self.elapsed_seconds(),
        )


class _Trainer:
    """Material, model, loss and optimiser."""

    def __init__(
        self,
        segmenter: Segmenter,
        pool: CropSampler,
        scales: Mapping[str, Statistics],
        how: FitOptions,
        rate: float,
    ) -> None:
        self.segmenter, self.pool, self.scales = segmenter, pool, scales
        self.options, self.learning_rate = how, rate
        self.class_weights = pool.class_weights(how.class_power).to(pool.device)
        self.optimiser = torch.optim.AdamW(_parameter_groups(segmenter, how.weight_decay), lr=rate)
        self.autocast = torch.autocast(pool.device.type, torch.bfloat16, enabled=how.use_bf16)

    def step(self, batch: int, part: float) -> float:
        """Take one step and return its loss."""
        how, channels, rng = self.options.augmentation, self.segmenter.head.channels, self.pool.rng
        crops = self.pool.draw_crops(batch, self.options.crop, self.options.balanced_share)
        inputs = augment(crops.planes, channels, self.scales, how, rng)
        seen = how.draw_pixel_weights(batch, rng)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * learning_rate_factor(part)
        with self.autocast:
            logits = self.segmenter(inputs, pixel_weight=seen)
        return self._backward(self._loss(logits, crops))

    def _loss(self, logits: Tensor, crops: CropBatch) -> Tensor:
        return F.cross_entropy(
            logits.float(),
            crops.labels,
            weight=self.class_weights,
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.options.label_smoothing,
        )

    def _backward(self, loss: Tensor) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value}: the inputs are not in the expected units, or "
                f"the learning rate {self.learning_rate} is too high"
            )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.segmenter.parameters(), _MAX_GRAD_NORM)
        self.optimiser.step()
        return value


def _parameter_groups(segmenter: Segmenter, decay: float) -> list[dict[str, object]]:
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in segmenter.named_parameters():
        plain = parameter.ndim > 1 and "mod_emb" not in name
        (matrices if plain else others).append(parameter)
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _get_bands(segmenter: Segmenter) -> dict[str, tuple[str, ...]]:
    return {name: segmenter.encoder.band_names(name) for name in segmenter.modalities}


def _check_settings(steps: int, batch: int, rate: float, how: FitOptions) -> None:
    if steps < 1 or batch < 1 or not rate > 0:
        raise ModelError(f"steps {steps}, batch {batch}, learning rate {rate}: all above zero")
    if how.crop < PATCH_SIZE or how.crop % PATCH_SIZE:
        raise ModelError(f"crop {how.crop} is not a multiple of {PATCH_SIZE}")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _summarise_losses(losses: Sequence[float]) -> tuple[float, ...]:
    parts = np.array_split(np.asarray(losses), min(20, len(losses)))
    return tuple(float(part.mean()) for part in parts)
