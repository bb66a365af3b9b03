"""The bench's oracle: what equals it passes, and each kind of wrong output is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from bench import events, oracle

COUNT = 5_000
LOADED = oracle.table(COUNT)


def written(rows: list[dict[str, object]]) -> pa.Table:
    """Return the records of a topic with one partition."""
    values = [json.dumps(row) for row in rows]
    columns = [pa.array([0] * len(rows), pa.int64()), pa.array(range(len(rows)), pa.int64()), pa.array(values)]
    return pa.table(columns, ["partition_", "offset_", "value"])


def items() -> list[dict[str, object]]:
    rows = zip(LOADED["product"].to_pylist(), LOADED["cents"].to_pylist(), strict=True)
    return [{"product_id": f"p{product:05d}", "amount": f"{cents / 100:.2f}"} for product, cents in rows]


def windows() -> list[dict[str, object]]:
    """Return the sums by other means than the oracle's."""
    sums: dict[tuple[int, int], int] = {}
    for product, cents, seconds in zip(*(LOADED[name].to_pylist() for name in LOADED.column_names), strict=True):
        if product < events.PRODUCTS:
            place = (seconds // 300 * 300, product)
            sums[place] = sums.get(place, 0) + cents
    return [
        {
            "window_start": datetime.fromtimestamp(start, UTC).isoformat().replace("+00:00", "Z"),
            "product_id": f"p{product:05d}",
            "total_amount": cents / 100,
        }
        for (start, product), cents in sums.items()
    ]


def test_the_closing_events_are_behind_every_window_of_the_load_one_for_each_partition() -> None:
    load, closing = LOADED["seconds"][:COUNT].to_pylist(), LOADED["seconds"][COUNT:].to_pylist()
    assert len(closing) == events.PARTITIONS
    assert min(closing) > max(load) + 300 + 600  # a window and the watermark's delay


def test_a_right_projection_passes() -> None:
    assert oracle.require_items(written(items()), LOADED) == f"{COUNT + events.PARTITIONS} rows equal"


@pytest.mark.parametrize(
    "wrong",
    [
        items()[1:],
        [*items(), items()[0]],
        [{**items()[0], "amount": "0.01"}, *items()[1:]],
        [{**items()[0], "product_id": "p99999"}, *items()[1:]],
        [],
    ],
    ids=["a row is missing", "a row is there twice", "another amount", "another product", "nothing"],
)
def test_a_wrong_projection_is_refused(wrong: list[dict[str, object]]) -> None:
    with pytest.raises(oracle.WrongOutputError, match="rows of the oracle are missing"):
        oracle.require_items(written(wrong), LOADED)


def test_right_sums_pass_and_the_newest_of_a_group_counts() -> None:
    right = windows()
    revised = [{**right[0], "total_amount": 0.01}, *right]
    assert oracle.require_windows(written(revised), LOADED) == f"{len(right)} window sums equal"
    assert len(right) == oracle.windows(LOADED)


@pytest.mark.parametrize(
    "wrong",
    [
        windows()[1:],
        [*windows(), {**windows()[0], "total_amount": 0.01}],
        [{**windows()[0], "window_start": "2026-01-05T00:00:00Z"}, *windows()[1:]],
    ],
    ids=["a group is missing", "its newest sum is wrong", "another window"],
)
def test_wrong_sums_are_refused(wrong: list[dict[str, object]]) -> None:
    with pytest.raises(oracle.WrongOutputError, match="window sums of the oracle are missing"):
        oracle.require_windows(written(wrong), LOADED)


def test_a_report_is_compared_in_all_that_it_has() -> None:
    right = oracle.totals(LOADED)
    assert right["events"] == COUNT + events.PARTITIONS
    assert oracle.require_totals({"load": 2, "events": right["events"]}, LOADED) == "events equal"
    assert oracle.require_totals({"load": 2, **right}, LOADED) == "events, cents, seconds equal"
    for name in right:
        with pytest.raises(oracle.WrongOutputError):
            oracle.require_totals({**right, name: right[name] + 1}, LOADED)
    with pytest.raises(oracle.WrongOutputError):
        oracle.require_totals({"cents": right["cents"]}, LOADED)
