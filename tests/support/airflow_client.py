"""The client of Airflow's REST API with what only tests need: results and logs of tasks, and answers to questions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import HeadraceError
from headrace.local import airflow_client as client
from headrace.local.airflow_client import ENDED, RunState, TaskInstance
from headrace.store.records import from_json

SETTLED_SECONDS = 3.0  # between a question and its answer; see `Airflow.wait`


@dataclass(frozen=True)
class Question:
    """A question that a task of a run asks a person."""

    subject: str = ""
    body: str | None = None
    response_received: bool = False
    task_instance: TaskInstance = TaskInstance()  # noqa: RUF009 - it is frozen


@dataclass(frozen=True)
class Airflow(client.Airflow):
    """A login at one Airflow."""

    def wait(self, dag_id: str, run_id: str, seconds: float = 500, *, answer: str | None = None) -> RunState:
        """Wait until a run has ended and return its state. Raises HeadraceError with its tasks' states if it does not.

        `answer` is the option, such as "Approve", for all questions that the run asks meanwhile. An answer within the first
        second can reach the scheduler before it knows that the task waits: Airflow 3.3.2 then takes the task for killed and
        tries it again, and it asks again (SchedulerJobRunner.process_executor_events). So the answer is sent a moment later,
        and again if the question is repeated.
        """
        deadline = time.monotonic() + seconds
        while answer and time.monotonic() < deadline and self.state(dag_id, run_id) not in ENDED:
            if questions := self.questions(dag_id, run_id):
                time.sleep(SETTLED_SECONDS)
                self.answer(dag_id, run_id, questions[0].task_instance.task_id, [answer])
            time.sleep(client.POLL_SECONDS)
        return super().wait(dag_id, run_id, max(0.0, deadline - time.monotonic()) if answer else seconds)

    def returned(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """Return the return value of a task."""
        path = f"{client._run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path, map_index=map_index, deserialize=False)["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task, one event per line."""
        path = f"{client._run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        events = self.get(path, map_index=map_index, full_content=True)["content"]
        return "\n".join(_line(event) for event in events)

    def questions(self, dag_id: str, run_id: str) -> list[Question]:
        """Return the run's unanswered questions."""
        listed = self.get(f"{client._run(dag_id, run_id)}/hitlDetails")["hitl_details"]
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
            time.sleep(client.POLL_SECONDS)
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
        path = f"/api/v2{client._run(dag_id, run_id)}/taskInstances/{task_id}/{map_index}/hitlDetails"
        answered = {"chosen_options": list(options), "params_input": dict(params or {})}
        client._json(self._ask("PATCH", path, json=answered))


def _line(event: Any) -> str:
    """Return one line of a task's log; an exception follows the event as `type: message`."""
    if not isinstance(event, dict):
        return str(event)
    faults = [f"{fault['exc_type']}: {fault['exc_value']}" for fault in event.get("error_detail") or ()]
    return " ".join([str(event.get("event", event)), *faults])
