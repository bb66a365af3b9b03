"""The serving view: one answer from the batch layer up to the horizon and the speed layer after it.

The batch layer's rows are exact: they include late records. The speed layer's rows are seconds old and lack late records.
The horizon is the first day (UTC) that the batch views do not contain. Rows come in the order of their key, so a page
goes on after the last key of the one before it, whatever was written in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypedDict, Unpack

from headrace.contract import batch_views
from headrace.contract.model import Pipeline, Query
from headrace.errors import HeadraceError
from headrace.operations.batch import serve_layers
from headrace.operations.batch.serve_layers import BatchLayer, SpeedLayer
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment
from headrace.store import view_state
from headrace.store.records import Json, Row
from headrace.store.view_state import ViewState

LAYER = "layer"


@dataclass(frozen=True)
class Answer:
    """Rows with their `layer` (batch, speed or both), and the horizon between the layers. Times are timezone-aware, in UTC.

    `next`: what the request for the next page gives as `after`; None after the last page.
    """

    pipeline: str
    query: str
    horizon: datetime | None
    rows: list[Row]
    next: str | None = None

    def to_json_dict(self) -> Json:
        """Return the answer with times and decimals as text."""
        return {key: _text(value) for key, value in asdict(self).items()}


class RowRange(TypedDict, total=False):
    """The rows to return: event times [since, until), from the page that follows `after`."""

    since: datetime | None
    until: datetime | None
    limit: int | None
    after: str | None


@dataclass(frozen=True)
class Request:
    """A request for rows of one query: the values of key columns, the event times [since, until), and the page.

    `after`: the key of the last row that the caller has. `limit`: the number of rows at most.
    """

    pipeline: Pipeline
    name: str
    keys: Mapping[str, Any]
    since: datetime | None
    until: datetime
    horizon: datetime | None
    after: tuple[Any, ...] | None
    limit: int | None

    @property
    def query(self) -> Query:
        """Return the requested query."""
        return self.pipeline.queries[self.name]

    def page(self, portions: Iterable[list[Row]]) -> list[Row]:
        """Return the first rows after `after`, one more than the limit, of portions that follow each other in key order."""
        rows: list[Row] = []
        for portion in portions:
            rows += sorted((row for row in portion if self._is_new(row)), key=self.place)
            if self.limit is not None and len(rows) > self.limit:
                return rows[: self.limit + 1]
        return rows

    def place(self, row: Row) -> tuple[Any, ...]:
        """Return the place of a row in the order of keys; null comes first."""
        return _order(row.get(name) for name in batch_views.key(self.query))

    def _is_new(self, row: Row) -> bool:
        return self.after is None or self.place(row) > _order(self.after)


class Serving:
    """Both layers of a deployment with an open session, for many requests."""

    def __init__(self, deployment: Deployment, speed: SpeedLayer, *, keeps: bool = True) -> None:
        """Take the layers. `keeps`: the sums of running totals stay in memory until their view changes."""
        self.deployment, self.speed = deployment, speed
        self.batch = BatchLayer(deployment.root, keeps)

    def query(
        self, pipeline: str, name: str, keys: Mapping[str, Any] | None = None, **part: Unpack[RowRange]
    ) -> Answer:
        """Return a query's rows; see `request_of` for the arguments."""
        return self.answer(request_of(self.deployment, pipeline, name, keys, **part))

    def answer(self, request: Request) -> Answer:
        """Return the rows of a request and, if there are more than its limit, where the next page begins."""
        readers = {"running": self._running, "window": self._windows, "join": self._joined}
        rows = readers[batch_views.kind(request.query)](request)
        limit, place = request.limit, (request.pipeline.name, request.name, request.horizon)
        if limit is None or len(rows) <= limit:
            return Answer(*place, rows)
        last = [rows[limit - 1].get(column) for column in batch_views.key(request.query)]
        return Answer(*place, rows[:limit], json.dumps(_text(last)))

    def _windows(self, request: Request) -> list[Row]:
        since = request.since or request.horizon
        if request.after is not None:  # the horizon may have moved since the page before
            since = request.after[batch_views.key(request.query).index(batch_views.WINDOW_START)]
        if since is None:
            raise HeadraceError(f"{request.pipeline.name} has no batch views yet: say from when with --since.")
        return request.page(self._window_portions(request, since))

    def _window_portions(self, request: Request, since: datetime) -> Iterator[list[Row]]:
        for rows in self._batch(request, batch_views.WINDOW_START, since):
            yield _layer(rows, "batch")
        begin = max(since, request.horizon) if request.horizon else since
        few = request.limit is not None and not request.keys
        for rows in self.speed.windows(request.pipeline, request.name, request.keys, begin, request.until, few=few):
            yield _layer(rows, "speed")

    def _running(self, request: Request) -> list[Row]:
        """Return the sums of the view's days and the windows after them; before the first view, the table of totals."""
        if request.since is not None:
            raise HeadraceError(
                f"{request.name} holds totals since the beginning: ask a windowed query for a span of time."
            )
        if request.horizon is None:
            return request.page([_layer(self.speed.table(request.pipeline, request.name, request.keys), "speed")])
        windowed = self._windows_of_totals(request)
        keys, values = batch_views.key(request.query), batch_views.values(request.query)
        least = request.after[0] if request.after and type(request.after[0]) in (str, int) else None
        days = self.batch.sums(
            request.pipeline.name, request.name, request.query, request.horizon.date(), request.keys, least
        )
        sums = {tuple(row[name] for name in keys): row for row in _layer(days, "batch")}
        for portion in self.speed.windows(request.pipeline, windowed, request.keys, request.horizon, request.until):
            for row in portion:
                key = tuple(row[name] for name in keys)
                empty = dict(zip(keys, key, strict=True)) | dict.fromkeys(values, 0) | {LAYER: "speed"}
                total = sums.setdefault(key, empty)
                for value in values:
                    total[value] = (total[value] or 0) + (row[value] or 0)
                if total[LAYER] == "batch":
                    total[LAYER] = "both"
        return request.page([list(sums.values())])

    def _windows_of_totals(self, request: Request) -> str:
        """Return the query whose windows continue running totals after the horizon. Raises HeadraceError if they cannot."""
        windowed = batch_views.speed_windows(request.pipeline, request.name)
        state = view_state.read(self.deployment.root, request.pipeline.name)
        _require_current(state, request, None, date.max)
        if state.stale:
            raise HeadraceError(
                f"{len(state.stale)} days of the views of {request.pipeline.name} lack a column that came later. Compute "
                f"them first: headrace batch views {request.pipeline.name}"
            )
        if not state.sums.get(request.name, True):
            raise HeadraceError(
                f"{request.pipeline.name}.{request.name} cannot be served: its days do not add up to its totals (a "
                "maximum, a mean ...); ask its table, or a windowed query."
            )
        if windowed is None:
            raise HeadraceError(
                f"{request.pipeline.name}.{request.name} cannot be served: no tumbling query has its keys and sums, to go "
                "on from the horizon."
            )
        return windowed

    def _joined(self, request: Request) -> list[Row]:
        time_column, sink = batch_views.day_column(request.query), serve_layers.cassandra_sink(request.query)
        missing = [name for name in sink.partition_key if name not in request.keys]
        if missing:
            raise HeadraceError(
                f"{request.name} is served by key: give {', '.join(f'{name}=...' for name in missing)}."
            )
        rows = [row for days in self._batch(request, time_column, request.since, complete=True) for row in days]
        begin = max(filter(None, (request.since, request.horizon)), default=None)
        speed_rows = [
            row
            for row in self.speed.table(request.pipeline, request.name, request.keys)
            if (begin is None or row[time_column] >= begin) and row[time_column] < request.until
        ]
        return request.page([_layer(rows, "batch") + _layer(speed_rows, "speed")])

    def _batch(
        self, request: Request, time_column: str, since: datetime | None, *, complete: bool = False
    ) -> Iterator[list[Row]]:
        """Yield the view's rows before the horizon, some days at a time; all at once if `complete` or without a limit."""
        if request.horizon is None or (since is not None and since >= request.horizon):
            return
        table = self.batch.pinned(request.pipeline.name, request.name)
        if table is None:
            return
        first = since.date() if since else None
        past = min(request.horizon.date(), request.until.date() + timedelta(days=1))
        between = (time_column, since, request.until)
        state = view_state.read(self.deployment.root, request.pipeline.name)
        _require_current(state, request, first, past)
        if complete or request.limit is None:
            yield serve_layers.rows_of_days(table, request.query, (first, past), request.keys, between)
            return
        days = [
            day for day in sorted(map(date.fromisoformat, state.days)) if (first is None or day >= first) and day < past
        ]
        place, at_once = 0, 1
        while place < len(days):
            part = days[place : place + at_once]
            place, at_once = place + at_once, at_once * 2
            span = (part[0], part[-1] + timedelta(days=1))
            yield serve_layers.rows_of_days(table, request.query, span, request.keys, between)


def _require_current(state: ViewState, request: Request, first: date | None, past: date) -> None:
    """Raise HeadraceError if a day in [first, past) of the view was computed before the pipeline file gave it another shape."""
    days = map(date.fromisoformat, view_state.outdated(state, request.pipeline, request.name))
    outdated = [day for day in days if (first is None or day >= first) and day < past]
    if outdated:
        why = "; ".join(view_state.changes(state, request.pipeline, request.name)) or "the pipeline file changed"
        raise HeadraceError(
            f"{len(outdated)} days of the view of {request.pipeline.name}.{request.name} are not as the pipeline file says now "
            f"({why}). Compute them first: headrace batch views {request.pipeline.name}"
        )


@contextmanager
def opened(deployment: Deployment, *, keeps: bool = True) -> Iterator[Serving]:
    """Yield the serving view, with one session. `keeps`: it answers many requests, so it keeps the sums of totals."""
    with ExitStack() as stack:
        speed = SpeedLayer(lambda: stack.enter_context(cassandra_session(deployment.bindings)))
        yield Serving(deployment, speed, keeps=keeps)


def query(
    deployment: Deployment, pipeline: str, name: str, keys: Mapping[str, Any] | None = None, **part: Unpack[RowRange]
) -> Answer:
    """Answer one request with a session for it alone; see `request_of` for the arguments."""
    request = request_of(deployment, pipeline, name, keys, **part)
    with opened(deployment, keeps=False) as serving:
        return serving.answer(request)


def request_of(
    deployment: Deployment, pipeline: str, name: str, keys: Mapping[str, Any] | None = None, **part: Unpack[RowRange]
) -> Request:
    """Return the request for a query's rows: from the batch layer up to the horizon, from the speed layer after it.

    `keys` restricts the rows to values of key columns (text is converted). Windows and joined rows are those that begin in
    [since, until). Running totals count from the beginning and accept neither bound. Before the first run of the batch views
    all rows come from the speed layer. `limit` and `after` (the `next` of the page before) ask for a page.
    Raises HeadraceError that names what can be requested.
    """
    described = deployment.pipeline(pipeline)
    served = batch_views.views(described)
    if name not in served:
        raise HeadraceError(f"{pipeline} serves no {name!r}: there is {', '.join(served) or 'nothing'}.")
    horizon = horizon_of(deployment.root, pipeline)
    after = part.get("after")
    return Request(
        pipeline=described,
        name=name,
        keys=_typed(described, name, keys or {}),
        since=part.get("since"),
        until=part.get("until") or datetime.now(UTC),
        horizon=horizon,
        after=None if after is None else _key_of(described.queries[name], after),
        limit=part.get("limit"),
    )


def horizon_of(root: str, pipeline: str) -> datetime | None:
    """Return the start of the first day that the batch views do not contain; None before their first run."""
    day = view_state.read(root, pipeline).horizon_day
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


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
            typed[column] = _value(kind, value)
        except (ValueError, InvalidOperation) as error:
            raise HeadraceError(f"{column}={value!r} is no {kind}.") from error
    return typed


def _key_of(query_: Query, after: str) -> tuple[Any, ...]:
    """Return the key that the `next` of a page names."""
    columns = batch_views.key(query_)
    try:
        values = json.loads(after)
        return tuple(_value(query_.columns[c].type, value) for c, value in zip(columns, values, strict=True))
    except (ValueError, TypeError, InvalidOperation) as error:
        raise HeadraceError(
            f"{after!r} is no key of a row ({', '.join(columns)}). Give `next` of the page before."
        ) from error


def _value(kind: str, value: Any) -> Any:  # noqa: ANN401 - a value of a key column
    """Return a value of a column's type. Raises ValueError or InvalidOperation if the text is not one."""
    if not isinstance(value, str):
        return value
    if kind in ("int", "long"):
        return int(value)
    if kind == "timestamp":
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if kind == "boolean":
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    return date.fromisoformat(value) if kind == "date" else Decimal(value) if kind.startswith("decimal") else value


def _order(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple((value is not None, value) for value in values)


def _layer(rows: Sequence[Mapping[str, Any]], layer: str) -> list[Row]:
    return [dict(row) | {LAYER: layer} for row in rows]


def _text(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, Mapping):
        return {key: _text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_text(inner) for inner in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, (Decimal, date)) else value
