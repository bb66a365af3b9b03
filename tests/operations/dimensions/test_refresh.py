"""A refresh from its snapshot to its record, against a table in memory: any dimension, any type, one at a time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.query import named_tuple_factory

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.contract.model import Refresh as RefreshSettings
from headrace.errors import HeadraceError
from headrace.operations.clients import ensure_tables
from headrace.operations.dimensions import apply, kept, lease
from headrace.operations.dimensions.diff import DirectoryDifference, diff
from headrace.operations.dimensions.documents import RefreshRecord, Staged
from headrace.operations.dimensions.snapshot import DirectorySnapshot, pick
from headrace.operations.dimensions.stage import stage
from headrace.operations.plans import Approval
from headrace.store import paths, small_files
from tests.support.light_cassandra import LightCassandra

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
PIPELINE = """
name: badges
owner: tests
description: Swipes at doors.
version: 1
sources:
  badge_swipes:
    key: staff_id
    columns:
      staff_id: {type: string, required: true}
      swiped_at: {type: timestamp, required: true}
    event_time: {column: swiped_at}
dimensions:
  staff:
    keyspace: badges_db
    table: staff
    key: [staff_id]
    columns:
      staff_id: {type: string, required: true}
      full_name: {type: string, required: true}
      joined_on: {type: date}
      may_enter: {type: boolean}
      floors: {type: int}
      badge_number: {type: long}
      seen_at: {type: timestamp}
      salary: {type: "decimal(9,2)"}
    refresh: {max_delete_percent: 5}
  holidays:
    keyspace: badges_db
    table: holidays
    key: [day, since]
    columns:
      day: {type: date, required: true}
      since: {type: timestamp, required: true}
      description: {type: string}
    refresh: {max_delete_percent: 50}
queries:
  known:
    description: Who is known.
    sources: [badge_swipes]
    dimensions: [staff]
    mode: append
    matched: is_known
    columns:
      staff_id: {type: string, required: true}
      swiped_at: {type: timestamp, required: true}
    sinks:
      - {kind: kafka, topic: badge_known, key: staff_id}
"""
STAFF = "staff_id,full_name,joined_on,may_enter,floors,badge_number,seen_at,salary\n"


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "badges.yaml").write_text(PIPELINE)
    return load_pipeline(folder / "badges.yaml")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> LightCassandra:
    return LightCassandra(monkeypatch)


def person(number: int, name: str = "Person") -> str:
    day = f"20{number % 90 + 10}-03-02"
    return f"s{number:03d},{name} {number},{day},{'true' if number % 2 else ''},{number},{number},{day}T07:00:00Z,{number}.50\n"


class Refresh:
    """Refreshes of one dimension, each an hour after the one before."""

    def __init__(self, root: Path, pipeline: Pipeline, dimension: str) -> None:
        self.root, self.pipeline, self.dimension, self.hours = str(root), pipeline, dimension, 0

    def drop(self, text: str) -> None:
        self.hours += 1
        folder = Path(paths.refresh_drop(self.root, self.pipeline.name, self.dimension))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"x-{BEGAN + timedelta(hours=self.hours):%Y%m%dT%H%M%SZ}.csv"
        path.write_text(text)
        path.with_name(f"{path.name}.done").touch()

    def plan(self, text: str | None = None) -> tuple[Staged, DirectoryDifference]:
        if text is not None:
            self.drop(text)
        snapshot = pick(self.root, self.pipeline, self.dimension)
        assert isinstance(snapshot, DirectorySnapshot), snapshot
        staged = stage(self.root, Path(self.root), self.pipeline, self.dimension, snapshot)
        return staged, diff(self.root, Path(self.root), self.pipeline, self.dimension, staged)

    def id_of(self, difference: DirectoryDifference) -> str:
        return difference.plan(f"{self.pipeline.name}.{self.dimension}").id

    def approval(self, difference: DirectoryDifference, by: str, approved_by: str) -> Approval:
        return Approval(self.id_of(difference), by=by, approved_by=approved_by)

    def write(self, difference: DirectoryDifference, holder: str = "run", approved_by: str = "") -> dict[str, int]:
        target = (self.root, Path(self.root), self.pipeline, self.dimension)
        return apply.apply(*target, difference, self.approval(difference, holder, approved_by), holder=holder)

    def finish(
        self, staged: Staged, difference: DirectoryDifference, holder: str = "run", approved_by: str = ""
    ) -> RefreshRecord:
        target = (self.root, Path(self.root), self.pipeline, self.dimension, staged)
        apply.verify(*target, holder=holder, by=holder)
        return apply.record(*target, difference, {}, self.approval(difference, holder, approved_by), holder=holder)

    def refresh(self, text: str, approved_by: str = "") -> RefreshRecord:
        staged, plan = self.plan(text)
        self.write(plan, approved_by=approved_by)
        return self.finish(staged, plan, approved_by=approved_by)


@pytest.fixture
def staff(tmp_path: Path, pipeline: Pipeline, table: LightCassandra) -> Refresh:
    return Refresh(tmp_path, pipeline, "staff")


def test_every_type_of_a_directory_is_compared_and_deleted(staff: Refresh, table: LightCassandra) -> None:
    people = [person(number) for number in range(30)]
    assert staff.refresh(STAFF + "".join(people)).inserts == 30
    _, again = staff.plan(STAFF + "".join(people))
    assert (again.unchanged, again.inserts + again.updates + again.deletes) == (30, 0)
    entry = staff.refresh(STAFF + "".join(people[:-1]))
    assert (entry.deletes, entry.updates) == (1, 0)
    assert sorted(table.rows) == [(f"s{number:03d}",) for number in range(29)]


def test_a_key_of_days_and_times_is_found_again(tmp_path: Path, pipeline: Pipeline, table: LightCassandra) -> None:
    table.width = 2
    holidays = Refresh(tmp_path, pipeline, "holidays")
    head, first = "day,since,description\n", "2026-12-25,2020-01-01T00:00:00.5Z,Christmas\n"
    assert holidays.refresh(head + first + "2026-05-01,2020-01-01T00:00:00Z,May\n").inserts == 2
    entry = holidays.refresh(head + first)
    assert (entry.inserts, entry.updates, entry.deletes) == (0, 0, 1)
    assert [row["description"] for row in table.values().values()] == ["Christmas"]


def test_an_open_quote_deletes_nobody(staff: Refresh, table: LightCassandra) -> None:
    people = [person(number) for number in range(120)]
    staff.refresh(STAFF + "".join(people))
    before = table.values()
    people[116] = people[116].replace(",Person", ',"Person')
    with pytest.raises(HeadraceError, match=r"line 118, column 6: a quote opens here and is not closed") as refused:
        staff.refresh(STAFF + "".join(people))
    assert "Person" not in str(refused.value)
    assert table.values() == before


def test_a_refresh_waits_for_the_one_that_writes_and_an_older_plan_is_void_then(
    staff: Refresh, table: LightCassandra
) -> None:
    staff.refresh(STAFF + "".join(map(person, range(100))))
    _, older = staff.plan(STAFF + "".join(map(person, range(99))))  # without person 99
    newer_staged, newer = staff.plan(
        STAFF + "".join(map(person, range(101)))
    )  # with person 99, whose row stays unwritten
    staff.write(newer, "command")
    with pytest.raises(HeadraceError, match=r"Another refresh of badges\.staff is writing, by command since .*\. Wait"):
        staff.write(older, "dag")
    staff.finish(newer_staged, newer, "command")
    with pytest.raises(HeadraceError, match=r"has been applied since the plan for .* was made. Plan again"):
        staff.write(older, "dag")
    assert len(table.rows) == 101
    assert table.leases == {}


def test_a_refresh_that_was_killed_leaves_older_plans_void(staff: Refresh, table: LightCassandra) -> None:
    staff.refresh(STAFF + "".join(map(person, range(100))))
    _, older = staff.plan(STAFF + "".join(map(person, range(99))))
    staged, newer = staff.plan(STAFF + "".join(map(person, range(101))))
    staff.write(newer, "killed")
    table.leases.clear()  # its time is over
    with pytest.raises(HeadraceError, match=r"A refresh of staff to version \S+ began after the plan for \S+ was made"):
        staff.write(older, "dag")
    assert table.leases == {}
    staged, again = staff.plan()
    staff.write(again, "dag")
    assert staff.finish(staged, again, "dag").rows == 101


def test_the_record_says_who_began_and_who_approved(staff: Refresh) -> None:
    staff.refresh(STAFF + "".join(map(person, range(100))))
    staged, plan = staff.plan(STAFF + "".join(map(person, range(90))))
    assert plan.reasons == (
        "it deletes more than 5 % of 100 rows",
        "it has 90 rows, more than 5 % fewer than 100, the most in the last 1 refreshes",
    )
    with pytest.raises(HeadraceError, match="It needs approval: it deletes more than 5 %"):
        staff.write(plan)
    staff.write(plan, approved_by="Mia")
    entry = staff.finish(staged, plan, approved_by="Mia")
    assert (entry.plan, entry.by, entry.approved_by) == (staff.id_of(plan), "run", "Mia")


def test_the_plan_of_a_refresh_is_the_same_for_the_same_rows_and_another_for_others(
    staff: Refresh, table: LightCassandra
) -> None:
    people = [person(number) for number in range(100)]
    staff.refresh(STAFF + "".join(people))
    _, plan = staff.plan(STAFF + "".join(people[:99]))
    assert staff.id_of(staff.plan()[1]) == staff.id_of(plan), "the same snapshot"
    _, later = staff.plan(STAFF + "".join(reversed(people[:99])))
    assert staff.id_of(later) == staff.id_of(plan), "a later extract with the same rows, in another order"
    _, fewer = staff.plan(STAFF + "".join(people[:98]))
    assert staff.id_of(fewer) != staff.id_of(plan)
    before, target = table.values(), (staff.root, Path(staff.root), staff.pipeline, "staff")
    with pytest.raises(HeadraceError, match=r"The situation changed since plan \S+ for the refresh of badges\.staff"):
        apply.apply(*target, fewer, Approval(staff.id_of(plan), by="mia", approved_by="mia"), holder="run")
    assert (table.values(), table.leases) == (before, {})
    staff.refresh(STAFF + "".join(people[:97]))
    assert staff.id_of(staff.plan(STAFF + "".join(people[:97]))[1]) != staff.id_of(plan)


def test_a_directory_that_shrinks_a_little_each_time_is_asked_about(staff: Refresh) -> None:
    staff.refresh(STAFF + "".join(map(person, range(100))))
    staff.refresh(STAFF + "".join(map(person, range(97))))
    _, plan = staff.plan(STAFF + "".join(map(person, range(94))))
    assert plan.deletes == 3
    assert plan.reasons == ("it has 94 rows, more than 5 % fewer than 100, the most in the last 2 refreshes",)


def test_what_was_approved_is_the_measure_from_then_on(staff: Refresh) -> None:
    staff.refresh(STAFF + "".join(map(person, range(100))))
    staff.refresh(STAFF + "".join(map(person, range(60))), approved_by="Mia")
    _, plan = staff.plan(STAFF + "".join(map(person, range(58))))
    assert plan.reasons == ()


def test_deletes_that_never_were_so_many_are_asked_about() -> None:
    usual = [RefreshRecord(rows=1_000, deletes=number % 3) for number in range(10)]
    settings = RefreshSettings(max_delete_percent=5)
    assert kept.reasons_for_approval(settings, usual, 1_000, 985, 15) == []
    assert kept.reasons_for_approval(settings, usual, 1_000, 970, 30) == [
        "it deletes 30 rows, but none of the last 10 refreshes deleted more than 2"
    ]
    assert kept.reasons_for_approval(settings, usual[:4], 1_000, 970, 30) == [], "four are no custom"
    assert kept.reasons_for_approval(settings, usual, 100_000, 99_970, 30) == [], "30 of 100 000 are few"


def test_staged_rows_go_after_the_declared_time_and_records_stay(staff: Refresh, tmp_path: Path) -> None:
    staff.refresh(STAFF + person(1))
    folder = Path(paths.refresh(staff.root, "badges", "staff"))
    (version,) = [path for path in folder.iterdir() if path.is_dir() and path.name != "drop"]
    assert {path.name for path in version.glob("*.parquet")} == {"stage.parquet", "difference.parquet", "left.parquet"}
    assert kept.remove_old(staff.root, staff.pipeline, "staff") == [], "staged now, whatever the time of its extract"
    staged = json.loads((version / "staged.json").read_text())
    staged["at_ms"] -= 8 * 86_400_000
    small_files.write_json(str(version / "staged.json"), staged)
    assert kept.remove_old(staff.root, staff.pipeline, "staff") == [version.name]
    assert [path.name for path in version.glob("*.parquet")] == []
    assert (version / "record.json").exists()
    assert kept.history(staff.root, "badges", "staff")[0].rows == 1


def test_a_lease_is_renewed_by_its_holder_and_given_back_by_nobody_else(table: LightCassandra) -> None:
    lease.take(table, "badges", "staff", "a", "Mia")
    lease.take(table, "badges", "staff", "a", "Mia")
    lease.take(table, "badges", "doors", "b", "Ben")
    lease.release(table, "badges", "staff", "b")
    with pytest.raises(HeadraceError, match=r"by Mia since .* UTC\. Wait for its end"):
        lease.take(table, "badges", "staff", "b", "Ben")
    lease.release(table, "badges", "staff", "a")
    lease.take(table, "badges", "staff", "b", "Ben")


def test_the_answer_of_a_lightweight_transaction_is_read_as_the_driver_gives_it() -> None:
    names = ["[applied]", "dimension", "holder", "taken_by", "since"]
    (row,) = named_tuple_factory(names, [(False, "badges.staff", "a", "Mia", "now")])
    asked: list[Any] = []

    def execute(statement: Any, values: tuple[str, ...]) -> Any:
        asked.append((statement.query_string, values))
        return SimpleNamespace(column_names=names, one=lambda: row)

    answer = lease._serial(SimpleNamespace(execute=execute), lease._TAKE, ("badges.staff", "b", "Ben", "now"))
    assert (answer["[applied]"], answer["holder"], answer["taken_by"]) == (False, "a", "Mia")
    assert asked[0][0].endswith("VALUES (%s, %s, %s, %s) IF NOT EXISTS USING TTL 900")


def test_the_table_of_leases_is_made_where_it_is_missing() -> None:
    made: list[str] = []
    metadata = SimpleNamespace(keyspaces={}, all_hosts=lambda: [1, 2, 3, 4])
    session: Any = SimpleNamespace(cluster=SimpleNamespace(metadata=metadata), execute=made.append)
    ensure_tables(session, [lease.LEASES])
    assert [text.split(" IF NOT EXISTS ")[0] for text in made] == ["CREATE KEYSPACE", "CREATE TABLE"]
    assert "'replication_factor': 3" in made[0] or "'replication_factor': '3'" in made[0]
    assert 'PRIMARY KEY (("dimension"))' in made[1]
