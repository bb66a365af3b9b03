"""The page of one sink: its columns and owner, its checks in plain words with their newest results, and where to look further.

It reads the pipeline file, the newest result and the trend, and asks no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.contract.checked_sinks import KIND_WORDS, CheckedSink, Kind, description_of, sinks_of
from headrace.contract.model import Pipeline, format_duration
from headrace.errors import HeadraceError
from headrace.operations.quality import suites, trend
from headrace.operations.quality.expectation_words import in_words
from headrace.operations.quality.summary import Failure, Summary
from headrace.orchestration import page_quality
from headrace.orchestration.page_quality import SinkChecks
from headrace.store import paths, records

BAR, HEIGHT = 8, 40
"""Width of a bar of the plot of checks, and its height."""


@dataclass(frozen=True)
class ShownColumn:
    """One column; `key` is its place in the key of a row (1, 2, ...), 0 for others."""

    name: str
    type: str
    required: bool
    description: str
    key: int


@dataclass(frozen=True)
class CheckLine:
    """One expectation: what it asks, why, and how the newest check found it. `examples` are failing rows with their keys."""

    words: str
    why: str
    severity: str
    result: str
    met: bool | None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bar:
    """One check in the plot: its height by the rows that it read, coloured by its status."""

    x: int
    height: float
    status: str
    title: str


@dataclass(frozen=True)
class SinkPage:
    """All that the page shows. `look` are commands and queries that show the data itself."""

    name: str
    kind: str
    place: str
    pipeline: str
    owner: str
    query: str
    description: str
    facts: dict[str, str]
    columns: tuple[ShownColumn, ...]
    checks: tuple[CheckLine, ...]
    trend: SinkChecks
    bars: tuple[Bar, ...]
    look: tuple[str, ...]


def page_of(root: str, pipelines: Mapping[str, Pipeline], name: str) -> SinkPage:
    """Return the page of a sink. Raises HeadraceError, with the known names, for another one."""
    known = {sink.name: (sink, pipeline) for pipeline in pipelines.values() for sink in sinks_of(pipeline)}
    if name not in known:
        raise HeadraceError(f"Unknown sink {name!r}. Known sinks: {', '.join(sorted(known))}.")
    sink, pipeline = known[name]
    points = trend.read(root, name)[: trend.CHECKS_KEPT][::-1]
    return SinkPage(
        name=name,
        kind=KIND_WORDS[sink.kind],
        place=".".join(sink.place) or f"{paths.query_files(root, sink.pipeline, sink.query)}/<generation>/",
        pipeline=pipeline.name,
        owner=pipeline.owner,
        query=sink.query,
        description=description_of(pipeline, sink),
        facts=_facts(pipeline, sink),
        columns=tuple(
            ShownColumn(
                column,
                spec.type,
                spec.required,
                spec.description,
                sink.key.index(column) + 1 if column in sink.key else 0,
            )
            for column, spec in sink.columns.items()
        ),
        checks=_lines(root, pipeline, name),
        trend=page_quality.checks_of(root, name),
        bars=_bars(points),
        look=_look(root, sink),
    )


def _facts(pipeline: Pipeline, sink: CheckedSink) -> dict[str, str]:
    declared = pipeline.queries.get(sink.query)
    facts = {"Freshness promised": format_duration(pipeline.slo.freshness)}
    if declared:
        facts |= {"Output mode": declared.mode, "Reads": ", ".join([*declared.sources, *declared.dimensions])}
        if declared.late:
            facts["Late rows"] = {"drop": "left out; the batch view has them", "include": "included"}[declared.late]
    key = ", ".join(sink.key)
    return facts | ({"Key of a row": key} if key else {})


def _lines(root: str, pipeline: Pipeline, name: str) -> tuple[CheckLine, ...]:
    """Return the expectations of the suite, those that the newest check found broken first."""
    newest = _newest(root, name)
    failed = {failure.id: failure for failure in newest.failed} if newest else {}
    lines = [
        _line(
            in_words(expectation.type, expectation.kwargs),
            expectation.meta.get("why", ""),
            expectation.severity,
            failed.get(expectation.id),
            newest,
        )
        for expectation in suites.suite_of(pipeline, name).expectations
    ]
    return tuple(sorted(lines, key=lambda line: line.met is not False))


def _line(words: str, why: str, severity: str, failure: Failure | None, newest: Summary | None) -> CheckLine:
    if newest is None or newest.status in ("NOTHING", "UNREADABLE"):
        return CheckLine(words, why, severity, "not checked", None)
    if failure is None:
        return CheckLine(words, why, severity, "met", True)
    result = failure.error or (
        f"{failure.unexpected:,} rows ({failure.percent:.2g} %)" if failure.unexpected else f"found {failure.observed}"
    )
    examples = tuple(", ".join(f"{name} = {value}" for name, value in row.items()) for row in failure.examples)
    return CheckLine(words, why, severity, result, False, examples)


def _newest(root: str, name: str) -> Summary | None:
    """Return the newest result of a sink, None before the first check."""
    return records.read(Summary, paths.quality_latest(root, name))


def _bars(points: list[trend.TrendPoint]) -> tuple[Bar, ...]:
    most = max((point.rows for point in points), default=0) or 1
    return tuple(
        Bar(
            number * BAR,
            round(4 + (HEIGHT - 4) * point.rows / most, 1),
            point.status,
            f"{point.window}: {point.status}, {point.coverage or f'{point.rows:,} rows'}"
            + (f"; {', '.join(point.failed)}" if point.failed else ""),
        )
        for number, point in enumerate(points)
    )


def _look(root: str, sink: CheckedSink) -> tuple[str, ...]:
    """Return how to look at the data of a sink, and at the rows that its checks found."""
    folder = paths.query_files(root, sink.pipeline, sink.query)
    table = f"{paths.lake(root)}/{sink.pipeline}/{sink.query}"
    data: dict[Kind, str] = {
        "cassandra": f"SELECT * FROM {'.'.join(sink.place)} LIMIT 20;  -- cqlsh",  # noqa: S608 - shown, never executed
        "kafka": f"kafka-console-consumer.sh --topic {sink.place[0] if sink.place else ''} --from-beginning --max-messages 20",
        "files": f"SELECT * FROM read_json('{folder}/*/batch_id=*/*.json') LIMIT 20;  -- DuckDB",  # noqa: S608
        "iceberg": f"SELECT * FROM iceberg_scan('{table}', allow_moved_paths = true) LIMIT 20;  -- DuckDB",  # noqa: S608
    }
    return (data[sink.kind], f"headrace quality show {sink.name}", f"headrace quality quarantine {sink.name}")
