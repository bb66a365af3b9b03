"""The plan fingerprint: the plan that a query's checkpoint was made with. A start with an unsafe change is refused.

Spark defines what may change on a checkpoint (Structured Streaming guide, "Recovery semantics after changes in a
streaming query"). The fingerprint holds only what may NOT change: no trigger, no rate limit, no watermark delay.

It stays a JSON object, unlike other documents (ADR 47): a mark that this release does not know must refuse the start.
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
    """Return what the file declares about a query's state, as plain JSON values.

    Keys: sources (topic -> column types, event time), watermarked, mode, aggregate, join, dimensions, columns,
    state_partitions (stateful queries only: SPARK-19873 fixes them in the checkpoint), state_store (only for rocksdb:
    Spark fixes it as well, and older releases, which know only the memory store, must refuse such a checkpoint).
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


def _source(source: Source) -> dict[str, dict[str, str] | str | None]:
    return {
        "columns": {name: _read(name, column) for name, column in sorted(source.columns.items())},
        "event_time": source.event_time.column if source.event_time else None,
    }


def _read(name: str, column: SourceColumn) -> str:
    """Return a column's definition: its type, and the path of its field if that differs from its name."""
    path = column.path(name)
    return column.type if path == (name,) else f"{column.type} from {json.dumps(path, ensure_ascii=False)}"


def _aggregate(pipeline: Pipeline, query: str) -> dict[str, list[str] | dict[str, str] | None] | None:
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


def accepting(pipeline: Pipeline, topics: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what decides which records of these topics are accepted, and as which values, as plain JSON values.

    Topic -> a source in the form of the pipeline file: key, columns and event time.
    """
    return {topic: _accepting(pipeline.sources[topic]) for topic in sorted(topics)}


def _accepting(source: Source) -> dict[str, Any]:
    event_time = source.event_time
    columns = {
        name: {"type": column.type, "required": column.required, "field": list(column.path(name))}
        for name, column in sorted(source.columns.items())
    }
    skew = event_time and format_duration(event_time.accepted_skew)
    return {
        "key": source.key,
        "columns": columns,
        "event_time": event_time and {"column": event_time.column, "accepted_skew": skew},
    }


def archive_declared(topic: str) -> dict[str, str]:
    """Return the fingerprint of an archive query: it stores raw records, so only its topic matters."""
    return {"archive": topic}


def added_columns(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return topic -> columns of its source that `old`, a checkpoint's fingerprint, lacks."""
    before, now = old.get("sources", {}), new.get("sources", {})
    added = {
        topic: now[topic]["columns"].keys() - before[topic]["columns"].keys() for topic in now.keys() & before.keys()
    }
    return {topic: columns for topic, columns in added.items() if columns}


def without(new: Mapping[str, Any], unused: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Return a fingerprint without the given columns (by topic), which no query reads: the checkpoint holds nothing of them."""
    sources = {
        topic: source | {"columns": {n: c for n, c in source["columns"].items() if n not in unused.get(topic, ())}}
        for topic, source in new["sources"].items()
    }
    return {**new, "sources": sources}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each value that differs, with its dotted key; empty if a start is safe.

    Keys that an older release did not record cannot be compared and never cause a refusal.
    """
    known = {key: value for key, value in new.items() if key in old or key not in _ADDED_LATER}
    return sorted(_differences("", old, known))


def _differences(key: str, old: Any, new: Any) -> list[str]:  # noqa: ANN401 - JSON values
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        phrases = []
        for name in {*old, *new}:
            inner = f"{key}.{name}" if key else str(name)
            if name not in old:
                phrases.append(f"{inner} was added as {_text(new[name])}")
            elif name not in new:
                phrases.append(f"{inner} was removed (it was {_text(old[name])})")
            else:
                phrases += _differences(inner, old[name], new[name])
        return phrases
    return [] if old == new else [f"{key} changed from {_text(old)} to {_text(new)}"]


def _text(value: Any) -> str:  # noqa: ANN401 - JSON values
    return "nothing" if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a fingerprint, independent of key order."""
    text = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
