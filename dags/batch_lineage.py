"""Emit the lineage of the streams every hour."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from headrace.orchestration import dag_support
from headrace.store.records import to_json

PIPELINES = dag_support.pipeline_names(__file__)

with DAG(
    "batch_lineage",
    schedule=dag_support.at("52 * * * *"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Emit what each stream reads and writes as OpenLineage events.",
            inputs="pipeline files, ledgers, heartbeats.",
            effects="writes lineage events below the storage root, and posts them to OPENLINEAGE_URL if it is set.",
            command="headrace batch lineage",
            runbook="howto/batch-layer.md",
        ),
        tags=("batch", "kafka", "lake", "writes"),
        minutes=30,
    ),
):

    @task(map_index_template="{{ pipeline }}")
    def emit_lineage(pipeline: str) -> dict[str, Any]:
        """Emit one event per query that runs or has run."""
        from headrace.operations import deployment
        from headrace.operations.lineage import run_events

        return to_json(run_events.emit_streams(deployment.load(), pipeline))

    emit_lineage.expand(pipeline=PIPELINES)
