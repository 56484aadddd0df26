"""Weights: from whatever source into a module, strictly.

What fits is strict in both directions: a key that is missing, superfluous, of another shape or of
another kind is an error that names it. Files are read in `model.weights.checkpoint`, the official
ones found in `model.weights.hub`, random starts made in `model.weights.initialise`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from model.errors import WeightsError, join_names
from model.terramind.layers import CheckpointModule
from model.weights.checkpoint import (
    PICKLE_SUFFIXES,
    StateDict,
    extract_state_dict,
    hash_state_dict,
    read_checkpoint,
    read_state_dict,
    write_state_dict,
)
from model.weights.checksums import hash_file as digest_of_file
from model.weights.contents import is_finite
from model.weights.hub import OFFICIAL_FILES, HubFile, fetch_path, list_candidate_paths
from model.weights.initialise import initialise

__all__ = [
    "OFFICIAL_FILES",
    "HubFile",
    "StateDict",
    "StateDictMismatch",
    "WeightSource",
    "check_weight_source",
    "compare_state_dict",
    "digest_of_file",
    "extract_state_dict",
    "fetch_path",
    "find_weight_file",
    "hash_state_dict",
    "initialise",
    "list_candidate_paths",
    "load_state",
    "load_weights",
    "read_checkpoint",
    "read_state_dict",
    "write_state_dict",
]

WeightSource = None | str | Path | Mapping[str, Any]
"""None, "hub", a file or a folder of files, {"random": seed}, {"path": p, "sha256": s}, or a
state dict."""

_EXPECTED_SOURCES = "hub, a path, {random: SEED} or {path: …, sha256: …}"

_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDictMismatch:
    """In what a state dict and a module differ; falsy where they fit."""

    missing: tuple[str, ...] = ()
    """Keys that the module needs and the state lacks."""

    unexpected: tuple[str, ...] = ()
    """Keys that the module has no place for."""

    mismatched: tuple[str, ...] = ()
    """Keys of another shape or kind, and tied keys with two values, each with what differs."""

    def __bool__(self) -> bool:
        """Tell whether anything differs."""
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Name the first few of each kind."""
        parts = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("different", self.mismatched),
        )
        return "; ".join(
            f"{len(keys)} {what}: {join_names(keys, 5)}" for what, keys in parts if keys
        )


def load_state(module: _M, source: str | Path | StateDict, sha256: str | None = None) -> _M:
    """Load a state dict with official key names into a module, strictly, and return the module.

    Left out in silence are only parts of the family that the module does not have (decoder,
    tokenizers, other modalities); lacking may be buffers that the module computes itself, and
    all but one of the names of a tied weight. Values take the module's number format.

    Raises:
        WeightsError: keys are missing, superfluous, of another shape or kind; the first of each
            are named, and how many there are; or a tensor holds NaN or infinity. The module is
            then unchanged.
    """
    content = source if isinstance(source, Mapping) else read_state_dict(source, sha256)
    fitting, misfit = compare_state_dict(module, extract_state_dict(content))
    if misfit:
        raise WeightsError(
            f"the weights do not fit this {type(module).__name__}: {misfit}. Check name, "
            f"modalities and merge of the model they were made for{_mismatch_hint(misfit)}"
        )
    broken = [key for key, value in fitting.items() if not is_finite(value)]
    if broken:
        raise WeightsError(
            f"the weights hold numbers that are not finite in {join_names(broken, 5)}: the file is "
            "damaged, or its training ran away. Nothing was loaded"
        )
    module.load_state_dict(fitting, strict=False)
    return module


def compare_state_dict(
    module: nn.Module, tensors: StateDict
) -> tuple[dict[str, Tensor], StateDictMismatch]:
    """Return the tensors that a module takes, by its own keys, and in what the rest differs.

    The module may stand on the meta device, where it has shapes but costs no memory.
    """
    family = module if isinstance(module, CheckpointModule) else None
    tensors = family.convert_state_dict(dict(tensors)) if family else dict(tensors)
    optional = family.optional_keys() if family else set()
    foreign: Callable[[str], bool] = family.is_ignored_key if family else _ignores_nothing
    expected: dict[str, Tensor] = module.state_dict(keep_vars=True)
    tied = _tied_keys(expected)
    fitting = {key: value for key, value in tensors.items() if key in expected}
    copied = {key for keys in tied for key in keys if any(one in fitting for one in keys)}
    here = {*tensors, *optional, *copied}
    differing = [
        f"{key} {_describe_tensor(value)} instead of {_describe_tensor(expected[key])}"
        for key, value in fitting.items()
        if not _is_compatible(expected[key], value)
    ]
    return fitting, StateDictMismatch(
        missing=tuple(k for k in expected if k not in here),
        unexpected=tuple(k for k in tensors if k not in expected and not foreign(k)),
        mismatched=(*differing, *_conflicting_tied_keys(tied, fitting)),
    )


def load_weights(
    module: _M, source: WeightSource, name: str | None = None, revision: str | None = None
) -> _M:
    """Fill a module from any kind of source; None leaves it as it is.

    Args:
        module: what is filled.
        source: see `Source`.
        name: the model's name, needed for "hub" and for a folder.
        revision: commit, tag or branch of the hub repository.

    Raises:
        WeightsError: the source is not understood, not available, or does not fit.
    """
    check_weight_source(source)
    if source is None:
        return module
    if source == "hub":
        return load_state(module, fetch_path(name or "", revision))
    if isinstance(source, Mapping):
        return _load_from_mapping(module, source, name)
    return load_state(module, find_weight_file(source, name))


def check_weight_source(source: object) -> None:
    """Refuse at once what is no source of weights by its kind.

    Raises:
        WeightsError: it is none of `Source`.
    """
    if (
        source is None
        or isinstance(source, Path)
        or (isinstance(source, (str, Mapping)) and source)
    ):
        return
    raise WeightsError(f"weights {source!r}: {_EXPECTED_SOURCES} expected")


def find_weight_file(path: str | Path, name: str | None = None) -> Path:
    """Return the file itself, or a folder's file for the model of that name.

    Raises:
        WeightsError: the folder holds no such file, or several of which none bears the name.
    """
    check_weight_source(path)
    folder = Path(path)
    if not folder.is_dir():
        return folder
    official = OFFICIAL_FILES.get(name or "")
    named = list_candidate_paths(folder, official) if official else []
    for entry in named:
        if entry.is_file():
            return entry
    every = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", *PICKLE_SUFFIXES))
    if len(every) == 1:
        return every[0]
    held = f"holds {join_names(entry.name for entry in every)}" if every else "holds no weights"
    wanted = f"{official.file} or one file" if official else "one file"
    raise WeightsError(
        f"the folder {folder.resolve()} {held}: {wanted} expected, or give a file's path"
    )


def _load_from_mapping(module: _M, source: Mapping[str, Any], name: str | None) -> _M:
    if set(source) == {"random"}:
        return initialise(module, source["random"])
    if "path" in source and set(source) <= {"path", "sha256"}:
        return load_state(module, find_weight_file(source["path"], name), source.get("sha256"))
    if source and all(isinstance(value, Tensor) for value in source.values()):
        return load_state(module, source)
    if isinstance(source.get("state_dict"), Mapping):
        return load_state(module, source)
    raise WeightsError(f"weights {join_names(source)}: {_EXPECTED_SOURCES} expected")


def _tied_keys(expected: StateDict) -> list[list[str]]:
    """Return the groups of keys that stand for one and the same tensor of a module."""
    groups: dict[int, list[str]] = {}
    for key, value in expected.items():
        groups.setdefault(id(value), []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def _conflicting_tied_keys(tied: Iterable[list[str]], tensors: StateDict) -> list[str]:
    """Name the tied keys to which a checkpoint gives two values, of which one would be lost."""
    found = []
    for keys in tied:
        first, *others = [key for key in keys if key in tensors] or [""]
        found += [
            f"{key} and {first}, which are one"
            for key in others
            if not _is_equal(tensors, key, first)
        ]
    return found


def _is_equal(tensors: StateDict, first: str, second: str) -> bool:
    return torch.equal(tensors[first], tensors[second])


def _is_compatible(expected: Tensor, value: Tensor) -> bool:
    """Tell whether one can become the other by rounding: whole numbers in floats are quantised."""
    whole = expected.is_floating_point() and not value.is_floating_point()
    return expected.shape == value.shape and not whole


def _describe_tensor(value: Tensor) -> str:
    real = value.is_floating_point()
    return f"{tuple(value.shape)}" if real else f"{tuple(value.shape)} of whole numbers"


def _mismatch_hint(misfit: StateDictMismatch) -> str:
    tables = any("pos_emb" in key for key in misfit.mismatched)
    return "; position tables fit image_size 224" if tables else ""


def _ignores_nothing(_: str) -> bool:
    return False
