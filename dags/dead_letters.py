"""Replay dead letters into their topic, once the cause is fixed."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from headrace.orchestration import dag_support

TOPICS = dag_support.topics_of(__file__)
APPROVAL = "approve_replay"

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
