"""Shared by all DAGs: owner, closed list of tags, retries and timeouts, form fields, and their documentation template.

DAG files import this at every parse: it imports nothing heavy except `airflow.sdk`, and reads nothing except names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import (
    BaseHook,
    BaseOperator,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    get_current_context,
    task,
)

from headrace.contract import files
from headrace.contract.cron import cron_problem
from headrace.contract.model import Refresh
from headrace.contract.names import refresh_names
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations.drivers.interface import LauncherSilentError, RunEndedError
from headrace.operations.lineage.graph import PARENT
from headrace.operations.plans import Approval
from headrace.orchestration import notify
from headrace.orchestration.pools import BATCH_POOL
from headrace.store.records import Json

OWNER = "platform"
OWNER_LINKS = {OWNER: os.environ.get("HEADRACE_OWNER_LINK") or "mailto:root@localhost"}
"""The link of the owner's name in the UI: a page or an address of the team that runs this deployment."""
START = datetime(2026, 1, 1, tzinfo=UTC)
"""For interval schedules only. Cron schedules have none: with one, all would run at once on a new deployment."""

TAGS = {
    "layer": ("speed", "batch", "serving", "operations"),
    "system": ("spark", "kafka", "cassandra", "lake", "checkpoints", "quality"),
    "impact": ("reads", "writes", "destructive"),
}
"""The closed list: every DAG has exactly one layer and one impact, and the systems that it uses."""

SPARK_CONNECTION = "spark_batch"
DAY_OR_NOTHING = r"^(\d{4}-\d{2}-\d{2})?$"
CONNECTIONS = (SPARK_CONNECTION,)
"""The connections used by tasks: every deployment declares each of them (locally `headrace up`, else the chart)."""

AFTER_ALL = "all_done_min_one_success"
"""The trigger rule of a task that collects the results of mapped tasks: a failed one does not hide the others. Its direct
upstream also includes the plan, so that it does not run if nothing was planned."""

ANSWER_WITHIN = timedelta(hours=12)
"""How long an approval waits before it counts as rejected."""

# A launcher that cannot answer may answer soon, and the next pod of a run may end well; any other message of ours needs human
# action first.
_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(LauncherSilentError, RetryAction.RETRY, timedelta(seconds=20)),
        RetryRule(RunEndedError, RetryAction.RETRY, timedelta(seconds=20)),
        RetryRule(HeadraceError, RetryAction.FAIL, reason="the message says what to do first"),
    ]
)


def at(cron: str) -> CronTriggerTimetable:
    """Return a cron schedule (UTC) whose first run is the next future one, however long ago the last one was."""
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta())


def dag_arguments(
    *, doc: str, tags: Sequence[str], params: dict[str, Param] | None = None, minutes: float = 30
) -> Json:
    """Return the arguments of one DAG: `doc` from `document`, runs of at most `minutes`, one run at a time, no catch-up."""
    return {
        "catchup": False,
        "max_active_runs": 1,
        "dagrun_timeout": timedelta(minutes=minutes),
        "tags": list(tags),
        "doc_md": doc,
        "owner_links": OWNER_LINKS,
        "params": params or {},
        "default_args": {
            "owner": OWNER,
            "retries": 2,
            "retry_delay": timedelta(seconds=10),
            "retry_policy": _POLICY,
            "execution_timeout": timedelta(minutes=10),
            "on_execute_callback": name_parent,
            "on_failure_callback": notify.failed,
        },
    }


def name_parent(context: Mapping[str, Any]) -> None:
    """Name the DAG run for the lineage that its task emits: Airflow's `on_execute_callback`, called with its context."""
    run = context["dag_run"]
    at = (run.logical_date or run.run_after).isoformat()
    os.environ[PARENT] = json.dumps({"dag": run.dag_id, "at": at, "clear": run.clear_number or 0})


@task(task_id="chosen")
def chosen_pipelines(params: Json | None = None) -> list[str]:
    """Return the pipelines of the form."""
    return chosen((params or {})["pipelines"])


def approval(task_id: str, subject: str, planned_by: str) -> BaseOperator:
    """Return a task that shows the plan of `planned_by` (`plans.for_approval`) and waits for approval. No response: rejected."""
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    return ApprovalOperator(
        task_id=task_id,
        subject=subject,
        body=f"{{{{ ti.xcom_pull(task_ids='{planned_by}')['words'] }}}}",
        defaults="Reject",
        response_timeout=ANSWER_WITHIN,
        execution_timeout=None,
        doc_md="Waits for approval. Rejected if nobody responds within 12 hours.",
    )


@task(
    pool=BATCH_POOL,
    max_active_tis_per_dagrun=1,
    execution_timeout=timedelta(minutes=55),
    map_index_template="{{ submission['name'] }}",
)
def spark_run(submission: Json) -> None:
    """Carry out one job spec (`spark_runs.submission`): with spark-submit, on Kubernetes in a pod of its own.

    An entry with a `fault` could not be planned: this task fails with it, and those of other pipelines run.
    The provider is imported here, not at parse: it costs 4 s of CPU per file. A missing connection is an error, because the
    hook alone would use master `yarn` (apache/airflow, SparkSubmitHook._resolve_connection).
    """
    from headrace.operations import deployment

    if "fault" in submission:
        raise HeadraceError(submission["fault"])
    loaded = deployment.load()
    if loaded.drivers.kind == "kubernetes":
        from headrace.orchestration import batch_tasks

        return batch_tasks.run_in_pod(loaded, submission, say)
    from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

    BaseHook.get_connection(SPARK_CONNECTION)
    spark_submit = SparkSubmitOperator(task_id="spark_submit", conn_id=SPARK_CONNECTION, **submission)
    try:
        spark_submit.execute(get_current_context())
    except BaseException:
        spark_submit.on_kill()  # spark-submit must not outlive its task: a finite run is repeated from the start
        raise


def document(purpose: str, *, inputs: str, effects: str, command: str, runbook: str) -> str:
    """Return a DAG's documentation in Markdown. `runbook` is a page below docs/, `command` the equivalent command line.

    It never ends with ".md", because Airflow would take it for a file name.
    """
    return (
        f"{purpose}\n\n**Inputs:** {inputs}\n\n**Side effects:** {effects}\n\n**On the command line:** `{command}`\n\n"
        f"**Runbook:** `docs/{runbook}` in the project.\n"
    )


def pipeline_names(dag_file: str) -> list[str]:
    """Return the pipelines of the project that a DAG file belongs to, from file names only: nothing is loaded."""
    return files.pipeline_names(_pipelines_beside(dag_file))


def topics_of(dag_file: str) -> list[str]:
    """Return the source topics of the project that a DAG file belongs to."""
    sources = (content.get("sources") or {} for content in _readable(dag_file).values())
    return sorted({str((spec or {}).get("topic") or name) for declared in sources for name, spec in declared.items()})


@dataclass(frozen=True)
class Refreshed:
    """A dimension with a refresh, the name of its DAG and asset, and its schedule (None: manual runs only)."""

    name: str
    pipeline: str
    dimension: str
    schedule: str | None


def refreshed_dimensions(dag_file: str) -> list[Refreshed]:
    """Return every dimension that the project's files refresh from a directory; its name is that of `refresh_names`."""
    refreshes = {
        (pipeline, name): spec["refresh"]
        for pipeline, content in _readable(dag_file).items()
        for name, spec in (content.get("dimensions") or {}).items()
        if spec.get("refresh") is not None  # `refresh: {}` means all defaults
    }
    return [
        Refreshed(name, *pair, _schedule(refreshes[pair])) for pair, name in refresh_names(sorted(refreshes)).items()
    ]


def _schedule(refresh: object) -> str | None:
    """Return a refresh's schedule, or None if it is invalid: a manual run then reports why."""
    default = Refresh.model_fields["schedule"].default
    schedule = refresh.get("schedule", default) if isinstance(refresh, dict) else default
    return schedule if isinstance(schedule, str) and not cron_problem(schedule) else None


def _pipelines_beside(dag_file: str) -> Path:
    return Path(dag_file).resolve().parent.parent / "pipelines"


def _readable(dag_file: str) -> dict[str, Json]:
    """Return name -> content of the pipeline files. Broken files are left out: their own tasks report why."""
    contents: dict[str, Json] = {}
    for path in files.pipeline_files(_pipelines_beside(dag_file)):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and all(_is_table(content.get(key)) for key in ("sources", "dimensions")):
            contents[path.stem] = content
    return contents


def _is_table(value: object) -> bool:
    """Return whether a value of a file is absent, or a mapping of mappings."""
    return value is None or (isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()))


def pipelines_param(names: Sequence[str], *, default: Sequence[str] = ()) -> Param:
    """Return a form field that accepts any of the pipelines; an empty choice is refused when the run begins."""
    return Param(
        list(default),
        type="array",
        items={"type": "string", "enum": list(names)},
        examples=list(names),
        title="Pipelines",
        description="Which pipelines.",
    )


def pipeline_param(names: Sequence[str]) -> Param:
    """Return a form field that accepts one pipeline."""
    return Param(names[0], type="string", enum=list(names), title="Pipeline")


def query_param() -> Param:
    """Return a form field that accepts one query of the form's pipeline."""
    return Param("", type="string", title="Query", description="Short name, such as tumbling.")


def reason_param(default: str) -> Param:
    """Return a form field for the reason that is recorded with the desired state and shown with the stream."""
    return Param(default, type="string", minLength=3, maxLength=200, title="Reason")


def chosen(names: Sequence[str]) -> list[str]:
    """Return the pipelines of a form without duplicates. Raises HeadraceError if none is chosen."""
    if not names:
        raise HeadraceError("No pipeline was chosen. Trigger the DAG again and choose at least one.")
    return list(dict.fromkeys(names))


def request_of(run_id: str | None, pipeline: str) -> str:
    """Return the identifier of a start that a run requests: the same for all tries of a task. Valid as a Kubernetes label."""
    return hashlib.sha256(f"{run_id}/{pipeline}".encode()).hexdigest()[:32]


def holder(dag_run: Any) -> dict[str, str]:  # noqa: ANN401 - Airflow's DagRun as a task sees it
    """Return the run's identity as writer of a dimension, and who started it: the same for all its tasks and tries."""
    return {"holder": f"{dag_run.dag_id} {dag_run.run_id}", "by": who(dag_run)}


def approver(ti: Any, task_id: str) -> str:  # noqa: ANN401 - Airflow's task instance
    """Return the name of the person who approved in a task of `approval`. Raises HeadraceError if it was not approved."""
    answer = ti.xcom_pull(task_ids=task_id) or {}
    user = answer.get("responded_by_user") or {}
    name = user.get("name") or user.get("id")
    if "Approve" not in answer.get("chosen_options", ()) or not name:
        raise HeadraceError(f"The task {task_id} was not approved. Start the run again and answer there.")
    return f"{name} (Airflow)"


def approved(planned: Json, ti: Any, dag_run: object, task_id: str, reason: str = "") -> Approval:  # noqa: ANN401
    """Return the approval that the task `task_id` got for a plan (`plans.for_approval`): what an acting task passes on.

    "" as `task_id`: the plan needs no approval. Raises HeadraceError if the plan was not approved.
    """
    person = approver(ti, task_id) if task_id else ""
    return Approval(planned.get("plan", "of an earlier release"), by=who(dag_run), approved_by=person, reason=reason)


def who(dag_run: object) -> str:
    """Return who triggered a run (Airflow's DagRun as a task sees it), as recorded with the desired state."""
    return f"{getattr(dag_run, 'triggering_user_name', None) or getattr(dag_run, 'run_type', 'a run')} (Airflow)"


def log_progress(what: str, fraction: float) -> None:
    """Write progress into the task's log."""
    say(f"{what}: {fraction:.0%}")


def say(text: str) -> None:
    """Write a text into the task's log, on one line."""
    print(printable(text))  # noqa: T201 - the log of a task is its standard output
