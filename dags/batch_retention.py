"""Check every hour whether retention threatens unread records."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from headrace.orchestration import dag_support

PIPELINES = dag_support.pipeline_names(__file__)

with DAG(
    "batch_retention",
    schedule=dag_support.at("47 * * * *"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Compare the position of every query with what Kafka still holds. A task fails if Kafka has removed, or will "
            "soon remove, records that a query has not read.",
            inputs="ledgers, Kafka's first and last offsets.",
            effects="none. A failed task raises the alarm.",
            command="headrace batch retention",
            runbook="runbooks/RetentionLost.md",
        ),
        tags=("batch", "kafka", "reads"),
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

    guard.expand(pipeline=PIPELINES)
