"""A model made ready for inference alone.

What needs no decision is always on: fused attention, fused linear layers (`kernels`), one encoder
pass for several outputs, position tables kept. What is left to the user is the number format and
compilation.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from model import layers
from model.generation import decoder
from model.precision import resolve
from model.tokenizers import unet, vit

_M = TypeVar("_M", bound=nn.Module)

_REPEATED = (layers.Block, decoder.DecoderBlock, vit.Block, unet.ResBlock, unet.Attention)
# ^ compiled one by one: all blocks of a kind share one program, which takes seconds, not minutes


def optimised(module: _M, precision: str = "auto", *, compiled: bool | str = False) -> _M:
    """Return the module itself, frozen, in evaluation mode and in a fast number format.

    Keys and shapes of its state dict stay the official ones; values are those of the number format,
    so save from a module in fp32. Move it to its device first.

    Args:
        module: a backbone, segmenter, generator or tokenizer.
        precision: auto, fp32 or bf16; see `model.precision`.
        compiled: whether torch.compile makes a program of each kind of block at its first use, and
            again for other sizes; a string is its mode ("reduce-overhead" records CUDA graphs). On
            a CPU it needs a C++ compiler.

    Raises:
        ModelError: an unknown precision.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module.to(resolve(precision, device))
    module.requires_grad_(requires_grad=False).eval()
    if compiled:
        mode = compiled if isinstance(compiled, str) else "default"
        for part in module.modules():
            if isinstance(part, _REPEATED):
                part.compile(mode=mode)
    return module
