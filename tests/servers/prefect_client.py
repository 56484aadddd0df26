"""A client of the API of Prefect's server, with the requests that its UI sends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests

TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Api:
    """Sends requests with the operator's credentials."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.auth = tuple(secret.split(":", 1))

    def healthy(self) -> bool:
        """Return whether the server answers."""
        try:
            return requests.get(f"{self.url}/health", timeout=5, auth=self._session.auth).ok
        except requests.RequestException:
            return False

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return the JSON of the response.

        Raises:
            requests.HTTPError: with the body of the response.
        """
        response = self._session.request(method, f"{self.url}{path}", json=body, timeout=30)
        if not response.ok:
            raise requests.HTTPError(f"{response.status_code} {path}: {response.text[:2000]}")
        return response.json() if response.content else None

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

    def flow_runs(self, **filters: Any) -> list[Any]:
        """Return flow runs, oldest first; filters as in ``/flow_runs/filter``."""
        return self("POST", "/flow_runs/filter", {"sort": "START_TIME_ASC", **filters})

    def children(self, run: str) -> list[Any]:
        """Return the subflow runs of a flow run."""
        filters = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
        return self.flow_runs(**filters)

    def task_runs(self, run: str) -> list[Any]:
        """Return the task runs of a flow run."""
        return self("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def artifacts(self, run: str) -> list[Any]:
        """Return the artifacts of a flow run."""
        return self("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def logs(self, run: str) -> list[Any]:
        """Return the logs of a flow run."""
        return self("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})

    def events(self, *names: str) -> list[Any]:
        """Return the newest events of these names."""
        body = {"filter": {"event": {"name": list(names)}, "order": "DESC"}, "limit": 50}
        return self("POST", "/events/filter", body)["events"]

    def set_state(self, run: str, state_type: str, name: str | None = None) -> Any:
        """Propose a state of a flow run."""
        state = {"type": state_type, "name": name or state_type.capitalize()}
        return self("POST", f"/flow_runs/{run}/set_state", {"state": state})

    def until(
        self, run: str, states: Sequence[str] | set[str] = TERMINAL, *, seconds: float = 120
    ) -> Any:
        """Wait until a flow run is in one of these states; return it."""
        try:
            return wait_until(
                lambda: self.flow_run(run),
                lambda flow_run: flow_run["state_type"] in states,
                seconds=seconds,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._describe_state()}") from None

    def _describe_state(self) -> str:
        """Describe the active runs and the slots of the concurrency limits."""
        busy = [run for run in self.flow_runs() if run["state_type"] not in TERMINAL]
        lines = [f"{run['name']} {run['state_type']} {run['tags']}" for run in busy]
        lines += [entry["message"] for run in busy for entry in self.logs(run["id"])[-5:]]
        limits = self("POST", "/v2/concurrency_limits/filter", {})
        lines += [
            f"{limit['name']}: {limit['active_slots']} of {limit['limit']}" for limit in limits
        ]
        return "\n".join(lines)


def wait_until(
    function: Callable[[], Any], is_sufficient: Callable[[Any], Any] = bool, *, seconds: float = 120
) -> Any:
    """Call a function until its result is sufficient; return the result.

    Raises:
        AssertionError: the result was not sufficient in time.
    """
    end = time.monotonic() + seconds
    while True:
        result = function()
        if is_sufficient(result):
            return result
        assert time.monotonic() < end, f"after {seconds} s still {_shorten(result)}"
        time.sleep(0.2)


def _shorten(result: Any) -> str:
    if isinstance(result, Mapping) and "state" in result:
        return f"{result['name']}: {result['state']}"
    return repr(result)[:1000]
