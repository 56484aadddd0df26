"""The manifests: what the operator of dask-kubernetes takes, and commands that really start."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import distributed
import kubernetes_validate
import pytest
import yaml

from tests import simulated

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
SPECS = {
    "DaskCluster": ({"scheduler", "worker"}, {"idleTimeout"}),
    "DaskWorkerGroup": ({"cluster", "worker"}, set()),
    "DaskAutoscaler": ({"cluster", "minimum", "maximum"}, set()),
}
"""Keys of a spec that must stand there, and others that may: the operator's own definitions."""

NOT_RESOURCES = {"kustomization.yaml"}
LATEST = "1.34"
"""Version of Kubernetes whose schemas are asked."""


def _files():
    found = [*FOLDER.glob("*.yaml"), *FOLDER.glob("overlays/*/*.yaml")]
    return [path for path in sorted(found) if path.name not in NOT_RESOURCES]


def _documents():
    return [one for path in _files() for one in yaml.safe_load_all(path.read_text())]


def _named(kind):
    return [one for one in _documents() if one["kind"] == kind]


def _pods():
    """Yield (name, the pod's spec) of everything that runs."""
    for one in _named("DaskCluster"):
        yield "scheduler", one["spec"]["scheduler"]["spec"]
        yield "dask", one["spec"]["worker"]["spec"]
    for one in _named("DaskWorkerGroup"):
        yield "gpu", one["spec"]["worker"]["spec"]
    for one in [*_named("Deployment"), *_named("StatefulSet")]:
        name = one["metadata"]["name"].removeprefix("terramosaic-")
        yield name, one["spec"]["template"]["spec"]


PODS = dict(_pods())
OURS = [name for name in PODS if name != "database"]


@pytest.mark.parametrize("kind", SPECS)
def test_a_kind_of_dask_has_the_fields_that_the_operator_knows(kind):
    wanted, allowed = SPECS[kind]
    documents = _named(kind)
    assert documents
    for one in documents:
        assert one["apiVersion"] == "kubernetes.dask.org/v1"
        assert wanted <= set(one["spec"]) <= wanted | allowed
        if "worker" in wanted:
            assert set(one["spec"]["worker"]) == {"replicas", "spec"}
        if kind == "DaskCluster":
            assert set(one["spec"]["scheduler"]) == {"spec", "service"}
        else:
            assert one["spec"]["cluster"] == _named("DaskCluster")[0]["metadata"]["name"]


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.name)
def test_every_document_is_what_kubernetes_takes(path):
    for one in yaml.safe_load_all(path.read_text()):
        if "dask" not in one["apiVersion"]:
            kubernetes_validate.validate(one, LATEST, strict=True)
            continue
        for name, spec in _pods():
            if name in {"scheduler", "dask", "gpu"}:
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
                kubernetes_validate.validate(pod, LATEST, strict=True)


def test_a_wrong_field_is_found():
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"x": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, LATEST, strict=True)


def test_the_base_and_the_overlay_name_every_file():
    base = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert sorted(base["resources"]) == [
        path.name for path in sorted(FOLDER.glob("*.yaml")) if path.name not in NOT_RESOURCES
    ]
    overlay = FOLDER / "overlays" / "gpu"
    named = yaml.safe_load((overlay / "kustomization.yaml").read_text())["resources"]
    assert all((overlay / one).exists() for one in named)
    (secret,) = base["secretGenerator"]
    example = (FOLDER / "secrets.example.env").read_text()
    keys = {line.partition("=")[0] for line in example.splitlines() if line[0] != "#"}
    wanted = {
        one["valueFrom"]["secretKeyRef"]["key"]
        for spec in PODS.values()
        for one in spec["containers"][0]["env"]
        if "valueFrom" in one
    }
    assert wanted == keys
    assert secret["name"] == "terramosaic"
    (config,) = base["configMapGenerator"]
    assert all((FOLDER / one.partition("=")[2]).is_file() for one in config["files"])


def test_services_lead_to_what_listens():
    (cluster,) = _named("DaskCluster")
    name, service = cluster["metadata"]["name"], cluster["spec"]["scheduler"]["service"]
    assert service["type"] == "ClusterIP"
    assert service["selector"] == {
        "dask.org/cluster-name": name,
        "dask.org/component": "scheduler",
    }
    (container,) = PODS["scheduler"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert {one["targetPort"]: one["port"] for one in service["ports"]} == ports
    job = yaml.safe_load((FOLDER / "jobs" / "jutland.yaml").read_text())
    assert job["execution"]["engine"] == f"tcp://{name}-scheduler:{ports['tcp-comm']}"
    # ^ the operator names the service so
    for one in _named("Service"):
        kind = one["metadata"]["name"].removeprefix("terramosaic-")
        listening = {port["name"] for port in PODS[kind]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in one["spec"]["ports"]} == listening


def test_nobody_is_let_in_but_by_name():
    policies = {one["metadata"]["name"]: one["spec"] for one in _named("NetworkPolicy")}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", ()):
            assert rule["from"], name
            # ^ an empty rule lets everybody in


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_locked_up_and_have_what_they_mount(pod):
    spec = PODS[pod]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    volumes = {one["name"]: one for one in spec["volumes"]}
    claims = {one["metadata"]["name"] for one in _named("PersistentVolumeClaim")}
    for one in volumes.values():
        claim = one.get("persistentVolumeClaim")
        assert claim is None or claim["claimName"] in claims
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"] == container["resources"]["limits"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert set(mounts) - {"data"} <= set(volumes)
    assert mounts["tmp"] == "/tmp"


@pytest.mark.parametrize("pod", OURS)
def test_what_a_pod_writes_has_a_place(pod):
    (container,) = PODS[pod]["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    env = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    writable = [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")]
    assert env["HOME"] in writable
    for name in ("PREFECT_HOME", "TERRAMOSAIC_HOME", "HF_HUB_CACHE", "DASK_TEMPORARY_DIRECTORY"):
        assert name not in env or env[name].startswith(tuple(mounts.values()))
    if pod in {"dask", "gpu", "worker"}:
        assert mounts["products"] == "/products"
        assert env["TERRAMOSAIC_HOME"] == mounts["weights"]
    if "readinessProbe" in container:
        probe = container["readinessProbe"]["httpGet"]
        assert probe["path"] in {"/health", "/api/health"}
        assert probe["port"] in {one["name"] for one in container["ports"]}


def test_the_autoscaler_grows_as_far_as_the_job_asks():
    job = yaml.safe_load((FOLDER / "jobs" / "jutland.yaml").read_text())
    assert job["execution"]["workers"]["max"] == _named("DaskAutoscaler")[0]["spec"]["maximum"]


def _args(pod, **names):
    """Return the command of a pod with ports of this machine."""
    told = PODS[pod]["containers"][0]["args"]
    program = str(Path(sys.executable).with_name(told[0]))
    text = "\n".join([program, *told[1:]])
    for name, value in names.items():
        text = text.replace(name, value)
    return text.split("\n")


@contextlib.contextmanager
def _started(args, **env):
    with subprocess.Popen(
        args, env=os.environ | env, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _heard(process, pattern):
    """Return what a process says of where it listens."""
    for line in process.stderr:
        found = re.search(pattern, line)
        if found:
            return found[1]
    raise AssertionError("the process ended")


def test_the_commands_start_a_scheduler_and_workers_that_are_well(tmp_path):
    scheduler = _args("scheduler", **{"8786": "0", ":8787": "127.0.0.1:0"})
    with _started([*scheduler, "--host", "127.0.0.1"]) as process:
        address = _heard(process, r"Scheduler at:\s+(tcp://\S+)")
        port = int(_heard(process, r"(?:dashboard at|http at):\s+\S*:(\d+)"))
        with simulated.pulse(port) as told:
            time.sleep(0.3)
        assert told.seconds
        assert not told.failures
        names = {"$(DASK_WORKER_NAME)": "gpu-1", ":8788": "127.0.0.1:0"}
        worker = [*_args("gpu", **names), "--host", "127.0.0.1"]
        with (
            _started(
                worker, DASK_SCHEDULER_ADDRESS=address, DASK_TEMPORARY_DIRECTORY=str(tmp_path)
            ),
            distributed.Client(address, timeout="30s", set_as_default=False) as client,
        ):
            client.wait_for_workers(1, timeout=60)
            (found,) = client.scheduler_info()["workers"].values()
            assert (found["nthreads"], found["resources"]) == (2, {"GPU": 1.0})
            health = f"http://127.0.0.1:{found['services']['dashboard']}/health"
            assert urllib.request.urlopen(health, timeout=10).read() == b"ok"
