"""Architecture: names of files, and what an import costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for package in ("catalogs", "pipeline", "model", "flows")
    for path in (ROOT / package).rglob("*.py")
)


def _list_imports(statement):
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(process.stdout.split())


def test_the_help_imports_nothing_slow():
    modules = _list_imports(
        "from flows.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "import sys"
    )
    assert not modules & {"rich", "pydantic", "torch", "numpy", "xarray", "prefect", "dask", "yaml"}


def test_the_pipeline_runs_without_torch_and_prefect():
    modules = _list_imports(
        "import pipeline.tile, pipeline.storage.cog, pipeline.product.stac_item, "
        "catalogs.search.search"
    )
    assert not modules & {"torch", "prefect", "model"}


def test_commands_without_flows_do_not_import_prefect():
    assert "prefect" not in _list_imports(
        "import flows.orchestration.launch, flows.run.search_report, flows.run.verify"
    )


def test_the_model_needs_torch_and_safetensors_alone():
    modules = _list_imports("import model")
    assert not modules & {"xarray", "rasterio", "dask", "prefect", "pystac_client", "zarr", "yaml"}


def test_file_names_say_what_is_inside():
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in SOURCES if path.stem in vague]


def test_every_suppressed_rule_has_its_reason():
    """After the codes, or in a comment of the next lines."""
    bare = []
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            suppressed = re.search(r"# (ruff: )?noqa: [A-Z0-9, ]+(?P<reason>.*)", line)
            following = lines[number + 1 : number + 9]
            if suppressed and not suppressed["reason"] and not any("# ^" in x for x in following):
                bare.append(f"{path.relative_to(ROOT)}:{number + 1}")
    assert bare == []


def test_tests_share_code_through_support_modules():
    importing = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"^from tests\S*( import|\.)\s*test_", path.read_text(), re.MULTILINE)
    ]
    assert importing == []
