"""Check batch = speed + late and archive = accepted + dead letters, after the batch views and on request."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from headrace.orchestration import dag_support
from headrace.store.records import from_json, to_json

PIPELINES = dag_support.pipeline_names(__file__)
APPROVAL = "approve_repair"
VIEWS = Asset("batch_views", uri="headrace://lake/batch_views")

with DAG(
    "reconcile",
    schedule=[VIEWS],
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Check batch = speed + late for every query, key and closed window, and archive = accepted + dead letters for "
            "every topic. Late records are computed from ledger and archive. A difference fails the run, which names keys, "
            "windows, batches and offsets. All runs are kept as a trend.",
            inputs="archive, ledgers, sinks, dead letters.",
            effects="writes report tables in the lake.",
            command="headrace batch reconcile",
            runbook="runbooks/ReconcileDifference.md",
        ),
        tags=("batch", "spark", "lake", "reads"),
        params={
            "pipelines": dag_support.pipelines_param(PIPELINES, default=PIPELINES),
            "days": Param(
                0,
                type="number",
                minimum=0,
                title="Days",
                description="Compare only this many days, and no running totals. 0: no limit.",
            ),
            "new": Param(
                True,
                type="boolean",
                title="Only what is new",
                description="Compare what no earlier such run compared, and what changed since. No: compare everything again.",
            ),
            "queries": Param(
                [],
                type="array",
                items={"type": "string"},
                title="Queries",
                description="Each as PIPELINE.QUERY. Leave empty for all.",
            ),
        },
        minutes=6 * 60,
    ),
):

    @task
    def plan_runs(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Plan a run for each pipeline. A repeated run replaces its earlier results."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        form = params or {}
        chosen = dag_support.chosen(form["pipelines"])
        runs = spark_runs.plan_reconcile(
            deployment.load(), chosen, run_id or "", form["days"], form["queries"], only_new=form["new"]
        )
        return [to_json(run) for run in runs]

    @task(trigger_rule=dag_support.AFTER_ALL)
    def judge(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what was compared, even if the run of another pipeline failed. Fail if something differs."""
        from headrace.operations import deployment
        from headrace.operations.batch import spark_runs

        submitted = [from_json(spark_runs.Submission, run) for run in runs]
        return [to_json(summary) for summary in spark_runs.judge_reconcile(deployment.load(), submitted)]

    runs = plan_runs()
    dag_support.spark_run.expand(submission=runs) >> judge(runs)  # type: ignore[arg-type]

with DAG(
    "batch_repair",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Repair the rows of a Cassandra table that a reconciliation named: rows of closed windows and settled joins, up "
            "to a limit. Steps: plan, approval of its id (default: Reject), act on exactly that plan.",
            inputs="the report of a reconciliation run.",
            effects="writes or deletes rows of serving tables.",
            command="headrace batch repair",
            runbook="runbooks/ReconcileDifference.md",
        ),
        tags=("batch", "cassandra", "destructive"),
        params={
            "pipeline": dag_support.pipeline_param(PIPELINES),
            "run": Param("", type="string", title="Run", description="The name of the reconciliation run."),
        },
        minutes=13 * 60,
    ),
):

    @task
    def plan_repair(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan which rows to write or delete. Nothing is changed."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        return batch_tasks.plan_repair(deployment.load(), form["pipeline"], form["run"])

    @task
    def repair_act(
        planned: dict[str, Any],
        params: dict[str, Any] | None = None,
        ti: Any = None,  # noqa: ANN401 - Airflow's
        dag_run: object = None,
    ) -> dict[str, Any]:
        """Write and delete the rows of the plan. Fail if one of them has changed since."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        approval = dag_support.approved(planned, ti, dag_run, APPROVAL)
        return batch_tasks.repair_rows(deployment.load(), form["pipeline"], form["run"], approval)

    planned = plan_repair()
    approve_repair = dag_support.approval(APPROVAL, "Repair rows of {{ params.pipeline }}?", "plan_repair")
    planned >> approve_repair >> repair_act(planned)
