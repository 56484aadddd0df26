"""Optimise a model for inference: number format and compilation.

Always on and not decided here: fused attention, fused linear layers
(:mod:`model.terramind.fused_linear`), one encoder pass for several outputs, cached position
embeddings.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from model.terramind import decoder, layers
from model.terramind.precision import resolve_dtype
from model.terramind.tokenizers import diffusion_unet, vit

_M = TypeVar("_M", bound=nn.Module)

_BLOCK_TYPES = (
    layers.EncoderBlock,
    decoder.DecoderBlock,
    vit.ViTBlock,
    diffusion_unet.ResBlock,
    diffusion_unet.SpatialAttention,
)
# ^ compiled block by block: blocks of one type share a program, which takes seconds, not minutes


def optimise_for_inference(
    module: _M, precision: str = "auto", *, compiled: bool | str = False
) -> _M:
    """Freeze a module, set it to evaluation mode and convert it to a fast number format.

    Keys and shapes of its state dict stay the official ones; values are those of the number format,
    so save from a module in fp32. Load weights and move it to its device first.

    Args:
        module: a backbone, segmenter, generator or tokenizer.
        precision: auto, fp32 or bf16; see `model.terramind.precision`.
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
    return module
