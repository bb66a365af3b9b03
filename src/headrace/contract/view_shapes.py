"""The shape of a batch view: what of the pipeline file decides the rows of a day. Days of two shapes are never merged.

Columns are not part of it: the table of a view is altered with them (`batch.views`). Neither is the code of a transform, which
the file does not know: after a correction of it, compute the days again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.contract import batch_views, fingerprint
from headrace.contract.model import Pipeline

Shape = dict[str, Any]
"""`rows`: key, grouping and join; `sources`: topic -> which records count, and as which values. Plain JSON values."""


def shape(pipeline: Pipeline, name: str) -> Shape:
    """Return the shape of a query's view."""
    query = pipeline.queries[name]
    declared = fingerprint.declared(pipeline, name)
    rows = {"key": batch_views.key(query), "aggregate": declared["aggregate"], "join": declared["join"]}
    return {"rows": rows, "sources": fingerprint.accepting(pipeline, query.sources)}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each change between two shapes after which a day may have other rows; empty if it has the same.

    A new optional column, or a required one that becomes optional, changes no day: the archive's verdict on arrival decides about
    its records.
    """
    before, now = old.get("sources", {}), new.get("sources", {})
    relaxed = {topic: _as_narrow(before.get(topic, {}), source) for topic, source in now.items()}
    return fingerprint.differences(old, {"rows": new["rows"], "sources": relaxed})


def _as_narrow(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source without the changes that let only more records through."""
    known = old.get("columns", {})
    columns = {}
    for name, column in new["columns"].items():
        if name in known:
            columns[name] = column | {"required": column["required"] or known[name]["required"]}
        elif column["required"]:
            columns[name] = column
    return {**new, "columns": columns}
