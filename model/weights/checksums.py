"""What each official file was at its first use: commit and sha256, in one small file.

The official digests are not published, so that the first file is trusted and every later one has
to be the same. Reading and writing this file needs no torch.
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
    """What a file was when it was first used."""

    sha256: str
    bytes: int
    commit: str | None
    """Of the hub repository; None for a file that somebody put there by hand."""


def home_dir() -> Path:
    """Return the folder of what we keep on this machine."""
    given = os.environ.get("TERRAMOSAIC_HOME")
    if given:
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "terramosaic"


def pins_path() -> Path:
    """Return the file that holds the pins."""
    return home_dir() / "weights.json"


def read_pins() -> dict[str, dict[str, Pin]]:
    """Return every pin: by repository and file, then by revision.

    Raises:
        WeightsError: the file of the pins is damaged.
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
            f"{pins_path()}, which pins the digests of weights, is damaged ({error}): put it right, "
            "or delete it to pin anew what is used next"
        ) from error


def record_pin(key: str, label: str, pin: Pin, *, renew: bool) -> Pin:
    """Write a pin down and return it, or the one that another process wrote first.

    Args:
        key: repository and file.
        label: the revision that was asked for.
        pin: what was found.
        renew: write it over an older one.

    Raises:
        WeightsError: it cannot be written, or what is there is damaged.
    """
    try:
        with lock_pins():
            known = read_pins()
            kept = known.setdefault(key, {})
            kept[label] = pin if renew else kept.get(label, pin)
            plain = {
                name: {one: asdict(entry) for one, entry in labels.items()}
                for name, labels in sorted(known.items())
            }
            part = pins_path().with_name(pins_path().name + ".part")
            part.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
            part.replace(pins_path())
            return kept[label]
    except OSError as error:
        raise WeightsError(
            f"cannot pin the digest of {key} in {pins_path()} ({error}): set TERRAMOSAIC_HOME to a "
            "folder that can be written, or write `weights: {path: …, sha256: …}`"
        ) from error


@contextmanager
def lock_pins() -> Iterator[None]:
    """Keep other processes from writing pins meanwhile: workers may start at one moment."""
    home_dir().mkdir(parents=True, exist_ok=True)
    with (home_dir() / "weights.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def hash_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    found = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(_CHUNK_BYTES):
            found.update(block)
    return found.hexdigest()
