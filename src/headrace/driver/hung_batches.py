"""Find hung batches: batches that run without making progress (`work`).

Observed with Cassandra killed under load, before batches waited for it (ADR 0025): the connector refreshes the schema
before each write, and the Java driver waits for that without a limit. Such a query neither ends nor continues, so the
driver must end.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.driver.queries import Running
from headrace.driver.work import Watcher

STUCK_SECONDS = 180.0
"""Longer than the supervisor's limit, which fences such a driver: this is for drivers without a supervisor."""


def find(watcher: Watcher, running: Sequence[Running], now_ms: int) -> list[Running]:
    """Return the queries whose batch has made no progress for `STUCK_SECONDS` by the watcher's last observation.

    If tasks run on other machines, a task that only computes is invisible, so a batch with a running task may take its time.
    """
    hanging = []
    for entry in running:
        if entry.counters.maintaining:  # Iceberg's jobs have their own job groups, which the watcher does not see
            continue
        work, moved_ms = watcher.work(entry), watcher.moved_ms(entry)
        if work is None or moved_ms is None or (work.blind and work.tasks_done < work.tasks):
            continue
        if now_ms - moved_ms > STUCK_SECONDS * 1000:
            hanging.append(entry)
    return hanging
