"""Client of Airflow's REST API for the demo and the tests: log in, trigger runs, wait, inspect tasks, answer questions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

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
SETTLED_SECONDS = 3.0  # between a question and its answer; see `Airflow.wait`
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
class Question:
    """A question that a task of a run asks a person."""

    subject: str = ""
    body: str | None = None
    response_received: bool = False
    task_instance: TaskInstance = TaskInstance()


@dataclass(frozen=True)
class Airflow:
    """A login at one Airflow; create it with `login` and close it as a context manager."""

    http: httpx.Client

    def __enter__(self) -> Airflow:
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

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, unpause: bool = False) -> str:
        """Start a run with these params and return its id. Raises HeadraceError if they do not fit the DAG's schema."""
        if unpause:
            _json(self._ask("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False}))
        run_id = f"manual__{datetime.now(UTC).isoformat()}_{uuid.uuid4().hex[:8]}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        response = self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        if response.status_code != 409:  # 409: a first try without an answer has created the run
            _json(response)
        return run_id

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run: queued, running, success or failed."""
        return str(self.get(_run(dag_id, run_id))["state"])

    def wait(self, dag_id: str, run_id: str, seconds: float = 500, *, answer: str | None = None) -> RunState:
        """Wait until a run has ended and return its state. Raises HeadraceError with its tasks' states if it does not.

        `answer` is the option, such as "Approve", for all questions that the run asks meanwhile. An answer within the first
        second can reach the scheduler before it knows that the task waits: Airflow 3.3.2 then takes the task for killed and
        tries it again, and it asks again (SchedulerJobRunner.process_executor_events). So the answer is sent a moment later,
        and again if the question is repeated.
        """
        deadline = time.monotonic() + seconds
        while (state := self.state(dag_id, run_id)) not in ENDED:
            if time.monotonic() > deadline:
                raise HeadraceError(
                    f"Run {run_id} of {dag_id} is {state} after {seconds:.0f} s: {self._describe(dag_id, run_id)}."
                )
            if answer and (questions := self.questions(dag_id, run_id)):
                time.sleep(SETTLED_SECONDS)
                self.answer(dag_id, run_id, questions[0].task_instance.task_id, [answer])
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

    def returned(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:  # noqa: ANN401 - JSON values
        """Return the return value of a task."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path, map_index=map_index, deserialize=False)["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task, one event per line."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        events = self.get(path, map_index=map_index, full_content=True)["content"]
        return "\n".join(_line(event) for event in events)

    def questions(self, dag_id: str, run_id: str) -> list[Question]:
        """Return the run's unanswered questions."""
        listed = self.get(f"{_run(dag_id, run_id)}/hitlDetails")["hitl_details"]
        questions = [from_json(Question, question) for question in listed]
        return [question for question in questions if not question.response_received]

    def wait_for_question(self, dag_id: str, run_id: str, seconds: float = 300) -> Question:
        """Wait until a task of the run asks a question and return it. Raises HeadraceError if the run ends before."""
        deadline = time.monotonic() + seconds
        while not (questions := self.questions(dag_id, run_id)):
            state = self.state(dag_id, run_id)
            if state in ENDED or time.monotonic() > deadline:
                raise HeadraceError(
                    f"Run {run_id} of {dag_id} is {state} and has not asked a question: {self._describe(dag_id, run_id)}."
                )
            time.sleep(POLL_SECONDS)
        return questions[0]

    def answer(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        options: Sequence[str],
        params: Mapping[str, Any] | None = None,
        map_index: int = -1,
    ) -> None:
        """Answer a task's question, such as ["Approve"] or ["Reject"]. Raises HeadraceError if it is already answered."""
        path = f"/api/v2{_run(dag_id, run_id)}/taskInstances/{task_id}/{map_index}/hitlDetails"
        _json(self._ask("PATCH", path, json={"chosen_options": list(options), "params_input": dict(params or {})}))

    def _describe(self, dag_id: str, run_id: str) -> str:
        return ", ".join(f"{name} {state}" for name, state in self.task_states(dag_id, run_id).items())


def login(settings: Settings) -> Airflow:
    """Return an admin login at this machine's Airflow."""
    return connect(
        f"http://{settings.host}:{settings.airflow_port}", airflow_config.USER, airflow_config.password(settings)
    )


def connect(url: str, user: str, password: str) -> Airflow:
    """Return a login at an Airflow with the simple auth manager. Raises HeadraceError if it is refused."""
    http = httpx.Client(base_url=url, timeout=60, trust_env=False)
    try:
        token = _json(http.post("/auth/token", json={"username": user, "password": password}))["access_token"]
    except BaseException:
        http.close()
        raise
    http.headers["Authorization"] = f"Bearer {token}"
    return Airflow(http)


def _json(answer: httpx.Response) -> Any:  # noqa: ANN401 - JSON values
    if not answer.is_success:
        request = f"{answer.request.method} {answer.request.url.path}"
        raise HeadraceError(f"Airflow answered {answer.status_code} to {request}: {answer.text[:500]}")
    return answer.json() if answer.content else None


def _line(event: Any) -> str:  # noqa: ANN401 - JSON values
    """Return one line of a task's log; an exception follows the event as `type: message`."""
    if not isinstance(event, dict):
        return str(event)
    faults = [f"{fault['exc_type']}: {fault['exc_value']}" for fault in event.get("error_detail") or ()]
    return " ".join([str(event.get("event", event)), *faults])


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}"
