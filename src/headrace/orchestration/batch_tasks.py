"""The tasks of the batch layer and of dead letters, one function for each task: plans for their approval, and acts."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.batch import job_runs, rebuild, repair, spark_runs
from headrace.operations.dead_letters import find, quarantine, replay
from headrace.operations.dead_letters.reader import Filter
from headrace.operations.deployment import Deployment
from headrace.operations.plans import Approval
from headrace.store.job_reports import FindReport
from headrace.store.quarantine import parse_range
from headrace.store.records import Json, from_json, to_json


class TaskEndedError(BaseException):
    """Airflow ends this task: a person marked it, or its scheduler stops. No handler of errors on the way may stop it."""


def run_in_pod(deployment: Deployment, submission: Json, say: Callable[[str], None]) -> None:
    """Carry out a submission in its pod (`job_runs.execute_in_pod`), which does not outlive a task that Airflow ends.

    Airflow's own handler of SIGTERM calls a method of the operator, which a decorated task does not have; it kills five
    seconds later.
    """

    def end(*_: object) -> NoReturn:
        raise TaskEndedError("Airflow ended this task, so its pod is deleted.")

    shown, began = "", time.monotonic()

    def show(stage: str, done: float | None) -> None:
        nonlocal shown
        if (text := f"{stage}: {done or 0:.0%}") != shown:
            shown = text
            seconds = (time.monotonic() - began) * (1 - done) / done if done else 0
            say(text + (f", about {seconds / 60:.0f} min left" if seconds >= 60 else ""))

    before = signal.signal(signal.SIGTERM, end)
    try:
        duty, pipeline, run = submission["application_args"]
        job_runs.execute_in_pod(deployment, (duty, pipeline, run), say, show)
    finally:
        signal.signal(signal.SIGTERM, before)


def plan_repair(deployment: Deployment, pipeline: str, run: str) -> Json:
    """Return the plan of a repair for its approval. Raises HeadraceError if there is nothing to repair."""
    return plans.for_approval(repair.plan(deployment, pipeline, run))


def repair_rows(deployment: Deployment, pipeline: str, run: str, approval: Approval) -> Json:
    """Write and delete the rows of an approved plan. Returns what `repair.Repaired` has."""
    return to_json(repair.act(deployment, pipeline, run, approval))


def plan_rebuild(deployment: Deployment, pipeline: str, query: str) -> Json:
    """Return the plan of a rebuild for its approval. Raises HeadraceError if something blocks it."""
    return plans.for_approval(rebuild.plan(deployment, pipeline, query))


def plan_replay(deployment: Deployment, topic: str, reason: str, *, again: bool, by: str) -> Json:
    """Choose letters and return their plan for its approval. Raises HeadraceError if no letter can be replayed."""
    chosen, readers = Filter(reason=reason or None), replay.readers_of(deployment.pipelines().values(), topic)
    plan = replay.plan(deployment.root, deployment.bindings, topic, chosen, readers=readers, again=again, by=by)
    return plans.for_approval(plan)


def replay_letters(deployment: Deployment, topic: str, approval: Approval) -> Json:
    """Send the letters of an approved plan. Returns {plan, topic, sent}."""
    readers = replay.readers_of(deployment.pipelines().values(), topic)
    return to_json(replay.act(deployment.root, deployment.bindings, topic, approval, readers=readers))


def plan_find(deployment: Deployment, pipeline: str, query: str, offsets: Sequence[str], run: str) -> list[Json]:
    """Return the submission of a search for the records that end a query; none if the offsets are known already.

    Raises HeadraceError as `find.prepare` does.
    """
    if offsets:
        return []
    prepared = find.prepare(deployment, deployment.pipeline(pipeline), query, run=run)
    return [to_json(spark_runs.submission(deployment, prepared))]


def plan_quarantine(
    deployment: Deployment,
    pipeline: str,
    query: str,
    offsets: Sequence[str],
    searches: Iterable[Json],
    reason: str,
) -> Json:
    """Return the plan to pass over offsets for its approval, with the offsets: those of the form, or those that were found.

    Raises HeadraceError if a search found no record that fails alone, or if something blocks the plan.
    """
    ranges = [parse_range(text) for text in offsets]
    for submitted in searches:
        report = spark_runs.report(deployment, from_json(spark_runs.Submission, submitted), FindReport)
        if not report.records:
            raise HeadraceError(find.words(report))
        ranges += find.ranges(report)
    plan = quarantine.plan(deployment, deployment.pipeline(pipeline), query, ranges, reason)
    return plans.for_approval(plan) | {"offsets": [str(part) for part in ranges]}


def quarantine_records(
    deployment: Deployment, pipeline: str, query: str, offsets: Sequence[str], approval: Approval
) -> None:
    """Put the offsets of an approved plan into the quarantine."""
    ranges = [parse_range(text) for text in offsets]
    quarantine.act(deployment, deployment.pipeline(pipeline), query, ranges, approval.reason, approval)
