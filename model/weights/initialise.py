"""Random starts: reproducible from a seed, whatever order or process they are made in."""

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

EMBEDDING_STD = 0.02
"""Standard deviation of embeddings: of modalities, of tokens, of the mask."""

_EMBEDDING_SUFFIXES = ("mod_emb", "mask_token", "token_emb.weight", "to_logits.weight")
_POSITION_TABLE = "pos_emb"
_SEED_LIMIT = 1 << 64
_DRAW_DTYPE = torch.float32
# ^ whatever the parameter's own format, so that a seed means the same numbers in each
_M = TypeVar("_M", bound=nn.Module)


class _SkipInitMode(TorchFunctionMode):
    """Leave memory as it comes wherever torch would make a layer's own random start."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Pass every call through but those of `torch.nn.init`, which return their tensor."""
        del types
        given = dict(kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextmanager
def skip_init(*, enabled: bool = True) -> Iterator[None]:
    """Build layers without a start, because weights follow that overwrite every parameter.

    Half of the time it takes to load a large model goes into numbers that nobody sees. Strict
    loading and `initialise` leave nothing out; modules that stay as they are built need a start.

    Args:
        enabled: false does nothing.
    """
    if not enabled:
        yield
        return
    with _SkipInitMode():
        yield


def initialise(module: _M, seed: int) -> _M:
    """Give every parameter a random start that depends on its name and the seed alone.

    Matrices and convolutions get the uniform start of Glorot and Bengio (2010), norms one, biases
    zero. Position tables stay: in the tokenizers they are parameters, but they hold a sin-cos
    table that is never trained.

    Raises:
        WeightsError: the seed is no whole number from 0 to 2^64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEED_LIMIT:
        raise WeightsError(
            f"random weights want a whole number >= 0 and below 2^64 as seed, not {seed!r}"
        )
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if name.rpartition(".")[2] == _POSITION_TABLE and not parameter.requires_grad:
                continue
            mixed = hashlib.sha256(struct.pack("<Q", seed) + _shared_name(name).encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(mixed[:7], "little"))
            parameter.copy_(_draw_initial_values(name, parameter, generator))
    return module


def _shared_name(name: str) -> str:
    """Return the name of what may stand in several models, or on both sides of one.

    A modality's vector is that of encoder and decoder, and the encoder of a generator that of a
    backbone: what a seed makes does not depend on what the model is asked for.
    """
    name = name.removeprefix("sampler.model.")
    shared = name.endswith(".mod_emb")
    return name.replace("decoder_embeddings.", "encoder_embeddings.") if shared else name


def _draw_initial_values(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bias") or "missing_mod_token" in name:
        return torch.zeros(parameter.shape, dtype=_DRAW_DTYPE)
    if parameter.ndim < 2:
        return torch.ones(parameter.shape, dtype=_DRAW_DTYPE)
        # ^ the scale of a norm
    if name.endswith(_EMBEDDING_SUFFIXES):
        return torch.randn(parameter.shape, generator=generator, dtype=_DRAW_DTYPE).mul_(
            EMBEDDING_STD
        )
    fan_in = parameter[0].numel()
    fan_out = parameter.shape[0] * parameter[0, 0].numel()
    # ^ a convolution's kernel counts for both
    if name.endswith("qkv.weight"):
        fan_out //= 3
    if name.endswith("kv.weight") and not name.endswith("qkv.weight"):
        fan_out //= 2
        # ^ several matrices in one
    bound = (6.0 / (fan_in + fan_out)) ** 0.5
    drawn = torch.rand(parameter.shape, generator=generator, dtype=_DRAW_DTYPE)
    return drawn.mul_(2).sub_(1).mul_(bound)
    # ^ in place: these are the large ones
