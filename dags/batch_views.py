"""Compute batch views every night: the streams' transforms over the archive, day by day."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from headrace.orchestration import dag_support
from headrace.store.records import from_json, to_json

PIPELINES = dag_support.pipeline_names(__file__)
VIEWS = Asset("batch_views", uri="headrace://lake/batch_views")

with DAG(
    "batch_views",
    schedule=dag_support.at("37 3 * * *"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Compute the batch views of closed days with the same transforms as the streams. A day is always replaced "
            "completely, so a repeat changes nothing. Days with new late records are computed again. Set first and last "
            "day for a backfill.",
            inputs="the Iceberg archive, the ledgers.",
            effects="writes batch tables in the lake, which moves the horizon of the serving view; emits lineage events.",
            command="headrace batch views",
            runbook="howto/batch-layer.md",
        ),
        tags=("batch", "spark", "lake", "writes"),
        params={
            "pipelines": dag_support.pipelines_param(PIPELINES, default=PIPELINES),
            "first": Param(
                "",
                type="string",
                pattern=dag_support.DAY_OR_NOTHING,
                title="First day",
                description="Leave empty to compute what is new.",
            ),
            "last": Param("", type="string", pattern=dag_support.DAY_OR_NOTHING, title="Last day"),
        },
        minutes=6 * 60,
    ),
):

    @task
    def plan_views(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Plan the days of each pipeline that has views."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        form = params or {}
        chosen = dag_support.chosen(form["pipelines"])
        runs = spark_runs.plan_views(deployment.load(), chosen, run_id or "", form["first"], form["last"])
        return [to_json(run) for run in runs]

    @task(outlets=[VIEWS], trigger_rule=dag_support.AFTER_ALL)
    def computed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what was computed, even if the run of another pipeline failed. Reconciliation waits for this task."""
        from headrace.errors import HeadraceError
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs
        from headrace.store.job_reports import ViewsReport

        submitted = [from_json(spark_runs.Submission, run) for run in runs]
        reports, faults = spark_runs.reports(deployment.load(), submitted, ViewsReport)
        if not reports:
            raise HeadraceError(" ".join(faults))
        return [to_json(report) for report in reports]

    @task(trigger_rule=dag_support.AFTER_ALL)
    def complete(runs: list[dict[str, Any]]) -> list[str]:
        """Fail if the views of a pipeline were not computed, or lack days because its archive is behind."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        return spark_runs.judge_views(deployment.load(), [from_json(spark_runs.Submission, run) for run in runs])

    @task
    def emit_lineage(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Emit one event per computed view."""
        from headrace.operations import deployment
        from headrace.operations.lineage import run_events
        from headrace.store.job_reports import ViewsReport

        loaded = deployment.load()
        return [to_json(run_events.emit_views(loaded, from_json(ViewsReport, report))) for report in reports]

    runs = plan_views()
    reports = computed(runs)  # type: ignore[arg-type]
    dag_support.spark_run.expand(submission=runs) >> [reports, complete(runs)]  # type: ignore[arg-type]
    emit_lineage(reports)  # type: ignore[arg-type]
