"""Limits of one check: the rows that it holds in memory, and the rows that it reads before it leaves the rest to the next."""

from __future__ import annotations

# A step holds its rows in memory and hands them to Great Expectations: 0.3 s and 100 MB for so many.
STEP_ROWS = 100_000
# Windows of one step are at most this many, however few rows they have.
STEP_WINDOWS = 288
# Rows, batches and windows that one check reads, in steps. The rest is counted, and the next check reads it.
CHECK_ROWS = 2_000_000
CHECK_BATCHES = 20_000
CHECK_WINDOWS = 4_032
# Seconds after which the checks of one pipeline begin no further step. Each sink gets one step in any case.
CHECK_SECONDS = 720.0
# Topics are searched from so long before a batch began: its times are the driver's, a record's are the broker's.
CLOCKS_APART_MS = 60_000
# Kafka removes segments as a unit, and a plan runs later than it was made.
RETENTION_MARGIN_MS = 3_600_000
