"""The command: exit codes, what stands on which stream, and how fast it answers."""

from __future__ import annotations

import importlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs import errors
from catalogs.demo import country
from flows.cli import main, text_layout
from flows.observe import formatting, progress
from flows.run import command_results
from model.errors import ModelError, WeightsError

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs" / "json"

JOB = """
region: {bbox: [9.0, 56.5, 10.5, 57.5]}
period: 2024-05-01/2024-09-30
catalog: planetary-computer
"""

FAILED_TILE = {"tile": "32632/0001_0002", "reason": "B04 of S2B_1 could not be read"} | {
    "retryable": True
}

COMPLETE: dict[str, Any] = {
    "status": "complete",
    "item": "out/a/2024/item.json",
    "map": "out/a/2024/abc/32632/land_cover.tif",
    "quicklook": "out/a/2024/abc/quicklook.png",
    "tiles": {"total": 4, "done": 3, "skipped": 1, "failed": []},
    "scenes": 12,
    "seconds": {"search": 0.5, "tiles": 61.25},
    "accuracy": {"overall": 0.91, "macro_f1": 0.8, "n": 1000},
    "planned": {"bytes": 1e9, "requests": 100, "seconds": 60.0, "cost": 1.5, "basis": "table"},
    "actual": {"bytes": 9e8, "requests": 90, "seconds": 61.25, "cost": None},
    "seam": None,
    "reason": None,
    "warnings": [],
}
UNCHANGED = COMPLETE | {"status": "unchanged", "accuracy": None, "planned": None, "actual": None}
PARTIAL = COMPLETE | {
    "status": "partial",
    "tiles": {"total": 4, "done": 3, "skipped": 0, "failed": [FAILED_TILE]},
}
FAILED = PARTIAL | {"item": None, "map": None, "quicklook": None, "accuracy": None}

SCENE: dict[str, Any] = dict.fromkeys(
    [
        *(
            "id",
            "datetime",
            "collection",
            "modality",
            "platform",
            "tile",
            "baseline",
            "orbit_state",
        ),
        *("relative_orbit", "cloud_cover", "coverage"),
    ]
) | {"collection": "c"}
REFUSED = dict.fromkeys(("id", "reason", "collection", "modality", "date", "coverage"))
SEARCH: dict[str, Any] = {
    "used": [
        SCENE
        | {"id": "S2B_1", "datetime": "2024-05-12T10:36:19Z", "modality": "S2L2A"}
        | {"cloud_cover": 3.2},
        SCENE | {"id": "DEM_1", "datetime": None, "modality": "DEM", "cloud_cover": None},
    ],
    "refused": [REFUSED | {"id": "S2B_2", "reason": "87 % clouds, the job takes 60 %"}],
    "coverage": [
        {"modality": "S2L2A", "date": "2024-05-12", "coverage": 0.996, "cloud_cover": 3.2}
        | {"used": ["S2B_1"], "refused": []},
        {"modality": "S2L2A", "date": "2024-05-22", "coverage": 0.0, "cloud_cover": None}
        | {"used": [], "refused": ["S2B_2"]},
        {"modality": "DEM", "date": None, "coverage": 0.004, "cloud_cover": None}
        | {"used": ["DEM_1"], "refused": []},
    ],
    "report": None,
    "warnings": [],
}
PLAN: dict[str, Any] = {
    "plan": "plan.json",
    "tiles": {"total": 43, "new": 40, "skip": 2, "recompute": 1},
    "scenes": 61,
    "bytes": 21_474_836_480,
    "requests": 9120,
    "peak_memory_bytes": 3_221_225_472,
    "seconds": 840.0,
    "cpu_hours": 1.87,
    "gpu_hours": 0.0,
    "stored_bytes": 410_000_000,
    "uncertainty": 1.25,
    "basis": "receipts",
    "cost": {
        "currency": "EUR",
        "amount": 0.33,
        "low": 0.26,
        "high": 0.41,
        "parts": {"cpu": 0.07, "gpu": 0.0, "read": 0.22, "requests": 0.0, "storage": 0.04},
    },
    "warnings": [],
}
ENTRY: dict[str, Any] = {
    "start": "2024-03-01",
    "end": "2024-03-31",
    "status": "complete",
    "item": "out/a/2024-03-01_2024-03-31/item.json",
    "scenes": 14,
    "coverage": 0.998,
    "cloud_cover": 31.4,
    "tiles": {"total": 4, "done": 4, "skipped": 0, "failed": 0},
    "reason": None,
}
GAP = ENTRY | {
    "status": "gap", "item": None, "scenes": 0, "coverage": 0.0, "cloud_cover": None,
    "tiles": None, "reason": "clouds"
}  # fmt: skip
SERIES: dict[str, Any] = {"name": "a", "dry_run": False, "periods": [GAP, ENTRY]}
BROKEN = SERIES | {"periods": [ENTRY | {"status": "failed", "reason": "no space"}, ENTRY]}
SEAM: dict[str, Any] = {"z": 0.6, "lines": 76, "rate": 0.03, "excess": 0.0001, "worst": 0.0}
FIGURES: dict[str, Any] = {
    "window": SEAM,
    "tile": None,
    "zone": None,
    "disagreement": {"n": 100, "share": 0.01, "low": 0.002, "high": 0.054},
    "precision": None,
    "silent": 0,
}
SOUND: dict[str, Any] = {"ok": True, "bad": [], "seam": {"item": "item.json"} | FIGURES}
ROTTEN: dict[str, Any] = {
    "ok": False,
    "bad": [{"tile": "32632/0001_0002", "file": "c/3/7", "reason": "sha256 differs"}],
    "seam": None,
}


TRAINED: dict[str, Any] = {
    "weights": "out/weights.safetensors",
    "card": "out/card.md",
    "sha256": "a" * 64,
    "bytes": 1_500_000,
    "seconds": 90.0,
    "test_countries": {
        "7": {"model": 0.91, "model_without_tokens": 0.85, "per_pixel_qda": 0.7},
    },
    "real_places": {},
}
RESULTS: dict[str, type[command_results.Result]] = {
    "run": command_results.RunResult,
    "demo": command_results.RunResult,
    "search": command_results.SearchResult,
    "plan": command_results.PlanResult,
    "backfill": command_results.BackfillResult,
    "refresh": command_results.BackfillResult,
    "verify": command_results.VerifyResult,
    "train": command_results.TrainResult,
}


class Flows:
    """Stand-ins for the flows: they return or raise what a test sets, and record their calls."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def command(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            answer = answer() if callable(answer) else answer
            return RESULTS[name].model_validate(answer)

        return call


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Flows:
    monkeypatch.delenv("TERRAMOSAIC_DEBUG", raising=False)
    flows = Flows()
    verbs = {
        "run.search_report": {"search": "search"},
        "run.stored_plan": {"make_plan": "plan"},
        "run.verify": {"verify": "verify"},
        "orchestration.launch": {"run_file": "run", "run_job": "run"},
        "series.backfill": {"run_backfill": "backfill"},
        "series.refresh": {"run_refresh": "refresh"},
        "demo.demo": {"run": "demo"},
        "demo.train": {"run": "train"},
    }
    for name, functions in verbs.items():
        module = types.ModuleType(f"flows.{name}")
        for function, verb in functions.items():
            setattr(module, function, flows.command(verb))
        monkeypatch.setitem(sys.modules, f"flows.{name}", module)
        package, _, module_name = f"flows.{name}".rpartition(".")
        monkeypatch.setattr(importlib.import_module(package), module_name, module, raising=False)
    return flows


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "jutland.yaml"
    path.write_text(JOB, encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return main.main([str(argument) for argument in arguments])


def schema(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return document


def check(document: Any, name: str) -> None:
    jsonschema.Draft202012Validator(schema(name)).validate(document)


# --- help and imports ------------------------------------------------------------------------

HEAVY = ("rich", "pydantic", "torch", "typer", "shapely", "numpy", "yaml", "prefect", "rasterio")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["nonsense"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from flows.cli import main as cli; code = cli.main(sys.argv[1:]);"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules], code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"HEAVY [] {2 if arguments == ['nonsense'] else 0}"


def test_search_needs_neither_torch_nor_rich(tmp_path: Path, job: Path) -> None:
    fake = tmp_path / "fake.py"
    fake.write_text(
        "import sys\n"
        "from flows.run import command_results, search_report\n"
        "search_report.search = lambda *_: command_results.SearchResult(\n"
        "    used=(), refused=(), coverage=(), report=None, warnings=())\n"
        "from flows.cli import main as cli\n"
        "code = cli.main(['search', sys.argv[1]])\n"
        "print([name for name in ('torch', 'rich') if name in sys.modules], code)\n"
    )
    done = subprocess.run(
        [sys.executable, fake, job],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] 3"


def test_help_names_every_verb_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    verbs = ("demo", "search", "plan", "run", "backfill", "refresh", "verify", "deploy")
    for name in (*verbs, "models", "train", "schema"):
        assert re.search(rf"\b{name}\b", text)
    for word in ("0 success", "1 tiles failed", "2 invalid", "3 nothing found", "130 inter"):
        assert word in text


def test_help_states_the_sizes_of_a_synthetic_country(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--help") == 0
    smallest, largest, multiple = country._SMALLEST, country._LARGEST, country._MULTIPLE
    assert f"{smallest} to {largest}, a multiple of {multiple}" in " ".join(
        capsys.readouterr().out.split()
    )


def verbs() -> list[click.Command]:
    return [
        *(entry for entry in main.command.commands.values() if not isinstance(entry, click.Group)),
        *main.models.commands.values(),
    ]


def test_every_verb_has_json_and_debug() -> None:
    assert {entry.name for entry in verbs()} == {
        *("demo", "search", "plan", "run", "backfill", "refresh", "verify", "deploy", "train"),
        "schema",
        *("list", "fetch", "check", "convert", "card"),
    }
    for entry in verbs():
        names = {option for parameter in entry.params for option in parameter.opts}
        assert {"--json", "--debug"} <= names, entry.name
        assert entry.help


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("terramosaic ")


# --- exit codes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "options", "code", "words"),
    [
        (COMPLETE, [], 0, ["complete", "land_cover.tif", "61.2", "F1 0.800", "0.910"]),
        (UNCHANGED, [], 0, ["nothing to do: ", "item.json"]),
        (FAILED, [], 1, ["1 of 4 tiles failed and nothing is published", "B04 of S2B_1"]),
        (FAILED, ["--allow-partial"], 1, ["nothing is published"]),
        (PARTIAL, ["--allow-partial"], 0, ["published without 1 of 4 tiles", "item.json"]),
        (PARTIAL, [], 1, ["published without"]),
        (FAILED | {"status": "failed"}, [], 1, ["failed: 1 of 4"]),
    ],
)  # fmt: skip
def test_run(
    fakes: Flows,
    job: Path,
    capsys: pytest.CaptureFixture[str],
    answer: Any,
    options: list[str],
    code: int,
    words: list[str],
) -> None:
    fakes.answers["run"] = answer
    assert run("run", job, *options) == code
    captured = capsys.readouterr()
    for word in words:
        assert word in captured.out
    assert captured.err == ""
    _, arguments, keywords = fakes.calls[0]
    assert arguments == (job,)
    assert keywords["allow_partial"] is bool(options)
    assert keywords["max_cost"] is None


def test_run_takes_a_plan_and_a_price(fakes: Flows, tmp_path: Path) -> None:
    fakes.answers["run"] = COMPLETE
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    assert run("run", plan, "--max-cost", "12.5") == 0
    assert fakes.calls[0][1] == (plan,)
    assert fakes.calls[0][2]["max_cost"] == 12.5


def test_demo(fakes: Flows, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.answers["demo"] = COMPLETE
    assert run("demo", tmp_path, "--seed", 3, "--size", 512, "--tile-size", 256) == 0
    name, arguments, options = fakes.calls[0]
    watch = options.pop("progress")
    assert isinstance(watch, progress.LineProgress)
    assert (name, arguments) == ("demo", (tmp_path,))
    assert options == {"seed": 3, "size": 512, "tile_size": 256}
    assert "tiles      4 (3 computed, 1 already there, 0 failed)" in capsys.readouterr().out
    assert run("demo", "--tile-size", 100) == 2


def test_search(fakes: Flows, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.answers["search"] = SEARCH
    assert run("search", job) == 0
    out = capsys.readouterr().out
    assert "2 scenes are used, 1 are left out" in out
    assert re.search(r"2024-05-12 10:36 +S2L2A +S2B_1 .* 3\.2", out)
    assert re.search(r"2024-05-12 +S2L2A +#{19}\. +> 99 %", out)
    assert re.search(r"- +DEM +#\.{19} +< 1 %", out)
    assert "2024-05-22" not in out
    # ^ a day on which nothing is used has no bar
    assert re.search(r"S2B_2 +87 % clouds", out)
    assert fakes.calls[0][1][0].name == "jutland"
    assert fakes.calls[0][1][2] is None
    fakes.answers["search"] = SEARCH | {"report": "a/search.html"}
    assert run("search", job, "--report", "a/search.html") == 0
    assert "report     a/search.html" in capsys.readouterr().out
    assert fakes.calls[1][1][2] == Path("a/search.html")
    fakes.answers["search"] = SEARCH | {"used": []}
    assert run("search", job) == 3


def test_plan(fakes: Flows, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.answers["plan"] = PLAN
    assert run("plan", job, "-o", "plan.json") == 0
    out = capsys.readouterr().out
    assert "43 tiles: 40 new, 2 done, 1 to redo" in out
    assert "21.5 GB" in out
    assert "14 min" in out
    assert "0.33 EUR (0.26 to 0.41)" in out
    assert "the receipts of earlier runs" in out
    assert fakes.calls[0][1][2] == Path("plan.json")


def test_periods_are_listed_with_what_became_of_them(
    fakes: Flows, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.answers["backfill"] = SERIES
    words = ("--from", "2024-02", "--to", "2024-03", "--cadence", "P1M", "--order", "newest")
    assert run("backfill", job, *words, "--at-once", "2") == 0
    out = capsys.readouterr().out
    assert "2 periods: 1 gap, 1 complete" in out
    assert re.search(r"2024-03-01/2024-03-31 +complete +14 +> 99 % +31 %", out)
    assert "clouds" in out
    _, (_, period_range), keywords = fakes.calls[0]
    assert (period_range.first, period_range.last, period_range.length) == (
        "2024-02",
        "2024-03",
        "P1M",
    )
    assert period_range.newest_first
    assert (keywords["at_once"], keywords["dry_run"]) == (2, False)


def test_verify(fakes: Flows, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.answers["verify"] = SOUND
    assert run("verify", tmp_path) == 0
    assert "verified" in capsys.readouterr().out
    fakes.answers["verify"] = ROTTEN
    assert run("verify", tmp_path) == 1
    assert re.search(r"32632/0001_0002 +c/3/7 +sha256 differs", capsys.readouterr().out)
    assert run("verify", tmp_path / "lost") == 2
    assert "nothing at" in capsys.readouterr().err


def test_train(fakes: Flows, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.answers["train"] = TRAINED
    assert run("train", "--out", tmp_path, "--seeds", "1,5-8", "--steps", 10, "--minutes", 2) == 0
    options = fakes.calls[0][2]
    assert fakes.calls[0][1] == (None,)
    assert options["seeds"] == (1, 5, 6, 7, 8)
    assert (options["steps"], options["minutes"], options["device"]) == (10, 2.0, "auto")
    out = capsys.readouterr().out
    assert "wrote out/weights.safetensors" in out
    assert re.search(r"7 +0\.910 +0\.850 +0\.700", out)
    assert run("train", "--seeds", "1;2") == 2
    assert run("train", tmp_path / "lost.yaml") == 2


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["run"], ["run", "a", "b"], ["run", "a", "--nope"], ["demo", "--seed", "x"],
     ["demo", "--seed", "-1"], ["run", "a", "--max-cost", "-1"], ["models", "nope"]],
)  # fmt: skip
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip()


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.InvalidInputError("the region lies outside of the catalog: check it."), 2),
        (errors.NothingFoundError("no scene in 2024: widen the period."), 3),
        (errors.AssetReadError("B04 could not be read."), 1),
        (errors.TransientError("503 from the catalog."), 1),
        (ModelError("unknown modality 'S3'"), 2),
        (WeightsError("the sha256 is wrong"), 2),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_known_errors(
    fakes: Flows,
    job: Path,
    capsys: pytest.CaptureFixture[str],
    raised: Exception,
    code: int,
    as_json: bool,
) -> None:
    fakes.answers["run"] = raised
    assert run("run", job, *(["--json"] if as_json else [])) == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {raised}\n"
    if as_json:
        document = json.loads(captured.out)
        check(document, "error")
        assert document == {"error": str(raised), "exit_code": code}
    else:
        assert captured.out == ""


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (KeyError("tile"), "unexpected KeyError: 'tile'"),
        (RuntimeError(), "unexpected RuntimeError: no message"),
        (OSError(28, "No space left on device"), "No space left on device; correct this"),
        (MemoryError(), "out of memory: lower execution.tile"),
        (ValueError("plain"), "unexpected ValueError: plain"),
    ],
)
def test_unexpected_errors(
    fakes: Flows,
    job: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    words: str,
) -> None:
    fakes.answers["run"] = raised
    assert run("run", job) == 1
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert run("run", job, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("TERRAMOSAIC_DEBUG", "1")
    assert run("run", job) == 1
    assert "Traceback" in capsys.readouterr().err


def test_signatures_stay_out_of_messages(
    fakes: Flows, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.answers["run"] = RuntimeError("cannot open https://a.example/b.tif?sig=SECRET&se=1 now")
    assert run("run", job, "--json") == 1
    captured = capsys.readouterr()
    assert "SECRET" not in captured.out + captured.err
    assert "https://a.example/b.tif?… now" in captured.err


def test_interruption_is_resumable(
    fakes: Flows, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.answers["run"] = KeyboardInterrupt()
    assert run("run", job) == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted; run the same command again to resume\n"
    assert captured.out == ""


SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
# ^ a shell that starts tests in the background has it ignored
from flows.orchestration import launch
def run_file(job, *, allow_partial, max_cost, progress, period):
    progress.start_stage("tiles", 4)
    time.sleep(60)
launch.run_file = run_file
from flows.cli import main as cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_ctrl_c_in_a_process(job: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER, "run", str(job), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "tiles: 4 to do\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted; run the same command again to resume"
    assert "Traceback" not in err


# --- wrong requests, from the command to the message -----------------------------------------

BOW_TIE = '{"type": "Polygon", "coordinates": [[[9,56],[10,57],[10,56],[9,57],[9,56]]]}'

REQUESTS = [
    ("catalog: planetary", 2, "unknown catalog provider 'planetary'"),
    ("catalog: {path: lost.json, provider: demo}", 2, "lost.json"),
    ("catalog: {path: region.geojson, provider: nasa}", 2, "unknown catalog provider 'nasa'"),
    ("region: {file: jutland.yaml}", 2, "is not JSON"),
    ("region: {file: empty.geojson}", 2, "holds no geometry"),
    ("region: {file: region.geojson}", 2, "self-intersecting"),
    ("period: 2024-09-30/2024-05-01", 2, "before it starts"),
    ("period: soon", 2, "cannot be read"),
    ("model: {name: resnet}", 2, "unknown model 'resnet'"),
    ("model: {task: crops}", 2, "unknown task 'crops'"),
    ("model: {weights: lost.safetensors}", 2, "no weights at"),
    ("inputs: [S2L1B]", 2, "unknown input 'S2L1B'"),
    ("execution: {tile: 1000}", 2, "not a multiple of 16"),
    ("grids: {}", 2, "Did you mean 'grid'?"),
]


@pytest.mark.parametrize("name", ["search", "plan", "run"])
@pytest.mark.parametrize(("change", "code", "words"), REQUESTS)
def test_wrong_request_is_one_message(
    fakes: Flows,
    job: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: str,
    code: int,
    words: str,
) -> None:
    (job.parent / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (job.parent / "region.geojson").write_text(BOW_TIE)
    key = change.partition(":")[0]
    lines = [line for line in JOB.strip().splitlines() if not line.startswith(f"{key}:")]
    job.write_text("\n".join([*lines, change, ""]))
    assert run(name, job) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {job}: ")
    assert words in captured.err
    assert len(captured.err.splitlines()) == 1
    assert fakes.calls == []
    # ^ nothing was searched, read or written for it


@pytest.mark.parametrize("name", ["search", "plan", "run"])
def test_lost_job(fakes: Flows, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(name, "lost.yaml") == 2
    assert "There is no file lost.yaml" in capsys.readouterr().err
    assert run("run", "lost.json") == 2
    assert "There is no plan lost.json" in capsys.readouterr().err
    assert fakes.calls == []


# --- JSON ------------------------------------------------------------------------------------

JSON_CASES = [
    (["run", "JOB"], "run", COMPLETE, "run", 0),
    (["run", "JOB"], "run", UNCHANGED, "run", 0),
    (["run", "JOB"], "run", FAILED, "run", 1),
    (["run", "JOB", "--allow-partial"], "run", PARTIAL, "run", 0),
    (["demo", "out"], "demo", COMPLETE, "run", 0),
    (["search", "JOB"], "search", SEARCH, "search", 0),
    (["plan", "JOB"], "plan", PLAN, "plan", 0),
    (["backfill", "JOB", "--from", "2024-02"], "backfill", SERIES, "backfill", 0),
    (["backfill", "JOB", "--dry-run"], "backfill", SERIES | {"periods": [GAP]}, "backfill", 3),
    (["backfill", "JOB"], "backfill", BROKEN, "backfill", 1),
    (["refresh", "JOB"], "refresh", SERIES, "refresh", 0),
    (["verify", "JOB"], "verify", SOUND, "verify", 0),
    (["verify", "JOB"], "verify", ROTTEN, "verify", 1),
    (["models", "list"], "models", None, "models", 0),
]


@pytest.mark.parametrize(("arguments", "verb", "answer", "name", "code"), JSON_CASES)
def test_json_is_one_object_that_its_schema_knows(
    fakes: Flows,
    job: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    verb: str,
    answer: Any,
    name: str,
    code: int,
) -> None:
    def noisy() -> Any:
        print("a library's chatter")
        return answer

    fakes.answers[verb] = noisy
    call = [str(job) if argument == "JOB" else argument for argument in arguments]
    assert run(*call, "--json") == code
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    check(json.loads(out), name)


def test_json_keeps_values_and_drops_nan(
    fakes: Flows, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.answers["plan"] = PLAN | {"seconds": float("nan")}
    run("plan", job, "--json")
    document = json.loads(capsys.readouterr().out)
    assert document == PLAN | {"seconds": None}
    fakes.answers["run"] = COMPLETE
    run("run", job, "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["accuracy"]["overall"] == 0.91
    assert document["tiles"]["done"] == 3


NOISY = """
import os, subprocess, sys
from flows.run import command_results, search_report
SCENE = dict.fromkeys(command_results.UsedScene.model_fields) | {
    "id": "a", "collection": "c", "modality": "DEM"
}
def search(job, progress, report):
    progress.start_stage("search")
    print("python noise")
    print("more noise", file=sys.__stdout__)
    os.write(1, b"C noise\\n")
    subprocess.run([sys.executable, "-c", "print('child noise')"])
    return command_results.SearchResult(
        used=(SCENE,), refused=(), coverage=(), report=None, warnings=()
    )
search_report.search = search
from flows.cli import main as cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_json_is_alone_on_stdout_whatever_prints(job: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISY, "search", job, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["used"][0]["id"] == "a"
    assert len(done.stdout.splitlines()) == 1
    for noise in ("python noise", "more noise", "C noise", "child noise"):
        assert noise in done.stderr


def test_usage_error_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--json") == 2
    document = json.loads(capsys.readouterr().out)
    check(document, "error")
    assert "JOB|PLAN" in document["error"]


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_schemas_are_schemas(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))
    assert path.name in (ROOT / "docs" / "json.md").read_text()


def test_examples_of_the_page_are_valid() -> None:
    page = (ROOT / "docs" / "json.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    names = ["run", "search", "plan", "backfill", "deploy", "verify"]
    names += ["models", "models-fetch", "error"]
    for document, name in zip(blocks, names, strict=True):
        check(document, name)


def test_schema_refuses_a_changed_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        check({"error": "x", "exit_code": 2, "extra": 1}, "error")


def test_closed_pipe_is_quiet(job: Path) -> None:
    command = f'"{sys.executable}" -c "$CODE" search "$JOB" | true; exit "${{PIPESTATUS[0]}}"'
    code = NOISY.replace('[{"id": "a", "datetime": None}]', '[{"id": "a"}] * 100000')
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=os.environ | {"CODE": code, "JOB": str(job)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# --- progress --------------------------------------------------------------------------------


def test_lines_say_one_thing_per_tile() -> None:
    stream = io.StringIO()
    now = iter([0.0, 2.5, 2.5, 4.0])
    watch = progress.LineProgress(stream, clock=lambda: next(now))
    watch.start_stage("search")
    watch.start_stage("tiles", 2)
    watch.advance(note="32632/0000_0000")
    watch.advance(note="32632/0000_0001")
    watch.finish()
    watch.finish()
    assert stream.getvalue().splitlines() == [
        "search",
        "search: 2.5 s",
        "tiles: 2 to do",
        "tiles 1/2 32632/0000_0000",
        "tiles 2/2 32632/0000_0001",
        "tiles: 1.5 s",
    ]


def test_lines_from_many_threads_are_whole() -> None:
    stream = io.StringIO()
    watch = progress.LineProgress(stream)
    watch.start_stage("tiles", 400)
    threads = [
        threading.Thread(target=lambda: [watch.advance(note="x" * 50) for _ in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert lines[1:] == [f"tiles {count}/400 {'x' * 50}" for count in range(1, 401)]


def drain(descriptor: int, into: bytearray) -> None:
    while True:
        try:
            part = os.read(descriptor, 4096)
        except OSError:
            return
            # ^ on Linux, reading a terminal whose other end is closed raises EIO
        if not part:
            return
        into += part


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    ours, theirs = pty.openpty()
    drawn = bytearray()
    reader = threading.Thread(target=drain, args=(ours, drawn))
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        watch = progress.create_progress(terminal)
        assert isinstance(watch, progress.BarProgress)
        watch.start_stage("search")
        watch.advance(note="[red]not markup[/red]")
        watch.start_stage("tiles", 2)
        watch.advance(2, "done")
        watch.finish()
        watch.finish()
    reader.join(timeout=30)
    os.close(ours)
    assert b"tiles" in drawn
    assert b"2/2" in drawn
    assert b"[red]not markup[/red]" in drawn


@pytest.mark.parametrize(
    "kind",
    [
        progress.NullProgress(),
        progress.LineProgress(io.StringIO()),
        progress.BarProgress(io.StringIO()),
    ],
)
def test_progress_takes_steps_outside_of_a_stage(kind: progress.Progress) -> None:
    kind.advance()
    kind.finish()
    kind.start_stage("a", 0)
    kind.finish()


# --- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "words"),
    [(999, "999 B"), (1000, "1.0 kB"), (21_474_836_480, "21.5 GB"), (1e16, "10.0 PB")],
)  # fmt: skip
def test_sizes(count: float, words: str) -> None:
    assert formatting.format_size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.9, "59.9 s"), (840, "14 min"), (3599, "1 h 00 min"), (9e3, "2 h 30 min")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert formatting.format_duration(seconds) == words


words_ = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(words_, st.integers(0, 10**6)), min_size=1, max_size=8))
def test_tables_are_aligned(rows: list[tuple[str, int]]) -> None:
    lines = text_layout.format_table(("name", "count"), rows)
    assert len({len(line) for line in lines}) == 1
    assert [int(line.split()[-1]) for line in lines[1:]] == [count for _, count in rows]
