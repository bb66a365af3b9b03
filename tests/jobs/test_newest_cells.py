"""Reducing a batch before it is written must leave in Cassandra what the rows, written one by one, would have left."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.contract.model import CassandraSink
from headrace.driver.sinks import WRITETIME, newest_cells, together
from tests.support.frames import frame
from tests.support.replay import plain

pytestmark = pytest.mark.spark

DDL = "login_id string, last_login timestamp, last_device string, note string"
DEVICES = (None, None, "", "web", "ios", "é", "漢", "\U0001f600")  # the greater one in bytes, as Cassandra compares
Cells = dict[tuple[str, str], tuple[int, bytes]]


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
