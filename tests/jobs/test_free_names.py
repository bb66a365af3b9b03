"""A user's column has any name that the contract lets through: in each kind of query, sink, view and comparison.

Names are drawn from those that our own source writes in quotes, from Spark's and Cassandra's columns and functions, from
the reserved words of SQL and CQL, and from the old names of the platform's columns.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import accounting, views
from headrace.batch.reconcile import kinds, lookups, newest_cells, single_rows, sink_frames
from headrace.contract.model import CassandraSink
from headrace.contract.platform_columns import SOURCE
from headrace.driver import check, refusals, sinks, source
from headrace.store import file_sink
from headrace.store.generation import Generation
from headrace.store.job_reports import Account
from tests.support.free_names import pool
from tests.support.sink_ends import load, record, records_frame, write_batch

pytestmark = pytest.mark.spark

FIXED = [
    ("value", "key", "batch", "offset"),
    ("row", "rows", "count", "day"),
    ("batch_rows", "has_due", "due_at", "at"),
    ("source", "raw", "topic", "kafka_timestamp"),
]


TEXT = """
name: names
owner: tests
description: Names of every sort.
version: 1
sources:
  things: &things
    key: "{k}"
    columns:
      "{k}": {{type: string, required: true, max_distinct: 9}}
      "{v}": {{type: string}}
      "{n}": {{type: "decimal(12,2)", required: true}}
      "{t}": {{type: timestamp, required: true}}
    event_time: {{column: "{t}"}}
  others: *things
dimensions:
  known:
    keyspace: names_db
    table: known
    key: ["{k}"]
    columns:
      "{k}": {{type: string, required: true}}
      z_name: {{type: string}}
queries:
  copied:
    sources: [things]
    dimensions: [known]
    matched: z_matched
    mode: append
    columns: &all
      "{k}": {{type: string, required: true}}
      "{v}": {{type: string}}
      "{n}": {{type: "decimal(12,2)", required: true}}
      "{t}": {{type: timestamp, required: true}}
    sinks:
      - {{kind: kafka, topic: copies, key: "{k}"}}
      - {{kind: kafka, topic: named, key: "{k}", identity: ["{k}"]}}
      - {{kind: cassandra, partition_key: ["{k}"], writetime: "{t}"}}
      - {{kind: files}}
  totals:
    sources: [things]
    mode: update
    late: include
    aggregate: {{keys: ["{k}"]}}
    columns:
      "{k}": {{type: string, required: true}}
      "{n}": {{type: "decimal(22,2)", required: true}}
      "{v}": {{type: long, required: true}}
    sinks:
      - {{kind: cassandra, partition_key: ["{k}"]}}
  windows:
    sources: [things]
    mode: append
    watermark: {{things: 10 minutes}}
    late: drop
    aggregate: {{keys: ["{k}"], window: {{column: "{t}", size: 5 minutes}}}}
    columns:
      window_start: {{type: timestamp, required: true}}
      window_end: {{type: timestamp, required: true}}
      "{k}": {{type: string, required: true}}
      "{n}": {{type: "decimal(22,2)", required: true}}
    sinks:
      - {{kind: kafka, topic: closed, key: "{k}", identity: [window_start, "{k}"]}}
  pairs:
    sources: [things, others]
    mode: append
    watermark: {{things: 10 minutes, others: 10 minutes}}
    late: drop
    join: {{type: inner, left: things, right: others, using: ["{k}"], time_range: {{lower: 0 seconds, upper: 5 minutes}}}}
    columns:
      "{k}": {{type: string, required: true}}
      "{t}": {{type: timestamp, required: true}}
    sinks:
      - {{kind: kafka, topic: paired, key: "{k}", identity: ["{k}", "{t}"]}}
"""


@pytest.mark.parametrize(
    "draw",
    [pytest.param(draw, marks=pytest.mark.long(group="outages") if draw in (1, 2, 4) else ()) for draw in range(6)],
)
def test_any_names_work_everywhere(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: Path, seed: int, draw: int
) -> None:
    drawn = random.Random(seed + draw).sample(pool(project), 4)
    k, v, n, t = FIXED[draw] if draw < len(FIXED) else drawn
    if t == "batch":  # as a write time the word has a meaning of its own
        k, t = t, k
    pipeline = load(tmp_path, TEXT.format(k=k, v=v, n=n, t=t))
    at = "2026-03-01 10:00:00"
    given = [
        record(**{k: key, v: text, n: "1.50", t: at}) for key, text in (("a", "x"), ("a", "y"), ("b", None), ("?", "q"))
    ]

    def copied(things: DataFrame, known: DataFrame) -> DataFrame:
        both = things.join(known, k, "left")  # a start refuses computed columns of a table in an outer join
        return both.select(k, v, n, t, F.col("z_name").isNotNull().alias("z_matched"), SOURCE)

    def totals(things: DataFrame) -> DataFrame:
        return things.groupBy(k).agg(F.sum(n).alias("z_sum"), F.count(F.lit(1)).alias("z_count")).select(
            k, F.col("z_sum").cast("decimal(22,2)").alias(n), F.col("z_count").alias(v)
        )  # fmt: skip

    def windows(things: DataFrame) -> DataFrame:
        sums = things.groupBy(F.window(t, "5 minutes").alias("z_window"), k).agg(F.sum(n).alias("z_sum"))
        span = [F.col(f"z_window.{side}").alias(f"window_{side}") for side in ("start", "end")]
        return sums.select(*span, k, F.col("z_sum").cast("decimal(22,2)").alias(n))

    def pairs(things: DataFrame, others: DataFrame) -> DataFrame:
        right = others.select(F.col(k).alias("z_key"), F.col(t).alias("z_at"))
        within = F.col("z_at").between(F.col(t), F.col(t) + F.expr("INTERVAL 5 MINUTES"))
        return things.join(right, (F.col(k) == F.col("z_key")) & within).select(k, t)

    jobs: dict[str, Callable[..., Any]] = {"copied": copied, "totals": totals, "windows": windows, "pairs": pairs}
    assert check.differences(spark, pipeline, jobs) == []
    known = spark.createDataFrame([("a", "A"), ("b", "B")], f"`{k}` string, z_name string")
    ends = write_batch(spark, monkeypatch, tmp_path, pipeline, "copied", copied, given, {"known": known})
    sent = sorted(
        (json.loads(message.value or b"") for message in ends.topics["copies"]), key=lambda row: (row[k], str(row[v]))
    )
    assert [(row[k], row[v], row[n]) for row in sent] == [("a", "x", 1.5), ("a", "y", 1.5), ("b", None, 1.5)]
    assert sorted(message.header("headrace.id") for message in ends.topics["copies"]) == [
        f"things/0/{n}" for n in range(3)
    ]
    assert sorted(message.header("headrace.id") for message in ends.topics["named"]) == ["a", "a", "b"]
    assert [json.loads(message.value or b"")[k] for message in ends.topics["things_dead_letters"]] == ["?"]
    assert sorted((row[k], row[v], row[n]) for row in ends.tables["names.copied"]) == [
        ("a", "y", Decimal("1.50")), ("b", None, Decimal("1.50")),
    ]  # fmt: skip
    write_batch(spark, monkeypatch, tmp_path, pipeline, "totals", totals, given, ends=ends)
    assert sorted((row[k], row[n], row[v]) for row in ends.tables["names.totals"]) == [
        ("?", Decimal("1.50"), 1), ("a", Decimal("3.00"), 2), ("b", Decimal("1.50"), 1),
    ]  # fmt: skip
    write_batch(spark, monkeypatch, tmp_path, pipeline, "windows", windows, given, ends=ends)
    assert len(ends.topics["closed"]) == 3
    assert _compared(spark, pipeline, tmp_path, given, jobs, known) == 17


def _compared(spark: SparkSession, pipeline: Any, folder: Path, given: Any, jobs: Any, known: DataFrame) -> int:
    """Compare each kind with what its own transform gives: nothing differs. Returns how many rows were compared."""
    contract = pipeline.sources["things"]
    taken = {
        "batch": 0,
        "offsets": {topic: {"0": [0, 9]} for topic in ("things", "others")},
        "watermark_ms": 4_000_000_000_000,
        "late_watermark_ms": 0,
    }
    cut = kinds.Cut(Generation("names", "x", 1, 0, {}), [taken], 0, 0)  # type: ignore[list-item]
    typed = source.accepted(records_frame(spark, "things", given), contract, (SOURCE,))
    placed = accounting.batch_of(typed, cut.ledger).cache()
    others = source.accepted(records_frame(spark, "others", given), pipeline.sources["others"], (SOURCE,))
    others = accounting.batch_of(others, cut.ledger).cache()
    accounts = {name: Account(name, "sink", "") for name in ("totals", "windows", "topic", "files", "rows", "pairs")}
    query = pipeline.queries["totals"]
    job = refusals.taken(jobs["totals"], pipeline, query)
    times = {"things": contract.event_time.column}
    view = views.compute(query, {"things": typed}, times, job, [date(2026, 3, 1)])
    assert view.count() == 3
    assert views.are_sums(query, typed, job)
    speed = job(placed).withColumn(sink_frames.WRITTEN, F.lit(0).cast("bigint"))
    kinds.running(accounts["totals"], query, job, placed, speed, cut, Decimal(0))
    query, job = pipeline.queries["windows"], jobs["windows"]
    kinds.windows(accounts["windows"], query, job, placed, job(placed), cut, 0, Decimal(0))
    query = pipeline.queries["copied"]
    made = refusals.taken(jobs["copied"], pipeline, query)(typed, known)
    sent = made.select(F.concat_ws("/", *(F.col(f"{SOURCE}.{part}") for part in ("topic", "partition", "offset"))).alias("_id"),
                       sinks.json_of(query).alias("value"), F.lit(1).alias("_generation"), F.lit(0).alias("_batch"))  # fmt: skip
    single_rows.in_topic(accounts["topic"], query, made, sink_frames.placed_by_id(sent, "things"), cut.certain)
    lines = [f"{folder}/files/names/copied/1/batch_id=0", *folder.rglob("batch_id=0")]
    directory = file_sink.Directory(0, 0, str(lines[-1]))
    rows = sink_frames.files(type("Job", (), {"spark": spark})(), query, [directory])
    single_rows.in_files(
        accounts["files"], query, accounting.batch_of(made, cut.ledger), rows, cut.certain, [directory]
    )
    sink = query.sinks[2]
    assert isinstance(sink, CassandraSink)
    table = sinks.newest_cells(made.select(*query.columns), sink.partition_key, sink.writetime).select(*query.columns)
    nobody = sink_frames.placed_by_id(sent, "nothing")
    rows = lookups.matched(query, placed_rows(made, cut), nobody)
    newest_cells.compare(accounts["rows"], query, sink, rows, table)
    _compare_pairs(accounts["pairs"], pipeline, jobs["pairs"], {"things": placed, "others": others}, cut)
    assert {name: account.differences for name, account in accounts.items() if account.differing} == {}
    return sum(account.compared for account in accounts.values())


def _compare_pairs(account: Account, pipeline: Any, job: Any, sides: dict[str, DataFrame], cut: kinds.Cut) -> None:
    """Compare joined rows with themselves, and with an empty sink: each difference has the place of its record."""
    query, times = pipeline.queries["pairs"], {topic: pipeline.sources[topic].event_time.column for topic in sides}
    rows = job(**sides)
    kinds.joined(account, query, job, sides, times, rows, cut, 0, milliseconds=False)
    nothing = Account("pairs", "sink", "")
    kinds.joined(nothing, query, job, sides, times, rows.limit(0), cut, 0, milliseconds=False)
    assert nothing.differing == 3
    assert all(difference.offsets for difference in nothing.differences)


def placed_rows(made: DataFrame, cut: kinds.Cut) -> DataFrame:
    return accounting.batch_of(made.withColumn("z_matched", F.lit(True)), cut.ledger)
