"""Expectations on every sink, every hour: a critical one that fails holds the sink's asset back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetAlias, task

from headrace.operations import seat

PIPELINES = seat.pipeline_names(__file__)
PASSED = AssetAlias("sinks_that_passed")

with DAG(
    "quality",
    schedule=seat.at("7 * * * *"),
    **seat.dag_arguments(
        doc=seat.document(
            "Run the suite of every sink over closed windows, finished batches and fixed offset ranges, all since the last "
            "check. A critical finding, a sink that cannot be read and a stream that is behind fail the sink's gate and hold "
            "its asset back; a critical finding does so until it is repaired or accepted. A sink with nothing new is "
            "skipped; a warning shows. Failing keys go to the quarantine table, full results and Data Docs to storage; a "
            "pipeline whose file says so is paused.",
            inputs="Cassandra tables, topics, JSON files, archive, the pipeline files.",
            effects="quarantine, results and Data Docs; a pipeline may be paused.",
            command="headrace quality run",
            runbook="runbooks/QualityCritical.md",
        ),
        tags=("serving", "quality", "cassandra", "kafka", "writes"),
        params={"pipelines": seat.pipelines_param(PIPELINES, default=PIPELINES)},
        minutes=90,
    ),
):

    @task(map_index_template="{{ pipeline }}")
    def plan_checks(pipeline: str) -> dict[str, Any]:
        """Fix windows, batches and offsets: what is checked stays the same however often it is repeated."""
        from headrace.operations import deployment
        from headrace.operations.quality import duty

        return {"pipeline": pipeline, "checks": duty.plan_checks(deployment.load(), pipeline)}

    # Great Expectations is imported here, once for all sinks of a pipeline: 10 s and half a gigabyte.
    @task(
        pool=seat.BATCH_POOL,
        max_active_tis_per_dagrun=1,
        execution_timeout=timedelta(minutes=20),
        map_index_template="{{ planned['pipeline'] }}",
        trigger_rule=seat.AFTER_ALL,
    )
    def run_checks(planned: dict[str, Any]) -> list[dict[str, Any]]:
        """Read, validate and keep. Findings, and sinks that cannot be read, are results here, not errors."""
        from headrace.operations import deployment
        from headrace.operations.quality import duty

        return duty.run_checks(deployment.load(), planned["pipeline"], planned["checks"], report=seat.told)

    @task(trigger_rule=seat.AFTER_ALL)
    def together(chosen: list[str], found: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return the summaries of all sinks, those of a check that died too: it keeps no other sink's gate from its answer."""
        from headrace.operations import deployment
        from headrace.operations.quality import duty

        return duty.complete(deployment.load(), chosen, found)

    @task(outlets=[PASSED], retries=0, map_index_template="{{ summary['sink'] }}")
    def gate(summary: dict[str, Any], outlet_events: Any = None) -> dict[str, Any]:  # noqa: ANN401 - Airflow's accessor
        """Fail where the sink's gate is shut, skip where nothing was looked at; else tell those that wait for the sink."""
        from airflow.sdk.exceptions import AirflowSkipException

        from headrace.operations.quality import duty

        line = duty.gate(summary)
        if not duty.is_good(summary):
            raise AirflowSkipException(line)
        seat.say(line)
        outlet_events[PASSED].add(Asset(f"sink_{summary['sink']}", uri=f"headrace://sinks/{summary['sink']}"))
        return {key: summary[key] for key in ("sink", "status", "rows", "expectations", "quarantined", "coverage")}

    @task
    def pause(summaries: list[dict[str, Any]], dag_run: object = None) -> list[str]:
        """Pause the pipelines with a failed critical expectation whose file says so."""
        from headrace.operations import deployment
        from headrace.operations.quality import duty

        return duty.act(deployment.load(), summaries, by=seat.who(dag_run))

    @task(max_active_tis_per_dag=1)
    def data_docs(summaries: list[dict[str, Any]]) -> str:
        """Build the Data Docs of all kept results: one writer."""
        from headrace.operations import deployment
        from headrace.operations.quality import duty

        return duty.build_docs(deployment.load()) if summaries else ""

    pipelines = seat.chosen_pipelines()
    found = run_checks.expand(planned=plan_checks.expand(pipeline=pipelines))  # type: ignore[arg-type]
    summaries = together(pipelines, found)  # type: ignore[arg-type]
    gate.expand(summary=summaries)
    pause(summaries)  # type: ignore[arg-type]
    data_docs(summaries)  # type: ignore[arg-type]
