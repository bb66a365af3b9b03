"""A contract has the names and types of the Open Data Contract Standard 3.1.0, and every sink of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.contract.checked_sinks import sinks_of
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.operations.pipelines import odcs
from headrace.operations.quality import suites
from headrace.store.records import Json

# The keys and values that the standard allows (schema/odcs-json-schema-v3.1.0.json), as far as they are used here.
CONTRACT = {
    "apiVersion", "kind", "id", "name", "version", "status", "description", "team", "schema", "slaProperties",
    "customProperties",
}  # fmt: skip
OBJECT = {"name", "logicalType", "physicalName", "physicalType", "description", "properties", "quality"}
PROPERTY = {
    "name", "logicalType", "physicalType", "required", "primaryKey", "primaryKeyPosition", "partitioned",
    "partitionKeyPosition", "description",
}  # fmt: skip
LOGICAL = {"string", "date", "timestamp", "time", "number", "integer", "object", "array", "boolean"}
CHECK = {"type", "engine", "implementation", "name", "description", "severity"}
SLA = {"property", "value", "unit", "element", "description"}


@pytest.fixture(params=["ad_attribution", "pos_sales", "user_logins", "web_events"])
def pipeline(request: pytest.FixtureRequest, project: Path) -> Pipeline:
    return load_pipelines(project / "pipelines")[request.param]


def test_every_key_is_one_of_the_standard_and_what_it_requires_is_there(pipeline: Pipeline) -> None:
    contract = odcs.contract(pipeline)
    assert set(contract) == CONTRACT
    assert (contract["kind"], contract["apiVersion"]) == ("DataContract", "v3.1.0")
    assert all(isinstance(contract[name], str) for name in ("version", "apiVersion", "kind", "id", "status"))
    for described in contract["schema"]:
        assert {"name", "properties", "quality"} <= set(described) <= OBJECT
        for column in described["properties"]:
            assert {"name", "logicalType", "physicalType", "required"} <= set(column) <= PROPERTY
            assert column["logicalType"] in LOGICAL
        for check in described["quality"]:
            assert set(check) == CHECK
            assert check["type"] == "custom", "of custom checks the standard requires engine and implementation"
    assert all(set(promise) == SLA for promise in contract["slaProperties"])


def test_every_sink_is_there_with_its_key_and_all_of_its_expectations(pipeline: Pipeline) -> None:
    objects = {described["name"]: described for described in odcs.contract(pipeline)["schema"]}
    assert set(objects) == {sink.name for sink in sinks_of(pipeline)}
    for sink in sinks_of(pipeline):
        described = objects[sink.name]
        keys = {
            column["name"]: column["primaryKeyPosition"] for column in described["properties"] if "primaryKey" in column
        }
        named = [name for name in sink.key if name in sink.columns]
        assert keys == {name: sink.key.index(name) + 1 for name in named}
        assert len(described["quality"]) == len(suites.suite_of(pipeline, sink.name).expectations)


def test_the_text_is_yaml_of_the_same_contract(pipeline: Pipeline) -> None:
    assert yaml.safe_load(odcs.text(pipeline)) == _plain(odcs.contract(pipeline))


def _plain(value: Any) -> Any:
    """Return a value as YAML reads it: lists in place of tuples."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    ("kind", "logical"),
    [
        ("string", "string"), ("int", "integer"), ("long", "integer"), ("boolean", "boolean"),
        ("timestamp", "timestamp"), ("date", "date"), ("decimal(12,2)", "number"),
    ],
)  # fmt: skip
def test_types_of_the_contract_have_logical_types_of_the_standard(kind: str, logical: str, project: Path) -> None:
    pipeline = load_pipelines(project / "pipelines")["pos_sales"]
    query = pipeline.queries["items"]
    column = query.columns["amount"].model_copy(update={"type": kind})
    changed = query.model_copy(update={"columns": {**query.columns, "amount": column}})
    described: Json = odcs.contract(pipeline.model_copy(update={"queries": {**pipeline.queries, "items": changed}}))
    (sink,) = [entry for entry in described["schema"] if entry["name"] == "kafka.pos_items"]
    (amount,) = [entry for entry in sink["properties"] if entry["name"] == "amount"]
    assert (amount["logicalType"], amount["physicalType"]) == (logical, kind)
