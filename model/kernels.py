"""Linear layers that run faster in inference on a CPU, each together with what follows it.

PyTorch gives single-precision products to MKL. oneDNN, which it carries too, is faster where it was
measured, and applies an activation or a factor while the result is still in the cache. Weights stay
as they are: the state dict keeps its keys, nothing is packed or copied, and the bits of a sample do
not depend on its batch. In training, on other devices, in other number formats, under autocast and
while tracing or compiling, the plain layers run.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Activation = Literal["none", "gelu", "silu", "tanh"]

_PLAIN = {"none": lambda x: x, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}
_NAMES = {"none": "none", "gelu": "gelu", "silu": "swish", "tanh": "tanh"}
# ^ ours and oneDNN's


def linear(layer: nn.Linear, x: Tensor, activation: Activation = "none") -> Tensor:
    """Return activation(layer(x)), shape (..., out), in the number format of the weights."""
    if _plain(layer):
        return product(x, layer.weight, layer.bias, activation)
    out: Tensor = _PLAIN[activation](layer(x.to(layer.weight.dtype)))
    return out


def scaled(layer: nn.Linear, x: Tensor, factor: Tensor) -> Tensor:
    """Return layer(x) * factor, both of shape (..., out)."""
    x = x.to(layer.weight.dtype)
    if not (_plain(layer) and _fusable(x, layer.weight)):
        out: Tensor = factor * layer(x)
        return out
    fused: Tensor = torch.ops.mkldnn._linear_pointwise.binary(  # noqa: SLF001
        x, factor, layer.weight, layer.bias, "mul"
    )
    return fused


def product(
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
    if not _fusable(x, weight):
        out: Tensor = _PLAIN[activation](F.linear(x, weight, bias))
        return out
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
        x, weight, bias, _NAMES[activation], [], "none"
    )
    # ^ what torch.compile uses itself on a CPU; `capable` looks for it
    return fused


@cache
def capable(dtype: torch.dtype) -> bool:
    """Tell whether this machine has fused kernels that pay in a number format."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
        # ^ not measured elsewhere
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
        # ^ built without oneDNN
    if dtype == torch.bfloat16:
        return half_speed()
    return dtype == torch.float32


@cache
def half_speed() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); else it is slow."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for name in checks if (check := getattr(torch.cpu, name, None)))


def _plain(layer: nn.Linear) -> bool:
    """Tell a linear layer from an adapter around one, and from one that is watched."""
    return (
        type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks  # noqa: SLF001
    )


def _fusable(x: Tensor, weight: Tensor) -> bool:
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
        and capable(x.dtype)
    )
