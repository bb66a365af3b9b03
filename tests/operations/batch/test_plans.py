"""What operators order and read of the batch layer, without Spark, Kafka or Cassandra."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import RunEvent
from openlineage.client.serde import Serde

from headrace.contract import batch_views
from headrace.contract.job_files import ReconcileSpec, ViewsSpec
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import retention
from headrace.operations.batch import job_runs, reconcile, serve, serve_layers, spark_runs
from headrace.operations.batch.view_plans import _days
from headrace.operations.dead_letters import reader
from headrace.operations.dead_letters.reader import Filter, Letter
from headrace.operations.deployment import Deployment, KubernetesDrivers, LocalDrivers
from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.lineage import emit, graph
from headrace.store import generation, paths, small_files
from headrace.store.job_reports import Account, Difference, ReconcileReport, ViewsReport
from headrace.store.records import to_json
from tests.support import lineage
from tests.support.platform import free_ports

PLACES = graph.Places("kafka://k:9092", "cassandra://c:9042", "s3://bucket")


@pytest.fixture(scope="module")
def pipelines(project: Path) -> dict[str, Pipeline]:
    return dict(load_pipelines(project / "pipelines"))


@pytest.fixture
def deployment(project: Path, tmp_path: Path) -> Deployment:
    folders = {name: tmp_path / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    drivers = LocalDrivers(**folders, environment={})
    return Deployment(project=project, root=str(tmp_path / "storage"), bindings=tmp_path / "admin", drivers=drivers)


def test_what_has_a_view_and_what_continues_it(pipelines: dict[str, Pipeline]) -> None:
    pos = pipelines["pos_sales"]
    expected = {
        "ad_attribution": ["attributed"],
        "pos_sales": ["product_totals", "tumbling", "sliding"],
        "user_logins": [],
        "web_events": [],
    }
    assert {name: list(batch_views.views(pipelines[name])) for name in expected} == expected
    assert batch_views.speed_windows(pos, "product_totals") == "tumbling"
    assert batch_views.settles_after(pos) == timedelta(minutes=20)
    assert batch_views.closed_until(pos, datetime(2026, 3, 2, 0, 19, tzinfo=UTC)) == date(2026, 3, 1)
    assert batch_views.closed_until(pos, datetime(2026, 3, 2, 0, 20, tzinfo=UTC)) == date(2026, 3, 2)


def test_days_far_apart_are_computed_at_once_and_large_ones_are_not() -> None:
    """C27: one late record on each of 400 days were 400 steps, one a day that has no neighbour."""
    days = [date(2025, 1, 1) + timedelta(days=2 * n) for n in range(400)]
    assert [len(chunk) for chunk in batch_views.chunks(days, dict.fromkeys(days, 1))] == [50] * 8
    assert [day for chunk in batch_views.chunks(days, {}) for day in chunk] == days
    assert [len(chunk) for chunk in batch_views.chunks(days[:9], {})] == [7, 2], "days of unknown size, a week at once"
    large = {days[1]: batch_views.CHUNK_RECORDS + 1, days[0]: 5, days[2]: 5}
    assert list(batch_views.chunks(days[:3], large)) == [[days[0]], [days[1]], [days[2]]]


def test_a_backfill_names_closed_days_in_order() -> None:
    closed = date(2026, 3, 5)
    assert _days(None, None, closed) is None
    assert _days("2026-03-01", "2026-03-03", closed) == ("2026-03-01", "2026-03-02", "2026-03-03")
    assert _days("2026-03-04", None, closed) == ("2026-03-04",)
    for first, last, message in (
        ("2026-03-04", "2026-03-05", "2026-03-05 is not closed yet"),
        ("2026-03-04", "2026-03-01", "before it begins"),
        ("March", None, "A backfill takes days as"),
    ):
        with pytest.raises(HeadraceError, match=message):
            _days(first, last, closed)


def test_an_order_names_its_run_and_a_new_order_of_the_run_takes_its_old_report_away(tmp_path: Path) -> None:
    root = str(tmp_path)
    given = job_runs.prepare(root, "views", "p", ViewsSpec(), "scheduled__2026-11-23T07:00:00+00:00")
    assert given.arguments == ("views", "p", "scheduled__2026-11-23T07_00_00_00_00")
    folder = paths.batch_run(root, "p", given.run)
    with pytest.raises(HeadraceError, match="left no report"):
        job_runs.result(root, "p", given.run, ViewsReport)
    small_files.write_json(f"{folder}/report.json", {"rows": {"totals": 1}})
    assert job_runs.result(root, "p", given.run, ViewsReport) == ViewsReport(rows={"totals": 1})
    assert job_runs.prepare(root, "views", "p", ViewsSpec(), given.run).run == given.run
    with pytest.raises(HeadraceError, match="left no report"):
        job_runs.result(root, "p", given.run, ViewsReport)


def test_old_runs_are_removed_and_new_ones_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runs, "KEPT_RUNS", 3)
    runs = [job_runs.prepare(str(tmp_path), "views", "p", ViewsSpec(), f"run-{n}").run for n in range(5)]
    assert small_files.list_names(paths.batch_run(str(tmp_path), "p", "").rstrip("/")) == runs[2:]


def test_the_environment_of_a_run_has_the_admins_bindings_and_no_secret(deployment: Deployment) -> None:
    environment = job_runs.environment(deployment, "pos_sales")
    assert environment["SERVICE_BINDING_ROOT"] == str(deployment.bindings)
    assert json.loads(environment["HEADRACE_SPARK_CONF"])["spark.driver.memory"] == job_runs.DRIVER_MEMORY
    assert not [name for name in environment if "PASSWORD" in name.upper()]


def test_on_a_cluster_a_run_has_none_of_the_settings_of_drivers_and_is_submitted_by_its_arguments(
    deployment: Deployment,
) -> None:
    pods = {
        "namespace": "spark",
        "image": "headrace-spark:1",
        "driver_template": Path("driver.yaml"),
        "executor_template": Path("executor.yaml"),
        "conf": {"spark.kubernetes.driver.request.cores": "100m"},
        "batch": {"namespace": "airflow", "template": "batch-pod.yaml", "memory": "2g"},
    }
    cluster = deployment.model_copy(
        update={"root": "file:///data", "drivers": KubernetesDrivers(kind="kubernetes", **pods)}
    )
    given = job_runs.prepare(deployment.root, "views", "pos_sales", ViewsSpec(), "run")
    submitted = spark_runs.submission(cluster, given)
    assert to_json(submitted) == {
        "name": "views-pos_sales", "application": "", "application_args": ["views", "pos_sales", "run"],
        "conf": {}, "env_vars": {},
    }  # fmt: skip
    environment = job_runs.environment(cluster, "pos_sales")
    assert environment["HEADRACE_STORAGE_ROOT"] == "file:///data"
    assert environment["SERVICE_BINDING_ROOT"] == str(deployment.bindings)
    assert environment["HEADRACE_PIPELINES"] == str(deployment.project / "pipelines")
    assert environment["SPARK_LOCAL_IP"] == "127.0.0.1"
    conf = json.loads(environment["HEADRACE_SPARK_CONF"])
    assert (conf["spark.driver.memory"], conf["spark.master"]) == ("2g", "local[2]")
    assert not [key for key in conf if "kubernetes" in key]


def test_a_reconciliation_that_cannot_be_is_refused_in_a_sentence(deployment: Deployment) -> None:
    given = reconcile.plan(deployment, "pos_sales", queries=["tumbling"], days=2, tolerance="0.01")
    assert isinstance(given.spec, ReconcileSpec)
    assert given.spec.tolerance == "0.01"
    assert given.spec.since_ms > 0
    for options, message in (
        ({"queries": ["tumblin"]}, "Unknown query 'tumblin' of pos_sales"),
        ({"tolerance": "NaN"}, "A tolerance is a number"),
        ({"tolerance": "-1"}, "A tolerance is a number"),
        ({"tolerance": "a cent"}, "A tolerance is a number"),
        ({"only_new": True, "days": 2}, "has no limit on days and no tolerance"),
        ({"only_new": True, "tolerance": "0.01"}, "has no limit on days and no tolerance"),
    ):
        with pytest.raises(HeadraceError, match=message):
            reconcile.plan(deployment, "pos_sales", **options)
    with pytest.raises(HeadraceError, match="Unknown pipeline 'sales'"):
        reconcile.plan(deployment, "sales")


def test_the_form_of_a_reconciliation_bounds_it_by_days_and_queries(deployment: Deployment) -> None:
    generation.begin(deployment.root, "pos_sales", "tumbling", {})
    generation.begin(deployment.root, "web_events", "files", {})

    def orders(**form: Any) -> dict[str, Any]:
        submitted = spark_runs.plan_reconcile(deployment, ["pos_sales", "web_events", "user_logins"], "r", **form)
        places = [submission.application_args[1:] for submission in submitted]
        return {
            name: small_files.read_json(f"{paths.batch_run(deployment.root, name, run)}/order.json")
            for name, run in places
        }

    every = orders(days=0, queries=[])
    assert {name: (order["queries"], order["since_ms"]) for name, order in every.items()} == {
        "pos_sales": (None, 0), "web_events": (None, 0),
    }  # fmt: skip
    assert {order["only_new"] for order in orders(days=0, queries=[], only_new=True).values()} == {True}
    assert {order["only_new"] for order in orders(days=2, queries=[], only_new=True).values()} == {False}
    chosen = orders(days=2, queries=["pos_sales.tumbling", "user_logins.last_login"])
    assert list(chosen) == ["pos_sales"]
    assert chosen["pos_sales"]["queries"] == ["tumbling"]
    assert chosen["pos_sales"]["since_ms"] == chosen["pos_sales"]["at_ms"] - 2 * 86_400_000
    with pytest.raises(HeadraceError, match=r"'tumbling' names no query: write PIPELINE\.QUERY"):
        orders(queries=["tumbling"])


def test_what_does_not_add_up_is_reported_with_key_batches_and_offsets() -> None:
    difference = Difference(
        "missing in the sink", {"product_id": "p7"}, batches=(3, 4, 5, 6, 7, 9), offsets={"pos/1": (5, 9)}
    )
    account = Account("tumbling", "table t", differing=2, differences=[difference] * 2, compared=9, status="FAILED")
    report = ReconcileReport("r", "p", 1, 2, accounts=(account,))
    named = r"tumbling: 2 \(missing in the sink product_id=p7, batches 3, 4 ... 9 \(6\), pos/1 5-9\)"
    with pytest.raises(HeadraceError, match=named):
        reconcile.require_even(report)
    assert len(json.dumps(to_json(reconcile.summary(report, named=1)))) < 700
    reconcile.require_even(replace(report, accounts=(replace(account, differing=0, status="PASSED"),)))


def test_a_report_that_compared_nothing_is_no_success_and_says_why() -> None:
    even = Account("items", compared=5, status="PASSED")
    behind = Account("tumbling", status="NOT_COMPARED", note="the archive is behind")
    young = Account("sliding", status="EMPTY")

    def report(*accounts: Account) -> ReconcileReport:
        return ReconcileReport("r", "p", accounts=accounts)

    reconcile.require_even(report(even, young))
    with pytest.raises(HeadraceError, match=r"p was not compared: tumbling \(the archive is behind\)"):
        reconcile.require_even(report(even, behind))
    with pytest.raises(HeadraceError, match="p was not compared: nothing of it"):
        reconcile.require_even(report(young))
    reconcile.require_even(report())


def test_an_account_has_one_status_and_passes_only_by_what_it_compared() -> None:
    blocked = Account("q", "s", "k")
    blocked.block("the archive is away")
    assert blocked.note == "the archive is away"
    for account, status in (
        (Account("q", "s", "k"), "EMPTY"),
        (Account("q", "s", "k", compared=3), "PASSED"),
        (Account("q", "s", "k", compared=3, differing=1, blocked=True), "FAILED"),
        (Account("q", "s", "k", exempt=True), "EXEMPT"),
        (blocked, "NOT_COMPARED"),
    ):
        account.judge()
        assert account.status == status


def run_event(job: graph.LineageJob, kind: emit.Kind = "RUNNING") -> RunEvent:
    at_ms, run = 1_800_000_000_000, "8d5e6f2c-0000-5000-8000-000000000000"
    return emit.event(job, run, kind, at_ms, {"generation": 2})


def told_of(job: graph.LineageJob) -> dict[str, Any]:
    return Serde.to_dict(run_event(job))


def test_lineage_of_every_pipeline_leads_from_its_topics_to_all_its_sinks(pipelines: dict[str, Pipeline]) -> None:
    events = [
        told_of(job)
        for pipeline in pipelines.values()
        for job in [*graph.stream_jobs(pipeline, PLACES).values(), *graph.view_jobs(pipeline, PLACES).values()]
    ]
    edges = lineage.graph(events)
    reached = lineage.downstream(edges, "kafka://k:9092/pos")
    assert "cassandra://c:9042/pos_sales.tumbling" in reached
    assert "kafka://k:9092/pos_final_windows" in reached
    assert "s3://bucket/lake/pos_sales.batch_sliding" in reached, "over the archive"
    assert "kafka://k:9092/transformed" not in reached
    assert "cassandra://c:9042/test_db.users" in lineage.downstream(edges, "kafka://k:9092/logins")
    assert "kafka://k:9092/logins_dead_letters" in lineage.downstream(edges, "cassandra://c:9042/test_db.users")
    assert "s3://bucket/files/web_events/files" in lineage.downstream(edges, "kafka://k:9092/quickstart")
    (tumbling,) = [event for event in events if event["job"]["name"] == "pos_sales.tumbling"]
    fields = {field["name"]: field["type"] for field in tumbling["outputs"][0]["facets"]["schema"]["fields"]}
    assert fields["total_amount"] == "decimal(22,2)"


def test_lineage_events_reach_an_endpoint_and_one_that_is_away_fails_nothing(
    pipelines: dict[str, Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[tuple[str, Any]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, json.loads(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    job = graph.stream_jobs(pipelines["pos_sales"], PLACES)["tumbling"]
    first, last = run_event(job), run_event(job, "COMPLETE")

    def serve(*events: RunEvent) -> None:
        server = HTTPServer(("127.0.0.1", port), Endpoint)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            assert emit.emit(str(tmp_path), events) == ""
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    monkeypatch.setattr(emit, "HTTP_SECONDS", 120)
    (port,) = free_ports(1)  # nobody else's while it is closed
    serve(first)
    assert got == [("/api/v1/lineage", told_of(job))]
    assert "did not take the events" in emit.emit(str(tmp_path), [first, last])
    serve()
    assert [event["eventType"] for _, event in got] == ["RUNNING", "COMPLETE"], (
        "each once, the second when it came back"
    )
    monkeypatch.setenv("OPENLINEAGE_URL", "file:///etc/passwd")
    assert "no HTTP address" in emit.emit(str(tmp_path), [first])
    assert [event["eventType"] for event in graph.events(str(tmp_path))] == ["COMPLETE"]


def test_windows_are_read_by_their_starts_and_too_many_are_refused() -> None:
    noon, five = datetime(2026, 3, 1, 12, tzinfo=UTC), timedelta(minutes=5)
    assert serve_layers.window_starts(noon, noon + 2 * five, five) == [noon, noon + five]
    assert serve_layers.window_starts(noon - timedelta(seconds=1), noon + timedelta(seconds=1), five) == [noon]
    assert serve_layers.window_starts(noon, noon, five) == []
    two = timedelta(minutes=2)
    assert serve_layers.window_starts(noon, noon + 2 * five, five, two) == [noon + two, noon + five + two]
    with pytest.raises(HeadraceError, match="are too many to read one by one"):
        serve_layers.window_starts(noon - timedelta(days=365), noon, five)


def test_a_question_that_cannot_be_answered_names_what_can(deployment: Deployment) -> None:
    for name, keys, options, message in (
        ("final_windows", {}, {}, "serves no 'final_windows': there is product_totals, tumbling, sliding"),
        ("tumbling", {"product": "p1"}, {}, "'product' is no key of tumbling: its keys are product_id"),
        ("tumbling", {}, {}, "say from when with --since"),
        ("product_totals", {}, {"since": datetime(2026, 3, 1, tzinfo=UTC)}, "ask a windowed query"),
    ):
        with pytest.raises(HeadraceError, match=message):
            serve.query(deployment, "pos_sales", name, keys, **options)  # type: ignore[arg-type]
    with pytest.raises(HeadraceError, match="is served by key: give impr_uuid="):
        serve.query(deployment, "ad_attribution", "attributed")


def test_a_total_of_days_that_lack_a_column_is_not_served(deployment: Deployment) -> None:
    state = {"horizon": "2026-03-05", "days": {}, "stale": ["2026-03-01", "2026-03-02"]}
    small_files.write_json(paths.view_state(deployment.root, "pos_sales"), state)
    with pytest.raises(
        HeadraceError, match=r"2 days of the views of pos_sales lack a column.*: headrace batch views pos_sales"
    ):
        serve.query(deployment, "pos_sales", "product_totals")


def test_letters_are_chosen_by_all_that_is_given() -> None:
    letter = Letter("pos/1/7", "pos", 1, 7, 1_000, "missing: amount", "q", "3", b"\xff", None)
    assert Filter(reason="missing", partition=1, offsets=(7, 9), since_ms=1_000, until_ms=1_001).takes(letter)
    for wrong in (
        Filter(reason="miss_"), Filter(partition=0), Filter(offsets=(8, 9)), Filter(since_ms=1_001),
        Filter(until_ms=1_000), Filter(ids=frozenset({"pos/1/8"})),
    ):  # fmt: skip
        assert not wrong.takes(letter), wrong
    shown = reader.shown(letter)
    assert (shown.key, shown.value, shown.word) == ("base64:/w==", None, "missing")


def test_the_guard_says_what_is_lost_and_where() -> None:
    place = retention.Place("tumbling", "pos", 0, "LOST", 5, 9, 12, 0.0)
    lost = retention.RetentionReport("p", "LOST", (place,))
    with pytest.raises(HeadraceError, match=r"p\.tumbling at pos/0 offset 5 has lost 4 records"):
        retention.require_kept(lost)
    retention.require_kept(retention.RetentionReport("p", "OK"))


def test_the_guard_reckons_with_what_kafka_keeps_now() -> None:
    """B22: it took the retention of the pipeline file, whatever the topic has."""
    week = {"cleanup.policy": "delete", "retention.ms": "604800000", "retention.bytes": "-1"}
    assert retention.kept_of(week) == retention.TopicRetention(timedelta(days=7))
    assert retention.kept_of(week | {"retention.bytes": "1000"}).bytes_ == 1000
    assert retention.kept_of(week | {"retention.ms": "-1"}).time == retention.FOR_EVER
    assert retention.kept_of(week | {"retention.ms": str(2**63 - 1)}).time == retention.FOR_EVER
    assert retention.kept_of(week | {"cleanup.policy": "compact"}).time == retention.FOR_EVER


def test_a_pipeline_that_is_stopped_for_longer_than_its_topics_keep_anything_is_retired() -> None:
    week, hour_ms = {"pos": retention.TopicRetention(timedelta(days=7))}, 3_600_000
    stopped = DesiredState("STOPPED", "no longer needed", at_ms=hour_ms)
    assert not retention.is_retired(stopped, week, hour_ms * 24 * 7)
    assert retention.is_retired(stopped, week, hour_ms * 24 * 8)
    assert not retention.is_retired(
        stopped, week | {"clicks": retention.TopicRetention(retention.FOR_EVER)}, hour_ms * 24 * 8
    )
    assert not retention.is_retired(DesiredState("RUNNING", "it runs", at_ms=hour_ms), week, hour_ms * 24 * 8)
    assert not retention.is_retired(DesiredState(), week, hour_ms * 24 * 8), "nobody ever wanted anything of it"
    retention.require_kept(retention.RetentionReport("p", "RETIRED"))


def test_a_pipeline_that_was_only_wanted_or_observed_has_nothing_to_reconcile(tmp_path: Path) -> None:
    from headrace.operations.drivers import desired_state
    from headrace.store import small_files

    desired_state.write(str(tmp_path), "pos_sales", "STOPPED", "a test", "not yet")
    small_files.write_json(paths.supervision(str(tmp_path), "pos_sales"), {})
    assert not reconcile.has_run(str(tmp_path), "pos_sales")
    generation.begin(str(tmp_path), "pos_sales", "items", {})
    assert reconcile.has_run(str(tmp_path), "pos_sales")
