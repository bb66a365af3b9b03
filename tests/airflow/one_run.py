"""Runs one DAG in this process by Airflow's own rules (`DAG.test`: its database, trigger rules and asset events).

The work of its tasks is told by the case. `python one_run.py DAGS_FOLDER CASE` prints task states, the run's state and asset
events as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def summary(pipeline: str, sink: str, status: Any) -> Any:
    """Return what a check of a sink gives."""
    from headrace.operations.quality.summary import Failure, Summary
    from headrace.operations.quality.windows import Batches

    failed = (Failure("1", "a(x)", "critical", "Why.", 1, 1.0),) if status == "FAILED" else ()
    return Summary(sink, pipeline, "q", status, Batches(name="batches 0 to 1"), 0, rows=1, failed=failed)


def quality(_: str) -> tuple[str, dict[str, Any]]:
    """Tell the checks: one pipeline cannot be planned, one dies while it runs, one has a sink of each kind."""
    from headrace.errors import HeadraceError
    from headrace.operations.quality import plan, tasks

    statuses = {"good": "PASSED", "bad": "FAILED", "lost": "UNREADABLE", "old": "STALE", "quiet": "NOTHING"}

    def plan_checks(_: object, pipeline: str) -> list[Any]:
        if pipeline == "pos_sales":
            raise HeadraceError("the plan died")
        return [plan.unreadable(pipeline, pipeline, "", "")]

    def run_checks(_: object, pipeline: str, __: object, **___: object) -> list[Any]:
        if pipeline == "user_logins":
            raise HeadraceError("the run died")
        return [summary(pipeline, name, status) for name, status in statuses.items()]

    paused: list[str] = []

    def act(_: object, summaries: list[Any], **__: object) -> list[str]:
        paused.extend(checked.sink for checked in summaries if checked.status == "FAILED")
        return paused

    tasks.plan_checks, tasks.run_checks, tasks.act = plan_checks, run_checks, act  # type: ignore[assignment]
    tasks._sinks_or_self = lambda deployment, pipeline: [f"{pipeline}.sink"]
    tasks.build_docs = lambda deployment: "index.html"
    return "quality", {"pipelines": ["pos_sales", "user_logins", "web_events"]}


def batch_views(_: str) -> tuple[str, dict[str, Any]]:
    """Tell the runs: one cannot be ordered, one leaves a report."""
    from headrace.operations.batch import spark_runs
    from headrace.operations.lineage import run_events

    def plan_views(*_: object) -> list[spark_runs.Submission]:
        return [spark_runs.Submission("views-pos_sales", fault="no topic"), spark_runs.Submission("views-web_events")]

    spark_runs.plan_views = plan_views  # type: ignore[assignment]
    spark_runs.report = report_of  # type: ignore[assignment]
    run_events.emit_views = lambda _, report: run_events.Emitted(report.pipeline, 1, "")  # type: ignore[assignment]
    return "batch_views", {"pipelines": ["pos_sales", "web_events"], "first": "", "last": ""}


def reconcile(_: str) -> tuple[str, dict[str, Any]]:
    """Tell the runs: one cannot be ordered, one differs."""
    from headrace.errors import HeadraceError
    from headrace.operations.batch import reconcile as batch_reconcile
    from headrace.operations.batch import spark_runs
    from headrace.store.job_reports import ReconcileReport

    def differs(report: ReconcileReport) -> None:
        raise HeadraceError(f"{report.pipeline} differs")

    batch_reconcile.require_even = differs
    spark_runs.plan_reconcile = lambda *_, **__: [
        spark_runs.Submission("reconcile-pos_sales", fault="no topic"), spark_runs.Submission("reconcile-web_events")
    ]  # fmt: skip
    spark_runs.report = report_of  # type: ignore[assignment]
    return "reconcile", {"pipelines": ["pos_sales", "web_events"], "days": 0, "new": True, "queries": []}


def report_of(_: object, submitted: Any, kind: Any) -> Any:
    """Return the report of a run; raise for one that was not ordered."""
    from headrace.errors import HeadraceError

    if submitted.fault:
        raise HeadraceError(submitted.fault)
    return kind(pipeline=submitted.name.partition("-")[2])


def main(folder: str, case: str) -> dict[str, Any]:
    """Run the DAG of a case and return what became of it."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.asset import AssetEvent
    from airflow.providers.apache.spark.operators import spark_submit
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    from headrace.operations import deployment

    initdb()
    deployment.load = lambda *_: SimpleNamespace(root="", drivers=SimpleNamespace(kind="local"))  # type: ignore[assignment]
    spark_submit.SparkSubmitOperator = lambda **_: SimpleNamespace(execute=lambda _: None, on_kill=lambda: None)  # type: ignore[assignment,misc]
    dag_id, conf = {"quality": quality, "batch_views": batch_views, "reconcile": reconcile}[case](case)
    bag = DagBag(Path(folder) / f"{dag_id}.py", bundle_name="dags-folder")
    bundles: Any = DagBundlesManager  # its constructor has no types
    bundles().sync_bundles_to_db()
    sync_bag_to_db(bag, "dags-folder", None)
    done = bag.dags[dag_id].test(run_conf=conf)
    with create_session() as session:
        events = sorted(event.asset.name for event in session.query(AssetEvent).all())
    states = {
        (f"{instance.task_id}[{instance.map_index}]", str(instance.state)) for instance in done.get_task_instances()
    }
    return {"state": str(done.state), "tasks": dict(sorted(states)), "events": events}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(sys.argv[1], sys.argv[2])))
