"""The image, compose, units, secrets and example jobs: small, pinned, locked up, and true."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import check_jsonschema
import jsonschema
import pytest

from flows.config import job as jobs
from tests.support.manifests import (
    COMPOSE,
    DEPLOY,
    IMAGE,
    JOBS,
    KUBERNETES,
    PODS,
    ROOT,
    SERVICES,
    UNITS,
)

HADOLINT = Path(sys.executable).with_name("hadolint")
VERSION = importlib.metadata.version("terramosaic")


def _instructions(path):
    """Return (word, rest) of a Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_small_pinned_and_without_privileges():
    told = _instructions(IMAGE)
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


def _linted(text):
    """Return what hadolint says of a Dockerfile."""
    done = subprocess.run(
        [HADOLINT, "--no-color", "--failure-threshold", "style", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) == (not done.stdout), done.stderr
    return done.stdout


def test_hadolint_finds_nothing():
    assert _linted(IMAGE.read_text()) == ""


def test_hadolint_finds_a_bad_instruction():
    assert "DL3006" in _linted("FROM python\nUSER 1:1\n")


def test_builds_of_the_page_set_arguments_of_the_image():
    """The image for GPUs differs from the one for CPUs by build arguments alone."""
    defaults = dict(
        rest.partition("=")[::2] for word, rest in _instructions(IMAGE) if word == "ARG"
    )
    documented = " ".join(README.replace("\\\n", " ").split())
    builds = re.findall(r"docker build (.*?)-t terramosaic:([\w.-]+)", documented)
    arguments = {
        tag: dict(re.findall(r"--build-arg (\w+)=(\S+)", options)) for options, tag in builds
    }
    assert arguments.keys() == {VERSION, f"{VERSION}-cuda"}
    assert not arguments[VERSION]
    gpu = arguments[f"{VERSION}-cuda"]
    assert gpu.keys() <= defaults.keys()
    assert re.fullmatch(r"https://download\.pytorch\.org/whl/cu\d+", gpu["TORCH_INDEX"])
    assert gpu["EXTRAS"] == f"{defaults['EXTRAS']},gpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(gpu["EXTRAS"].split(",")) <= project["optional-dependencies"].keys()
    comment = " ".join(IMAGE.read_text().replace("\\\n#", " ").split())
    assert all(f"--build-arg {name}={value}" in comment for name, value in gpu.items())


def test_new_volumes_belong_to_the_user_of_the_image():
    """A volume that is new takes its owner from the folder of the image that it covers."""
    covered = {
        volume.split(":")[1]
        for service in SERVICES.values()
        if service["image"].startswith("terramosaic")
        for volume in service.get("volumes", ())
        if volume.partition(":")[0] in COMPOSE["volumes"]
    }
    assert len(covered) == 4
    (line,) = [rest for word, rest in _instructions(IMAGE) if "install -d" in rest]
    owned = line.partition("install -d -o 10001 -g 10001 ")[2].split()
    assert set(owned) == covered


def test_what_is_sent_to_the_builder_is_what_the_image_copies():
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    copied = {
        source
        for word, rest in _instructions(IMAGE)
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
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["logging"] == {"driver": "local"}
    waited = {one for one in service.get("depends_on", ()) if "healthcheck" not in SERVICES[one]}
    assert not waited
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        assert source in COMPOSE["volumes"] or (DEPLOY / source).is_dir()
    for network in service["networks"]:
        assert network in COMPOSE["networks"]
    for key, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|AUTH_STRING|CONNECTION_URL", key):
            assert re.search(r"\$\{\w+:\?", value), key
            # ^ no default: who has not written it is told so


def _made(folder, example, secrets):
    """Make a file of secrets of its example, as the page says; return its lines."""
    (line,) = re.findall(rf"^(sed .* {re.escape(example.name)} > \S+)$", README, re.MULTILINE)
    (folder / example.name).write_text(example.read_text())
    fake = folder / "openssl"
    fake.write_text("#!/bin/sh\n[ $1 = rand ] && echo 5ec2e75ec2e7\n")
    fake.chmod(0o755)
    path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", line], cwd=folder, env=os.environ | path, check=True, timeout=60)
    text = (folder / secrets).read_text()
    return dict(one.split("=", 1) for one in text.splitlines() if one[0] != "#")


README = (DEPLOY / "README.md").read_text()


def test_secrets_of_compose_are_made_as_the_page_says(tmp_path):
    text = (DEPLOY / "compose.yaml").read_text()
    example = DEPLOY / "compose.example.env"
    asked = set(re.findall(r"\$\{(\w+):\?", text)) - {"AWS_SECRET_ACCESS_KEY"}
    assert asked == set(re.findall(r"^(\w+)=$", example.read_text(), re.MULTILINE))
    # ^ copied as it is, compose refuses it
    made = _made(tmp_path, example, ".env")
    assert made["PREFECT_AUTH"] == "operator:5ec2e75ec2e7"
    assert made["POSTGRES_PASSWORD"] == "5ec2e75ec2e7"
    assert set(made) - asked == set(re.findall(r"\$\{(\w+):-", text))


def test_the_secret_of_the_store_is_made_as_the_page_says(tmp_path):
    made = _made(tmp_path, DEPLOY / "store.example.env", "store.env")
    assert made["AWS_SECRET_ACCESS_KEY"] == "5ec2e75ec2e7"
    host, port = made["AWS_S3_ENDPOINT"].split(":")
    assert any(one.endswith(f":{port}") for one in SERVICES[host]["ports"])
    assert SERVICES[host]["env_file"] == ["store.env"]
    for name in ("worker", "gpu", "cpu"):
        assert SERVICES[name]["env_file"] == [{"path": "store.env", "required": False}]


def test_secrets_of_kubernetes_are_made_as_the_page_says(tmp_path):
    made = _made(tmp_path, KUBERNETES / "secrets.example.env", "secrets.env")
    assert made["auth"] == "operator:5ec2e75ec2e7"
    assert f"prefect:{made['database-password']}@" in made["database-url"]
    wanted = {
        one["valueFrom"]["secretKeyRef"]["key"]
        for pod in PODS.values()
        for one in pod.spec["containers"][0]["env"]
        if "valueFrom" in one
    }
    assert wanted == set(made)


def test_secrets_are_not_committed_and_are_for_their_owner_alone():
    ignored = (ROOT / ".gitignore").read_text().split()
    for path in ("deploy/.env", "deploy/store.env", "deploy/kubernetes/secrets.env"):
        assert path in ignored
        assert f"chmod 600 {Path(path).name}\n" in README


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_locked_up(path):
    text = path.read_text()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=\n"):
        assert line in text
    assert re.search(r"^User=(?!root)\w+$", text, re.MULTILINE)
    (secrets,) = re.findall(r"^EnvironmentFile=(.+)$", text, re.MULTILINE)
    assert f"install -m 600 /dev/stdin {secrets}" in README


def test_a_gpu_is_not_hidden_from_the_worker():
    (worker,) = [path for path in UNITS if "worker" in path.name]
    assert not re.search(r"(?m)^(PrivateDevices|ProtectClock|DeviceAllow)=", worker.read_text())
    # ^ ProtectClock brings a list of devices with it, and NVIDIA's are not on it


def test_images_are_of_this_version():
    told = {one["image"] for one in SERVICES.values()}
    told |= {pod.spec["containers"][0]["image"] for pod in PODS.values()}
    ours = {one for one in told if one.startswith("terramosaic")}
    assert ours == {f"terramosaic:{VERSION}", f"terramosaic:{VERSION}-cuda"}
    assert set(re.findall(r"-t (terramosaic:[\w.-]+)", README)) == ours
    assert len({one for one in told if one.startswith("postgres")}) == 1


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


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_an_example_is_a_job(path):
    job = jobs.load(path)
    assert job.period is None
    assert job.schedule.since is not None
    assert job.geometry.area > 0
    if KUBERNETES in path.parents:
        assert job.output.path == "/products"
        assert job.execution.engine == "tcp://terramosaic-scheduler:8786"
    else:
        assert Path(job.output.path) == DEPLOY / "products"
        # ^ beside the folder of jobs, wherever that lies: /products where it is /jobs


def test_a_job_says_how_it_is_spread_over_the_workers_of_compose(tmp_path):
    text = (DEPLOY / "jobs" / "jutland.yaml").read_text()
    (line,) = re.findall(r"^# (execution: \{.*\})", text, re.MULTILINE)
    spread = re.sub(r"(?m)^execution: .*$", line, text).replace(
        "../regions", str(DEPLOY / "regions")
    )
    path = tmp_path / "jutland.yaml"
    path.write_text(spread)
    name, port = jobs.load(path).execution.engine.removeprefix("tcp://").split(":")
    assert SERVICES[name]["command"][:2] == ["dask", "scheduler"]
    assert port in SERVICES[name]["command"]
