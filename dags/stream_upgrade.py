"""Upgrade one pipeline to another release. An unsafe release is refused before the stop, a failing one is rolled back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from headrace.orchestration import dag_support
from headrace.store.records import to_json

PIPELINES = dag_support.pipeline_names(__file__)

with DAG(
    "stream_upgrade",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Upgrade one pipeline to another release. Steps: plan the release next to the running driver and compare it "
            "with the checkpoints, stop, snapshot, start, watch some batches, then keep the release or roll back. An unsafe "
            "change is refused before anything is stopped. If the run fails, the old release runs.",
            inputs="the release: a folder with pipelines/ and spark_jobs/, or an image. Empty: the release of the deployment.",
            effects="replaces the driver; takes a snapshot of every query.",
            command="headrace stream upgrade",
            runbook="howto/operate-streams.md",
        ),
        tags=("speed", "spark", "checkpoints", "writes"),
        params={
            "pipeline": dag_support.pipeline_param(PIPELINES),
            "release": Param(
                "",
                type="string",
                title="Release",
                description="Folder or image. Leave empty for the release of the deployment.",
            ),
            "batches": Param(3, type="integer", minimum=1, maximum=100, title="Batches to watch"),
            "minutes": Param(10, type="integer", minimum=1, maximum=50, title="Minutes that these batches may take"),
        },
        minutes=120,
    ),
):

    @task
    def check(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan the release next to the running driver. Refuse a change that the checkpoints cannot take."""
        from headrace.operations import deployment
        from headrace.operations.drivers import upgrade

        form = params or {}
        return to_json(upgrade.check(deployment.load().launcher(), form["pipeline"], form["release"]))

    @task
    def stop(plan: dict[str, Any]) -> str:
        """Put the supervisor on hold and stop the driver."""
        from headrace.operations import deployment
        from headrace.operations.drivers import upgrade

        return upgrade.stop(deployment.load().launcher(), plan["pipeline"])

    @task
    def snapshot(plan: dict[str, Any]) -> dict[str, str]:
        """Take a snapshot of every query, for a rollback that cannot continue from the checkpoint of the new release."""
        from headrace.operations import deployment
        from headrace.operations.drivers import upgrade

        loaded = deployment.load()
        return upgrade.snapshot(loaded.launcher(), loaded.pipeline(plan["pipeline"]))

    @task
    def start(plan: dict[str, Any]) -> dict[str, Any]:
        """Start the new release and wait until its queries run."""
        from headrace.operations import deployment
        from headrace.operations.drivers import upgrade

        return to_json(upgrade.start(deployment.load().launcher(), plan["pipeline"], plan["to"]))

    @task(execution_timeout=timedelta(minutes=55))
    def watch(plan: dict[str, Any], started: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Watch the batches of every query."""
        from headrace.operations import deployment
        from headrace.operations.drivers import upgrade

        form, loaded = params or {}, deployment.load()
        seen = upgrade.watch(
            loaded.launcher(),
            plan["pipeline"],
            driver=started["driver"],
            batches=form["batches"],
            seconds=form["minutes"] * 60,
            report=dag_support.say,
            lag=upgrade.behind(loaded.root, loaded.pipeline(plan["pipeline"]), loaded.bindings),
        )
        return to_json(seen)

    @task
    def keep(plan: dict[str, Any], dag_run: object = None) -> dict[str, Any]:
        """Make the new release the one that the supervisor keeps running."""
        from headrace.operations import deployment
        from headrace.operations.drivers import upgrade

        launcher = deployment.load().launcher()
        return to_json(upgrade.keep(launcher, plan["pipeline"], by=dag_support.who(dag_run), release=plan["to"]))

    @task(trigger_rule="one_failed", execution_timeout=timedelta(minutes=30))
    def roll_back(plan: dict[str, Any] | None, cut: dict[str, str] | None, dag_run: object = None) -> dict[str, Any]:
        """Start the old release again: from its checkpoint, or from the snapshot if it cannot continue from there."""
        from headrace.operations import deployment
        from headrace.operations.drivers import upgrade

        if plan is None:
            raise AirflowSkipException("The release was refused before anything was stopped.")
        loaded = deployment.load()
        described, by = loaded.pipeline(plan["pipeline"], plan["from"]), dag_support.who(dag_run)
        return to_json(upgrade.roll_back(loaded.launcher(), described, by=by, release=plan["from"], cut=cut))

    plan = check()
    stopped, cut, started = stop(plan), snapshot(plan), start(plan)
    seen = watch(plan, started)
    stopped >> cut >> started >> seen >> keep(plan)
    [stopped, started, seen] >> roll_back(plan, cut)
