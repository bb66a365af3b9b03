"""The identities by kind of query: closed windows, running totals, joined rows. Each fills an `Account`.

batch = speed + late: of all records that the query's ledger says it took, some were dropped as late, and the transform
over the others (`due`) is what the sink must hold (`speed`), whatever the transform computes; for sums the three add up.
The cut is a batch: records of later batches do not count, and what later batches may still change is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from headrace.contract import views
from headrace.contract.generation import Generation
from headrace.contract.ledger import Record
from headrace.contract.model import Query
from headrace.streaming import batch
from headrace.streaming.queries import Transform
from headrace.streaming.reconcile_sinks import WRITTEN

PASSED, FAILED, NOT_COMPARED, EMPTY, EXEMPT = "PASSED", "FAILED", "NOT_COMPARED", "EMPTY", "EXEMPT"
KEEP = 200  # differences of one account that are named in full
OLD = "_old"  # of a sink's row: an earlier generation wrote it


@dataclass(frozen=True)
class Cut:
    """Up to which batch a query is compared. `seen` was the newest in the ledger before the sink was read."""

    generation: Generation
    ledger: Sequence[Record]  # up to and with the cut
    seen: int
    planned: int  # the newest batch that the checkpoint knows; a row of a later one was not written by the stream

    @property
    def batch(self) -> int:
        """Return the batch's number, -1 where there is none to compare."""
        return self.ledger[-1]["batch"] if self.ledger else -1

    @property
    def surely(self) -> list[Record]:
        """Return the batches whose rows were in the sink before it was read."""
        return [record for record in self.ledger if record["batch"] <= self.seen]

    @property
    def closed_ms(self) -> int:
        """Return the watermark up to which windows are closed: later batches drop what still comes for them."""
        return max((record["watermark_ms"] for record in self.surely), default=0)


@dataclass
class Account:
    """What was compared of one query and sink, and what did not add up.

    `blocked`: something was to be compared and could not be; `exempt`: this kind of sink is never compared. Both say why in
    `note`.
    """

    query: str
    sink: str
    kind: str
    generation: int = 0
    cut: int = -1
    closed_ms: int | None = None
    compared: int = 0
    late: int = 0
    pending: int = 0
    differing: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    blocked: bool = False
    exempt: bool = False

    @property
    def status(self) -> str:
        """Return PASSED, FAILED, NOT_COMPARED (it could not be), EMPTY (there is nothing to compare) or EXEMPT."""
        if self.differing:
            return FAILED
        if self.compared:
            return PASSED
        return NOT_COMPARED if self.blocked else EXEMPT if self.exempt else EMPTY

    def block(self, why: str) -> None:
        """Note why it could not be compared."""
        self.note, self.blocked = why, True


def windows(
    account: Account, query: Query, transform: Transform, records: DataFrame, speed: DataFrame, cut: Cut, since_ms: int,
    tolerance: Decimal,
) -> None:  # fmt: skip
    """Compare every closed window and key. `records` come from `batch.batch_of` and lie in the cut."""
    assert query.aggregate is not None
    window = query.aggregate.window
    assert window is not None
    keys = views.key(query)
    values = [name for name in query.columns if name not in keys]
    account.closed_ms = cut.closed_ms
    # From its start: a query need not write the end of its windows.
    end_micros = F.unix_micros(views.WINDOW_START) + F.lit(window.size // timedelta(microseconds=1))
    inside = (end_micros <= cut.closed_ms * 1000) & (F.unix_millis(views.WINDOW_START) >= since_ms)
    rows = records.where(F.unix_millis(window.column) >= since_ms)
    sides = {
        "due": batch.in_time_windows(rows, window, transform).where(inside),
        "speed": speed.where(inside),
        "late": batch.late_windows(rows, window, transform).where(inside),
    }
    together = batch.matched(sides, keys, values).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        _count(account, together, F.col("_has_late"))
        found = _judged(batch.unlike(together, "due", "speed", values, tolerance), speed, keys)
        reach = [F.unix_micros(window.column) >= F.unix_micros(views.WINDOW_START)]
        reach += [F.unix_micros(window.column) < end_micros]
        is_late = end_micros <= F.col(batch.LATE_MARK) * 1000
        _tell(account, found, records, query.aggregate.keys, keys, values, reach, is_late, speed, cut, transform)
    finally:
        together.unpersist()


def running(
    account: Account, query: Query, transform: Transform, records: DataFrame, speed: DataFrame, cut: Cut,
    tolerance: Decimal,
) -> None:  # fmt: skip
    """Compare every key's total as of the batch that wrote it; a row of a batch beyond the cut is pending.

    A total is never closed, but its writetime tells its batch (ADR 0006), and nothing of the key came in between: each
    key is compared as of that batch or the newest that was seen before the sink was read, whichever is later.
    """
    assert query.aggregate is not None
    keys = list(query.aggregate.keys)
    values = [name for name in query.columns if name not in keys]
    if cut.seen > cut.batch:
        account.block(f"the archive has not reached batch {cut.seen} yet: nothing could be compared")
        account.pending = speed.count()
        return
    number = F.col(WRITTEN) - F.lit(cut.generation.started_micros)
    own = number.between(0, cut.planned)
    as_of = F.when(own, F.greatest(number, F.lit(cut.seen))).otherwise(F.lit(cut.seen))
    speed = speed.withColumn("_as_of", as_of).persist(StorageLevel.MEMORY_AND_DISK)
    pending = F.broadcast(speed.where(F.col("_as_of") > cut.batch).select(*keys))
    account.pending = pending.count()
    rows = records.join(F.broadcast(speed.select(*keys, "_as_of")), keys, "left")
    rows = rows.where(F.col(batch.BATCH) <= F.coalesce(F.col("_as_of"), F.lit(cut.seen))).drop("_as_of")
    whole = transform(rows).select(*keys, *values).join(pending, keys, "left_anti")
    sides = {"due": whole, "speed": speed.where(F.col("_as_of") <= cut.batch)}
    together = batch.matched(sides, keys, values).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        _count(account, together, F.lit(False))
        found = _judged(batch.unlike(together, "due", "speed", values, tolerance), speed, keys)
        _tell(account, found, records, keys, keys, values, [], F.lit(False), speed, cut, transform)
    finally:
        together.unpersist()
        speed.unpersist()


def joined(
    account: Account, query: Query, transform: Transform, sides: Mapping[str, DataFrame], times: Mapping[str, str],
    speed: DataFrame, cut: Cut, since_ms: int, *, milliseconds: bool,
) -> None:  # fmt: skip
    """Compare the rows of every left row that is settled: the watermark has passed all that could still join it.

    Equal rows are one: the sink's key, like the topic's identity, takes them as one. `milliseconds`: the sink keeps no
    microseconds.
    """
    assert query.join is not None
    columns, key, time_ = list(query.columns), views.key(query), views.day_column(query)
    upper = views.margin(query)
    # State is cut in milliseconds and both borders of the range belong to it (tests/support/oracle.py).
    account.closed_ms = cut.closed_ms - 1 - int(upper.total_seconds() * 1000)
    inside = (F.unix_millis(time_) <= account.closed_ms) & (F.unix_millis(time_) >= since_ms)

    def rows(frame: DataFrame) -> DataFrame:
        cut_ = _in_milliseconds(frame) if milliseconds else frame
        return batch.counted(cut_.select(*columns).dropDuplicates(key).where(inside))

    in_time = {name: batch.split_late(side, times[name])[0] for name, side in sides.items()}
    whole, kept = rows(transform(**sides)), rows(transform(**in_time))
    late = whole.unionByName(kept.withColumn(batch.ROWS, -F.col(batch.ROWS)))
    late = late.groupBy(*columns).agg(F.sum(batch.ROWS).alias(batch.ROWS)).where(F.col(batch.ROWS) != 0)
    own = (
        speed.where(f"NOT {OLD}").unionByName(speed.where(OLD).join(kept, key, "left_semi"))
        if OLD in speed.columns
        else speed
    )
    together = batch.side_by_side(whole, rows(own), late, columns, [batch.ROWS]).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        _count(account, together, F.col(f"_late_{batch.ROWS}") != 0)
        found = batch.differing(together, [batch.ROWS]).persist(StorageLevel.MEMORY_AND_DISK)
        keys = found.select(*key).distinct()
        account.differing = keys.count()
        top = [tuple(row) for row in keys.orderBy(*key).limit(KEEP).collect()]
        named = F.broadcast(found.sparkSession.createDataFrame(top, keys.schema))  # not of `found`: a join with itself
        same = [found[name].eqNullSafe(named[name]) for name in key]
        account.differences += joined_differences(found.join(named, same, "left_semi").collect(), key, columns)
        found.unpersist()
        _place_joined(account, query, sides, columns)
    finally:
        together.unpersist()


def _judged(found: DataFrame, speed: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Leave out rows that an earlier generation wrote and for which this one has taken no record: a reset left them."""
    if OLD not in speed.columns:
        return found
    left = speed.where(OLD).select(*keys)
    return found.where("_has_due").unionByName(found.where("_has_due IS NULL").join(left, list(keys), "left_anti"))


def _count(account: Account, sides: DataFrame, late: Column) -> None:
    counts = sides.agg(F.count(F.lit(1)).alias("all"), F.count(F.when(late, True)).alias("late")).first()
    assert counts is not None
    account.compared, account.late = counts["all"], counts["late"]


def _tell(
    account: Account, found: DataFrame, records: DataFrame, on: Sequence[str], keys: Sequence[str],
    values: Sequence[str], reach: Sequence[Column], late: Column, speed: DataFrame, cut: Cut,
    transform: Transform,
) -> None:  # fmt: skip
    """Name the differing keys: their values, the batch that wrote the sink's row, the batches and offsets behind them."""
    account.differing = found.count()
    if not account.differing:
        return
    top = found.orderBy(*keys).limit(KEEP).collect()
    told = {tuple(row[key] for key in keys): _difference(row.asDict(), keys, values) for row in top}
    named = found.sparkSession.createDataFrame([tuple(row[k] for k in keys) for row in top], found.select(*keys).schema)
    if WRITTEN in speed.columns:
        for row in speed.join(F.broadcast(named), list(keys)).select(*keys, WRITTEN).collect():
            told[tuple(row[key] for key in keys)] |= _writer(row[WRITTEN], cut)
    condition = [records[key].eqNullSafe(named[key]) for key in on] + list(reach)
    whole = transform(records.join(F.broadcast(named), condition, "left_semi")).select(*keys, *values)
    for row in whole.join(F.broadcast(named), list(keys), "left_semi").collect():
        told[tuple(row[key] for key in keys)]["batch"] = {value: row[value] for value in values}
    behind = records.join(F.broadcast(named), condition).select(
        *(named[key] for key in keys), batch.BATCH, late.alias("_late"), F.col("source").alias("_place")
    )
    topic, partition = F.col("_place.topic").alias("_topic"), F.col("_place.partition").alias("_partition")
    parts = behind.groupBy(*keys, topic, partition).agg(
        F.min("_place.offset").alias("_first"),
        F.max("_place.offset").alias("_last"),
        F.sort_array(F.collect_set(batch.BATCH)).alias("_batches"),
        F.max(F.when(~F.col("_late"), F.col(batch.BATCH))).alias("_expected"),
    )
    for row in parts.collect():
        _add_place(told[tuple(row[key] for key in keys)], row)
    account.differences += list(told.values())


def _add_place(told: dict[str, Any], row: Row) -> None:
    told["batches"] = sorted({*told["batches"], *row["_batches"]})
    told["offsets"][f"{row['_topic']}/{row['_partition']}"] = [row["_first"], row["_last"]]
    newest = [number for number in (told.get("expected_batch"), row["_expected"]) if number is not None]
    told["expected_batch"] = max(newest) if newest else None


def _difference(row: Mapping[str, Any], keys: Sequence[str], values: Sequence[str]) -> dict[str, Any]:
    sides = {
        side: {v: row[f"_{side}_{v}"] for v in values} if row.get(f"_has_{side}") else None
        for side in ("due", "speed", "late")
    }
    return {
        "what": _what(sides),
        "key": {key: row[key] for key in keys},
        "batch": None,
        **sides,
        "batches": [],
        "offsets": {},
    }


def joined_differences(rows: Sequence[Row], key: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return one difference a key of joined rows that differ: a row that changed is one difference, not two.

    `rows` come from `batch.differing`, with the query's columns. `due` and `speed` are the values of the other columns, None
    where there is no such row.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    others = [column for column in columns if column not in key]
    for row in sorted(rows, key=lambda each: [str(each[column]) for column in columns]):
        place = tuple(row[column] for column in key)
        told = found.setdefault(
            place,
            {"key": dict(zip(key, place, strict=True)), "batch": {"rows": 0}, "late": {"rows": 0}, "due": None,
             "speed": None, "batches": [], "offsets": {}},
        )  # fmt: skip
        told["batch"]["rows"] += row[f"_batch_{batch.ROWS}"]
        told["late"]["rows"] += row[f"_late_{batch.ROWS}"]
        if row[f"_batch_{batch.ROWS}"] - row[f"_late_{batch.ROWS}"] > 0:
            told["due"] = {column: row[column] for column in others}
        if row[f"_speed_{batch.ROWS}"] > 0:
            told["speed"] = {column: row[column] for column in others}
    for told in found.values():
        told["what"] = _what(told)
    return list(found.values())


def _what(sides: Mapping[str, Any]) -> str:
    # A row of key columns only is there with no value at all.
    if sides["speed"] is None:
        return "missing in the sink"
    return "differs" if sides["due"] is not None else "in the sink without records"


def _writer(written: int | None, cut: Cut) -> dict[str, Any]:
    """Tell which batch wrote a sink's row, or that none did: a write by hand has the clock's time."""
    if written is None:
        return {"sink_batch": None, "written": written, "by": "nothing is written there"}
    number = written - cut.generation.started_micros
    if number < 0:
        return {"sink_batch": None, "written": written, "by": "an earlier generation"}
    if number > cut.planned:
        return {"sink_batch": None, "written": written, "by": "not this stream"}
    return {"sink_batch": number, "written": written, "by": f"batch {number}"}


def _in_milliseconds(frame: DataFrame) -> DataFrame:
    return frame.select(
        *(
            F.date_trunc("millisecond", f.name).alias(f.name) if isinstance(f.dataType, TimestampType) else f.name
            for f in frame.schema
        )
    )


def _place_joined(account: Account, query: Query, sides: Mapping[str, DataFrame], columns: Sequence[str]) -> None:
    """Name the batches and offsets of the left rows behind joined rows that differ, found by the join's first column."""
    assert query.join is not None
    if not account.differences:
        return
    column = query.join.using[0]
    first = next((sink.partition_key[0] for sink in query.sinks if sink.kind == "cassandra"), columns[0])
    wanted = {str(each["key"][first]): each for each in reversed(account.differences)}
    rows = (
        sides[query.join.left]
        .where(F.col(column).isin(*wanted))
        .select(F.col(column).alias("_key"), F.col(batch.BATCH).alias("batch"), "source.*")
    )
    for row in rows.collect():
        for each in account.differences:
            if str(each["key"][first]) == row["_key"]:
                place = f"{row.topic}/{row.partition}"
                low, high = each["offsets"].get(place, [row.offset, row.offset])
                each["offsets"][place] = [min(low, row.offset), max(high, row.offset)]
                each["batches"] = sorted({*each["batches"], row.batch})
