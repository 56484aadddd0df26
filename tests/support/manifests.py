"""Content of deploy/ and of the documentation: manifests, compose services, units, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
IMAGE = DEPLOY / "Dockerfile"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
JOBS = [*sorted(DEPLOY.glob("jobs/*.yaml")), *sorted(KUBERNETES.rglob("jobs/*.yaml"))]
PAGES = [ROOT / "README.md", *sorted(DEPLOY.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"terramosaic", "prefect", "dask"}
FILES = [
    path
    for path in sorted(KUBERNETES.rglob("*.yaml"))
    if path not in JOBS and path.name != "kustomization.yaml"
]


class Command(NamedTuple):
    """A command line in a configuration or on a page."""

    where: str
    words: tuple[str, ...]
    environment: Mapping[str, Any] = {}
    own: bool = True
    """Whether it runs on the user's machine, not in a container or a pod."""

    mentioned: bool = False
    """Whether it is part of a sentence, where arguments may be omitted."""


def named(kind: str) -> list[dict[str, Any]]:
    """Return the documents of a kind in the base and the overlays."""
    return [
        document
        for path in FILES
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == kind
    ]


class Pod(NamedTuple):
    """Pod template of a workload."""

    spec: dict[str, Any]
    labels: Mapping[str, str]


def _pods() -> Iterator[tuple[str, Pod]]:
    (cluster,) = named("DaskCluster")
    label = {"dask.org/cluster-name": cluster["metadata"]["name"]}
    scheduler, worker = (
        label | {"dask.org/component": component} for component in ("scheduler", "worker")
    )
    # ^ labels set by the operator
    yield "scheduler", Pod(cluster["spec"]["scheduler"]["spec"], scheduler)
    yield "dask", Pod(cluster["spec"]["worker"]["spec"], worker)
    for group in named("DaskWorkerGroup"):
        yield "gpu", Pod(group["spec"]["worker"]["spec"], worker)
    for workload in [*named("Deployment"), *named("StatefulSet")]:
        template = workload["spec"]["template"]
        name = workload["metadata"]["name"].removeprefix("terramosaic-")
        yield name, Pod(template["spec"], template["metadata"]["labels"])


PODS = dict(_pods())


def commands() -> list[Command]:
    """Return all commands of terramosaic, Prefect and dask in configurations and pages."""
    in_pages = (command for page in PAGES for command in _read_page(page))
    return [*_compose(), *_units(), *_kubernetes(), *in_pages]


def _compose() -> Iterator[Command]:
    for name, service in SERVICES.items():
        if service["image"].startswith("terramosaic"):
            environment = service.get("environment", {})
            yield Command(f"compose:{name}", tuple(service["command"]), environment, own=False)


def _units() -> Iterator[Command]:
    for path in UNITS:
        (line,) = re.findall(r"^ExecStart=(.+)$", path.read_text(), re.MULTILINE)
        program, *rest = shlex.split(line)
        yield Command(path.name, (Path(program).name, *rest))


def _kubernetes() -> Iterator[Command]:
    for name, pod in PODS.items():
        (container,) = pod.spec["containers"]
        if container["image"].startswith("terramosaic"):
            environment = {
                variable["name"]: variable.get("valueFrom", variable.get("value"))
                for variable in container["env"]
            }
            yield Command(f"pod:{name}", tuple(container["args"]), environment, own=False)


def _read_page(page: Path) -> Iterator[Command]:
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`((?:terramosaic|prefect|dask|docker|kubectl) [^`]+)`", text)
    where = str(page.relative_to(ROOT))
    for line in lines:
        yield from _find_commands(where, line)
    for line in inline:
        for command in _find_commands(where, line.replace("\n", " ")):
            yield command._replace(mentioned=True)


def _find_commands(where: str, line: str) -> Iterator[Command]:
    """Yield the commands in a shell line, also behind sudo, docker and kubectl."""
    for words in _split_commands(line):
        for number, word in enumerate(words):
            if " " in word:
                yield from _find_commands(where, word)
                # ^ a command line that is an argument of another shell
            elif (
                Path(word).name in PROGRAMS
                and _starts_command(words[:number])
                and words[number + 1 :]
            ):
                own = "exec" not in words[:number]
                yield Command(where, (Path(word).name, *words[number + 1 :]), own=own)
                break


def _starts_command(before: list[str]) -> bool:
    """Return whether a command starts after these words."""
    is_wrapped = before[-1:] and before[-1] in {"sudo", "nohup", "until", "--"}
    return not before or bool(is_wrapped) or before[-2:-1] == ["exec"]
    # ^ `docker compose exec SERVICE`


def _split_commands(line: str) -> Iterator[list[str]]:
    """Split a line into the words of each of its commands, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return
        # ^ a line of a here document
    command: list[str] = []
    while words:
        word = words.pop(0)
        if set(word) <= set(";&|"):
            yield command
            command = []
        elif set(word) <= set("<>&"):
            command = command[:-1] if command[-1:] in (["1"], ["2"]) else command
            del words[:1]
        else:
            command.append(word)
    yield command
