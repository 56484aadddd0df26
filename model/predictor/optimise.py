"""A model made ready for inference alone.

What needs no decision is always on: fused attention, fused linear layers (`kernels`), one encoder
pass for several outputs, position tables kept. What is left to the user is the number format,
packing and compilation.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from model.terramind import decoder, fused_linear, layers
from model.terramind.modalities import IMAGE_SIZE
from model.terramind.precision import resolve_dtype
from model.terramind.tokenizers import diffusion_unet, vit

_M = TypeVar("_M", bound=nn.Module)

_UNET_PATCH_SIZE = 4
# ^ pixels along a side of what the U-Net's first level sees as one place

_BLOCK_TYPES = (
    layers.EncoderBlock,
    decoder.DecoderBlock,
    vit.ViTBlock,
    diffusion_unet.ResBlock,
    diffusion_unet.SpatialAttention,
)
# ^ compiled one by one: all blocks of a kind share one program, which takes seconds, not minutes


def optimise_for_inference(
    module: _M, precision: str = "auto", *, packed: bool = True, compiled: bool | str = False
) -> _M:
    """Return the module itself, frozen, in evaluation mode and in a fast number format.

    Keys and shapes of its state dict stay the official ones; values are those of the number format,
    so save from a module in fp32. Load weights and move it to its device first.

    Args:
        module: a backbone, segmenter, generator or tokenizer.
        precision: auto, fp32 or bf16; see `model.terramind.precision`.
        packed: on a CPU, lay the blocks' weights out in memory as its kernels want them. Such a
            model is a twentieth faster, and can be moved, cast, copied and trained no longer.
        compiled: whether torch.compile makes a program of each kind of block at its first use, and
            again for other sizes; a string is its mode ("reduce-overhead" records CUDA graphs). On
            a CPU it needs a C++ compiler.

    Raises:
        ModelError: an unknown precision.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    kind = resolve_dtype(precision, device)
    module.to(kind).requires_grad_(requires_grad=False).eval()
    for block in (part for part in module.modules() if isinstance(part, _BLOCK_TYPES)):
        if compiled:
            block.compile(mode=compiled if isinstance(compiled, str) else "default")
        elif packed and device.type == "cpu" and fused_linear.is_supported(kind):
            _pack_weights(block)
    return module


def _pack_weights(block: nn.Module) -> None:
    for part in block.modules():
        if isinstance(part, diffusion_unet.Conv3x3):
            if part.weight.dtype == torch.bfloat16 and not part.weight.is_mkldnn:
                fused_linear.pack_conv3x3(part, IMAGE_SIZE // _UNET_PATCH_SIZE >> part.level)
                # ^ in single precision its shorter ways start from the plain kernel
        elif type(part) is nn.Linear and not part.weight.is_mkldnn:
            fused_linear.pack_linear(part)
