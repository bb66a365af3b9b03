"""Complete checks without servers: a JSON file sink and its ledger are real; Kafka's ends are given, Cassandra takes nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from headrace.cli import quality
from headrace.errors import HeadraceError
from headrace.operations.checkpoints import compact
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.drivers import desired_state
from headrace.operations.quality import bounds, checks, findings, offsets, position, steps, store, tasks, trend
from headrace.operations.quality.status import EXIT_CODES
from headrace.operations.quality.suites import Suite
from headrace.operations.quality.summary import Summary, coverage_words
from headrace.operations.quality.validate import Outcome
from headrace.operations.quality.windows import nothing
from headrace.orchestration import page_quality
from headrace.store import generation, ledger, paths, records
from headrace.store.checkpoint_log import BatchRange
from headrace.store.generation import Generation
from tests.cli.conftest import use

NAME, SINK, TOPIC_SINK = "web_events", "files.web_events.files", "kafka.transformed"
ARCHIVE = "iceberg.web_events.archive_quickstart"
GOOD = {"lower_city": "oslo", "domain": "a.example", "behavior": "a.example:view"}
BAD = GOOD | {"lower_city": "OSLO"}
NOW_MS = 1_800_000_000_000


def judged(
    suite: Suite, frame: pd.DataFrame, key: tuple[str, ...], parameters: dict[str, float]
) -> tuple[list[Outcome], dict[str, Any]]:
    """Judge as Great Expectations would (`test_planted_faults`), two expectations only and without its 10 s."""
    del key
    wanted = {
        "column_values_to_match_regex(lower_city)": [name for name in frame["lower_city"] if name != name.lower()],
        "table_row_count_to_equal()": [] if len(frame) == parameters["rows_out"] else [len(frame)],
    }
    outcomes, results = [], []
    for expectation in suite.expectations:
        columns = (expectation.kwargs["column"],) if "column" in expectation.kwargs else ()
        made = Outcome(expectation.id, expectation.type, columns, expectation.severity, expectation.meta["why"], True)
        wrong = wanted.get(made.text, [])
        outcomes.append(replace(made, success=not wrong, unexpected=len(wrong)))
        results.append({"success": not wrong, "expectation_config": {"id": expectation.id}})
    return outcomes, {"results": results}


def through_json(document: Any) -> Any:
    """Pass a document between tasks, as Airflow does."""
    again = records.from_json(type(document), json.loads(json.dumps(records.to_json(document))))
    assert again == document
    return again


@dataclass
class Kafka:
    """Stands for `offsets.TopicOffsets`: a topic has one partition with so many records, or it is missing.

    `fresh` is how many of them came just now.
    """

    records: dict[str, int] = field(default_factory=lambda: {"quickstart": 0, "transformed": 0})
    fresh: int = 0

    def ends(self, topic: str) -> dict[int, int]:
        if topic not in self.records:
            raise HeadraceError(f"Kafka has no topic {topic}: run `headrace provision`.")
        return {0: self.records[topic]}

    def begins(self, topic: str) -> dict[int, int]:
        return dict.fromkeys(self.ends(topic), 0)

    def since(self, topic: str, at_ms: int) -> dict[str, list[int]]:
        assert at_ms <= NOW_MS
        return {str(p): [end - self.fresh, end] for p, end in self.ends(topic).items()}


@dataclass
class Site:
    """A deployment whose pipeline `web_events` has written batches of JSON files."""

    deployment: Deployment
    kafka: Kafka
    kept: list[Any]
    batches: int = 0

    def write(self, *batches: list[dict[str, Any]], query: str = "files", written_ms: int = NOW_MS - 1000) -> None:
        if generation.current(self.deployment.root, NAME, query) is None:
            generation.write(self.deployment.root, Generation(NAME, query, 1, 0, {}))
        for rows in batches:
            self.put(self.batches, rows)
            taken = BatchRange(self.batches, {}, {"quickstart": {0: 0}}, 0, 0)
            made = ledger.make_record(
                query, 1, taken, rows_out=len(rows), began_ms=written_ms, written_ms=written_ms, rows_in=len(rows)
            )
            ledger.write(paths.generation_paths(self.deployment.root, NAME, query, 1).ledger, made)
            self.batches += 1

    def put(self, batch: int, rows: list[dict[str, Any]]) -> None:
        folder = Path(paths.generation_paths(self.deployment.root, NAME, "files", 1).files) / f"batch_id={batch}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "part-00000.json").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def check(self, seconds: float = 600, since_ms: int | None = None) -> dict[str, Summary]:
        planned = [through_json(check) for check in tasks.plan_checks(self.deployment, NAME, since_ms=since_ms)]
        summaries = tasks.run_checks(self.deployment, NAME, planned, seconds=seconds)
        return {summary.sink: through_json(summary) for summary in summaries}

    def files(self, **how: Any) -> Any:
        return self.check(**how)[SINK]


@pytest.fixture
def site(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folders = {name: tmp_path / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    drivers = LocalDrivers(**folders, environment={})
    root, bindings = str(tmp_path / "storage"), tmp_path / "admin"
    made = Site(Deployment(project=project, root=root, bindings=bindings, drivers=drivers), Kafka(), [])

    @contextmanager
    def reader(*_: object) -> Iterator[Kafka]:
        yield made.kafka

    monkeypatch.setattr(offsets, "reader", reader)
    monkeypatch.setattr(time, "time_ns", lambda: NOW_MS * 1_000_000)
    monkeypatch.setattr(checks, "validate", judged)
    monkeypatch.setattr(store, "record", lambda _, summary, rows: made.kept.append((summary, rows)))
    return made


def shut(summary: Summary) -> str:
    with pytest.raises(HeadraceError) as refused:
        tasks.gate(summary)
    return str(refused.value)


def test_a_sink_that_cannot_be_read_is_its_own_result_and_hides_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: a lost topic, table or archive raised, and every gate of every pipeline was upstream_failed."""
    site.write([GOOD], [GOOD])
    site.batches = 0
    site.write([GOOD], query="topic")
    site.batches = 0
    site.write([GOOD], query="archive_quickstart")
    site.put(0, [GOOD])
    del site.kafka.records["transformed"]
    as_it_is = steps.steps

    def dropped(deployment: Deployment, sink: Any, check: Any) -> Any:
        if sink.name == ARCHIVE:
            raise ConnectionError("the table was dropped\nand more")
        return as_it_is(deployment, sink, check)

    monkeypatch.setattr(steps, "steps", dropped)
    summaries = site.check()
    assert {sink: summary.status for sink, summary in summaries.items()} == {
        SINK: "PASSED",
        TOPIC_SINK: "UNREADABLE",
        ARCHIVE: "UNREADABLE",
    }
    assert tasks.gate(summaries[SINK]).startswith(f"{SINK} (generation 1 batches 0 to 1): PASSED, 2 rows, 2 batches")
    assert "could not be read: Kafka has no topic transformed" in shut(summaries[TOPIC_SINK])
    assert shut(summaries[ARCHIVE]).endswith("could not be read: ConnectionError: the table was dropped")
    assert tasks.act(site.deployment, list(summaries.values()), by="test") == []
    histories = page_quality.checks(site.deployment.root, site.deployment.pipeline(NAME))
    shown = {history.sink: history.newest for history in histories}
    assert [(newest.status, newest.page) for newest in [shown[TOPIC_SINK]] if newest] == [("UNREADABLE", "")]
    assert position.read(site.deployment.root, ARCHIVE) == position.Position(), "what was not checked is checked next"


def test_a_pipeline_that_cannot_be_planned_is_a_result_of_its_own_sinks(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    del site.kafka.records["quickstart"]
    summaries = site.check()
    assert {summary.status for summary in summaries.values()} == {"UNREADABLE"}
    assert set(summaries) == {SINK, TOPIC_SINK, ARCHIVE}

    @contextmanager
    def away(*_: object) -> Iterator[Kafka]:
        raise HeadraceError("Kafka did not answer.")
        yield

    monkeypatch.setattr(offsets, "reader", away)
    assert {summary.window.reason for summary in site.check().values()} == {"Kafka did not answer."}
    (of_none,) = tasks.run_checks(site.deployment, "nobody", tasks.plan_checks(site.deployment, "nobody"))
    assert (of_none.sink, of_none.status) == ("nobody", "UNREADABLE")


def test_the_sinks_of_a_check_that_died_are_unreadable(site: Site) -> None:
    site.write([GOOD])
    alive = list(site.check().values())
    summaries = tasks.complete(site.deployment, [NAME, "user_logins"], alive)
    assert summaries[: len(alive)] == alive
    assert {summary.pipeline for summary in summaries[len(alive) :]} == {"user_logins"}
    assert {summary.status for summary in summaries[len(alive) :]} == {"UNREADABLE"}
    assert "see the log of plan_checks and run_checks" in shut(summaries[-1])


@pytest.mark.parametrize("gathered", [False, True])
def test_all_batches_since_the_last_check_are_read_in_steps_and_what_is_left_is_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch, gathered: bool
) -> None:
    """B2: a bound cut away the oldest, which were never checked, and the check said PASSED."""
    monkeypatch.setattr(bounds, "STEP_ROWS", 4)
    monkeypatch.setattr(bounds, "CHECK_ROWS", 20)
    site.write(*[[GOOD, GOOD]] * 24)
    if gathered:
        assert compact.compact_ledger(paths.generation_paths(site.deployment.root, NAME, "files", 1).ledger, singles=1)
    first, second, third = site.files(), site.files(), site.files()
    assert [summary.rows for summary in (first, second, third)] == [20, 20, 8]
    assert coverage_words(first.coverage) == "20 of 48 rows, 10 of 24 batches; the next check reads the rest"
    assert coverage_words(third.coverage) == "8 rows, 4 batches"
    assert [summary.window.first for summary in (first, second, third)] == [0, 10, 20]
    assert {summary.status for summary in (first, second, third)} == {"PASSED"}
    assert site.files().status == "NOTHING"


def test_a_check_whose_time_is_over_keeps_what_it_saw_and_the_next_one_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "STEP_ROWS", 4)
    site.write(*[[GOOD, GOOD]] * 6)
    summary = site.files(seconds=-1)
    assert summary.window.name == "generation 1 batches 0 to 1"
    assert coverage_words(summary.coverage) == "4 of 12 rows, 2 of 6 batches; the next check reads the rest"
    assert site.files().rows == 8


def test_a_fault_in_the_middle_keeps_what_was_seen_and_is_no_pass(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "STEP_ROWS", 4)
    site.write(*[[GOOD, GOOD]] * 6)
    as_it_is: Callable[..., Any] = steps._batch_step

    def breaks(deployment: Any, sink: Any, window: Any) -> Any:
        if window.first == 2:
            raise OSError("the disk is away")
        return as_it_is(deployment, sink, window)

    with monkeypatch.context() as broken:
        broken.setattr(steps, "_batch_step", breaks)
        summary = site.files()
    assert (summary.status, summary.rows, summary.window.reason) == ("UNREADABLE", 4, "OSError: the disk is away")
    assert site.files().window.first == 2


def test_a_stream_that_is_dead_while_records_wait_is_stale_at_every_check(site: Site) -> None:
    """B13: without a new batch a check was EMPTY, and its gate open."""
    site.write([GOOD], written_ms=NOW_MS - 900_000)
    desired_state.write(site.deployment.root, NAME, "RUNNING", "test", "test")
    assert site.files().status == "PASSED"
    assert site.files().status == "NOTHING"
    site.kafka.records["quickstart"], site.kafka.fresh = 5, 5
    assert site.files().status == "NOTHING", "a record that has just come to a quiet topic makes no stream late"
    site.kafka.fresh = 4
    for _ in range(2):
        summary = site.files()
        assert summary.status == "STALE"
        assert "is stale: records wait and no batch has finished for 900 s, the pipeline promises 60 s" in shut(summary)
    desired_state.write(site.deployment.root, NAME, "PAUSED", "test", "a move")
    summary = site.files()
    assert (summary.status, summary.stale.wanted) == ("STALE", "PAUSED")
    assert "STALE" in tasks.gate(summary), "a person wants it so: no alarm, and no event either"
    assert not tasks.is_good(summary)


def test_nothing_to_check_is_never_good(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = site.files()
    assert (summary.status, summary.rows) == ("NOTHING", 0)
    assert not tasks.is_good(summary)
    assert "has not finished a batch yet" in tasks.gate(summary)
    with monkeypatch.context() as without:
        without.setattr(checks, "suite_of", lambda *_: pytest.fail("there is nothing to judge"))
        assert site.files().status == "NOTHING"
    site.write([], [])
    summary = site.files()
    assert (summary.status, summary.window.reason) == ("NOTHING", "nothing was written there")
    assert not tasks.is_good(summary)


def test_a_critical_finding_keeps_the_gate_shut_until_a_later_check_shows_it_repaired(site: Site) -> None:
    """B14: the next check passed, and the asset had its event although nothing was repaired."""
    site.write([GOOD], [GOOD, BAD])
    summary = site.files()
    assert (summary.status, len(summary.open)) == ("FAILED", 1)
    assert "column_values_to_match_regex(lower_city)" in shut(summary)
    assert site.files().status == "FAILED", "there is nothing new, and it is not repaired"
    site.write([GOOD])
    summary = site.files()
    assert (summary.status, summary.failed, summary.rows) == ("FAILED", (), 1)
    assert "has 1 open critical finding(s), of generation 1 batches 0 to 1" in shut(summary)
    assert tasks.act(site.deployment, [summary], by="test") == []
    site.put(1, [GOOD, GOOD])
    site.write([GOOD])
    summary = site.files()
    assert (summary.status, summary.open) == ("PASSED", ())
    assert tasks.is_good(summary)
    (closed,) = findings.read(site.deployment.root, SINK).closed
    assert (closed.how, closed.by) == ("repaired", "a later check")


def test_a_finding_whose_window_cannot_be_read_again_stays_open(site: Site) -> None:
    site.write([GOOD], [BAD])
    assert site.files().status == "FAILED"
    shutil.rmtree(Path(paths.generation_paths(site.deployment.root, NAME, "files", 1).files) / "batch_id=1")
    site.write([GOOD])
    assert site.files().status == "FAILED", "that the bad row is gone together with others repairs nothing"


def test_a_person_accepts_a_finding_with_a_reason_and_the_next_check_opens_the_gate(site: Site) -> None:
    site.write([GOOD], [BAD])
    (finding,) = site.files().open
    for reason, ids, message in (
        ("", [], "needs a reason"),
        ("seen", ["nope"], f"has no open finding 'nope'. Open findings: {finding.id}"),
    ):
        with pytest.raises(HeadraceError, match=message):
            tasks.accept(site.deployment, SINK, ids, by="ana", reason=reason)
    (accepted,) = tasks.accept(site.deployment, SINK, [], by="ana (command line)", reason="the city is spelt so")
    assert (accepted.by, accepted.reason, accepted.how) == (
        "ana (command line)", "the city is spelt so", "accepted"
    )  # fmt: skip
    assert site.files().status == "NOTHING"
    site.write([GOOD])
    assert site.files().status == "PASSED"
    site.write([BAD])
    assert site.files().status == "FAILED", "acceptance is of what was there, not of what comes"
    with pytest.raises(HeadraceError, match="Unknown sink or stage"):
        tasks.accept(site.deployment, "kafka.nope", [], by="ana", reason="a reason")


def test_a_check_that_cannot_be_kept_is_no_pass_and_is_made_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write([GOOD])
    with monkeypatch.context() as away:
        away.setattr(store, "record", lambda *_: (_ for _ in ()).throw(OSError("Cassandra is away")))
        assert site.files().status == "UNREADABLE"
    summary = site.files()
    assert (summary.status, summary.rows) == ("PASSED", 1)


def test_a_retry_of_a_check_reads_the_same_and_a_check_from_a_time_on_moves_nothing(site: Site) -> None:
    site.write([GOOD], [GOOD])
    planned = tasks.plan_checks(site.deployment, NAME)
    once, twice = (tasks.run_checks(site.deployment, NAME, planned)[0] for _ in range(2))
    assert replace(once, seconds=0) == replace(twice, seconds=0)
    site.write([GOOD])
    assert site.files(since_ms=1).rows == 3
    assert site.files().window.first == 2


def test_a_quiet_sink_does_not_push_what_was_found_out_of_the_trend(site: Site) -> None:
    site.write([GOOD])
    site.files()
    for number in range(3):
        summary = Summary(SINK, NAME, "files", "NOTHING", nothing("quiet"), NOW_MS + number)
        store.write_report(site.deployment.root, summary, None)
    assert [point.status for point in trend.read(site.deployment.root, SINK)] == ["NOTHING", "PASSED"]


def test_the_command_line_ends_with_the_code_of_the_worst_sink_shows_what_is_covered_and_takes_an_acceptance(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(site.deployment, tmp_path / "deployment.json", monkeypatch)
    monkeypatch.setattr(quality, "pipelines_of", lambda names: {name: site.deployment.pipeline(name) for name in names})
    monkeypatch.setattr(bounds, "CHECK_ROWS", 2)

    def headrace(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(quality.quality, list(words), env={"COLUMNS": "250"})
        assert done.exception is None or isinstance(done.exception, (SystemExit, HeadraceError)), done.exception
        return done.exit_code, done.output

    assert headrace("run", NAME, "--no-docs")[0] == EXIT_CODES["NOTHING"]
    site.write([GOOD, GOOD], [BAD])
    code, output = headrace("run", NAME, "--no-docs")
    assert (code, "2 of 3 rows, 1 of 2 batches" in " ".join(output.split())) == (0, True)
    code, output = headrace("run", NAME, "--no-docs", "--json")
    assert code == EXIT_CODES["FAILED"]
    (document,) = [entry for entry in json.loads(output[output.index("[\n") :]) if entry["sink"] == SINK]
    assert (document["status"], document["coverage"]["rows"]) == ("FAILED", 1)
    assert document["coverage"]["left"] == {"batches": 0, "rows": 0}
    assert f"open finding {document['open'][0]['id']}" in headrace("show", SINK)[1]
    assert headrace("accept", SINK)[0] != 0, "a reason is asked for"
    code, output = headrace("accept", SINK, "--reason", "The city is spelt so.")
    assert (code, "(command line): The city is spelt so." in " ".join(output.split())) == (0, True)
    site.write([GOOD])
    assert headrace("run", NAME, "--no-docs")[0] == 0
