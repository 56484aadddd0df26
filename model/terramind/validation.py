"""What every door asks of what it is given: a tensor, and standardised pixels, not raw ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind.modalities import MODALITIES_BY_KEY, RasterModality

_MAX_STANDARDISED_MEAN = 50.0
"""No scene's mean lies so many standard deviations from the mean: those are raw data."""


def check_is_mapping(inputs: object, names: Iterable[str]) -> None:
    """Refuse what does not hold inputs by name.

    Raises:
        ModelError: with the names that there are.
    """
    if not isinstance(inputs, Mapping):
        raise ModelError(
            f"tensors by name expected, not {type(inputs).__name__}; the names: {join_names(names, 9)}"
        )


def check_tensor(name: str, value: object) -> None:
    """Refuse what is no torch tensor.

    Raises:
        ModelError: with how to make one.
    """
    if not isinstance(value, Tensor):
        kind = type(value)
        how = "torch.from_numpy(array)" if kind.__module__ == "numpy" else "torch.as_tensor(values)"
        raise ModelError(f"{name}: a torch tensor expected, not {kind.__name__}; {how} makes one")


def check_standardised(name: str, key: str, value: Tensor) -> None:
    """Refuse raw pixels where standardised ones are expected.

    Args:
        name: as the caller calls it.
        key: its official key; new modalities, token ids and classes pass.
        value: (B, C, H, W).

    Raises:
        ModelError: with what to do.
    """
    if isinstance(MODALITIES_BY_KEY.get(key), RasterModality) and value.numel():
        mean = float(value.float().mean().abs())
        if _MAX_STANDARDISED_MEAN < mean < inf:
            raise ModelError(
                f"{name}: the mean is {mean:.0f}, but standardised pixels are expected, around 0: "
                "subtract the modality's mean and divide by its deviation first (a generator does "
                "so with standardize=True)"
            )
