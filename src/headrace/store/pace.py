"""How much a driver reads at once. After a driver ran out of memory, the next ones read less (ADR 0044).

Batches are bounded by the number of records; Spark 3.5 and Kafka's consumer cannot bound uncompressed bytes
(SPARK-51316 came with Spark 4). Records of 1 MB need steps of a few records, but records of 1 kB would spend most of
their CPU time on such steps. So the steps are large until a driver runs out of memory, and small afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.contract.exit_codes import Exit
from headrace.contract.model import Pipeline
from headrace.store import paths, small_files

POLL_RECORDS = "spark.headrace.poll.records"
"""The setting for the number of records that a Kafka consumer returns at once; it holds them uncompressed."""

ARROW_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"

SLOWED_BY = frozenset({Exit.OUT_OF_MEMORY.name, Exit.WORKER_LOST.name})
"""Exit codes after which the next driver reads less."""


@dataclass(frozen=True)
class Pace:
    """Bounds of one level: `share` of the declared offsets per batch, records per poll, rows per step to and from Python."""

    share: float
    poll_records: int
    arrow_rows: int

    @property
    def conf(self) -> dict[str, str]:
        """Return the Spark settings of these bounds."""
        return {POLL_RECORDS: str(self.poll_records), ARROW_ROWS: str(self.arrow_rows)}


LEVELS = (Pace(1.0, 500, 20_000), Pace(0.05, 4, 64), Pace(0.0025, 1, 8))
"""From the normal bounds to the smallest. The second holds 64 MB of 1 MB records per task, the third 8 MB."""


def level(root: str, pipeline: str) -> int:
    """Return the level of the pipeline's next driver: 0, or higher after drivers ran out of memory."""
    kept = small_files.read_json(paths.pace(root, pipeline)) or {}
    return min(int(kept.get("level", 0)), len(LEVELS) - 1)


def slow_down(root: str, pipeline: str, life: str, end: str) -> None:
    """Record that the driver with instance id `life` ran out of memory: the next one runs at the next level.

    Both the driver and the supervisor may report the same `end`; it counts once.
    """
    kept = small_files.read_json(paths.pace(root, pipeline)) or {}
    if kept.get("life") == life:
        return
    now_ms = time.time_ns() // 1_000_000
    content = {"level": min(int(kept.get("level", 0)) + 1, len(LEVELS) - 1), "life": life, "end": end, "at_ms": now_ms}
    small_files.write_json(paths.pace(root, pipeline), content)


def restore(root: str, pipeline: str) -> None:
    """Reset the pipeline's next driver to the normal bounds, because an operator stopped this one."""
    if level(root, pipeline):
        small_files.write_json(paths.pace(root, pipeline), {"level": 0})


def applied(pipeline: Pipeline, now: int) -> Pipeline:
    """Return the pipeline with the offsets per batch of a level, at least 1."""
    offsets = max(1, int(pipeline.driver.max_offsets_per_trigger * LEVELS[now].share))
    driver = pipeline.driver.model_copy(update={"max_offsets_per_trigger": offsets})
    return pipeline.model_copy(update={"driver": driver})


def describe(conf: Mapping[str, str], pipeline: Pipeline) -> str:
    """Return the bounds in force as one line for the log."""
    return (
        f"at most {pipeline.driver.max_offsets_per_trigger} offsets per batch, {conf[POLL_RECORDS]} records per poll, "
        f"{conf[ARROW_ROWS]} rows per Python step"
    )
