"""When a driver that runs counts as silent: the one rule of the supervisor's verdict and of `stream status`, and the limits."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.store.driver_files import Heartbeat


@dataclass(frozen=True)
class Limits:
    """Grace periods in seconds, and the restart budget.

    A heartbeat comes every 3 s: ten missing ones are a frozen driver (`silent`). A driver that ends has its grace time and
    Spark's stop (`end`). A desired state younger than `head_start` is still being applied by whoever wrote it. A fault that
    leads to a fence is believed after `confirm`: a machine that slept wakes up with old heartbeats. A batch may take as long
    as it needs while any part of it moves (`driver.work`), but it may not stand still for `still`.
    """

    silent: float = 30
    start: float = 300
    end: float = 90
    head_start: float = 20
    confirm: float = 4
    stall: float = 120
    still: float = 100
    unseen: int = 4  # times `stall`: for a batch whose heartbeat does not say whether it moves
    restarts: int = 8
    same_ends: int = 3  # in a row of one class of `HELPS`: the same batch ends each driver
    stable: float = 600
    first_wait: float = 5
    longest_wait: float = 300
    away_wait: float = 15  # between two starts while a store is away: they cost nothing of the budget


LIMITS = Limits()


def silent_seconds(heartbeat: Heartbeat, moved_ms: int, now_ms: int, limits: Limits = LIMITS) -> float | None:
    """Return for how long a driver has been silent, None while it is not: it gives no heartbeat and commits no batch.

    `moved_ms` is when a query of it was last observed to have committed a batch (0: never).
    """
    age = (now_ms - max(heartbeat.at_ms, moved_ms)) / 1000
    return age if age > limits.silent else None
