"""The users table from its directory, every night: stage, check, compare, write the difference."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from headrace.operations import seat

DIMENSIONS = seat.refreshed_dimensions(__file__)


def _place(params: dict[str, Any] | None) -> list[str]:
    """Return pipeline and dimension of the form."""
    return list((params or {})["dimension"].split("."))


with DAG(
    "users_refresh",
    schedule=seat.at("29 0 * * *"),
    **seat.dag_arguments(
        doc=seat.document(
            "Bring a dimension table up to its directory: the newest complete snapshot, or a database, is staged and "
            "checked, only changed rows are written, with the extract's time as their write time, so that an older "
            "snapshot changes nothing. Deletes above the file's percentage wait for an approval (Reject by default). "
            "Columns that a stream owns are never touched, and a stream that joins the table misses no user.",
            inputs="the drop folder or the database that the pipeline file names.",
            effects="rows of the dimension table; a record of the version.",
            command="headrace users refresh",
            runbook="howto/refresh-users.md",
        ),
        tags=("serving", "cassandra", "quality", "writes"),
        params={"dimension": Param(DIMENSIONS[0], type="string", enum=DIMENSIONS, title="Pipeline and dimension")},
        minutes=14 * 60,
    ),
):

    @task.short_circuit
    def pick(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Choose the newest complete snapshot; without one that is newer the run ends here."""
        from headrace.operations import deployment
        from headrace.operations.users import duty

        found = duty.pick(deployment.load(), *_place(params))
        if "skip" in found:
            seat.say(found["skip"])
            return {}
        return found

    @task
    def stage(snapshot: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Read the snapshot into the stage."""
        from headrace.operations import deployment
        from headrace.operations.users import duty

        return duty.stage(deployment.load(), *_place(params), snapshot)

    @task
    def check(staged: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the stage's suite; a critical expectation that fails leaves the live table as it was."""
        from headrace.operations import deployment
        from headrace.operations.users import duty

        return duty.check(deployment.load(), *_place(params), staged)

    @task
    def plan(staged: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare the stage with the live table."""
        from headrace.operations import deployment
        from headrace.operations.users import duty

        return duty.plan(deployment.load(), *_place(params), staged)

    @task.branch
    def deletes_too_many(planned: dict[str, Any]) -> str:
        """Ask a person where the plan deletes more than the file allows."""
        return "approve_deletes" if planned["needs_approval"] else "write"

    @task(trigger_rule="none_failed_min_one_success", execution_timeout=timedelta(minutes=55))
    def write(planned: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Recheck the plan and write it."""
        from headrace.operations import deployment
        from headrace.operations.users import duty

        pipeline, dimension = _place(params)
        # Where the plan needs an approval, only an approval leads here.
        approved_by = "an approval in Airflow" if planned["needs_approval"] else ""
        return duty.apply(deployment.load(), pipeline, dimension, planned, approved_by=approved_by)

    @task
    def verify(staged: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, int]:
        """Compare once more; fail where table and stage still differ."""
        from headrace.operations import deployment
        from headrace.operations.users import duty

        return duty.verify(deployment.load(), *_place(params), staged)

    @task(outlets=[Asset("dimension_users", uri="headrace://dimensions/users")])
    def record(
        staged: dict[str, Any],
        planned: dict[str, Any],
        written: dict[str, Any],
        params: dict[str, Any] | None = None,
        dag_run: object = None,
    ) -> dict[str, Any]:
        """Write down what was applied; from now on older snapshots are refused."""
        from headrace.operations import deployment
        from headrace.operations.users import duty

        pipeline, dimension = _place(params)
        return duty.record(deployment.load(), pipeline, dimension, staged, planned, written, by=seat.who(dag_run))

    staged = stage(pick())
    checked, planned = check(staged), plan(staged)
    approve_deletes = seat.approval(
        "approve_deletes", "Delete more of {{ params.dimension }} than its file allows?", "plan", "text"
    )
    branch, written, verified = deletes_too_many(planned), write(planned), verify(staged)
    checked >> planned >> branch >> [approve_deletes, written]
    approve_deletes >> written >> verified >> record(staged, planned, written)
