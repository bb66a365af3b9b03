"""The state store of a query, and the Spark settings that select it.

Spark fixes the provider in the checkpoint's first batch and ignores later settings (OffsetSeqMetadata). So the store is
part of the plan fingerprint: another store needs a new generation.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.contract.model import ROCKSDB_KEYS, Column, Pipeline, Query, StateStore

_PROVIDER = "spark.sql.streaming.stateStore.providerClass"
_PROVIDERS: dict[StateStore, str] = {
    "memory": "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider",
    "rocksdb": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
}
ROCKSDB_MEGABYTES = 256
"""Native memory (block cache and write buffers) of all RocksDB stores of one driver together, besides its Java heap."""

# A commit uploads only the changes of its batch (SPARK-43421); memory is bounded for all stores together.
ROCKSDB_CONF = {
    "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
    "spark.sql.streaming.stateStore.rocksdb.boundedMemoryUsage": "true",
    "spark.sql.streaming.stateStore.rocksdb.maxMemoryUsageMB": str(ROCKSDB_MEGABYTES),
}


def store_of(query: Query) -> StateStore | None:
    """Return the state store of a declared query, or None if it keeps no state."""
    if query.aggregate is None and query.join is None:
        return None
    if query.state and query.state.store:
        return query.state.store
    return "rocksdb" if query.state and (query.state.keys or 0) >= ROCKSDB_KEYS else "memory"


def max_groups(pipeline: Pipeline, query: str) -> int | None:
    """Return the maximum number of groups of a declared query by `max_distinct` of its keys; None if it is unbounded."""
    spec = pipeline.queries.get(query)
    if spec is None or spec.aggregate is None or spec.aggregate.window or (spec.watermark and spec.mode != "complete"):
        return None
    places: list[Mapping[str, Column]] = [pipeline.sources[topic].columns for topic in spec.sources]
    places.append(spec.columns)
    most = 1
    for key in spec.aggregate.keys:
        bounds = [columns[key].max_distinct for columns in places if key in columns]
        most *= max((bound for bound in bounds if bound is not None), default=0)
    return most or None


def conf(query: Query) -> dict[str, str]:
    """Return the session settings that a stateful query needs; a query copies its session's settings when it starts."""
    store = store_of(query)
    return {_PROVIDER: _PROVIDERS[store]} if store else {}
