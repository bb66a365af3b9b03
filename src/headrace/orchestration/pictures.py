"""The pictures of the Streams page, made on the server as SVG: the flow of each pipeline, and its queries' last hour.

Everything here is a pure function of the pipeline file, the verdicts and the supervisor's history. Templates escape all texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import mean

from headrace.contract import names
from headrace.contract.checked_sinks import KIND_WORDS, CheckedSink, sinks_of
from headrace.contract.model import Pipeline
from headrace.operations.supervisor.history import EVERY_MS, KEPT_MS, Measure, Point
from headrace.store.spark_conf import ARCHIVE_TRIGGER

WIDTH, HEIGHT = 120, 24
"""The size of a plot."""
GAP_MS = 4 * EVERY_MS
"""A line is interrupted where nothing was observed for longer."""

BOX, SPACE, ROW = 200, 70, 28
"""Width of a box of the flow, space between two columns, and height of a row."""
LETTERS = 28


@dataclass(frozen=True)
class Plot:
    """A line over the last hour: SVG path data in WIDTH x HEIGHT, the height of a limit's line, and all of it in words."""

    path: str
    limit_y: float | None
    title: str


@dataclass(frozen=True)
class QueryPlots:
    """The plots of one query; None without a point."""

    lag: Plot | None = None
    rate: Plot | None = None
    took: Plot | None = None


@dataclass(frozen=True)
class Node:
    """One box of a flow: a topic, a dimension, a query or a sink. `verdict` is that of a query, "" for others."""

    x: int
    y: float
    label: str
    title: str
    verdict: str = ""


@dataclass(frozen=True)
class Edge:
    """A line between two boxes as SVG path data, with the verdict of its query."""

    path: str
    verdict: str


@dataclass(frozen=True)
class Flow:
    """The flow of a pipeline: what it reads, its queries, and its sinks, from left to right."""

    width: int
    height: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Pictures:
    """The pictures of one pipeline: its flow, and the plots of its queries by short name."""

    flow: Flow | None = None
    queries: Mapping[str, QueryPlots] = field(default_factory=dict)


def pictures(pipeline: Pipeline, verdicts: Mapping[str, str], points: Sequence[Point], until_ms: int) -> Pictures:
    """Return the pictures of a pipeline; `verdicts` are those of its queries by short name, `points` its last hour."""
    triggers = {name: query.trigger for name, query in pipeline.queries.items()}
    return Pictures(
        flow(pipeline, verdicts),
        {
            query: plots(points, query, until_ms, triggers.get(query, ARCHIVE_TRIGGER) // timedelta(milliseconds=1))
            for query in names.query_names(pipeline)
        },
    )


def plots(points: Sequence[Point], query: str, until_ms: int, trigger_ms: int) -> QueryPlots:
    """Return the plots of a query's last hour before `until_ms`. The limit of a batch's duration is the trigger."""

    def plot(value: Callable[[Measure], float | None], what: str, unit: str, limit: float | None = None) -> Plot | None:
        values = [(point.at_ms, value(point.queries.get(query, Measure()))) for point in points]
        return _plot(values, until_ms, what, unit, limit)

    return QueryPlots(
        lag=plot(lambda measure: measure.lag, "lag", "offsets"),
        rate=plot(lambda measure: measure.rate, "taken", "offsets a second"),
        took=plot(lambda measure: measure.took_ms, "batch", "ms", trigger_ms),
    )


def _plot(
    values: Iterable[tuple[int, float | None]], until_ms: int, what: str, unit: str, limit: float | None
) -> Plot | None:
    known = [(at, value) for at, value in values if value is not None and at > until_ms - KEPT_MS]
    if not known:
        return None
    most = max(value for _, value in known)
    top = max(most, limit or 0) * 1.1 or 1.0

    def y_of(value: float) -> float:
        return round(HEIGHT - 1 - (HEIGHT - 2) * value / top, 1)

    path: list[str] = []
    before = 0
    for at, value in known:
        x, y = round(WIDTH * (1 - (until_ms - at) / KEPT_MS), 1), y_of(value)
        path.append(f"L{x} {y}" if at - before <= GAP_MS else f"M{x} {y}h0.5")
        before = at
    words = f"{what} in the last hour: newest {known[-1][1]:,.0f}, highest {most:,.0f} {unit}"
    if limit:
        words += f"; the dashed line is the trigger, {limit:,.0f} {unit}"
    return Plot("".join(path), y_of(limit) if limit else None, words)


def flow(pipeline: Pipeline, verdicts: Mapping[str, str]) -> Flow:
    """Return the picture of a pipeline; `verdicts` are those of its queries by short name."""
    by_query: dict[str, list[CheckedSink]] = {query: [] for query in names.query_names(pipeline)}
    for sink in sinks_of(pipeline):
        by_query[sink.query].append(sink)
    left, middle, right = 0, BOX + SPACE, 2 * (BOX + SPACE)
    nodes: list[Node] = []
    edges: list[Edge] = []
    readers: dict[str, list[tuple[float, str]]] = {}
    row = 0
    for query, sinks in by_query.items():
        verdict = verdicts.get(query, "")
        rows = [ROW * (row + number) + ROW / 2 for number in range(max(1, len(sinks)))]
        row += len(rows)
        y = mean(rows)
        nodes.append(Node(middle, y, _short(query), f"query {query}: {verdict or 'no verdict'}", verdict))
        for sink, at in zip(sinks, rows, strict=False):
            label = sink.name.partition(".")[2] if sink.kind in ("cassandra", "kafka") else KIND_WORDS[sink.kind]
            nodes.append(Node(right, at, _short(label), f"{KIND_WORDS[sink.kind]} {sink.name}"))
            edges.append(Edge(_curve(middle + BOX, y, right, at), verdict))
        for name in _inputs(pipeline, query):
            readers.setdefault(name, []).append((y, verdict))
    height = ROW * max(row, len(readers))
    for name, y in _apart({name: mean(y for y, _ in lines) for name, lines in readers.items()}).items():
        kind = "dimension" if name in pipeline.dimensions else "topic"
        nodes.append(Node(left, y, _short(name), f"{kind} {name}"))
        edges += [Edge(_curve(left + BOX, y, middle, at), verdict) for at, verdict in readers[name]]
    return Flow(right + BOX, height, tuple(nodes), tuple(edges))


def _inputs(pipeline: Pipeline, query: str) -> list[str]:
    """Return the topics and dimensions that a query reads."""
    declared = pipeline.queries.get(query)
    return [*declared.sources, *declared.dimensions] if declared else [names.archived_topic(pipeline, query)]


def _apart(wanted: Mapping[str, float]) -> dict[str, float]:
    """Return heights near the wanted ones, at least a row apart."""
    placed: dict[str, float] = {}
    least = ROW / 2
    for name, y in sorted(wanted.items(), key=lambda item: item[1]):
        placed[name] = max(y, least)
        least = placed[name] + ROW
    return placed


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    half = (to_x - x) / 2
    return f"M{x:g} {y:g}C{x + half:g} {y:g} {to_x - half:g} {to_y:g} {to_x:g} {to_y:g}"


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
