"""Read and write checkpoint files.

Files are read as data only, with safetensors or `torch.load(weights_only=True)`, because a pickle
can run any program. They are memory-mapped: a tensor needs memory once its values are used. A file
appears under its name only when it is complete.
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
from model.terramind.keys import unwrap_state_dict
from model.weights import checksums

StateDict = Mapping[str, Tensor]

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def read_state_dict(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a pickle that holds tensors only.

    Args:
        path: .safetensors, .pt, .pth, .bin or .ckpt.
        sha256: digest that the file must have.

    Raises:
        WeightsError: the file is absent, of an unknown type, damaged or unsafe, or has another
            digest.
    """
    content = read_checkpoint(path, sha256)
    try:
        return extract_state_dict(content)
    except WeightsError as error:
        raise WeightsError(f"weights {path}: {error}") from error


def read_checkpoint(path: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """Read the whole content of a file: a plain state dict, or the dict of a Lightning task.

    Args:
        path: as for `read_state_dict`.
        sha256: as for `read_state_dict`.

    Raises:
        WeightsError: as for `read_state_dict`; or the file holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        reason = "are a folder" if path.is_dir() else "do not exist"
        raise WeightsError(
            f"weights {path} {reason}: give the path of a file, .safetensors or "
            f"{join_names(PICKLE_SUFFIXES)}"
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
    """Return the metadata that `write_state_dict` stored in a safetensors file; {} if none.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
        metadata = json.loads(header.get("terramosaic", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path} are damaged ({_short_message(error)}): fetch them again"
        ) from error
    return metadata if isinstance(metadata, dict) else {}


def write_state_dict(
    path: str | Path, state: StateDict, metadata: Mapping[str, Any] | None = None
) -> str:
    """Write a state dict as safetensors and return the sha256 of the file.

    Tensors that share memory (tied weights) are written under each of their names, so that any
    reader finds all of them.

    Args:
        path: the file.
        state: tensors by name.
        metadata: plain values, which `read_metadata` returns.
    """
    path = Path(path)
    header = {"terramosaic": json.dumps(metadata, sort_keys=True)} if metadata else None
    partial = path.with_name(path.name + ".part")
    try:
        save_file(_clone_shared_tensors(state), partial, header)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return checksums.hash_file(path)


def hash_state_dict(state: StateDict) -> str:
    """Return a sha256 over names, types, shapes and values, independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def extract_state_dict(content: object) -> dict[str, Tensor]:
    """Return the state dict of a plain or a Lightning checkpoint, without the prefixes of wrappers.

    Raises:
        WeightsError: the checkpoint holds no state dict.
    """
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"no state dict: {type(content).__name__} found instead of tensors")
    tensors = {str(name): value for name, value in content.items() if _is_dense_tensor(value)}
    others = [name for name in content if str(name) not in tensors]
    if others:
        raise WeightsError(f"no state dict: {join_names(others)} are not tensors")
    return unwrap_state_dict(tensors)


def _is_dense_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided
    # ^ sparse tensors have no memory that could be written


def _short_message(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"


def _clone_shared_tensors(state: StateDict) -> dict[str, Tensor]:
    cloned: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        cloned[name] = tensor.clone() if tensor.data_ptr() in addresses else tensor
        addresses.add(tensor.data_ptr())
        # ^ not of the storage, which all tensors of a mapped file share
    return cloned


def _check_digest(path: Path, sha256: str) -> None:
    actual = checksums.hash_file(path)
    if actual != sha256.lower():
        raise WeightsError(
            f"weights {path} have sha256 {actual}, but {sha256} is pinned: the file is damaged or "
            "another one. Fetch it again, or pin the new digest if you trust it"
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path} are damaged ({_short_message(error)}): fetch them again"
        ) from error
    options = read_metadata(path).get("hyper_parameters")
    return tensors if options is None else {"state_dict": tensors, "hyper_parameters": options}
    # ^ a converted checkpoint of a Lightning task reads like the original


def _read_pickle(path: Path) -> object:
    mapped = zipfile.is_zipfile(path)
    # ^ files of torch before 1.6 are not archives and cannot be mapped
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
