"""Linear layers that are faster in inference on a CPU, fused with the operation that follows.

PyTorch computes fp32 matrix products with MKL. oneDNN, which is part of PyTorch too, was measured
to be faster, and applies an activation or a factor while the result is still in the cache. The bits
of a sample do not depend on its batch. In training, on other devices, in other number formats,
under autocast and while tracing or compiling, the plain layers run.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "gelu", "silu", "tanh"]

_ACTIVATIONS = {"none": lambda x: x, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}
_ONEDNN_NAMES = {"none": "none", "gelu": "gelu", "silu": "swish", "tanh": "tanh"}


def linear(layer: nn.Linear, x: Tensor, activation: Activation = "none") -> Tensor:
    """Return activation(layer(x)), shape (..., out), in the number format of the weights."""
    if _is_plain_linear(layer):
        return functional_linear(x, layer.weight, layer.bias, activation)
    out: Tensor = _ACTIVATIONS[activation](layer(x.to(layer.weight.dtype)))
    return out


def linear_mul(layer: nn.Linear, x: Tensor, factor: Tensor) -> Tensor:
    """Return layer(x) * factor, both of shape (..., out)."""
    x = x.to(layer.weight.dtype)
    if not (_is_plain_linear(layer) and _can_fuse(x, layer.weight)):
        out: Tensor = factor * layer(x)
        return out
    fused: Tensor = torch.ops.mkldnn._linear_pointwise.binary(  # noqa: SLF001
        x, factor, layer.weight, layer.bias, "mul"
    )
    # ^ the operator that torch.compile uses on a CPU; `is_supported` looks for it
    return fused


def functional_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
) -> Tensor:
    """Return activation(x @ weight.T + bias), shape (..., out), in the weights' number format.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).
        activation: applied to the sum.
    """
    x = x.to(weight.dtype)
    if not _can_fuse(x, weight):
        out: Tensor = _ACTIVATIONS[activation](F.linear(x, weight, bias))
        return out
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
        x, weight, bias, _ONEDNN_NAMES[activation], [], "none"
    )
    # ^ the operator that torch.compile uses on a CPU; `is_supported` looks for it
    return fused


@cache
def is_supported(dtype: torch.dtype) -> bool:
    """Return whether this machine has fused kernels that are faster in a number format."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
        # ^ not measured on other machines
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
        # ^ PyTorch was built without oneDNN
    if dtype == torch.bfloat16:
        return has_bf16_hardware()
    return dtype == torch.float32


@cache
def has_bf16_hardware() -> bool:
    """Return whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); else it is slow."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for name in names if (check := getattr(torch.cpu, name, None)))


def _is_plain_linear(layer: nn.Linear) -> bool:
    """Return whether a layer is neither an adapter around a linear layer nor has hooks."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)  # noqa: SLF001
    # ^ torch has no public name for them
    return type(layer) is nn.Linear and not any(hooks)


def _can_fuse(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and not torch.is_grad_enabled()
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        # ^ neither fake nor quantised
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        and is_supported(x.dtype)
    )
