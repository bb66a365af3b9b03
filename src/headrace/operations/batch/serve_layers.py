"""What the serving view reads: rows of the batch views from Iceberg, and rows of the serving tables from Cassandra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cassandra import ConsistencyLevel
from cassandra.cluster import ExecutionProfile, Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import PreparedStatement
from cassandra.util import Date

from headrace.contract import batch_views, names
from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.errors import HeadraceError
from headrace.operations import lake
from headrace.operations.clients import as_dicts, stored_time
from headrace.store.records import Row

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import StaticTable

MAX_WINDOWS = 20_000
WINDOWS_AT_ONCE = 64
CONCURRENCY = 16


@dataclass
class BatchLayer:
    """The batch views of a storage root. Each table is read at one commit, the newest at the time of `pinned`.

    `totals` keeps the sums of running totals: (table, its metadata file, horizon) -> one row for each key.
    """

    root: str
    keeps: bool = False
    totals: dict[tuple[str, str, date], pa.Table] = field(default_factory=dict)

    def pinned(self, pipeline: str, name: str) -> StaticTable | None:
        """Return a view's table at its newest commit, or None if the view has no table."""
        return lake.load(self.root, names.batch_view_table(pipeline, name))

    def sums(
        self,
        pipeline: str,
        name: str,
        query: Query,
        horizon: date,
        keys: Mapping[str, Any],
        least: Any = None,  # noqa: ANN401
    ) -> list[Row]:
        """Return the sum of all days before the horizon for each key. `least`: the smallest value of the first key column."""
        import pyarrow.compute as pc

        table = self.pinned(pipeline, name)
        if table is None:
            return []
        column = batch_views.key(query)[0]
        if not self.keeps:
            beyond = {} if least is None else {column: least}
            rows = _added(_scan(table, _days(query, None, horizon), keys, beyond), query)
        else:
            place = (f"{pipeline}.{name}", table.metadata_location, horizon)
            if place not in self.totals:
                self.totals = {known: sums for known, sums in self.totals.items() if known[0] != place[0]}
                self.totals[place] = _added(_scan(table, _days(query, None, horizon), {}, {}), query)
            rows = self.totals[place]
            for key, value in keys.items():
                rows = rows.filter(pc.field(key) == value)
            if least is not None:
                rows = rows.filter(pc.field(column) >= least)
        return list(rows.to_pylist())


def rows_of_days(
    table: StaticTable, query: Query, days: tuple[date | None, date], keys: Mapping[str, Any],
    between: tuple[str, datetime | None, datetime] | None,
) -> list[Row]:  # fmt: skip
    """Return a view's rows of the days [first, past), with the query's columns.

    `between` limits a time column to [since, until).
    """
    from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan

    condition = _days(query, *days)
    if between:
        column, since, until = between
        condition = And(condition, LessThan(column, until.isoformat()))
        if since:
            condition = And(condition, GreaterThanOrEqual(column, since.isoformat()))
    rows = _scan(table, condition, keys, {}).to_pylist()
    return [{name: row[name] for name in query.columns if name in row} for row in rows]


def _days(query: Query, first: date | None, past: date) -> BooleanExpression:
    from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan

    before: BooleanExpression = LessThan(batch_views.day(query), past.isoformat())
    return And(before, GreaterThanOrEqual(batch_views.day(query), first.isoformat())) if first else before


def _scan(
    table: StaticTable, condition: BooleanExpression, keys: Mapping[str, Any], least: Mapping[str, Any]
) -> pa.Table:
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual

    for name, value in keys.items():
        condition = And(condition, EqualTo(name, value.isoformat() if isinstance(value, date) else value))
    for name, value in least.items():
        condition = And(condition, GreaterThanOrEqual(name, value))
    return table.scan(row_filter=condition).to_arrow()


def _added(rows: pa.Table, query: Query) -> pa.Table:
    """Return the sums of a view's rows, one row for each key."""
    keys, values = batch_views.key(query), batch_views.values(query)
    added = rows.group_by(keys).aggregate([(value, "sum") for value in values])
    return added.select([*keys, *(f"{value}_sum" for value in values)]).rename_columns([*keys, *values])


@dataclass
class SpeedLayer:
    """The serving tables, read at a level that sees what the streams have written. The first read opens the session."""

    connect: Callable[[], Session]
    prepared: dict[str, PreparedStatement] = field(default_factory=dict)

    @cached_property
    def session(self) -> Session:
        """Return the session."""
        return self.connect()

    @cached_property
    def profile(self) -> ExecutionProfile:
        """Return the profile of all reads."""
        return as_dicts(self.session)

    def windows(
        self,
        pipeline: Pipeline,
        name: str,
        keys: Mapping[str, Any],
        begin: datetime,
        until: datetime,
        *,
        few: bool = False,
    ) -> Iterator[list[Row]]:
        """Yield the rows of a windowed query whose window begins in [begin, until), a portion of the windows at a time.

        Portions follow each other in time. `few`: begin with small portions, because not all rows are needed.
        """
        query = pipeline.queries[name]
        assert query.aggregate is not None
        assert query.aggregate.window is not None
        sink = cassandra_sink(query)
        missing = [column for column in sink.partition_key if column not in {batch_views.WINDOW_START, *keys}]
        if missing:
            raise HeadraceError(f"{name} is stored by {', '.join(missing)}: give {missing[0]}=... to read it.")
        step = query.aggregate.window.slide or query.aggregate.window.size
        starts = window_starts(begin, until, step, query.aggregate.window.offset)
        where = [
            column
            for column in _readable(sink, {batch_views.WINDOW_START, *keys})
            if column != batch_views.WINDOW_START
        ]
        text = _select(pipeline, name, query, where, many=batch_views.WINDOW_START)
        statement = self._prepare(text, sink)
        at_once, place = 1 if few else WINDOWS_AT_ONCE * CONCURRENCY, 0
        while place < len(starts):
            portion = starts[place : place + at_once]
            place, at_once = place + at_once, min(at_once * 4, WINDOWS_AT_ONCE * CONCURRENCY)
            groups = [portion[n : n + WINDOWS_AT_ONCE] for n in range(0, len(portion), WINDOWS_AT_ONCE)]
            values = [[*(keys[column] for column in where), group] for group in groups]
            answers = execute_concurrent_with_args(
                self.session, statement, values, concurrency=CONCURRENCY, execution_profile=self.profile
            )
            yield _matching((row for _, answer in answers for row in answer), keys)

    def table(self, pipeline: Pipeline, name: str, keys: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a query's table with these values of keys; without the partition key all rows are read."""
        query = pipeline.queries[name]
        sink = cassandra_sink(query)
        where = _readable(sink, set(keys)) if set(sink.partition_key) <= set(keys) else []
        statement = self._prepare(_select(pipeline, name, query, where), sink)
        values = [keys[column] for column in where]
        return _matching(self.session.execute(statement, values, execution_profile=self.profile), keys)

    def _prepare(self, text: str, sink: CassandraSink) -> PreparedStatement:
        if text not in self.prepared:
            self.prepared[text] = self.session.prepare(text)
            if sink.consistency == "QUORUM":  # else the session's LOCAL_QUORUM
                self.prepared[text].consistency_level = ConsistencyLevel.QUORUM
        return self.prepared[text]


def cassandra_sink(query: Query) -> CassandraSink:
    """Return a query's Cassandra sink. Raises HeadraceError if it has none."""
    for sink in query.sinks:
        if isinstance(sink, CassandraSink):
            return sink
    raise HeadraceError("Only queries with a Cassandra table are served: the speed layer is read from there.")


def window_starts(
    begin: datetime, until: datetime, step: timedelta, offset: timedelta = timedelta(0)
) -> list[datetime]:
    """Return the window starts in [begin, until): multiples of `step` since 1970, plus `offset`."""
    micro = timedelta(microseconds=1)
    epoch = datetime(1970, 1, 1, tzinfo=UTC) + offset
    first = -(-(begin - epoch) // step)
    count = max(0, -(-(until - epoch - first * step) // step))
    if count > MAX_WINDOWS:
        raise HeadraceError(f"{count} windows are too many to read one by one: ask for at most {MAX_WINDOWS * step}.")
    assert step >= micro
    return [epoch + (first + number) * step for number in range(count)]


def _readable(sink: CassandraSink, known: set[str]) -> list[str]:
    """Return the key columns that a statement may name: those of the partition, and the first of the clustering columns."""
    clustering: list[str] = []
    for column in sink.clustering_key:
        if column not in known:
            break
        clustering.append(column)
    return [*sink.partition_key, *clustering]


def _select(pipeline: Pipeline, name: str, query: Query, where: Sequence[str], many: str | None = None) -> str:
    columns = ", ".join(f'"{column}"' for column in query.columns)
    table = quoted(*names.cassandra_table(pipeline.name, name, cassandra_sink(query)))
    conditions = [*(f'"{column}" = ?' for column in where), *([f'"{many}" IN ?'] if many else [])]
    condition = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {columns} FROM {table}{condition}"  # noqa: S608 - quoted names


def _matching(rows: Any, keys: Mapping[str, Any]) -> list[Row]:  # noqa: ANN401 - the driver's rows
    plain = ({name: _plain(value) for name, value in row.items()} for row in rows)
    return [row for row in plain if all(row.get(name, value) == value for name, value in keys.items())]


def _plain(value: Any) -> Any:  # noqa: ANN401 - a value of Cassandra
    if isinstance(value, datetime):
        return stored_time(value)
    return value.date() if isinstance(value, Date) else value
