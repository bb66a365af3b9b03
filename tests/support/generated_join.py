"""A join of two generated streams: drawn, made by Spark, and by plain Python from the records and the query's ledger.

Spark drops a row whose time is not after the watermark of the batch before. Every two other rows that belong together meet,
and a left row without a right one is emitted once no right row can come any more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import and_
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.contract.model import Query
from headrace.store import ledger
from tests.support.generated_expected import Groups, Json, Judged, Row, micros, refusal, rows_of_batch
from tests.support.generated_records import RecordMaker

Content = dict[str, Any]
RANGES = [(0, 0), (0, 60), (0, 600), (60, 600)]
"""Least and most seconds between a left row and its right ones."""


@dataclass(frozen=True)
class Joined:
    """A join: `sides` and `times` are left and right; `columns` says of which side (0, 1) and column an output column is."""

    sides: tuple[str, str]
    topics: tuple[str, str]
    times: tuple[str, str]
    using: Sequence[str]
    seconds: tuple[int, int]
    outer: bool
    columns: Mapping[str, tuple[int, str]]

    def transform(self, **frames: DataFrame) -> DataFrame:
        """Return the joined rows, by Spark."""
        left, right = (frames[side] for side in self.sides)
        begin, end = (left[self.times[0]] + F.expr(f"INTERVAL '{seconds}' SECOND") for seconds in self.seconds)
        time = right[self.times[1]]
        same = reduce(and_, (left[column] == right[column] for column in self.using), (time >= begin) & (time <= end))
        joined = left.join(right, same, "left_outer" if self.outer else "inner")
        return joined.select(*((left, right)[side][column].alias(new) for new, (side, column) in self.columns.items()))

    def share(self, makers: Mapping[str, RecordMaker]) -> None:
        """Give the makers of both topics the same values for the columns that must be equal."""
        one, other = (makers[topic] for topic in self.topics)
        for column in self.using:
            other.pools[id(other.source.columns[column])] = one.pools[id(one.source.columns[column])]

    def result(self, query: Query, judged: Mapping[str, Judged], batches: Sequence[ledger.BatchRecord]) -> Groups:
        """Return the rows over the batches of the query's ledger, by Python."""
        result = Groups()
        held: tuple[list[Row], list[Row]] = ([], [])
        alone: list[Row] = []
        least, most = (timedelta(seconds=seconds) for seconds in self.seconds)

        def emit(batch: ledger.BatchRecord, left: Row, right: Row | None) -> None:
            sides: tuple[Row, Row | None] = (left, right)
            row = {new: _cell(sides[side], column) for new, (side, column) in self.columns.items()}
            if refusal(query, row):
                result.refused.append((batch["batch"], row))
            else:
                result.emitted.append((batch["batch"], row))
                if not any(
                    isinstance(value, Json) for value in row.values()
                ):  # no table has other columns than its key
                    result.table[tuple(row.values())] = row

        for batch in batches:
            new = tuple(
                [
                    row
                    for row in rows_of_batch(judged[topic], batch, topic)
                    if micros(row[time]) > batch["late_watermark_ms"] * 1000
                ]
                for topic, time in zip(self.topics, self.times, strict=True)
            )
            pairs = [(left, right) for left in new[0] for right in (*held[1], *new[1])]
            pairs += [(left, right) for left in held[0] for right in new[1]]
            matched = set()
            for left, right in pairs:
                apart = right[self.times[1]] - left[self.times[0]]
                if least <= apart <= most and all(left[column] == right[column] for column in self.using):
                    emit(batch, left, right)
                    matched.add(id(left))
            held[0].extend(new[0])
            held[1].extend(new[1])
            alone = [row for row in (*alone, *new[0]) if id(row) not in matched]
            if self.outer:
                over = batch["watermark_ms"] * 1000 - most // timedelta(microseconds=1)
                for row in alone:
                    if micros(row[self.times[0]]) <= over:
                        emit(batch, row, None)
                alone = [row for row in alone if micros(row[self.times[0]]) > over]
        return result


def _cell(row: Row | None, column: str) -> Any:
    return row and row[column]


def related(random_: random.Random, sources: Content) -> list[str]:
    """Give two sources event times and columns of the same names and types; return the columns that a join can use."""
    left, right = sources.values()
    for source in (left, right):
        timed = (c for c, spec in source["columns"].items() if spec["type"] == "timestamp" and spec["required"])
        source.setdefault("event_time", {"column": next(timed)})
    free = [
        column
        for column, spec in left["columns"].items()
        if spec["required"] and spec["type"] not in ("json", "boolean") and column not in right["columns"]
        and column != left["event_time"]["column"]
    ]  # fmt: skip
    using = random_.sample(free, min(len(free), random_.choice([1, 1, 2])))
    right["columns"] |= {c: {k: v for k, v in left["columns"][c].items() if k != "field"} for c in using}
    return using


def drawn(
    random_: random.Random, fresh: Callable[[Any], str], pipeline: str, name: str, sources: Content, using: list[str]
) -> tuple[Content, Joined]:
    """Return a query that joins two related sources, and the join."""
    pick = random_.choice
    outer, seconds = pick([True, False]), pick(RANGES)
    columns: dict[str, tuple[int, str]] = {}
    output: Content = {}
    keys = [(0, source) for source in using]
    keys += [
        (side, given["event_time"]["column"]) for side, given in enumerate(sources.values()) if not (outer and side)
    ]
    others = [
        (side, c) for side, given in enumerate(sources.values()) for c in given["columns"] if (side, c) not in keys
    ]
    for side, column in keys + random_.sample(others, min(len(others), pick([0, 1, 3]))):
        new = fresh({**columns, "batch_id": 0})
        kind = list(sources.values())[side]["columns"][column]["type"]
        columns[new] = side, column
        output[new] = {"type": "string" if kind == "json" else kind, "required": (side, column) in keys}
    identity = list(columns)[: len(keys)]
    sinks: list[Content] = []
    for kind in random_.sample(["kafka", "cassandra", "files"], pick([1, 2, 3])):
        if kind == "kafka":
            topic = f"{pipeline}-{name}-out"
            sinks.append({"kind": kind, "topic": topic, "key": pick(identity), "identity": identity})
        elif kind == "cassandra" and len(identity) == len(columns):  # of rows with one key only one would stay
            sinks.append({"kind": kind, "partition_key": identity[:1], "clustering_key": identity[1:]})
        elif kind == "files":
            sinks.append({"kind": kind})
    sinks = sinks or [{"kind": "files"}]
    left, right = sources
    span = {"lower": f"{seconds[0]} seconds", "upper": f"{seconds[1]} seconds"}
    join = {
        "type": "left_outer" if outer else "inner",
        "left": left,
        "right": right,
        "using": using,
        "time_range": span,
    }
    query = {
        "sources": [left, right], "mode": "append", "late": "drop", "trigger": "1 second", "join": join,
        "watermark": dict.fromkeys(sources, "10 minutes"), "columns": output, "sinks": sinks,
    }  # fmt: skip
    if pick([True, False, False]):
        query["state"] = {"store": "rocksdb"}
    topics = tuple(given["topic"] for given in sources.values())
    times = tuple(given["event_time"]["column"] for given in sources.values())
    return query, Joined((left, right), topics, times, using, seconds, outer, columns)
