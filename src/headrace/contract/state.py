"""Which state store a query uses, and the settings of Spark that choose it.

Spark freezes the provider in the checkpoint's first batch and goes on with it whatever is set later (OffsetSeqMetadata), so
the store is in the plan fingerprint: another one needs a new generation.
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


def max_groups(pipeline: Pipeline, query: str) -> int | None:
    """Return how many groups a declared query may hold by `max_distinct` of its keys; None where nothing bounds them so."""
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
    """Return what a session needs when a query with state starts; a query takes over its session's settings at its start."""
    store = store_of(query)
    return {_PROVIDER: _PROVIDERS[store]} if store else {}
