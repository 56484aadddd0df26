"""Initialise weights at random, reproducible from a seed in any order and in any process."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.errors import WeightsError
from model.terramind.keys import DECODER_EMBEDDINGS, ENCODER_EMBEDDINGS, SAMPLER_PREFIX

EMBEDDING_STD = 0.02
"""Standard deviation of the embeddings of modalities, tokens and mask."""

_EMBEDDING_SUFFIXES = ("mod_emb", "mask_token", "token_emb.weight", "to_logits.weight")
_POSITION_TABLE = "pos_emb"
_SEED_LIMIT = 1 << 64
_DRAW_DTYPE = torch.float32
# ^ for parameters of any format, so that a seed gives the same numbers in each
_M = TypeVar("_M", bound=nn.Module)


class _SkipInitMode(TorchFunctionMode):
    """Skip the initialisation of a layer's parameters by torch."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Skip calls of `torch.nn.init`, which return their tensor, and pass on all others."""
        del types
        keywords = dict(kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else keywords["tensor"]
        return func(*args, **keywords)


@contextmanager
def skip_init(*, enabled: bool = True) -> Iterator[None]:
    """Build layers without initialisation, because every parameter is overwritten afterwards.

    Initialisation takes half of the time to load a large model. Strict loading and `initialise` set
    every parameter; modules that keep the parameters they are built with need initialisation.

    Args:
        enabled: False has no effect.
    """
    if not enabled:
        yield
        return
    with _SkipInitMode():
        yield


def initialise(module: _M, seed: int) -> _M:
    """Give every parameter random values that depend on its name and the seed only.

    Matrices and convolutions get the uniform initialisation of Glorot and Bengio (2010), norms one,
    biases zero. Position tables stay as they are: they hold sines and cosines, and are not trained.

    Raises:
        WeightsError: the seed is not a whole number from 0 to 2^64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEED_LIMIT:
        raise WeightsError(
            f"random weights need a whole number >= 0 and below 2^64 as seed, not {seed!r}"
        )
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if name.rpartition(".")[2] == _POSITION_TABLE and not parameter.requires_grad:
                continue
            digest = hashlib.sha256(struct.pack("<Q", seed) + _shared_name(name).encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            parameter.copy_(_draw_initial_values(name, parameter, generator))
    return module


def _shared_name(name: str) -> str:
    """Return a name that a parameter has in common with the same parameter of other models.

    A modality's vector is the same in encoder and decoder, and the encoder of a generator is that
    of a backbone, so that a seed gives the same values in all models.
    """
    name = name.removeprefix(SAMPLER_PREFIX)
    is_shared = name.endswith(".mod_emb")
    return name.replace(DECODER_EMBEDDINGS, ENCODER_EMBEDDINGS) if is_shared else name


def _draw_initial_values(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bias") or "missing_mod_token" in name:
        return torch.zeros(parameter.shape, dtype=_DRAW_DTYPE)
    if parameter.ndim < 2:
        return torch.ones(parameter.shape, dtype=_DRAW_DTYPE)
        # ^ the scale of a norm layer
    if name.endswith(_EMBEDDING_SUFFIXES):
        return torch.randn(parameter.shape, generator=generator, dtype=_DRAW_DTYPE).mul_(
            EMBEDDING_STD
        )
    fan_in = parameter[0].numel()
    fan_out = parameter.shape[0] * parameter[0, 0].numel()
    # ^ the kernel of a convolution counts for both
    if name.endswith("qkv.weight"):
        fan_out //= 3
    if name.endswith("kv.weight") and not name.endswith("qkv.weight"):
        fan_out //= 2
        # ^ several matrices are stored as one
    bound = (6.0 / (fan_in + fan_out)) ** 0.5
    drawn = torch.rand(parameter.shape, generator=generator, dtype=_DRAW_DTYPE)
    return drawn.mul_(2).sub_(1).mul_(bound)
    # ^ in place: these tensors are large
