"""Every minute: does each stream move data, and if not, what is done about it. Short tasks, one a pipeline."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from headrace.operations import seat

PIPELINES = seat.pipeline_names(__file__)

with DAG(
    "streams_supervisor",
    schedule=timedelta(minutes=1),
    start_date=seat.START,
    **seat.dag_arguments(
        doc=seat.document(
            "Look at every pipeline: living drivers, heartbeat, checkpoint, ledger and Kafka's end offsets give one "
            'verdict for each query and pipeline, with a reason. "Running" alone is never healthy; what cannot be known '
            "is UNKNOWN and touched by nobody. A driver that ended is started again within its restart budget, one that "
            "hangs is fenced first. A task fails once when a pipeline needs a person: that is the alert.",
            inputs="heartbeats, checkpoints, ledgers, Kafka's end offsets, the operators' wishes.",
            effects="drivers are started or fenced; `supervision.json` is written beside the checkpoints.",
            command="headrace stream supervise --once",
            runbook="runbooks/README.md",
        ),
        tags=("operations", "spark", "kafka", "writes"),
        minutes=5,
    ),
):

    @task(retries=0, execution_timeout=timedelta(seconds=240), map_index_template="{{ pipeline }}")
    def supervise(pipeline: str) -> dict[str, Any]:
        """Make one pass over a pipeline and watch its driver until the next."""
        from headrace.operations import deployment, notify, supervision, supervisor

        deployed = deployment.load()
        before = supervision.read(deployed.root, pipeline)
        result = supervisor.supervise_for_airflow(deployed, pipeline)
        notify.changed(before.verdict if before else "", result)
        return result

    supervise.expand(pipeline=PIPELINES)
