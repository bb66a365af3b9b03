"""Rules across the fields of a pipeline file. A fault is a sentence: dotted key, problem, remedy."""

from __future__ import annotations

import keyword
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta

from headrace.contract import rules_sinks, rules_state, rules_topics
from headrace.contract.cassandra import directory_columns
from headrace.contract.cron import cron_problem
from headrace.contract.freshness import TRIGGERS, waits
from headrace.contract.model import Column, Pipeline, decimal_digits, format_duration
from headrace.contract.names import ARCHIVE_PREFIX
from headrace.contract.platform_columns import OWN_PREFIX
from headrace.contract.wording import choices

# `admin` is the platform's principal, `cassandra` Cassandra's default superuser, `main` the entry point's module.
RESERVED_PIPELINES = ("admin", "cassandra", "main")
_RESERVED = f"names that begin with {OWN_PREFIX} are reserved for columns that the platform adds; rename it"
# The limit of Spark, Arrow and Iceberg.
MAX_PRECISION = 38


def faults(pipeline: Pipeline) -> Iterator[str]:
    """Yield one sentence per fault: the dotted key, the problem and the remedy."""
    for rule in (*RULES, *rules_state.RULES, *rules_sinks.RULES, *rules_topics.RULES):
        yield from rule(pipeline)


def names_are_free(pipeline: Pipeline) -> Iterator[str]:
    """Refuse reserved names: names become modules, functions, parameters, roles and columns."""
    if pipeline.name in RESERVED_PIPELINES or pipeline.name.startswith("system"):
        yield f"name: {pipeline.name} is reserved by the platform; choose another name"
    places = {"name": [pipeline.name], "sources": pipeline.sources, "dimensions": pipeline.dimensions}
    for place, names in {**places, "queries": pipeline.queries}.items():
        for name in names:
            if keyword.iskeyword(name):
                yield f"{place}: {name!r} is a Python keyword and cannot name a function or parameter; rename it"
    for name in sorted(set(pipeline.sources) & set(pipeline.dimensions)):
        yield f"dimensions.{name}: a source has the same name, so a transform could not tell them apart; rename one"


def columns_are_possible(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a decimal with more than 38 digits, and a column whose name the platform reserves."""
    groups: dict[str, Mapping[str, Column]] = {
        f"sources.{name}": source.columns for name, source in pipeline.sources.items()
    }
    groups |= {f"dimensions.{name}": dimension.columns for name, dimension in pipeline.dimensions.items()}
    groups |= {f"queries.{name}": query.columns for name, query in pipeline.queries.items()}
    for place, columns in groups.items():
        if not columns:
            yield f"{place}.columns: it is empty; list the columns"
        for name, column in columns.items():
            key = f"{place}.columns.{name}"
            precision, scale = decimal_digits(column.type) or (1, 0)
            if not 1 <= precision <= MAX_PRECISION or scale > precision:
                yield f"{key}: {column.type} does not exist; write decimal(p,s) with s <= p <= {MAX_PRECISION}"
            if name.startswith(OWN_PREFIX):
                yield f"{key}: {_RESERVED}"
    for name, query in pipeline.queries.items():
        if query.matched and query.matched.startswith(OWN_PREFIX):
            yield f"queries.{name}.matched: {_RESERVED}"


def source_key_is_required(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a Kafka key whose column is missing or may be null."""
    for name, source in pipeline.sources.items():
        key = f"sources.{name}.key"
        if source.key not in source.columns:
            yield f"{key}: {source.key!r} is not a column of {name}; {choices(source.key, source.columns)}"
        elif source.columns[source.key].type == "json":
            yield f"{key}: {source.key} has type json, but a key must be a plain value; choose another column"
        elif not source.columns[source.key].required:
            yield f"{key}: {source.key} may be null; set sources.{name}.columns.{source.key}.required: true"


def event_time_is_a_required_timestamp(pipeline: Pipeline) -> Iterator[str]:
    """Refuse an event time that is not a timestamp or may be null: a row without a time belongs to no window."""
    for name, source in pipeline.sources.items():
        if source.event_time is None:
            continue
        key, column = f"sources.{name}.event_time.column", source.event_time.column
        spec = source.columns.get(column)
        if spec is None:
            yield f"{key}: {column!r} is not a column of {name}; {choices(column, source.columns)}"
        elif spec.type != "timestamp":
            yield f"{key}: {column} is {spec.type}; set sources.{name}.columns.{column}.type: timestamp"
        elif not spec.required:
            yield f"{key}: {column} may be null; set sources.{name}.columns.{column}.required: true"


def retention_is_positive(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a retention of zero, with which Kafka would delete records at once."""
    for name, source in pipeline.sources.items():
        if not source.retention:
            yield f"sources.{name}.retention: Kafka would delete records before they are read; write a duration such as 7 days"


def queries_read_what_exists(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a source or dimension that is not declared, or that is listed twice."""
    for name, query in pipeline.queries.items():
        lists: dict[str, tuple[list[str], Collection[str]]] = {
            "sources": (query.sources, pipeline.sources),
            "dimensions": (query.dimensions, pipeline.dimensions),
        }
        for kind, (used, known) in lists.items():
            for reference in dict.fromkeys(used):
                if reference not in known:
                    yield f"queries.{name}.{kind}: {reference!r} is not declared; {choices(reference, known)}"
                elif used.count(reference) > 1:
                    yield f"queries.{name}.{kind}: {reference} is listed twice; list it once"


def queries_have_checkpoints_of_their_own(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a query with the name of an archive query: both would write one checkpoint (SPARK-26425)."""
    for name in pipeline.queries:
        if name.startswith(ARCHIVE_PREFIX):
            yield (
                f"queries.{name}: names that begin with {ARCHIVE_PREFIX} are reserved for the archive queries, and two queries "
                "would share a checkpoint; rename it"
            )


def refreshes_can_be_carried_out(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a refresh from SQL without a table, one from files with a table, and one without columns to write."""
    for name, dimension in pipeline.dimensions.items():
        refresh, key = dimension.refresh, f"dimensions.{name}.refresh"
        if refresh is None:
            continue
        if refresh.source == "sql" and refresh.table is None:
            yield f"{key}.table: a refresh from SQL needs it; name the table or view, such as public.{name}"
        if refresh.source == "files" and refresh.table is not None:
            yield f"{key}.table: a refresh from files has no table; remove it or write source: sql"
        if problem := cron_problem(refresh.schedule):
            yield f"{key}.schedule: {problem}; write five cron fields, such as 29 0 * * * for 00:29 UTC every day"
        if not timedelta(days=1) <= refresh.keep <= timedelta(days=365):
            yield f"{key}.keep: an approval can take half a day, and personal data must not be kept forever; write 1 to 365 days"
        if not directory_columns(pipeline, name):
            yield f"{key}: queries write every column of {name}; remove the refresh, or add a column that it writes"


def freshness_can_be_kept(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a freshness that is longer than the pipeline's promise, or that leaves no time to wait."""
    for name, query in pipeline.queries.items():
        place = f"queries.{name}.freshness"
        if query.freshness and query.freshness > pipeline.slo.freshness:
            yield (
                f"{place}: {format_duration(query.freshness)} is longer than slo.freshness, "
                f"{format_duration(pipeline.slo.freshness)}; declare at most that, or raise slo.freshness"
            )
        elif query.freshness and waits(query) <= timedelta(0):
            yield (
                f"{place}: {format_duration(query.freshness)} leaves no time to wait for records with trigger "
                f"{format_duration(query.trigger)}; declare more than {format_duration(TRIGGERS * query.trigger)}, or shorten "
                "the trigger"
            )


RULES = (
    names_are_free,
    columns_are_possible,
    source_key_is_required,
    event_time_is_a_required_timestamp,
    retention_is_positive,
    queries_read_what_exists,
    queries_have_checkpoints_of_their_own,
    freshness_can_be_kept,
    refreshes_can_be_carried_out,
)
