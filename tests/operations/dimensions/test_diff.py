"""What differs between a stage and the live table, by values and by write times."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.operations.dimensions import apply, compare
from headrace.operations.dimensions.diff import DirectoryDifference
from headrace.operations.dimensions.stage import stage_schema
from headrace.store.records import from_json, to_json

EXTRACT = 1_000
CARDS = """
name: cards
owner: tests
description: Cards.
version: 1
sources:
  swipes:
    key: card
    columns: {card: {type: string, required: true}, at: {type: timestamp, required: true}}
    event_time: {column: at}
dimensions:
  cards:
    keyspace: cards
    table: cards
    key: [card, day]
    columns:
      card: {type: string, required: true}
      day: {type: date, required: true}
      select: {type: string}
      name: {type: "decimal(9,2)"}
      at: {type: timestamp}
    refresh: {max_delete_percent: 5}
queries:
  known:
    description: Swipes.
    sources: [swipes]
    mode: append
    columns: {card: {type: string, required: true}, at: {type: timestamp}}
    sinks: [{kind: kafka, topic: known_swipes, key: card}]
"""
DAY = date(2026, 1, 1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
A, B = ("a", DAY), ("b", DAY)
Values = tuple[str | None, Decimal | None, datetime | None]
Live = dict[tuple[str, date], tuple[Values, int]]
FULL: Values = ("A", Decimal("1.50"), NOON)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    file = tmp_path_factory.mktemp("cards") / "cards.yaml"
    file.write_text(CARDS)
    return load_pipeline(file)


def compared(
    cards: Pipeline, wanted: Mapping[Any, Values], there: Live
) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
    """Return the numbers that are not 0, and (op, key, values, changed columns) of each row to write."""
    schema = stage_schema(cards, "cards")
    rows = [dict(zip(schema.names, (*key, *values), strict=True)) for key, values in wanted.items()]
    with compare.opened() as db:
        compare.load_stage(db, cards, "cards", pa.Table.from_pylist(rows, schema=schema))
        compare.load_live(db, cards, "cards", ((key, values, at) for key, (values, at) in there.items()))
        counts, table = compare.changes(db, cards, "cards", EXTRACT)
    assert (counts.live_rows, counts.stage_rows) == (len(there), len(wanted))
    kinds = {what: n for what, n in asdict(counts).items() if n and not what.endswith("_rows")}
    made = [tuple(row.values()) for row in table.to_pylist()]
    return kinds, [(row[0], row[2:4], row[4:], row[1]) for row in made]


@pytest.mark.parametrize(
    ("wanted", "there", "rows", "counts"),
    [
        pytest.param({A: FULL}, {}, [("upsert", A, FULL, ["select", "name", "at"])], {"inserts": 1}, id="a new row"),
        pytest.param({A: FULL}, {A: (FULL, 5)}, [], {"unchanged": 1}, id="the same row"),
        pytest.param(
            {A: FULL}, {A: (("B", *FULL[1:]), 5)}, [("upsert", A, FULL, ["select"])], {"updates": 1}, id="a new name"
        ),
        pytest.param(
            {A: FULL}, {A: (("B", *FULL[1:]), EXTRACT)}, [], {"newer": 1}, id="a name written since the extract"
        ),
        pytest.param({}, {A: (FULL, 999)}, [("delete", A, (None,) * 3, [])], {"deletes": 1}, id="a row that left"),
        pytest.param({}, {A: (FULL, EXTRACT)}, [], {"newer": 1}, id="a row that came since the extract"),
        pytest.param(
            {A: ("A", None, None)}, {}, [("upsert", A, ("A", None, None), ["select"])], {"inserts": 1},
            id="a null is no insert",
        ),
        pytest.param(
            {A: ("A", None, NOON)}, {A: (FULL, 5)}, [("upsert", A, ("A", None, NOON), ["name"])], {"updates": 1},
            id="a value that went is a change of its column alone",
        ),
        pytest.param(
            {A: (*FULL[:2], NOON + timedelta(microseconds=999))}, {A: (FULL, 5)}, [], {"unchanged": 1},
            id="a time is compared to the millisecond, as Cassandra keeps it",
        ),
        pytest.param(
            {A: (*FULL[:2], datetime(1969, 1, 1, microsecond=1_500, tzinfo=UTC))},
            {A: ((*FULL[:2], datetime(1969, 1, 1, microsecond=1_000, tzinfo=UTC)), 5)}, [], {"unchanged": 1},
            id="a time before 1970 too",
        ),
        pytest.param(
            {B: FULL}, {A: (FULL, 5)}, [("upsert", B, FULL, ["select", "name", "at"]), ("delete", A, (None,) * 3, [])],
            {"inserts": 1, "deletes": 1}, id="what is new is written before what left is deleted",
        ),
    ],
)  # fmt: skip
def test_a_change_is_what_differs_and_is_older_than_the_extract(
    cards: Pipeline, wanted: Mapping[Any, Values], there: Live, rows: list[Any], counts: dict[str, int]
) -> None:
    assert compared(cards, wanted, there) == (counts, rows)


def test_a_comparison_of_many_rows_is_that_of_their_sets(cards: Pipeline, seed: int) -> None:
    chance = random.Random(seed)

    def some(least: int) -> dict[Any, Any]:
        keys = [(f"card {chance.randrange(60_000)}", DAY) for _ in range(45_000)]
        return {key: (chance.choice(("A", "B")), Decimal(chance.randrange(2)), NOON) for key in keys[least:]}

    wanted = some(0)
    there = {key: (values, chance.choice((1, EXTRACT))) for key, values in some(5).items()}
    counts, rows = compared(cards, wanted, there)
    changed = {key for key in wanted.keys() & there.keys() if wanted[key] != there[key][0]}
    old = {key for key, (_, at) in there.items() if at < EXTRACT}
    assert counts == {
        "inserts": len(wanted.keys() - there.keys()),
        "updates": len(changed & old),
        "deletes": len((there.keys() - wanted.keys()) & old),
        "unchanged": len(wanted.keys() & there.keys() - changed),
        "newer": len((changed | there.keys() - wanted.keys()) - old),
    }
    assert {key: values for op, key, values, _ in rows if op == "upsert"} == {
        key: wanted[key] for key in (wanted.keys() - there.keys()) | (changed & old)
    }
    assert rows == compared(cards, wanted, there)[1], "the same rows make the same file"


@pytest.mark.parametrize("keys", [(("a", DAY), ("a", DAY)), (("a", None),)], ids=["twice", "null"])
def test_a_key_that_is_null_or_there_twice_is_found(cards: Pipeline, keys: tuple[Any, ...]) -> None:
    schema = stage_schema(cards, "cards")
    rows = [dict(zip(schema.names, (*key, *FULL), strict=True)) for key in keys]
    with compare.opened() as db:
        compare.load_stage(db, cards, "cards", pa.Table.from_pylist(rows, schema=schema))
        assert compare.has_wrong_keys(db, cards, "cards")


def test_every_write_has_the_time_of_the_extract_and_only_what_changed(project: Path) -> None:
    users = load_pipeline(project / "pipelines" / "user_logins.yaml").dimensions["users"]
    insert = 'INSERT INTO "test_db"."users" ("login_id", "user_name") VALUES (?, ?) USING TIMESTAMP 7000'
    assert apply._insert(users, ["login_id", "user_name"], 7000) == insert
    assert apply._delete(users, 7000) == 'DELETE FROM "test_db"."users" USING TIMESTAMP 7000 WHERE "login_id" = ?'


def test_a_plan_says_what_an_approval_is_about() -> None:
    plan = DirectoryDifference("v", 1, "d", "s", "", 1_000, 400, 0, 1, 600, 399, 0, 60.0, 5, ("it has 400 rows",))
    assert plan.needs_approval
    assert plan.text == (
        "Version v: 0 new, 1 changed, 600 deleted (60.0 % of 1000; up to 5 % need no approval), 399 unchanged, 0 kept "
        "because they are newer. It needs approval: it has 400 rows."
    )
    assert from_json(DirectoryDifference, json.loads(json.dumps(to_json(plan)))) == plan
    assert plan.plan("user_logins.users").notes == (plan.text,)
