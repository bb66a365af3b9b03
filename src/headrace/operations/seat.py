"""What all DAGs share: owner, closed tags, retries and timeouts, form fields, and the words of their documentation.

Imported by DAG files at every parse: nothing heavy is imported here but `airflow.sdk`, and nothing is read but names.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
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
from headrace.contract.records import Json
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations import notify
from headrace.operations.drivers import LauncherSilentError
from headrace.operations.pools import BATCH_POOL

OWNER = "platform"
OWNER_LINKS = {OWNER: os.environ.get("HEADRACE_OWNER_LINK") or "mailto:root@localhost"}
"""Where the owner's name leads in the UI: a page or an address of the team that has this deployment."""
START = datetime(2026, 1, 1, tzinfo=UTC)
"""For schedules by interval only. A cron schedule has none: with one, all of them run at once on a new deployment."""

TAGS = {
    "layer": ("speed", "batch", "serving", "operations"),
    "system": ("spark", "kafka", "cassandra", "lake", "checkpoints", "quality"),
    "impact": ("reads", "writes", "destructive"),
}
"""The closed list: every DAG has exactly one layer and one impact, and the systems that it touches."""

SPARK_CONNECTION = "spark_batch"
DAY_OR_NOTHING = r"^(\d{4}-\d{2}-\d{2})?$"
CONNECTIONS = (SPARK_CONNECTION,)
"""The connections that tasks use: every deployment declares each of them (locally `headrace up`, else the chart)."""

AFTER_ALL = "all_done_min_one_success"
"""The trigger rule of a task that gathers what mapped tasks did: one that failed does not hide the others. Its direct
upstream has the plan too, so that it does not run where nothing was planned."""

ANSWER_WITHIN = timedelta(hours=12)
"""How long an approval waits; then it is rejected."""

# A launcher that cannot answer may answer soon; every other sentence of ours says what a person has to do first.
_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(LauncherSilentError, RetryAction.RETRY, timedelta(seconds=20)),
        RetryRule(HeadraceError, RetryAction.FAIL, reason="the sentence says what to do first"),
    ]
)


def at(cron: str) -> CronTriggerTimetable:
    """Return a schedule by cron (UTC) whose first run is the next one to come, however long ago the last one was."""
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta())


def dag_arguments(
    *, doc: str, tags: Sequence[str], params: dict[str, Param] | None = None, minutes: float = 30
) -> Json:
    """Return the arguments of one DAG: `doc` from `document`, a run of at most `minutes`, one run at a time, no catch-up."""
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
            "on_failure_callback": notify.failed,
        },
    }


@task(task_id="chosen")
def chosen_pipelines(params: Json | None = None) -> list[str]:
    """Return the pipelines of the form."""
    return chosen((params or {})["pipelines"])


def approval(task_id: str, subject: str, planned_by: str, told: str = "words") -> BaseOperator:
    """Return a task that shows what the plan of `planned_by` tells a person, and waits. Nobody's answer is Reject."""
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    return ApprovalOperator(
        task_id=task_id,
        subject=subject,
        body=f"{{{{ ti.xcom_pull(task_ids='{planned_by}')['{told}'] }}}}",
        defaults="Reject",
        response_timeout=ANSWER_WITHIN,
        execution_timeout=None,
        doc_md="Waits for a person; nobody's answer is Reject.",
    )


@task(
    pool=BATCH_POOL,
    max_active_tis_per_dagrun=1,
    execution_timeout=timedelta(minutes=55),
    map_index_template="{{ submission['name'] }}",
)
def spark_run(submission: Json) -> None:
    """Run spark-submit for one order until it ends (`spark_runs.submission`), by the provider's operator.

    An entry with a `fault` could not be planned: this task fails with it, and those of other pipelines run.
    Imported here and not at parse: the provider costs 4 s of CPU a file. A missing connection is an error: the hook
    alone would take master `yarn` (apache/airflow, SparkSubmitHook._resolve_connection).
    """
    from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

    if "fault" in submission:
        raise HeadraceError(submission["fault"])
    BaseHook.get_connection(SPARK_CONNECTION)
    spark_submit = SparkSubmitOperator(task_id="spark_submit", conn_id=SPARK_CONNECTION, **submission)
    try:
        spark_submit.execute(get_current_context())
    except BaseException:
        spark_submit.on_kill()  # no spark-submit outlives its task: a finite run is repeated as a whole
        raise


def document(purpose: str, *, inputs: str, effects: str, command: str, runbook: str) -> str:
    """Return a DAG's documentation in Markdown. `runbook` is a page below docs/, `command` the same by command line.

    It never ends with ".md": Airflow would take it for the name of a file.
    """
    return (
        f"{purpose}\n\n**Inputs:** {inputs}\n\n**Side effects:** {effects}\n\n**On the command line:** `{command}`\n\n"
        f"**Runbook:** `docs/{runbook}` in the project.\n"
    )


def pipeline_names(dag_file: str) -> list[str]:
    """Return the pipelines of the project that a DAG file belongs to, by their files' names: nothing is loaded."""
    return files.pipeline_names(_pipelines_beside(dag_file))


def topics_of(dag_file: str) -> list[str]:
    """Return the source topics of the project that a DAG file belongs to."""
    sources = (content.get("sources") or {} for content in _readable(dag_file).values())
    return sorted({str((spec or {}).get("topic") or name) for each in sources for name, spec in each.items()})


@dataclass(frozen=True)
class Refreshed:
    """A dimension that is refreshed from a directory, with the name of its DAG and asset, and its schedule (None: by hand)."""

    name: str
    pipeline: str
    dimension: str
    schedule: str | None


def refreshed_dimensions(dag_file: str) -> list[Refreshed]:
    """Return every dimension that the project's files refresh from a directory.

    Its name is the dimension's; with the pipeline before it where two pipelines have a dimension of that name.
    """
    found = [
        (pipeline, name, spec["refresh"])
        for pipeline, content in _readable(dag_file).items()
        for name, spec in (content.get("dimensions") or {}).items()
        if spec.get("refresh") is not None  # `refresh: {}` has every default
    ]
    times = Counter(name for _, name, _ in found)
    return [
        Refreshed(name if times[name] == 1 else f"{pipeline}_{name}", pipeline, name, _schedule(refresh))
        for pipeline, name, refresh in sorted(found, key=lambda each: each[:2])
    ]


def _schedule(refresh: object) -> str | None:
    """Return a refresh's schedule; None for one that its file's rules refuse: the run that a person starts says why."""
    default = Refresh.model_fields["schedule"].default
    told = refresh.get("schedule", default) if isinstance(refresh, dict) else default
    return told if isinstance(told, str) and not cron_problem(told) else None


def _pipelines_beside(dag_file: str) -> Path:
    return Path(dag_file).resolve().parent.parent / "pipelines"


def _readable(dag_file: str) -> dict[str, Json]:
    """Return the content of the pipeline files by name. One that is broken is left out: its own tasks say why."""
    found = {}
    for path in files.pipeline_files(_pipelines_beside(dag_file)):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and all(_is_table(content.get(key)) for key in ("sources", "dimensions")):
            found[path.stem] = content
    return found


def _is_table(value: object) -> bool:
    """Return whether a value of a file is absent, or a mapping of mappings."""
    return value is None or (isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()))


def pipelines_param(names: Sequence[str], *, default: Sequence[str] = ()) -> Param:
    """Return a form field that takes any of the pipelines; none chosen is refused when the run begins."""
    return Param(
        list(default),
        type="array",
        items={"type": "string", "enum": list(names)},
        examples=list(names),
        title="Pipelines",
        description="Which pipelines.",
    )


def pipeline_param(names: Sequence[str]) -> Param:
    """Return a form field that takes one pipeline."""
    return Param(names[0], type="string", enum=list(names), title="Pipeline")


def query_param() -> Param:
    """Return a form field that takes one query of the form's pipeline."""
    return Param("", type="string", title="Query", description="Short name, such as tumbling.")


def reason_param(default: str) -> Param:
    """Return a form field for the reason that is kept with the wish and shown wherever the stream is."""
    return Param(default, type="string", minLength=3, maxLength=200, title="Reason")


def chosen(names: Sequence[str]) -> list[str]:
    """Return the pipelines of a form, each once. Raises HeadraceError if none is chosen."""
    if not names:
        raise HeadraceError("No pipeline was chosen: trigger the DAG again and choose at least one.")
    return list(dict.fromkeys(names))


def request_of(run_id: str | None, pipeline: str) -> str:
    """Return the name of a start by a run: the same for a task that is tried again. Fit for a Kubernetes label."""
    return hashlib.sha256(f"{run_id}/{pipeline}".encode()).hexdigest()[:32]


def holder(dag_run: Any) -> dict[str, str]:  # noqa: ANN401 - Airflow's DagRun as a task sees it
    """Return what names a run among those that write one dimension, and who began it: the same for all tasks and tries of it."""
    return {"holder": f"{dag_run.dag_id} {dag_run.run_id}", "by": who(dag_run)}


def approver(ti: Any, task_id: str) -> str:  # noqa: ANN401 - Airflow's task instance
    """Return the name of the person who approved in a task of `approval`. Raises HeadraceError where nobody did."""
    answer = ti.xcom_pull(task_ids=task_id) or {}
    user = answer.get("responded_by_user") or {}
    name = user.get("name") or user.get("id")
    if "Approve" not in answer.get("chosen_options", ()) or not name:
        raise HeadraceError(f"Nobody approved in the task {task_id}: start the run again and answer there.")
    return f"{name} (Airflow)"


def who(dag_run: object) -> str:
    """Return who triggered a run (Airflow's DagRun as a task sees it), as the wish records it."""
    return f"{getattr(dag_run, 'triggering_user_name', None) or getattr(dag_run, 'run_type', 'a run')} (Airflow)"


def told(what: str, fraction: float) -> None:
    """Write progress into the task's log."""
    say(f"{what}: {fraction:.0%}")


def say(text: str) -> None:
    """Write a sentence into the task's log, on one line."""
    print(printable(text))  # noqa: T201 - the log of a task is its standard output
