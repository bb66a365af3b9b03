"""A fifth pipeline in a copy of the real tree: its two files are all it needs, without a server.

docs/howto/add-a-pipeline.md prints the two files. tests/platform/test_new_pipeline.py runs them on real servers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest
import yaml

from headrace.cluster.bootstrap import Bootstrap, Config, System
from headrace.contract import batch_views, cassandra, kafka, names
from headrace.contract.checked_sinks import sinks_of
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.lineage import graph
from headrace.operations.pipelines.check import check
from headrace.operations.quality import offsets, suites, tasks
from headrace.operations.quality.summary import status_of
from headrace.operations.quality.validate import validate
from headrace.orchestration import page, page_quality
from headrace.store import spark_conf
from tests.cluster_jobs.test_bootstrap import Kept
from tests.dags.test_integrity import EXPECTED, _probe
from tests.operations.quality.frames import PARAMETERS, good_frame
from tests.support import charts, howto
from tests.support.expectations import import_great_expectations

NAME = "fridges"
COPIED = ("pipelines", "spark_jobs", "dags", "plugins", "helm", "docs/runbooks")
DIMENSION = {
    "keyspace": "cold_db",
    "table": "owners",
    "key": ["fridge_id"],
    "columns": {"fridge_id": {"type": "string", "required": True}, "owner": {"type": "string"}},
    "refresh": {},
    "quality": [{"expect_column_value_lengths_to_be_between": {"column": "owner", "max_value": 80}}],
}
DECLARED = {"expect_column_values_to_be_between": {"column": "celsius", "max_value": 60, "severity": "warning"}}


@pytest.fixture(scope="module")
def tree(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real tree with the page's two files; the description also has a dimension and an expectation."""
    folder = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        shutil.copytree(project / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    howto.write(folder)
    path = folder / "pipelines" / f"{NAME}.yaml"
    content = yaml.safe_load(path.read_text()) | {"dimensions": {"owners": DIMENSION}}
    content["queries"]["alarms"]["quality"] = [DECLARED]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def fifth(tree: Path) -> Pipeline:
    return load_pipelines(tree / "pipelines")[NAME]


@pytest.fixture
def deployed(tree: Path, tmp_path: Path) -> Deployment:
    folders = {name: tmp_path / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    for folder in folders.values():
        folder.mkdir()
    drivers = LocalDrivers(**folders, environment={})
    return Deployment(project=tree, root=str(tmp_path / "storage"), bindings=tmp_path / "admin", drivers=drivers)


def test_its_description_loads_beside_the_others_and_editors_accept_it(tree: Path, fifth: Pipeline) -> None:
    content = yaml.safe_load((tree / "pipelines" / f"{NAME}.yaml").read_text())
    jsonschema.validate(content, json.loads((tree / "pipelines" / "schema.json").read_text()))
    checked = check(tree)
    assert checked.faults == ()
    (created,) = [created for created in checked.pipelines if created.name == NAME]
    assert created.dags == ("owners_refresh",)
    assert [suite.name for suite in created.suites] == list(suites.suites(fifth))


def test_everything_that_servers_need_follows_from_its_description(fifth: Pipeline) -> None:
    topics = {topic.name for topic in kafka.topics(fifth)}
    assert topics == {"fridge_readings", names.dead_letter_topic("fridge_readings"), "fridge_alarms"}
    assert {acl.principal for acl in kafka.acls(fifth)} == {f"User:{NAME}"}
    assert {table.name for table in cassandra.tables(fifth)} == {"warmest", "owners"}
    assert {grant.role for grant in cassandra.grants(fifth)} == {NAME}
    assert spark_conf.spark_conf(fifth, "file:///lake")
    assert list(batch_views.views(fifth)) == ["warmest"]
    jobs = graph.stream_jobs(fifth, graph.Places("kafka://k:9092", "cassandra://c:9042", "s3a://bucket"))
    assert set(jobs) == set(names.query_names(fifth))


def test_its_suites_are_rendered_and_checked_without_a_file_of_their_own(tree: Path, fifth: Pipeline) -> None:
    assert not (tree / suites.FOLDER).exists()
    suites.render(tree)
    rendered = {path.stem for path in (tree / suites.FOLDER).iterdir()}
    assert set(suites.suites(fifth)) <= rendered
    shutil.rmtree(tree / suites.FOLDER)
    alarms = suites.suite_of(fifth, "kafka.fridge_alarms").expectations
    assert [expectation.kwargs for expectation in alarms if expectation.severity == "warning"][1] == {
        "column": "celsius",
        "max_value": 60,
    }
    assert set(suites.suites(fifth)) == {
        "cassandra.fridges.warmest",
        "kafka.fridge_alarms",
        "iceberg.fridges.archive_fridge_readings",
        "stage.fridges.owners",
    }


class _Empty:
    """A Kafka whose topics have no record."""

    def ends(self, topic: str) -> dict[int, int]:
        return {0: 0}

    begins = ends

    def since(self, topic: str, at_ms: int) -> dict[str, list[int]]:
        return {"0": [0, 0]}


def test_its_checks_are_planned_beside_those_of_the_others(
    deployed: Deployment, fifth: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def reader(*_: object) -> Iterator[_Empty]:
        yield _Empty()

    monkeypatch.setattr(offsets, "reader", reader)
    for name in deployed.pipelines():
        planned = tasks.plan_checks(deployed, name)
        assert {planned_check.window.kind for planned_check in planned} == {"nothing"}
        assert [planned_check.sink for planned_check in planned] == tasks.sink_names(deployed, name)
    assert set(suites.suites(fifth)) <= set(tasks.suite_names(deployed))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sink", ["cassandra.fridges.warmest", "kafka.fridge_alarms", "iceberg.fridges.archive_fridge_readings"]
)
def test_its_rows_are_validated_by_great_expectations(fifth: Pipeline, sink: str) -> None:
    import_great_expectations()
    (checked,) = [candidate for candidate in sinks_of(fifth) if candidate.name == sink]
    suite, frame = suites.suite_of(fifth, sink), good_frame(fifth, checked)
    outcomes, _ = validate(suite, frame, checked.key, PARAMETERS)
    assert [(outcome.text, outcome.error) for outcome in outcomes if not outcome.success] == []
    required = next(name for name, column in checked.columns.items() if column.required)
    broken, _ = validate(suite, frame.assign(**{required: None}), checked.key, PARAMETERS)
    assert status_of(broken) == "FAILED"
    assert f"column_values_to_not_be_null({required})" in {outcome.text for outcome in broken if not outcome.success}


@pytest.mark.slow
def test_the_dags_take_it_without_a_change(tree: Path, tmp_path: Path) -> None:
    probed = _probe(tree, tmp_path, "1")
    assert (probed["errors"], probed["warnings"], probed["used"], probed["heavy"]) == ({}, [], [], [])
    assert set(probed["dags"]) == EXPECTED | {"users_refresh", "owners_refresh"}
    assert NAME in probed["dags"]["quality"]["params"]["pipelines"]
    assert NAME in probed["dags"]["reconcile"]["params"]["pipelines"]


def test_the_streams_page_shows_it(deployed: Deployment, fifth: Pipeline) -> None:
    shown = {card.name: card for card in page.overview(deployed)}
    assert {query.query for query in shown[NAME].queries} >= set(fifth.queries)
    assert NAME in page.render("streams.html", title="Streams", nonce="n", pipelines=page.overview(deployed))
    assert [history.sink for history in page_quality.checks(deployed.root, fifth)] == list(suites.suites(fifth))


def test_a_cluster_makes_its_logins_and_bindings(tree: Path) -> None:
    kept = Kept()
    Bootstrap(
        Config(
            namespace="headrace",
            spark="spark",
            airflow="airflow",
            kafka=System(namespace="kafka"),
            cassandra=System(namespace="cassandra"),
            pipelines=tree / "pipelines",
        ),
        kept,
    ).run()
    for system in ("kafka", "cassandra"):
        assert kept.content["spark", names.binding_secret(system, NAME)]["username"] == names.principal(NAME)


@pytest.mark.parametrize("chart", charts.CHARTS)
def test_every_chart_renders_beside_it(tree: Path, monkeypatch: pytest.MonkeyPatch, chart: str) -> None:
    helm = charts.tool("helm")
    monkeypatch.setattr(charts, "ROOT", tree)
    monkeypatch.setattr(charts, "tool", lambda _: helm)
    done = charts.helm_template(chart)
    assert done.returncode == 0, done.stderr
