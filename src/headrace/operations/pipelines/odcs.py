"""A pipeline's contract in the form of the Open Data Contract Standard, for catalogues that read it.

The standard: bitol-io/open-data-contract-standard, version 3.1.0 (`DataContract`). The contract lists what the pipeline offers:
each sink with its columns, keys, promised freshness and expectations.
"""

from __future__ import annotations

from typing import Any

import yaml

from headrace.contract.checked_sinks import CheckedSink, description_of, sinks_of
from headrace.contract.model import CassandraSink, Column, Pipeline
from headrace.operations.quality import suites
from headrace.operations.quality.expectation_words import in_words
from headrace.operations.quality.suites import Suite
from headrace.store.records import Json

VERSION = "v3.1.0"
_PHYSICAL = {"cassandra": "table", "kafka": "topic", "files": "file", "iceberg": "table"}
_LOGICAL = {
    "string": "string",
    "int": "integer",
    "long": "integer",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "date": "date",
}


def contract(pipeline: Pipeline) -> Json:
    """Return a pipeline's contract as JSON values, by the names of the standard."""
    sinks, known = sinks_of(pipeline), suites.suites(pipeline)
    return {
        "apiVersion": VERSION,
        "kind": "DataContract",
        "id": f"headrace.{pipeline.name}",
        "name": pipeline.name,
        "version": str(pipeline.version),
        "status": "active",
        "description": {"purpose": pipeline.description},
        "team": {"name": pipeline.owner},
        "schema": [_object(pipeline, sink, known[sink.name]) for sink in sinks],
        "slaProperties": [
            {
                "property": "freshness",
                "value": pipeline.slo.freshness.total_seconds(),
                "unit": "s",
                "element": sink.name,
                "description": "The highest age of the newest batch while records arrive.",
            }
            for sink in sinks
        ],
        "customProperties": [{"property": "sources", "value": [source.topic for source in pipeline.sources.values()]}],
    }


def text(pipeline: Pipeline) -> str:
    """Return the contract as YAML."""
    return str(yaml.safe_dump(contract(pipeline), sort_keys=False, allow_unicode=True, width=120))


def _object(pipeline: Pipeline, sink: CheckedSink, suite: Suite) -> Json:
    about = description_of(pipeline, sink)
    return {
        "name": sink.name,
        "logicalType": "object",
        "physicalName": ".".join(sink.place) or f"{sink.pipeline}/{sink.query}",
        "physicalType": _PHYSICAL[sink.kind],
        **({"description": about} if about else {}),
        "properties": [_property(sink, name, column) for name, column in sink.columns.items()],
        "quality": [
            {
                "type": "custom",
                "engine": "great-expectations",
                "implementation": {"type": expectation.type, "kwargs": expectation.kwargs},
                "name": in_words(expectation.type, expectation.kwargs),
                "description": expectation.meta.get("why", ""),
                "severity": expectation.severity,
            }
            for expectation in suite.expectations
        ],
    }


def _property(sink: CheckedSink, name: str, column: Column) -> Json:
    described: dict[str, Any] = {
        "name": name,
        "logicalType": _logical(column.type),
        "physicalType": column.type,
        "required": column.required,
    }
    if name in sink.key:
        described |= {"primaryKey": True, "primaryKeyPosition": sink.key.index(name) + 1}
    if isinstance(sink.declared, CassandraSink) and name in sink.declared.partition_key:
        described |= {"partitioned": True, "partitionKeyPosition": sink.declared.partition_key.index(name) + 1}
    return described | ({"description": column.description} if column.description else {})


def _logical(kind: str) -> str:
    """Return the standard's logical type of a column's type. A decimal is a number."""
    return "number" if kind.startswith("decimal") else _LOGICAL[kind]
