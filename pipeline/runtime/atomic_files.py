"""Atomic writes: a file appears under its final name complete, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEMP_PREFIX = ".tmp-"
"""Prefix of temporary directories; no finished file or directory of a product has it."""

_CHUNK_SIZE = 1 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that no reader ever sees a partial file.

    Missing parent directories are created; an existing file is replaced.
    """
    with temporary_directory(path.parent) as directory:
        draft = directory / path.name
        draft.write_bytes(data)
        move_into_place(draft, path)


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Encode a mapping as indented UTF-8 JSON with a newline at the end.

    Raises:
        ValueError: a value is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping atomically as indented UTF-8 JSON.

    Raises:
        ValueError: a value is NaN or infinite, which JSON cannot represent.
    """
    write_atomic(path, encode_json(value))


@contextmanager
def temporary_directory(folder: Path) -> Iterator[Path]:
    """Create a hidden temporary directory inside ``folder`` and remove it on exit.

    A killed process leaves the directory behind; its name begins with :data:`TEMP_PREFIX`, and
    :func:`remove_leftovers` removes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def move_into_place(source: Path, path: Path) -> None:
    """Rename a finished file to ``path``, after its bytes have been flushed to the disk."""
    fsync(source)
    source.replace(path)
    fsync(path.parent)


def remove_leftovers(folder: Path) -> int:
    """Remove temporary directories that killed processes left anywhere under ``folder``.

    Call this only while holding the lock of the run: the temporary directories of a process that
    is still writing look the same.

    Returns:
        The number of directories removed.
    """
    leftovers = [path for path in folder.rglob(f"{TEMP_PREFIX}*") if path.is_dir()]
    for path in leftovers:
        shutil.rmtree(path)
    return len(leftovers)


def fsync(path: Path) -> None:
    """Flush the bytes of a file, or the entries of a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK_SIZE):
            digest.update(block)
    return digest.hexdigest()
