"""Number formats, and the one in which a device computes fastest.

    device                        auto   reason
    CUDA                          bf16   tensor cores
    CPU with AVX512-BF16 or AMX   bf16   1.5 to 2.2 times as fast as fp32 (measured)
    any other CPU                 fp32   bf16 is emulated, several times slower

bf16 is for the matrices. Norms, positions and the sums between the blocks stay in fp32
(`layers.Float32Module`), so that features are as near to those of fp32 as under autocast. float16
is not offered: its range ends at 65504, and attention exceeds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from model.errors import ModelError
from model.terramind import fused_linear

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format of a name on a device.

    Args:
        name: auto, fp32 or bf16.
        device: where the model runs; auto depends on it.

    Raises:
        ModelError: an unknown name, or float16.
    """
    if name == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and fused_linear.has_bf16_hardware())
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ModelError(
            f"precision {name!r}: auto, fp32 or bf16 (float16 overflows in attention and is not "
            "offered)"
        )
    return DTYPES[name]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in a number format from the start, with the result of `module.to(dtype)`.

    A model that is built in fp32 and cast afterwards needs the memory of fp32 once. Inside the
    context, tensors that name no dtype get this one: build modules only, and compute nothing.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
