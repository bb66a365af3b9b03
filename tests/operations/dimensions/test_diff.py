"""What differs between a stage and the live table, by values and by write times."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from headrace.contract.load import load_pipeline
from headrace.operations.dimensions import apply
from headrace.operations.dimensions.diff import DELETE, UPSERT, Difference, _changes, _Counts, _stored
from headrace.operations.dimensions.live import cell
from headrace.store.records import from_json, to_json

EXTRACT = 1_000


@pytest.mark.parametrize(
    ("wanted", "there", "rows", "counts"),
    [
        pytest.param({("a",): ("A",)}, {}, [(UPSERT, ("a", "A"), [0])], _Counts(inserts=1), id="a new user"),
        pytest.param({("a",): ("A",)}, {("a",): (("A",), 5)}, [], _Counts(unchanged=1), id="the same user"),
        pytest.param(
            {("a",): ("B",)}, {("a",): (("A",), 5)}, [(UPSERT, ("a", "B"), [0])], _Counts(updates=1), id="a new name"
        ),
        pytest.param(
            {("a",): ("B",)}, {("a",): (("A",), 1_000)}, [], _Counts(newer=1), id="a name written since the extract"
        ),
        pytest.param({}, {("a",): (("A",), 999)}, [(DELETE, ("a",), [])], _Counts(deletes=1), id="a user that left"),
        pytest.param({}, {("a",): (("A",), 1_001)}, [], _Counts(newer=1), id="a user who came since the extract"),
        pytest.param(
            {("a",): ("A", None)}, {}, [(UPSERT, ("a", "A", None), [0])], _Counts(inserts=1), id="a null is no insert"
        ),
        pytest.param(
            {("a",): ("A", None)},
            {("a",): (("A", "x"), 5)},
            [(UPSERT, ("a", "A", None), [1])],
            _Counts(updates=1),
            id="a value that went is a change of its column alone",
        ),
        pytest.param(
            {("a",): (Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC))},
            {("a",): ((Decimal("1.5"), cell(datetime(2026, 1, 1))), 5)},
            [],
            _Counts(unchanged=1),
            id="equal values, otherwise written",
        ),
    ],
)
def test_a_change_is_what_differs_and_is_older_than_the_extract(
    wanted: dict, there: dict, rows: list, counts: _Counts
) -> None:
    counted = _Counts()
    assert list(_changes(wanted, there, EXTRACT, counted)) == rows
    assert counted == counts


def test_times_are_compared_as_cassandra_keeps_them() -> None:
    assert _stored(datetime(2026, 1, 1, 0, 0, 0, 123_456)) == datetime(2026, 1, 1, 0, 0, 0, 123_000)


def test_every_write_has_the_time_of_the_extract_and_only_what_changed(project) -> None:
    users = load_pipeline(project / "pipelines" / "user_logins.yaml").dimensions["users"]
    insert = 'INSERT INTO "test_db"."users" ("login_id", "user_name") VALUES (?, ?) USING TIMESTAMP 7000'
    assert apply._insert(users, ["login_id", "user_name"], 7000) == insert
    assert apply._delete(users, 7000) == 'DELETE FROM "test_db"."users" USING TIMESTAMP 7000 WHERE "login_id" = ?'


def test_a_plan_says_what_an_approval_is_about() -> None:
    plan = Difference("v", 1, "d", "s", "", 1_000, 400, 0, 1, 600, 399, 0, 60.0, 5, ("it has 400 rows",))
    assert plan.needs_approval
    assert plan.text == (
        "Version v: 0 new, 1 changed, 600 deleted (60.0 % of 1000; up to 5 % need no approval), 399 unchanged, 0 kept "
        "because they are newer. It needs approval: it has 400 rows."
    )
    assert from_json(Difference, json.loads(json.dumps(to_json(plan)))) == plan
    assert plan.plan("user_logins.users").notes == (plan.text,)
