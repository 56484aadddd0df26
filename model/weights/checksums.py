"""Pins of official weight files: commit and sha256 of each file at its first use.

The digests of the official files are not published, so that the first file is trusted, and later
ones must be equal to it. This module does not import torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.errors import WeightsError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Digest, size and commit of a file at its first use."""

    sha256: str
    bytes: int
    commit: str | None
    """Commit of the hub repository; None for a file that was put into a weights folder by hand."""


def home_dir() -> Path:
    """Return the folder of pins and weights on this machine."""
    home = os.environ.get("TERRAMOSAIC_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "terramosaic"


def pins_path() -> Path:
    """Return the path of the file of pins."""
    return home_dir() / "weights.json"


def read_pins() -> dict[str, dict[str, Pin]]:
    """Return all pins by repository and file, then by revision.

    Raises:
        WeightsError: the file of pins is damaged or cannot be read.
    """
    try:
        text = pins_path().read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise WeightsError(f"cannot read the pinned digests in {pins_path()}: {error}") from error
    try:
        content: dict[str, dict[str, dict[str, Any]]] = json.loads(text)
        return {
            key: {label: Pin(**entry) for label, entry in labels.items()}
            for key, labels in content.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{pins_path()}, the file of pinned digests, is damaged ({error}): repair it, or "
            "delete it to pin the files anew at their next use"
        ) from error


def record_pin(key: str, label: str, pin: Pin, *, renew: bool) -> Pin:
    """Store a pin and return it, or the one that another process stored first.

    Args:
        key: repository and file.
        label: the requested revision.
        pin: of the file.
        renew: replace an older pin.

    Raises:
        WeightsError: the file of pins cannot be written, or is damaged.
    """
    try:
        with lock_pins():
            pins = read_pins()
            labels = pins.setdefault(key, {})
            labels[label] = pin if renew else labels.get(label, pin)
            content = {
                file: {revision: asdict(entry) for revision, entry in revisions.items()}
                for file, revisions in sorted(pins.items())
            }
            partial = pins_path().with_name(pins_path().name + ".part")
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(pins_path())
            return labels[label]
    except OSError as error:
        raise WeightsError(
            f"cannot pin the digest of {key} in {pins_path()} ({error}): set TERRAMOSAIC_HOME to a "
            "folder that can be written, or write `weights: {path: …, sha256: …}`"
        ) from error


@contextmanager
def lock_pins() -> Iterator[None]:
    """Lock the file of pins against other processes, such as workers that start together."""
    home_dir().mkdir(parents=True, exist_ok=True)
    with (home_dir() / "weights.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def hash_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
