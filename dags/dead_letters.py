"""Replay dead letters into their topic, once the cause is fixed."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from headrace.orchestration import dag_support

TOPICS = dag_support.topics_of(__file__)

with DAG(
    "dead_letters_replay",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Send the refused records of one topic to it again: each letter once, never in a loop. Steps: plan, approval "
            "(default: Reject), compare with the plan again, act.",
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
    def plan_replay(
        params: dict[str, Any] | None = None, run_id: str | None = None, dag_run: object = None
    ) -> dict[str, Any]:
        """Select the letters and write the plan. Nothing is sent."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        form = params or {}
        return batch_tasks.plan_replay(
            deployment.load(),
            form["topic"],
            form["reason"],
            again=form["again"],
            run=run_id or "",
            by=dag_support.who(dag_run),
        )

    @task
    def recheck_replay(planned: dict[str, Any]) -> dict[str, Any]:
        """Fail if the list of letters differs from the approved one, or if one of them was replayed meanwhile."""
        from headrace.operations import deployment
        from headrace.orchestration import batch_tasks

        return batch_tasks.recheck_replay(deployment.load(), planned)

    @task
    def replay_act(planned: dict[str, Any]) -> dict[str, Any]:
        """Send the letters. A retry sends nothing twice."""
        from headrace.operations import deployment
        from headrace.operations.dead_letters import replay

        own = deployment.load()
        return replay.act(own.root, own.bindings, planned["topic"], planned["run"], planned["fingerprint"])

    planned = plan_replay()
    approve_replay = dag_support.approval(
        "approve_replay", "Replay dead letters into {{ params.topic }}?", "plan_replay"
    )
    rechecked = recheck_replay(planned)
    planned >> approve_replay >> rechecked
    replay_act(rechecked)
