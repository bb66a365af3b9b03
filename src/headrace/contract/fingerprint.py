"""The plan fingerprint: what a query's checkpoint was made with. A start with an unsafe change is refused.

What may change on a checkpoint and what may not is Spark's rule (Structured Streaming guide, "Recovery semantics after
changes in a streaming query"). Only what may NOT change is in here: no trigger, no rate limit, no watermark delay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from headrace.contract import state
from headrace.contract.model import Pipeline, Source, SourceColumn, format_duration

_ADDED_LATER = frozenset({"state_inputs"})


def declared(pipeline: Pipeline, query: str) -> dict[str, Any]:
    """Return what the file says of a declared query's state, as plain JSON values.

    Keys: sources (topic -> column types, event time), watermarked, mode, aggregate, join, dimensions, columns,
    state_partitions (stateful queries only: SPARK-19873 freezes them in the checkpoint), state_store (where it is rocksdb:
    Spark freezes it as well, and an earlier Headrace, which knows the memory store alone, must refuse such a checkpoint).
    """
    spec = pipeline.queries[query]
    stateful = spec.aggregate is not None or spec.join is not None
    return {
        "sources": {topic: _source(pipeline.sources[topic]) for topic in sorted(spec.sources)},
        "watermarked": sorted(spec.watermark),
        "mode": spec.mode,
        "aggregate": _aggregate(pipeline, query),
        "join": spec.join.model_dump(mode="json") if spec.join else None,
        "columns": {name: column.type for name, column in spec.columns.items()},
        "state_partitions": pipeline.driver.state_partitions if stateful else None,
    } | ({"state_store": "rocksdb"} if state.store_of(spec) == "rocksdb" else {})


def _source(source: Source) -> dict[str, Any]:
    return {
        "columns": {name: _read(name, column) for name, column in sorted(source.columns.items())},
        "event_time": source.event_time.column if source.event_time else None,
    }


def _read(name: str, column: SourceColumn) -> str:
    """Return what a column is made of: its type, and the path of its field where that is not its name."""
    path = column.path(name)
    return column.type if path == (name,) else f"{column.type} from {json.dumps(path, ensure_ascii=False)}"


def _aggregate(pipeline: Pipeline, query: str) -> dict[str, Any] | None:
    aggregate = pipeline.queries[query].aggregate
    if aggregate is None:
        return None
    window = aggregate.window
    return {
        "keys": list(aggregate.keys),
        "window": {
            "column": window.column,
            "size": format_duration(window.size),
            "slide": format_duration(window.slide or window.size),
        }
        | ({"offset": format_duration(window.offset)} if window.offset else {})
        if window
        else None,
    }


def archive_declared(topic: str) -> dict[str, Any]:
    """Return the fingerprint of an archive query: raw records, so its topic is all that counts."""
    return {"archive": topic}


def added_columns(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return by topic the columns of its source that `old`, a checkpoint's, does not have."""
    there, now = old.get("sources", {}), new.get("sources", {})
    found = {
        topic: now[topic]["columns"].keys() - there[topic]["columns"].keys() for topic in now.keys() & there.keys()
    }
    return {topic: columns for topic, columns in found.items() if columns}


def without(new: Mapping[str, Any], unused: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Return a fingerprint without columns (by topic) that no query reads: a checkpoint holds nothing of them."""
    sources = {
        topic: source | {"columns": {n: c for n, c in source["columns"].items() if n not in unused.get(topic, ())}}
        for topic, source in new["sources"].items()
    }
    return {**new, "sources": sources}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each value that differs, with its dotted key; empty if a start is safe.

    What an earlier Headrace did not write down cannot be compared: a checkpoint of its is not refused for that.
    """
    known = {key: value for key, value in new.items() if key in old or key not in _ADDED_LATER}
    return sorted(_differences("", old, known))


def _differences(key: str, old: Any, new: Any) -> list[str]:  # noqa: ANN401 - JSON values
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for name in {*old, *new}:
            inner = f"{key}.{name}" if key else str(name)
            if name not in old:
                found.append(f"{inner} was added as {_text(new[name])}")
            elif name not in new:
                found.append(f"{inner} was removed, it was {_text(old[name])}")
            else:
                found += _differences(inner, old[name], new[name])
        return found
    return [] if old == new else [f"{key} changed from {_text(old)} to {_text(new)}"]


def _text(value: Any) -> str:  # noqa: ANN401 - JSON values
    return "nothing" if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a fingerprint; the order of keys does not count."""
    text = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
