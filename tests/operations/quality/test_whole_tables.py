"""What all rows of a table must be together, also if it takes more than one step: their number and sums, by Great Expectations.

Slow: Great Expectations takes 7 seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.contract.checked_sinks import CheckedSink, find
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.operations.dimensions.documents import Begun, RefreshRecord
from headrace.operations.quality import checks, offsets, position, steps, store
from headrace.operations.quality.plan import Check
from headrace.operations.quality.steps import Step
from headrace.operations.quality.summary import Summary
from headrace.operations.quality.windows import TableWindow
from headrace.store import paths, records
from headrace.store.records import Row
from tests.support.expectations import import_great_expectations

pytestmark = pytest.mark.slow

NOW_MS = 1_800_000_000_000
DEAD_LETTERS, RECORDS = 3, 1_000


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    import_great_expectations()


class Table:
    """A deployment with one table, read in portions from a token on."""

    def __init__(self, root: Path, pipeline: Pipeline, sink: CheckedSink) -> None:
        self.deployment: Any = SimpleNamespace(root=str(root), bindings=root)
        self.pipeline, self.sink, self.portion = pipeline, sink, 4
        self.rows: list[Row] = []

    def steps(self, _: object, __: object, check: Check) -> Iterator[Step]:
        assert isinstance(check.window, TableWindow)
        for first in range(check.window.token or 0, len(self.rows), self.portion):
            past = first + self.portion
            token = past if past < len(self.rows) else None
            yield Step(TableWindow(name="t", token=token), self.rows[first:past], list(self.sink.columns))

    def check(self, **parameters: float) -> Summary:
        token = position.read(self.deployment.root, self.sink.name).token
        given = {"freshness_seconds": 60, "behind_seconds": 0, "now_ms": NOW_MS, "rows_in": RECORDS, "rows_min": 1}
        window = TableWindow(name="t", at_ms=NOW_MS, token=token)
        planned = Check(self.sink.name, self.pipeline.name, self.sink.query, window, given | parameters)
        return checks.run_check(self.deployment, self.pipeline, planned, self.until)

    until = float("inf")


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    @contextmanager
    def reader(_: object) -> Iterator[Any]:
        ends = lambda topic: {0: DEAD_LETTERS if topic.endswith("dead_letters") else RECORDS}  # noqa: E731
        yield SimpleNamespace(ends=ends)

    monkeypatch.setattr(offsets, "reader", reader)
    monkeypatch.setattr(store, "record", lambda *_: None)
    return monkeypatch


def table(project: Path, root: Path, patched: pytest.MonkeyPatch, name: str) -> Table:
    pipeline = load_pipeline(project / "pipelines" / f"{name.split('.')[0]}.yaml")
    (sink,) = [find([pipeline], f"cassandra.{'test_db.users' if name == 'user_logins' else name}")]
    made = Table(root, pipeline, sink)
    patched.setattr(steps, "steps", made.steps)
    return made


def failed(summary: Summary) -> list[str]:
    return sorted(failure.expectation for failure in summary.failed)


@pytest.mark.parametrize("portion", [4, 100])
def test_the_sums_of_a_table_are_those_of_all_its_steps(
    project: Path, tmp_path: Path, patched: pytest.MonkeyPatch, portion: int
) -> None:
    """The last step of a larger table was taken for the complete table: its gate was shut at each check."""
    totals = table(project, tmp_path, patched, "pos_sales.product_totals")
    totals.portion = portion
    totals.rows = [{"product_id": f"p{n}", "total_amount": Decimal("1.50"), "sales": 10} for n in range(10)]
    summary = totals.check(rows_taken=100 + DEAD_LETTERS)
    assert (summary.status, summary.rows, summary.sampled, failed(summary)) == ("PASSED", 10, False, [])
    totals.rows = totals.rows[:-1]  # of the last step
    summary = totals.check(rows_taken=100 + DEAD_LETTERS)
    assert (summary.status, failed(summary)) == ("FAILED", ["column_sum_to_be_between(sales)"])
    totals.rows.append({"product_id": "p9", "total_amount": Decimal(1), "sales": 10})
    summary = totals.check(rows_taken=100 + DEAD_LETTERS)
    assert (summary.status, summary.open) == ("PASSED", ()), "the complete table was read, and the finding is repaired"
    assert totals.check(rows_in=99).status == "PASSED", "records came since the plan"


def test_a_table_that_a_check_reads_in_part_is_not_judged_as_a_whole(
    project: Path, tmp_path: Path, patched: pytest.MonkeyPatch
) -> None:
    totals = table(project, tmp_path, patched, "pos_sales.product_totals")
    totals.rows = [{"product_id": f"p{n}", "total_amount": Decimal(1), "sales": 1} for n in range(10)]
    totals.until = 0
    for rows in (4, 4, 2):
        summary = totals.check(rows_taken=500)
        assert (summary.status, summary.rows, summary.sampled) == ("PASSED", rows, True)


@pytest.mark.parametrize("portion", [4, 100])
def test_a_directory_that_lost_rows_since_its_refresh_is_found(
    project: Path, tmp_path: Path, patched: pytest.MonkeyPatch, portion: int
) -> None:
    """One row was enough: a table that had lost all others passed."""
    users = table(project, tmp_path, patched, "user_logins")
    users.portion = portion
    person = {"user_name": "Ann", "last_login": None, "last_device": None}
    users.rows = [person | {"login_id": f"u{n}"} for n in range(9)]
    assert users.check().status == "PASSED", "no refresh says how many there are"

    def refreshed(done: RefreshRecord, begun: str) -> None:
        folder = paths.refresh(users.deployment.root, "user_logins", "users")
        records.write(f"{folder}/applied.json", done)
        records.write(f"{folder}/begun.json", Begun(version=begun))

    record = RefreshRecord(version="v1", rows=10, at_ms=NOW_MS - 1)
    refreshed(record, "v1")
    assert failed(users.check()) == ["table_row_count_to_be_between()"]
    refreshed(record, "v2")
    assert users.check().failed == (), "the next refresh is writing"
    refreshed(replace(record, at_ms=NOW_MS + 1), "v1")
    assert users.check().failed == (), "the refresh ended after the check was planned"
    users.rows.append(person | {"login_id": "u9"})
    refreshed(record, "v1")
    assert users.check().status == "PASSED"
