"""A model made ready for inference alone.

Fused attention, fused linear layers (`model.terramind.fused_linear`), one encoder pass for several
outputs and cached position tables are always on. The user chooses the number format and compilation.
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
# ^ compiled one by one: all blocks of a kind share one program, which takes seconds, not minutes


def optimise_for_inference(
    module: _M, precision: str = "auto", *, compiled: bool | str = False
) -> _M:
    """Return the module itself, frozen, in evaluation mode and in a fast number format.

    Keys and shapes of its state dict stay the official ones; values are those of the number format,
    so save from a module in fp32. Load weights and move it to its device first.

    Args:
        module: a backbone, segmenter, generator or tokenizer.
        precision: auto, fp32 or bf16; see `model.terramind.precision`.
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
    return module
