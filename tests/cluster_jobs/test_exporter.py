"""What the exporter says of a deployment: verdicts, checks, checkpoints, and how a part that cannot be read shows."""

from __future__ import annotations

import datetime
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Never

import httpx
import pytest
from cassandra.cluster import NoHostAvailable
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from headrace.cluster import exporter, pki, server_health
from headrace.operations import retention
from headrace.operations.batch import reconcile
from headrace.operations.batch.reconcile import ComparedRow
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.drivers import desired_state
from headrace.operations.quality.status import MEANING
from headrace.operations.supervisor import memory
from headrace.store import failed_tasks, paths, small_files
from headrace.store.driver_files import ExitRecord


@pytest.fixture
def deployed(tmp_path: Path, project: Path) -> Deployment:
    local = LocalDrivers(run_dir=tmp_path, log_dir=tmp_path, tmp_dir=tmp_path, driver_bindings=tmp_path, environment={})
    return Deployment(project=project, root=str(tmp_path / "storage"), bindings=tmp_path / "none", drivers=local)


def scraped(exporting: exporter.Exporter) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(exporting)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def supervised(deployed: Deployment, pipeline: str, verdict: memory.Verdict, restarts_left: int | None = None) -> None:
    at_ms = int(time.time() * 1000) - 90_000
    memory.write(deployed.root, pipeline, memory.Supervision(verdict=verdict, at_ms=at_ms, restarts_left=restarts_left))


def wanted(deployed: Deployment, pipeline: str, want: desired_state.Want = "RUNNING") -> None:
    desired_state.write(deployed.root, pipeline, want, by="t", reason="test")


def test_a_pipeline_has_one_verdict_and_one_that_was_never_observed_is_unknown(deployed: Deployment) -> None:
    supervised(deployed, "pos_sales", "MISSING", restarts_left=3)
    wanted(deployed, "pos_sales")
    samples = scraped(exporter.Exporter(lambda: deployed))
    verdicts = {key[1:]: value for key, value in samples.items() if key[0] == "headrace_pipeline_verdict"}
    assert sum(value for key, value in verdicts.items() if "pos_sales" in key) == 1
    assert verdicts["MISSING", "pos_sales"] == verdicts["UNKNOWN", "web_events"] == 1
    assert samples["headrace_pipeline_wanted", "pos_sales"] == 1
    assert samples["headrace_pipeline_wanted", "web_events"] == 0
    assert samples["headrace_pipeline_restarts_left", "pos_sales"] == 3
    assert samples["headrace_pipeline_supervised_age_seconds", "pos_sales"] >= 90
    assert samples["headrace_exporter_part_up", "verdicts"] == 1


@pytest.mark.parametrize(
    ("ended", "error", "runbook"),
    [
        ("DAMAGED", "x lacks it (FILES_GONE). See docs/runbooks/CheckpointBehindSinks.md, usually: y", "CheckpointBehindSinks"),
        ("REFUSED", "recreated. See docs/runbooks/CheckpointOffsetsGone.md for what happens", "CheckpointOffsetsGone"),
        ("DAMAGED", "some data may have been lost (failOnDataLoss)", "CheckpointOffsetsGone"),
        ("DAMAGED", "CANNOT_LOAD_STATE_STORE: error reading delta file", "CheckpointStateDamaged"),
        ("DAMAGED", "Incomplete log file", "CheckpointLogDamaged"),
        ("REFUSED", "the plan changed", ""),
        ("TRANSIENT", "see docs/runbooks/CheckpointBehindSinks.md", ""),
    ],
)  # fmt: skip
def test_the_end_of_a_driver_names_the_runbook_of_its_checkpoint(ended: str, error: str, runbook: str) -> None:
    assert exporter.checkpoint_fault(ExitRecord(exit=ended, error=error)) == runbook
    assert runbook == "" or runbook in exporter.CHECKPOINT_RUNBOOKS


def test_the_runbooks_of_checkpoints_are_those_that_findings_name() -> None:
    from headrace.store.integrity import RUNBOOKS

    assert set(exporter.CHECKPOINT_RUNBOOKS) == set(RUNBOOKS.values()) - {""}


def test_a_checkpoint_fault_is_over_when_a_driver_runs_again_or_nobody_wants_one(deployed: Deployment) -> None:
    small_files.write_json(
        paths.outcome(deployed.root, "pos_sales"), {"exit": "DAMAGED", "error": "Incomplete log file"}
    )
    key = ("headrace_checkpoint_fault", "CheckpointLogDamaged", "pos_sales")
    wanted(deployed, "pos_sales")
    supervised(deployed, "pos_sales", "CRASH_LOOP")
    assert scraped(exporter.Exporter(lambda: deployed))[key] == 1
    supervised(deployed, "pos_sales", "HEALTHY")
    assert scraped(exporter.Exporter(lambda: deployed))[key] == 0


@pytest.mark.parametrize("status", MEANING)
def test_a_sink_has_the_status_of_its_newest_check_and_one_without_checks_says_nothing(
    deployed: Deployment, status: str
) -> None:
    checks = [{"checked_at_ms": 2_000, "status": status}, {"checked_at_ms": 1_000, "status": "FAILED"}]
    small_files.write_json(paths.quality_trend(deployed.root, "cassandra.pos_sales.tumbling"), checks)
    samples = scraped(exporter.Exporter(lambda: deployed))
    shown = {key[1:]: value for key, value in samples.items() if key[0] == "headrace_quality_status"}
    assert shown == {
        (meaning, "cassandra.pos_sales.tumbling", "pos_sales"): float(meaning == status) for meaning in MEANING
    }


def test_the_files_of_one_pipeline_that_cannot_be_read_hide_no_check_and_no_margin_of_another(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(paths.quality_trend(deployed.root, "cassandra.pos_sales.tumbling")).mkdir(parents=True)
    small_files.write_json(
        paths.quality_trend(deployed.root, "kafka.transformed"), [{"checked_at_ms": 1_000, "status": "FAILED"}]
    )

    def guard(_: object, name: str) -> retention.RetentionReport:
        if name == "pos_sales":
            raise OSError("Kafka does not answer")
        return retention.RetentionReport(name, "RETIRED")

    monkeypatch.setattr(retention, "guard", guard)
    exporting = exporter.Exporter(lambda: deployed)
    exporting.ask()
    samples = scraped(exporting)
    assert samples["headrace_exporter_part_up", "checks"] == samples["headrace_exporter_part_up", "retention"] == 0
    assert samples["headrace_quality_status", "FAILED", "kafka.transformed", "web_events"] == 1
    assert samples["headrace_retention_state", "RETIRED", "web_events"] == 1


def test_a_pipeline_that_cannot_be_read_is_unknown_and_hides_no_other(deployed: Deployment) -> None:
    path = Path(paths.supervision(deployed.root, "pos_sales"))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    supervised(deployed, "web_events", "HEALTHY")
    samples = scraped(exporter.Exporter(lambda: deployed))
    assert samples["headrace_pipeline_verdict", "UNKNOWN", "pos_sales"] == 1
    assert samples["headrace_pipeline_verdict", "HEALTHY", "web_events"] == 1


def test_a_part_that_cannot_be_read_is_down_and_hides_no_other(deployed: Deployment) -> None:
    Path(paths.quality_trend(deployed.root, "cassandra.pos_sales.tumbling")).mkdir(parents=True)
    exporting = exporter.Exporter(lambda: deployed)
    exporting.ask()  # no binding is there: neither Kafka nor a node can be asked
    samples = scraped(exporting)
    up = {key[1]: value for key, value in samples.items() if key[0] == "headrace_exporter_part_up"}
    assert up == {
        "verdicts": 1, "checks": 0, "volumes": 1, "tasks": 1, "retention": 0, "reconciliation": 1, "certificates": 0,
        "stores": 0, "airflow": 1,
    }  # fmt: skip


def test_the_newest_reconciliation_counts_differences_by_query(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    rows = [
        ComparedRow("new", at, "tumbling", "a", "windows", 1, 7, None, 9, 0, 0, 2, ""),
        ComparedRow("new", at, "tumbling", "b", "windows", 1, 7, None, 9, 0, 0, 1, ""),
        ComparedRow("new", at, "items", "a", "windows", 1, 7, None, 9, 0, 0, 0, ""),
        ComparedRow("old", at, "sliding", "a", "windows", 1, 7, None, 9, 0, 0, 9, ""),
    ]
    monkeypatch.setattr(reconcile, "trend", lambda root, name: rows if name == "pos_sales" else [])
    samples = {sample[:2]: sample[2] for sample in exporter.accounts(deployed)}
    assert samples["headrace_reconcile_differing", ("pos_sales", "tumbling")] == 3
    assert samples["headrace_reconcile_differing", ("pos_sales", "items")] == 0
    assert ("headrace_reconcile_differing", ("pos_sales", "sliding")) not in samples
    assert 7_000 < samples["headrace_reconcile_age_seconds", ("pos_sales",)] < 8_000


def test_retention_has_a_state_and_the_time_that_is_left(deployed: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        retention,
        "guard",
        lambda _, name: retention.RetentionReport(name, "AT_RISK", (), 60.0 if name == "pos_sales" else None),
    )
    samples = {sample[:2]: sample[2] for sample in exporter.margins(deployed)}
    assert samples["headrace_retention_state", ("pos_sales", "AT_RISK")] == 1
    assert samples["headrace_retention_state", ("pos_sales", "LOST")] == 0
    assert samples["headrace_retention_left_seconds", ("pos_sales",)] == 60
    assert ("headrace_retention_left_seconds", ("web_events",)) not in samples


def test_a_certificate_is_the_one_that_the_server_presents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "CONNECT_SECONDS", 300)
    authority = pki.make_authority("test")
    (tmp_path / "leaf.pem").write_text(pki.make_leaf(authority, "kafka", ["localhost"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            plain, _ = listening.accept()
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        shown = exporter.presented("127.0.0.1", listening.getsockname()[1])
        thread.join(300)
    assert pki.LEAF_DAYS - 1 < pki.days_left(shown) < pki.LEAF_DAYS


def test_a_task_that_failed_has_the_time_of_its_newest_failure(deployed: Deployment) -> None:
    failed_tasks.remember(deployed.root, "batch_views.build")
    small_files.write_json(f"{paths.failed_tasks(deployed.root)}/quality.check.json", {"at_ms": 5_000})
    samples = scraped(exporter.Exporter(lambda: deployed))
    assert samples["headrace_task_failed_seconds", "quality.check"] == 5
    assert 0 <= time.time() - samples["headrace_task_failed_seconds", "batch_views.build"] < 600


def brokers_of(*, up: Sequence[int], replicas: Sequence[int]) -> SimpleNamespace:
    partition = SimpleNamespace(replicas=replicas)
    return SimpleNamespace(brokers=dict.fromkeys(up), topics={"t": SimpleNamespace(partitions={0: partition})})


def endpoint(address: str, listening: socket.socket) -> SimpleNamespace:
    return SimpleNamespace(endpoint=SimpleNamespace(address=address, resolve=listening.getsockname))


def test_a_server_that_is_down_is_known_by_those_that_answer_and_one_system_that_is_down_hides_no_other(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = brokers_of(up=[0, 2], replicas=[0, 1, 2])
    kafka = SimpleNamespace(list_topics=lambda timeout: cluster if timeout else None)
    monkeypatch.setattr(server_health, "read_kafka", lambda _: None)
    monkeypatch.setattr(server_health, "read_cassandra", lambda _: None)
    monkeypatch.setattr(server_health, "kafka_admin", lambda _: kafka)

    def refuses(*_: object, **__: object) -> Never:
        raise NoHostAvailable("none", {})

    with socket.create_server(("127.0.0.1", 0)) as up, socket.socket() as down:
        down.bind(("127.0.0.1", 0))  # taken, and nobody listens
        hosts = [endpoint("10.0.0.1", up), endpoint("10.0.0.2", down)]

        @contextmanager
        def session(*_: object, **__: object) -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(cluster=SimpleNamespace(metadata=SimpleNamespace(all_hosts=lambda: hosts)))

        monkeypatch.setattr(server_health, "log_in", session)
        assert [(labels, value) for _, labels, value in server_health.stores(deployed)] == [
            (("kafka", "0"), 1), (("kafka", "1"), 0), (("kafka", "2"), 1),
            (("cassandra", "10.0.0.1"), 1), (("cassandra", "10.0.0.2"), 0),
        ]  # fmt: skip
    monkeypatch.setattr(server_health, "log_in", refuses)
    assert [labels for _, labels, _ in server_health.stores(deployed)][3:] == [("cassandra", "any")]


HEALTH = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": "2026-11-30T10:00:00+00:00"},
    "triggerer": {"status": None, "latest_triggerer_heartbeat": None},
}


@pytest.mark.parametrize(
    ("answer", "samples"),
    [
        (
            httpx.Response(200, json=HEALTH),
            [("airflow", "api-server", 1), ("postgresql", "any", 1), ("scheduler", 1796032800)],
        ),
        (
            httpx.Response(200, json={"metadatabase": {"status": "unhealthy"}, "scheduler": {"status": "unhealthy"}}),
            [("airflow", "api-server", 1), ("postgresql", "any", 0)],
        ),
        (httpx.Response(500, text="down"), [("airflow", "api-server", 0)]),
        (httpx.ConnectError("refused"), [("airflow", "api-server", 0)]),
    ],
)
def test_airflows_health_says_whether_its_database_answers_and_when_each_part_gave_a_heartbeat(
    deployed: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    answer: httpx.Response | Exception,
    samples: list[tuple[str | int, ...]],
) -> None:
    def get(address: str, timeout: float) -> httpx.Response:
        assert address == "http://airflow-api:8080/prefix/api/v2/monitor/health"
        assert timeout == server_health.ANSWER_SECONDS
        if isinstance(answer, Exception):
            raise answer
        answer.request = httpx.Request("GET", address)
        return answer

    monkeypatch.setattr(httpx, "get", get)
    assert list(server_health.airflow(deployed)) == [], "no address, no question"
    monkeypatch.setenv(server_health.AIRFLOW, "http://airflow-api:8080/prefix")
    assert [(*labels, value) for _, labels, value in server_health.airflow(deployed)] == samples


def test_every_metric_has_a_text_and_a_name_that_begins_with_the_project(deployed: Deployment) -> None:
    for name, (text, labels) in exporter.METRICS.items():
        assert re.fullmatch(r"headrace_[a-z_]+", name)
        assert text.endswith(".")
        assert labels
    assert json.dumps(sorted(exporter.METRICS)) == json.dumps(
        sorted(family.name for family in exporter.Exporter(lambda: deployed).collect())
    )
