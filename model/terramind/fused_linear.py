"""Linear layers that run faster in inference on a CPU, each together with what follows it.

PyTorch gives single-precision products to MKL. oneDNN, which it carries too, is faster where it was
measured, and applies an activation or a factor while the result is still in the cache. The bits of
a sample do not depend on its batch. In training, on other devices, in other number formats, under
autocast and while tracing or compiling, the plain layers run.
"""

from __future__ import annotations

import platform
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Activation = Literal["none", "gelu", "silu", "tanh"]

_ACTIVATIONS = {"none": lambda x: x, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}
_ONEDNN_NAMES = {"none": "none", "gelu": "gelu", "silu": "swish", "tanh": "tanh"}
# ^ ours and oneDNN's

_CONV_ARGS = ([1, 1], [1, 1], [1, 1], 1)
# ^ padding, stride, dilation, groups

_PACKED_ROWS = 392
# ^ tokens for which packed weights are laid out: two images; for other numbers they do as well


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
        plain = weight.to_dense() if weight.is_mkldnn else weight
        out: Tensor = _ACTIVATIONS[activation](F.linear(x, plain, bias))
        return out
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
        x, weight, bias, _ONEDNN_NAMES[activation], [], "none"
    )
    # ^ what torch.compile uses itself on a CPU; `capable` looks for it
    return fused


def pack_linear(layer: nn.Linear) -> None:
    """Lay a layer's weight out in memory as the fused kernels want it, for good.

    They would do it anew at each call, for a twentieth of their time. The state dict still has the
    plain weight under its key; the layer can be moved, cast, copied and trained no longer.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _PACKED_ROWS)  # noqa: SLF001
    layer.weight = nn.Parameter(packed, requires_grad=False)
    layer.forward = partial(_packed_forward, layer)  # type: ignore[method-assign]
    layer.register_state_dict_post_hook(_unpack_state_dict)  # type: ignore[no-untyped-call]


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the 3 x 3 convolution of x (B, in, h, w) with zeros around, (B, out, h, w)."""
    if not weight.is_mkldnn:
        return F.conv2d(x, weight, bias, padding=1)
    if not _can_fuse(x, weight):
        return F.conv2d(x, weight.to_dense(), bias, padding=1)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
        x, weight, bias, *_CONV_ARGS, "none", [], "none"
    )
    return out


def pack_conv3x3(layer: nn.Conv2d, side: int) -> None:
    """Do as `pack` for a 3 x 3 convolution of images of about side x side."""
    size = [1, layer.in_channels, side, side]
    packed = torch.ops.mkldnn._reorder_convolution_weight(  # noqa: SLF001
        layer.weight.detach(), *_CONV_ARGS, size
    )
    layer.weight = nn.Parameter(packed, requires_grad=False)
    layer.register_state_dict_post_hook(_unpack_state_dict)  # type: ignore[no-untyped-call]


@cache
def is_supported(dtype: torch.dtype) -> bool:
    """Tell whether this machine has fused kernels that pay in a number format."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
        # ^ not measured elsewhere
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
        # ^ built without oneDNN
    if dtype == torch.bfloat16:
        return has_bf16_hardware()
    return dtype == torch.float32


@cache
def has_bf16_hardware() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); else it is slow."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for name in checks if (check := getattr(torch.cpu, name, None)))


def _packed_forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional_linear(x, layer.weight, layer.bias)


def _unpack_state_dict(
    layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, object]
) -> None:
    del layer, metadata
    state[f"{prefix}weight"] = state[f"{prefix}weight"].to_dense()


def _is_plain_linear(layer: nn.Linear) -> bool:
    """Tell a linear layer from an adapter around one, and from one that is watched."""
    return (
        type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks  # noqa: SLF001
    )


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
