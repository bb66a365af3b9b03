"""The serving view in pages: every row once and in order, also while rows are written and the horizon moves between them."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from cassandra import ConsistencyLevel
from cassandra.query import named_tuple_factory
from pyiceberg.catalog.memory import InMemoryCatalog

from headrace.contract import batch_views, view_shapes
from headrace.contract.load import load_pipeline
from headrace.contract.model import CassandraSink, Column
from headrace.errors import HeadraceError
from headrace.operations import deployment as deployments
from headrace.operations.batch import serve, serve_layers
from headrace.operations.batch.serve import Serving
from headrace.operations.batch.serve_layers import SpeedLayer
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.store import view_state
from headrace.store.view_state import ViewDay, ViewState

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
HORIZON = FIRST + timedelta(days=5)
UNTIL = HORIZON + timedelta(hours=6)
PRODUCTS = [f"p{n}" for n in range(4)]
Window = tuple[datetime, str]
SCHEMAS = {
    "tumbling": [("day", pa.date32()), ("window_start", pa.timestamp("us", "UTC")), ("window_end", pa.timestamp("us", "UTC")),
                 ("product_id", pa.string()), ("total_amount", pa.decimal128(22, 2)), ("sales", pa.int64())],
    "product_totals": [("day", pa.date32()), ("product_id", pa.string()), ("total_amount", pa.decimal128(22, 2)),
                       ("sales", pa.int64())],
}  # fmt: skip


class Table:
    """The serving tables in memory, with what the streams write into them: window and product -> sales."""

    def __init__(self, windows: dict[Window, int]) -> None:
        self.windows = windows
        self.levels: set[int | None] = set()

    def prepare(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(text=text, consistency_level=None)

    def execution_profile_clone_update(self, _: object, **changed: object) -> SimpleNamespace:
        return SimpleNamespace(**changed)

    def many(self, _: object, statement: SimpleNamespace, values: Sequence[Sequence[Any]], **__: object) -> Any:
        self.levels.add(statement.consistency_level)
        named = re.findall(r'"(\w+)" = \?', statement.text)
        return [(True, [_row(key, sales) for key, sales in self.windows.items()
                        if key[0] in starts and (not named or key[1] == keys[0])])
                for *keys, starts in values]  # fmt: skip


@pytest.fixture
def stage(project: Path, tmp_path: Path) -> Deployment:
    folders = {name: tmp_path / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    drivers = LocalDrivers(**folders, environment={})
    return Deployment(project=project, root=str(tmp_path / "storage"), bindings=tmp_path / "admin", drivers=drivers)


@pytest.fixture
def serving(stage: Deployment, monkeypatch: pytest.MonkeyPatch) -> Serving:
    """Days of two windows each before the horizon in the views, 40 windows after it in the table."""
    _lay(stage.root, "tumbling", [
        _batch_row(FIRST + timedelta(days=n, hours=h), product, n + 1) for n in range(5) for h in (1, 9) for product in PRODUCTS
    ])  # fmt: skip
    _lay(stage.root, "product_totals", [
        (FIRST.date() + timedelta(days=n), product, Decimal(2 * n + 2), 2 * n + 2) for n in range(5) for product in PRODUCTS
    ])  # fmt: skip
    _write_state(stage.root, HORIZON)
    table = Table({(HORIZON + timedelta(minutes=5 * n), product): 10 for n in range(40) for product in PRODUCTS})
    monkeypatch.setattr(serve_layers, "execute_concurrent_with_args", table.many)
    return Serving(stage, SpeedLayer(lambda: table))


@pytest.mark.parametrize(("name", "limit"), [("tumbling", 23), ("tumbling", 1000), ("product_totals", 3)])
def test_the_pages_of_a_range_are_its_rows_in_order_each_once(serving: Serving, name: str, limit: int) -> None:
    since = FIRST if name == "tumbling" else None
    complete = serving.query("pos_sales", name, since=since, until=UNTIL)
    assert complete.next is None
    assert complete.horizon == HORIZON
    assert len(complete.rows) == (5 * 2 * 4 + 40 * 4 if name == "tumbling" else 4)
    assert complete.rows == sorted(complete.rows, key=lambda row: (row.get("window_start"), row["product_id"]))
    rows: list[dict[str, Any]] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = serving.query("pos_sales", name, since=since, until=UNTIL, limit=limit, after=after)
        assert len(page.rows) <= limit
        rows, after, pages = rows + page.rows, page.next, pages + 1
    assert rows == complete.rows
    assert pages == -(-len(rows) // limit)


def test_rows_written_and_a_horizon_that_moves_between_pages_repeat_and_lose_nothing(
    serving: Serving, stage: Deployment
) -> None:
    before = {
        (row["window_start"], row["product_id"]) for row in serving.query("pos_sales", "tumbling", until=UNTIL).rows
    }
    table = serving.speed.session
    first = serving.query("pos_sales", "tumbling", until=UNTIL, limit=30)
    table.windows[HORIZON, "a new one"] = 1
    table.windows[HORIZON + timedelta(hours=5), "a new one"] = 1
    # The day after the horizon is computed, with a late window that the stream dropped.
    day = [_batch_row(start, product, sales) for (start, product), sales in table.windows.items()]
    late = _batch_row(HORIZON + timedelta(hours=4), "late", 1)
    _lay(stage.root, "tumbling", [*day, late])
    _write_state(stage.root, HORIZON + timedelta(days=1))
    rows, after = first.rows, first.next
    while after is not None:
        page = serving.query("pos_sales", "tumbling", until=UNTIL, limit=30, after=after)
        assert page.horizon == HORIZON + timedelta(days=1)
        rows, after = rows + page.rows, page.next
    seen = [(row["window_start"], row["product_id"]) for row in rows]
    assert seen == sorted(set(seen))
    assert set(seen) == before | {(HORIZON + timedelta(hours=4), "late"), (HORIZON + timedelta(hours=5), "a new one")}


def test_one_key_is_the_sum_of_both_layers_and_sums_are_kept_until_the_view_changes(
    serving: Serving, stage: Deployment
) -> None:
    (row,) = serving.query("pos_sales", "product_totals", {"product_id": "p1"}, until=UNTIL).rows
    assert row == {"product_id": "p1", "total_amount": Decimal(30 + 400), "sales": 30 + 400, "layer": "both"}
    kept = serving.batch.totals
    assert serving.query("pos_sales", "product_totals", {"product_id": "p1"}, until=UNTIL).rows == [row]
    assert len(kept) == 1
    _lay(stage.root, "product_totals", [(FIRST.date() - timedelta(days=1), "p1", Decimal(5), 5)])
    assert serving.query("pos_sales", "product_totals", {"product_id": "p1"}, until=UNTIL).rows[0]["sales"] == 435
    assert len(serving.batch.totals) == 1, "sums of a former commit go"
    once = Serving(stage, serving.speed, keeps=False)
    assert once.query("pos_sales", "product_totals", {"product_id": "p1"}, until=UNTIL).rows[0]["sales"] == 435
    assert not once.batch.totals
    (window,) = serving.query(
        "pos_sales",
        "tumbling",
        {"product_id": "p2"},
        since=FIRST + timedelta(hours=1),
        until=FIRST + timedelta(hours=2),
    ).rows
    assert (window["sales"], window["layer"]) == (1, "batch")


def test_days_that_were_computed_before_the_file_changed_are_not_served_beside_new_ones(
    serving: Serving, stage: Deployment
) -> None:
    """A view of 5-minute windows that were 10 minutes long on its older days would count records twice, or not at all."""
    pos = load_pipeline(stage.project / "pipelines" / "pos_sales.yaml")
    shapes = {name: view_shapes.shape(pos, name) for name in batch_views.views(pos)}
    former = copy.deepcopy(shapes)
    former["tumbling"]["rows"]["aggregate"]["window"]["size"] = "10 minutes"
    former["product_totals"]["rows"]["aggregate"]["keys"] = ["shop"]
    state = view_state.read(stage.root, "pos_sales")

    def refused(name: str, changed: dict[str, Any], **part: Any) -> str | None:
        view_state.write(stage.root, "pos_sales", replace(state, **changed))
        try:
            serving.query("pos_sales", name, until=UNTIL, **part)
        except HeadraceError as error:
            return str(error)
        return None

    said = refused("tumbling", {"shapes": former}, since=FIRST)
    assert said is not None
    assert "5 days of the view of pos_sales.tumbling are not as the pipeline file says now (" in said
    assert 'rows.aggregate.window.size changed from "10 minutes" to "5 minutes"' in said
    assert said.endswith("Compute them first: headrace batch views pos_sales")
    assert "rows.aggregate.keys changed" in str(refused("product_totals", {"shapes": former}))
    assert refused("tumbling", {"shapes": former}, since=HORIZON) is None, "the speed layer follows the file"
    assert refused("tumbling", {"shapes": shapes}, since=FIRST) is None
    half = {"shapes": shapes, "outdated": {"tumbling": ("2026-03-02",)}}
    assert refused("tumbling", half, since=FIRST) is not None
    assert refused("tumbling", half, since=FIRST, limit=3) is not None
    assert refused("tumbling", half, since=FIRST + timedelta(days=2)) is None
    assert refused("product_totals", half) is None
    only = {"shapes": {name: shape for name, shape in shapes.items() if name != "tumbling"}}
    assert "tumbling was added" in str(refused("tumbling", only, since=FIRST))


@pytest.mark.parametrize(("written", "read"), [("LOCAL_QUORUM", None), ("QUORUM", ConsistencyLevel.QUORUM)])
def test_rows_are_read_at_a_level_that_sees_what_was_written(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, written: str, read: int | None
) -> None:
    pipeline = load_pipeline(serving.deployment.project / "pipelines" / "pos_sales.yaml")
    tumbling = pipeline.queries["tumbling"]
    sinks = [sink.model_copy(update={"consistency": written}) for sink in tumbling.sinks]
    queries = {**pipeline.queries, "tumbling": tumbling.model_copy(update={"sinks": sinks})}
    changed = pipeline.model_copy(update={"queries": queries})
    monkeypatch.setattr(deployments.Deployment, "pipeline", lambda *_: changed)
    serving.query("pos_sales", "tumbling", until=UNTIL)
    assert serving.speed.session.levels == {read}


def test_a_column_named_like_a_keyword_of_python_is_served(project: Path) -> None:
    """The driver's named tuples call it `field_0_`, and then the row lacks the column."""
    pos = load_pipeline(project / "pipelines" / "pos_sales.yaml")
    columns = {"class": Column(type="string", required=True), "from": Column(type="long")}
    sink = CassandraSink(kind="cassandra", partition_key=["class"])
    query = pos.queries["product_totals"].model_copy(update={"columns": columns, "sinks": [sink]})
    pipeline = pos.model_copy(update={"queries": {"product_totals": query}})

    class Session(Table):
        def execute(self, *_: object, execution_profile: Any = None) -> list[Any]:
            factory = execution_profile.row_factory if execution_profile else named_tuple_factory
            return list(factory(list(columns), [("bolts", 7)]))

    layer = SpeedLayer(lambda: Session({}))
    assert layer.table(pipeline, "product_totals", {"class": "bolts"}) == [{"class": "bolts", "from": 7}]


@pytest.mark.parametrize("after", ["p1", '["2026-03-01T00:00:00Z"]', '["x", "2026-03-01T00:05:00Z", "p1"]', "7"])
def test_a_place_that_is_no_key_is_refused_before_a_session_is_opened(stage: Deployment, after: str) -> None:
    with pytest.raises(HeadraceError, match=r"is no key of a row \(window_start, window_end, product_id\)"):
        serve.query(stage, "pos_sales", "tumbling", after=after)


def _row(key: Window, sales: int) -> dict[str, Any]:
    start = key[0].replace(tzinfo=None)
    return {"window_start": start, "window_end": start + timedelta(minutes=5), "product_id": key[1],
            "total_amount": Decimal(sales), "sales": sales}  # fmt: skip


def _batch_row(start: datetime, product: str, sales: int) -> tuple[Any, ...]:
    return (start.date(), start, start + timedelta(minutes=5), product, Decimal(sales), sales)


def _lay(root: str, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Append rows to a view as its next commit, in a Hadoop catalog's names of files."""
    folder = Path(root) / "lake" / "pos_sales" / f"batch_{name}"
    catalog = InMemoryCatalog("test", warehouse=f"file://{folder}")
    catalog.create_namespace("lake")
    schema = pa.schema(SCHEMAS[name])
    versions = sorted((folder / "metadata").glob("v*.metadata.json"))
    if versions:
        table = catalog.register_table("lake.view", str(versions[-1]))
    else:
        table = catalog.create_table("lake.view", schema, location=str(folder))
        with table.update_spec() as spec:
            spec.add_identity("day")
    table.append(pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema))
    shutil.copy(table.metadata_location, folder / "metadata" / f"v{len(versions) + 1}.metadata.json")


def _write_state(root: str, horizon: datetime) -> None:
    days = [FIRST.date() + timedelta(days=n) for n in range((horizon - FIRST).days)]
    view_state.write(
        root, "pos_sales", ViewState(days={str(day): ViewDay() for day in days}, horizon=str(horizon.date()))
    )
