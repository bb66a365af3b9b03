"""One record on its way to Kafka."""

from __future__ import annotations

from typing import NamedTuple

NORMAL = "normal"


class Record(NamedTuple):
    """A record as it will be sent. A named tuple, because millions of them are made."""

    topic: str
    key: bytes | None
    value: bytes | None
    planned_at: float  # seconds after the first record of the plan
    kind: str = NORMAL  # how it was made: normal, late, duplicate, malformed:bad_time ...
