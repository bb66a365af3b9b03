"""A pipeline file by a random generator, with transforms that plain Python can repeat.

Every query has one source. A stateless query makes each column from one column of its source (`Made`); an aggregate groups by
columns of its source and computes `Sum`s. The file is checked by the loader like every file.
"""

from __future__ import annotations

import keyword
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.contract.platform_columns import SOURCE
from tests.support import generated_join, generated_lookup
from tests.support.generated_columns import Made, Sum, how, sum_of
from tests.support.generated_join import Joined
from tests.support.generated_lookup import UNREAD, Lookup

Content = dict[str, Any]
MINUTES = [("1 minute", 60), ("5 minutes", 300), ("1 hour", 3600), ("1 day", 86_400)]


@dataclass(frozen=True)
class Generated:
    """A pipeline file, and what its transforms do."""

    content: Content
    made: dict[str, dict[str, Made]]
    sums: dict[str, dict[str, Sum]]
    lookups: dict[str, Lookup]
    joins: dict[str, Joined]

    @property
    def module(self) -> ModuleType:
        """Return the transforms, as the file in spark_jobs/ would define them."""
        module = ModuleType(self.content["name"])
        for name, query in self.content["queries"].items():
            if name in self.joins:
                transform: Callable[..., DataFrame] = self.joins[name].transform
            else:
                transform = self._stateless(name) if name in self.made else self._aggregate(name, query)
            setattr(module, name, transform)
        return module

    def _stateless(self, name: str) -> Callable[..., DataFrame]:
        lookup = self.lookups.get(name)

        def transform(**frames: DataFrame) -> DataFrame:
            if lookup is None:
                (frame,) = frames.values()
                columns = [made.how.spark(F.col(made.source)).alias(column) for column, made in self.made[name].items()]
                return frame.select(*columns, SOURCE)
            table = frames.pop(lookup.dimension)
            (frame,) = frames.values()
            columns = [
                made.how.spark(table[made.source].cast(made.looked_up) if made.looked_up else frame[made.source]).alias(
                    new
                )
                for new, made in self.made[name].items()
            ]
            return lookup.joined(frame, table).select(*columns, *lookup.is_matched(table), frame[SOURCE])

        return transform

    def _aggregate(self, name: str, query: Content) -> Callable[..., DataFrame]:
        aggregate, window = query["aggregate"], query["aggregate"].get("window")
        sums = [entry.spark(F.col(entry.source)).alias(column) for column, entry in self.sums[name].items()]

        def transform(**frames: DataFrame) -> DataFrame:
            (frame,) = frames.values()
            if window is None:
                return frame.groupBy(*aggregate["keys"]).agg(*sums)
            slide, offset = window.get("slide", window["size"]), window.get("offset", "0 seconds")
            span = F.window(window["column"], window["size"], slide, offset).alias("headrace_test_window")
            grouped = frame.groupBy(span, *aggregate["keys"]).agg(*sums)
            sides = [F.col(f"headrace_test_window.{side}").alias(f"window_{side}") for side in ("start", "end")]
            return grouped.select(*sides, *aggregate["keys"], *self.sums[name])

        return transform


class ContractMaker:
    """Pipeline files by a random generator."""

    def __init__(self, random_: random.Random, names: Sequence[str]) -> None:
        self.random, self.pick, self.names = random_, random_.choice, names

    def chance(self, part: float) -> bool:
        """Return true in this part of all calls."""
        return self.random.random() < part

    def pipeline(self, name: str) -> Generated:
        """Return a pipeline of this name with one or two sources and two to four queries."""
        more = ["update", "complete", "windows", "windows", "stateless", "lookup", "lookup", "join", "join"]
        kinds = ["stateless", *self.random.sample(more, self.pick([1, 2, 2]))]
        sources: Content = {}
        for place in range(2 if "join" in kinds or self.chance(0.2) else 1):
            sources[self.fresh(sources)] = self.source(name, place)
        using = generated_join.related(self.random, sources) if "join" in kinds else []
        made: dict[str, dict[str, Made]] = {}
        sums: dict[str, dict[str, Sum]] = {}
        queries: Content = {}
        lookups: dict[str, Lookup] = {}
        dimensions: Content = {}
        joins: dict[str, Joined] = {}
        for kind in kinds:
            query, source = self.fresh({**queries, **sources, **dimensions}), self.pick(list(sources))
            if kind == "join" and using:
                queries[query], joins[query] = generated_join.drawn(
                    self.random, self.fresh, name, query, sources, using
                )
            elif kind in ("stateless", "join"):
                queries[query], made[query] = self.stateless(name, query, source, sources[source])
            elif kind == "lookup":
                dimension = self.fresh({**queries, **sources, **dimensions, query: 0})
                dimensions[dimension], lookups[query] = generated_lookup.drawn(
                    self.random, self.fresh, name, dimension, sources[source]["columns"]
                )
                queries[query], made[query] = self.lookup(name, query, source, sources[source], lookups[query])
            else:
                queries[query], sums[query] = self.aggregate(name, query, source, sources[source], kind)
        for query, spec in queries.items():
            if (
                random.Random(query).random() < 0.3
            ):  # not from the seed's generator, so earlier seeds stay what they were
                spec["freshness"] = "4 seconds"
        content = {
            "name": name, "owner": "tests", "description": "Generated.", "version": 1,
            "sources": sources, "dimensions": dimensions, "queries": queries,
            "driver": {"state_partitions": self.pick([1, 2, 3]), "max_offsets_per_trigger": self.pick([60, 1000, 100_000])},
        }  # fmt: skip
        return Generated(content, made, sums, lookups, joins)

    def fresh(self, taken: Any) -> str:
        """Return a name that is not taken; it may name a function or a parameter."""
        return self.pick(
            [name for name in self.names if name not in taken and not keyword.iskeyword(name) and name != "archive_"]
        )

    def source(self, pipeline: str, place: int) -> Content:
        pick = self.pick
        columns: Content = {}
        more = ["string", "int", "long", "boolean", "date", "timestamp", "decimal", "decimal", "json"]
        kinds = ["string", "timestamp", *self.random.choices(more, k=pick([1, 2, 4, 6]))]
        for number, kind in enumerate(kinds):
            column: Content = {
                "type": self.decimal() if kind == "decimal" else kind,
                "required": number < 2 or self.chance(0.4),
            }
            if kind != "json":
                column["max_distinct"] = 10_000
            columns[self.fresh(columns)] = column
        key, time = list(columns)[:2]
        for number, column in enumerate(columns.values()):
            if self.chance(0.3):
                column["field"] = self.field(number)
        if self.chance(0.2):
            key = pick([name for name, column in columns.items() if column["required"] and column["type"] != "json"])
        items = list(columns.items())
        self.random.shuffle(items)
        source: Content = {"key": key, "columns": dict(items), "partitions": pick([1, 2, 3])}
        source["topic"] = f"{pipeline}{pick(['.', '-', '_'])}{pick(['In', 'in', 'IN.put-1'])}{place}"
        if self.chance(0.75):
            source["event_time"] = {"column": time} | ({"accepted_skew": "1 minute"} if self.chance(0.3) else {})
        return source

    def decimal(self) -> str:
        precision, scale = self.pick(
            [(1, 0), (1, 1), (5, 2), (12, 2), (18, 4), (19, 0), (27, 9), (38, 0), (38, 18), (38, 38)]
        )
        return f"decimal({precision},{scale})"

    def field(self, number: int) -> str | list[str]:
        """Return a path that no other number gives: camelCase, nested, with dots, blanks and other scripts in its steps."""
        name = self.pick(["orderId", "Preis €", "@timestamp", "주문", "a b", "SELECT", "__v"]) + str(number)
        paths: list[str | list[str]] = [name, f"Order.{name}", f"Order.inner.{name}"]
        return self.pick([*paths, ["Order", f"x.{name}"], [f"dotted.{name}"]])

    def stateless(
        self, pipeline: str, name: str, source: str, given: Content, taken: Mapping[Any, Any] = MappingProxyType({})
    ) -> tuple[Content, dict[str, Made]]:
        """Return a query that makes each column from one column; `taken` are names that no output column may have."""
        pick, columns = self.pick, given["columns"]
        made: dict[str, Made] = {}
        output: Content = {}
        chosen = self.random.sample(list(columns), pick(range(2, len(columns) + 1)))
        for column in chosen:
            way, free = how(self.random, columns[column]["type"]), column not in made and column not in taken
            new = column if self.chance(0.5) and free else self.fresh({**made, **taken, "batch_id": 0})
            made[new] = Made(column, way)
            output[new] = {"type": way.type, "required": self.chance(0.5)}
        plain = [new for new, how in made.items() if columns[how.source]["type"] != "json"]
        times = [new for new in plain if output[new]["type"] == "timestamp"]
        sinks_: list[Content] = []
        for kind in self.random.sample(["kafka", "cassandra", "files"], pick([1, 2, 2, 3])):
            if kind == "kafka" and plain:
                key, identity = pick(plain), self.random.sample(plain, min(len(plain), pick([1, 2])))
                sink: Content = {
                    "kind": "kafka",
                    "topic": f"{pipeline}-{name}-out",
                    "key": key,
                    "partitions": pick([1, 2]),
                }
                if self.chance(0.3):
                    sink["identity"] = identity
                    self.require(output, identity)
                self.require(output, [key])
                sinks_.append(sink)
            elif kind == "cassandra" and times:
                time = pick(times)
                others = [new for new in plain if new != time] if self.chance(0.6) else plain
                keys = self.random.sample(others, min(len(others), pick([1, 1, 2, 3]))) or [time]
                sink = self.table(keys) | {"writetime": time}
                self.require(output, [*keys, time])
                sinks_.append(sink)
            elif kind == "files":
                sinks_.append({"kind": "files"})
        query = {"sources": [source], "mode": "append", "trigger": "1 second", "columns": output}
        return query | {"sinks": sinks_ or [{"kind": "files"}]}, made

    def lookup(
        self, pipeline: str, name: str, source: str, given: Content, lookup: Lookup
    ) -> tuple[Content, dict[str, Made]]:
        """Return a stateless query over a source and the table that it joins."""
        types = {value: given["columns"][column]["type"] for value, column in lookup.values.items()}
        both = given["columns"] | {value: {"type": kind} for value, kind in types.items()}
        query, made = self.stateless(pipeline, name, source, {**given, "columns": both}, {lookup.matched: 0})
        query |= {"dimensions": [lookup.dimension]} | ({"matched": lookup.matched} if lookup.matched else {})
        return query, {new: Made(*entry[:2], types.get(entry[0], "")) for new, entry in made.items()}

    def table(self, keys: list[str]) -> Content:
        """Return a Cassandra sink with these key columns, split at any place."""
        split = self.pick(range(1, len(keys) + 1))
        sink: Content = {"kind": "cassandra", "partition_key": keys[:split]}
        if keys[split:]:
            sink["clustering_key"] = keys[split:]
            if self.chance(0.4):
                sink["clustering_order"] = {keys[split]: self.pick(["asc", "desc"])}
        return sink

    def require(self, output: Content, names: list[str]) -> None:
        for name in names:
            output[name]["required"] = True

    def aggregate(
        self, pipeline: str, name: str, source: str, given: Content, kind: str
    ) -> tuple[Content, dict[str, Sum]]:
        pick, columns = self.pick, given["columns"]
        windowed = kind == "windows" and "event_time" in given
        mode = pick(["append", "update"]) if windowed else "complete" if kind == "complete" else "update"
        kinds = ["cassandra"]
        if mode == "append":
            kinds = self.random.sample(["kafka", "cassandra", "files"], pick([1, 2, 3]))
        # A table keeps milliseconds of a time, so two groups could share a row; and a window is of the event time already.
        unfit = {"json"} | ({"timestamp"} if "cassandra" in kinds or windowed else set())
        keyable = [c for c, spec in columns.items() if spec["type"] not in unfit]
        if mode == "complete":  # it reads its keys
            keyable = [c for c in keyable if columns[c]["type"] not in UNREAD]
        keys = self.random.sample(keyable, min(len(keyable), pick([1, 1, 2, 3])))
        output: Content = {key: {"type": columns[key]["type"], "required": True} for key in keys}
        group = [*(["window_start"] if windowed else []), *keys]
        if windowed:
            output = {side: {"type": "timestamp", "required": True} for side in ("window_start", "window_end")} | output
        sums: dict[str, Sum] = {}
        for _ in range(pick([1, 2, 3])):
            column = pick([c for c, spec in columns.items() if spec["type"] != "json"])
            entry = sum_of(self.random, column, columns[column]["type"])
            new = self.fresh({**output, **columns, "batch_id": 0})
            sums[new], output[new] = entry, {"type": entry.type}
        query: Content = {"sources": [source], "mode": mode, "late": "include", "aggregate": {"keys": keys}}
        if windowed:
            query |= {"watermark": {source: "10 minutes"}, "late": "drop"}
            query["aggregate"]["window"] = self.window(given["event_time"]["column"])
        if self.chance(0.2):
            query["state"] = {"store": "rocksdb"}
        query["sinks"] = []
        for sink in kinds:
            if sink == "kafka":
                query["sinks"].append(
                    {"kind": "kafka", "topic": f"{pipeline}-{name}-out", "key": pick(group), "identity": group}
                )
            elif sink == "cassandra":
                order = group if self.chance(0.5) else self.random.sample(group, len(group))
                query["sinks"].append(self.table(order))
            else:
                query["sinks"].append({"kind": "files"})
        return query | {"trigger": "1 second", "columns": output}, sums

    def window(self, column: str) -> Content:
        size, seconds = self.pick(MINUTES)
        window: Content = {"column": column, "size": size}
        step = seconds
        if self.chance(0.4):
            step = seconds // self.pick([2, 3, 5])
            window["slide"] = f"{step} seconds"
        if self.chance(0.4):
            window["offset"] = f"{self.pick([1, step // 2, step - 1])} seconds"
        return window
