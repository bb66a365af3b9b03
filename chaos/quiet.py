"""Waits until every query has read all records, and compares every sink then."""

from __future__ import annotations

import time
from collections.abc import Callable

from chaos import read
from chaos.check import Checker, Difference
from chaos.ground import PIPELINES, Ground
from chaos.load import Load

HEAL_SECONDS = 900.0  # a deadline, not a measurement
TRIGGER_SECONDS = 12.0
DECLARED = {
    "pos_sales": ("items", "product_totals", "tumbling", "sliding", "final_windows", "leaderboard"),
    "web_events": ("files", "topic"),
    "sensors": ("history",),
    "user_logins": ("last_login",),
    "ad_attribution": ("attributed",),
}
QUERIES = {
    pipeline: dict.fromkeys(queries, PIPELINES[pipeline])
    | {f"archive_{topic}": (topic,) for topic in PIPELINES[pipeline]}
    for pipeline, queries in DECLARED.items()
}
"""Pipeline -> query -> the topics that it reads."""


def compared(ground: Ground, load: Load, checker: Checker) -> tuple[str, list[Difference], int]:
    """Pause the load until every query has read everything. Return what is stuck, the differences, and the record count."""
    load.pause()
    try:
        return compared_now(ground, checker)
    finally:
        load.resume()


def compared_now(ground: Ground, checker: Checker) -> tuple[str, list[Difference], int]:
    """Return what `compared` returns. The load is paused."""
    while True:
        stuck, ends = await_quiet(ground, checker)
        differences, records = ([], 0) if stuck else checker.run()
        # Kafka ends a transaction that its own death interrupted at any time: then no query has read those records yet.
        if stuck or not differences or checker.ends() == ends:
            return stuck, differences, records


def await_quiet(ground: Ground, checker: Checker) -> tuple[str, dict[str, dict[int, int]]]:
    """Wait until each query has read its entire topic.

    Returns what is missing if the deadline passes, otherwise "", and the ends of the topics, as `Checker.ends` does.
    """
    behind = "Kafka's ends"
    ends: dict[str, dict[int, int]] = {}

    def quiet() -> bool:
        nonlocal behind, ends
        try:
            ends = checker.ends()
        except Exception as error:  # Kafka is restarting
            behind = f"Kafka's ends: {error}"
            return False
        reads = [
            (pipeline, query, topic)
            for pipeline in ground.pipelines
            for query, topics in QUERIES[pipeline].items()
            for topic in topics
        ]
        for pipeline, query, topic in reads:
            taken = read.reached(ground.storage, pipeline, query, topic)
            # A query that has read more than there is has not begun with a topic that was made again.
            if any(taken.get(partition, 0) != end for partition, end in ends[topic].items()):
                behind = f"{pipeline}.{query}: {taken} of {ends[topic]}"
                return False
        return True

    try:
        # Twice: a batch without data follows the last one and closes windows.
        wait_until(quiet, HEAL_SECONDS, "every query has read all records")
        time.sleep(TRIGGER_SECONDS)
        wait_until(quiet, HEAL_SECONDS, "every query has read all records")
    except TimeoutError as error:
        status = ground.headrace("stream", "status").stdout
        return f"{error}; {behind}\n{status}", ends
    return "", ends


def wait_until(fact: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a condition until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seconds:.0f} s passed while waiting until {what}")
        time.sleep(1)
