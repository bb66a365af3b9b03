"""Dead letters: replay them once the cause is fixed; pass over records that end a query."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from headrace.orchestration import dag_support

TOPICS = dag_support.topics_of(__file__)
PIPELINES = dag_support.pipeline_names(__file__)
APPROVAL, QUARANTINE_APPROVAL = "approve_replay", "approve_quarantine"

with DAG(
    "dead_letters_replay",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Send the refused records of one topic to it again: each letter once, never in a loop. Steps: plan, approval "
            "of its id (default: Reject), act on exactly that plan.",
            inputs="the dead-letter topic, the journals of earlier replays.",
            effects="appends records to the source topic.",
            command="headrace dead-letters replay",
            runbook="howto/dead-letters.md",
        ),
        tags=("speed", "kafka", "destructive"),
        params={
            "topic": Param(TOPICS[0], type="string", enum=TOPICS, title="Source topic"),
            "reason": Param(
                "",
                type="string",
                title="Reason",
                description="Only letters with this reason keyword. Leave empty for all.",
            ),
            "again": Param(False, type="boolean", title="Include letters that were replayed before"),
        },
        minutes=13 * 60,
    ),
):

    @task
    def plan_replay(params: dict[str, Any] | None = None, dag_run: object = None) -> dict[str, Any]:
        """Select the letters and store the plan. Nothing is sent."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        return batch_tasks.plan_replay(
            deployment.load(), form["topic"], form["reason"], again=form["again"], by=dag_support.who(dag_run)
        )

    @task
    def replay_act(
        planned: dict[str, Any],
        params: dict[str, Any] | None = None,
        ti: Any = None,  # noqa: ANN401 - Airflow's
        dag_run: object = None,
    ) -> dict[str, Any]:
        """Send the letters. Fail if one of them was replayed or deleted since the plan. A retry sends nothing twice."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        approval = dag_support.approved(planned, ti, dag_run, APPROVAL)
        return batch_tasks.replay_letters(deployment.load(), (params or {})["topic"], approval)

    planned = plan_replay()
    approve_replay = dag_support.approval(APPROVAL, "Replay dead letters into {{ params.topic }}?", "plan_replay")
    planned >> approve_replay >> replay_act(planned)

with DAG(
    "dead_letters_quarantine",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Let one query pass over records on which its transform fails: each becomes a dead letter of the query. The stream "
            "must be stopped. Steps: Spark run that finds the records in the batch that was planned and never committed (left "
            "out if the form names offsets), plan, approval of its id (default: Reject), act on exactly that plan. Then "
            "trigger `stream_start`.",
            inputs="the checkpoint of the query, the records of its planned batch in Kafka.",
            effects="adds offsets to the quarantine of the pipeline.",
            command="headrace dead-letters quarantine",
            runbook="howto/dead-letters.md",
        ),
        tags=("speed", "spark", "kafka", "destructive"),
        params={
            "pipeline": dag_support.pipeline_param(PIPELINES),
            "query": dag_support.query_param(),
            "offsets": Param(
                "",
                type="string",
                title="Offsets",
                description="TOPIC:PARTITION:FIRST-LAST, separated by blanks. Leave empty to search for the records.",
            ),
            "reason": dag_support.reason_param("the transform fails on it"),
        },
        minutes=14 * 60,
    ),
):

    @task
    def plan_find(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Plan the search, if the form names no offsets. Fail if the stream runs, or if no batch is left uncommitted."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        return batch_tasks.plan_find(
            deployment.load(), form["pipeline"], form["query"], form["offsets"].split(), run_id or ""
        )

    @task(trigger_rule="none_failed")
    def plan_quarantine(searches: list[dict[str, Any]], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan to pass over the records. Fail if the search found none that fails alone, or if something blocks the plan."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        chosen = form["pipeline"], form["query"], form["offsets"].split()
        return batch_tasks.plan_quarantine(deployment.load(), *chosen, searches, form["reason"])

    @task
    def quarantine_act(
        planned: dict[str, Any],
        params: dict[str, Any] | None = None,
        ti: Any = None,  # noqa: ANN401 - Airflow's
        dag_run: object = None,
    ) -> None:
        """Put the approved offsets into the quarantine. Fail if the situation changed since the plan."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        approval = dag_support.approved(planned, ti, dag_run, QUARANTINE_APPROVAL, form["reason"])
        batch_tasks.quarantine_records(deployment.load(), form["pipeline"], form["query"], planned["offsets"], approval)

    searches = plan_find()
    planned_quarantine = plan_quarantine(searches)  # type: ignore[arg-type]
    approve_quarantine = dag_support.approval(
        QUARANTINE_APPROVAL, "Let {{ params.pipeline }}.{{ params.query }} pass over these records?", "plan_quarantine"
    )
    dag_support.spark_run.expand(submission=searches) >> planned_quarantine  # type: ignore[arg-type]
    planned_quarantine >> approve_quarantine >> quarantine_act(planned_quarantine)
