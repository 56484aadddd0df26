"""From any file of weights to safetensors: another number format, or a part of it alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import WeightsError, join_names
from model.terratorch.hyperparameters import to_plain_values
from model.weights import checksums, contents, loading

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def convert(
    source: str | Path, target: str | Path, dtype: str | None = None, part: str | None = None
) -> dict[str, Any]:
    """Write a file of weights as safetensors, whole or not at all, and tell what was written.

    Args:
        source: .safetensors, .pt, .pth, .bin or .ckpt.
        target: a file that ends in .safetensors.
        dtype: fp32, bf16 or fp16 for everything with a fraction; default as it is.
        part: one part, as `contents.part_of` calls them: encoder, decoder, head, …; a fine-tuned
            model's encoder gets the keys of a backbone.

    Raises:
        WeightsError: the source cannot be read, the target is no .safetensors or the source
            itself, there is no such part or number format, a number is not finite, or fp16 cannot
            hold the numbers.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise WeightsError(f"{target}: the name of what is written must end in .safetensors")
    if target.exists() and source.exists() and target.samefile(source):
        raise WeightsError(f"{target} is the source itself: give another name")
    if dtype is not None and dtype not in DTYPES:
        raise WeightsError(f"unknown number format {dtype!r}; known are {join_names(DTYPES)}")
    content = loading.read_checkpoint(source)
    tensors = loading.extract_state_dict(content)
    if part is not None:
        tensors = _select_part(tensors, part)
    if dtype is not None:
        tensors = {key: _cast(key, value, DTYPES[dtype]) for key, value in tensors.items()}
    notes = {
        "converted_from": source.name,
        "sha256": checksums.hash_file(source),
        **_extract_hyper_parameters(content),
    }
    if not target.parent.is_dir():
        raise WeightsError(f"there is no folder {target.parent} to write to")
    held = contents.inspect_state_dict(tensors)
    if held.non_finite_keys:
        raise WeightsError(
            f"{source} holds numbers that are not finite in {join_names(held.non_finite_keys, 5)}: no model "
            "takes it, and nothing is written"
        )
    sha256 = loading.write_state_dict(target, tensors, notes)
    return {
        "path": str(target),
        "sha256": sha256,
        "bytes": target.stat().st_size,
        "tensors": len(tensors),
        "parameters": held.parameters,
        "dtypes": dict(held.dtypes),
        "parts": dict(held.parts),
    }


def _select_part(tensors: Mapping[str, Tensor], only: str) -> dict[str, Tensor]:
    kept = {key: value for key, value in tensors.items() if contents.find_part(key) == only}
    if not kept:
        there = dict.fromkeys(contents.find_part(key) for key in tensors)
        raise WeightsError(f"there is no part {only!r} in the file; there are {join_names(there)}")
    if contents.detect_kind(tensors) in ("segmenter", "terratorch") and only == "encoder":
        return {key.removeprefix("encoder."): value for key, value in kept.items()}
    return kept


def _cast(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value
    done = value.to(dtype)
    if not torch.equal(torch.isfinite(done), torch.isfinite(value)):
        raise WeightsError(f"{key} holds numbers that are too large for fp16: take bf16")
    return done


def _extract_hyper_parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training's hyper-parameters, which a model is built from, in plain values."""
    told = content.get("hyper_parameters")
    return {"hyper_parameters": to_plain_values(told)} if isinstance(told, Mapping) else {}
