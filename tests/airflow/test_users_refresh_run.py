"""`users_refresh` through the real scheduler, on CSV snapshots in the drop folder: happy, bad snapshot, rejected, late.

Each test begins with the 50 users of a refresh two hours ago, and drops one snapshot.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace.contract.load import load_pipeline
from headrace.local.settings import Settings
from headrace.operations import deployment as deployments
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment
from headrace.operations.dimensions import live
from headrace.operations.dimensions.snapshot import applied
from headrace.store import paths, small_files
from tests.support.airflow_client import Airflow

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900), pytest.mark.long(group="airflow")]

DAG, PIPELINE, DIMENSION = "users_refresh", "user_logins", "users"
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
EXTRACT_MS = int(BEGAN.timestamp() * 1000)
ALL = {f"u{number:02d}": f"User {number}" for number in range(50)}
FEW = dict(list(ALL.items())[:30])  # 40 % fewer: the suite lets it pass, the file's 5 % of deletes do not


@pytest.fixture(scope="module")
def deployed(airflow_settings: Settings, airflow: Airflow) -> Deployment:
    """The deployment that Airflow's tasks read."""
    airflow.wait_for_dag(DAG)
    airflow.http.patch(f"/api/v2/dags/{DAG}", json={"is_paused": False})
    return deployments.load(airflow_settings.home / "deployment.json")


@pytest.fixture
def emptied(deployed: Deployment) -> Iterator[Deployment]:
    """The same after a refresh at BEGAN: ALL in the table, its record, an empty drop folder."""
    clear(deployed)
    insert = f"INSERT INTO test_db.users (login_id, user_name) VALUES (%s, %s) USING TIMESTAMP {EXTRACT_MS * 1000}"
    with cassandra_session(deployed.bindings) as session:
        for row in ALL.items():
            session.execute(insert, row)
    folder = paths.refresh(deployed.root, PIPELINE, DIMENSION)
    small_files.write_json(
        f"{folder}/applied.json", {"version": version(0), "extract_ms": EXTRACT_MS, "rows": len(ALL)}
    )
    yield deployed
    clear(deployed)


def clear(deployment: Deployment) -> None:
    """Leave no user, no snapshot and no record to the next test."""
    with cassandra_session(deployment.bindings) as session:
        session.execute("TRUNCATE test_db.users", timeout=60)
    shutil.rmtree(paths.refresh(deployment.root, PIPELINE, DIMENSION), ignore_errors=True)


def users(deployment: Deployment, project: Path) -> dict[str, str]:
    described = load_pipeline(project / "pipelines" / f"{PIPELINE}.yaml")
    return {str(key[0]): str(values[0]) for key, values, _ in live.read(deployment.bindings, described, DIMENSION)}


def version(minutes: int) -> str:
    """Return the version of an extract so long after BEGAN."""
    return (BEGAN + timedelta(minutes=minutes)).strftime("%Y%m%dT%H%M%SZ")


def drop(deployment: Deployment, minutes: int, header: str, rows: dict[str, str]) -> None:
    """Drop a snapshot that was extracted so long after BEGAN, then its mark."""
    folder = Path(paths.refresh_drop(deployment.root, PIPELINE, DIMENSION))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"users-{version(minutes)}.csv"
    path.write_text("".join(f"{line}\n" for line in (header, *(f"{key},{name}" for key, name in rows.items()))))
    path.with_name(f"{path.name}.done").write_text("")


def states(airflow: Airflow, run_id: str) -> dict[str, str | None]:
    return airflow.task_states(DAG, run_id)


def test_a_snapshot_in_the_drop_folder_becomes_the_table(airflow: Airflow, emptied: Deployment, project: Path) -> None:
    changed = ALL | {"u00": "Another name", "u50": "User 50"}
    drop(emptied, 10, "login_id,user_name", changed)
    run_id, state = airflow.run(DAG)
    task_states = states(airflow, run_id)
    assert state == "success", task_states
    assert task_states.pop("approve_deletes") == "skipped"
    assert set(task_states.values()) == {"success"}
    assert users(emptied, project) == changed
    assert airflow.returned(DAG, run_id, "write") == {"upserted": 2, "deleted": 0}
    known = applied(emptied.root, PIPELINE, DIMENSION)
    assert (known.version, known.rows, known.by) == (version(10), 51, "admin (Airflow)")


def test_a_snapshot_with_other_columns_fails_in_one_sentence_and_the_table_stays(
    airflow: Airflow, emptied: Deployment, project: Path
) -> None:
    drop(emptied, 10, "login_id,full_name", {"u00": "Somebody"})
    run_id, state = airflow.run(DAG)
    task_states = states(airflow, run_id)
    assert (state, task_states["pick"], task_states["stage"], task_states["write"]) == (
        "failed",
        "success",
        "failed",
        "upstream_failed",
    )
    log = airflow.task_log(DAG, run_id, "stage")
    assert (
        "lacks user_name and has surplus columns full_name. A snapshot has exactly the columns login_id, user_name"
        in log
    )
    assert [task.try_number for task in airflow.task_instances(DAG, run_id) if task.task_id == "stage"] == [1]
    assert users(emptied, project) == ALL


def test_a_snapshot_that_breaks_a_critical_expectation_fails_before_anything_is_written(
    airflow: Airflow, emptied: Deployment, project: Path
) -> None:
    drop(emptied, 10, "login_id,user_name", ALL | {"two words": "No login id"})
    run_id, state = airflow.run(DAG)
    task_states = states(airflow, run_id)
    assert (state, task_states["check"], task_states["write"]) == ("failed", "failed", "upstream_failed")
    assert "critical expectation(s): column_values_to_match_regex(login_id)" in airflow.task_log(DAG, run_id, "check")
    assert users(emptied, project) == ALL


def test_deletes_above_the_cap_ask_and_a_rejection_leaves_the_table(
    airflow: Airflow, emptied: Deployment, project: Path
) -> None:
    drop(emptied, 10, "login_id,user_name", FEW)
    run_id = airflow.trigger(DAG)
    question = airflow.wait_for_question(DAG, run_id)
    assert question.subject == "Delete more of user_logins.users than its file allows?"
    assert "20 deleted (40.0 % of 50; up to 5 % need no approval)" in str(question.body)
    assert "refresh of `user_logins.users`" in str(question.body)
    assert airflow.wait(DAG, run_id, answer="Reject") == "success", states(airflow, run_id)
    task_states = states(airflow, run_id)
    assert [task_states[name] for name in ("write", "verify", "record")] == ["skipped"] * 3
    assert users(emptied, project) == ALL


def test_deletes_above_the_cap_are_carried_out_once_they_are_approved(
    airflow: Airflow, emptied: Deployment, project: Path
) -> None:
    drop(emptied, 10, "login_id,user_name", FEW)
    run_id = airflow.trigger(DAG)
    airflow.wait_for_question(DAG, run_id)
    assert airflow.wait(DAG, run_id, answer="Approve") == "success", states(airflow, run_id)
    assert airflow.returned(DAG, run_id, "write") == {"upserted": 0, "deleted": 20}
    assert users(emptied, project) == FEW
    known = applied(emptied.root, PIPELINE, DIMENSION)
    assert (known.version, known.by, known.approved_by) == (version(10), "admin (Airflow)", "admin (Airflow)")


def test_an_older_snapshot_that_comes_late_changes_nothing(
    airflow: Airflow, emptied: Deployment, project: Path
) -> None:
    drop(emptied, -10, "login_id,user_name", FEW)
    run_id, state = airflow.run(DAG)
    task_states = states(airflow, run_id)
    assert (state, task_states["pick"], task_states["write"], task_states["record"]) == (
        "success",
        "success",
        "skipped",
        "skipped",
    )
    assert "the newest snapshot in" in airflow.task_log(DAG, run_id, "pick")
    assert users(emptied, project) == ALL
