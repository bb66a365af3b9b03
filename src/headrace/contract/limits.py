"""What the sinks can hold: each limit once, with the source of its rule. docs/reference/limits.md says it for people.

A row beyond a limit is a dead letter (`streaming.refusals`). The numbers hold for every installation alike, so a row
that one takes is a row that all take.
"""

from __future__ import annotations

from headrace.contract.kafka import WRITTEN_RECORD_BYTES

CASSANDRA_KEY_BYTES = 65_535
"""Bytes of a partition key, and of all clustering columns together: Cassandra writes their length in 16 bits
(FBUtilities.MAX_UNSIGNED_SHORT, in Validation.validateKey and Clustering.validate)."""

CASSANDRA_KEY_PART_BYTES = 3
"""What Cassandra adds to each column of a partition key of several columns (CompositeType: two bytes of length, one
that ends it)."""

CASSANDRA_ROW_BYTES = 4 * 1_048_576 - 131_072
"""Bytes of a row. Cassandra refuses a mutation of more than half a segment of its commit log (`max_mutation_size`);
our smallest segment has 8 MiB (`headrace up`). The rest is left to the key's and the cells' own overhead."""

CASSANDRA_CELL_BYTES = 32
"""What a cell costs beside its value, at most: its name's place, its write time, its ttl, its length."""

KAFKA_RECORD_BYTES = WRITTEN_RECORD_BYTES - 4_096
"""Bytes of key, value and identity of a record that we write. The producer refuses more than `max.request.size`, before
compression (KAFKA-4169); the rest is left to our headers and the record's overhead."""

FIRST_YEAR, LAST_YEAR = 1, 9999
"""Years of a timestamp or date: what RFC 3339 writes with four digits, and what Python's and Arrow's readers take."""

LETTER_KEY_BYTES = 65_536
"""Bytes of a dead letter's key that are kept where the letter as a whole is too large."""
