"""Rebuild one query from the archive if Kafka removed records that it had not read. Needs an approval."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from headrace.orchestration import dag_support
from headrace.store.records import from_json, to_json

PIPELINES = dag_support.pipeline_names(__file__)
APPROVAL = "approve_rebuild"

with DAG(
    "batch_rebuild",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Make a new generation of one query. Its first batches come from the archive, and it continues from Kafka: "
            "nothing is skipped, and nothing is counted twice. The stream must be stopped. Steps: plan, approval of its id "
            "(default: Reject), Spark run of exactly that plan, manifest of the new generation.",
            inputs="the Iceberg archive, the ledgers, Kafka's offsets.",
            effects="writes rows to the sinks of the query, and makes a new generation; the old one stays unchanged.",
            command="headrace batch rebuild",
            runbook="runbooks/RetentionLost.md",
        ),
        tags=("batch", "spark", "checkpoints", "lake", "destructive"),
        params={
            "pipeline": dag_support.pipeline_param(PIPELINES),
            "query": dag_support.query_param(),
            "reason": dag_support.reason_param("rebuilt from the archive"),
        },
        minutes=14 * 60,
    ),
):

    @task
    def plan_rebuild(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan the rebuild. Fail if something blocks it. Nothing is changed."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        return batch_tasks.plan_rebuild(deployment.load(), form["pipeline"], form["query"])

    @task
    def order_rebuild(
        planned: dict[str, Any],
        params: dict[str, Any] | None = None,
        ti: Any = None,  # noqa: ANN401 - Airflow's
        dag_run: object = None,
        run_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Prepare the approved run. Fail if the plan differs from the approved one."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        form = params or {}
        approval = dag_support.approved(planned, ti, dag_run, APPROVAL, form["reason"])
        run = spark_runs.order_rebuild(deployment.load(), form["pipeline"], form["query"], run_id or "", approval)
        return [to_json(run)]

    @task
    def rebuild_act(runs: list[dict[str, Any]]) -> dict[str, Any]:
        """Make the rebuilt generation the current one, from which the next start continues."""
        from headrace.operations import deployment
        from headrace.operations.batch import rebuild, spark_runs
        from headrace.store.job_reports import RebuildReport

        loaded = deployment.load()
        (run,) = runs
        report = spark_runs.report(loaded, from_json(spark_runs.Submission, run), RebuildReport)
        return to_json(rebuild.finish(loaded, report))

    planned = plan_rebuild()
    approve_rebuild = dag_support.approval(
        APPROVAL, "Rebuild {{ params.pipeline }}.{{ params.query }} from the archive?", "plan_rebuild"
    )
    ordered = order_rebuild(planned)
    planned >> approve_rebuild >> ordered
    dag_support.spark_run.expand(submission=ordered) >> rebuild_act(ordered)  # type: ignore[arg-type]
