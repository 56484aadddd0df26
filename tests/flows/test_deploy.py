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

from tests.support import simulated_tiles
from tests.support.manifests import FILES, KUBERNETES, PODS, ROOT, named

SPECS = {
    "DaskCluster": ({"scheduler", "worker"}, {"idleTimeout"}),
    "DaskWorkerGroup": ({"cluster", "worker"}, set()),
    "DaskAutoscaler": ({"cluster", "minimum", "maximum"}, set()),
}
"""Keys of a spec that must stand there, and others that may: the operator's own definitions."""

LATEST = "1.34"
"""Version of Kubernetes whose schemas are asked."""

OURS = [name for name in PODS if name != "database"]


@pytest.mark.parametrize("kind", SPECS)
def test_a_kind_of_dask_has_the_fields_that_the_operator_knows(kind):
    wanted, allowed = SPECS[kind]
    documents = named(kind)
    assert documents
    for one in documents:
        assert one["apiVersion"] == "kubernetes.dask.org/v1"
        assert wanted <= set(one["spec"]) <= wanted | allowed
        if "worker" in wanted:
            assert set(one["spec"]["worker"]) == {"replicas", "spec"}
        if kind == "DaskCluster":
            assert set(one["spec"]["scheduler"]) == {"spec", "service"}
        else:
            assert one["spec"]["cluster"] == named("DaskCluster")[0]["metadata"]["name"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_document_is_what_kubernetes_takes(path):
    for one in yaml.safe_load_all(path.read_text()):
        if "dask" not in one["apiVersion"]:
            kubernetes_validate.validate(one, LATEST, strict=True)


@pytest.mark.parametrize("name", ["scheduler", "dask", "gpu"])
def test_what_dask_s_operator_is_given_are_pods(name):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": PODS[name].spec}
    kubernetes_validate.validate(pod, LATEST, strict=True)
    service = named("DaskCluster")[0]["spec"]["scheduler"]["service"]
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service}
    kubernetes_validate.validate(document, LATEST, strict=True)


def test_a_wrong_field_is_found():
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"x": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, LATEST, strict=True)


def test_the_base_and_the_overlay_name_every_file():
    for folder in (KUBERNETES, KUBERNETES / "overlays" / "gpu"):
        told = yaml.safe_load((folder / "kustomization.yaml").read_text())
        assert told["namespace"] == "terramosaic"
        files = [one for one in told["resources"] if one != "../.."]
        assert sorted(files) == sorted(path.name for path in FILES if path.parent == folder)
        (config,) = told["configMapGenerator"]
        assert config["name"] == "terramosaic-jobs"
        jobs = {one.partition("=")[2] for one in config["files"]}
        assert jobs == {str(path.relative_to(folder)) for path in (folder / "jobs").iterdir()}
    (secret,) = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["secretGenerator"]
    assert secret == {"name": "terramosaic", "envs": ["secrets.env"]}


def test_a_name_is_given_once():
    kinds = {one["kind"] for path in FILES for one in yaml.safe_load_all(path.read_text())}
    for kind in kinds:
        names = [one["metadata"]["name"] for one in named(kind)]
        assert len(names) == len(set(names)), kind


def test_a_deployment_selects_its_own_pods_alone():
    for one in [*named("Deployment"), *named("StatefulSet")]:
        selector = one["spec"]["selector"]["matchLabels"].items()
        name = one["metadata"]["name"].removeprefix("terramosaic-")
        assert [pod for pod in PODS if selector <= PODS[pod].labels.items()] == [name]


def test_nodes_are_not_drained_from_under_what_runs():
    held = [
        pod
        for one in named("PodDisruptionBudget")
        for pod in PODS
        if one["spec"]["selector"]["matchLabels"].items() <= PODS[pod].labels.items()
    ]
    assert sorted(held) == ["gpu-worker", "scheduler", "worker"]


def test_services_lead_to_what_listens():
    (cluster,) = named("DaskCluster")
    name, service = cluster["metadata"]["name"], cluster["spec"]["scheduler"]["service"]
    assert service["type"] == "ClusterIP"
    assert service["selector"] == {
        "dask.org/cluster-name": name,
        "dask.org/component": "scheduler",
    }
    (container,) = PODS["scheduler"].spec["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert {one["targetPort"]: one["port"] for one in service["ports"]} == ports
    job = yaml.safe_load((KUBERNETES / "jobs" / "jutland.yaml").read_text())
    assert job["execution"]["engine"] == f"tcp://{name}-scheduler:{ports['tcp-comm']}"
    # ^ the operator names the service so
    for one in named("Service"):
        kind = one["metadata"]["name"].removeprefix("terramosaic-")
        listening = {port["name"] for port in PODS[kind].spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in one["spec"]["ports"]} == listening


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_locked_up_and_have_what_they_mount(pod):
    spec = PODS[pod].spec
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {one["name"]: one for one in spec["volumes"]}
    claims = {one["metadata"]["name"] for one in named("PersistentVolumeClaim")}
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
    (container,) = PODS[pod].spec["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    env = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    writable = [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")]
    assert env["HOME"] in writable
    for name in ("PREFECT_HOME", "TERRAMOSAIC_HOME", "HF_HUB_CACHE", "DASK_TEMPORARY_DIRECTORY"):
        assert name not in env or env[name].startswith(tuple(mounts.values()))
    if pod in {"dask", "gpu", "worker", "gpu-worker"}:
        assert mounts["products"] == "/products"
        assert env["TERRAMOSAIC_HOME"] == mounts["weights"]
    if pod in {"gpu", "gpu-worker"}:
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["image"].endswith("-cuda")
        assert PODS[pod].spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    if pod in {"worker", "gpu-worker"}:
        assert "--with-healthcheck" in container["args"]
        assert ":8080/health" in container["readinessProbe"]["exec"]["command"][-1]
    probe = container.get("readinessProbe", {}).get("httpGet")
    if probe:
        assert probe["path"] in {"/health", "/api/health"}
        assert probe["port"] in {one["name"] for one in container["ports"]}


def test_the_autoscaler_grows_as_far_as_the_job_asks():
    job = yaml.safe_load((KUBERNETES / "jobs" / "jutland.yaml").read_text())
    assert job["execution"]["workers"]["max"] == named("DaskAutoscaler")[0]["spec"]["maximum"]


def _args(pod, **names):
    """Return the command of a pod with ports of this machine."""
    told = PODS[pod].spec["containers"][0]["args"]
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
        with simulated_tiles.poll_health(port) as told:
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
