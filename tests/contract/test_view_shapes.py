"""The shape of a view: a change after which a day may have other rows is named, and any other is not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.contract import view_shapes
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline, SourceColumn


@pytest.fixture(scope="module")
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def of_source(pos: Pipeline, **update: Any) -> Pipeline:
    return pos.model_copy(update={"sources": {"pos": pos.sources["pos"].model_copy(update=update)}})


def of_column(pos: Pipeline, name: str, **update: Any) -> Pipeline:
    columns = pos.sources["pos"].columns
    known = columns.get(name) or SourceColumn(type="string")
    return of_source(pos, columns={**columns, name: known.model_copy(update=update)})


def of_query(pos: Pipeline, **update: Any) -> Pipeline:
    query = pos.queries["tumbling"]
    return pos.model_copy(update={"queries": {**pos.queries, "tumbling": query.model_copy(update=update)}})


def changed(before: Pipeline, after: Pipeline, name: str = "tumbling") -> list[str]:
    return view_shapes.changes(view_shapes.shape(before, name), view_shapes.shape(after, name))


def test_a_change_of_window_key_join_or_accepted_records_is_named(pos: Pipeline, project: Path) -> None:
    aggregate = pos.queries["tumbling"].aggregate
    assert aggregate is not None
    assert aggregate.window is not None
    for update in ({"size": timedelta(hours=1)}, {"slide": timedelta(minutes=1)}, {"offset": timedelta(minutes=1)}):
        window = aggregate.window.model_copy(update=update)
        (phrase, *_) = changed(pos, of_query(pos, aggregate=aggregate.model_copy(update={"window": window})))
        assert phrase.startswith("rows.aggregate.window")
    assert changed(pos, of_query(pos, aggregate=aggregate.model_copy(update={"keys": []})))
    assert changed(pos, of_column(pos, "till", required=True))
    assert changed(pos, of_column(pos, "amount", type="decimal(9,1)"))
    assert changed(pos, of_column(pos, "amount", field="sum"))
    event_time = pos.sources["pos"].event_time
    assert event_time is not None
    assert changed(pos, of_source(pos, event_time=event_time.model_copy(update={"accepted_skew": timedelta(0)})))
    ads = load_pipeline(project / "pipelines" / "ad_attribution.yaml")
    query = ads.queries["attributed"]
    assert query.join is not None
    inner = query.model_copy(update={"join": query.join.model_copy(update={"type": "inner"})})
    other = ads.model_copy(update={"queries": {"attributed": inner}})
    assert changed(ads, other, "attributed") == ['rows.join.type changed from "left_outer" to "inner"']


def test_a_change_after_which_a_day_has_the_same_rows_is_not_named(pos: Pipeline) -> None:
    assert changed(pos, pos) == []
    assert changed(pos, of_column(pos, "till")) == []
    assert changed(of_column(pos, "till", required=True), of_column(pos, "till")) == []
    assert changed(pos, of_source(pos, retention=timedelta(days=90), description="Sales.")) == []
    assert changed(pos, of_query(pos, trigger=timedelta(seconds=30), description="Windows.")) == []
    assert changed(pos, of_query(pos, watermark={"pos": timedelta(days=1)})) == []
