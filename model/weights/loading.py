"""Load weights into a module from any kind of source, strictly.

Strict in both directions: a key that is missing, unexpected, of another shape or of another number
type is an error that names it. Keys are translated in `model.terramind.keys`, files are read in
`model.weights.checkpoint_file`, official files found in `model.weights.hub`, random weights made in
`model.weights.initialise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from model.errors import WeightsError, join_names
from model.terramind.keys import CheckpointModule, find_conflicting_keys, find_tied_keys
from model.weights.checkpoint_file import (
    PICKLE_SUFFIXES,
    StateDict,
    extract_state_dict,
    hash_state_dict,
    read_checkpoint,
    read_state_dict,
    write_state_dict,
)
from model.weights.hub import OFFICIAL_FILES, fetch_path, list_candidate_paths
from model.weights.initialise import initialise
from model.weights.state_dict_contents import is_finite

__all__ = [
    "StateDict",
    "StateDictMismatch",
    "WeightSource",
    "check_weight_source",
    "compare_state_dict",
    "extract_state_dict",
    "find_weight_file",
    "hash_state_dict",
    "initialise",
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
    """Differences between a state dict and a module; falsy where they fit."""

    missing: tuple[str, ...] = ()
    """Keys of the module that the state dict lacks."""

    unexpected: tuple[str, ...] = ()
    """Keys that the module does not have."""

    mismatched: tuple[str, ...] = ()
    """Keys of another shape or number type, and tied keys with two values, with the difference."""

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Name the first few keys of each kind."""
        parts = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("different", self.mismatched),
        )
        return "; ".join(
            f"{len(keys)} {what}: {join_names(keys, 5)}" for what, keys in parts if keys
        )


def load_state(module: _M, source: str | Path | StateDict, sha256: str | None = None) -> _M:
    """Load a state dict with official keys into a module, strictly, and return the module.

    Ignored are only keys of parts that the module does not have (decoder, tokenizers, other
    modalities). A state dict may lack buffers that the module computes itself, and all but one of
    the names of a tied tensor. Values take the module's number format.

    Args:
        module: the module, changed in place.
        source: a file or a state dict.
        sha256: digest that the file must have.

    Raises:
        WeightsError: keys are missing, unexpected, of another shape or number type (the message
            names the first ones and their number); or a tensor holds NaN or infinity. The module
            is then unchanged.
    """
    content = source if isinstance(source, Mapping) else read_state_dict(source, sha256)
    fitting, mismatch = compare_state_dict(module, extract_state_dict(content))
    if mismatch:
        raise WeightsError(
            f"the weights do not fit this {type(module).__name__}: {mismatch}. Check name, "
            f"modalities and merge of the model they were made for{_mismatch_hint(mismatch)}"
        )
    not_finite = [key for key, value in fitting.items() if not is_finite(value)]
    if not_finite:
        raise WeightsError(
            f"the weights hold NaN or infinity in {join_names(not_finite, 5)}: the file is "
            "damaged, or its training diverged. Nothing was loaded"
        )
    module.load_state_dict(fitting, strict=False)
    return module


def compare_state_dict(
    module: nn.Module, tensors: StateDict
) -> tuple[dict[str, Tensor], StateDictMismatch]:
    """Return the tensors that a module takes, by its own keys, and what differs.

    The module may be on the meta device, where it has shapes but needs no memory.

    Args:
        module: the module, which is not changed.
        tensors: a state dict, as `extract_state_dict` returns it.
    """
    own = module if isinstance(module, CheckpointModule) else None
    tensors = own.convert_state_dict(dict(tensors)) if own else dict(tensors)
    optional = own.optional_keys() if own else set()
    is_ignored: Callable[[str], bool] = own.is_ignored_key if own else _ignores_nothing
    expected: dict[str, Tensor] = module.state_dict(keep_vars=True)
    tied_keys = find_tied_keys(expected)
    fitting = {key: value for key, value in tensors.items() if key in expected}
    filled_by_tie = {
        key for keys in tied_keys if not fitting.keys().isdisjoint(keys) for key in keys
    }
    available = {*tensors, *optional, *filled_by_tie}
    differing = [
        f"{key} {_describe_tensor(value)} instead of {_describe_tensor(expected[key])}"
        for key, value in fitting.items()
        if not _is_compatible(expected[key], value)
    ]
    conflicting = [
        f"{key} and {first}, which are one"
        for key, first in find_conflicting_keys(tied_keys, fitting)
    ]
    return fitting, StateDictMismatch(
        missing=tuple(k for k in expected if k not in available),
        unexpected=tuple(k for k in tensors if k not in expected and not is_ignored(k)),
        mismatched=(*differing, *conflicting),
    )


def load_weights(
    module: _M, source: WeightSource, name: str | None = None, revision: str | None = None
) -> _M:
    """Load weights from any kind of source into a module; None leaves it as it is.

    Args:
        module: the module, changed in place.
        source: see `WeightSource`.
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
    """Refuse a value that is not a `WeightSource`, before anything is built.

    Raises:
        WeightsError: another type, or empty.
    """
    if (
        source is None
        or isinstance(source, Path)
        or (isinstance(source, (str, Mapping)) and source)
    ):
        return
    raise WeightsError(f"weights {source!r}: {_EXPECTED_SOURCES} expected")


def find_weight_file(path: str | Path, name: str | None = None) -> Path:
    """Return the path of a file; of a folder, the file for the model of that name.

    Args:
        path: a file or a folder.
        name: of the model.

    Raises:
        WeightsError: the folder holds no weights, or several files without that name.
    """
    check_weight_source(path)
    folder = Path(path)
    if not folder.is_dir():
        return folder
    official = OFFICIAL_FILES.get(name or "")
    candidates = list_candidate_paths(folder, official) if official else []
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", *PICKLE_SUFFIXES))
    if len(files) == 1:
        return files[0]
    held = f"holds {join_names(file.name for file in files)}" if files else "holds no weights"
    expected = f"{official.file} or one file" if official else "one file"
    raise WeightsError(
        f"the folder {folder.resolve()} {held}: {expected} expected, or give a file's path"
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


def _is_compatible(expected: Tensor, value: Tensor) -> bool:
    """Return whether a value can be cast: quantised weights (whole numbers) cannot."""
    quantised = expected.is_floating_point() and not value.is_floating_point()
    return expected.shape == value.shape and not quantised


def _describe_tensor(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else " of whole numbers"
    return f"{tuple(value.shape)}{kind}"


def _mismatch_hint(mismatch: StateDictMismatch) -> str:
    tables = any("pos_emb" in key for key in mismatch.mismatched)
    return "; position tables fit image_size 224" if tables else ""


def _ignores_nothing(_: str) -> bool:
    return False
