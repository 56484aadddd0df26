"""Optimise a model for inference: number format, memory layout of weights, compilation.

Always on and not decided here: fused attention, fused linear layers
(:mod:`model.terramind.fused_linear`), one encoder pass for several outputs, cached position
embeddings.
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
# ^ pixels along a side of one cell of the U-Net's first level

_BLOCK_TYPES = (
    layers.EncoderBlock,
    decoder.DecoderBlock,
    vit.ViTBlock,
    diffusion_unet.ResBlock,
    diffusion_unet.SpatialAttention,
)
# ^ compiled block by block: blocks of one type share a program, which takes seconds, not minutes


def optimise_for_inference(
    module: _M, precision: str = "auto", *, packed: bool = True, compiled: bool | str = False
) -> _M:
    """Freeze a module, set it to evaluation mode and convert it to a fast number format.

    Keys and shapes of its state dict stay the official ones; values are those of the number format,
    so save from a module in fp32. Load weights and move it to its device first.

    Args:
        module: a backbone, segmenter, generator or tokenizer.
        precision: auto, fp32 or bf16; see `model.terramind.precision`.
        packed: on a CPU, store the blocks' weights in the memory layout of the CPU's kernels. This
            makes a model 5 % faster, but it can no longer be moved, cast, copied or trained.
        compiled: whether torch.compile compiles each type of block at its first use, and again for
            other sizes; a string is its mode ("reduce-overhead" records CUDA graphs). On a CPU it
            needs a C++ compiler.

    Returns:
        The module itself.

    Raises:
        ModelError: an unknown precision.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    dtype = resolve_dtype(precision, device)
    module.to(dtype).requires_grad_(requires_grad=False).eval()
    for block in (part for part in module.modules() if isinstance(part, _BLOCK_TYPES)):
        if compiled:
            block.compile(mode=compiled if isinstance(compiled, str) else "default")
        elif packed and device.type == "cpu" and fused_linear.is_supported(dtype):
            _pack_weights(block)
    return module


def _pack_weights(block: nn.Module) -> None:
    for layer in block.modules():
        if isinstance(layer, diffusion_unet.Conv3x3):
            if layer.weight.dtype == torch.bfloat16 and not layer.weight.is_mkldnn:
                fused_linear.pack_conv3x3(layer, IMAGE_SIZE // _UNET_PATCH_SIZE >> layer.level)
                # ^ in fp32 its faster algorithms need the weights as they are
        elif type(layer) is nn.Linear and not layer.weight.is_mkldnn:
            fused_linear.pack_linear(layer)
