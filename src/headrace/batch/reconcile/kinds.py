"""The identities by kind of query: closed windows, running totals, joined rows. Each function fills an `Account`.

batch = speed + late: of all records that the query's ledger says it read, some were dropped as late, and the transform
over the others (`due`) is what the sink must hold (`speed`), whatever the transform computes; for sums the three add up.
The cut is a batch: records of later batches do not count, and rows that later batches may still change are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from headrace.batch import accounting as batch
from headrace.batch.reconcile.sink_frames import WRITTEN
from headrace.contract import batch_views
from headrace.contract.model import Query
from headrace.contract.platform_columns import SOURCE
from headrace.driver.queries import Transform
from headrace.store.generation import Generation
from headrace.store.job_reports import Account, Cell, Difference
from headrace.store.ledger import BatchRecord

KEEP = 200  # differences of one account that are reported in full
OLD = "_old"  # whether an earlier generation wrote the sink's row


@dataclass(frozen=True)
class Cut:
    """The batch up to which a query is compared. `seen` was the newest in the ledger before the sink was read."""

    generation: Generation
    ledger: Sequence[BatchRecord]  # up to and including the cut
    seen: int
    planned: int  # the newest batch in the checkpoint; a row of a later one was not written by the stream

    @property
    def batch(self) -> int:
        """Return the batch's number, -1 if there is none to compare."""
        return self.ledger[-1]["batch"] if self.ledger else -1

    @property
    def certain(self) -> list[BatchRecord]:
        """Return the batches whose rows were in the sink before it was read."""
        return [record for record in self.ledger if record["batch"] <= self.seen]

    @property
    def closed_ms(self) -> int:
        """Return the watermark up to which windows are closed: later batches drop any further rows for them."""
        return max((record["watermark_ms"] for record in self.certain), default=0)


def windows(
    account: Account, query: Query, transform: Transform, records: DataFrame, speed: DataFrame, cut: Cut, since_ms: int,
    tolerance: Decimal,
) -> None:  # fmt: skip
    """Compare every closed window and key. `records` come from `accounting.batch_of` and lie in the cut."""
    assert query.aggregate is not None
    window = query.aggregate.window
    assert window is not None
    keys = batch_views.key(query)
    values = [name for name in query.columns if name not in keys]
    account.closed_ms = cut.closed_ms
    # By its start: a query need not write the end of its windows.
    end_micros = F.unix_micros(batch_views.WINDOW_START) + F.lit(window.size // timedelta(microseconds=1))
    inside = (end_micros <= cut.closed_ms * 1000) & (F.unix_millis(batch_views.WINDOW_START) >= since_ms)
    rows = records.where(F.unix_millis(window.column) >= since_ms)
    sides = {
        "due": batch.in_time_windows(rows, window, transform).where(inside),
        "speed": speed.where(inside),
        "late": batch.late_windows(rows, window, transform).where(inside),
    }
    with batch.persisted(batch.matched(sides, keys, values)) as together:
        _count(account, together, F.col("_has_late"))
        differing = _judged(batch.unlike(together, "due", "speed", values, tolerance), speed, keys)
        reach = [F.unix_micros(window.column) >= F.unix_micros(batch_views.WINDOW_START)]
        reach += [F.unix_micros(window.column) < end_micros]
        is_late = end_micros <= F.col(batch.LATE_MARK) * 1000
        _describe(
            account, differing, records, query.aggregate.keys, keys, values, reach, is_late, speed, cut, transform
        )


def running(
    account: Account, query: Query, transform: Transform, records: DataFrame, speed: DataFrame, cut: Cut,
    tolerance: Decimal, settled: Callable[[DataFrame], DataFrame] = lambda due: due, alive: DataFrame | None = None,
    newest: DataFrame | None = None,
) -> None:  # fmt: skip
    """Compare every key's total as of the batch that wrote it; a row of a batch beyond the cut is pending.

    `settled` adds the totals of earlier batches, if `records` are only those of later ones, and leaves out the totals that no
    sink takes. `alive` has the keys whose rows the table's ttl has certainly left (None: no ttl); of the others only rows that
    the sink has are compared. `newest` are the settled totals as of the newest batch known before the sink was read (None:
    computed here).

    A total is never closed, but its writetime identifies its batch (ADR 0006), and nothing of the key came in between. Each key
    is compared as of that batch or of the newest batch known before the sink was read, whichever is later.
    """
    assert query.aggregate is not None
    keys = list(query.aggregate.keys)
    values = [name for name in query.columns if name not in keys]
    if cut.seen > cut.batch:
        account.block(f"the archive has not reached batch {cut.seen} yet: nothing could be compared")
        account.pending = speed.count()
        return
    number = F.col(WRITTEN) - F.lit(cut.generation.started_micros)
    by_this_generation = number.between(0, cut.planned)
    as_of = F.when(by_this_generation, F.greatest(number, F.lit(cut.seen))).otherwise(F.lit(cut.seen))
    with batch.persisted(speed.withColumn("_as_of", as_of)) as speed:
        account.pending = speed.where(F.col("_as_of") > cut.batch).count()
        if newest is None:
            newest = settled(transform(records.where(F.col(batch.BATCH) <= cut.seen)))
        since = speed.where(F.col("_as_of") > cut.seen)  # these keys were written while the sink was read
        unchanged = newest.select(*keys, *values).join(F.broadcast(since.select(*keys)), keys, "left_anti")
        since = F.broadcast(since.where(F.col("_as_of") <= cut.batch).select(*keys, "_as_of"))
        rows = records.join(since, keys).where(F.col(batch.BATCH) <= F.col("_as_of")).drop("_as_of")
        changed = settled(transform(rows)).select(*keys, *values).join(since, keys, "left_semi")
        sides = {"due": unchanged.unionByName(changed), "speed": speed.where(F.col("_as_of") <= cut.batch)}
        together = batch.matched(sides, keys, values)
        if alive is not None:
            together = together.join(alive.select(*keys, F.lit(True).alias("_alive")).distinct(), keys, "left")
        with batch.persisted(together) as kept:
            expected = kept if alive is None else _without_expired(account, kept)
            _count(account, expected, F.lit(False))
            differing = _judged(batch.unlike(expected, "due", "speed", values, tolerance), speed, keys)
            _describe(account, differing, records, keys, keys, values, [], F.lit(False), speed, cut, transform)


def _without_expired(account: Account, together: DataFrame) -> DataFrame:
    """Leave out keys that the sink lacks and whose row may have expired, and note their number."""
    may_be_gone = F.col("_has_speed").isNull() & F.col("_alive").isNull()
    expired = together.where(may_be_gone).count()
    if expired:
        account.note = f"{expired} keys are not in the table, because they were last written longer ago than its ttl"
    return together.where(~may_be_gone)


def joined(
    account: Account, query: Query, transform: Transform, sides: Mapping[str, DataFrame], times: Mapping[str, str],
    speed: DataFrame, cut: Cut, since_ms: int, *, milliseconds: bool,
) -> None:  # fmt: skip
    """Compare the rows of every settled left row: the watermark has passed everything that could still join it.

    Equal rows count once, as in the sink's key and the topic's identity. `milliseconds`: the sink truncates times to
    milliseconds.
    """
    assert query.join is not None
    columns, key, time_ = list(query.columns), batch_views.key(query), batch_views.day_column(query)
    upper = batch_views.margin(query)
    # State is cut in milliseconds, and the range includes both its bounds (tests/support/oracle.py).
    account.closed_ms = cut.closed_ms - 1 - int(upper.total_seconds() * 1000)
    inside = (F.unix_millis(time_) <= account.closed_ms) & (F.unix_millis(time_) >= since_ms)

    def rows(frame: DataFrame) -> DataFrame:
        cut_ = _in_milliseconds(frame) if milliseconds else frame
        return batch.counted(cut_.select(*columns).dropDuplicates(key).where(inside))

    in_time = {name: batch.split_late(side, times[name])[0] for name, side in sides.items()}
    due, kept = rows(transform(**sides)), rows(transform(**in_time))
    late = due.unionByName(kept.withColumn(batch.ROWS, -F.col(batch.ROWS)))
    late = late.groupBy(*columns).agg(F.sum(batch.ROWS).alias(batch.ROWS)).where(F.col(batch.ROWS) != 0)
    current = (
        speed.where(f"NOT {OLD}").unionByName(speed.where(OLD).join(kept, key, "left_semi"))
        if OLD in speed.columns
        else speed
    )
    sides_of_each = batch.side_by_side(due, rows(current), late, columns, [batch.ROWS])
    with (
        batch.persisted(sides_of_each) as together,
        batch.persisted(batch.differing(together, [batch.ROWS])) as differing,
    ):
        _count(account, together, F.col(f"_late_{batch.ROWS}") != 0)
        keys = differing.select(*key).distinct()
        account.differing = keys.count()
        top = [tuple(row) for row in keys.orderBy(*key).limit(KEEP).collect()]
        # Made of rows, not of `differing`: that would be a join with itself.
        named = F.broadcast(differing.sparkSession.createDataFrame(top, keys.schema))
        same = [differing[name].eqNullSafe(named[name]) for name in key]
        account.differences += joined_differences(differing.join(named, same, "left_semi").collect(), key, columns)
        _place_joined(account, query, sides, columns)


def _judged(differing: DataFrame, speed: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Leave out rows of an earlier generation for which this one has read no record: a reset left them."""
    if OLD not in speed.columns:
        return differing
    left = speed.where(OLD).select(*keys)
    return differing.where("_has_due").unionByName(
        differing.where("_has_due IS NULL").join(left, list(keys), "left_anti")
    )


def _count(account: Account, sides: DataFrame, late: Column) -> None:
    counts = sides.agg(F.count(F.lit(1)).alias("all"), F.count(F.when(late, True)).alias("late")).first()
    assert counts is not None
    account.compared, account.late = counts["all"], counts["late"]


def _describe(
    account: Account, differing: DataFrame, records: DataFrame, on: Sequence[str], keys: Sequence[str],
    values: Sequence[str], reach: Sequence[Column], late: Column, speed: DataFrame, cut: Cut,
    transform: Transform,
) -> None:  # fmt: skip
    """Describe the differing keys: their values, the batch that wrote the sink's row, and their batches and offsets."""
    account.differing = differing.count()
    if not account.differing:
        return
    top = differing.orderBy(*keys).limit(KEEP).collect()
    differences = {tuple(row[key] for key in keys): _difference(row.asDict(), keys, values) for row in top}
    named = differing.sparkSession.createDataFrame(
        [tuple(row[k] for k in keys) for row in top], differing.select(*keys).schema
    )
    if WRITTEN in speed.columns:
        for row in speed.join(F.broadcast(named), list(keys)).select(*keys, WRITTEN).collect():
            key = tuple(row[name] for name in keys)
            differences[key] = _with_writer(differences[key], row[WRITTEN], cut)
    condition = [records[key].eqNullSafe(named[key]) for key in on] + list(reach)
    due = transform(records.join(F.broadcast(named), condition, "left_semi")).select(*keys, *values)
    for row in due.join(F.broadcast(named), list(keys), "left_semi").collect():
        key = tuple(row[name] for name in keys)
        differences[key] = replace(differences[key], batch=cells((value, row[value]) for value in values))
    behind = records.join(F.broadcast(named), condition).select(
        *(named[key] for key in keys), batch.BATCH, late.alias("_late"), F.col(SOURCE).alias("_place")
    )
    topic, partition = F.col("_place.topic").alias("_topic"), F.col("_place.partition").alias("_partition")
    parts = behind.groupBy(*keys, topic, partition).agg(
        F.min("_place.offset").alias("_first"),
        F.max("_place.offset").alias("_last"),
        F.sort_array(F.collect_set(batch.BATCH)).alias("_batches"),
        F.max(F.when(~F.col("_late"), F.col(batch.BATCH))).alias("_expected"),
    )
    for row in parts.collect():
        key = tuple(row[name] for name in keys)
        difference = placed(
            differences[key], row["_topic"], row["_partition"], (row["_first"], row["_last"]), row["_batches"]
        )
        newest = [number for number in (difference.expected_batch, row["_expected"]) if number is not None]
        differences[key] = replace(difference, expected_batch=max(newest, default=None))
    account.differences += differences.values()


def placed(
    difference: Difference, topic: str, partition: int, offsets: tuple[int, int], batches: Iterable[int]
) -> Difference:
    """Return a difference with further records behind it: their first and last offset, and their batches."""
    place = f"{topic}/{partition}"
    low, high = difference.offsets.get(place, offsets)
    return replace(
        difference,
        batches=tuple(sorted({*difference.batches, *batches})),
        offsets=difference.offsets | {place: (min(low, offsets[0]), max(high, offsets[1]))},
    )


def cells(values: Iterable[tuple[str, Any]]) -> dict[str, Cell]:
    """Return named values as JSON has them: decimals and times as text."""
    return {name: _cell(value) for name, value in values}


def _cell(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, Mapping):
        return {str(key): _cell(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cell(inner) for inner in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()  # a collected time is in this process's zone
    return str(value) if isinstance(value, (Decimal, date)) else value


def _difference(row: Mapping[str, Any], keys: Sequence[str], values: Sequence[str]) -> Difference:
    due, speed, late = (
        cells((value, row[f"_{side}_{value}"]) for value in values) if row.get(f"_has_{side}") else None
        for side in ("due", "speed", "late")
    )
    return Difference(_what(due, speed), cells((key, row[key]) for key in keys), due=due, speed=speed, late=late)


def joined_differences(rows: Sequence[Row], key: Sequence[str], columns: Sequence[str]) -> list[Difference]:
    """Return one difference per key of joined rows that differ: a changed row is one difference, not two.

    `rows` come from `accounting.differing`, with the query's columns. `due` and `speed` are the values of the other columns,
    or None if there is no such row.
    """
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda entry: [str(entry[column]) for column in columns]):
        by_key.setdefault(tuple(row[column] for column in key), []).append(row)
    return [_joined_difference(same, key, [c for c in columns if c not in key]) for same in by_key.values()]


def _joined_difference(rows: Sequence[Row], key: Sequence[str], others: Sequence[str]) -> Difference:
    due = speed = None
    for row in rows:
        if row[f"_batch_{batch.ROWS}"] - row[f"_late_{batch.ROWS}"] > 0:
            due = cells((column, row[column]) for column in others)
        if row[f"_speed_{batch.ROWS}"] > 0:
            speed = cells((column, row[column]) for column in others)
    return Difference(
        _what(due, speed),
        cells((column, rows[0][column]) for column in key),
        batch={"rows": sum(row[f"_batch_{batch.ROWS}"] for row in rows)},
        due=due,
        speed=speed,
        late={"rows": sum(row[f"_late_{batch.ROWS}"] for row in rows)},
    )


def _what(due: Mapping[str, Cell] | None, speed: Mapping[str, Cell] | None) -> str:
    # A row with key columns only exists without any value.
    if speed is None:
        return "missing in the sink"
    return "differs" if due is not None else "in the sink without records"


def _with_writer(difference: Difference, written: int | None, cut: Cut) -> Difference:
    """Return a difference with the batch that wrote the sink's row, or that none did: another write has the clock's time."""
    if written is None:
        return replace(difference, by="nothing is written there")
    number = written - cut.generation.started_micros
    if 0 <= number <= cut.planned:
        return replace(difference, sink_batch=number, written=written, by=f"batch {number}")
    return replace(difference, written=written, by="an earlier generation" if number < 0 else "not this stream")


def _in_milliseconds(frame: DataFrame) -> DataFrame:
    return frame.select(
        *(
            F.date_trunc("millisecond", f.name).alias(f.name) if isinstance(f.dataType, TimestampType) else f.name
            for f in frame.schema
        )
    )


def _place_joined(account: Account, query: Query, sides: Mapping[str, DataFrame], columns: Sequence[str]) -> None:
    """Add batches and offsets of the left rows behind joined rows that differ, found by the join's first column."""
    assert query.join is not None
    if not account.differences:
        return
    column = query.join.using[0]
    first = next((sink.partition_key[0] for sink in query.sinks if sink.kind == "cassandra"), columns[0])
    wanted = {str(difference.key[first]) for difference in account.differences}
    rows = (
        sides[query.join.left]
        .where(F.col(column).isin(*wanted))
        .select(F.col(column).alias("_key"), F.col(batch.BATCH).alias("batch"), f"{SOURCE}.*")
    )
    for row in rows.collect():
        account.differences = [
            placed(difference, row.topic, row.partition, (row.offset, row.offset), [row.batch])
            if str(difference.key[first]) == row["_key"]
            else difference
            for difference in account.differences
        ]
