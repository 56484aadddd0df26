"""Commands in configurations and pages are parsed by their programs, without running them."""

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
RUN_ID = "5f0c4b0e-7a4c-4c0b-9f5e-3f1a0e0b8b7a"


def _parse_click(command, arguments, parent=None):
    """Parse arguments as a click command would, and return its parameters."""
    context = command.make_context(command.name, list(arguments), parent=parent)
    if not isinstance(command, click.Group):
        return context.params
    remaining = [*context._protected_args, *context.args]
    if not remaining:
        return context.params
    _, subcommand, remaining = command.resolve_command(context, remaining)
    return _parse_click(subcommand, remaining, context)


def _parse(command_line):
    """Return the parameters that a program parses from a command line.

    Raises:
        click.ClickException: terramosaic or dask would refuse them.
        cyclopts.CycloptsError: Prefect would.
    """
    program, *arguments = command_line
    if program == "terramosaic":
        return _parse_click(terramosaic, arguments)
    if program == "dask":
        return _parse_click(DASK[arguments[0]], arguments[1:])
    from prefect.cli._app import _app

    # ^ takes seconds to import
    arguments = [RUN_ID if argument == "ID" else argument for argument in arguments]
    _, bound, _ = _app.parse_args(arguments, print_error=False, exit_on_error=False)
    return dict(bound.arguments)


COMMANDS = commands()


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: f"{command.where}: {' '.join(command.words)}"
)
def test_a_command_is_parsed_by_its_program(command):
    try:
        _parse(command.words)
    except click.MissingParameter:
        assert command.mentioned


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
def test_an_invalid_command_is_refused(line):
    with pytest.raises((click.ClickException, cyclopts.CycloptsError)):
        _parse(line.split())


def test_commands_are_found_in_every_file():
    files = {command.where for command in COMMANDS}
    assert {f"pod:{name}" for name in PODS} - {"pod:database"} <= files
    assert {path.name for path in UNITS} <= files
    own_services = {
        name for name, service in SERVICES.items() if service["image"].startswith("terramosaic")
    }
    assert {f"compose:{name}" for name in own_services} <= files
    assert {"deploy/README.md", "deploy/upgrade.md", "docs/operate.md"} <= files


def test_parameters_of_runs_on_pages_exist():
    runs = [
        command.words
        for command in COMMANDS
        if command.words[:3] == ("prefect", "deployment", "run")
    ]
    assert runs
    for arguments in runs:
        name = arguments[3].partition("/")[0]
        flow = getattr(importlib.import_module(f"flows.orchestration.{name}_flow"), name)
        parameters = {
            arguments[index + 1].partition("=")[0]
            for index, argument in enumerate(arguments)
            if argument == "-p"
        }
        assert parameters <= set(flow.parameters.properties)


def test_work_pools_of_deployed_jobs_have_workers():
    for prefix in ("compose", "pod"):
        workers = {
            _parse(command.words)["work_pool_name"]
            for command in COMMANDS
            if command.where.startswith(prefix)
            and "worker" in command.words[:2]
            and "--pool" in command.words
        }
        assert workers == {"terramosaic", "terramosaic-gpu"}
    assert {
        _parse(command.words)["pool"]
        for command in COMMANDS
        if command.words[:2] == ("terramosaic", "deploy")
        if not command.mentioned or "--pool" in command.words
    } == {"terramosaic", "terramosaic-gpu"}


def _find_variables(prefix):
    """Yield (file, name) of every variable in a configuration or on a page."""
    texts = [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.service"), DEPLOY / "Dockerfile"]
    for path in [*texts, *PAGES]:
        for name in re.findall(rf"\b{prefix}_[A-Z][A-Z0-9_]+\b", path.read_text()):
            yield path.name, name


def test_variables_of_prefect_are_settings_of_prefect():
    logging = Path(prefect.__file__).parent / "logging" / "logging.yml"
    setting_names = set(_get_valid_setting_names(Settings))
    setting_names |= {
        f"PREFECT_LOGGING_{section}_{key}".upper()
        for section, values in yaml.safe_load(logging.read_text()).items()
        if isinstance(values, dict)
        for key in values
    }
    # ^ every key of that file can be set by a variable as well
    assert "PREFECT_SERVER_API_AUTH_STRING" in setting_names
    variables = set(_find_variables("PREFECT"))
    assert len(variables) > 20
    for file, name in variables - {("compose.yaml", "PREFECT_AUTH")}:
        assert name in setting_names, file


def test_variables_of_terramosaic_are_read():
    product, tests = (
        "".join(path.read_text() for name in folders for path in (ROOT / name).rglob("*.py"))
        for folders in (("model", "flows"), ("tests",))
    )
    for file, name in set(_find_variables("TERRAMOSAIC")):
        assert name in (tests if file == "testing.md" else product), file


def test_prefect_yaml_names_existing_flows():
    configuration = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    for deployment in configuration["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
        assert set(flow.parameters.required) <= set(deployment["parameters"])
        assert deployment["work_pool"]["job_variables"]["stream_output"] is False


def test_every_server_configuration_sets_leases_and_retention():
    leases = "prefect.server.concurrency.lease_storage.filesystem"
    importlib.import_module(leases)
    expected = {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": leases,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    pod = {
        variable["name"]: variable.get("value")
        for variable in PODS["server"].spec["containers"][0]["env"]
    }
    unit = dict(re.findall(r"^Environment=(\w+)=(.+)$", UNITS[0].read_text(), re.MULTILINE))
    for environment in (COMPOSE["services"]["server"]["environment"], pod, unit):
        assert expected.items() <= environment.items()
    assert leases in (ROOT / "docs" / "operate.md").read_text()


def test_workers_retry_while_a_server_is_down():
    for name in ("worker", "gpu"):
        assert SERVICES[name]["environment"]["PREFECT_CLIENT_MAX_RETRIES"] == "7"
    for name in ("worker", "gpu-worker"):
        env = {
            variable["name"]: variable.get("value")
            for variable in PODS[name].spec["containers"][0]["env"]
        }
        assert env["PREFECT_CLIENT_MAX_RETRIES"] == "7"
