"""Which state store a query uses, and the settings of Spark that choose it.

Spark freezes the provider in the checkpoint's first batch and goes on with it whatever is set later (OffsetSeqMetadata), so
the store is in the plan fingerprint: another one needs a new generation.
"""

from __future__ import annotations

from headrace.contract.model import ROCKSDB_KEYS, Query, StateStore

_PROVIDER = "spark.sql.streaming.stateStore.providerClass"
_PROVIDERS: dict[StateStore, str] = {
    "memory": "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider",
    "rocksdb": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
}
ROCKSDB_MEGABYTES = 256
"""Native memory (block cache and write buffers) of all RocksDB stores of one driver together, beside its Java heap."""

# A commit uploads the changes of its batch, not the database (SPARK-43421); memory is bounded for all stores together.
ROCKSDB_CONF = {
    "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
    "spark.sql.streaming.stateStore.rocksdb.boundedMemoryUsage": "true",
    "spark.sql.streaming.stateStore.rocksdb.maxMemoryUsageMB": str(ROCKSDB_MEGABYTES),
}


def store_of(query: Query) -> StateStore | None:
    """Return the state store of a declared query; None where it keeps no state."""
    if query.aggregate is None and query.join is None:
        return None
    if query.state and query.state.store:
        return query.state.store
    return "rocksdb" if query.state and (query.state.keys or 0) >= ROCKSDB_KEYS else "memory"


def conf(query: Query) -> dict[str, str]:
    """Return what a session needs when a query with state starts; a query takes over its session's settings at its start."""
    store = store_of(query)
    return {_PROVIDER: _PROVIDERS[store]} if store else {}
