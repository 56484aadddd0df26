"""Convert a file of weights to safetensors: all of it or a part, in any number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import WeightsError, join_names
from model.terratorch import lightning_checkpoint
from model.terratorch.hyperparameters import to_plain_values
from model.weights import checksums, loading, state_dict_contents
from model.weights.state_dict_contents import WeightsContents

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedFile:
    """A safetensors file that was written."""

    path: Path
    sha256: str
    tensors: int
    """Number of tensors."""

    contents: WeightsContents


def convert(
    source: str | Path, target: str | Path, dtype: str | None = None, part: str | None = None
) -> ConvertedFile:
    """Write a file of weights as safetensors, atomically, and describe what was written.

    Args:
        source: .safetensors, .pt, .pth, .bin or .ckpt.
        target: a file that ends in .safetensors.
        dtype: fp32, bf16 or fp16 for floating-point tensors; None = unchanged.
        part: one part, named as by `contents.find_part`: encoder, decoder, head, …; None = all. The
            encoder of a fine-tuned model gets the keys of a backbone.

    Raises:
        WeightsError: the source cannot be read, the target is not a .safetensors file or is the
            source itself, there is no such part or number format, a value is not finite, or a
            value is too large for fp16.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise WeightsError(f"{target}: the name of the output must end in .safetensors")
    if target.exists() and source.exists() and target.samefile(source):
        raise WeightsError(f"{target} is the source itself: give another name")
    if dtype is not None and dtype not in DTYPES:
        raise WeightsError(f"unknown number format {dtype!r}; known are {join_names(DTYPES)}")
    content = lightning_checkpoint.read(source)
    tensors = loading.extract_state_dict(content)
    if part is not None:
        tensors = _select_part(tensors, part)
    if dtype is not None:
        tensors = {key: _cast(key, value, DTYPES[dtype]) for key, value in tensors.items()}
    metadata = {
        "converted_from": source.name,
        "sha256": checksums.hash_file(source),
        **_extract_hyper_parameters(content),
    }
    if not target.parent.is_dir():
        raise WeightsError(f"there is no folder {target.parent} to write to")
    inspected = state_dict_contents.summarise_state_dict(tensors)
    if inspected.non_finite_keys:
        raise WeightsError(
            f"{source} holds values that are not finite in "
            f"{join_names(inspected.non_finite_keys, 5)}: no model can use it, and "
            "nothing is written"
        )
    sha256 = loading.write_state_dict(target, tensors, metadata)
    return ConvertedFile(path=target, sha256=sha256, tensors=len(tensors), contents=inspected)


def _select_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    selected = {
        key: value for key, value in tensors.items() if state_dict_contents.find_part(key) == part
    }
    if not selected:
        parts = dict.fromkeys(state_dict_contents.find_part(key) for key in tensors)
        raise WeightsError(f"there is no part {part!r} in the file; there are {join_names(parts)}")
    if (
        state_dict_contents.detect_kind(tensors) in ("segmenter", "terratorch")
        and part == "encoder"
    ):
        return {key.removeprefix("encoder."): value for key, value in selected.items()}
    return selected


def _cast(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value
    converted = value.to(dtype)
    if not torch.equal(torch.isfinite(converted), torch.isfinite(value)):
        raise WeightsError(f"{key} holds values that are too large for fp16: use bf16")
    return converted


def _extract_hyper_parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters of a training, from which a model is built, in plain values."""
    stored = content.get("hyper_parameters")
    return {"hyper_parameters": to_plain_values(stored)} if isinstance(stored, Mapping) else {}
