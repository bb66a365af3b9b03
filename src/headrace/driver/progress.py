"""A driver's report about itself: heartbeat file and Prometheus metrics, from one observation of each query.

The heartbeat is written every few seconds, also when idle. "Running" alone is never healthy: a driver that is idle must
be distinguishable from one that hangs.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from pyspark.sql.streaming import StreamingQuery

from headrace.driver.error_causes import reason_of
from headrace.driver.writer import Counters
from headrace.store import records
from headrace.store.driver_files import Heartbeat, QueryState, RunningBatch

HEARTBEAT_SECONDS = 3

Family = GaugeMetricFamily | CounterMetricFamily


AGGREGATE = "stateStoreSave"
"""Spark's name for the state of an aggregate in its progress."""

RATE_BATCHES = 10
"""The number of newest batches over which a query's rates are averaged."""


@dataclass
class Rates:
    """How fast a query reads offsets and how fast they arrive, from the progress of its newest batches."""

    _seen: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=RATE_BATCHES))
    _batch: int | None = None

    def update(self, progress: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Return offsets per second (read, arrived), given Spark's last progress; None before the second batch."""
        sources = _known_sources(progress)
        if sources and progress.get("batchId") != self._batch:
            at = datetime.fromisoformat(progress["timestamp"].replace("Z", "+00:00")).timestamp()
            taken_to, arrived_to = (
                sum(_total(source[name]) for source in sources) for name in ("endOffset", "latestOffset")
            )
            self._batch = progress.get("batchId")
            self._seen.append((at, taken_to, arrived_to))
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return None, None
        (first, *was), (last, *now) = self._seen[0], self._seen[-1]
        taken, arrived = ((after - before) / (last - first) for before, after in zip(was, now, strict=True))
        return round(taken, 2), round(arrived, 2)


def observe(
    query: StreamingQuery,
    name: str,
    generation: int,
    trigger_ms: int,
    counters: Counters,
    *,
    moved_ms: int | None = None,
    work: RunningBatch | None = None,
    rates: Rates | None = None,
) -> QueryState:
    """Return the state of a query from its counters, Spark's last progress and its running batch."""
    last: Mapping[str, Any] = _last_progress(query)
    taken, arrived = rates.update(last) if rates else (None, None)
    newest = counters.newest
    operators = last.get("stateOperators", [])
    error = None if query.isActive else reason_of(query.exception() or "ended without an error")
    return QueryState(
        query=name,
        generation=generation,
        active=query.isActive,
        trigger_ms=trigger_ms,
        batch=newest["batch"] if newest else None,
        batch_written_ms=newest["written_ms"] if newest else None,
        batch_duration_ms=last.get("durationMs", {}).get("triggerExecution"),
        running_batch=counters.running_batch,
        moved_ms=moved_ms,
        work=work,
        taken_rate=taken,
        arrival_rate=arrived,
        rows_in=counters.rows_in,
        rows_out=counters.rows_out,
        batches=counters.batches,
        reading_batches=counters.reading_batches,
        lag=_lag(last),
        watermark_ms=_watermark_ms(last),
        state_rows=sum(int(op["numRowsTotal"]) for op in operators),
        groups=sum(int(op["numRowsTotal"]) for op in operators if op.get("operatorName") == AGGREGATE),
        late_groups=sum(int(op["numRowsDroppedByWatermark"]) for op in operators),
        offsets={t: {p: end for p, (_, end) in parts.items()} for t, parts in newest["offsets"].items()}
        if newest
        else {},
        error=error,
    )


def write_heartbeat(path: str, heartbeat: Heartbeat) -> None:
    """Write the heartbeat file atomically, with the current process id and time."""
    records.write(path, replace(heartbeat, pid=os.getpid(), at_ms=time.time_ns() // 1_000_000))


Value = Callable[[QueryState], float | None]


class Metrics:
    """A Prometheus endpoint for the newest states. The age of a batch is computed at scrape time."""

    def __init__(self, host: str, port: int) -> None:
        self.states: Sequence[QueryState] = ()
        registry = CollectorRegistry()
        registry.register(self)
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        self.port = int(self._server.server_port)

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics depend on the queries."""
        return []

    def collect(self) -> list[Metric]:
        """Return all metrics of the newest states, one sample per query."""
        gauges: Mapping[str, tuple[str, Value]] = {
            "headrace_query_active": ("1 while the query runs.", lambda s: float(s.active)),
            "headrace_query_generation": ("Generation of the checkpoint.", lambda s: s.generation),
            "headrace_query_batch": ("Newest batch in the sinks.", lambda s: s.batch),
            "headrace_query_batch_age_seconds": (
                "Seconds since the newest batch was written to the sinks.",
                _batch_age,
            ),
            "headrace_query_batch_duration_seconds": (
                "Duration of the newest trigger, in seconds.",
                lambda s: _seconds(s.batch_duration_ms),
            ),
            "headrace_query_trigger_seconds": ("The declared trigger interval.", lambda s: _seconds(s.trigger_ms)),
            "headrace_query_batch_tasks_done": (
                "Finished tasks of the running batch.",
                lambda s: s.work.tasks_done if s.work else None,
            ),
            "headrace_query_batch_tasks": (
                "Known tasks of the running batch.",
                lambda s: s.work.tasks if s.work else None,
            ),
            "headrace_query_still_seconds": ("Seconds since the query last made progress.", _still),
            "headrace_query_taken_per_second": (
                "Offsets read per second, over the newest batches.",
                lambda s: s.taken_rate,
            ),
            "headrace_query_arrived_per_second": (
                "Offsets that arrived per second, over the newest batches.",
                lambda s: s.arrival_rate,
            ),
            "headrace_query_lag_offsets": ("Offsets behind the end of the topics.", lambda s: s.lag),
            "headrace_query_watermark_seconds": (
                "Watermark, seconds since 1970.",
                lambda s: _seconds(s.watermark_ms),
            ),
            "headrace_query_state_rows": ("Rows in the state store.", lambda s: s.state_rows),
            "headrace_query_late_groups": (
                "Groups dropped as late in the newest batch, after partial aggregation: a lower bound of late rows.",
                lambda s: s.late_groups,
            ),
        }
        counters: Mapping[str, tuple[str, Value]] = {
            "headrace_query_rows_in": ("Source records since the driver started.", lambda s: s.rows_in),
            "headrace_query_rows_out": ("Rows written since the driver started.", lambda s: s.rows_out),
            "headrace_query_batches": ("Batches written since the driver started.", lambda s: s.batches),
        }
        families: list[Metric] = []
        tables: tuple[tuple[Callable[..., Family], Mapping[str, tuple[str, Value]]], ...] = (
            (GaugeMetricFamily, gauges),
            (CounterMetricFamily, counters),
        )
        for kind, table in tables:
            for name, (text, value) in table.items():
                family = kind(name, text, labels=["query"])
                for state in self.states:
                    number = value(state)
                    if number is not None:
                        family.add_metric([state.query], number)
                families.append(family)
        return families

    def close(self) -> None:
        """Close the endpoint."""
        self._server.shutdown()
        self._server.server_close()


def _last_progress(query: StreamingQuery) -> Mapping[str, Any]:
    return query.lastProgress or {}


def _known_sources(progress: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the sources of a progress report if all of them have an end offset; otherwise none."""
    sources = [s for s in progress.get("sources", []) if s.get("latestOffset")]
    return sources if all(s.get("endOffset") for s in sources) else []


def _lag(progress: Mapping[str, Any]) -> int | None:
    sources = _known_sources(progress)
    if not sources:
        return None
    return sum(_total(s["latestOffset"]) - _total(s["endOffset"]) for s in sources)


def _total(offsets: str | dict[str, dict[str, int]]) -> int:
    parsed = json.loads(offsets) if isinstance(offsets, str) else offsets
    return sum(int(offset) for parts in parsed.values() for offset in parts.values())


def _watermark_ms(progress: Mapping[str, Any]) -> int | None:
    text = progress.get("eventTime", {}).get("watermark")
    if not text:
        return None
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000) or None


def _batch_age(state: QueryState) -> float | None:
    written = state.batch_written_ms
    return None if written is None else time.time() - written / 1000


def _still(state: QueryState) -> float | None:
    moved = state.moved_ms
    return None if moved is None else max(0.0, time.time() - moved / 1000)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
