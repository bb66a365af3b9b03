"""Rebuild of one query from the archive, where retention took records before it had read them; behind an approval."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from headrace.operations import seat

PIPELINES = seat.pipeline_names(__file__)

with DAG(
    "query_rebuild",
    schedule=None,
    **seat.dag_arguments(
        doc=seat.document(
            "Make a new generation of one query whose first batches come from the archive and which goes on from Kafka: "
            "nothing is skipped and nothing counted twice. The stream must be stopped. Plan, approval (Reject by default), "
            "the same plan again, the Spark run, the generation's manifest.",
            inputs="the Iceberg archive, the ledgers, Kafka's offsets.",
            effects="rows in the query's sinks, and a new generation of the query; nothing of the old one is touched.",
            command="headrace batch rebuild",
            runbook="runbooks/RetentionLost.md",
        ),
        tags=("batch", "spark", "checkpoints", "lake", "destructive"),
        params={
            "pipeline": seat.pipeline_param(PIPELINES),
            "query": seat.query_param(),
            "reason": seat.reason_param("rebuilt from the archive"),
        },
        minutes=14 * 60,
    ),
):

    @task
    def plan_rebuild(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Say what a rebuild would read and make; fail where something blocks it. Nothing is changed."""
        from headrace.operations import deployment, duties_batch

        form = params or {}
        return duties_batch.plan_rebuild(deployment.load(), form["pipeline"], form["query"])

    @task
    def recheck_rebuild(
        planned: dict[str, Any],
        params: dict[str, Any] | None = None,
        dag_run: object = None,
        run_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Order the run that was approved; fail if it is no longer what would be done."""
        from headrace.operations import deployment, spark_runs

        reason = (params or {})["reason"]
        return [spark_runs.order_rebuild(deployment.load(), planned, run_id or "", by=seat.who(dag_run), reason=reason)]

    @task
    def rebuild_act(runs: list[dict[str, Any]]) -> dict[str, Any]:
        """Make the rebuilt generation the one that the next start goes on from."""
        from headrace.operations import deployment, rebuild, spark_runs

        own = deployment.load()
        (submitted,) = runs
        return rebuild.finish(own, spark_runs.report(own, submitted))

    planned = plan_rebuild()
    approve_rebuild = seat.approval(
        "approve_rebuild", "Rebuild {{ params.pipeline }}.{{ params.query }} from the archive?", "plan_rebuild"
    )
    ordered = recheck_rebuild(planned)
    planned >> approve_rebuild >> ordered
    seat.spark_run.expand(submission=ordered) >> rebuild_act(ordered)  # type: ignore[arg-type]
