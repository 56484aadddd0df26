"""The manifests: what the operator of dask-kubernetes takes, and commands that really start."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import distributed
import pytest
import yaml

from flows import job as jobs
from tests import simulated

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
SPECS = {
    "DaskCluster": ({"scheduler", "worker"}, {"idleTimeout"}),
    "DaskWorkerGroup": ({"cluster", "worker"}, set()),
    "DaskAutoscaler": ({"cluster", "minimum", "maximum"}, set()),
}
"""Keys of a spec that must stand there, and others that may: the operator's own definitions."""


def _documents():
    return [
        one
        for path in sorted(FOLDER.glob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text())
    ]


def _named(kind):
    return [one for one in _documents() if one["kind"] == kind]


def _pods():
    """Yield (name, the pod's spec) of everything that runs."""
    for one in _named("DaskCluster"):
        yield "scheduler", one["spec"]["scheduler"]["spec"]
        yield "worker", one["spec"]["worker"]["spec"]
    for one in _named("DaskWorkerGroup"):
        yield "gpu", one["spec"]["worker"]["spec"]
    for one in _named("Job"):
        yield "run", one["spec"]["template"]["spec"]


PODS = dict(_pods())


@pytest.mark.parametrize("kind", SPECS)
def test_a_kind_has_the_fields_that_the_operator_knows(kind):
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


def test_the_service_leads_to_the_scheduler_and_the_job_to_the_service():
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
    (job,) = _named("ConfigMap")
    written = yaml.safe_load(job["data"]["region.yaml"])
    assert written["execution"]["engine"] == f"tcp://{name}-scheduler:{ports['tcp-comm']}"
    # ^ the operator names the service so
    for one in _named("NetworkPolicy"):
        assert one["spec"]["podSelector"]["matchLabels"] == {"dask.org/cluster-name": name}


def test_the_job_is_one(tmp_path):
    (config,) = _named("ConfigMap")
    values = yaml.safe_load(config["data"]["region.yaml"])
    values["output"]["path"] = str(tmp_path)
    job = jobs.parse(values, folder=tmp_path)
    assert job.execution.most == _named("DaskAutoscaler")[0]["spec"]["maximum"]


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
    assert set(mounts) == set(volumes)
    assert mounts["tmp"] == "/tmp"
    writable = [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env["HOME"] in writable
    assert all(any(value.startswith(place) for place in mounts.values()) for value in env.values())
    if pod != "scheduler":
        assert mounts["products"] == "/products"
        assert env["TERRAMOSAIC_HOME"] == mounts["weights"]
    if "readinessProbe" in container:
        probe = container["readinessProbe"]["httpGet"]
        assert probe["path"] == "/health"
        assert probe["port"] in {one["name"] for one in container["ports"]}


def test_images_are_of_this_version_and_variables_are_read():
    version = importlib.metadata.version("terramosaic")
    images = {one["containers"][0]["image"] for one in PODS.values()}
    assert images == {f"terramosaic:{version}", f"terramosaic:{version}-cuda"}
    code = "".join(
        path.read_text() for name in ("model", "flows") for path in (ROOT / name).rglob("*.py")
    )
    told = {one["name"] for spec in PODS.values() for one in spec["containers"][0]["env"]}
    for name in told - {"HOME", "DASK_TEMPORARY_DIRECTORY", "PREFECT_HOME"}:
        assert name in code, name
    readme = (ROOT / "deploy" / "README.md").read_text()
    for path in FOLDER.glob("*.yaml"):
        assert path.name in readme


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
