"""Limits of the sinks: each defined once, with its source. docs/reference/limits.md documents them.

A row that exceeds a limit is a dead letter (`driver.refusals`). The numbers are the same for every installation, so
a row is either accepted by all or by none.
"""

from __future__ import annotations

from headrace.contract.kafka import WRITTEN_RECORD_BYTES

CASSANDRA_KEY_BYTES = 65_535
"""Bytes of a partition key, and of all clustering columns together: Cassandra stores their length in 16 bits
(FBUtilities.MAX_UNSIGNED_SHORT, in Validation.validateKey and Clustering.validate)."""

CASSANDRA_KEY_PART_BYTES = 3
"""Bytes that Cassandra adds to each column of a composite partition key (CompositeType: two bytes of length, one
terminator)."""

CASSANDRA_ROW_BYTES = 4 * 1_048_576 - 131_072
"""Bytes of a row. Cassandra refuses a mutation larger than half a commit log segment (`max_mutation_size`); our smallest
segment is 8 MiB (`headrace up`). The remainder is reserved for the overhead of the key and the cells."""

CASSANDRA_CELL_BYTES = 32
"""Maximum overhead of a cell: column index, write time, ttl, length."""

KAFKA_RECORD_BYTES = WRITTEN_RECORD_BYTES - 4_096
"""Bytes of key, value and identity of a record that we write. The producer refuses more than `max.request.size`, before
compression (KAFKA-4169); the remainder is reserved for our headers and the record's overhead."""

FIRST_YEAR, LAST_YEAR = 1, 9999
"""Years of a timestamp or date: RFC 3339 writes them with four digits, and Python's and Arrow's readers accept them."""

_RESERVED = """
add allow alter and apply asc authorize batch begin by columnfamily create delete desc describe drop entries
execute from full grant if in index infinity insert into is keyspace limit materialized modify nan norecursive
not null of on or order primary rename revoke schema select set table to token truncate unlogged update use
using view where with
"""
CQL_RESERVED_WORDS = frozenset(_RESERVED.split())
"""Words that CQL accepts as names only in quotes (Cassandra 5.0, reserved_keywords.txt). The connector's direct join uses the
name of each key column without quotes, so a key column of a dimension must not have such a name."""

LETTER_KEY_BYTES = 65_536
"""Bytes of a dead letter's key that are kept if the letter as a whole is too large."""
