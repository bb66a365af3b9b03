"""Check every hour whether retention threatens unread records, and emit the lineage of the streams."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from headrace.orchestration import dag_support

PIPELINES = dag_support.pipeline_names(__file__)

with DAG(
    "lake_guard",
    schedule=dag_support.at("47 * * * *"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
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
        from headrace.store import records

        report = retention.guard(deployment.load(), pipeline)
        retention.require_kept(report)
        return records.to_json(report)

    @task(map_index_template="{{ pipeline }}")
    def emit_lineage(pipeline: str) -> dict[str, Any]:
        """Emit one event per query that runs or has run."""
        from headrace.operations import deployment
        from headrace.operations.lineage import run_events

        return run_events.emit_streams(deployment.load(), pipeline)

    guard.expand(pipeline=PIPELINES)
    emit_lineage.expand(pipeline=PIPELINES)
