"""One record to be sent to Kafka."""

from __future__ import annotations

from typing import NamedTuple

NORMAL = "normal"


class Record(NamedTuple):
    """A record as it will be sent. A named tuple, because millions of them are created."""

    topic: str
    key: bytes | None
    value: bytes | None
    planned_at: float  # seconds after the first record of the plan
    kind: str = NORMAL  # how it was generated: normal, late, duplicate, malformed:bad_time ...
