"""Official files: which there are, where they may already lie, and that they stay the same.

A name is looked for in the weights folders, then in the hub's cache, and only then on the hub.
What is used for the first time is pinned by commit and sha256 in one small file, and whatever
differs from its pin later is refused. Nothing here needs torch.

    $TERRAMOSAIC_WEIGHTS   folders with official files, searched without network
    $TERRAMOSAIC_HOME      holds weights/ (searched as well) and weights.json, the pins;
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
"""Of everything in HUB, as its pages say."""

_REMEDIES = {
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids to ask",
    "LocalEntryNotFoundError": "the hub cannot be reached from here",
    "GatedRepoError": "accept the terms on its page, then log in with `hf auth login`",
    "RepositoryNotFoundError": "there is no such repository, or it is private: `hf auth login`",
    "RevisionNotFoundError": "there is no such revision: leave it out, or take one of its page",
    "EntryNotFoundError": "the repository has no such file at this revision",
}
# ^ in the order in which they are looked for: some of the first are kinds of the last


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of the official publication."""

    repo: str
    file: str

    @property
    def page(self) -> str:
        """Where a person can download it."""
        return f"https://huggingface.co/{self.repo}/blob/main/{self.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """An official file that is here, and is what its pin says."""

    path: Path
    pin: Pin
    is_newly_pinned: bool
    """Whether it was pinned just now."""


def _list_official_files() -> dict[str, HubFile]:
    found: dict[str, HubFile] = {}
    for size in ("tiny", "small", "base", "large"):
        whole = HubFile(
            repo=f"{HUB_ORGANIZATION}/TerraMind-1.0-{size}", file=f"TerraMind_v1_{size}.pt"
        )
        for variant in ("", "_tim", "_generate"):
            # ^ one file holds encoder and decoder; the variants read more of it
            found[f"terramind_v1_{size}{variant}"] = whole
    for modality in ("S2L2A", "S1GRD", "S1RTC", "DEM", "LULC", "NDVI"):
        found[f"terramind_v1_tokenizer_{modality.lower()}"] = HubFile(
            repo=f"{HUB_ORGANIZATION}/TerraMind-1.0-Tokenizer-{modality}",
            file=f"TerraMind_Tokenizer_{modality}.pt",
        )
    found["terramind_v1_tokenizer_coords"] = HubFile(
        repo=f"{HUB_ORGANIZATION}/TerraMind-1.0-Tokenizer-Coords", file="config.json"
    )
    return found


OFFICIAL_FILES: Mapping[str, HubFile] = _list_official_files()
"""Official files by our names."""


def get_official_file(name: str) -> HubFile:
    """Return the official file of a model.

    Raises:
        WeightsError: there is none of that name.
    """
    if name not in OFFICIAL_FILES:
        raise WeightsError(
            f"no official weights for {name!r}; known are {join_names(OFFICIAL_FILES, len(OFFICIAL_FILES))}"
        )
    return OFFICIAL_FILES[name]


def list_search_folders() -> list[Path]:
    """Return the folders that are searched without network, the most particular first."""
    given = os.environ.get("TERRAMOSAIC_WEIGHTS", "")
    named = [Path(text).expanduser() for text in given.split(os.pathsep) if text]
    return [*named, checksums.home_dir() / "weights"]


def list_candidate_paths(folder: Path, hub_file: HubFile) -> list[Path]:
    """Return where a folder may hold a file: under its own name, or converted, or as on the hub.

    The coordinates' vocabulary is called config.json there, which says nothing in a folder of
    many, so that it may lie in a folder named after its repository.
    """
    own, converted = folder / hub_file.file, folder / f"{Path(hub_file.file).stem}.safetensors"
    nested = folder / hub_file.repo.rpartition("/")[2] / hub_file.file
    if hub_file.file.endswith(".json"):
        return [nested, own]
    return [own, converted, nested]


def find_local_file(name: str, revision: str | None = None) -> Path | None:
    """Return where an official file already lies, or None; nothing is verified or fetched."""
    wanted = get_official_file(name)
    pin = (
        checksums.read_pins()
        .get(f"{wanted.repo}/{wanted.file}", {})
        .get(revision or DEFAULT_REVISION)
    )
    return (None if revision else _find_in_search_folders(wanted)) or _find_in_hub_cache(
        wanted, revision, pin
    )


def fetch_path(name: str, revision: str | None = None) -> Path:
    """Return the path of an official file, verified, downloaded if it is not there yet.

    Raises:
        WeightsError: no official file of that name, it cannot be had from here (and how it can),
            or it is not the one that was pinned.
    """
    return fetch(name, revision).path


def fetch(name: str, revision: str | None = None, *, renew: bool = False) -> FetchedFile:
    """Find or download an official file, and hold it against its pin, or pin it.

    Args:
        name: one of HUB.
        revision: commit, tag or branch; with one, files put there by hand are left aside.
        renew: forget the pin, and take what the hub (or the folder) holds now.

    Raises:
        WeightsError: as for `from_hub`.
    """
    wanted = get_official_file(name)
    label = revision or DEFAULT_REVISION
    path = None if revision else _find_in_search_folders(wanted)
    key = f"{wanted.repo}/{path.name if path else wanted.file}"
    pin = None if renew else checksums.read_pins().get(key, {}).get(label)
    if path is None and not renew:
        path = _find_in_hub_cache(wanted, revision, pin)
    if path is None:
        path = _download(name, wanted, pin.commit if pin and pin.commit else revision)
    seen = Pin(
        sha256=checksums.hash_file(path), bytes=path.stat().st_size, commit=_commit_from_path(path)
    )
    new = pin is None
    if pin is None:
        pin = checksums.record_pin(key, label, seen, renew=renew)
    if seen.sha256 != pin.sha256:
        raise WeightsError(_digest_mismatch_message(name, path, seen, pin))
    return FetchedFile(path=path, pin=pin, is_newly_pinned=new)


def copy_file(name: str, path: Path, folder: str | Path) -> Path:
    """Copy an official file to where `folders` would look for it, and return that place."""
    place = list_candidate_paths(Path(folder), get_official_file(name))[0].with_name(path.name)
    # ^ which ends in .safetensors where it was converted
    if place.exists() and place.samefile(path):
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    try:
        shutil.copyfile(path, part)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return place


def _find_in_search_folders(wanted: HubFile) -> Path | None:
    places = (
        path for folder in list_search_folders() for path in list_candidate_paths(folder, wanted)
    )
    return next((path for path in places if path.is_file()), None)


def _find_in_hub_cache(wanted: HubFile, revision: str | None, pin: Pin | None) -> Path | None:
    """Look into the hub's own cache, as its documentation lays it out, without its library."""
    folder = _hub_cache_dir() / f"models--{wanted.repo.replace('/', '--')}"
    commit = pin.commit if pin else None
    if commit is None:
        label = revision or DEFAULT_REVISION
        named = folder / "refs" / label
        commit = named.read_text().strip() if named.is_file() else label
    path = folder / "snapshots" / commit / wanted.file
    return path if path.is_file() else None


def _hub_cache_dir() -> Path:
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(os.environ.get("HF_HOME") or shared / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or base / "hub")


def _commit_from_path(path: Path) -> str | None:
    found = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return found[1] if found else None


def _download(name: str, wanted: HubFile, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        # ^ an extra, and slow to import
    except ImportError as error:
        reason = "huggingface_hub is not installed: pip install 'terramosaic[hub]'"
        raise WeightsError(_fetch_error_message(name, wanted, reason)) from error
    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=revision))
    except Exception as error:
        # ^ offline, proxy, gated, unknown revision: the library has no common base for them, and
        #   a person can always fetch the file
        raise WeightsError(_fetch_error_message(name, wanted, _explain_error(error))) from error


def _explain_error(error: Exception) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    remedy = next((f"{text}; " for kind, text in _REMEDIES.items() if kind in kinds), "")
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{remedy}{type(error).__name__}: {said[:200]}"


def _fetch_error_message(name: str, wanted: HubFile, reason: str) -> str:
    place = list_candidate_paths(list_search_folders()[0], wanted)[0]
    elsewhere = (
        "give its path"
        if wanted.file.endswith(".json")
        else f"write `weights: /path/to/{wanted.file}`"
    )
    return (
        f"cannot fetch {wanted.file} from {wanted.repo} ({reason}). On a machine with access "
        f"download {wanted.page} (or run `terramosaic models fetch {name} --to FOLDER`) and put "
        f"it here as {place}, where it is found without network; or put it anywhere and "
        f"{elsewhere}"
    )


def _digest_mismatch_message(name: str, path: Path, seen: Pin, pin: Pin) -> str:
    return (
        f"weights {path} have sha256 {seen.sha256}, but {pin.sha256} is pinned since their first "
        f"use (in {checksums.pins_path()}): the file is damaged or another one. Delete it and run "
        f"`terramosaic models fetch {name}`; or, if you trust the new one, `terramosaic models "
        f"fetch {name} --renew`"
    )
