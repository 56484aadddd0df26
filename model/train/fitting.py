"""Train a segmenter on labelled mosaics, with a seed, on any device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import ModelError
from model.predictor.predictor import resolve_device
from model.terramind.modalities import IMAGE_SIZE, PATCH_SIZE, Statistics, get_statistics
from model.terramind.segmentation_head import Segmenter
from model.train.augmentation import Augmentation, augment
from model.train.dataset import IGNORE_INDEX, CropBatch, CropSampler, LabelledMosaic, check_sizes

_WARMUP_FRACTION = 0.05
_FINAL_RATE_FACTOR = 0.01
_MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """Progress of a training."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecord:
    """Settings and losses of a training, for the model card."""

    steps: int
    seconds: float
    batch: int
    crop: int
    seed: int
    device: str
    threads: int
    losses: tuple[float, ...]
    """Mean loss over each twentieth of the steps."""

    def to_mapping(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "losses": [round(value, 4) for value in self.losses]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """Settings that are rarely changed."""

    crop: int = IMAGE_SIZE
    """Side of a crop, px: a window's, so that position embeddings are those of inference."""

    weight_decay: float = 0.05
    label_smoothing: float = 0.03
    """Share of the target that is spread over all classes: labels at edges are uncertain."""

    class_power: float = 0.35
    """Exponent of the class weights, share ** -power: 0 = by area, 1 = all classes alike."""

    balanced_share: float = 0.5
    """Share of the crops whose centre is of a class drawn with equal probabilities."""

    augmentation: Augmentation = Augmentation()  # noqa: RUF009
    # ^ frozen, so one instance can be shared
    use_bf16: bool = False
    """Use autocast to bfloat16, on CUDA and on CPUs that support it."""


def fit(  # noqa: PLR0913
    # ^ the settings of a training recipe are given in one call
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
        segmenter: with its initial weights.
        mosaics: with their labels; all are kept on the device.
        steps: number of batches.
        batch: crops per step.
        learning_rate: the maximum, after the warm-up.
        seed: of crops and augmentations.
        device: auto, cpu, cuda or cuda:N.
        progress: called after every step.
        time_budget: seconds after which the training ends, with the schedule of the learning rate
            scaled to it; the result then depends on the speed of the machine. None = all steps,
            reproducible on the same CPU with the same number of threads.
        statistics: to standardise with; default those of TerraMind v1.
        options: other settings.

    Raises:
        ModelError: invalid mosaics or settings, or a loss that is not finite.
    """
    options, torch_device = options or FitOptions(), resolve_device(device)
    _check_settings(steps, batch, learning_rate, options)
    check_sizes(mosaics, options.crop)
    statistics = get_statistics(_get_bands(segmenter), statistics)
    rng = np.random.default_rng(seed)
    head = segmenter.head
    sampler = CropSampler(mosaics, head.channels, statistics, head.classes, torch_device, rng)
    trainer = _Trainer(
        segmenter.to(torch_device).train(), sampler, statistics, options, learning_rate
    )
    clock = _TrainingClock(steps, time_budget)
    losses: list[float] = []
    while (fraction := clock.fraction_done(len(losses))) < 1:
        losses.append(trainer.step(batch, fraction))
        if progress is not None:
            progress(clock.to_progress(losses, learning_rate * learning_rate_factor(fraction)))
    segmenter.to("cpu").eval()
    return FitRecord(
        steps=len(losses),
        seconds=round(clock.elapsed_seconds(), 1),
        batch=batch,
        crop=options.crop,
        seed=seed,
        device=_device_name(torch_device),
        threads=torch.get_num_threads(),
        losses=_summarise_losses(losses),
    )


def learning_rate_factor(fraction: float) -> float:
    """Return the learning rate relative to its maximum, at a fraction of the training.

    A short linear warm-up, then a cosine decay to 1 % (Loshchilov and Hutter 2017).
    """
    if fraction < _WARMUP_FRACTION:
        return max(fraction / _WARMUP_FRACTION, 0.02)
    decay = (fraction - _WARMUP_FRACTION) / (1 - _WARMUP_FRACTION)
    return _FINAL_RATE_FACTOR + (1 - _FINAL_RATE_FACTOR) * 0.5 * (
        1 + math.cos(math.pi * min(decay, 1.0))
    )


class _TrainingClock:
    """Fraction of the training that is done, by steps or by time."""

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
    """Model, crops, loss and optimiser."""

    def __init__(
        self,
        segmenter: Segmenter,
        sampler: CropSampler,
        statistics: Mapping[str, Statistics],
        options: FitOptions,
        learning_rate: float,
    ) -> None:
        self.segmenter, self.sampler, self.statistics = segmenter, sampler, statistics
        self.options, self.learning_rate = options, learning_rate
        self.class_weights = sampler.class_weights(options.class_power).to(sampler.device)
        self.optimiser = torch.optim.AdamW(
            _parameter_groups(segmenter, options.weight_decay), lr=learning_rate
        )
        self.autocast = torch.autocast(
            sampler.device.type, torch.bfloat16, enabled=options.use_bf16
        )

    def step(self, batch: int, fraction: float) -> float:
        """Take one step at a fraction of the training, and return its loss."""
        augmentation, rng = self.options.augmentation, self.sampler.rng
        crops = self.sampler.draw_crops(batch, self.options.crop, self.options.balanced_share)
        channels = self.segmenter.head.channels
        inputs = augment(crops.planes, channels, self.statistics, augmentation, rng)
        pixel_weight = augmentation.draw_pixel_weights(batch, rng)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * learning_rate_factor(fraction)
        with self.autocast:
            logits = self.segmenter(inputs, pixel_weight=pixel_weight)
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
    vectors: list[Tensor] = []
    for name, parameter in segmenter.named_parameters():
        is_matrix = parameter.ndim > 1 and "mod_emb" not in name
        (matrices if is_matrix else vectors).append(parameter)
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _get_bands(segmenter: Segmenter) -> dict[str, tuple[str, ...]]:
    return {name: segmenter.encoder.band_names(name) for name in segmenter.modalities}


def _check_settings(steps: int, batch: int, learning_rate: float, options: FitOptions) -> None:
    if steps < 1 or batch < 1 or not learning_rate > 0:
        raise ModelError(
            f"steps {steps}, batch {batch}, learning rate {learning_rate}: all must be above zero"
        )
    if options.crop < PATCH_SIZE or options.crop % PATCH_SIZE:
        raise ModelError(f"crop {options.crop} is not a multiple of {PATCH_SIZE}")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _summarise_losses(losses: Sequence[float]) -> tuple[float, ...]:
    parts = np.array_split(np.asarray(losses), min(20, len(losses)))
    return tuple(float(part.mean()) for part in parts)
