"""Check every minute whether each stream moves data, and act if it does not. One short task per pipeline."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from headrace.orchestration import dag_support
from headrace.store.records import to_json

PIPELINES = dag_support.pipeline_names(__file__)

with DAG(
    "streams_supervisor",
    schedule=timedelta(minutes=1),
    start_date=dag_support.START,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Check every pipeline. Running drivers, heartbeat, checkpoint, ledger and Kafka's end offsets give one verdict "
            'per query and pipeline, with a reason. "Running" alone is not healthy. If something does not answer, the '
            "verdict is UNKNOWN and nothing is done. A driver that exited is started again within its restart budget; one "
            "that hangs is fenced first. If a pipeline needs a person, its task fails once: that is the alert.",
            inputs="heartbeats, checkpoints, ledgers, Kafka's end offsets, the desired state.",
            effects="starts or fences drivers; writes `supervision.json` next to the checkpoints.",
            command="headrace stream supervise --once",
            runbook="runbooks/README.md",
        ),
        tags=("operations", "spark", "kafka", "writes"),
        minutes=5,
    ),
):

    @task(retries=0, execution_timeout=timedelta(seconds=240), map_index_template="{{ pipeline }}")
    def supervise(pipeline: str) -> dict[str, Any]:
        """Make one pass over a pipeline, and watch its driver until the next pass."""
        from headrace.operations import deployment
        from headrace.operations.supervisor import cycle, memory
        from headrace.orchestration import notify

        deployed = deployment.load()
        before = memory.read(deployed.root, pipeline)
        result = cycle.supervise_for_airflow(deployed, pipeline)
        notify.changed(before.verdict if before else "", result.last)
        return to_json(result.last) | {"actions": [to_json(action) for action in result.actions]}

    supervise.expand(pipeline=PIPELINES)
