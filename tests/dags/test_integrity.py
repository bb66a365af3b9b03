"""What every DAG file keeps to. The files are parsed twice in fresh processes with database, network and secrets shut."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.load import load_pipelines

Dag = dict[str, Any]

PARSE_CPU_SECONDS = 2.0
"""What a file may cost above `airflow.sdk` itself: the dag-processor pays it every half minute."""

EXPECTED = {
    "batch_views", "checkpoint_drill", "checkpoint_prune", "checkpoint_restore", "checkpoint_snapshot",
    "checkpoint_compact", "dead_letters_replay", "batch_lineage", "batch_rebuild", "batch_repair", "batch_retention",
    "dead_letters_quarantine", "quality", "reconcile", "stream_upgrade",
    "stream_start", "stream_stop", "stream_pause", "stream_resume", "stream_restart", "streams_supervisor",
}  # fmt: skip

# Orders that must hold; a DAG without the second task fails here too.
CRITICAL_EDGES = [
    ("stream_upgrade", "check", "stop"),
    ("stream_upgrade", "stop", "snapshot"),
    ("stream_upgrade", "snapshot", "start"),
    ("stream_upgrade", "watch", "keep"),
    ("stream_upgrade", "watch", "roll_back"),
    ("checkpoint_drill", "spark_run", "judge"),
    ("checkpoint_restore", "approve_restore", "restore_act"),
    ("checkpoint_restore", "restore_act", "verify_restored"),
    ("batch_views", "spark_run", "computed"),
    ("reconcile", "spark_run", "judge"),
    ("batch_rebuild", "approve_rebuild", "order_rebuild"),
    ("batch_rebuild", "order_rebuild", "spark_run"),
    ("batch_rebuild", "spark_run", "rebuild_act"),
    ("dead_letters_quarantine", "plan_quarantine", "approve_quarantine"),
    ("dead_letters_quarantine", "approve_quarantine", "quarantine_act"),
    ("quality", "plan_checks", "run_checks"),
    ("quality", "together", "gate"),
    ("users_refresh", "check", "write"),
    ("users_refresh", "approve_deletes", "write"),
    ("users_refresh", "write", "verify"),
]

# the next minute's pass is the retry; a gate tells the same of the same result however often it is asked
HAS_RETRIES_OF_ITS_OWN = {("streams_supervisor", "supervise"), ("quality", "gate")}


def _probe(project: Path, home: Path, seed: str) -> dict[str, Any]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/none/no.db",
        "PYTHONHASHSEED": seed,
        "TZ": "UTC" if seed == "1" else "Pacific/Auckland",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("probe.py")), str(project / "dags")],
        env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def parsed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a first process saw."""
    return _probe(project, tmp_path_factory.mktemp("first"), "1")


@pytest.fixture(scope="module")
def dags(parsed: dict[str, Any]) -> dict[str, Dag]:
    """All DAGs by id."""
    by_id: dict[str, Dag] = parsed["dags"]
    return by_id


def _tasks(dags: dict[str, Dag]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(dag_id, task_id, task) for dag_id, dag in dags.items() for task_id, task in dag["tasks"].items()]


def test_every_file_imports_without_an_error_or_a_warning(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["warnings"] == []


def test_parsing_asks_no_database_no_network_no_connection_and_no_variable(parsed: dict[str, Any]) -> None:
    assert parsed["used"] == []


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert parsed["heavy"] == []


def test_a_file_costs_less_than_two_seconds_of_cpu_above_the_sdk(parsed: dict[str, Any]) -> None:
    assert {name: cost for name, cost in parsed["cpu"].items() if cost > PARSE_CPU_SECONDS} == {}


def test_there_are_exactly_the_dags_that_the_documents_speak_of(project: Path, dags: dict[str, Dag]) -> None:
    refreshed = {
        f"{dimension}_refresh"
        for pipeline in load_pipelines(project / "pipelines").values()
        for dimension, spec in pipeline.dimensions.items()
        if spec.refresh
    }
    assert refreshed
    assert set(dags) == EXPECTED | refreshed
    assert [dag_id for dag_id, dag in dags.items() if not dag["tasks"]] == []


def test_two_parses_in_fresh_processes_are_equal(
    project: Path, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Else each parse is a new DAG version."""
    again = _probe(project, tmp_path_factory.mktemp("second"), "2")
    assert {name: dag["serialised"] for name, dag in again["dags"].items()} == {
        name: dag["serialised"] for name, dag in parsed["dags"].items()
    }


def test_a_dag_reads_back_from_its_serialised_form(dags: dict[str, Dag]) -> None:
    for dag_id, dag in dags.items():
        edges = {task_id: task["downstream"] for task_id, task in dag["tasks"].items()}
        assert dag["read"] == {
            "id": dag_id, "tasks": edges, "params": dag["params"], "timetable": dag["timetable"]
        }  # fmt: skip


def test_tags_come_from_the_closed_list_one_layer_and_one_impact_each(dags: dict[str, Dag]) -> None:
    from headrace.orchestration.dag_support import TAGS

    known = {tag for tags in TAGS.values() for tag in tags}
    for dag_id, dag in dags.items():
        assert set(dag["tags"]) <= known, dag_id
        assert len(set(dag["tags"]) & set(TAGS["layer"])) == 1, dag_id
        assert len(set(dag["tags"]) & set(TAGS["impact"])) == 1, dag_id
        assert set(dag["tags"]) & set(TAGS["system"]), dag_id


def test_every_dag_tells_purpose_inputs_side_effects_command_and_a_runbook_that_exists(
    project: Path, dags: dict[str, Dag]
) -> None:
    for dag_id, dag in dags.items():
        for part in ("**Inputs:**", "**Side effects:**", "**On the command line:**", "**Runbook:**"):
            assert part in dag["doc"], dag_id
        (runbook,) = re.findall(r"\*\*Runbook:\*\* `(\S+)`", dag["doc"])
        assert (project / runbook).is_file(), f"{dag_id}: {runbook}"


def test_the_command_that_a_dag_names_is_one_of_the_command_line(project: Path, dags: dict[str, Dag]) -> None:
    reference = (project / "docs" / "reference" / "cli.md").read_text()
    for dag_id, dag in dags.items():
        (command,) = re.findall(r"command line:\*\* `(headrace(?: [a-z][a-z-]*)+)", dag["doc"])
        assert f"`{command}`" in reference, dag_id


def test_a_dag_and_its_command_have_the_same_name(dags: dict[str, Dag]) -> None:
    """`stream_start` is `headrace stream start`. Three are older than the rule, and known by their names."""
    differ = {}
    for dag_id, dag in dags.items():
        (command,) = re.findall(r"command line:\*\* `headrace((?: [a-z][a-z-]*)+)", dag["doc"])
        if command.strip().replace(" ", "_").replace("-", "_") != dag_id:
            differ[dag_id] = command.strip()
    assert differ == {
        "quality": "quality run", "reconcile": "batch reconcile", "streams_supervisor": "stream supervise",
    }  # fmt: skip


def test_owner_catchup_and_bounds_are_explicit(dags: dict[str, Dag]) -> None:
    for dag_id, dag in dags.items():
        assert dag["owner"] in dag["owner_links"], dag_id
        assert dag["catchup"] is False, dag_id
        assert dag["max_active_runs"] == 1, dag_id
        assert dag["dagrun_timeout"], dag_id


def test_every_task_has_an_owner_retries_a_timeout_and_a_docstring(dags: dict[str, Dag]) -> None:
    for dag_id, task_id, task in _tasks(dags):
        where = f"{dag_id}.{task_id}"
        assert task["owner"], where
        assert task["timeout"] or task["response_timeout"], where
        assert task["retries"] >= 1 or (dag_id, task_id) in HAS_RETRIES_OF_ITS_OWN or task["response_timeout"], where
        assert task["doc"], where


def test_a_new_deployment_runs_nothing_at_once_but_the_supervisor(dags: dict[str, Dag]) -> None:
    """With a start date, Airflow runs every cron schedule's newest time as soon as it knows the DAG (seen in 3.3.2)."""
    assert {dag_id for dag_id, dag in dags.items() if dag["start_date"]} == {"streams_supervisor"}


def test_no_task_runs_as_long_as_a_stream(dags: dict[str, Dag]) -> None:
    longest = max(task["timeout"] or 0 for _, _, task in _tasks(dags))
    assert longest <= 3600


def test_pools_and_executors_are_those_that_every_deployment_has(dags: dict[str, Dag]) -> None:
    from headrace.orchestration.pools import BATCH_POOL

    assert {task["pool"] for _, _, task in _tasks(dags)} == {"default_pool", BATCH_POOL}
    assert {task["executor"] for _, _, task in _tasks(dags)} == {None}


def test_what_takes_a_gigabyte_is_bounded_by_one_pool_and_nothing_else_waits_in_it(dags: dict[str, Dag]) -> None:
    """Each finite Spark run, and each pass of Great Expectations. The supervisor never waits for them."""
    from headrace.orchestration.pools import BATCH_POOL

    heavy = {(dag_id, task_id) for dag_id, task_id, task in _tasks(dags) if task["pool"] == BATCH_POOL}
    spark = {(dag_id, task_id) for dag_id, task_id, _ in _tasks(dags) if task_id == "spark_run"}
    assert len(spark) >= 4
    assert heavy == spark | {("quality", "run_checks")}


def test_every_connection_is_one_that_the_deployments_declare(project: Path, dags: dict[str, Dag]) -> None:
    """A missing one silently becomes master `yarn` (Spark provider)."""
    used = {task["conn_id"] for _, _, task in _tasks(dags) if task["conn_id"]}
    from headrace.orchestration.dag_support import CONNECTIONS

    assert used <= set(CONNECTIONS)


def test_the_critical_orders_hold(dags: dict[str, Dag]) -> None:
    for dag_id, before, after in CRITICAL_EDGES:
        assert after in _after(dags[dag_id], before), f"{dag_id}: {before} before {after}"


@pytest.mark.parametrize(
    ("dag_id", "task_id"),
    [
        ("batch_views", "computed"), ("batch_views", "complete"), ("reconcile", "judge"), ("checkpoint_drill", "judge"),
        ("quality", "run_checks"), ("quality", "together"),
    ],
)  # fmt: skip
def test_a_mapped_task_that_fails_keeps_none_of_the_others_from_being_gathered(
    dags: dict[str, Dag], dag_id: str, task_id: str
) -> None:
    """With all_success one sink or pipeline silenced all others (B1). The direct upstream has what planned them too."""
    task = dags[dag_id]["tasks"][task_id]
    assert task["trigger_rule"].lower().endswith("all_done_min_one_success")


def test_a_run_fails_where_one_of_its_mapped_tasks_did(dags: dict[str, Dag]) -> None:
    """A run's state is that of its leaves: behind a task that runs after a failure there is one that fails for it."""
    leaves = {
        dag_id: [name for name, task in dag["tasks"].items() if not task["downstream"]] for dag_id, dag in dags.items()
    }
    assert "complete" in leaves["batch_views"]
    assert leaves["reconcile"] == leaves["checkpoint_drill"] == ["judge"]
    assert "gate" in leaves["quality"]
    assert leaves["checkpoint_compact"] == ["compact_files", "spark_run"]


def test_the_compaction_of_a_pipeline_that_fails_stops_no_upkeep_of_the_others(dags: dict[str, Dag]) -> None:
    assert _before(dags["checkpoint_compact"], "plan_upkeep") == set()


def test_a_destructive_act_stands_behind_an_approval_that_rejects_by_default(dags: dict[str, Dag]) -> None:
    gated = {dag_id for dag_id, dag in dags.items() if "destructive" in dag["tags"]}
    for dag_id, task_id, task in _tasks(dags):
        if not re.search(r"(^|_)act$", task_id):
            continue
        assert dag_id in gated, f"{dag_id} acts and is not tagged destructive"
        before = _before(dags[dag_id], task_id)
        approvals = [name for name in before if dags[dag_id]["tasks"][name]["type"] == "ApprovalOperator"]
        assert approvals, f"{dag_id}.{task_id} has no approval before it"
        assert task["trigger_rule"].endswith("ALL_SUCCESS") or task["trigger_rule"] == "all_success"
    for dag_id in gated:
        tasks = dags[dag_id]["tasks"]
        assert any(re.search(r"(^|_)act$", name) for name in tasks), f"{dag_id} names no act"
        for name, task in tasks.items():
            if task["type"] == "ApprovalOperator":
                assert task["defaults"] == ["Reject"] or task["defaults"] == "Reject", f"{dag_id}.{name}"
                assert task["response_timeout"], f"{dag_id}.{name}"


def test_each_approval_is_passed_on_with_the_id_of_its_plan(project: Path) -> None:
    """The acting task refuses another plan (ADR 48), so no task that plans again lies between approval and act."""
    for path in sorted((project / "dags").glob("*.py")):
        text = path.read_text()
        asked = set(re.findall(r"dag_support\.approval\(\s*(\w+),", text))
        passed_on = set(re.findall(r"dag_support\.approved\(planned, ti, dag_run, (\w+)", text))
        assert asked == passed_on, path.name
        assert "recheck" not in text, path.name


def test_the_forms_offer_the_pipelines_of_the_project(project: Path, dags: dict[str, Dag]) -> None:
    assert dags["stream_start"]["params"]["pipelines"] == sorted(load_pipelines(project / "pipelines"))
    for dag_id in ("stream_stop", "stream_pause", "stream_resume", "stream_restart"):
        assert dags[dag_id]["params"]["pipelines"] == [], f"{dag_id} must not act on all by default"


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [
        ("{}", set()),
        ("{fixed: {}}", set()),
        ("{staff: {refresh: {schedule: '5 3 * * 1'}}, doors: {refresh: {}}}", {"staff_refresh", "doors_refresh"}),
    ],
    ids=["no dimension", "none that is refreshed", "two"],
)
def test_each_refreshed_dimension_has_a_dag_and_an_asset_of_its_own(
    project: Path, tmp_path: Path, dimensions: str, expected: set[str]
) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "badges.yaml").write_text(f"dimensions: {dimensions}\n")
    (tmp_path / "dags").mkdir()
    shutil.copy(project / "dags" / "users_refresh.py", tmp_path / "dags")
    probed = _probe(tmp_path, tmp_path, "1")
    assert probed["errors"] == {}
    assert set(probed["dags"]) == expected
    for dag_id, dag in probed["dags"].items():
        assert f"headrace://dimensions/{dag_id.removesuffix('_refresh')}" in json.dumps(dag["serialised"])


def _after(dag: Dag, task_id: str) -> set[str]:
    return _reach(dag, task_id, "downstream")


def _before(dag: Dag, task_id: str) -> set[str]:
    return _reach(dag, task_id, "upstream")


def _reach(dag: Dag, task_id: str, side: str) -> set[str]:
    reached: set[str] = set()
    open_ends = [task_id]
    while open_ends:
        for name in dag["tasks"][open_ends.pop()][side]:
            if name not in reached:
                reached.add(name)
                open_ends.append(name)
    return reached
