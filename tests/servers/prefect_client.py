"""The API of Prefect's server, as the UI asks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests

TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Api:
    """Asks with the operator's credentials."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.auth = tuple(secret.split(":", 1))

    def healthy(self) -> bool:
        """Return whether the server answers, also to those who have no credentials."""
        try:
            return requests.get(f"{self.url}/health", timeout=5, auth=self._session.auth).ok
        except requests.RequestException:
            return False

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """Ask one question.

        Raises:
            requests.HTTPError: with what the server says of it.
        """
        answer = self._session.request(method, f"{self.url}{path}", json=body, timeout=30)
        if not answer.ok:
            raise requests.HTTPError(f"{answer.status_code} {path}: {answer.text[:2000]}")
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> Any:
        """Return a deployment by ``flow/name``."""
        return self("GET", f"/deployments/name/{name}")

    def run(self, deployment: str, **parameters: Any) -> Any:
        """Create a flow run of a deployment by ``flow/name``, as the button of the UI does."""
        identity = self.deployment(deployment)["id"]
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self("POST", f"/deployments/{identity}/create_flow_run", body)

    def flow_run(self, run: str) -> Any:
        """Return a flow run by its id."""
        return self("GET", f"/flow_runs/{run}")

    def flow_runs(self, **wanted: Any) -> list[Any]:
        """Return flow runs, oldest first; wanted as in ``/flow_runs/filter``."""
        return self("POST", "/flow_runs/filter", {"sort": "START_TIME_ASC", **wanted})

    def children(self, run: str) -> list[Any]:
        """Return the flow runs that a flow run has called."""
        wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
        return self.flow_runs(**wanted)

    def task_runs(self, run: str) -> list[Any]:
        """Return the task runs of a flow run."""
        return self("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def artifacts(self, run: str) -> list[Any]:
        """Return the artifacts of a flow run."""
        return self("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def logs(self, run: str) -> list[Any]:
        """Return what a flow run has logged."""
        return self("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})

    def events(self, *names: str) -> list[Any]:
        """Return the newest events of these names."""
        wanted = {"filter": {"event": {"name": list(names)}, "order": "DESC"}, "limit": 50}
        return self("POST", "/events/filter", wanted)["events"]

    def set_state(self, run: str, kind: str, name: str | None = None) -> Any:
        """Propose a state of a flow run."""
        state = {"type": kind, "name": name or kind.capitalize()}
        return self("POST", f"/flow_runs/{run}/set_state", {"state": state})

    def until(
        self, run: str, states: Sequence[str] | set[str] = TERMINAL, *, seconds: float = 120
    ) -> Any:
        """Wait until a flow run is in one of these states; return it."""
        try:
            return eventually(
                lambda: self.flow_run(run),
                lambda one: one["state_type"] in states,
                seconds=seconds,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._standing()}") from None

    def _standing(self) -> str:
        """Return what is under way, and who holds which slot."""
        busy = [one for one in self.flow_runs() if one["state_type"] not in TERMINAL]
        lines = [f"{one['name']} {one['state_type']} {one['tags']}" for one in busy]
        lines += [entry["message"] for one in busy for entry in self.logs(one["id"])[-5:]]
        limits = self("POST", "/v2/concurrency_limits/filter", {})
        lines += [f"{one['name']}: {one['active_slots']} of {one['limit']}" for one in limits]
        return "\n".join(lines)


def eventually(
    ask: Callable[[], Any], enough: Callable[[Any], Any] = bool, *, seconds: float = 120
) -> Any:
    """Ask again and again until the answer is enough; return it.

    Raises:
        AssertionError: it never was.
    """
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if enough(answer):
            return answer
        assert time.monotonic() < end, f"after {seconds} s still {_short(answer)}"
        time.sleep(0.2)


def _short(answer: Any) -> str:
    if isinstance(answer, Mapping) and "state" in answer:
        return f"{answer['name']}: {answer['state']}"
    return repr(answer)[:1000]
