"""The house: floors, names, and what an import costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for floor in ("catalogs", "pipeline", "model", "flows")
    for path in (ROOT / floor).rglob("*.py")
)


def _imported(statement):
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_pays_for_nothing_else():
    found = _imported(
        "from flows.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "import sys"
    )
    assert not found & {"rich", "pydantic", "torch", "numpy", "xarray", "prefect", "dask", "yaml"}


def test_the_pipeline_runs_without_torch_and_prefect():
    found = _imported(
        "import pipeline.tile, pipeline.storage.cog, pipeline.product.stac_item, "
        "catalogs.search.search"
    )
    assert not found & {"torch", "prefect", "model"}


def test_verbs_that_do_not_run_pay_for_no_orchestrator():
    assert "prefect" not in _imported(
        "import flows.orchestration.launch, flows.run.search_report, flows.run.verify"
    )


def test_the_model_needs_torch_and_safetensors_alone():
    found = _imported("import model")
    assert not found & {"xarray", "rasterio", "dask", "prefect", "pystac_client", "zarr", "yaml"}


def test_file_names_say_what_is_inside():
    nameless = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in SOURCES if path.stem in nameless]
