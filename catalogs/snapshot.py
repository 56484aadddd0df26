"""The frozen answer of a search: written once, hashed, compared."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs import scene_selection
from catalogs.errors import InvalidInputError
from catalogs.scene import Scene
from catalogs.scene_selection import RejectedScene

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = "terramosaic-snapshot"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDiff:
    """Ids by what happened to them from one snapshot to the next, each sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The scenes that a plan is made of, by time and id, and those left out."""

    scenes: tuple[Scene, ...]
    refused: tuple[RejectedScene, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.scenes, key=scene_selection.sort_key))
        object.__setattr__(self, "scenes", ordered)
        keys = [_scene_key(scene) for scene in ordered]
        twice = (
            sorted({key for key in keys if keys.count(key) > 1}) if _has_duplicates(keys) else []
        )
        if twice:
            raise ValueError(f"A scene stands twice in one snapshot: {', '.join(twice)}.")

    @property
    def digest(self) -> str:
        """Return the sha256 of what the scenes are; hrefs and order do not matter."""
        return compute_digest(self.scenes)

    def write(self, path: Path | str) -> None:
        """Write the snapshot as JSON, all or nothing."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._to_dict(), indent=1, allow_nan=False) + "\n"
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "digest": self.digest,
            "scenes": [scene.to_dict() for scene in self.scenes],
            "refused": [asdict(refusal) for refusal in self.refused],
        }


def compute_digest(scenes: Iterable[Scene]) -> str:
    """Return the sha256 over the identities of scenes, whatever their order."""
    identities = sorted(_to_canonical_json(scene.identity()) for scene in scenes)
    return hashlib.sha256("\n".join(identities).encode("ascii")).hexdigest()


def read(path: Path | str) -> Snapshot:
    """Return the snapshot written at path.

    Raises:
        InvalidInputError: It is missing, no snapshot, or was changed since it was written.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise InvalidInputError(
                f"{path} is no {FORMAT} of version {VERSION}: search again to make a new one."
            )
        snapshot = Snapshot(
            scenes=tuple(Scene.from_dict(scene) for scene in values["scenes"]),
            refused=tuple(RejectedScene(**refusal) for refusal in values["refused"]),
        )
        stated = values["digest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(f"{path} is no snapshot that can be read: {error!r}.") from error
    if snapshot.digest != stated:
        raise InvalidInputError(
            f"{path} was changed after it was written: search again to make a new one."
        )
    return snapshot


def diff(before: Snapshot, after: Snapshot) -> SnapshotDiff:
    """Return the ids that were added, removed, or are no longer the same."""
    old = {_scene_key(scene): _to_canonical_json(scene.identity()) for scene in before.scenes}
    new = {_scene_key(scene): _to_canonical_json(scene.identity()) for scene in after.scenes}
    return SnapshotDiff(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(key for key in old.keys() & new.keys() if old[key] != new[key])),
    )


def _to_canonical_json(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _scene_key(scene: Scene) -> str:
    return f"{scene.collection}/{scene.id}"


def _has_duplicates(keys: list[str]) -> bool:
    return len(set(keys)) != len(keys)
