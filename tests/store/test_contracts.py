"""The contract of a batch: what decides whether a record is accepted, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline, SourceColumn
from headrace.driver import decode
from headrace.store import contracts, paths, small_files


@pytest.fixture
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def with_source(pos: Pipeline, **update: Any) -> Pipeline:
    return pos.model_copy(update={"sources": {"pos": pos.sources["pos"].model_copy(update=update)}})


def test_what_changes_the_accepted_records_is_another_contract_and_all_else_is_not(pos: Pipeline) -> None:
    source = pos.sources["pos"]
    assert source.event_time is not None
    amount = source.columns["amount"]
    now = contracts.digest(pos, "tumbling")
    for columns in (
        {"amount": amount.model_copy(update={"required": not amount.required})},
        {"amount": amount.model_copy(update={"type": "decimal(14,2)"})},
        {"amount": amount.model_copy(update={"field": "sum"})},
        {"till": SourceColumn(type="string")},
    ):
        assert contracts.digest(with_source(pos, columns={**source.columns, **columns}), "tumbling") != now
    shorter = source.event_time.model_copy(update={"accepted_skew": timedelta(seconds=1)})
    assert contracts.digest(with_source(pos, event_time=shorter), "tumbling") != now
    described = {"amount": amount.model_copy(update={"description": "of a line", "max_distinct": 9})}
    same = with_source(pos, columns={**source.columns, **described}, retention=timedelta(days=1), description="Sales.")
    assert contracts.digest(same, "tumbling") == now


def test_a_noted_contract_decodes_as_the_one_that_was_noted(project: Path, tmp_path: Path) -> None:
    for path in sorted((project / "pipelines").glob("*.yaml")):
        pipeline = load_pipeline(path)
        for name, query in pipeline.queries.items():
            noted = contracts.read(str(tmp_path), pipeline.name, contracts.note(str(tmp_path), pipeline, name))
            assert noted is not None
            for topic in query.sources:
                then, now = decode.make_decoder(noted[topic]), decode.make_decoder(pipeline.sources[topic])
                assert set(then.columns) == set(now.columns)
                assert replace(then, columns=()) == replace(now, columns=())
    assert contracts.read(str(tmp_path), "pos_sales", "unknown") is None


def test_a_note_of_a_later_release_that_this_one_does_not_understand_is_unknown(pos: Pipeline, tmp_path: Path) -> None:
    name = contracts.note(str(tmp_path), pos, "tumbling")
    path = paths.contract(str(tmp_path), pos.name, name)
    noted = small_files.read_json(path)
    assert noted is not None
    small_files.write_json(path, {topic: source | {"later": 1} for topic, source in noted.items()})
    assert contracts.read(str(tmp_path), pos.name, name) is None
