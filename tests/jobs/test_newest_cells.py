"""Reducing a batch before it is written must leave in Cassandra what the rows, written one by one, would have left."""

from __future__ import annotations

import itertools
import random
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.contract.model import CassandraSink
from headrace.contract.spark_types import ddl_type
from headrace.driver.sinks import WRITETIME, newest_cells, together
from tests.support.frames import frame
from tests.support.generated_expected import EPOCH, in_bytes, stored
from tests.support.replay import plain

pytestmark = pytest.mark.spark

DDL = "login_id string, last_login timestamp, last_device string, note string"
DEVICES = (None, None, "", "web", "ios", "é", "漢", "\U0001f600")  # the greater one in bytes, as Cassandra compares
Cells = dict[tuple[str, str], tuple[int, bytes]]


def stored_in_bytes(kind: str, value: Any) -> bytes:
    return in_bytes(kind, stored(value))


def write(table: Cells, row: tuple[Any, ...], writetime: int) -> None:
    """Settle one statement's cells as CASSANDRA's Cells.reconcile does: newest, then greater; null sets nothing."""
    key, *values = row
    for column, value in zip(("last_login", "last_device", "note"), values, strict=True):
        if value is not None:
            cell = (writetime, value.to_bytes(8, "big") if isinstance(value, int) else value.encode())
            table[key, column] = max(table.get((key, column), cell), cell)


def test_whatever_the_batches_cassandra_holds_what_rows_written_one_by_one_would_leave(
    spark: SparkSession, seed: int
) -> None:
    rng = random.Random(seed)
    rows = [
        (f"k{rng.randrange(40)}", f"2026-01-01 00:00:0{rng.randrange(6)}", rng.choice(DEVICES), rng.choice(DEVICES))
        for _ in range(300)
    ]
    one_by_one: Cells = {}
    for row in plain(frame(spark, DDL, rows)):
        write(one_by_one, row, row[1])
    for count in (1, 3):
        rng.shuffle(rows)
        in_batches: Cells = {}
        for number in range(count):
            reduced = plain(newest_cells(frame(spark, DDL, rows[number::count]), ["login_id"], "last_login"))
            rng.shuffle(reduced)
            for row in reduced:
                write(in_batches, row[:-1], row[-1])
        assert in_batches == one_by_one, f"{count} batches"


def test_of_equally_new_values_the_batch_takes_the_one_that_cassandra_would(spark: SparkSession, seed: int) -> None:
    """Cassandra compares bytes: of 5 and -3 it keeps -3, of the decimals 1.27 and 1.28 the former."""
    kinds = {"count": "int", "large": "long", "amount": "decimal(38,18)", "cents": "decimal(5,2)", "day": "date"}
    kinds["seen"] = "timestamp"
    rng, edges = (
        random.Random(seed),
        [0, 1, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**63 - 1, 2**64, 2**64 + 1, 10**38 - 1],
    )

    def value(kind: str) -> Any:
        number = rng.choice([-1, 1]) * (rng.choice(edges) + rng.choice([0, 0, -1]))
        if kind.startswith("decimal"):
            precision, scale = map(int, kind[8:-1].split(","))
            sign, digits = ("-" if number < 0 else ""), str(abs(number))[:precision]
            return Decimal(f"{sign}{digits}e-{scale}")
        if kind == "date":
            return date.fromordinal(719_163 + number % 5 - 2)
        if kind == "timestamp":
            return EPOCH + timedelta(milliseconds=number % 7 - 3)
        return max(-(2**31), min(2**31 - 1, number)) if kind == "int" else max(-(2**63), min(2**63 - 1, number))

    rows = [(f"k{key}", EPOCH, *map(value, kinds.values())) for key in range(150) for _ in range(2)]
    ddl = "login_id string, last_login timestamp, " + ", ".join(f"{n} {ddl_type(k)}" for n, k in kinds.items())
    reduced = plain(newest_cells(spark.createDataFrame(rows, ddl), ["login_id"], "last_login"))
    wanted: dict[str, list[Any]] = {}
    for key, _, *values in rows:
        cells = zip(kinds.values(), wanted.setdefault(key, values), values, strict=True)
        wanted[key] = [max(pair, key=partial(stored_in_bytes, kind)) for kind, *pair in cells]
    assert {key: values for key, _, *values, _ in reduced} == {
        key: [stored(value) * 1000 if isinstance(value, datetime) else value for value in values]
        for key, values in wanted.items()
    }


def test_no_cell_is_written_twice_with_one_time(spark: SparkSession) -> None:
    """Two statements of one key and time would be settled by value alone."""
    rows = [
        ("k", "2026-01-01 00:00:00", "a", None),
        ("k", "2026-01-01 00:00:00", "b", None),
        ("k", "2026-01-01 00:00:01", None, "n"),
    ]
    cells = newest_cells(frame(spark, DDL, rows), ["login_id"], "last_login")
    assert cells.columns == ["login_id", "last_login", "last_device", "note", WRITETIME]
    zero = 1_767_225_600_000_000
    second = zero + 1_000_000
    assert sorted(plain(cells), key=str) == sorted(
        [("k", second, None, "n", second), ("k", None, "b", None, zero)], key=str
    )


@pytest.mark.parametrize(("clustering", "sorts"), [(["note"], 1), ([], 0)])
def test_rows_of_one_cassandra_partition_come_together_where_a_partition_has_several(
    spark: SparkSession, clustering: list[str], sorts: int
) -> None:
    sink = CassandraSink(kind="cassandra", partition_key=["login_id"], clustering_key=clustering)
    rows = spark.range(200).selectExpr("CAST(pmod(hash(id), 7) AS STRING) AS login_id", "id AS note")

    gathered = together(rows, sink)

    assert gathered._jdf.queryExecution().executedPlan().toString().count("Sort ") == sorts
    in_tasks = [[row.login_id for row in task] for task in gathered.rdd.glom().collect()]
    changes = sum(a != b for task in in_tasks for a, b in itertools.pairwise(task))
    assert (changes <= 6 * len(in_tasks)) == bool(sorts)
