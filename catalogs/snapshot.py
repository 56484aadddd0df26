"""The scenes of a plan, and the digest over them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalogs.passes import sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from catalogs.scene import RejectedScene, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The scenes that a plan uses, by time and id, and the rejected ones."""

    scenes: tuple[Scene, ...]
    refused: tuple[RejectedScene, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.scenes, key=sort_key))
        object.__setattr__(self, "scenes", ordered)
        counts = Counter(f"{scene.collection}/{scene.id}" for scene in ordered)
        duplicates = sorted(key for key, count in counts.items() if count > 1)
        if duplicates:
            raise ValueError(f"Scenes occur twice in one snapshot: {', '.join(duplicates)}.")

    @property
    def digest(self) -> str:
        """Return the sha256 over the scenes' identities; hrefs and order do not matter."""
        return compute_digest(self.scenes)


def compute_digest(scenes: Iterable[Scene]) -> str:
    """Return the sha256 over the identities of scenes, in any order."""
    return _hash_lines(map(_encode_identity, scenes))


def compute_catalog_digest(scenes: Iterable[Scene]) -> str:
    """Return the sha256 over scenes as their catalog states them, in any order.

    A search finds the same digest again, also where files have corrected a scene of the plan.
    """
    return _hash_lines(map(digest_catalog_scene, scenes))


def digest_catalog_scene(scene: Scene) -> str:
    """Return the sha256 of a scene as its catalog states it."""
    return scene.catalog_digest or _hash_lines([_encode_identity(scene)])


def _encode_identity(scene: Scene) -> str:
    return json.dumps(scene.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode("ascii")).hexdigest()
