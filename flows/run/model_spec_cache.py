"""Models that are known without loading them.

Loading a model takes seconds: torch is imported, and the weights are read and hashed. When a model
has been loaded for a plan, what the plan says of it is kept in a file of this machine, under a
fingerprint of all that decides it. As long as the fingerprint is the same, so is the model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalogs.scene import Caveat
from flows.config.job import Job
from model.errors import ModelError
from model.predictor import card_file
from model.weights import checksums, hub
from pipeline.plan.plan import hash_json
from pipeline.plan.recipe import ModelSpec
from pipeline.plan.settings import ModelOptions
from pipeline.runtime import atomic_files

PACKAGES = ("catalogs", "pipeline", "model", "flows")
MAX_ENTRIES = 100
"""Largest number of fingerprints that are kept; the oldest are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """The model of a plan, and what its user is told about it."""

    spec: ModelSpec
    overlap: int
    """Pixels that two windows share."""

    options: ModelOptions
    caveats: tuple[Caveat, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON-ready values."""
        return {
            "spec": self.spec.to_dict(),
            "overlap": self.overlap,
            "options": self.options.to_dict(),
            "caveats": [asdict(caveat) for caveat in self.caveats],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PlannedModel:
        """Build a model from :meth:`to_dict`'s values."""
        return cls(
            spec=ModelSpec.from_dict(values["spec"]),
            overlap=values["overlap"],
            options=ModelOptions(**values["options"]),
            caveats=tuple(Caveat(**caveat) for caveat in values["caveats"]),
        )


def find_model(job: Job) -> PlannedModel | None:
    """Return the model of a job as it was when it was loaded; None where it must be loaded."""
    fingerprint = compute_fingerprint(job)
    values = None if fingerprint is None else _read_entries().get(fingerprint)
    if values is not None:
        with suppress(KeyError, TypeError, ValueError):
            return PlannedModel.from_dict(values)
            # ^ a file of another version, or a damaged one, is no reason to fail
    return None


def keep_model(job: Job, model: PlannedModel) -> None:
    """Keep the model of a job, which has just been loaded."""
    fingerprint = compute_fingerprint(job)
    if fingerprint is None:
        return
    entries = _read_entries()
    if entries.pop(fingerprint, None) is None:
        entries = dict(list(entries.items())[1 - MAX_ENTRIES :])
    entries[fingerprint] = model.to_dict()
    with suppress(OSError):
        atomic_files.write_json(_entries_path(), entries)
        # ^ where the folder cannot be written, the next run loads the model again


def compute_fingerprint(job: Job) -> str | None:
    """Return the sha256 of all that decides what a plan says of a job's model.

    These are the options of the loader; the bands and the overlap of the job; path, size, inode and
    times (to the nanosecond) of the files from which the model is made (:func:`_list_model_files`)
    and of all files of this project's packages, which hold the shipped weights and cards; the
    version of torch; and the machine.

    Returns:
        None on machines with a GPU, whose free memory decides the batch size, and where a file
        cannot be found, which planning then reports.
    """
    if _has_gpu():
        return None
    try:
        files = [_stat_file(path) for path in _list_model_files(job)]
        code = hashlib.sha256(json.dumps(_stat_packages()).encode()).hexdigest()
    except (OSError, ModelError):
        return None
    values = {
        "options": job.model.to_options().to_dict(),
        "legend": job.model.legend_options.to_mapping(),
        "inputs": list(job.model_inputs),
        "bands": {name: list(bands) for name, bands in job.bands.items()},
        "overlap": job.model.overlap,
        "device": job.execution.device,
        "precision": job.execution.precision,
        "batch": job.execution.batch,
        "files": files,
        "code": code,
        "torch": importlib.metadata.version("torch"),
        "machine": [platform.node(), platform.machine(), platform.processor()],
    }
    return hash_json(values)


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _list_model_files(job: Job) -> list[Path]:
    """Return the files from which a job's model may be made.

    These are the files that the job names, of folders the files in them; those that a model's
    configuration names; official files beside weights, where tokenizers are looked for; and
    official files in the search folders and the hub's cache, and their recorded checksums, if the
    job loads any of them.
    """
    model = job.model
    sources = [model.effective_weights, *(model.tokenizers or {}).values()]
    named = [model.checkpoint, model.training, model.config_path]
    named += [source.path for source in sources]
    uses_hub = model.checkpoint is None and any(source.source == "hub" for source in sources)
    if model.config_path is not None:
        card = card_file.read(model.config_path, job.model_inputs)
        named.append(card_file.find_weights_path(card, model.config_path.parent))
    files: list[Path] = []
    for path in named:
        if path is not None:
            files += sorted(path.rglob("*")) if path.is_dir() else [path]
            files += _list_official_files_beside(path)
    if uses_hub:
        files += [path for name in hub.OFFICIAL_FILES if (path := hub.find_local_file(name))]
        files += [path for path in (checksums.pins_path(),) if path.is_file()]
    return files


def _list_official_files_beside(path: Path) -> list[Path]:
    """Return the official files in the folder of a file, or in a folder."""
    folder = path if path.is_dir() else path.parent
    return [
        candidate
        for official in hub.OFFICIAL_FILES.values()
        for candidate in hub.list_candidate_paths(folder, official)
        if candidate.is_file()
    ]


def _stat_packages() -> list[list[Any]]:
    """Return the state of every file of this project's packages."""
    folders = []
    for name in PACKAGES:
        package = importlib.util.find_spec(name)
        folders += list(package.submodule_search_locations or ()) if package else []
    return [
        _stat_file(path)
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if "__pycache__" not in path.parts and path.is_file()
    ]


def _stat_file(path: Path) -> list[Any]:
    """Return path, size, inode and times of a file: a replaced or edited file has others."""
    state = path.stat()
    return [str(path), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]


def _entries_path() -> Path:
    return checksums.home_dir() / "model-specs.json"


def _read_entries() -> dict[str, dict[str, Any]]:
    with suppress(OSError, ValueError):
        entries = json.loads(_entries_path().read_text(encoding="utf-8"))
        if isinstance(entries, dict):
            return {key: value for key, value in entries.items() if isinstance(value, dict)}
    return {}
