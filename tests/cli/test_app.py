"""The command line: sentences, exit codes and JSON, without any server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.contract.files import pipeline_names
from headrace.contract.load import load_pipelines
from headrace.contract.names import query_names
from headrace.operations.drivers.local import LocalLauncher
from tests.operations import light_driver
from tests.support.platform import free_ports


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An empty home and ports on which nothing listens."""
    import os

    names = (
        "KAFKA_PORT",
        "KAFKA_CONTROLLER_PORT",
        "CASSANDRA_PORT",
        "CASSANDRA_STORAGE_PORT",
        "CASSANDRA_JMX_PORT",
        "AIRFLOW_PORT",
    )
    ports = {f"HEADRACE_{name}": str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
    return {**os.environ, **ports, "HEADRACE_HOME": str(tmp_path / "home"), "COLUMNS": "200"}


def headrace(environment: dict[str, str], project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in the project's folder."""
    command = [sys.executable, "-m", "headrace.cli.app", *arguments]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_status_of_a_stopped_platform_is_json_with_exit_code_3(environment: dict[str, str], project: Path) -> None:
    done = headrace(environment, project, "status", "--json")
    assert done.returncode == 3
    components = ("api-server", "scheduler", "dag-processor", "triggerer")
    assert {part["name"]: part["state"] for part in json.loads(done.stdout)} == dict.fromkeys(
        ("kafka", "cassandra", *(f"airflow-{name}" for name in components)), "STOPPED"
    )


def test_stream_status_has_a_row_for_every_query(environment: dict[str, str], project: Path) -> None:
    done = headrace(environment, project, "stream", "status", "--json")
    assert done.returncode == 3
    rows = json.loads(done.stdout)
    pipelines = load_pipelines(project / "pipelines").values()
    assert len(rows) == sum(len(query_names(pipeline)) for pipeline in pipelines), "declared and archive queries"
    assert {row["driver"] for row in rows} == {"NEVER RAN"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["stream", "status", "pos_sale"], "Unknown pipeline 'pos_sale'. Known pipelines: "),
        (["stream", "start", "--new-generation", "tumbling"], "--new-generation needs exactly one pipeline."),
        (
            ["stream", "start", "pos_sales"],
            "topics, tables and login are missing. Run `headrace provision pos_sales` first.",
        ),
        (["stream", "start", "pos_sales", "--new-generation", "x"], "Unknown query 'x' of pos_sales"),
        (["logs", "kafka"], "kafka has no log yet"),
        (["produce", "--topic", "pos"], "No binding at"),
        (["provision"], "No binding at"),
    ],
)
def test_a_fault_is_one_sentence_and_exit_code_1(
    environment: dict[str, str], project: Path, arguments: list[str], sentence: str
) -> None:
    done = headrace(environment, project, *arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_down_and_clean_of_nothing_are_no_fault(environment: dict[str, str], project: Path) -> None:
    assert headrace(environment, project, "down").returncode == 0
    assert headrace(environment, project, "clean", "--yes").returncode == 0


def test_a_misspelt_setting_is_refused_before_anything_starts(environment: dict[str, str], project: Path) -> None:
    done = headrace({**environment, "HEADRACE_KAFKA_HEAP": "much"}, project, "up")
    assert done.returncode == 1
    assert "kafka_heap" in done.stderr.lower()


@pytest.fixture
def with_a_broken_file(tmp_path: Path, project: Path) -> Path:
    """A copy of the project's pipelines, one of which does not load, with an editor's lock beside it."""
    folder = tmp_path / "copy" / "pipelines"
    shutil.copytree(project / "pipelines", folder)
    (folder / ".#pos_sales.yaml").symlink_to("ada@laptop.4711:1764400000")
    with (folder / "pos_sales.yaml").open("a") as file:
        file.write("colour: red\n")
    return folder.parent


def test_a_broken_file_of_one_pipeline_stops_no_command_of_another(
    environment: dict[str, str], with_a_broken_file: Path
) -> None:
    done = headrace(environment, with_a_broken_file, "stream", "status", "--json")
    reasons = {row["pipeline"]: row["reason"] for row in json.loads(done.stdout)}
    assert sorted(reasons) == pipeline_names(with_a_broken_file / "pipelines")
    assert "pos_sales.yaml: colour: unknown key" in reasons["pos_sales"]
    done = headrace(environment, with_a_broken_file, "stream", "stop", "--json")
    assert json.loads(done.stdout) == dict.fromkeys(sorted(reasons), "did not run")
    done = headrace(environment, with_a_broken_file, "checkpoint", "prune", "--json")
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (1, "prune")
    assert "Skipped: pipelines/pos_sales.yaml: colour: unknown key" in done.stderr
    done = headrace(environment, with_a_broken_file, "checkpoint", "prune", "pos_sales")
    assert (done.returncode, done.stdout) == (1, "")
    assert "colour: unknown key" in done.stderr


def test_down_ends_every_driver_whatever_the_pipeline_files_hold(
    environment: dict[str, str], with_a_broken_file: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    drivers = LocalLauncher(
        project=with_a_broken_file, root=str(home / "storage"), run_dir=home / "run", log_dir=home / "log",
        tmp_dir=home / "tmp", bindings=home, environment={}, main=Path(light_driver.__file__), grace_seconds=1,
    )  # fmt: skip
    for name in ("pos_sales", "removed"):  # one whose file does not load, one whose file is gone
        drivers.submit(name)
    try:
        assert drivers.running() == ["pos_sales", "removed"]
        done = headrace(environment, with_a_broken_file, "down")
        assert (done.returncode, done.stdout) == (0, "All drivers and servers are stopped.\n")
        assert drivers.running() == []
    finally:
        for name in ("pos_sales", "removed"):
            drivers.stop(name, 0)
