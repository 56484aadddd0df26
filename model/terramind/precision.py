"""Number formats: the one that a device computes fastest in.

    device                        auto   why
    CUDA                          bf16   tensor cores
    CPU with AVX512-BF16 or AMX   bf16   half the time of fp32 (measured: 1.5 to 2.2 times as fast)
    any other CPU                 fp32   bf16 is emulated, several times as slow

bf16 is for the matrices. Norms, positions and the sums between the blocks stay in single precision
(`layers.Exact`), so that features are as near to fp32's as under autocast. float16 is not offered:
its range ends at 65504, and attention goes beyond.
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
    """Return the number format meant by auto, fp32 or bf16 on a device.

    Raises:
        ModelError: unknown, or float16.
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
    """Build modules in a number format from the start, as `module.to(kind)` would leave them.

    Built first and cast then, a model needs the memory of single precision once. What is made
    inside by a function of torch that names no format has this one: build, and do no arithmetic.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
