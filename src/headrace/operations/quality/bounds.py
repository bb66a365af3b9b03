"""Limits of one check: the rows that it holds in memory, and the rows that it reads before it leaves the rest to the next."""

from __future__ import annotations

# A step keeps its rows in memory and passes them to Great Expectations: 0.3 s and 100 MB for this many rows.
STEP_ROWS = 100_000
# The most windows in one step, even if they have few rows.
STEP_WINDOWS = 288
# Rows, batches and windows that one check reads, in steps. The rest is counted, and the next check reads it.
CHECK_ROWS = 2_000_000
CHECK_BATCHES = 20_000
CHECK_WINDOWS = 4_032
# Seconds after which the checks of one pipeline begin no further step. Each sink gets one step in any case.
CHECK_SECONDS = 720.0
# Topics are searched from this long before a batch began: batch times are the driver's, record times are the broker's.
CLOCKS_APART_MS = 60_000
# Kafka removes complete segments, and a plan runs later than it was made.
RETENTION_MARGIN_MS = 3_600_000
