"""Client of Airflow's REST API: log in, trigger runs, wait, inspect tasks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

import httpx
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt, wait_fixed

from headrace.errors import HeadraceError
from headrace.local import airflow_config
from headrace.local.settings import Settings
from headrace.operations.waiting import poll
from headrace.store.records import from_json

ENDED = ("success", "failed")
POLL_SECONDS = 0.5
TRIES = 4
RunState = Literal["success", "failed"]


@dataclass(frozen=True)
class TaskInstance:
    """What the API says about a task of a run. `map_index` is -1 for a task that is not mapped."""

    task_id: str = ""
    map_index: int = -1
    state: str | None = None
    try_number: int = 0

    @property
    def name(self) -> str:
        """Return the task's name; that of a mapped task is `task[index]`."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


@dataclass(frozen=True)
class Airflow:
    """A login at one Airflow; create it with `login` and close it as a context manager."""

    http: httpx.Client

    @classmethod
    def login(cls, settings: Settings) -> Self:
        """Return an admin login at this machine's Airflow."""
        address = f"http://{settings.host}:{settings.airflow_port}"
        return cls.connect(address, airflow_config.USER, airflow_config.password(settings))

    @classmethod
    def connect(cls, url: str, user: str, password: str) -> Self:
        """Return a login at an Airflow with the simple auth manager. Raises HeadraceError if it is refused."""
        http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        try:
            token = _json(http.post("/auth/token", json={"username": user, "password": password}))["access_token"]
        except BaseException:
            http.close()
            raise
        http.headers["Authorization"] = f"Bearer {token}"
        return cls(http)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.http.close()

    def get(self, path: str, **query: Any) -> Any:  # noqa: ANN401 - JSON values
        """Return the JSON response of a path below /api/v2. Raises HeadraceError for an error response."""
        return _json(self._ask("GET", f"/api/v2{path}", params=query))

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:  # noqa: ANN401 - what httpx takes
        """Return the response; retry if Airflow does not answer or fails, as on SQLite when its database is locked.

        So every request must be idempotent.
        """
        tries = Retrying(
            retry=retry_if_exception_type(httpx.TransportError)
            | retry_if_result(lambda response: response.status_code >= 500),
            stop=stop_after_attempt(TRIES),
            wait=wait_fixed(4 * POLL_SECONDS),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer: httpx.Response = tries(self.http.request, method, path, **more)
        return answer

    def wait_for_dag(self, dag_id: str, seconds: float = 300) -> None:
        """Wait until the dag-processor has parsed a DAG. Raises HeadraceError with the import errors if it does not."""
        if not poll(lambda: self._ask("GET", f"/api/v2/dags/{dag_id}").status_code != 404, seconds, POLL_SECONDS):
            faults = self.get("/importErrors")["import_errors"]
            errors = "; ".join(f"{fault['filename']}: {fault['stack_trace'].splitlines()[-1]}" for fault in faults)
            raise HeadraceError(f"Airflow has no DAG {dag_id} after {seconds:.0f} s ({errors or 'no import errors'}).")

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run with these params and return its id. Raises HeadraceError if they do not fit the DAG's schema."""
        run_id = f"manual__{datetime.now(UTC).isoformat()}_{uuid.uuid4().hex[:8]}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        response = self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        if response.status_code != 409:  # 409: a first try without an answer has created the run
            _json(response)
        return run_id

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run: queued, running, success or failed."""
        return str(self.get(_run(dag_id, run_id))["state"])

    def wait(self, dag_id: str, run_id: str, seconds: float = 500) -> RunState:
        """Wait until a run has ended and return its state. Raises HeadraceError with its tasks' states if it does not."""
        deadline = time.monotonic() + seconds
        while (state := self.state(dag_id, run_id)) not in ENDED:
            if time.monotonic() > deadline:
                raise HeadraceError(
                    f"Run {run_id} of {dag_id} is {state} after {seconds:.0f} s: {self._describe(dag_id, run_id)}."
                )
            time.sleep(POLL_SECONDS)
        return "success" if state == "success" else "failed"

    def run(self, dag_id: str, conf: Mapping[str, Any] | None = None, seconds: float = 500) -> tuple[str, RunState]:
        """Trigger a run and wait until it has ended; return its id and state."""
        run_id = self.trigger(dag_id, conf)
        return run_id, self.wait(dag_id, run_id, seconds)

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the task instances of a run."""
        listed = self.get(f"{_run(dag_id, run_id)}/taskInstances", limit=100)["task_instances"]
        return [from_json(TaskInstance, instance) for instance in listed]

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of each task of a run; mapped tasks are named `task[index]`."""
        return {instance.name: instance.state for instance in self.task_instances(dag_id, run_id)}

    def _describe(self, dag_id: str, run_id: str) -> str:
        return ", ".join(f"{name} {state}" for name, state in self.task_states(dag_id, run_id).items())


def _json(answer: httpx.Response) -> Any:  # noqa: ANN401 - JSON values
    if not answer.is_success:
        request = f"{answer.request.method} {answer.request.url.path}"
        raise HeadraceError(f"Airflow answered {answer.status_code} to {request}: {answer.text[:500]}")
    return answer.json() if answer.content else None


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}"
