"""One DAG per refreshed dimension, `<dimension>_refresh`: stage, check, compare, write the differences."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, task

from headrace.contract import names
from headrace.orchestration import dag_support
from headrace.store.records import from_json, to_json

APPROVAL = "approve_deletes"


def refresh_dag(name: str, pipeline: str, dimension: str, schedule: str | None) -> DAG:
    """Return the DAG that refreshes one dimension of one pipeline; its asset is `dimension_<name>`."""
    full = f"{pipeline}.{dimension}"
    with DAG(
        names.refresh_dag(name),
        schedule=dag_support.at(schedule) if schedule else None,
        **dag_support.dag_arguments(
            doc=dag_support.document(
                f"Refresh the table of the dimension {full} from its directory. The newest complete snapshot, or the database, "
                "is staged and checked. Only changed rows are written, with the time of the extract as write time, so an older "
                "snapshot changes nothing. A plan that deletes unusually many rows, or a snapshot that has shrunk, needs an "
                "approval (default: Reject). Columns that a stream writes are never changed, and a stream that joins the table "
                "misses no row.",
                inputs="the drop folder or the database that the pipeline file names.",
                effects="writes rows of the dimension table, and a record of who started and who approved the version.",
                command="headrace users refresh",
                runbook="howto/refresh-users.md",
            ),
            tags=("serving", "cassandra", "quality", "writes"),
            minutes=14 * 60,
        ),
    ) as dag:

        @task.short_circuit
        def pick() -> dict[str, Any]:
            """Pick the newest complete snapshot. If it is not newer than the applied one, the run ends here."""
            from headrace.operations import deployment
            from headrace.operations.dimensions import duty

            picked = duty.pick(deployment.load(), pipeline, dimension)
            if isinstance(picked, str):
                dag_support.say(picked)
                return {}
            return to_json(picked)

        @task
        def stage(snapshot: dict[str, Any]) -> dict[str, Any]:
            """Read the snapshot into the stage."""
            from headrace.operations import deployment
            from headrace.operations.dimensions import duty
            from headrace.operations.dimensions.snapshot import DirectorySnapshot

            return to_json(duty.stage(deployment.load(), pipeline, dimension, from_json(DirectorySnapshot, snapshot)))

        @task
        def check(staged: dict[str, Any]) -> dict[str, Any]:
            """Check the staged rows. If a critical expectation fails, the serving table stays unchanged."""
            from headrace.operations import deployment
            from headrace.operations.dimensions import duty
            from headrace.operations.dimensions.documents import Staged

            return to_json(duty.check(deployment.load(), pipeline, dimension, from_json(Staged, staged)))

        @task
        def plan(staged: dict[str, Any]) -> dict[str, Any]:
            """Compare the staged rows with the serving table."""
            from headrace.operations import deployment, plans
            from headrace.operations.dimensions import duty
            from headrace.operations.dimensions.documents import Staged

            difference = duty.plan(deployment.load(), pipeline, dimension, from_json(Staged, staged))
            return to_json(difference) | plans.for_approval(difference.plan(full))

        @task.branch
        def deletes_too_many(planned: dict[str, Any]) -> str:
            """Ask for approval if the plan needs it."""
            return APPROVAL if planned["needs_approval"] else "write"

        @task(trigger_rule="none_failed_min_one_success", execution_timeout=timedelta(minutes=55))
        def write(planned: dict[str, Any], ti: Any = None, dag_run: Any = None) -> dict[str, Any]:  # noqa: ANN401 - Airflow's
            """Check the plan again and write it."""
            from headrace.operations import deployment
            from headrace.operations.dimensions import duty
            from headrace.operations.dimensions.diff import DirectoryDifference

            # If the plan needs an approval, only an approval leads here.
            approval = dag_support.approved(planned, ti, dag_run, APPROVAL if planned["needs_approval"] else "")
            holder = dag_support.holder(dag_run)["holder"]
            difference = from_json(DirectoryDifference, planned)
            return duty.apply(deployment.load(), pipeline, dimension, difference, approval, holder=holder)

        @task
        def verify(staged: dict[str, Any], dag_run: Any = None) -> dict[str, int]:  # noqa: ANN401 - Airflow's
            """Compare again. Fail if table and stage still differ."""
            from headrace.operations import deployment
            from headrace.operations.dimensions import duty
            from headrace.operations.dimensions.documents import Staged

            loaded, run = deployment.load(), dag_support.holder(dag_run)
            return duty.verify(loaded, pipeline, dimension, from_json(Staged, staged), **run)

        @task(outlets=[Asset(f"dimension_{name}", uri=f"headrace://dimensions/{name}")])
        def record(
            staged: dict[str, Any],
            planned: dict[str, Any],
            written: dict[str, Any],
            ti: Any = None,  # noqa: ANN401 - Airflow's
            dag_run: Any = None,  # noqa: ANN401 - Airflow's
        ) -> dict[str, Any]:
            """Record what was applied, by whom and with whose approval. Older snapshots are then refused."""
            from headrace.operations import deployment
            from headrace.operations.dimensions import duty
            from headrace.operations.dimensions.diff import DirectoryDifference
            from headrace.operations.dimensions.documents import Staged

            approval = dag_support.approved(planned, ti, dag_run, APPROVAL if planned["needs_approval"] else "")
            holder = dag_support.holder(dag_run)["holder"]
            documents = from_json(Staged, staged), from_json(DirectoryDifference, planned)
            entry = duty.record(deployment.load(), pipeline, dimension, *documents, written, approval, holder=holder)
            return to_json(entry)

        staged = stage(pick())
        checked, planned = check(staged), plan(staged)
        approve_deletes = dag_support.approval(APPROVAL, f"Delete more of {full} than its file allows?", "plan")
        branch, written, verified = deletes_too_many(planned), write(planned), verify(staged)
        checked >> planned >> branch >> [approve_deletes, written]
        approve_deletes >> written >> verified >> record(staged, planned, written)
    return dag


for declared in dag_support.refreshed_dimensions(__file__):
    refresh_dag(declared.name, declared.pipeline, declared.dimension, declared.schedule)
