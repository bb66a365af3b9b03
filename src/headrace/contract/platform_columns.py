"""The columns that the platform adds to a record, with the one prefix that the loader refuses to users (ADR 51).

No other module spells such a name. Python workers of Spark import this module, so it imports nothing.
"""

from __future__ import annotations

from typing import Final

OWN_PREFIX: Final = "headrace_"
SOURCE: Final = f"{OWN_PREFIX}source"
"""The coordinates of a row's record: topic, partition, offset."""
KAFKA_TIMESTAMP: Final = f"{OWN_PREFIX}kafka_timestamp"
RAW: Final = f"{OWN_PREFIX}raw"
"""The record's value as it was read; only for queries that can refuse a row after decoding."""
OLD_NAMES: Final = {name: name.removeprefix(OWN_PREFIX) for name in (SOURCE, KAFKA_TIMESTAMP, RAW)}
"""Their names in releases whose loader refused these to users; checkpoints of such releases record them."""
