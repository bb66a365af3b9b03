"""Single rows whose ids are not the places of their records: a declared identity, and transforms that return no place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch.reconcile import newest_cells, single_rows
from headrace.contract.load import load_pipeline
from headrace.contract.model import CassandraSink, KafkaSink
from headrace.driver import sinks
from headrace.store.file_sink import Directory
from headrace.store.job_reports import Account
from tests.jobs.test_exploded_arrays import ORDERS
from tests.operations.batch.test_reconcile import MINUTE, NOON, taken
from tests.support.sink_ends import load

pytestmark = pytest.mark.spark

Row = tuple[str, str, str | None]
LEDGER = [taken(0, 0, 2, topic="placed"), taken(1, 2, 5, topic="placed")]


def lines(spark: SparkSession, rows: Sequence[Row]) -> DataFrame:
    return spark.createDataFrame(rows, "order_id string, sku string, price string").selectExpr(
        "order_id", "sku", "cast(price AS decimal(12,2)) price"
    )


def test_rows_with_a_declared_identity_are_compared_by_it_whatever_their_places(
    spark: SparkSession, tmp_path: Path
) -> None:
    query = load(tmp_path, ORDERS).queries["lines"]
    (sink,) = query.sinks
    assert isinstance(sink, KafkaSink)
    rows: list[Row] = [("o1", "a", "1.10"), ("o1", "b|c", None), ("o2", "d", "3.00")]
    made = lines(spark, [*rows, rows[0]])  # a record that came twice

    def compared(*sent: tuple[Row, int, int]) -> Account:
        """Compare with records of (row, generation, batch)."""
        parts = [
            lines(spark, [row]).select(
                sinks.json_of(query).cast("binary").alias("value"),
                sinks.identity(sink).alias("_id"),
                F.lit(generation).alias("_generation"),
                F.lit(batch).cast("bigint").alias("_batch"),
            )
            for row, generation, batch in sent
        ]
        account = Account("lines", "topic", "rows")
        single_rows.by_identity(account, query, sink, made, reduce(DataFrame.unionByName, parts), LEDGER, 2)
        return account

    even = [(row, 2, 1) for row in rows]
    stray: Row = ("o9", "z", "9.00")
    good = compared(*even, even[0], (rows[1], 1, 0), (stray, 2, 7), (stray, 1, 0))
    assert (good.differences, good.compared) == ([], 3), "repeats, and rows of other batches, are no differences"
    changed = compared(even[0], even[1], (("o2", "d", "4.00"), 2, 1)).differences
    assert [(one.what, one.key, one.batches) for one in changed] == [("differs", {"id": "o2|d"}, (1,))]
    assert [(one.what, one.key) for one in compared(*even[1:]).differences] == [("missing in the sink", {"id": "o1|a"})]
    extra = compared(*even, (stray, 2, 1)).differences
    assert [(one.what, one.key, one.due) for one in extra] == [("in the sink without records", {"id": "o9|z"}, None)]


def test_a_transform_that_returns_no_place_has_its_rows_compared_in_all_batches_together(
    spark: SparkSession, tmp_path: Path
) -> None:
    query = load(
        tmp_path,
        ORDERS.replace("{kind: kafka, topic: shop.lines, key: order_id, identity: [order_id, sku]}", "{kind: files}"),
    ).queries["lines"]
    records = spark.createDataFrame(
        [("o1", "a", 0), ("o1", "b", 0), ("o2", "c", 1), ("o3", "d", 4)],
        "order_id string, sku string, _headrace_batch bigint",
    )

    def transform(placed: DataFrame) -> DataFrame:
        return placed.selectExpr("order_id", "sku", "cast(null AS decimal(12,2)) price")

    def compared(rows: Sequence[tuple[str, str, int]]) -> Account:
        made = single_rows.placed(transform, records, [LEDGER])
        folder = spark.createDataFrame(rows, "order_id string, sku string, batch_id bigint").withColumn(
            "price", F.lit(None).cast("decimal(12,2)")
        )
        directories = [Directory(0, 0, "a"), Directory(1, 1, "b"), Directory(4, 4, "c")]
        together, one = single_rows.as_one(folder, LEDGER, directories)
        account = Account("lines", "files", "rows")
        single_rows.in_files(account, query, made, together, LEDGER, one)
        return account

    good = [("o1", "a", 0), ("o1", "b", 0), ("o2", "c", 1), ("o3", "d", 4)]
    assert (compared(good).differences, compared(good).compared) == ([], 3), "batch 4 is not in the ledger"
    (difference,) = compared(good[1:]).differences
    assert (difference.what, difference.batches, difference.offsets) == ("differs", (0, 1), {"placed/0": (0, 4)})


def test_rows_without_a_place_are_due_in_a_table_by_the_portion_of_their_batch(
    spark: SparkSession, project: Path
) -> None:
    """Of two portions the rows of the older one may have expired: they are not missed."""
    pipeline = load_pipeline(project / "pipelines" / "user_logins.yaml")
    query = pipeline.queries["last_login"].model_copy(update={"matched": None, "dimensions": []})
    (sink,) = query.sinks
    assert isinstance(sink, CassandraSink)
    columns = "login_id string, last_login timestamp, last_device string"
    given = [("u1", NOON, "web", 0), ("u2", NOON + MINUTE, "ios", 1), ("u3", NOON, "tv", 1)]
    records = spark.createDataFrame(given, f"{columns}, _headrace_batch bigint")
    made = single_rows.placed(lambda rows: rows.drop("_headrace_batch"), records, [LEDGER[:1], LEDGER[1:], []])
    account = Account("last_login", "table", "rows")
    table = spark.createDataFrame([("u3", NOON, "tv")], columns)
    newest_cells.compare(account, query, sink, made, table, left_since=1)
    assert account.compared == 2
    assert [(one.what, one.key, one.offsets) for one in account.differences] == [
        ("missing in the sink", {"login_id": "u2"}, {})
    ]
    assert account.note == "1 keys are not compared: their cells may have expired by the table's ttl"
