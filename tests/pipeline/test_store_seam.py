"""All files of an output go through a store: no other module writes or locks files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STORE_MODULES = {
    "pipeline/runtime/atomic_files.py",
    "pipeline/runtime/lock.py",
    "pipeline/storage/store.py",
    "pipeline/storage/memory_store.py",
}
"""The store and the modules that it is built on."""

WRITES_ELSEWHERE = {
    "flows/cli/main.py": "opens the null device, after standard output was closed",
    "flows/cli/models.py": "writes a model card to a path that the user names",
    "flows/demo/demo.py": "writes the job and region of the demo, which are inputs",
    "flows/demo/train.py": "writes the demo's trained model and its card",
    "flows/observe/metrics_destination.py": "writes metrics to the folder of node_exporter",
    "flows/run/model_spec_cache.py": "keeps the specs of models in the user's cache folder",
    "flows/run/schemas.py": "writes the JSON schemas of the documentation",
    "pipeline/storage/cog.py": "hashes a finished file in a temporary directory of the store",
}
"""Modules that open local files outside of an output, and what they do."""

FORBIDDEN_MODULES = {"fcntl", "tempfile", "pipeline.runtime.atomic_files"}

FORBIDDEN_FUNCTIONS = {
    "os": {"replace", "rename", "link", "symlink", "fsync", "open", "remove", "unlink", "makedirs"},
    "shutil": {"move", "rmtree", "copy", "copyfile", "copytree"},
    "lock": {"acquire"},
}
"""Module → functions that change files, or lock them."""

WRITING_METHODS = {"write_text", "write_bytes", "unlink", "rename", "mkdir", "rmdir", "touch"}
"""Methods of paths that change files."""

READING_METHODS = {"read_text", "read_bytes", "rglob", "iterdir", "stat", "is_file", "is_dir"}
"""Methods of paths that look at files."""

OUTPUT_FOLDERS = ("storage", "product", "publishing", "report", "quality")
OUTPUT_MODULES = [
    path.relative_to(ROOT).as_posix()
    for folder in OUTPUT_FOLDERS
    for path in sorted((ROOT / "pipeline" / folder).rglob("*.py"))
] + ["pipeline/tile.py", "pipeline/reuse.py", "pipeline/resource_estimate.py"]
"""Modules that only read and write files of an output."""

MODULES = [
    path.relative_to(ROOT).as_posix()
    for package in ("pipeline", "flows")
    for path in sorted((ROOT / package).rglob("*.py"))
]


def _find_uses(name: str, methods: set[str]) -> set[str]:
    """Return the forbidden imports, functions and methods that a module uses."""
    uses: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            uses |= {alias.name for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            uses |= imported & FORBIDDEN_MODULES
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in FORBIDDEN_FUNCTIONS.get(owner, set()):
                uses.add(f"{owner}.{node.attr}")
            elif node.attr in methods:
                uses.add(node.attr)
    return uses


@pytest.mark.parametrize("name", sorted(set(MODULES) - STORE_MODULES - WRITES_ELSEWHERE.keys()))
def test_only_the_store_writes_files(name):
    assert _find_uses(name, WRITING_METHODS) == set()


@pytest.mark.parametrize("name", sorted(set(OUTPUT_MODULES) - STORE_MODULES))
def test_outputs_are_read_through_the_store(name):
    uses = _find_uses(name, WRITING_METHODS | READING_METHODS)
    if name == "pipeline/storage/cog.py":
        uses -= {"pipeline.runtime.atomic_files", "stat"}
    assert uses == set()


@pytest.mark.parametrize("name", sorted(WRITES_ELSEWHERE))
def test_every_exemption_is_needed(name):
    assert _find_uses(name, WRITING_METHODS)


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("import tempfile", "tempfile"),
        ("from pipeline.runtime import atomic_files", "pipeline.runtime.atomic_files"),
        ("import os\nos.replace('a', 'b')", "os.replace"),
        ("path.write_text('')", "write_text"),
        ("with lock.acquire(folder):\n    pass", "lock.acquire"),
    ],
)
def test_the_search_detects_forbidden_uses(tmp_path, source, use):
    (tmp_path / "module.py").write_text(source)
    assert _find_uses(str(tmp_path / "module.py"), WRITING_METHODS) == {use}
