"""Images, compose, units and examples: what they may do, whom they let in, and words that exist."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import check_jsonschema
import jsonschema
import pytest
import yaml

from flows import job as jobs

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
IMAGES = sorted(DEPLOY.glob("Dockerfile*"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
JOBS = [*sorted((DEPLOY / "jobs").glob("*.yaml")), *(DEPLOY / "kubernetes" / "jobs").glob("*.yaml")]
VERSION = importlib.metadata.version("terramosaic")


def _instructions(path):
    """Return (word, rest) of a Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_is_small_pinned_and_nobody_special(path):
    told = _instructions(path)
    words = [word for word, _ in told]
    assert words.count("FROM") == 2
    assert "ADD" not in words
    (base,) = [rest for word, rest in told if word == "ARG" and rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm", base)
    last = max(number for number, word in enumerate(words) if word == "FROM")
    (user,) = [rest for word, rest in told[last:] if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert words.index("USER") > max(n for n, word in enumerate(words) if word == "RUN")
    for word, rest in told:
        assert "latest" not in rest.lower()
        assert "sudo" not in rest
        if word in {"ENV", "ARG"}:
            assert not re.search(r"(?i)password|secret|auth_string|token", rest)
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if word == "RUN" and "pip install" in rest:
            assert "-c constraints.txt" in rest
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
    runtime = " ".join(rest for _, rest in told[last:])
    assert "pip" not in runtime.replace("PIP_", "")
    (label,) = [rest for word, rest in told if word == "LABEL"]
    assert f'version="{VERSION}' in label


def test_what_is_sent_to_the_builder_is_what_the_images_copy():
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for path in IMAGES:
        copied = {
            source
            for word, rest in _instructions(path)
            if word == "COPY" and "--from" not in rest
            for source in rest.split()[:-1]
        }
        assert copied == kept


def test_compose_is_what_its_schema_takes():
    vendor = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((vendor / "compose-spec.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind(schema).validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError):
        kind(schema).validate(COMPOSE | {"services": {"a": {"imagee": "b"}}})


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_locked_up(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert re.fullmatch(r".+:[^:]*\d[^:]*", service["image"])
    assert "mem_limit" in service
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        assert source in COMPOSE["volumes"] or (DEPLOY / source).is_dir()
    for key, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|AUTH_STRING|CONNECTION_URL", key):
            assert re.search(r"\$\{\w+:\?", value), key
            # ^ no default: who has not written it is told so


def test_secrets_have_an_example_and_are_not_committed():
    text = (DEPLOY / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    example = (DEPLOY / "compose.example.env").read_text()
    assert asked == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"deploy/.env", "deploy/s3.json", "deploy/kubernetes/secrets.env"} <= set(ignored)


def _commands():
    """Yield (where, words) of every command that a configuration starts."""
    for name, service in SERVICES.items():
        if "command" in service and service["image"].startswith("terramosaic"):
            yield f"compose {name}", service["command"]
    for path in UNITS:
        (line,) = re.findall(r"^ExecStart=(.+)$", path.read_text(), re.MULTILINE)
        words = shlex.split(line)
        yield path.name, [Path(words[0]).name, *words[1:]]
    for path in (DEPLOY / "kubernetes").rglob("*.yaml"):
        for words in re.findall(r"args: (\[.+\])", path.read_text()):
            yield path.name, [str(word) for word in yaml.safe_load(words)]
    for path in (ROOT / "docs" / "operate.md", DEPLOY / "README.md", ROOT / "README.md"):
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] in {"terramosaic", "prefect", "dask"}:
                    yield path.name, words


COMMANDS = list(_commands())


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=lambda one: str(one)[:40])
def test_a_command_has_the_options_that_it_is_given(where, words):
    """Ask each program for help on the verb, and look for every option in it."""
    options = [word.partition("=")[0] for word in words if re.match(r"-+[a-zA-Z]", word)]
    if not options:
        return
    verbs = [word for word in words[1:4] if re.fullmatch(r"[a-z-]+", word) and word[0] != "-"]
    said = _help(words[0], tuple(verbs))
    for option in options:
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", said), (option, where)


_told: dict[tuple[str, tuple[str, ...]], str] = {}


def _help(program, verbs):
    """Return a program's help on the longest verb that it knows."""
    while True:
        key = (program, verbs)
        if key not in _told:
            module = {"terramosaic": "flows.cli", "prefect": "prefect"}.get(program)
            if module is None:
                module = f"distributed.cli.dask_{verbs[0]}"
            own = [] if program == "dask" else [*verbs]
            done = subprocess.run(
                [sys.executable, "-m", module, *own, "--help"],
                cwd=ROOT,
                env=os.environ | {"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            _told[key] = done.stdout if done.returncode == 0 else ""
        if _told[key] or not verbs:
            return _told[key]
        verbs = verbs[:-1]


def test_nothing_listens_beyond_loopback_without_a_password():
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        if "server" in service.get("command", ()) and "prefect" in service["command"]:
            assert "PREFECT_SERVER_API_AUTH_STRING" in service["environment"]
    published = [name for name, service in SERVICES.items() if "ports" in service]
    assert published == ["server"]
    assert COMPOSE["networks"]["cluster"] == {"internal": True}
    assert COMPOSE["networks"]["records"] == {"internal": True}
    assert SERVICES["scheduler"]["networks"] == ["cluster"]
    assert SERVICES["database"]["networks"] == ["records"]
    for where, words in COMMANDS:
        host = words[words.index("--host") + 1] if "--host" in words else None
        if words[:3] == ["prefect", "server", "start"]:
            assert host in {None, "127.0.0.1"} or where in {"compose server", "prefect.yaml"}, where
            # ^ of their containers, with a password (above, and below)
    text = (DEPLOY / "kubernetes" / "prefect.yaml").read_text()
    assert "PREFECT_SERVER_API_AUTH_STRING" in text
    for path in (DEPLOY / "kubernetes").rglob("*.yaml"):
        assert not re.search(
            r"NodePort|LoadBalancer|hostPort|hostNetwork|kind: Ingress", path.read_text()
        )
    for path in UNITS:
        assert "0.0.0.0" not in path.read_text()


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_locked_up(path):
    text = path.read_text()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=\n"):
        assert line in text
    assert re.search(r"^User=(?!root)\w+$", text, re.MULTILINE)
    assert not re.search(r"(?m)^Environment=.*(PASSWORD|AUTH_STRING)", text)


def test_leases_of_slots_outlive_a_restart_wherever_a_server_is_configured():
    kind = "prefect.server.concurrency.lease_storage.filesystem"
    importlib.import_module(kind)
    assert SERVICES["server"]["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == kind
    for path in (DEPLOY / "kubernetes" / "prefect.yaml", UNITS[0], ROOT / "docs" / "operate.md"):
        assert kind in path.read_text(), path.name


def test_versions_with_known_holes_are_not_taken():
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().lower().splitlines()
        if "==" in line and line[0] != "#"
    )
    versions = {name: [int(part) for part in pinned[name].split(".")[:3]] for name in
                ("prefect", "torch", "fastapi", "sqlalchemy")}  # fmt: skip
    assert versions["prefect"] >= [3, 6, 22]
    # ^ CVE-2026-7722, -7723 and -3514: ways around the server's password
    assert versions["torch"] >= [2, 10, 0]
    # ^ CVE-2026-24747: a pickle that is read as data only could do more
    assert versions["fastapi"] < [0, 151]
    assert versions["sqlalchemy"] < [2, 1]
    # ^ docs/dependencies.md


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parents[1].name}-{path.name}")
def test_an_example_is_a_job(path):
    job = jobs.load(path)
    assert job.period is None
    assert job.schedule.since is not None
    assert job.output.path == "/products"
    assert job.geometry.area > 0


def test_prefect_yaml_names_flows_that_are_there():
    told = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    for one in told["deployments"]:
        module, _, name = one["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert set(one["parameters"]) <= set(flow.parameters.properties)
        assert set(flow.parameters.required) <= set(one["parameters"])
        assert one["work_pool"]["job_variables"]["stream_output"] is False
