"""Does batch = speed + late, and archive = accepted + dead letters? After the batch views, and when somebody asks."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from headrace.operations import seat

PIPELINES = seat.pipeline_names(__file__)
VIEWS = Asset("batch_views", uri="headrace://lake/batch_views")

with DAG(
    "reconcile",
    schedule=[VIEWS],
    **seat.dag_arguments(
        doc=seat.document(
            "For every query, key and closed window: batch = speed + late; for every topic: archive = accepted + dead "
            "letters. What is late is computed from ledger and archive. A difference fails the run and names keys, windows, "
            "batches and offsets; all runs are kept as a trend.",
            inputs="archive, ledgers, sinks, dead letters.",
            effects="report tables in the lake.",
            command="headrace batch reconcile",
            runbook="runbooks/ReconcileDifference.md",
        ),
        tags=("batch", "spark", "lake", "reads"),
        params={
            "pipelines": seat.pipelines_param(PIPELINES, default=PIPELINES),
            "days": Param(
                0,
                type="number",
                minimum=0,
                title="Days",
                description="Only the last so many days, and no totals; 0: all.",
            ),
            "queries": Param(
                [],
                type="array",
                items={"type": "string"},
                title="Queries",
                description="PIPELINE.QUERY each; empty: all.",
            ),
        },
        minutes=6 * 60,
    ),
):

    @task
    def plan_runs(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Order a run for each pipeline; a run that is repeated replaces its own results."""
        from headrace.operations import deployment, spark_runs

        form = params or {}
        chosen = seat.chosen(form["pipelines"])
        return spark_runs.plan_reconcile(deployment.load(), chosen, run_id or "", form["days"], form["queries"])

    @task(trigger_rule=seat.AFTER_ALL)
    def judge(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tell what was compared, also where another pipeline's run failed; fail where an account does not add up."""
        from headrace.operations import deployment, spark_runs

        return spark_runs.judge_reconcile(deployment.load(), runs)

    runs = plan_runs()
    seat.spark_run.expand(submission=runs) >> judge(runs)  # type: ignore[arg-type]

with DAG(
    "reconcile_repair",
    schedule=None,
    **seat.dag_arguments(
        doc=seat.document(
            "Bounded repair of a Cassandra table after a reconciliation that found differences: the named rows of closed "
            "windows and settled joins. Plan, approval (Reject by default), the same plan again, act.",
            inputs="the report of a reconciliation run.",
            effects="rows of serving tables are written or deleted.",
            command="headrace batch repair",
            runbook="runbooks/ReconcileDifference.md",
        ),
        tags=("batch", "cassandra", "destructive"),
        params={
            "pipeline": seat.pipeline_param(PIPELINES),
            "run": Param("", type="string", title="Run", description="The name of the reconciliation run."),
        },
        minutes=13 * 60,
    ),
):

    @task
    def plan_repair(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Say which rows would be written or deleted; nothing is changed."""
        from headrace.operations import deployment, duties_batch

        form = params or {}
        return duties_batch.plan_repair(deployment.load(), form["pipeline"], form["run"])

    @task
    def recheck_repair(planned: dict[str, Any]) -> dict[str, Any]:
        """Plan again: what was approved must still be what would be done."""
        from headrace.operations import deployment, duties_batch

        return duties_batch.recheck_repair(deployment.load(), planned)

    @task
    def repair_act(planned: dict[str, Any]) -> dict[str, Any]:
        """Write and delete the rows of the plan."""
        from headrace.operations import deployment, reconcile_repair

        return reconcile_repair.act(deployment.load(), planned["pipeline"], planned["run"], planned["fingerprint"])

    planned = plan_repair()
    approve_repair = seat.approval("approve_repair", "Repair rows of {{ params.pipeline }}?", "plan_repair")
    rechecked = recheck_repair(planned)
    planned >> approve_repair >> rechecked
    repair_act(rechecked)
