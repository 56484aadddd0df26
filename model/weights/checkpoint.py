"""Checkpoint files: read as data only, written whole or not at all, told apart by their digest.

Only safetensors and `torch.load(weights_only=True)` are read: a pickle is a program. Files are
mapped, not copied: a tensor costs memory once it is looked at.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import WeightsError, join_names
from model.weights import checksums

StateDict = Mapping[str, Tensor]

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_WRAPPER_PREFIXES = ("model.", "module.", "_orig_mod.")
# ^ of a Lightning task, of a model trained on several GPUs, of a compiled one


def read_state_dict(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a pickle that holds tensors only.

    Raises:
        WeightsError: absent, of an unknown kind, not what the digest says, damaged or unsafe.
    """
    content = read_checkpoint(path, sha256)
    try:
        return extract_state_dict(content)
    except WeightsError as error:
        raise WeightsError(f"weights {path}: {error}") from error


def read_checkpoint(path: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """Read everything that a file holds: a plain state dict, or a Lightning task's dict.

    Raises:
        WeightsError: as for `read`, or the file does not hold a mapping.
    """
    path = Path(path)
    if not path.is_file():
        there = "are a folder" if path.is_dir() else "do not exist"
        raise WeightsError(
            f"weights {path} {there}: give the path of a file, .safetensors or {join_names(PICKLE_SUFFIXES)}"
        )
    if path.suffix != ".safetensors" and path.suffix not in PICKLE_SUFFIXES:
        raise WeightsError(
            f"weights {path}: .safetensors or {join_names(PICKLE_SUFFIXES)} expected"
        )
    if sha256 is not None:
        _check_digest(path, sha256)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, dict):
        raise WeightsError(f"weights {path} hold a {type(content).__name__}, not named tensors")
    return content


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what a safetensors file says of itself beside its tensors; {} where it says nothing.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told: dict[str, str] = file.metadata() or {}
        notes = json.loads(told.get("terramosaic", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path} are damaged ({_short_message(error)}): fetch them again"
        ) from error
    return notes if isinstance(notes, dict) else {}


def write_state_dict(
    path: str | Path, state: StateDict, metadata: Mapping[str, Any] | None = None
) -> str:
    """Write a state dict as safetensors and return the sha256 of the file.

    The file appears under its name only when it is whole. Tensors that share memory (tied
    weights) are written once for each of their names, so that any reader finds all of them.

    Args:
        path: the file.
        state: tensors by name.
        metadata: plain values that `read_notes` gives back.
    """
    path = Path(path)
    told = {"terramosaic": json.dumps(metadata, sort_keys=True)} if metadata else None
    part = path.with_name(path.name + ".part")
    try:
        save_file(_clone_shared_tensors(state), part, told)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return checksums.hash_file(path)


def hash_state_dict(state: StateDict) -> str:
    """Return a sha256 over names, types, shapes and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def extract_state_dict(content: object) -> dict[str, Tensor]:
    """Return the state dict inside a plain or a Lightning checkpoint, without wrappers' prefixes.

    Raises:
        WeightsError: there is no state dict in it.
    """
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"no state dict: {type(content).__name__} found instead of tensors")
    tensors = {str(name): value for name, value in content.items() if _is_dense_tensor(value)}
    wrong = [name for name in content if str(name) not in tensors]
    if wrong:
        raise WeightsError(f"no state dict: {join_names(wrong)} are not tensors")
    tensors.pop("criterion.weight", None)
    # ^ Lightning tasks store the weights of their loss beside those of the model
    while prefix := _find_common_prefix(tensors):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _is_dense_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided
    # ^ sparse ones have no memory to write


def _short_message(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"


def _find_common_prefix(names: Mapping[str, Tensor]) -> str:
    every = (
        prefix for prefix in _WRAPPER_PREFIXES if all(name.startswith(prefix) for name in names)
    )
    return next(every, "") if names else ""


def _clone_shared_tensors(state: StateDict) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        plain[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
        # ^ not of the storage: the tensors of a mapped file have one in common
    return plain


def _check_digest(path: Path, sha256: str) -> None:
    found = checksums.hash_file(path)
    if found != sha256.lower():
        raise WeightsError(
            f"weights {path} have sha256 {found}, but {sha256} is pinned: the file is damaged or "
            "another one. Fetch it again, or pin the new digest if you trust it"
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path} are damaged ({_short_message(error)}): fetch them again"
        ) from error
    told = read_metadata(path).get("hyper_parameters")
    return tensors if told is None else {"state_dict": tensors, "hyper_parameters": told}
    # ^ a converted checkpoint of a task reads like the task's own


def _read_pickle(path: Path) -> object:
    mapped = zipfile.is_zipfile(path)
    # ^ files of torch before 1.6 are no archives and cannot be mapped
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights {path} hold more than tensors and are not loaded, because a pickle can run "
            "any program: ask for a .safetensors file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"weights {path} are damaged ({_short_message(error)}): fetch them again"
        ) from error
    return content
