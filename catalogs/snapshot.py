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
    identities = sorted(
        json.dumps(scene.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        for scene in scenes
    )
    return hashlib.sha256("\n".join(identities).encode("ascii")).hexdigest()
