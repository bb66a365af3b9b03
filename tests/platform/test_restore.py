"""A snapshot of a running pipeline, restored after more was processed: every sink and the accounting are exact again."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.access.bindings import ROOT_VARIABLE
from headrace.access.object_store import SCHEME
from headrace.contract import names
from headrace.contract.exit_codes import Exit
from headrace.contract.job_files import UpkeepSpec
from headrace.contract.load import load_pipeline
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.batch import job_runs
from headrace.operations.checkpoints import compact, drill, inspect, restore, snapshots, verify
from headrace.operations.clients import kafka_admin
from headrace.operations.drivers import generations
from headrace.operations.plans import Approval
from headrace.operations.produce.record import Record
from headrace.operations.provision.run import provision
from headrace.store import archive_notes, checkpoint_log, file_sink, generation, ledger, small_files, trees
from headrace.store import snapshot as kept
from headrace.store.job_reports import UpkeepReport
from headrace.store.records import to_json
from tests.support import actual, crash
from tests.support.batch import deployment_of
from tests.support.crashing import crashing, run_into
from tests.support.drivers import Stage, group_offsets, make_stage
from tests.support.events import stream
from tests.support.expected import FIVE_MINUTES, Oracle, final_watermark
from tests.support.objects import BUCKET, give
from tests.support.servers import wait_until

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

QUERIES = ("items", "product_totals", "tumbling", "final_windows")
SUFFIX, GIVEN_UP = "_restored", "_given_up"
TOPIC = f"pos{SUFFIX}"


def _with_files(content: dict[str, Any]) -> None:
    content["queries"]["files"] = content["queries"]["items"] | {"sinks": [{"kind": "files"}]}


@pytest.fixture(params=["a folder", pytest.param("an object store", marks=pytest.mark.long(group="checkpoints"))])
def stage(
    platform: Settings, project: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Any:
    changes: dict[str, Any] = {}
    if request.param == "an object store":
        bindings = request.getfixturevalue("object_store")
        monkeypatch.setenv(ROOT_VARIABLE, str(bindings))
        give(bindings, platform.bindings(), platform.bindings(f"pos_sales{SUFFIX}"))
        changes["root"] = f"{SCHEME}{BUCKET}/restored"
    made = make_stage(
        platform,
        project,
        tmp_path,
        "pos_sales",
        suffix=GIVEN_UP if request.param == "for a batch" else SUFFIX,
        queries=QUERIES,
        trigger="200 milliseconds",
        edit=_with_files,
        transforms="\n\nfiles = items\n",
        **changes,
    )
    yield made
    made.kill()


def _batches(stage: Stage) -> dict[str, int]:
    return {entry["query"]: entry["batches"] for entry in stage.heartbeat()["queries"]}


def _feed(stage: Stage, events: list[Record]) -> None:
    """Send events in bursts, so that they are in several batches."""
    for start in range(0, len(events), 80):
        stage.send((event.topic, event.key, event.value) for event in events[start : start + 80])
        time.sleep(0.4)


def test_a_snapshot_of_a_running_pipeline_restores_to_exact_sinks_and_accounting(
    stage: Stage, project: Path, seed: int
) -> None:
    events = list(stream(seed, {"pos": 2400}, hours=24, suffix=SUFFIX, products=30))
    dice = random.Random(seed)
    third = len(events) // 3
    queries = names.query_names(stage.pipeline)

    stage.start_and_wait()
    _feed(stage, events[: third // 2])
    stage.await_until(lambda: min(_batches(stage).values()) >= 1, "every query has written a batch")
    with ThreadPoolExecutor(1) as pool:
        feeding = pool.submit(_feed, stage, events[third // 2 : third])
        time.sleep(3 * dice.random())
        taken = snapshots.take_all(stage.root, stage.pipeline, reason="test")
        while not feeding.done():  # a running stream never looks damaged
            for report in verify.verify_all(stage.root, [stage.pipeline], stage.admin):
                assert report.findings == ()
        feeding.result()
    assert set(taken) == set(queries)
    with pytest.raises(HeadraceError, match="its driver runs"):
        restore.restore(stage.launcher, stage.pipeline, "tumbling", by="test", reason="while it runs")
    _feed(stage, events[third : 2 * third])
    stage.await_quiet()
    late = [event for event in events[:200] if event.value and event.value.startswith(b"{")]
    _feed(stage, late[:40])  # dropped here as late; in the one batch after the restore they come in time
    stage.await_quiet()
    assert stage.stop() == 0
    before = {query: stage.ledger(query) for query in queries}
    _require_drills(stage, project, taken)

    restored = restore.restore_all(
        stage.launcher, stage.pipeline, taken, by="test", reason="test", bindings=stage.admin
    )
    for query in queries:
        print(query, restored[query])
        now = stage.generation(query)
        cut = kept.read(stage.root, stage.name, query, taken[query])
        assert cut is not None
        assert (now.number, now.lineage, restored[query].sound) == (2, ((1, cut.batch),), True)
        # the ledger goes on where the cut was, and remembers what was before
        assert stage.ledger(query) == before[query][: cut.batch + 1]
        assert before[query][-1]["batch"] > cut.batch, f"{query} took no batch after the cut: nothing is restored"

    stage.start_and_wait()
    _feed(stage, events[2 * third :])
    stage.await_quiet()
    _feed(stage, late[40:80])
    topics = _require_exact_end(stage)
    assert all(report.sound for report in verify.verify_all(stage.root, [stage.pipeline], stage.admin))
    shown = inspect.inspect(stage.root, stage.name, "tumbling")
    assert (shown.current, len(shown.generations), len(shown.snapshots)) == (2, 2, 1)
    _require_upkeep(stage, project, topics)


def _require_exact_end(stage: Stage) -> dict[str, Any]:
    """Wait until every window is closed that the events close, stop, and compare all. Returns the topic's records."""
    ((topic, source),) = stage.pipeline.sources.items()
    topics = {topic: stage.read(topic)}
    oracle = Oracle(stage.pipeline.sources, topics)
    rows = oracle.rows[topic]
    stage.await_quiet(
        {
            name: final_watermark(source, rows, query.watermark[topic])
            for name, query in stage.pipeline.queries.items()
            if query.watermark
        }
    )
    assert stage.stop() == 0
    _require_exact(stage, oracle, topics)
    return topics


def _require_upkeep(stage: Stage, project: Path, topics: dict[str, Any]) -> None:
    """Gather and compact everything: all sinks and ledgers read as before, and the archive still knows what it has."""
    archive = names.archive_query(TOPIC)
    note = archive_notes.newest(stage.root, stage.name, archive)
    ledgers = {query: stage.ledger(query) for query in names.query_names(stage.pipeline)}
    rows = actual.lineage_rows(stage, "files", "product_id")
    for _ in range(2):
        compact.compact_queries(stage.root, stage.pipeline, closed_seconds=-1, singles=3)
    deployment = deployment_of(stage, project)
    given = job_runs.prepare(stage.root, "upkeep", stage.name, UpkeepSpec())
    upkeep = job_runs.execute(deployment, given, UpkeepReport)
    print(upkeep)
    assert set(to_json(upkeep.tables[archive])) == {"orphans_removed", "seconds"}, "its own writer does the rest"
    assert archive_notes.newest(stage.root, stage.name, archive) == note
    actual.same(actual.archive(stage, TOPIC), actual.as_archived(topics[TOPIC]), "archive")
    assert {query: stage.ledger(query) for query in ledgers} == ledgers
    assert actual.lineage_rows(stage, "files", "product_id") == rows
    assert all(report.sound for report in verify.verify_all(stage.root, [stage.pipeline], stage.admin))


def _require_drills(stage: Stage, project: Path, taken: dict[str, str]) -> None:
    """Drill a window query and the file sink: Spark comes to what the stream came to, and touches nothing of it."""
    deployment = deployment_of(stage, project)
    topics = (TOPIC, f"pos_items{SUFFIX}", names.dead_letter_topic(TOPIC))

    fs, root = small_files.locate(stage.root)

    def touched() -> object:
        there = {
            path: entry["mtime"]
            for folder in ("checkpoints", "files", "lake")
            for path, entry in fs.find(f"{root}/{folder}", detail=True).items()
        }
        groups = [group_offsets(stage.admin, names.consumer_group(stage.name, query)) for query in taken]
        return there, groups, [stage.ends(topic) for topic in topics]

    before = touched()
    for query in ("tumbling", "files"):
        report = drill.drill(deployment, stage.name, query)
        print(report)
        assert (report.ok, report.snapshot, report.differences) == (True, taken[query], ())
        # a window query's batch after the cut may be one without rows that only closes windows; a file sink has none such
        assert report.rows_in > 0 or query == "tumbling"
        wanted = {"offsets", "rows out", "watermark"} | (
            {"lines of the output files that differ"} if query == "files" else set()
        )
        assert set(report.compared) == wanted
    assert touched() == before
    assert trees.files(f"{stage.root}/scratch") == {}


def _require_exact(stage: Stage, oracle: Oracle, topics: dict[str, Any]) -> None:
    ledgers, suffix, (topic,) = actual.require_ledgers(stage), stage.name.removeprefix("pos_sales"), topics
    rows = oracle.rows[topic]
    actual.require_archive(stage, topic, topics[topic], rows)
    wanted = {actual.coordinates(topic, place): (row["product_id"], row["amount"]) for place, row in rows.items()}
    items, _ = actual.distinct(stage.read(f"pos_items{suffix}"))
    query = stage.pipeline.queries["items"]
    actual.same({name: actual.row_of(query, actual.parse(m.value)) for name, m in items.items()}, wanted, "items")

    now = stage.generation("files")
    there = file_sink.directories(stage.root, stage.name, "files", now.number, now.lineage)
    lines = [line for directory in there for line in actual.lines_of(directory)]
    files = [actual.row_of(query, actual.parse(line)) for line in lines]
    actual.same(sorted(files), sorted(wanted.values()), "files")

    name = stage.name
    actual.same(actual.totals(stage.table(name, "product_totals")), oracle.totals(topic), "product_totals")
    speed = oracle.windows(topic, ledgers["tumbling"], FIVE_MINUTES, FIVE_MINUTES)
    actual.same(actual.windows(stage.table(name, "tumbling")), speed, "tumbling")
    late = oracle.windows(topic, ledgers["tumbling"], FIVE_MINUTES, FIVE_MINUTES, late=True)
    assert late, "no record was late: the test tells nothing of the late rule"
    closed_us = ledgers["final_windows"][-1]["watermark_ms"] * 1000
    finals: dict[str, Any] = {}
    for message in sorted(stage.read(f"pos_final_windows{suffix}"), key=lambda m: int(m.header("headrace.generation"))):
        finals[message.header("headrace.id")] = message  # of one id, the newest generation's record is the one
    closed = {
        key: sums
        for key, sums in oracle.windows(topic, ledgers["final_windows"], FIVE_MINUTES, FIVE_MINUTES).items()
        if key[1] <= closed_us
    }
    actual.same(actual.windows(actual.parse(m.value) for m in finals.values()), closed, "final_windows")


def _committed(stage: Stage, query: str) -> int:
    newest = checkpoint_log.newest_batch(stage.generation(query).paths(stage.root).checkpoint)
    return -1 if newest is None else newest


def _planned(stage: Stage) -> dict[str, int]:
    """Return the queries without a watermark that have planned a batch and not committed it, with its number of offsets."""
    planned, queries = {}, stage.pipeline.queries
    for query in names.query_names(stage.pipeline):
        folder, newest = stage.generation(query).paths(stage.root).checkpoint, _committed(stage, query)
        watermark = query in queries and queries[query].watermark
        if not watermark and checkpoint_log.newest_batch(folder, "offsets") != newest:
            planned[query] = checkpoint_log.read_batch_range(folder, newest + 1).offsets
    return planned


@pytest.mark.long(group="checkpoints")
@pytest.mark.parametrize("stage", ["for a batch"], indirect=True)
def test_a_planned_batch_is_given_up_by_a_restore_and_planned_again_in_smaller_ones_and_what_it_wrote_counts_once(
    stage: Stage, tmp_path: Path, seed: int
) -> None:
    """A driver that has no memory for a batch repeats it forever, because the batch is in Spark's log (ADR 44)."""
    events = list(stream(seed, {"pos": 1200}, hours=24, suffix=GIVEN_UP, products=30))
    third, few, plan = len(events) // 3, 150, tmp_path / "plan.json"
    stage.start_and_wait()
    _feed(stage, events[:third])
    stage.await_quiet()
    assert stage.stop() == 0
    stage.send((event.topic, event.key, event.value) for event in events[third : 2 * third])
    killed = crashing(stage, plan)
    run_into(killed, plan, {"point": crash.AFTER_SINK, "query": "product_totals", "skip": 0, "delay_ms": 0})
    given_up = _planned(stage)
    assert given_up["product_totals"] > few, "its rows are written, and its batch is in no ledger"

    path = stage.launcher.project / "pipelines" / f"{stage.name}.yaml"
    content = yaml.safe_load(path.read_text())
    content.setdefault("driver", {})["max_offsets_per_trigger"] = few
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    stage.pipeline = load_pipeline(path)
    cuts = {query: _committed(stage, query) for query in given_up}
    taken = {query: snapshots.take(stage.root, stage.name, query, reason="give up").id for query in given_up}
    restored = restore.restore_all(stage.launcher, stage.pipeline, taken, by="test", reason="give up")
    assert all(report.sound for report in restored.values())
    assert not _planned(stage)

    stage.start_and_wait()
    _feed(stage, [*events[2 * third :], *events[: third // 10]])  # the last come late
    _require_exact_end(stage)
    for query, cut in cuts.items():
        again = [record for record in stage.ledger(query) if record["batch"] > cut]
        assert len(again) > 1
        assert max(map(ledger.offsets_taken, again)) <= few


def _make_again(stage: Stage, topic: str) -> None:
    """Delete a topic and provision it again, as soon as the broker no longer shows the old one."""
    client = kafka_admin(stage.admin)
    client.delete_topics([topic], operation_timeout=60)[topic].result(120)
    wait_until(lambda: topic not in client.list_topics(timeout=120).topics)
    provision([stage.pipeline], stage.settings.bindings(), stage.settings.home / "bindings")


@pytest.mark.long(group="checkpoints")
def test_a_topic_that_is_made_again_while_its_driver_runs_ends_it_and_one_command_reads_all_of_the_new_one(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    stage = make_stage(
        platform, project, tmp_path, "web_events", suffix="_again", queries=("files",), trigger="200 milliseconds"
    )
    topic = "quickstart_again"

    def event(number: int) -> tuple[str, bytes, bytes]:
        return topic, b"%d" % number, b'{"city":"C%d","domain":"d","event":"view"}' % number

    try:
        stage.start_and_wait()
        stage.send(event(n) for n in range(20))
        stage.await_quiet()
        _make_again(stage, topic)
        stage.send(event(n) for n in range(100, 200))  # longer than the old topic in each partition
        assert stage.await_end() != Exit.FINISHED
        stage.start()
        assert stage.await_end() == Exit.REFUSED, stage.log[-6000:]
        assert f"headrace stream start {stage.name} --new-generation all" in stage.log
        stage.start_and_wait(*generations.named(stage.pipeline, ["all"]))
        stage.await_quiet()
        assert stage.stop() == Exit.FINISHED
        assert sorted(int(city[1:]) for city in _cities(stage)) == list(range(100, 200))
        actual.same(actual.archive(stage, topic), actual.as_archived(stage.read(topic)), "archive")
        assert len(small_files.list_names(f"{stage.root}/set-aside")) == 1
    finally:
        stage.kill()


def _cities(stage: Stage) -> list[str]:
    directories = file_sink.directories(stage.root, stage.name, "files", stage.generation("files").number)
    return [str(actual.parse(line)["lower_city"]) for directory in directories for line in actual.lines_of(directory)]


@pytest.mark.long(group="platform")
def test_a_reset_by_time_begins_at_that_broker_time_with_a_new_directory_and_leaves_the_archive_complete(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    """Both queries are begun anew; the archive's rows that it has already are not appended again."""
    stage = make_stage(
        platform, project, tmp_path, "web_events", suffix="_reset", queries=("files",), trigger="200 milliseconds"
    )
    topic, archive = "quickstart_reset", "archive_quickstart_reset"

    def event(number: int) -> tuple[str, bytes, bytes]:
        return topic, b"d", b'{"city":"C%d","domain":"d","event":"view"}' % number

    try:
        stage.start_and_wait()
        stage.send(event(n) for n in range(50))
        time.sleep(1.1)
        middle_ms = time.time_ns() // 1_000_000
        time.sleep(1.1)
        stage.send(event(n) for n in range(50, 80))
        stage.await_quiet()
        assert stage.stop() == 0
        for query, at in (("files", middle_ms), (archive, None)):
            planned = restore.plan_reset(stage.launcher, stage.pipeline, query, at)
            approval = Approval(planned.id, by="test", reason="again from the middle")
            made = restore.reset(stage.launcher, stage.pipeline, query, approval, at)
            assert (made.number, made.starting_ms, made.reason) == (2, at, "again from the middle")
            assert made.fingerprint == {}
        stage.start_and_wait()
        stage.send(event(n) for n in range(80, 100))
        stage.await_until(lambda: stage.ledger(archive)[-1:] != [], "the archive has a batch")
        stage.await_until(lambda: len(actual.archive(stage, topic)) >= 100, "the archive has all")
        stage.await_until(lambda: len(_cities(stage)) >= 50, "the files have all")
        assert stage.stop() == 0
        assert len(actual.files(stage, "files")) == 50
        archived_rows = actual.archive(stage, topic)
        actual.same(archived_rows, actual.as_archived(stage.read(topic)), "archive")

        # A topic that was made again begins below what the archive has: its records would be taken for replays.
        _make_again(stage, topic)
        faults = {finding.fault for finding in verify.verify(stage.root, stage.pipeline, archive, stage.admin).findings}
        assert faults == {"OFFSETS_AHEAD", "TOPIC_REPLACED"}
        stage.start("files")
        assert stage.await_end() == Exit.REFUSED, stage.log[-6000:]
        assert f"Topic {topic} was deleted and recreated" in stage.log
        assert actual.archive(stage, topic) == archived_rows
    finally:
        stage.kill()
    first = generation.all_of(stage.root, stage.name, "files")[1]
    assert first.fingerprint, "the first driver wrote its plan into the manifest"
    directories = file_sink.directories(stage.root, stage.name, "files", 2)
    rows = [actual.parse(line) for directory in directories for line in actual.lines_of(directory)]
    assert sorted(int(row["lower_city"][1:]) for row in rows) == list(range(50, 100))
