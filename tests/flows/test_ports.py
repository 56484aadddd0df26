"""Who can reach what: no port is open beyond loopback but to those who know a secret."""

from __future__ import annotations

import copy
import re
from ipaddress import ip_address, ip_network

import pytest

from tests.support.manifests import (
    COMPOSE,
    DEPLOY,
    FILES,
    PAGES,
    PODS,
    SERVICES,
    UNITS,
    Command,
    commands,
    named,
)

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"


def _option(words, name):
    """Return what an option is given in a command; None where it is not there."""
    for number, word in enumerate(words):
        if word == name:
            return words[number + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _listening(one):
    """Yield what is wrong with where a command listens, on whatever machine it runs."""
    if one.words[:3] == ("prefect", "server", "start"):
        host = _option(one.words, "--host") or "127.0.0.1"
        if host not in LOOPBACK and not one.environment.get(PASSWORD):
            yield f"{one.where}: a server of Prefect on {host} without a password"
    own = one.environment.get("PREFECT_WORKER_WEBSERVER_HOST") in LOOPBACK
    if "--with-healthcheck" in one.words and not own:
        yield f"{one.where}: a worker of Prefect says on every address how it is"
    if one.words[0] == "dask" and one.own and not one.mentioned:
        if _option(one.words, "--host") not in LOOPBACK:
            yield f"{one.where}: dask on every address of the machine"
        if (_option(one.words, "--dashboard-address") or ":").partition(":")[0] not in LOOPBACK:
            yield f"{one.where}: dask's pages on every address of the machine"


def test_nothing_that_is_started_by_hand_or_by_a_unit_listens_beyond_loopback():
    found = commands()
    servers = [one for one in found if one.words[:3] == ("prefect", "server", "start")]
    assert {one.where for one in servers} >= {
        "compose:server",
        "pod:server",
        "deploy/README.md",
        "docs/operate.md",
        "terramosaic-server.service",
    }
    assert [wrong for one in found for wrong in _listening(one)] == []


@pytest.mark.parametrize(
    "line",
    [
        "prefect server start --host 0.0.0.0",
        "prefect server start --host=192.0.2.7 --port 4200",
        "prefect worker start --pool terramosaic --with-healthcheck",
        "dask scheduler --dashboard-address 127.0.0.1:0",
        "dask worker tcp://127.0.0.1:8786 --host 127.0.0.1",
    ],
)
def test_a_command_that_listens_to_everybody_is_found(line):
    assert list(_listening(Command("here", tuple(line.split()))))


def _published(compose):
    """Yield what is wrong with the ports and networks of compose."""
    outward = {name for name, how in compose["networks"].items() if not (how or {}).get("internal")}
    for name, service in compose["services"].items():
        networks = set(service["networks"])
        for port in service.get("ports", ()):
            host, _, _ = str(port).rpartition(":")[0].rpartition(":")
            if host not in LOOPBACK:
                yield f"{name}: {port} is open to other machines"
            if not _asks(name, service):
                yield f"{name}: {port} is published and asks for nothing"
        if service.get("network_mode"):
            yield f"{name}: has the network of {service['network_mode']}"
        command = [*service.get("command", ())]
        if command[:2] == ["dask", "scheduler"] and networks & outward:
            yield f"{name}: a scheduler in a network with a way out"
        if service["image"].startswith("postgres") and networks & outward:
            yield f"{name}: a database in a network with a way out"
        beside = [
            other
            for other, one in compose["services"].items()
            if "ports" in one and set(one["networks"]) & networks & outward
        ]
        if command[:1] == ["dask"] and beside:
            yield f"{name}: shares a network with the published {', '.join(beside)}"


def _asks(name, service):
    """Say whether a service refuses to start without a secret that it then asks for."""
    if service["image"].startswith("terramosaic"):
        return bool(re.match(r"\$\{\w+:\?", service.get("environment", {}).get(PASSWORD, "")))
    told = " ".join(service.get("entrypoint", ()))
    return bool(re.search(r"\$\$\{AWS_SECRET_ACCESS_KEY:\?", told)) and name == "store"


def test_compose_publishes_two_ports_on_loopback_that_ask_for_a_secret():
    assert list(_published(COMPOSE)) == []
    ports = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert ports == {"server": ["127.0.0.1:4200:4200"], "store": ["127.0.0.1:8333:8333"]}
    neighbours = {
        name: {other for other, one in SERVICES.items() if name in one["networks"]}
        for name in COMPOSE["networks"]
    }
    assert neighbours["database"] == {"database", "server"}
    assert neighbours["published"] == set(ports)


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("server", "ports", ["4200:4200"]),
        ("server", "ports", ["0.0.0.0:4200:4200"]),
        ("server", "environment", {}),
        ("scheduler", "ports", ["127.0.0.1:8786:8786"]),
        ("scheduler", "networks", ["dask", "internet"]),
        ("database", "ports", ["127.0.0.1:5432:5432"]),
        ("database", "networks", ["database", "internet"]),
        ("cpu", "networks", ["dask", "published"]),
        ("cpu", "network_mode", "host"),
        ("store", "entrypoint", ["weed", "server", "-s3"]),
    ],
)
def test_compose_that_opens_a_door_is_found(service, key, value):
    changed = copy.deepcopy(COMPOSE)
    changed["services"][service][key] = value
    assert list(_published(changed))


def test_units_hold_no_secret_and_listen_to_nobody_else():
    for path in UNITS:
        text = path.read_text()
        assert "0.0.0.0" not in text
        assert not re.search(r"(?m)^Environment=.*(PASSWORD|AUTH_STRING|CONNECTION_URL)", text)


def test_pages_show_no_metrics_for_everybody_but_with_a_warning():
    for path in [*PAGES, *DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.env")]:
        for line in path.read_text().splitlines():
            if re.search(r"(?<!\d)0\.0\.0\.0(?!/)", line) and "--host" not in line:
                assert "-s3.ip.bind" in line or "network policy" in line, f"{path.name}: {line}"
                # ^ the one line of docs/metrics.md that says what it means


def test_pods_are_reached_by_services_inside_the_cluster_alone():
    for one in [
        *named("Service"),
        {"spec": named("DaskCluster")[0]["spec"]["scheduler"]["service"]},
    ]:
        assert one["spec"]["type"] == "ClusterIP"
        assert "externalIPs" not in one["spec"]
    for pod in PODS.values():
        assert not pod.spec.get("hostNetwork")
        for port in pod.spec["containers"][0].get("ports", ()):
            assert "hostPort" not in port
    assert not any(named(kind) for kind in ("Ingress", "Gateway", "HTTPRoute"))
    (container,) = PODS["server"].spec["containers"]
    (password,) = [one for one in container["env"] if one["name"] == PASSWORD]
    assert password["valueFrom"]["secretKeyRef"]["key"] == "auth"


POLICIES = [one["spec"] for one in named("NetworkPolicy")]
OPERATOR = "dask-operator"


def _selects(selector, labels):
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "NotIn"
        if labels.get(one["key"]) in one["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _peer(peer, other):
    """Say whether a rule's peer is the other: labels of a pod, a namespace's name, an address."""
    if "ipBlock" in peer:
        if isinstance(other, dict) or other == OPERATOR:
            return False
        address, block = ip_address(other), peer["ipBlock"]
        inside = address in ip_network(block["cidr"])
        return inside and not any(address in ip_network(one) for one in block.get("except", ()))
    if "namespaceSelector" in peer:
        assert "podSelector" not in peer
        labels = {"kubernetes.io/metadata.name": other if isinstance(other, str) else "terramosaic"}
        return _selects(peer["namespaceSelector"], labels)
    return isinstance(other, dict) and _selects(peer["podSelector"], other)


def _lets(way, labels, other, port):
    """Say whether the policies of a pod let another in (Ingress), or it out to it (Egress)."""
    mine = [one for one in POLICIES if way in one["policyTypes"]]
    mine = [one for one in mine if _selects(one["podSelector"], labels)]
    assert mine, "a pod that no policy selects is open to everybody"
    for rule in (rule for one in mine for rule in one.get(way.lower(), ())):
        peers = rule.get("from" if way == "Ingress" else "to")
        ports = {one["port"] for one in rule.get("ports", ())}
        if (not ports or port in ports) and (
            peers is None or any(_peer(one, other) for one in peers)
        ):
            return True
    return False


def _connects(source, target, port):
    labels = {name: dict(pod.labels) for name, pod in PODS.items()} | {"stranger": {"app": "x"}}
    return _lets("Egress", labels[source], labels[target], port) and _lets(
        "Ingress", labels[target], labels[source], port
    )


def test_pods_talk_to_whom_they_must_and_to_nobody_else():
    prefect, dask = {"worker", "gpu-worker"}, {"scheduler", "dask", "gpu"}
    wanted = {("server", "database", 5432)}
    wanted |= {(one, "server", 4200) for one in prefect}
    wanted |= {(one, to, port) for one in prefect | dask for to in dask for port in (8786, 40123)}
    # ^ dask's workers choose their ports
    everybody = [*PODS, "stranger"]
    found = {
        (source, target, port)
        for source in everybody
        for target in everybody
        for port in (4200, 5432, 8786, 40123)
        if source != target and _connects(source, target, port)
    }
    assert found >= {one for one in wanted if one[0] != one[1]}
    assert {one[:2] for one in found} == {one[:2] for one in wanted if one[0] != one[1]}
    assert {port for _, target, port in found if target == "server"} == {4200}
    assert {port for _, target, port in found if target == "database"} == {5432}


def test_the_operator_reaches_dask_and_nothing_else():
    reached = {
        name for name, pod in PODS.items() if _lets("Ingress", dict(pod.labels), OPERATOR, 8787)
    }
    assert reached == {"scheduler", "dask", "gpu"}


def test_those_who_read_scenes_reach_the_world_and_no_private_network():
    readers = {"worker", "gpu-worker", "dask", "gpu"}
    for name, pod in PODS.items():
        out = {
            (address, port)
            for address in ("203.0.113.9", "2001:db8::9", "10.1.2.3", "192.168.1.1",
                            "169.254.169.254", "172.20.0.1", "127.0.0.1", "fd00::1")
            for port in (443, 80, 22)
            if _lets("Egress", dict(pod.labels), address, port)
        }  # fmt: skip
        world = {(one, port) for one in ("203.0.113.9", "2001:db8::9") for port in (443, 80)}
        assert out == (world if name in readers else set()), name
        assert _lets("Egress", dict(pod.labels), "203.0.113.9", 53) == (name != "database")
        # ^ names are looked up, but by the database


def test_no_manifest_opens_a_port_of_its_node():
    text = "".join(path.read_text() for path in FILES)
    assert not re.search(r"NodePort|LoadBalancer|hostPort|hostNetwork|hostPID", text)
