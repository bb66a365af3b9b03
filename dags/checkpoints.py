"""Checkpoints: snapshots every night, a drill every week, and, behind an approval, restore and prune."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from headrace.operations import seat

PIPELINES = seat.pipeline_names(__file__)
SNAPSHOTS = Asset("checkpoint_snapshots", uri="headrace://snapshots")

with DAG(
    "checkpoint_snapshot",
    schedule=seat.at("17 2 * * *"),
    **seat.dag_arguments(
        doc=seat.document(
            "Verify the checkpoints of every query and take a snapshot of each sound one, while the streams run: a "
            "consistent cut with a hash of every file. An unsound checkpoint fails its task and names the runbook.",
            inputs="checkpoints, ledgers, Kafka's offsets.",
            effects="snapshots below the storage root.",
            command="headrace checkpoint snapshot",
            runbook="runbooks/README.md",
        ),
        tags=("operations", "checkpoints", "kafka", "writes"),
        params={"pipelines": seat.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=120,
    ),
):

    @task(map_index_template="{{ pipeline }}")
    def verify_and_snapshot(pipeline: str) -> dict[str, Any]:
        """Verify every query of a pipeline, take a snapshot of the sound ones, and fail if one is not."""
        from headrace.operations import deployment, duties

        return duties.verify_and_snapshot(deployment.load(), pipeline)

    @task(outlets=[SNAPSHOTS])
    def kept(taken: list[dict[str, Any]]) -> int:
        """Tell those that wait for snapshots that there are new ones."""
        return sum(len(each["taken"]) for each in taken)

    kept(verify_and_snapshot.expand(pipeline=seat.chosen_pipelines()))  # type: ignore[arg-type]

with DAG(
    "checkpoint_drill",
    schedule=seat.at("11 4 * * 0"),
    **seat.dag_arguments(
        doc=seat.document(
            "A snapshot counts only after a restore that worked: restore the newest snapshot of every query into a "
            "scratch place, process the batch after the cut with real Spark, and compare it with the ledger.",
            inputs="snapshots, Kafka, the ledgers.",
            effects="a report beside each snapshot; everything else is scratch and removed.",
            command="headrace checkpoint drill",
            runbook="runbooks/CheckpointStateDamaged.md",
        ),
        tags=("operations", "checkpoints", "spark", "writes"),
        params={"pipelines": seat.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=240,
    ),
):

    @task
    def plan_drills(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Order a drill for every query that has a snapshot."""
        from headrace.operations import deployment, spark_runs

        return spark_runs.plan_drills(deployment.load(), seat.chosen((params or {})["pipelines"]), run_id or "")

    @task(trigger_rule=seat.AFTER_ALL)
    def judge(drills: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the reports, also where another drill did not run; fail if one failed."""
        from headrace.operations import deployment, spark_runs

        return [dict(each) for each in spark_runs.judge_drills(deployment.load(), drills)]

    drills = plan_drills()
    seat.spark_run.expand(submission=drills) >> judge(drills)  # type: ignore[arg-type]

with DAG(
    "checkpoint_restore",
    schedule=None,
    **seat.dag_arguments(
        doc=seat.document(
            "Restore one query from a snapshot: always a new generation and a new file-sink directory, so that no row is "
            "lost in silence. The stream must be stopped. Plan, approval (Reject by default), the same plan again, act, "
            "verify.",
            inputs="a snapshot, the state of the checkpoint.",
            effects="a new generation of the query; nothing of the old one is touched.",
            command="headrace checkpoint restore",
            runbook="runbooks/CheckpointStateDamaged.md",
        ),
        tags=("operations", "checkpoints", "destructive"),
        params={
            "pipeline": seat.pipeline_param(PIPELINES),
            "query": seat.query_param(),
            "snapshot": Param("", type="string", title="Snapshot", description="Its id; empty: the newest."),
            "reason": seat.reason_param("restore"),
        },
        minutes=13 * 60,
    ),
):

    @task
    def plan_restore(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Say what a restore would do; nothing is changed."""
        from headrace.operations import deployment, duties

        form = params or {}
        return duties.plan_restore(deployment.load(), form["pipeline"], form["query"], form["snapshot"])

    @task
    def recheck_restore(planned: dict[str, Any]) -> dict[str, Any]:
        """Plan again: what was approved must still be what would be done."""
        from headrace.operations import deployment, duties

        return duties.recheck_restore(deployment.load(), planned)

    @task
    def restore_act(
        planned: dict[str, Any], params: dict[str, Any] | None = None, dag_run: object = None
    ) -> dict[str, Any]:
        """Make the new generation from the snapshot."""
        from headrace.operations import deployment, duties

        return duties.restore(deployment.load(), planned, by=seat.who(dag_run), reason=(params or {})["reason"])

    @task
    def verify_restored(made: dict[str, Any]) -> dict[str, Any]:
        """Verify the new generation; fail if it is not sound."""
        from headrace.operations import deployment, duties

        return duties.verify(deployment.load(), made["pipeline"], made["query"])

    planned = plan_restore()
    approve_restore = seat.approval(
        "approve_restore", "Restore {{ params.pipeline }}.{{ params.query }} from a snapshot?", "plan_restore"
    )
    rechecked = recheck_restore(planned)
    planned >> approve_restore >> rechecked
    verify_restored(restore_act(rechecked))

with DAG(
    "checkpoint_prune",
    schedule=seat.at("41 5 * * 1"),
    **seat.dag_arguments(
        doc=seat.document(
            "Old generations and snapshots that nothing refers to go to the trash, and what has been there long enough "
            "goes for good. Every Monday a plan asks for approval (Reject by default); without work it ends.",
            inputs="manifests, snapshots, the trash.",
            effects="folders move to the trash, or leave it for ever.",
            command="headrace checkpoint prune",
            runbook="howto/operate-streams.md",
        ),
        tags=("operations", "checkpoints", "destructive"),
        params={
            "generation_days": Param(14, type="number", minimum=0, title="Days that old generations stay"),
            "snapshot_days": Param(30, type="number", minimum=0, title="Days that snapshots stay"),
            "snapshots": Param(3, type="integer", minimum=1, title="Newest snapshots that always stay"),
            "trash_days": Param(7, type="number", minimum=0, title="Days in the trash"),
        },
        minutes=13 * 60,
    ),
):

    @task.short_circuit(ignore_downstream_trigger_rules=True)
    def plan_prune(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Say what a prune would take away; without work the run ends here."""
        from headrace.operations import deployment, duties

        return duties.plan_prune(deployment.load(), params or {})

    @task
    def recheck_prune(planned: dict[str, Any]) -> dict[str, Any]:
        """Plan again: what was approved must still be what would be done."""
        from headrace.operations import deployment, duties

        return duties.recheck_prune(deployment.load(), planned)

    @task
    def prune_act(planned: dict[str, Any]) -> dict[str, Any]:
        """Move to the trash, and out of it for good, what the plan names."""
        from headrace.operations import deployment, duties

        return duties.prune(deployment.load(), planned)

    planned_prune = plan_prune()
    approve_prune = seat.approval("approve_prune", "Prune old checkpoints?", "plan_prune")
    rechecked_prune = recheck_prune(planned_prune)  # type: ignore[arg-type]
    planned_prune >> approve_prune >> rechecked_prune
    prune_act(rechecked_prune)

with DAG(
    "sink_upkeep",
    schedule=seat.at("23 1 * * *"),
    **seat.dag_arguments(
        doc=seat.document(
            "Many small files become few: ledger records and JSON batches are gathered. Orphan files of Iceberg tables are "
            "removed; each table's own writer rewrites its files. The streams may run meanwhile; no reader misses or doubles "
            "a row.",
            inputs="ledgers, JSON sinks, Iceberg tables.",
            effects="files are rewritten; what readers see stays the same.",
            command="headrace checkpoint gather",
            runbook="howto/operate-streams.md",
        ),
        tags=("operations", "lake", "checkpoints", "writes"),
        params={"pipelines": seat.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=240,
    ),
):

    @task(map_index_template="{{ pipeline }}", execution_timeout=timedelta(minutes=55))
    def gather(pipeline: str) -> list[dict[str, Any]]:
        """Gather small files of ledgers and JSON sinks."""
        from headrace.operations import deployment, upkeep

        own = deployment.load()
        return upkeep.gather(own.root, own.pipeline(pipeline))

    @task
    def plan_upkeep(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Order the upkeep of the Iceberg tables."""
        from headrace.operations import deployment, spark_runs

        return spark_runs.plan_upkeep(deployment.load(), seat.chosen((params or {})["pipelines"]), run_id or "")

    gathered = gather.expand(pipeline=seat.chosen_pipelines())
    orders = plan_upkeep()
    gathered >> orders
    seat.spark_run.expand(submission=orders)
