"""Check that a transform's result matches the pipeline file: columns, exact types, keys, window, output mode.

Works on the plan alone, before a query starts and in the check of an upgrade; no record is read. Differences are refused,
because everything else (tables, topics, views, reconciliation, quality) follows the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame

from headrace.contract.exit_codes import Exit
from headrace.contract.model import KafkaSink, Query, Window, format_duration
from headrace.contract.platform_columns import OLD_NAMES, SOURCE
from headrace.contract.spark_types import ddl_type
from headrace.contract.wording import listed
from headrace.driver import spark_plan
from headrace.driver.java import named, singleton
from headrace.errors import HeadraceError

# Spark's TimeWindowing: (time - offset) % slide gives the last window start before a time; the end is start plus size.
_TIME_WINDOW = re.compile(
    r"named_struct\(start, .*?LongType\) - (?P<offset>-?\d+)\) % (?P<slide>\d+)\).*"
    r" \+ (?P<size>\d+)\), LongType, Timestamp(?:NTZ)?Type",
    re.DOTALL,
)
_ALIAS = re.compile(r"^(?P<made>.*) AS (?P<name>\w+)#(?P<id>\d+)L?(?:-T\d+ms)?$", re.DOTALL)
_TIME = re.compile(r"#\d+L?-T\d+ms$")  # a column that a watermark follows
_COLUMN = re.compile(r"^(?P<name>\w+)#(?P<id>\d+)L?(?:-T\d+ms)?$")


def transformed(transform: Callable[..., DataFrame], frames: dict[str, DataFrame], query_name: str) -> DataFrame:
    """Return a transform's frame. Raises HeadraceError(REFUSED) if it fails, because it would fail at every restart."""
    try:
        frame = transform(**frames)
    except Py4JError:  # the JVM ended or does not answer, which is not a fault of the transform
        raise
    except Exception as error:
        why = _renamed(error, frames) or _first_line(error)
        raise _refusal(f"The transform of {query_name} cannot be planned: {why}.") from error
    if not isinstance(frame, DataFrame):
        raise _refusal(f"The transform of {query_name} returns {type(frame).__name__}. It must return a DataFrame.")
    return frame


def require_declared(frame: DataFrame, pipeline: str, name: str, query: Query) -> None:
    """Raise HeadraceError(REFUSED) with one line for each difference between a streaming frame and its declaration."""
    faults = [*_columns(frame, query), *_companions(frame, query), *_mode(frame, query)]
    if not faults:  # the rest can be compared only if all columns are there
        faults = [*_keys(frame, query), *_window(frame, query)]
    if faults:
        place = f"{pipeline}.{name}: spark_jobs/{pipeline}.py and pipelines/{pipeline}.yaml differ"
        raise _refusal("\n".join(f"{place}: {sentence}." for sentence in faults))


def _refusal(sentence: str) -> HeadraceError:
    return HeadraceError(sentence, exit_code=Exit.REFUSED)


def _columns(frame: DataFrame, query: Query) -> Iterator[str]:
    """Yield a sentence for each declared column that the result lacks, has twice, or has with another type."""
    wanted = {name: ddl_type(column.type) for name, column in query.columns.items()}
    if query.matched:
        wanted[query.matched] = "boolean"
    types_by_name: dict[str, list[str]] = {}
    for field in frame.schema:
        types_by_name.setdefault(field.name.lower(), []).append(field.dataType.simpleString())
    for name, kind in wanted.items():
        types = types_by_name.get(name, [])
        if not types:
            yield f"the result lacks column {name} ({kind}) and has {listed(frame.columns)}; return it, or change the file"
        elif len(types) > 1:
            yield f"the result has column {name} {len(types)} times; rename or drop the others"
        elif types[0] != kind:
            yield f"column {name} is declared as {kind}, but the result has {types[0]}; {_cast(name, kind, types[0])}"


def _companions(frame: DataFrame, query: Query) -> Iterator[str]:
    """Yield a sentence for each platform column that a sink or dead letter needs and the result lacks, or cannot use."""
    columns = {name.lower() for name in frame.columns}
    by_source = [sink.topic for sink in query.sinks if isinstance(sink, KafkaSink) and sink.identity == "source"]
    if by_source and SOURCE not in columns:
        yield f"a Kafka sink identifies its rows by {SOURCE}, but the result lacks it; select it too, or declare identity"
    if by_source and any(line.startswith("Generate ") for line in spark_plan.transform_lines(frame)):
        yield (
            f"the transform makes several rows of one record (explode), and with identity: source the rows in topic "
            f"{by_source[0]} would have one id; declare the columns that tell them apart, such as identity: [order_id, sku]"
        )
    if query.matched and SOURCE not in columns:
        yield f"dead letters of rows without a match need {SOURCE}, but the result lacks it; select it too"


def _cast(name: str, kind: str, actual: str) -> str:
    cast = f'cast it in the result: F.col("{name}").cast("{kind}")'
    if actual in {"string", "boolean", "int", "timestamp", "date"} or actual.startswith("decimal"):
        return f"{cast}, or declare {actual}"
    return f"{cast}, or declare long" if actual == "bigint" else cast


def _mode(frame: DataFrame, query: Query) -> Iterator[str]:
    """Yield Spark's refusal of the query's output mode."""
    modes = named(frame.sparkSession, "org.apache.spark.sql.streaming.OutputMode")
    mode = {"append": modes.Append, "update": modes.Update, "complete": modes.Complete}[query.mode]()
    checker = singleton(frame.sparkSession, "org.apache.spark.sql.catalyst.analysis.UnsupportedOperationChecker")
    try:
        checker.checkForStreaming(frame._jdf.queryExecution().analyzed(), mode)
    except AnalysisException as error:
        yield f"Spark cannot run it in mode {query.mode}: {_first_line(error)}"


def _keys(frame: DataFrame, query: Query) -> Iterator[str]:
    """Yield a sentence if the file's grouping keys differ from those of the plan's only aggregate."""
    lines = spark_plan.transform_lines(frame)
    aggregates = [line for line in lines if line.startswith("Aggregate ")]
    if query.aggregate is None:
        if aggregates:
            yield "the transform groups rows, but the query declares no aggregate; declare its keys and window"
        return
    if not aggregates:
        yield "the query declares an aggregate, but the transform does not group; remove it from the file, or group"
        return
    if len(aggregates) > 1:  # it is unknown to which of two the keys refer
        return
    grouped = _names_of_groups(aggregates[0], lines)
    declared = set(query.aggregate.keys)
    missing = sorted(key for key in declared if not any(key in names for names in grouped))
    more = sorted(min(names) for names in grouped if names and not names & (declared | {"window", "session_window"}))
    times = [
        text.partition("#")[0]
        for text in spark_plan.split_of(spark_plan.lists_of(aggregates[0])[0])
        if _TIME.search(text)
    ]
    if len(times) > 1:
        yield (
            f"the transform groups by {listed(times)}, and Spark follows one event time in a stream (each batch would end with "
            "'More than one event time columns'); group by one of them"
        )
    if missing:
        yield f"aggregate.keys has {listed(missing)}, but the transform does not group by it; correct one of the two"
    if more:
        yield (
            f"the transform groups by {listed(more)}, but aggregate.keys lacks it, so groups would overwrite each other; "
            "add it to the keys, or do not group by it"
        )


def _names_of_groups(aggregate: str, lines: list[str]) -> list[set[str]]:
    """Return all names of each grouping expression of a plan's aggregate, except windows and constants.

    The names are that of the column, of the column it was copied from, and of the alias it is given above.
    """
    groups, made = ([*spark_plan.lists_of(aggregate), "", ""])[:2]
    entries = [entry for line in lines if line.startswith("Project") for part in spark_plan.lists_of(line)
               for entry in spark_plan.split_of(part)]  # fmt: skip
    aliases = [match for entry in (*entries, *spark_plan.split_of(made)) if (match := _ALIAS.match(entry))]
    return [
        _names_of(group, aliases)
        for group in spark_plan.split_of(groups)
        if "#" in group and not _TIME_WINDOW.search(spark_plan.expanded(group, lines))
    ]


def _names_of(group: str, aliases: list[re.Match[str]]) -> set[str]:
    known = {_without_marks(group)}
    for _ in aliases:  # follow chains of renames
        for alias in aliases:
            both = {_without_marks(alias["made"]), f"{alias['name']}#{alias['id']}"}
            known |= both if both & known else set()
    return {text.partition("#")[0] for text in known if _COLUMN.match(text)}


def _without_marks(text: str) -> str:
    """Return a column's text as name#id, any other text unchanged."""
    column = _COLUMN.match(text)
    return f"{column['name']}#{column['id']}" if column else text


def _window(frame: DataFrame, query: Query) -> Iterator[str]:
    """Yield a sentence for each of size, slide and offset in which the plan's window differs from the declared one.

    A window on one side only is a difference too: its groups would overwrite each other, or never close.
    """
    window = query.aggregate.window if query.aggregate else None
    actual = window_of(frame)
    if query.aggregate and window is None and actual:
        yield (
            f"the transform groups by windows of {format_duration(actual[0])}, but aggregate.window is not declared, so windows "
            "would overwrite each other; declare it, or group by no window"
        )
    if window and actual is None:
        yield "aggregate.window is declared, but the transform groups by no F.window; correct one of the two"
    if window is None or actual is None:
        return
    for setting, has, says in zip(("size", "slide", "offset"), actual, _declared(window), strict=True):
        if has == says:
            continue
        if setting == "offset":
            yield (
                f"windows begin {format_duration(has)} after multiples of {format_duration(actual[1])} since 1970 in "
                f"UTC, but aggregate.window.offset is declared as {format_duration(says)}; write offset: "
                f"{format_duration(has)}, or correct the start time in F.window"
            )
        else:
            yield (
                f"aggregate.window.{setting} is declared as {format_duration(says)}, but the transform has "
                f"{format_duration(has)}; correct one of the two"
            )


def _declared(window: Window) -> tuple[timedelta, timedelta, timedelta]:
    return window.size, window.slide or window.size, window.offset


def window_of(frame: DataFrame) -> tuple[timedelta, timedelta, timedelta] | None:
    """Return (size, slide, offset) of the time window that a plan groups by, or None if F.window made none.

    The offset is in [0, slide). A window that a transform computes by other means is not recognised.
    """
    for line in spark_plan.transform_lines(frame):
        match = _TIME_WINDOW.search(line)
        if match:
            size, slide, offset = (timedelta(microseconds=int(match[key])) for key in ("size", "slide", "offset"))
            return size, slide, offset % slide
    return None


def _renamed(error: Exception, frames: Mapping[str, DataFrame]) -> str | None:
    """Return what to change if a transform reads a platform column by its old name; None for any other error."""
    if not isinstance(error, AnalysisException) and not str(error).startswith("'DataFrame' object has no attribute"):
        return None
    missing = _first_line(error).partition("Did you mean")[0]  # the rest names columns that exist
    for name, old in OLD_NAMES.items():
        quoted = re.search(rf"[`'\"]{old}[`'\"]", missing)
        if quoted and not any(old in frame.columns for frame in frames.values()):
            return f"the platform's column {old} is now {name}; select {name} (ADR 51), or declare a column {old} in the source"
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
