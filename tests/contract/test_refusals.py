"""Each refusal by its sentence: the good pipeline with one fault, and what is said of it, remedy included."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from headrace.contract import rules, rules_sinks, rules_state
from headrace.contract.model import Pipeline
from tests.contract.conftest import GONE, changed, refusal

Q = "queries."

SPELLING: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown key names its near match", {"queries.copied.modee": "append"},
     "queries.copied.modee: unknown key; allowed: aggregate, columns, description,"),
    ("an unknown key near a known one", {"queries.copied.triger": "1 second"}, "did you mean 'trigger'?"),
    ("an unknown key of a sink", {"queries.copied.sinks.0.topics": "x"},
     "queries.copied.sinks.0.topics: unknown key; allowed: identity, key, kind, partitions, retention, topic; "
     "did you mean 'topic'?"),
    ("an unknown key of a column", {"sources.sales.columns.shop.requird": True}, "did you mean 'required'?"),
    ("a missing key says what it is", {"owner": GONE}, "owner: missing; add it (The team to ask)."),
    ("a missing key of a sink", {"queries.copied.sinks.0.key": GONE}, "queries.copied.sinks.0.key: missing; add it ("),
    ("a mode that does not exist", {"queries.copied.mode": "appendd"},
     "queries.copied.mode: 'appendd' is not allowed; allowed: append, update, complete; did you mean 'append'?"),
    ("a sink that does not exist", {"queries.copied.sinks.0.kind": "kafak"},
     "queries.copied.sinks.0: kind 'kafak' is not allowed; allowed: cassandra, files, kafka; did you mean 'kafka'?"),
    ("a sink without kind", {"queries.copied.sinks.0.kind": GONE},
     "queries.copied.sinks.0: kind is missing; allowed: cassandra, files, kafka."),
    ("a float amount", {"sources.sales.columns.amount.type": "float"},
     "sources.sales.columns.amount.type: 'float' is refused, a float sum depends on the order; use decimal(12,2), or "
     "long for whole cents."),
    ("a double in an output", {"queries.copied.columns.amount.type": "double"}, "use decimal(12,2), or long"),
    ("a type that does not exist", {"sources.sales.columns.at.type": "timestmap"},
     "'timestmap' is not a type; allowed: string, boolean, int, long, timestamp, date, decimal(p,s); "
     "did you mean 'timestamp'?"),
    ("a number that is text", {"version": "1"}, "version: Input should be a valid integer (it is '1')."),
    ("a duration without unit", {"queries.copied.trigger": 5},
     "queries.copied.trigger: 5 is not a duration: write a whole number and a unit, such as '10 minutes'"),
    ("a duration with an unknown unit", {"sources.sales.retention": "2 weeks"}, "'2 weeks' is not a duration"),
    ("a name in capitals", {"queries.copied.sinks.0.topic": "Copies"},
     "queries.copied.sinks.0.topic: 'Copies' is not a name; a name is lower-case letters, digits and _"),
    ("a query in capitals", {"queries.Copied": {"sources": ["sales"]}}, "queries.Copied: not a name; a name is lower"),
    ("an empty list of sinks", {"queries.copied.sinks": []}, "queries.copied.sinks: List should have at least 1 item"),
    ("no Cassandra key", {"queries.windows.sinks.0.partition_key": []},
     "queries.windows.sinks.0.partition_key: List should have at least 1 item"),
    ("no partitions", {"sources.sales.partitions": 0}, "sources.sales.partitions: Input should be greater than or"),
]

FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("a name that is not the file's", {"name": "better"},
     "name: 'better' is not the file's name; rename the file to better.yaml."),
    ("a pipeline named like the platform's principal", {"name": "admin"}, "name: admin is taken by the platform; choose"),
    ("a query named like a word of Python", {"queries.class": {"sources": ["plain"], "mode": "append",
     "columns": {"id": {"type": "string"}}, "sinks": [{"kind": "files"}]}},
     "queries: 'class' is a word of Python and cannot name a function or parameter; rename it."),
    ("a dimension named like a source", {"dimensions.sales": {"keyspace": "a", "table": "b", "key": ["c"],
     "columns": {"c": {"type": "string", "required": True}}}}, "dimensions.sales: a source has this name too"),
    ("no columns", {"sources.plain.columns": {}}, "sources.plain.columns: there is none; list the columns."),
    ("a decimal of 39 digits", {"sources.sales.columns.amount.type": "decimal(39,2)"},
     "sources.sales.columns.amount: decimal(39,2) does not exist; write decimal(p,s) with s <= p <= 38."),
    ("a scale above the precision", {"sources.sales.columns.amount.type": "decimal(2,3)"}, "with s <= p <= 38."),
    ("a column that the platform adds", {"sources.plain.columns.source": {"type": "string"}},
     "sources.plain.columns.source: the platform adds a column of this name; rename it."),
    ("a key that is no column", {"sources.sales.key": "shopp"},
     "sources.sales.key: 'shopp' is no column of sales; allowed: shop, amount, note, at; did you mean 'shop'?"),
    ("a key that may be null", {"sources.plain.columns.id.required": False},
     "sources.plain.key: id may be null; set sources.plain.columns.id.required: true."),
    ("an event time that is no column", {"sources.sales.event_time.column": "att"}, "'att' is no column of sales;"),
    ("an event time that is text", {"sources.sales.columns.at.type": "string"},
     "sources.sales.event_time.column: at is string; set sources.sales.columns.at.type: timestamp."),
    ("an event time that may be null", {"sources.sales.columns.at.required": False},
     "sources.sales.event_time.column: at may be null; set sources.sales.columns.at.required: true."),
    ("a retention of zero", {"sources.sales.retention": "0 days"}, "sources.sales.retention: Kafka would delete"),
    ("a source that is not declared", {"queries.copied.sources": ["sale"]},
     "queries.copied.sources: 'sale' is not declared; allowed: sales, visits, plain; did you mean 'sales'?"),
    ("a dimension that is not declared", {"queries.seen.dimensions": ["shop"]},
     "queries.seen.dimensions: 'shop' is not declared; allowed: shops; did you mean 'shops'?"),
    ("a source that is named twice", {"queries.copied.sources": ["sales", "sales"]}, "sales stands there twice; name it"),
    ("a query named like an archive query", {"queries.archive_sales": {"sources": ["sales"], "mode": "append",
     "columns": {"shop": {"type": "string"}}, "sinks": [{"kind": "files"}]}},
     "queries.archive_sales: names that begin with archive_ belong to the archive queries, two queries would share a "
     "checkpoint; rename it."),
]

STATE: list[tuple[str, dict[str, Any], str]] = [
    ("two streams without a join", {"queries.bought.join": GONE},
     "queries.bought.sources: visits and sales are read but no join is said; add join ("),
    ("a join of another source", {"queries.bought.join.right": "plain"},
     "queries.bought.join: left is visits and right is plain, but sources are visits and sales; name the two sources"),
    ("a join column that a side lacks", {"queries.bought.join.using": ["amount"]},
     "queries.bought.join.using: 'amount' is no column of visits; allowed: shop, at"),
    ("a join column that may be null", {"sources.visits.key": "at", "sources.visits.columns.shop.required": False},
     "queries.bought.join.using: shop of visits may be null, and a null matches nothing; set "
     "sources.visits.columns.shop.required: true."),
    ("a join column of two types", {"sources.visits.columns.shop.type": "long"},
     "queries.bought.join.using: shop is long in visits and string in sales; give both sides one type."),
    ("an outer join without a watermark on the left", {"queries.bought.watermark": {"sales": "10 minutes"}},
     "queries.bought.watermark: there is none for visits; state would grow for ever and an unmatched row would never come out: "
     "add a delay for both sides, such as watermark: {visits: 5 minutes, sales: 5 minutes}."),
    ("an outer join without a watermark on the right", {"queries.bought.watermark": {"visits": "10 minutes"}},
     "queries.bought.watermark: there is none for sales;"),
    ("an outer join without any watermark", {"queries.bought.watermark": {}},
     "queries.bought.watermark: there is none for visits and sales;"),
    ("an outer join without a time range", {"queries.bought.join.time_range": GONE},
     "queries.bought.join.time_range: the join has no end in time, so no row can ever be called unmatched; say both "
     "ends, such as time_range: {lower: 0 seconds, upper: 5 minutes}."),
    ("an outer join with half a time range", {"queries.bought.join.time_range": {"lower": "0 seconds"}},
     "queries.bought.join.time_range: the join has no end in time"),
    ("an inner join without a time range", {"queries.bought.join.type": "inner", "queries.bought.join.time_range": GONE},
     "queries.bought.join.time_range: the join has no end in time"),
    ("a time range that ends before it begins",
     {"queries.bought.join.time_range": {"lower": "5 minutes", "upper": "1 minute"}},
     "upper (1 minute) is before lower (5 minutes), nothing would ever match; swap them."),
    ("a join in update mode", {"queries.bought.mode": "update"},
     "queries.bought.mode: a join of streams runs in append mode only, not update; set mode: append."),
    ("a join that also aggregates", {"queries.bought.aggregate": {"keys": ["shop"]}},
     "queries.bought.aggregate: the query joins already"),
    ("complete mode without an aggregate", {"queries.totals.aggregate": GONE, "queries.totals.late": GONE},
     "queries.totals.mode: complete mode needs an aggregate, whose whole result it writes; add aggregate, or set mode: "
     "append."),
    ("append mode without a watermark", {"queries.finals.watermark": {}, "queries.finals.late": "include"},
     "queries.finals.mode: append mode needs a watermark to know when a group is final; add watermark: "
     "{sales: 10 minutes}, or set mode: update."),
    ("a grouping key that is no column", {"queries.totals.aggregate.keys": ["shpo"]},
     "queries.totals.aggregate.keys: 'shpo' is no column of its sources; allowed: shop, amount, note, at, board, total; "
     "did you mean 'shop'?"),
    ("complete mode over an unbounded key", {"sources.sales.columns.shop.max_distinct": GONE},
     "queries.totals.aggregate.keys: complete mode keeps and writes every group for ever, and shop is not bounded; say "
     "how many values it can have (sources.sales.columns.shop.max_distinct), or use mode: update with a watermark."),
    ("complete mode over windows", {"queries.totals.aggregate.window": {"column": "at", "size": "1 hour"}},
     "queries.totals.aggregate.window: complete mode keeps and writes every group for ever, and windows never end; use "
     "mode: update or append with a watermark."),
    ("update mode over an unbounded key without watermark",
     {"queries.totals.mode": "update", "sources.sales.columns.shop.max_distinct": GONE},
     "queries.totals.aggregate.keys: without a watermark every group is kept for ever, and shop is not bounded;"),
    ("update mode over windows without a watermark", {"queries.windows.watermark": {}, "queries.windows.late": "include"},
     "queries.windows.aggregate.window: without a watermark every group is kept for ever, and windows never end; add a "
     "watermark."),
    ("a watermark of another topic", {"queries.windows.watermark": {"sale": "10 minutes"}},
     "queries.windows.watermark: 'sale' is no source of this query; allowed: sales; did you mean 'sales'?"),
    ("a watermark without event time", {"sources.sales.event_time": GONE},
     "queries.windows.watermark: sales has no event time to follow; add sources.sales.event_time, or remove the "),
    ("a watermark without state", {"queries.copied.watermark": {"sales": "10 minutes"}},
     "queries.copied.watermark: there is no aggregate or join that it could bound; remove it."),
    ("a delay shorter than the accepted skew", {"sources.sales.event_time.accepted_skew": "1 hour"},
     "queries.windows.watermark: the delay of sales (10 minutes) is shorter than its accepted_skew (1 hour), so one "
     "fast clock would make rows that are in time late; lengthen the delay or shorten the skew."),
    ("an aggregate without a late rule", {"queries.windows.late": GONE},
     "queries.windows.late: what happens to a late row is not said; write late: drop (with a watermark) or late: "
     "include (without one)."),
    ("a join without a late rule", {"queries.bought.late": GONE}, "queries.bought.late: what happens to a late row"),
    ("drop without a watermark", {"queries.totals.late": "drop"},
     "queries.totals.late: drop needs a watermark, without one no row is late; add watermark or write late: include."),
    ("include with a watermark", {"queries.windows.late": "include"},
     "queries.windows.late: include cannot be, the watermark drops late rows; remove the watermark or write late: drop."),
    ("a late rule without state", {"queries.copied.late": "drop"},
     "queries.copied.late: nothing is ever late without an aggregate or join; remove it."),
    ("a watermark that nothing is grouped by",
     {"queries.totals.mode": "update", "queries.totals.late": "drop", "queries.totals.watermark": {"sales": "1 hour"}},
     "queries.totals.watermark: it drops and frees nothing, for no window or event time is grouped by; add "
     "aggregate.window, or remove the watermark and write late: include."),
    ("a window of another column", {"queries.windows.aggregate.window.column": "att"},
     "queries.windows.aggregate.window.column: 'att' is not the event time that the watermark follows; allowed: at; did "
     "you mean 'at'?"),
    ("a window without length", {"queries.windows.aggregate.window": {"column": "at", "size": "0 seconds"}},
     "queries.windows.aggregate.window.size: a window needs a length; write such as size: 5 minutes."),
    ("a slide without length", {"queries.windows.aggregate.window.slide": "0 seconds"}, "window.slide: a slide needs a "),
    ("a slide longer than the window", {"queries.windows.aggregate.window.slide": "1 hour"},
     "queries.windows.aggregate.window.slide: 1 hour is longer than the window (10 minutes), rows in between would be "
     "lost; make it at most the size."),
]

FINALS_KEY = "queries.finals.sinks.0"
WINDOWS_KEY = "queries.windows.sinks.0"

SINKS: list[tuple[str, dict[str, Any], str]] = [
    ("a Cassandra key that is no column", {f"{WINDOWS_KEY}.partition_key": ["window_stat"]},
     "queries.windows.sinks.0.partition_key: 'window_stat' is no column of the query; allowed: window_start, shop, "
     "total, note; did you mean 'window_start'?"),
    ("a Cassandra key that may be null", {f"{WINDOWS_KEY}.clustering_key": ["shop", "note"]},
     "queries.windows.sinks.0.clustering_key: note may be null, and a row without a key cannot be written; set "
     "required: true on it."),
    ("a Cassandra key with a column twice", {f"{WINDOWS_KEY}.clustering_key": ["shop", "shop"]},
     "queries.windows.sinks.0: shop stands twice in the primary key; name each column once."),
    ("a Cassandra key without the window", {f"{WINDOWS_KEY}.partition_key": ["shop"],
                                            f"{WINDOWS_KEY}.clustering_key": []},
     "queries.windows.sinks.0: window_start is not in the primary key, so the groups of one key would overwrite each "
     "other; add window_start to clustering_key."),
    ("a Cassandra key without a grouping key", {f"{WINDOWS_KEY}.clustering_key": []},
     "queries.windows.sinks.0: shop is not in the primary key"),
    ("a Cassandra key that changes", {"queries.totals.sinks.0.clustering_key": ["total", "shop"]},
     "queries.totals.sinks.0: total changes while its group lives, and each change would leave an old row behind; take "
     "it out of the key (grouping keys, window_start and constant texts may stay)."),
    ("an entity without a write time", {"queries.seen.sinks.0.writetime": GONE},
     "queries.seen.sinks.0.writetime: two rows of one key in one batch would have one write time and be mixed cell by "
     "cell; name the timestamp column that orders the versions of a row."),
    ("a write time that is no column", {"queries.seen.sinks.0.writetime": "sen"},
     "queries.seen.sinks.0.writetime: 'sen' is no column of the query; allowed: batch, shop, seen; did you mean 'seen'?"),
    ("a write time that may be null", {"queries.seen.columns.seen.required": False},
     "queries.seen.sinks.0.writetime: seen must be a required timestamp; change the column or write writetime: batch."),
    ("a write time that is text", {"queries.seen.sinks.0.writetime": "shop"}, "shop must be a required timestamp"),
    ("a total that is ordered by its window", {f"{WINDOWS_KEY}.writetime": "window_start"},
     "queries.windows.sinks.0.writetime: a total that changes would be written twice at one time, and the larger value, "
     "not the later, would win; write writetime: batch."),
    ("a ttl of half a second", {f"{WINDOWS_KEY}.ttl": "500 milliseconds"},
     "queries.windows.sinks.0.ttl: Cassandra counts whole seconds; write at least 1 second, or remove it to keep rows."),
    ("a ttl of zero", {f"{WINDOWS_KEY}.ttl": "0 seconds"}, "Cassandra counts whole seconds"),
    ("a keyspace of Cassandra's own", {f"{WINDOWS_KEY}.keyspace": "system_auth"},
     "queries.windows.sinks.0.keyspace: system_auth belongs to Cassandra itself; choose another."),
    ("a dimension in Cassandra's own keyspace", {"dimensions.shops.keyspace": "system"},
     "dimensions.shops.keyspace: system belongs to Cassandra itself; choose another."),
    ("a dimension's table with another key", {"queries.seen.sinks.0.clustering_key": ["seen"]},
     "queries.seen.sinks.0.partition_key: the sink writes the table of dimension shops, whose key is shop; write "
     "partition_key: [shop] and no clustering_key."),
    ("a dimension's table with another type", {"dimensions.shops.columns.seen.type": "string"},
     "queries: Column seen of table directory.shops is text but timestamp is wanted"),
    ("two tables of one name with two keys", {"queries.bought.sinks.0.table": "totals"},
     "queries: Table good.totals has the primary key ((board), shop) but ((shop), visited_at) is wanted: Cassandra "
     "cannot change a key; give the sink a new table name"),
    ("two queries of one table", {f"{WINDOWS_KEY}.table": "finals", "queries.finals.sinks.0":
     {"kind": "cassandra", "partition_key": ["window_start"], "clustering_key": ["shop"]}},
     "queries.finals.sinks.0: good.finals is written by windows too, and each would overwrite the other's rows; give "
     "this sink a table of its own."),
    ("a Kafka key that is no column", {f"{FINALS_KEY}.key": "shpo"}, "queries.finals.sinks.0.key: 'shpo' is no column"),
    ("a Kafka key that may be null", {f"{FINALS_KEY}.key": "note"}, "queries.finals.sinks.0.key: note may be null"),
    ("an aggregate told apart by its source", {f"{FINALS_KEY}.identity": "source"},
     "queries.finals.sinks.0.identity: a row of an aggregate or join has no single source record; name the columns that "
     "identify it, such as identity: [window_start, shop]."),
    ("a join told apart by its source", {"queries.bought.sinks.1.identity": GONE},
     "queries.bought.sinks.1.identity: a row of an aggregate or join has no single source record"),
    ("an identity that is no column", {f"{FINALS_KEY}.identity": ["window_start", "shop", "x"]},
     "queries.finals.sinks.0.identity: 'x' is no column of the query"),
    ("an identity that may be null", {f"{FINALS_KEY}.identity": ["window_start", "shop", "note"]}, "note may be null"),
    ("an empty identity", {"queries.bought.sinks.1.identity": []},
     "queries.bought.sinks.1.identity: it is empty, so all rows would count as one; name columns or write 'source'."),
    ("an identity that two groups share", {f"{FINALS_KEY}.identity": ["shop"]},
     "queries.finals.sinks.0.identity: without window_start two groups would count as duplicates and one would be "
     "dropped; add window_start."),
    ("a topic in update mode", {"queries.finals.mode": "update"},
     "queries.finals.sinks.0: a topic cannot replace a row that update mode revises; set mode: append with a watermark "
     "(each group once, when it is final), or write to cassandra."),
    ("a stateless topic in update mode", {"queries.copied.mode": "update"},
     "queries.copied.sinks.0: a topic takes appended rows only; set mode: append."),
    ("files in update mode", {"queries.copied.mode": "update"},
     "queries.copied.sinks.1: files take appended rows only, a file cannot replace a row; set mode: append, or write to "
     "cassandra."),
    ("a topic that is a source", {"queries.copied.sinks.0.topic": "sales"},
     "queries.copied.sinks.0.topic: sales is a source of this pipeline, it would read what it writes; rename it."),
    ("a topic of dead letters", {"queries.copied.sinks.0.topic": "sales_dead_letters"},
     "queries.copied.sinks.0.topic: sales_dead_letters holds the dead letters; rename it."),
    ("a source of dead letters", {"sources.sales_dead_letters": {"key": "a", "columns":
     {"a": {"type": "string", "required": True}}}},
     "sources.sales_dead_letters: the name is that of a dead-letter topic of this pipeline; rename the source."),
    ("two queries of one topic", {f"{FINALS_KEY}.topic": "copies"},
     "queries.finals.sinks.0.topic: copies is written by copied already, a consumer could not tell the rows apart; give "
     "each sink a topic of its own."),
    ("two files sinks", {"queries.copied.sinks.0": {"kind": "files"}},
     "queries.copied.sinks: 2 files sinks would write one folder; keep one."),
    ("a column called like the folders", {"queries.copied.columns.batch_id": {"type": "long"}},
     "queries.copied.columns.batch_id: the folders of files are called batch_id=N; rename the column."),
    ("a dimension key that is no column", {"dimensions.shops.key": ["shp"]},
     "dimensions.shops.key: 'shp' is no column of it; allowed: shop, town, seen; did you mean 'shop'?"),
    ("a dimension key that may be null", {"dimensions.shops.columns.shop.required": False},
     "dimensions.shops.key: shop may be null; set required: true on it."),
    ("matched without a dimension", {"queries.copied.matched": "known"},
     "queries.copied.matched: there is no dimension to match; add dimensions or remove it."),
    ("matched that is written", {"queries.seen.columns.known": {"type": "boolean"}},
     "queries.seen.matched: known is not written, so it is no output column; remove it from columns."),
    ("matched after a sum", {"queries.totals.matched": "known", "queries.totals.dimensions": ["shops"]},
     "queries.totals.matched: a row of an aggregate or join is no single record that could be a dead letter; join the "
     "dimension in a query of its own, and aggregate its topic."),
]  # fmt: skip

TABLE = SPELLING + FIELDS + STATE + SINKS


@pytest.mark.parametrize(("changes", "sentence"), [pytest.param(c, s, id=i) for i, c, s in TABLE])
def test_a_fault_is_refused_with_its_remedy(
    broken: Callable[..., Path], changes: dict[str, Any], sentence: str
) -> None:
    path = broken(changes)
    lines = refusal(path).splitlines()
    assert any(sentence in line for line in lines), "\n".join(lines)
    assert all(line.startswith(f"{path}: ") and line.endswith(".") for line in lines), "\n".join(lines)


@pytest.mark.parametrize("rule", [*rules.RULES, *rules_state.RULES, *rules_sinks.RULES], ids=lambda rule: rule.__name__)
def test_a_rule_is_silent_on_the_good_pipeline_and_speaks_on_a_bad_one(rule: Any, good: Pipeline) -> None:
    assert list(rule(good)) == []
    assert any(list(rule(pipeline)) for pipeline in _bad_pipelines())


@cache
def _bad_pipelines() -> list[Pipeline]:
    return [Pipeline.model_validate(changed(changes)) for _, changes, _ in FIELDS + STATE + SINKS]


def test_all_faults_of_a_file_are_told_one_a_line(broken: Callable[..., Path]) -> None:
    path = broken({"queries.copied.mode": "apend", "owner": GONE, "sources.sales.columns.amount.type": "float"})
    assert [line.split(": ")[1] for line in refusal(path).splitlines()] == [
        "owner", "sources.sales.columns.amount.type", "queries.copied.mode",
    ]  # fmt: skip
    path = broken({"queries.windows.late": GONE, "queries.copied.late": "drop"})
    assert len(refusal(path).splitlines()) == 2
