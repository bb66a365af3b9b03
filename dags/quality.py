"""Check the expectations of every sink every hour. A failed critical expectation withholds the asset of the sink."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Asset, AssetAlias, task

from headrace.orchestration import dag_support
from headrace.store import records

if TYPE_CHECKING:
    from headrace.operations.quality.summary import Summary

PIPELINES = dag_support.pipeline_names(__file__)
PASSED = AssetAlias("sinks_that_passed")


def _summaries(documents: Iterable[dict[str, Any]]) -> list[Summary]:
    from headrace.operations.quality.summary import Summary

    return [records.from_json(Summary, document) for document in documents]


with DAG(
    "quality",
    schedule=dag_support.at("7 * * * *"),
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Run the suite of every sink over the closed windows, finished batches and offset ranges since the last check. "
            "The gate of a sink fails, and its asset gets no event, after a critical finding, if the sink cannot be read, or "
            "if its stream is behind. A critical finding stays open until it is repaired or accepted. A sink with nothing "
            "new is skipped, and warnings do not fail a gate. Failing keys go to the quarantine table, full results and Data "
            "Docs to storage. A pipeline with `on_critical: pause` is paused.",
            inputs="Cassandra tables, topics, JSON files, archive, the pipeline files.",
            effects="writes quarantine, results and Data Docs; may pause a pipeline.",
            command="headrace quality run",
            runbook="runbooks/QualityCritical.md",
        ),
        tags=("serving", "quality", "cassandra", "kafka", "writes"),
        params={"pipelines": dag_support.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=90,
    ),
):

    @task(map_index_template="{{ pipeline }}")
    def plan_checks(pipeline: str) -> dict[str, Any]:
        """Fix the windows, batches and offsets to check, so that a retry checks the same."""
        from headrace.operations import deployment
        from headrace.operations.quality import tasks

        checks = tasks.plan_checks(deployment.load(), pipeline)
        return {"pipeline": pipeline, "checks": [records.to_json(check) for check in checks]}

    # Imports Great Expectations once for all sinks of a pipeline: 10 s and half a gigabyte.
    @task(
        pool=dag_support.BATCH_POOL,
        max_active_tis_per_dagrun=1,
        execution_timeout=timedelta(minutes=20),
        map_index_template="{{ planned['pipeline'] }}",
        trigger_rule=dag_support.AFTER_ALL,
    )
    def run_checks(planned: dict[str, Any]) -> list[dict[str, Any]]:
        """Read, validate and save. Findings and unreadable sinks are results of this task, not errors."""
        from headrace.operations import deployment
        from headrace.operations.quality import tasks
        from headrace.operations.quality.plan import Check

        checks = [records.from_json(Check, check) for check in planned["checks"]]
        done = tasks.run_checks(deployment.load(), planned["pipeline"], checks, report=dag_support.log_progress)
        return [records.to_json(summary) for summary in done]

    @task(trigger_rule=dag_support.AFTER_ALL)
    def together(chosen: list[str], checked: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return the summaries of all sinks. A check that crashed has one too, so it does not block the gates of other sinks."""
        from headrace.operations import deployment
        from headrace.operations.quality import tasks

        summaries = tasks.complete(
            deployment.load(), chosen, _summaries(summary for part in checked for summary in part)
        )
        return [records.to_json(summary) for summary in summaries]

    @task(outlets=[PASSED], retries=0, map_index_template="{{ summary['sink'] }}")
    def gate(summary: dict[str, Any], outlet_events: Any = None) -> dict[str, Any]:  # noqa: ANN401 - Airflow's accessor
        """Fail if the gate of the sink is closed, skip if nothing was checked, else update the asset of the sink."""
        from airflow.sdk.exceptions import AirflowSkipException

        from headrace.operations.quality import tasks

        (checked,) = _summaries([summary])
        line = tasks.gate(checked)
        if not tasks.is_good(checked):
            raise AirflowSkipException(line)
        dag_support.say(line)
        outlet_events[PASSED].add(Asset(f"sink_{summary['sink']}", uri=f"headrace://sinks/{summary['sink']}"))
        return {key: summary[key] for key in ("sink", "status", "rows", "expectations", "quarantined", "coverage")}

    @task
    def pause(summaries: list[dict[str, Any]], dag_run: object = None) -> list[str]:
        """Pause the pipelines that have a failed critical expectation and `on_critical: pause`."""
        from headrace.operations import deployment
        from headrace.operations.quality import tasks

        return tasks.act(deployment.load(), _summaries(summaries), by=dag_support.who(dag_run))

    @task(max_active_tis_per_dag=1)
    def data_docs(summaries: list[dict[str, Any]]) -> str:
        """Build the Data Docs of all saved results. Only one task writes them at a time."""
        from headrace.operations import deployment
        from headrace.operations.quality import tasks

        return tasks.build_docs(deployment.load()) if summaries else ""

    pipelines = dag_support.chosen_pipelines()
    checked = run_checks.expand(planned=plan_checks.expand(pipeline=pipelines))  # type: ignore[arg-type]
    summaries = together(pipelines, checked)  # type: ignore[arg-type]
    gate.expand(summary=summaries)
    pause(summaries)  # type: ignore[arg-type]
    data_docs(summaries)  # type: ignore[arg-type]
