"""Check every hour whether retention threatens unread records, and emit the lineage of the streams."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from headrace.operations import seat

PIPELINES = seat.pipeline_names(__file__)

with DAG(
    "lake_guard",
    schedule=seat.at("47 * * * *"),
    **seat.dag_arguments(
        doc=seat.document(
            "Compare the position of every query with what Kafka still holds. A task fails if Kafka has removed, or will "
            "soon remove, records that a query has not read. Also emit the lineage of the streams as OpenLineage events.",
            inputs="ledgers, Kafka's first and last offsets.",
            effects="writes lineage events below the storage root, and posts them to OPENLINEAGE_URL if it is set.",
            command="headrace batch retention",
            runbook="runbooks/RetentionLost.md",
        ),
        tags=("batch", "kafka", "lake", "writes"),
        minutes=30,
    ),
):

    @task(map_index_template="{{ pipeline }}")
    def guard(pipeline: str) -> dict[str, Any]:
        """Fail if Kafka has removed, or will soon remove, records that a query has not read."""
        from headrace.operations import deployment, retention

        told = retention.guard(deployment.load(), pipeline)
        retention.require_kept(told)
        return told

    @task(map_index_template="{{ pipeline }}")
    def emit_lineage(pipeline: str) -> dict[str, Any]:
        """Emit one event per query that runs or has run."""
        from headrace.operations import deployment, lineage_runs

        return lineage_runs.emit_streams(deployment.load(), pipeline)

    guard.expand(pipeline=PIPELINES)
    emit_lineage.expand(pipeline=PIPELINES)
