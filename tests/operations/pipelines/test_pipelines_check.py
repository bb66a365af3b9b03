"""`headrace pipeline check`: every fault of every file, and what each pipeline creates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli.pipeline import pipeline as command
from headrace.contract import cassandra, kafka
from headrace.contract.load import load_pipelines
from headrace.errors import HeadraceError
from headrace.operations.pipelines.check import check
from headrace.operations.quality.suites import suites
from headrace.orchestration import dag_support
from headrace.store.records import to_json


@pytest.fixture
def tree(tmp_path: Path, project: Path) -> Path:
    for folder in ("pipelines", "spark_jobs"):
        shutil.copytree(project / folder, tmp_path / folder)
    return tmp_path


def test_every_pipeline_shows_what_it_creates(project: Path) -> None:
    checked = check(project)
    assert checked.faults == ()
    assert json.loads(json.dumps(to_json(checked))) == to_json(checked)
    shown = {created.name: created for created in checked.pipelines}
    pipelines = load_pipelines(project / "pipelines")
    assert list(shown) == list(pipelines)
    for name, pipeline in pipelines.items():
        created = shown[name]
        assert {topic.name for topic in created.topics} == {topic.name for topic in kafka.topics(pipeline)}
        tables = {table.name: table for table in created.tables}
        for declared in cassandra.tables(pipeline):
            table = tables[f"{declared.keyspace}.{declared.name}"]
            assert table.columns == declared.columns
            assert (*table.partition_key, *table.clustering_key) == declared.key
        assert [suite.name for suite in created.suites] == list(suites(pipeline))
        assert len(created.queries) == len(pipeline.queries) + len(pipeline.sources)


def test_the_json_of_a_check_keeps_its_keys(project: Path) -> None:
    result = to_json(check(project, ["pos_sales"]))
    (created,) = result["pipelines"]
    assert list(result) == ["faults", "pipelines"]
    assert list(created) == [
        "name", "owner", "description", "topics", "tables", "archives", "users", "queries", "suites", "dags",
    ]  # fmt: skip
    assert list(created["topics"][0]) == ["name", "partitions", "config"]
    assert list(created["tables"][0]) == ["name", "columns", "partition_key", "clustering_key", "written"]
    assert list(created["users"]) == ["kafka", "kafka_rights", "cassandra", "cassandra_rights"]
    assert list(created["queries"][0]) == ["name", "group", "mode", "trigger", "checkpoint", "files"]
    assert list(created["suites"][0]) == ["name", "expectations", "critical"]


def test_the_dags_of_a_pipeline_are_those_that_airflow_builds(project: Path, tree: Path) -> None:
    text = (tree / "pipelines" / "user_logins.yaml").read_text().replace("name: user_logins", "name: other")
    text = text.replace("test_db", "other_db").replace("logins:", "more_logins:").replace("[logins]", "[more_logins]")
    (tree / "pipelines" / "other.yaml").write_text(text)
    for place in (project, tree):
        named = {
            dimension.name for dimension in dag_support.refreshed_dimensions(str(place / "dags" / "users_refresh.py"))
        }
        shown = [dag for created in check(place).pipelines for dag in created.dags]
        assert sorted(shown) == sorted(f"{name}_refresh" for name in named)


def test_a_fault_of_one_file_is_reported_and_the_others_are_shown(tree: Path) -> None:
    path = tree / "pipelines" / "pos_sales.yaml"
    path.write_text(path.read_text().replace("owner: retail-data", "owner: 1"))
    checked = check(tree)
    assert [line.split(": ", 1)[1] for line in checked.faults] == ["owner: Input should be a valid string (it is 1)."]
    assert "pos_sales" not in [created.name for created in checked.pipelines]
    assert check(tree, ["web_events"]).faults == (), "another pipeline's fault is not asked for"
    assert len(check(tree, ["pos_sales"]).faults) == 1
    with pytest.raises(HeadraceError, match="pos_sale'"):
        check(tree, ["pos_sale"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(None, "missing; write one function for each query: files, topic.", id="no file"),
        pytest.param(
            "def files(quickstart):\n    return 1\n",
            "the query topic has no transform; write a function topic.",
            id="one",
        ),
        pytest.param("def files(:\n", "not a Python file", id="no Python"),
    ],
)
def test_a_query_without_its_transform_is_a_fault(tree: Path, text: str | None, says: str) -> None:
    path = tree / "spark_jobs" / "web_events.py"
    path.unlink()
    if text is not None:
        path.write_text(text)
    (fault,) = check(tree).faults
    assert fault.startswith(f"{path}: ")
    assert says in fault


def _run(*words: Any) -> tuple[int, str, str]:
    done = CliRunner().invoke(command, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_ends_with_1_for_a_fault_and_says_it_on_stderr(tree: Path) -> None:
    code, said, wrong = _run("check", "--folder", tree)
    assert (code, wrong) == (0, "")
    assert "pipelines are right: ad_attribution," in said
    assert "cassandra.pos_sales.tumbling" in said
    (tree / "spark_jobs" / "web_events.py").unlink()
    code, said, wrong = _run("check", "web_events", "--folder", tree, "--json")
    assert code == 1
    assert json.loads(said)["faults"][0].endswith("write one function for each query: files, topic.")
    code, said, wrong = _run("check", "--folder", tree)
    assert (code, "web_events.py: missing" in wrong, "are right" in said) == (1, True, False)
