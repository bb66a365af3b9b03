"""Find a batch that hangs: it runs, and nothing of it moves (`work`).

Seen with Cassandra killed under load, before batches waited for it (ADR 0025): the connector refreshes the schema before
each write, and the Java driver waits for that without a limit. Such a query neither ends nor goes on, so the driver must.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.streaming.queries import Running
from headrace.streaming.work import Watcher

STUCK_SECONDS = 180.0
"""Later than a supervisor, which fences such a driver with its processes: this is for a driver that nobody supervises."""


def find(watcher: Watcher, running: Sequence[Running], now_ms: int) -> list[Running]:
    """Return the queries whose batch has not moved for `STUCK_SECONDS` by the watcher's last look.

    Where tasks run on other machines, a task that only computes is not seen: a batch with a task at work may take its time.
    """
    found = []
    for each in running:
        if each.counters.tending:  # Iceberg's jobs are in groups of their own, which the watcher does not see
            continue
        work, moved_ms = watcher.work(each), watcher.moved_ms(each)
        if work is None or moved_ms is None or (work.blind and work.tasks_done < work.tasks):
            continue
        if now_ms - moved_ms > STUCK_SECONDS * 1000:
            found.append(each)
    return found
