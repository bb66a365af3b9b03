"""Checkpoints: snapshots every night, a drill every week, and restore and prune with an approval."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from headrace.orchestration import dag_support
from headrace.store.records import from_json, to_json

PIPELINES = dag_support.pipeline_names(__file__)
APPROVE_RESTORE, APPROVE_PRUNE = "approve_restore", "approve_prune"
SNAPSHOTS = Asset("checkpoint_snapshots", uri="headrace://snapshots")

with DAG(
    "checkpoint_snapshot",
    schedule=dag_support.at("17 2 * * *"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Verify the checkpoint of every query, and take a snapshot of each sound one while the streams run. A snapshot "
            "is a consistent copy with a hash of every file. An unsound checkpoint fails its task, which names the runbook.",
            inputs="checkpoints, ledgers, Kafka's offsets.",
            effects="writes snapshots below the storage root.",
            command="headrace checkpoint snapshot",
            runbook="runbooks/README.md",
        ),
        tags=("operations", "checkpoints", "kafka", "writes"),
        params={"pipelines": dag_support.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=120,
    ),
):

    @task(map_index_template="{{ pipeline }}")
    def verify_and_snapshot(pipeline: str) -> dict[str, Any]:
        """Verify every query of a pipeline and take a snapshot of the sound ones. Fail if one is not sound."""
        from headrace.operations import deployment
        from headrace.orchestration import tasks

        return tasks.verify_and_snapshot(deployment.load(), pipeline)

    @task(outlets=[SNAPSHOTS])
    def kept(taken: list[dict[str, Any]]) -> int:
        """Count the new snapshots, and update the asset."""
        return sum(len(summary["taken"]) for summary in taken)

    kept(verify_and_snapshot.expand(pipeline=dag_support.chosen_pipelines()))  # type: ignore[arg-type]

with DAG(
    "checkpoint_drill",
    schedule=dag_support.at("11 4 * * 0"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Prove that snapshots work: restore the newest snapshot of every query into a scratch folder, process the next "
            "batch with Spark, and compare the result with the ledger.",
            inputs="snapshots, Kafka, the ledgers.",
            effects="writes a report next to each snapshot; removes all scratch files.",
            command="headrace checkpoint drill",
            runbook="runbooks/CheckpointStateDamaged.md",
        ),
        tags=("operations", "checkpoints", "spark", "writes"),
        params={"pipelines": dag_support.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=240,
    ),
):

    @task
    def plan_drills(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Plan a drill for every query that has a snapshot."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        chosen = dag_support.chosen((params or {})["pipelines"])
        return [to_json(run) for run in spark_runs.plan_drills(deployment.load(), chosen, run_id or "")]

    @task(trigger_rule=dag_support.AFTER_ALL)
    def judge(drills: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the reports, even if another drill did not run. Fail if a drill failed."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        submitted = [from_json(spark_runs.Submission, run) for run in drills]
        return [to_json(report) for report in spark_runs.judge_drills(deployment.load(), submitted)]

    drills = plan_drills()
    dag_support.spark_run.expand(submission=drills) >> judge(drills)  # type: ignore[arg-type]

with DAG(
    "checkpoint_restore",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Restore one query from a snapshot. This always makes a new generation and a new file-sink directory, so that no "
            "row is lost silently. The stream must be stopped. Steps: plan, approval of its id (default: Reject), act on exactly "
            "that plan, verify.",
            inputs="a snapshot, the state of the checkpoint.",
            effects="makes a new generation of the query; the old one stays unchanged.",
            command="headrace checkpoint restore",
            runbook="runbooks/CheckpointStateDamaged.md",
        ),
        tags=("operations", "checkpoints", "destructive"),
        params={
            "pipeline": dag_support.pipeline_param(PIPELINES),
            "query": dag_support.query_param(),
            "snapshot": Param(
                "", type="string", title="Snapshot", description="The id of the snapshot. Leave empty for the newest."
            ),
            "reason": dag_support.reason_param("restore"),
        },
        minutes=13 * 60,
    ),
):

    @task
    def plan_restore(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan the restore. Nothing is changed."""
        from headrace.operations import deployment
        from headrace.orchestration import tasks

        form = params or {}
        return tasks.plan_restore(deployment.load(), form["pipeline"], form["query"], form["snapshot"])

    @task
    def restore_act(
        planned: dict[str, Any],
        params: dict[str, Any] | None = None,
        ti: Any = None,  # noqa: ANN401 - Airflow's
        dag_run: object = None,
    ) -> dict[str, Any]:
        """Make a new generation from the snapshot. Fail if the plan differs from the approved one."""
        from headrace.operations import deployment
        from headrace.orchestration import tasks

        approval = dag_support.approved(planned, ti, dag_run, APPROVE_RESTORE, (params or {})["reason"])
        return tasks.restore(deployment.load(), planned, approval)

    @task
    def verify_restored(made: dict[str, Any]) -> dict[str, Any]:
        """Verify the new generation. Fail if it is not sound."""
        from headrace.operations import deployment
        from headrace.orchestration import tasks

        return tasks.verify(deployment.load(), made["pipeline"], made["query"])

    planned = plan_restore()
    approve_restore = dag_support.approval(
        APPROVE_RESTORE, "Restore {{ params.pipeline }}.{{ params.query }} from a snapshot?", "plan_restore"
    )
    restored = restore_act(planned)
    planned >> approve_restore >> restored
    verify_restored(restored)

with DAG(
    "checkpoint_prune",
    schedule=dag_support.at("41 5 * * 1"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Move old generations and snapshots that nothing refers to into the trash, and delete what has been in the "
            "trash long enough. A plan asks for approval every Monday (default: Reject). With nothing to prune, the run ends.",
            inputs="manifests, snapshots, the trash.",
            effects="moves folders to the trash, and deletes folders from it.",
            command="headrace checkpoint prune",
            runbook="howto/operate-streams.md",
        ),
        tags=("operations", "checkpoints", "destructive"),
        params={
            "generation_days": Param(14, type="number", minimum=0, title="Days to keep old generations"),
            "snapshot_days": Param(30, type="number", minimum=0, title="Days to keep snapshots"),
            "snapshots": Param(3, type="integer", minimum=1, title="Newest snapshots to keep always"),
            "trash_days": Param(7, type="number", minimum=0, title="Days to keep the trash"),
        },
        minutes=13 * 60,
    ),
):

    @task.short_circuit(ignore_downstream_trigger_rules=True)
    def plan_prune(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan the prune. With nothing to prune, the run ends here."""
        from headrace.operations import deployment
        from headrace.orchestration import tasks

        return tasks.plan_prune(deployment.load(), params or {})

    @task
    def prune_act(
        planned: dict[str, Any],
        params: dict[str, Any] | None = None,
        ti: Any = None,  # noqa: ANN401 - Airflow's
        dag_run: object = None,
    ) -> dict[str, Any]:
        """Move what the plan names to the trash, or delete it from the trash. Fail if the plan differs from the approved one."""
        from headrace.operations import deployment
        from headrace.orchestration import tasks

        approval = dag_support.approved(planned, ti, dag_run, APPROVE_PRUNE)
        return tasks.prune(deployment.load(), params or {}, approval)

    planned_prune = plan_prune()
    approve_prune = dag_support.approval(APPROVE_PRUNE, "Prune old checkpoints?", "plan_prune")
    planned_prune >> approve_prune >> prune_act(planned_prune)  # type: ignore[arg-type]

with DAG(
    "checkpoint_compact",
    schedule=dag_support.at("23 1 * * *"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Compact the small files of ledgers and JSON sinks, and remove orphan files of Iceberg tables. (The writer of an "
            "Iceberg table rewrites its small files.) The streams may run meanwhile. No reader misses or doubles a row.",
            inputs="ledgers, JSON sinks, Iceberg tables.",
            effects="rewrites files; what readers see stays the same.",
            command="headrace checkpoint compact",
            runbook="howto/operate-streams.md",
        ),
        tags=("operations", "lake", "checkpoints", "writes"),
        params={"pipelines": dag_support.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=240,
    ),
):

    @task(map_index_template="{{ pipeline }}", execution_timeout=timedelta(minutes=55))
    def compact_files(pipeline: str) -> list[dict[str, Any]]:
        """Compact small files of ledgers and JSON sinks."""
        from headrace.operations import deployment
        from headrace.operations.checkpoints import compact

        loaded = deployment.load()
        return [to_json(result) for result in compact.compact_queries(loaded.root, loaded.pipeline(pipeline))]

    @task
    def plan_upkeep(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Plan the upkeep of the Iceberg tables."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        chosen = dag_support.chosen((params or {})["pipelines"])
        return [to_json(run) for run in spark_runs.plan_upkeep(deployment.load(), chosen, run_id or "")]

    # Independent of each other: other files. One pipeline whose compaction fails stops no upkeep of the others.
    compact_files.expand(pipeline=dag_support.chosen_pipelines())
    dag_support.spark_run.expand(submission=plan_upkeep())
