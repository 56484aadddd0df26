"""Official weight files: search, download, pins, and messages where a file is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import WeightsError
from model.weights import checksums, hub

BASE, LULC, COORDS = (
    "terramind_v1_base",
    "terramind_v1_tokenizer_lulc",
    "terramind_v1_tokenizer_coords",
)
FIRST, SECOND = "a" * 40, "b" * 40


class FakeHub:
    """A substitute for huggingface_hub with the same layout of its cache."""

    def __init__(self, cache):
        self.cache, self.requests, self.error = cache, [], None
        self.refs = {"main": FIRST}
        self.files = {FIRST: b"first", SECOND: b"second"}

    def hf_hub_download(self, repo, file, revision=None):
        self.requests.append((repo, file, revision))
        if self.error:
            raise self.error
        commit = self.refs.get(revision or "main", revision)
        folder = self.cache / f"models--{repo.replace('/', '--')}"
        path = folder / "snapshots" / commit / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[commit])
        if commit != revision:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / (revision or "main")).write_text(commit)
        return str(path)


@pytest.fixture(autouse=True)
def weights_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERRAMOSAIC_WEIGHTS", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    return tmp_path / "home"


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    library = FakeHub(tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return library


def write_weights(folder, name, content):
    path = hub.list_candidate_paths(Path(folder), hub.OFFICIAL_FILES[name])[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- names of the files ---------------------------------------------------------------------


def test_every_official_file_has_a_name():
    sizes = [f"terramind_v1_{size}{variant}" for size in ("tiny", "small", "base", "large")
             for variant in ("", "_tim", "_generate")]  # fmt: skip
    tokenizers = [f"terramind_v1_tokenizer_{modality}" for modality in
                  ("s2l2a", "s1grd", "s1rtc", "dem", "lulc", "ndvi", "coords")]  # fmt: skip
    assert list(hub.OFFICIAL_FILES) == sizes + tokenizers
    assert len(set(hub.OFFICIAL_FILES.values())) == 11
    official = hub.OFFICIAL_FILES["terramind_v1_tokenizer_s2l2a"]
    assert official.repo == "ibm-esa-geospatial/TerraMind-1.0-Tokenizer-S2L2A"
    assert official.file == "TerraMind_Tokenizer_S2L2A.pt"
    assert hub.OFFICIAL_FILES[COORDS].file == "config.json"


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_variants_use_the_file_of_the_backbone(size):
    official = hub.OFFICIAL_FILES[f"terramind_v1_{size}"]
    assert (
        official
        == hub.OFFICIAL_FILES[f"terramind_v1_{size}_tim"]
        == hub.OFFICIAL_FILES[f"terramind_v1_{size}_generate"]
    )
    assert official.repo == f"ibm-esa-geospatial/TerraMind-1.0-{size}"
    assert official.file == f"TerraMind_v1_{size}.pt"


def test_the_error_of_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match="terramind_v1_tokenizer_coords"):
        hub.fetch_path("terramind_v2_base")


def test_the_search_does_not_import_torch():
    code = (
        f"from model.weights import hub; hub.get_official_file({BASE!r}); "
        "import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- without network -------------------------------------------------------------------------


@pytest.mark.parametrize("name", hub.OFFICIAL_FILES)
def test_without_the_library_the_message_explains_the_download(name, weights_home):
    with pytest.raises(WeightsError) as error:
        hub.fetch_path(name)
    message, expected = str(error.value), hub.OFFICIAL_FILES[name]
    for phrase in (
        expected.file,
        expected.repo,
        expected.page,
        "pip install 'terramosaic[hub]'",
        f"terramosaic models fetch {name} --to",
        str(weights_home / "weights"),
    ):
        assert phrase in message
    assert ("weights: /path/to" in message) == expected.file.endswith(".pt")
    path = message.partition("here as ")[2].partition(", where")[0]
    Path(path).parent.mkdir(parents=True)
    Path(path).write_bytes(b"x")
    assert hub.fetch_path(name) == Path(path)
    # ^ the location that the message names is searched


@pytest.mark.parametrize("name", [BASE, LULC, COORDS])
@pytest.mark.parametrize("location", ["first", "second", "home"])
def test_weights_folders_are_searched_without_network(
    tmp_path, weights_home, monkeypatch, name, location
):
    folders = {
        "first": tmp_path / "one",
        "second": tmp_path / "two",
        "home": weights_home / "weights",
    }
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", f"{folders['first']}:{folders['second']}")
    assert hub.find_local_file(name) is None
    path = write_weights(folders[location], name, b"mine")
    assert hub.find_local_file(name) == hub.fetch_path(name) == path


def test_the_first_folder_takes_precedence_and_converted_files_are_found(
    tmp_path, weights_home, monkeypatch
):
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(tmp_path / "one"))
    write_weights(weights_home / "weights", BASE, b"at home")
    converted = tmp_path / "one" / "TerraMind_v1_base.safetensors"
    converted.parent.mkdir()
    converted.write_bytes(b"converted")
    assert hub.fetch_path(BASE) == converted
    official = write_weights(tmp_path / "one", BASE, b"original")
    assert hub.fetch_path(BASE) == official
    assert len(checksums.read_pins()) == 2
    # ^ a file with other bytes and another name has its own pin


def test_the_cache_of_the_hub_is_read_without_its_library(fake_hub, monkeypatch):
    path = hub.fetch_path(BASE)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert hub.fetch_path(BASE) == path
    (checksums.home_dir() / "weights.json").unlink()
    assert hub.fetch_path(BASE) == path
    assert (
        checksums.read_pins()[f"{hub.OFFICIAL_FILES[BASE].repo}/TerraMind_v1_base.pt"][
            "main"
        ].commit
        == FIRST
    )


def test_the_default_home_is_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TERRAMOSAIC_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checksums.home_dir() == tmp_path / "terramosaic"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert checksums.home_dir() == Path.home() / ".cache" / "terramosaic"


# --- pinned at first use ---------------------------------------------------------------------


def test_the_first_use_is_pinned(fake_hub, weights_home):
    fetched = hub.fetch(BASE)
    assert fetched.is_newly_pinned
    assert fake_hub.requests == [(hub.OFFICIAL_FILES[BASE].repo, "TerraMind_v1_base.pt", None)]
    pins = json.loads((weights_home / "weights.json").read_text())
    sha256 = hashlib.sha256(b"first").hexdigest()
    assert pins == {
        "ibm-esa-geospatial/TerraMind-1.0-base/TerraMind_v1_base.pt": {
            "main": {"sha256": sha256, "bytes": 5, "commit": FIRST}
        }
    }
    second_fetch = hub.fetch(BASE)
    assert not second_fetch.is_newly_pinned
    assert second_fetch.pin == fetched.pin
    assert len(fake_hub.requests) == 1


def test_variants_share_file_and_pin(fake_hub):
    assert hub.fetch(BASE).is_newly_pinned
    assert not hub.fetch(f"{BASE}_generate").is_newly_pinned
    assert len(fake_hub.requests) == 1


def test_a_new_version_on_the_hub_is_used_only_after_renewal(fake_hub):
    path = hub.fetch_path(BASE)
    fake_hub.refs["main"] = SECOND
    assert hub.fetch_path(BASE) == path
    path.unlink()
    assert hub.fetch_path(BASE).read_bytes() == b"first"
    assert fake_hub.requests[-1][2] == FIRST
    # ^ the pinned commit is requested, not the branch
    renewed = hub.fetch(BASE, renew=True)
    assert renewed.is_newly_pinned
    assert renewed.path.read_bytes() == b"second"
    assert hub.fetch_path(BASE) == renewed.path


def test_a_revision_has_its_own_pin(fake_hub, tmp_path, monkeypatch):
    fake_hub.refs["v2"] = SECOND
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(tmp_path / "hand"))
    write_weights(tmp_path / "hand", BASE, b"by hand")
    assert hub.fetch_path(BASE).read_bytes() == b"by hand"
    assert hub.fetch_path(BASE, "v2").read_bytes() == b"second"
    assert hub.fetch_path(BASE, FIRST).read_bytes() == b"first"
    assert [request[2] for request in fake_hub.requests] == ["v2", FIRST]
    labels = checksums.read_pins()["ibm-esa-geospatial/TerraMind-1.0-base/TerraMind_v1_base.pt"]
    assert {label: pin.commit for label, pin in labels.items()} == {
        "main": None, "v2": SECOND, FIRST: FIRST
    }  # fmt: skip


def test_a_moved_tag_is_not_followed(fake_hub):
    fake_hub.refs["v2"] = SECOND
    path = hub.fetch_path(BASE, "v2")
    path.unlink()
    fake_hub.refs["v2"] = FIRST
    assert hub.fetch_path(BASE, "v2").read_bytes() == b"second"


@pytest.mark.parametrize("location", ["cache", "folder"])
def test_a_changed_file_is_refused_with_a_remedy(fake_hub, weights_home, location):
    path = (
        hub.fetch_path(BASE)
        if location == "cache"
        else write_weights(weights_home / "weights", BASE, b"mine")
    )
    pinned_sha256 = hub.fetch(BASE).pin.sha256
    path.write_bytes(b"other bytes")
    with pytest.raises(WeightsError) as error:
        hub.fetch_path(BASE)
    message = str(error.value)
    for phrase in (
        str(path),
        pinned_sha256,
        hashlib.sha256(b"other bytes").hexdigest(),
        "weights.json",
        f"models fetch {BASE}",
        "--renew",
    ):
        assert phrase in message
    path.unlink()
    if location == "cache":
        assert hub.fetch_path(BASE) == path
    else:
        write_weights(weights_home / "weights", BASE, b"trusted now")
        assert hub.fetch(BASE, renew=True).is_newly_pinned
        assert hub.fetch_path(BASE).read_bytes() == b"trusted now"


def test_a_copied_file_must_equal_the_fetched_one(fake_hub, weights_home):
    hub.fetch_path(BASE)
    path = write_weights(weights_home / "weights", BASE, b"another")
    with pytest.raises(WeightsError, match="pinned since their first use"):
        hub.fetch_path(BASE)
    path.write_bytes(b"first")
    assert hub.fetch_path(BASE) == path


def test_a_download_must_equal_the_file_copied_before(fake_hub, weights_home):
    path = write_weights(weights_home / "weights", BASE, b"from a colleague")
    hub.fetch_path(BASE)
    path.unlink()
    with pytest.raises(WeightsError, match="pinned since their first use"):
        hub.fetch_path(BASE)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}', '{"a": {"main": {"sha": 1}}}', "null"])
def test_damaged_pins_are_reported(weights_home, text):
    weights_home.mkdir()
    (weights_home / "weights.json").write_text(text)
    with pytest.raises(WeightsError, match=r"weights\.json.*damaged"):
        hub.fetch_path(BASE)


def test_a_read_only_home_is_reported(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(tmp_path))
    write_weights(tmp_path, BASE, b"x")
    with pytest.raises(WeightsError, match="set TERRAMOSAIC_HOME"):
        hub.fetch_path(BASE)


def _fetch_in_process(folder, name, queue):
    write_weights(Path(folder), name, name.encode())
    queue.put(hub.fetch(name).pin.sha256)


def test_parallel_processes_lose_no_pins(tmp_path, monkeypatch):
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(tmp_path))
    names = [name for name in hub.OFFICIAL_FILES if not name.endswith(("_tim", "_generate"))]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [
        context.Process(target=_fetch_in_process, args=(str(tmp_path), name, queue))
        for name in names
    ]
    for worker in workers:
        worker.start()
    digests = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
    assert len(digests) == len(names)
    assert {
        pin.sha256 for labels in checksums.read_pins().values() for pin in labels.values()
    } == digests


def test_the_first_of_two_pins_is_kept(fake_hub, monkeypatch):
    """Two processes use a file for the first time and get different contents."""
    first_pin = checksums.Pin(sha256="0" * 64, bytes=1, commit=None)
    key = f"{hub.OFFICIAL_FILES[BASE].repo}/TerraMind_v1_base.pt"
    pin_files = iter([{}, {key: {"main": first_pin}}])
    monkeypatch.setattr(checksums, "read_pins", lambda: next(pin_files))
    with pytest.raises(WeightsError, match="0000"):
        hub.fetch_path(BASE)


@given(
    st.dictionaries(
        st.sampled_from(
            sorted({f"{official.repo}/{official.file}" for official in hub.OFFICIAL_FILES.values()})
        ),
        st.dictionaries(
            st.text(min_size=1, max_size=9),
            st.builds(
                checksums.Pin,
                sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
                bytes=st.integers(0, 2**40),
                commit=st.none() | st.just(FIRST),
            ),
            min_size=1,
            max_size=2,
        ),
        max_size=3,
    )
)
def test_pins_are_read_as_they_were_written(tmp_path_factory, pins):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERRAMOSAIC_HOME", str(tmp_path_factory.mktemp("home")))
        for key, labels in pins.items():
            for label, pin in labels.items():
                assert checksums.record_pin(key, label, pin, renew=False) == pin
        assert checksums.read_pins() == pins


# --- errors of the hub -----------------------------------------------------------------------


needs_library = pytest.mark.skipif(
    not importlib.util.find_spec("huggingface_hub"), reason="huggingface_hub is an extra"
)

REAL_LIBRARY_PROGRAM = """
import json, sys
from huggingface_hub import errors, try_to_load_from_cache
from model.weights import hub
from model.errors import WeightsError
known = {name: [kind.__name__ for kind in getattr(errors, name).__mro__] for name in hub._REMEDIES}
wanted = hub.OFFICIAL_FILES["terramind_v1_base"]
found = try_to_load_from_cache(wanted.repo, wanted.file)
try:
    hub.fetch_path("terramind_v1_tokenizer_lulc")
except WeightsError as error:
    told = str(error)
print(json.dumps({"known": known, "found": found, "told": told}))
"""


@needs_library
def test_the_real_library_agrees_about_cache_and_errors(fake_hub):
    path = hub.fetch_path(BASE)
    process = subprocess.run(
        [sys.executable, "-c", REAL_LIBRARY_PROGRAM],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(process.stdout)
    assert report["found"] == str(path)
    assert "RepositoryNotFoundError" in report["known"]["GatedRepoError"]
    assert "EntryNotFoundError" in report["known"]["LocalEntryNotFoundError"]
    assert "cannot fetch TerraMind_Tokenizer_LULC.pt" in report["told"]
    assert "cannot be reached from here; LocalEntryNotFoundError" in report["told"]


@pytest.mark.parametrize(
    ("error_name", "message"),
    [
        ("GatedRepoError", "accept the terms on its page, then log in with `hf auth login`"),
        ("RepositoryNotFoundError", "or it is private"),
        ("RevisionNotFoundError", "no such revision"),
        ("EntryNotFoundError", "no such file at this revision"),
        ("LocalEntryNotFoundError", "cannot be reached from here; LocalEntryNotFoundError: no"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE forbids requests; OfflineModeIsEnabled: no"),
        ("ProxyError", "(ProxyError: no route to host)"),
    ],
)
def test_errors_of_the_hub_are_explained_with_a_remedy(fake_hub, error_name, message):
    bases = {
        "GatedRepoError": (type("RepositoryNotFoundError", (Exception,), {}),),
        "LocalEntryNotFoundError": (type("EntryNotFoundError", (Exception,), {}),),
    }
    fake_hub.error = type(error_name, bases.get(error_name, (Exception,)), {})(
        "no route to host\nmore lines"
    )
    with pytest.raises(WeightsError) as error:
        hub.fetch_path(LULC, "v1")
    full_message = str(error.value)
    for phrase in (message, "no route to host", hub.OFFICIAL_FILES[LULC].page):
        assert phrase in full_message
    assert "more lines" not in full_message
    assert checksums.read_pins() == {}


# --- copies of files -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [BASE, COORDS])
def test_a_copied_file_is_found(fake_hub, tmp_path, monkeypatch, name):
    fetched = hub.fetch(name)
    path = hub.copy_file(name, fetched.path, tmp_path / "stick")
    assert path.read_bytes() == b"first"
    assert hub.copy_file(name, path, tmp_path / "stick") == path
    assert not list((tmp_path / "stick").rglob("*.part"))
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(tmp_path / "stick"))
    assert hub.fetch_path(name) == path


def test_a_converted_file_is_copied_under_its_own_name(weights_home, tmp_path):
    (weights_home / "weights").mkdir(parents=True)
    (weights_home / "weights" / "TerraMind_v1_base.safetensors").write_bytes(b"converted")
    path = hub.copy_file(BASE, hub.fetch_path(BASE), tmp_path)
    assert path == tmp_path / "TerraMind_v1_base.safetensors"
