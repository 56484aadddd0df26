"""Commands of configurations and pages are ones that the programs take; nothing is run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import cyclopts
import prefect
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker
from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings

from flows.cli.main import command as terramosaic
from tests.support.manifests import COMPOSE, DEPLOY, PAGES, PODS, ROOT, SERVICES, UNITS, commands

DASK = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
STRANGER = "5f0c4b0e-7a4c-4c0b-9f5e-3f1a0e0b8b7a"


def _clicked(verb, words, parent=None):
    """Parse words as the command would, and return its parameters."""
    context = verb.make_context(verb.name, list(words), parent=parent)
    if not isinstance(verb, click.Group):
        return context.params
    rest = [*context._protected_args, *context.args]
    if not rest:
        return context.params
    _, chosen, rest = verb.resolve_command(context, rest)
    return _clicked(chosen, rest, context)


def _parse(words):
    """Return what a program makes of its words.

    Raises:
        click.ClickException: terramosaic or dask would refuse them.
        cyclopts.CycloptsError: Prefect would.
    """
    program, *rest = words
    if program == "terramosaic":
        return _clicked(terramosaic, rest)
    if program == "dask":
        return _clicked(DASK[rest[0]], rest[1:])
    from prefect.cli._app import _app

    # ^ takes seconds to import
    rest = [STRANGER if word == "ID" else word for word in rest]
    _, bound, _ = _app.parse_args(rest, print_error=False, exit_on_error=False)
    return dict(bound.arguments)


COMMANDS = commands()


@pytest.mark.parametrize("one", COMMANDS, ids=lambda one: f"{one.where}: {' '.join(one.words)}")
def test_a_command_is_one_that_its_program_takes(one):
    try:
        _parse(one.words)
    except click.MissingParameter:
        assert one.mentioned


@pytest.mark.parametrize(
    "line",
    [
        "terramosaic deploy job.yaml --pol terramosaic",
        "terramosaic deply job.yaml",
        "dask worker tcp://scheduler:8786 --threads 1",
        "prefect worker start --poool terramosaic",
        "prefect server start --port many",
        "prefect work-pool pauze terramosaic",
    ],
)
def test_a_command_that_no_longer_exists_is_found(line):
    with pytest.raises((click.ClickException, cyclopts.CycloptsError)):
        _parse(line.split())


def test_every_place_with_commands_is_looked_at():
    places = {one.where for one in COMMANDS}
    assert {f"pod:{name}" for name in PODS} - {"pod:database"} <= places
    assert {path.name for path in UNITS} <= places
    ours = {name for name, one in SERVICES.items() if one["image"].startswith("terramosaic")}
    assert {f"compose:{name}" for name in ours} <= places
    assert {"deploy/README.md", "deploy/upgrade.md", "docs/operate.md"} <= places


def test_runs_that_a_page_starts_have_such_parameters():
    found = [one.words for one in COMMANDS if one.words[:3] == ("prefect", "deployment", "run")]
    assert found
    for words in found:
        name = words[3].partition("/")[0]
        flow = getattr(importlib.import_module(f"flows.orchestration.{name}_flow"), name)
        given = {words[n + 1].partition("=")[0] for n, word in enumerate(words) if word == "-p"}
        assert given <= set(flow.parameters.properties)


def test_pools_that_jobs_are_deployed_to_have_a_worker_there():
    for kind in ("compose", "pod"):
        workers = {
            _parse(one.words)["work_pool_name"]
            for one in COMMANDS
            if one.where.startswith(kind) and "worker" in one.words[:2] and "--pool" in one.words
        }
        assert workers == {"terramosaic", "terramosaic-gpu"}
    assert {
        _parse(one.words)["pool"] for one in COMMANDS if one.words[:2] == ("terramosaic", "deploy")
        if not one.mentioned or "--pool" in one.words
    } == {"terramosaic", "terramosaic-gpu"}  # fmt: skip


def _variables(prefix):
    """Yield (file, name) of every variable that a configuration or a page names."""
    texts = [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.service"), DEPLOY / "Dockerfile"]
    for path in [*texts, *PAGES]:
        for name in re.findall(rf"\b{prefix}_[A-Z][A-Z0-9_]+\b", path.read_text()):
            yield path.name, name


def test_variables_of_prefect_are_settings_of_prefect():
    logging = Path(prefect.__file__).parent / "logging" / "logging.yml"
    known = set(_get_valid_setting_names(Settings))
    known |= {
        f"PREFECT_LOGGING_{section}_{key}".upper()
        for section, values in yaml.safe_load(logging.read_text()).items()
        if isinstance(values, dict)
        for key in values
    }
    # ^ whatever stands in that file can be said by a variable as well
    assert "PREFECT_SERVER_API_AUTH_STRING" in known
    named = set(_variables("PREFECT"))
    assert len(named) > 20
    for where, name in named - {("compose.yaml", "PREFECT_AUTH")}:
        assert name in known, where


def test_variables_of_ours_are_read():
    product, tests = (
        "".join(path.read_text() for name in folders for path in (ROOT / name).rglob("*.py"))
        for folders in (("model", "flows"), ("tests",))
    )
    for where, name in set(_variables("TERRAMOSAIC")):
        assert name in (tests if where == "testing.md" else product), where


def test_prefect_yaml_names_flows_that_are_there():
    told = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    for one in told["deployments"]:
        module, _, name = one["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert set(one["parameters"]) <= set(flow.parameters.properties)
        assert set(flow.parameters.required) <= set(one["parameters"])
        assert one["work_pool"]["job_variables"]["stream_output"] is False


def test_leases_and_retention_are_set_wherever_a_server_is_configured():
    leases = "prefect.server.concurrency.lease_storage.filesystem"
    importlib.import_module(leases)
    asked = {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": leases,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    pod = {one["name"]: one.get("value") for one in PODS["server"].spec["containers"][0]["env"]}
    unit = dict(re.findall(r"^Environment=(\w+)=(.+)$", UNITS[0].read_text(), re.MULTILINE))
    for environment in (COMPOSE["services"]["server"]["environment"], pod, unit):
        assert asked.items() <= environment.items()
    assert leases in (ROOT / "docs" / "operate.md").read_text()


def test_workers_live_as_long_as_a_server_is_away():
    for name in ("worker", "gpu"):
        assert SERVICES[name]["environment"]["PREFECT_CLIENT_MAX_RETRIES"] == "7"
    for name in ("worker", "gpu-worker"):
        env = {one["name"]: one.get("value") for one in PODS[name].spec["containers"][0]["env"]}
        assert env["PREFECT_CLIENT_MAX_RETRIES"] == "7"
