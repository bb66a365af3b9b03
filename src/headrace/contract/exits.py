"""How a driver ended, as an exit code. The supervisor decides by it: restart, look for a twin, or stop."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of a driver."""

    FINISHED = 0  # told to stop, and every query ended between two batches
    CUT_OFF = 10  # told to stop, but a batch ran past the grace time and was broken off: it will be replayed
    TRANSIENT = 20  # a query ended by a fault of a system outside: start again
    DUPLICATE_WRITER = 21  # another driver writes the same checkpoint: find it before any restart
    DAMAGED = 22  # checkpoint, state or Kafka's log is damaged or gone: a restart cannot mend it
    REFUSED = 23  # the start was refused: unsafe plan change, no direct join, bad contract
    LOCKED = 24  # another driver of this pipeline lives on this machine
    OUT_OF_MEMORY = 25  # Java heap, direct memory, a collector that does nothing else, or the kernel's OOM kill
    DISK_FULL = 26  # a file could not be written for want of space
    WORKER_LOST = 27  # a Python worker ended in the middle of a task
    STORE_AWAY = (
        28  # Kafka or Cassandra does not answer: a start costs nothing of the budget, and is tried until it does
    )


HELPS = {
    Exit.OUT_OF_MEMORY: "raise driver.memory, or lower driver.max_offsets_per_trigger, in the pipeline's file",
    Exit.DISK_FULL: "make room on the disk of the storage root and of the drivers' scratch files (`headrace checkpoint prune`)",
    Exit.WORKER_LOST: (
        "the driver's log says what ended it; if nothing does it was memory: lower driver.max_offsets_per_trigger in the "
        "pipeline's file, or give the machine or pod more"
    ),
}
"""What leads on where the same batch would end the next driver in the same way."""


TOLD_TO_STOP = "the driver was told to stop before this batch began"
"""What a batch raises that comes to the closed gate: a consequence of another query's end, never its cause."""
