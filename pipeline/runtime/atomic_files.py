"""Files that are either whole under their name, or not there at all."""

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
"""How the names of unfinished work begin; nothing else in a product begins so."""

_CHUNK_SIZE = 1 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path`` so that no reader ever sees a part of it.

    The folder is made where it is missing; a file that stood there is replaced.
    """
    with temporary_directory(path.parent) as work:
        draft = work / path.name
        draft.write_bytes(data)
        move_into_place(draft, path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as indented UTF-8 JSON, whole or not at all.

    Raises:
        ValueError: a value is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


@contextmanager
def temporary_directory(folder: Path) -> Iterator[Path]:
    """Lend a new hidden folder inside ``folder``, and remove it with all it holds.

    A killed process leaves the folder behind, under a name that begins with
    :data:`TEMP_PREFIX`; :func:`remove_leftovers` removes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work)


def move_into_place(source: Path, path: Path) -> None:
    """Give a finished file its final name: its bytes are on the disk before the name is."""
    fsync(source)
    source.replace(path)
    fsync(path.parent)


def remove_leftovers(folder: Path) -> int:
    """Remove what killed writers left anywhere under ``folder``; return how many leftovers.

    Only the holder of the run's lock may call this: the work of a living writer looks alike.
    """
    leftovers = [path for path in folder.rglob(f"{TEMP_PREFIX}*") if path.is_dir()]
    for path in leftovers:
        shutil.rmtree(path)
    return len(leftovers)


def fsync(path: Path) -> None:
    """Force a file's bytes, or a folder's names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK_SIZE):
            digest.update(block)
    return digest.hexdigest()
