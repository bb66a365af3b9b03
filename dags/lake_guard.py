"""Every hour: is anything about to be lost to retention, and who reads what (lineage)."""

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
            "Compare where every query stands with what Kafka still holds: a place where records are lost, or soon will "
            "be, fails its task. Then emit the lineage of the streams in OpenLineage's form.",
            inputs="ledgers, Kafka's first and last offsets.",
            effects="lineage events below the storage root, and to OPENLINEAGE_URL where that is set.",
            command="headrace batch retention",
            runbook="runbooks/RetentionLost.md",
        ),
        tags=("batch", "kafka", "lake", "writes"),
        minutes=30,
    ),
):

    @task(map_index_template="{{ pipeline }}")
    def guard(pipeline: str) -> dict[str, Any]:
        """Fail where retention takes, or will soon take, what a query has not read."""
        from headrace.contract import records
        from headrace.operations import deployment, retention

        report = retention.guard(deployment.load(), pipeline)
        retention.require_kept(report)
        return records.to_json(report)

    @task(map_index_template="{{ pipeline }}")
    def emit_lineage(pipeline: str) -> dict[str, Any]:
        """Emit one event a query that runs or has run."""
        from headrace.operations import deployment, lineage_runs

        return lineage_runs.emit_streams(deployment.load(), pipeline)

    guard.expand(pipeline=PIPELINES)
    emit_lineage.expand(pipeline=PIPELINES)
