"""Exit codes of a driver. The supervisor decides by them: restart, look for a second driver, or stop."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of a driver."""

    FINISHED = 0  # stopped on request, and every query ended between two batches
    CUT_OFF = 10  # stopped on request, but a batch exceeded the grace period and was aborted: it will be replayed
    TRANSIENT = 20  # a query failed because of an external system: restart
    DUPLICATE_WRITER = 21  # another driver writes the same checkpoint: find it before any restart
    DAMAGED = 22  # the checkpoint, the state or Kafka's log is damaged or missing: a restart cannot repair it
    REFUSED = 23  # the start was refused: unsafe plan change, no direct join, invalid contract
    LOCKED = 24  # another driver of this pipeline runs on this machine
    OUT_OF_MEMORY = 25  # Java heap, direct memory, garbage collection overhead, or the kernel's OOM killer
    DISK_FULL = 26  # a file could not be written for lack of space
    WORKER_LOST = 27  # a Python worker exited in the middle of a task
    STORE_AWAY = 28  # Kafka or Cassandra does not answer: starts are retried without using the restart budget


HELPS = {
    Exit.OUT_OF_MEMORY: (
        "raise driver.memory in the pipeline file; or lower driver.max_offsets_per_trigger there, and give up the batch that is "
        "planned already (runbook CRASH_LOOP)"
    ),
    Exit.DISK_FULL: "free space on the disk of the storage root and of the drivers' scratch files (`headrace checkpoint prune`)",
    Exit.WORKER_LOST: (
        "the driver's log shows what ended it; if it shows nothing the cause was memory: give the machine or pod more, or "
        "lower driver.max_offsets_per_trigger in the pipeline file and give up the batch that is planned already (runbook "
        "CRASH_LOOP)"
    ),
}
"""The remedy for exits that the same batch would cause again in the next driver."""


TOLD_TO_STOP = "the driver was told to stop before this batch began"
"""Raised by a batch that meets the closed gate: a consequence of another query's end, never its cause."""
