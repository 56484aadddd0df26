"""Find or download the official weight files, and verify that they stay the same.

A file is looked for in the weights folders, then in the hub's cache, and then on the hub. At its
first use a file is pinned by commit and sha256; a file that differs from its pin later is refused.
This module does not import torch.

    $TERRAMOSAIC_WEIGHTS   folders with official files, searched without network
    $TERRAMOSAIC_HOME      contains weights/ (searched as well) and weights.json, the pins;
                           default ~/.cache/terramosaic
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import WeightsError, join_names
from model.weights import checksums
from model.weights.checksums import Pin

HUB_ORGANIZATION = "ibm-esa-geospatial"
DEFAULT_REVISION = "main"
LICENCE = "Apache-2.0"
"""Licence of all official files, as on their pages."""

_REMEDIES = {
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids requests",
    "LocalEntryNotFoundError": "the hub cannot be reached from here",
    "GatedRepoError": "accept the terms on its page, then log in with `hf auth login`",
    "RepositoryNotFoundError": "there is no such repository, or it is private: `hf auth login`",
    "RevisionNotFoundError": "there is no such revision: leave it out, or take one from its page",
    "EntryNotFoundError": "the repository has no such file at this revision",
}
# ^ the first match counts: some of the first are subclasses of the last


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A published file on the Hugging Face hub."""

    repo: str
    file: str

    @property
    def page(self) -> str:
        """URL of the page to download it from."""
        return f"https://huggingface.co/{self.repo}/blob/main/{self.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A local official file that matches its pin."""

    path: Path
    pin: Pin
    is_newly_pinned: bool
    """Whether it was pinned by this call."""


def _list_official_files() -> dict[str, HubFile]:
    files: dict[str, HubFile] = {}
    for size in ("tiny", "small", "base", "large"):
        checkpoint = HubFile(
            repo=f"{HUB_ORGANIZATION}/TerraMind-1.0-{size}", file=f"TerraMind_v1_{size}.pt"
        )
        for variant in ("", "_tim", "_generate"):
            # ^ one file holds encoder and decoder; the variants use more of it
            files[f"terramind_v1_{size}{variant}"] = checkpoint
    for modality in ("S2L2A", "S1GRD", "S1RTC", "DEM", "LULC", "NDVI"):
        files[f"terramind_v1_tokenizer_{modality.lower()}"] = HubFile(
            repo=f"{HUB_ORGANIZATION}/TerraMind-1.0-Tokenizer-{modality}",
            file=f"TerraMind_Tokenizer_{modality}.pt",
        )
    files["terramind_v1_tokenizer_coords"] = HubFile(
        repo=f"{HUB_ORGANIZATION}/TerraMind-1.0-Tokenizer-Coords", file="config.json"
    )
    return files


OFFICIAL_FILES: Mapping[str, HubFile] = _list_official_files()
"""Official files, by the name of the model or tokenizer."""


def get_official_file(name: str) -> HubFile:
    """Return the official file of a model.

    Raises:
        WeightsError: there is none of that name.
    """
    if name not in OFFICIAL_FILES:
        known = join_names(OFFICIAL_FILES, len(OFFICIAL_FILES))
        raise WeightsError(f"no official weights for {name!r}; known are {known}")
    return OFFICIAL_FILES[name]


def list_search_folders() -> list[Path]:
    """Return the folders that are searched without network, in the order of the search."""
    variable = os.environ.get("TERRAMOSAIC_WEIGHTS", "")
    folders = [Path(text).expanduser() for text in variable.split(os.pathsep) if text]
    return [*folders, checksums.home_dir() / "weights"]


def list_candidate_paths(folder: Path, hub_file: HubFile) -> list[Path]:
    """Return the paths that a file may have in a folder: its own, converted, or as on the hub.

    The vocabulary of coordinates is called config.json on the hub, a name that is ambiguous in a
    folder of many files, so that it may be in a folder named after its repository.
    """
    own, converted = folder / hub_file.file, folder / f"{Path(hub_file.file).stem}.safetensors"
    nested = folder / hub_file.repo.rpartition("/")[2] / hub_file.file
    if hub_file.file.endswith(".json"):
        return [nested, own]
    return [own, converted, nested]


def find_local_file(name: str, revision: str | None = None) -> Path | None:
    """Return the local path of an official file, or None, without verification or download."""
    official = get_official_file(name)
    pin = (
        checksums.read_pins()
        .get(f"{official.repo}/{official.file}", {})
        .get(revision or DEFAULT_REVISION)
    )
    path = None if revision else _find_in_search_folders(official)
    return path or _find_in_hub_cache(official, revision, pin)


def fetch_path(name: str, revision: str | None = None) -> Path:
    """Return the verified path of an official file, downloaded if it is not local.

    Raises:
        WeightsError: as for `fetch`.
    """
    return fetch(name, revision).path


def fetch(name: str, revision: str | None = None, *, renew: bool = False) -> FetchedFile:
    """Find or download an official file, and compare it with its pin, or pin it.

    Args:
        name: of the model or tokenizer, see `OFFICIAL_FILES`.
        revision: commit, tag or branch; with one, the weights folders are not searched.
        renew: replace the pin by that of the file that the hub (or the folder) has now.

    Raises:
        WeightsError: no official file of that name; it cannot be downloaded (the message tells how
            to get it); or it differs from its pin.
    """
    official = get_official_file(name)
    label = revision or DEFAULT_REVISION
    path = None if revision else _find_in_search_folders(official)
    key = f"{official.repo}/{path.name if path else official.file}"
    pin = None if renew else checksums.read_pins().get(key, {}).get(label)
    if path is None and not renew:
        path = _find_in_hub_cache(official, revision, pin)
    if path is None:
        path = _download(name, official, pin.commit if pin and pin.commit else revision)
    actual = Pin(
        sha256=checksums.hash_file(path), bytes=path.stat().st_size, commit=_commit_from_path(path)
    )
    is_newly_pinned = pin is None
    if pin is None:
        pin = checksums.record_pin(key, label, actual, renew=renew)
    if actual.sha256 != pin.sha256:
        raise WeightsError(_digest_mismatch_message(name, path, actual, pin))
    return FetchedFile(path=path, pin=pin, is_newly_pinned=is_newly_pinned)


def copy_file(name: str, path: Path, folder: str | Path) -> Path:
    """Copy an official file to its path in a weights folder, and return that path."""
    target = list_candidate_paths(Path(folder), get_official_file(name))[0].with_name(path.name)
    # ^ with the suffix .safetensors where the file was converted
    if target.exists() and target.samefile(path):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        shutil.copyfile(path, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _find_in_search_folders(official: HubFile) -> Path | None:
    paths = (
        path for folder in list_search_folders() for path in list_candidate_paths(folder, official)
    )
    return next((path for path in paths if path.is_file()), None)


def _find_in_hub_cache(official: HubFile, revision: str | None, pin: Pin | None) -> Path | None:
    """Search the hub's own cache, by its documented layout, without its library."""
    folder = _hub_cache_dir() / f"models--{official.repo.replace('/', '--')}"
    commit = pin.commit if pin else None
    if commit is None:
        label = revision or DEFAULT_REVISION
        reference = folder / "refs" / label
        commit = reference.read_text().strip() if reference.is_file() else label
    path = folder / "snapshots" / commit / official.file
    return path if path.is_file() else None


def _hub_cache_dir() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or base / "hub")


def _commit_from_path(path: Path) -> str | None:
    match = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return match[1] if match else None


def _download(name: str, official: HubFile, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        # ^ an optional dependency, and slow to import
    except ImportError as error:
        reason = "huggingface_hub is not installed: pip install 'terramosaic[hub]'"
        raise WeightsError(_fetch_error_message(name, official, reason)) from error
    try:
        return Path(hf_hub_download(official.repo, official.file, revision=revision))
    except Exception as error:
        # ^ offline, proxy, gated, unknown revision: these errors have no common base class, and
        #   the file can always be downloaded by hand
        raise WeightsError(_fetch_error_message(name, official, _explain_error(error))) from error


def _explain_error(error: Exception) -> str:
    classes = [base.__name__ for base in type(error).__mro__]
    remedy = next((f"{text}; " for name, text in _REMEDIES.items() if name in classes), "")
    first_line = next(iter(str(error).strip().splitlines()), "")
    return f"{remedy}{type(error).__name__}: {first_line[:200]}"


def _fetch_error_message(name: str, official: HubFile, reason: str) -> str:
    path = list_candidate_paths(list_search_folders()[0], official)[0]
    elsewhere = (
        "give its path"
        if official.file.endswith(".json")
        else f"write `weights: /path/to/{official.file}`"
    )
    return (
        f"cannot fetch {official.file} from {official.repo} ({reason}). On a machine with access "
        f"download {official.page} (or run `terramosaic models fetch {name} --to FOLDER`) and put "
        f"it here as {path}, where it is found without network; or put it anywhere and "
        f"{elsewhere}"
    )


def _digest_mismatch_message(name: str, path: Path, actual: Pin, pin: Pin) -> str:
    return (
        f"weights {path} have sha256 {actual.sha256}, but {pin.sha256} is pinned since their first "
        f"use (in {checksums.pins_path()}): the file is damaged or another one. Delete it and run "
        f"`terramosaic models fetch {name}`; or, if you trust the new one, `terramosaic models "
        f"fetch {name} --renew`"
    )
