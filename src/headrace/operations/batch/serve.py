"""The serving view: one answer from the batch layer up to the horizon and the speed layer after it.

The batch layer's rows are exact: they include late records. The speed layer's rows are seconds old and lack late records.
The horizon is the first day (UTC) that the batch views do not contain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from headrace.contract import batch_views, names
from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.errors import HeadraceError
from headrace.operations import lake
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment
from headrace.store import view_state
from headrace.store.records import Json, Row

MAX_WINDOWS = 20_000
CONCURRENCY = 64
LAYER = "layer"


@dataclass(frozen=True)
class Answer:
    """Rows with their `layer` (batch, speed or both), and the horizon between the layers. Times are timezone-aware, in UTC."""

    pipeline: str
    query: str
    horizon: datetime | None
    rows: list[Row]

    def to_json_dict(self) -> Json:
        """Return the answer with times and decimals as text."""
        return {key: _text(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Request:
    """A request for rows of one query: the values of key columns, and the event times [since, until)."""

    deployment: Deployment
    pipeline: Pipeline
    name: str
    keys: Mapping[str, Any]
    since: datetime | None
    until: datetime
    horizon: datetime | None

    @property
    def query(self) -> Query:
        """Return the requested query."""
        return self.pipeline.queries[self.name]


def query(
    deployment: Deployment,
    pipeline: str,
    name: str,
    keys: Mapping[str, Any] | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Answer:
    """Return a query's rows: from the batch layer up to the horizon, from the speed layer after it.

    `keys` restricts the rows to values of key columns (text is converted). Windows and joined rows are those that begin in
    [since, until). Running totals count from the beginning and accept neither bound. Before the first run of the batch views
    all rows come from the speed layer. Raises HeadraceError that names what can be requested.
    """
    described = deployment.pipeline(pipeline)
    served = batch_views.views(described)
    if name not in served:
        raise HeadraceError(f"{pipeline} serves no {name!r}: there is {', '.join(served) or 'nothing'}.")
    horizon = horizon_of(deployment.root, pipeline)
    request = Request(
        deployment, described, name, _typed(described, name, keys or {}), since, until or datetime.now(UTC), horizon
    )
    readers = {"running": _running, "window": _windows, "join": _joined}
    return Answer(pipeline, name, horizon, readers[batch_views.kind(request.query)](request))


def horizon_of(root: str, pipeline: str) -> datetime | None:
    """Return the start of the first day that the batch views do not contain; None before their first run."""
    day = view_state.read(root, pipeline).horizon_day
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


def _windows(request: Request) -> list[Row]:
    since = request.since or request.horizon
    if since is None:
        raise HeadraceError(f"{request.pipeline.name} has no batch views yet: say from when with --since.")
    rows = _batch(request, batch_views.WINDOW_START, since)
    begin = max(since, request.horizon) if request.horizon else since
    return rows + _layer(_speed_windows(request, request.name, begin), "speed")


def _running(request: Request) -> list[Row]:
    """Return the sums of the view's days and the windows after them; before the first view, the table of totals."""
    if request.since is not None:
        raise HeadraceError(
            f"{request.name} holds totals since the beginning: ask a windowed query for a span of time."
        )
    keys, values = batch_views.key(request.query), batch_views.values(request.query)
    if request.horizon is None:
        return _layer(_speed_table(request), "speed")
    windowed = batch_views.speed_windows(request.pipeline, request.name)
    state = view_state.read(request.deployment.root, request.pipeline.name)
    if state.stale:
        raise HeadraceError(
            f"{len(state.stale)} days of the views of {request.pipeline.name} lack a column that came later. Compute them "
            f"first: headrace batch views {request.pipeline.name}"
        )
    if not state.sums.get(request.name, True):
        raise HeadraceError(
            f"{request.pipeline.name}.{request.name} cannot be served: its days do not add up to its totals (a maximum, a "
            "mean ...); ask its table, or a windowed query."
        )
    if windowed is None:
        raise HeadraceError(
            f"{request.pipeline.name}.{request.name} cannot be served: no tumbling query has its keys and sums, to go on "
            "from the horizon."
        )
    sums: dict[tuple[Any, ...], Row] = {}
    for row in [*_batch(request, None, None), *_layer(_speed_windows(request, windowed, request.horizon), "speed")]:
        key = tuple(row[name] for name in keys)
        total = sums.setdefault(key, dict(zip(keys, key, strict=True)) | dict.fromkeys(values, 0) | {LAYER: row[LAYER]})
        for value in values:
            total[value] += row[value]
        if total[LAYER] != row[LAYER]:
            total[LAYER] = "both"
    return [sums[key] for key in sorted(sums)]


def _joined(request: Request) -> list[Row]:
    time_column, sink = batch_views.day_column(request.query), _sink(request.query)
    missing = [name for name in sink.partition_key if name not in request.keys]
    if missing:
        raise HeadraceError(f"{request.name} is served by key: give {', '.join(f'{name}=...' for name in missing)}.")
    rows = _batch(request, time_column, request.since)
    begin = max(filter(None, (request.since, request.horizon)), default=None)
    speed_rows = [
        row
        for row in _speed_table(request)
        if (begin is None or row[time_column] >= begin) and row[time_column] < request.until
    ]
    return rows + _layer(speed_rows, "speed")


def _batch(request: Request, time_column: str | None, since: datetime | None) -> list[Row]:
    """Return the view's rows before the horizon."""
    from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan

    if request.horizon is None or (since is not None and since >= request.horizon):
        return []
    condition: BooleanExpression = LessThan(batch_views.day(request.query), request.horizon.date().isoformat())
    for name, value in request.keys.items():
        condition = And(condition, EqualTo(name, value))
    if time_column:
        condition = And(condition, LessThan(time_column, request.until.isoformat()))
        if since:
            condition = And(condition, GreaterThanOrEqual(time_column, since.isoformat()))
    table = lake.scan(request.deployment.root, names.batch_view_table(request.pipeline.name, request.name), condition)
    rows = [] if table is None else table.to_pylist()
    ordered = sorted(rows, key=lambda row: tuple(str(row[name]) for name in batch_views.key(request.query)))
    return _layer([{name: row[name] for name in request.query.columns if name in row} for row in ordered], "batch")


def _speed_windows(request: Request, name: str, begin: datetime) -> list[Row]:
    """Return the rows of a windowed query's table whose window begins in [begin, until). Each window is read by its key."""
    query_ = request.pipeline.queries[name]
    assert query_.aggregate is not None
    assert query_.aggregate.window is not None
    sink = _sink(query_)
    key_columns = {batch_views.WINDOW_START, *request.keys}
    missing = [column for column in sink.partition_key if column not in key_columns]
    if missing:
        raise HeadraceError(f"{name} is stored by {', '.join(missing)}: give {missing[0]}=... to read it.")
    step = query_.aggregate.window.slide or query_.aggregate.window.size
    starts = _starts(begin, request.until, step, query_.aggregate.window.offset)
    where = [batch_views.WINDOW_START] + [column for column in request.keys if column in batch_views.key(query_)]
    values = [[start, *(request.keys[column] for column in where[1:])] for start in starts]
    with cassandra_session(request.deployment.bindings) as session:
        statement = session.prepare(_select(request.pipeline, name, query_, where))
        answers = execute_concurrent_with_args(session, statement, values, concurrency=CONCURRENCY)
        rows = [_aware(row._asdict()) for _, answer in answers for row in answer]
    return sorted(rows, key=lambda row: tuple(str(row[column]) for column in batch_views.key(query_)))


def _speed_table(request: Request) -> list[Row]:
    sink = _sink(request.query)
    where = [name for name in (*sink.partition_key, *sink.clustering_key) if name in request.keys]
    if any(name not in where for name in sink.partition_key):
        where = []
    with cassandra_session(request.deployment.bindings) as session:
        rows = _read(
            session, _select(request.pipeline, request.name, request.query, where), [request.keys[n] for n in where]
        )
    return [row for row in rows if all(row[name] == value for name, value in request.keys.items())]


def _read(session: Session, statement: str, values: Sequence[Any]) -> list[Row]:
    return [_aware(row._asdict()) for row in session.execute(session.prepare(statement), values)]


def _select(pipeline: Pipeline, name: str, query_: Query, where: Sequence[str]) -> str:
    columns = ", ".join(f'"{column}"' for column in query_.columns)
    table = quoted(*names.cassandra_table(pipeline.name, name, _sink(query_)))
    condition = " AND ".join(f'"{column}" = ?' for column in where)
    return f"SELECT {columns} FROM {table}" + (f" WHERE {condition}" if condition else "")  # noqa: S608 - quoted names


def _sink(query_: Query) -> CassandraSink:
    for sink in query_.sinks:
        if isinstance(sink, CassandraSink):
            return sink
    raise HeadraceError("Only queries with a Cassandra table are served: the speed layer is read from there.")


def _starts(begin: datetime, until: datetime, step: timedelta, offset: timedelta = timedelta(0)) -> list[datetime]:
    """Return the window starts in [begin, until): multiples of `step` since 1970, plus `offset`."""
    micro = timedelta(microseconds=1)
    epoch = datetime(1970, 1, 1, tzinfo=UTC) + offset
    first = -(-(begin - epoch) // step)
    count = max(0, -(-(until - epoch - first * step) // step))
    if count > MAX_WINDOWS:
        raise HeadraceError(f"{count} windows are too many to read one by one: ask for at most {MAX_WINDOWS * step}.")
    assert step >= micro
    return [epoch + (first + number) * step for number in range(count)]


def _typed(pipeline: Pipeline, name: str, keys: Mapping[str, Any]) -> Row:
    query_ = pipeline.queries[name]
    allowed = [
        column for column in batch_views.key(query_) if column not in (batch_views.WINDOW_START, batch_views.WINDOW_END)
    ]
    typed: Row = {}
    for column, value in keys.items():
        if column not in allowed:
            raise HeadraceError(f"{column!r} is no key of {name}: its keys are {', '.join(allowed)}.")
        kind = query_.columns[column].type
        try:
            converter: Any = int if kind in ("int", "long") else Decimal if kind.startswith("decimal") else None
            typed[column] = converter(value) if converter and isinstance(value, str) else value
        except (ValueError, InvalidOperation) as error:
            raise HeadraceError(f"{column}={value!r} is no {kind}.") from error
    return typed


def _layer(rows: Sequence[Mapping[str, Any]], layer: str) -> list[Row]:
    return [dict(row) | {LAYER: layer} for row in rows]


def _aware(row: Row) -> Row:
    return {k: v.replace(tzinfo=UTC) if isinstance(v, datetime) and v.tzinfo is None else v for k, v in row.items()}


def _text(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, Mapping):
        return {key: _text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_text(inner) for inner in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, (Decimal, date)) else value
