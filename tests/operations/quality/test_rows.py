"""Cells of the contract's types, and in words what has none."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headrace.contract.checked_sinks import SCHEMA_ERROR, CheckedSink, find
from headrace.contract.load import load_pipelines
from headrace.operations.quality.read import wrong_batches
from headrace.operations.quality.read_topic import distinct, json_row
from headrace.operations.quality.rows import frame_of, with_facts
from headrace.operations.quality.summary import WrongBatch
from headrace.operations.quality.validate import json_safe
from headrace.operations.quality.windows import BatchesStep

PROJECT = Path(__file__).resolve().parents[3]
PIPELINES = load_pipelines(PROJECT / "pipelines")


def _sink(name: str) -> CheckedSink:
    return find(PIPELINES.values(), name)


def _error(name: str, row: dict[str, Any]) -> Any:
    return frame_of([row], _sink(name))[SCHEMA_ERROR].iloc[0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        pytest.param({"product_id": "a", "amount": Decimal("1.50")}, None, id="as the contract says"),
        pytest.param({"product_id": "a", "amount": 2}, None, id="a whole amount"),
        pytest.param({"product_id": "a", "amount": None}, None, id="a null is another expectation's"),
        pytest.param({"product_id": "a"}, None, id="as is what is not there"),
        pytest.param({"product_id": 7, "amount": 1}, "product_id is '7', no string", id="a number for text"),
        pytest.param({"product_id": "a", "amount": "1.5"}, "amount is '1.5', no decimal(12,2)", id="text for a number"),
        pytest.param(
            {"product_id": "a", "amount": Decimal("1.505")}, "amount is '1.505', no decimal(12,2)", id="scale"
        ),
        pytest.param(
            {"product_id": "a", "amount": 10**10}, "amount is '10000000000', no decimal(12,2)", id="precision"
        ),
        pytest.param(
            {"product_id": "a", "amount": True}, "amount is 'True', no decimal(12,2)", id="a truth for a number"
        ),
        pytest.param({"product_id": "a", "amount": 1, "b": 2}, "b is no column of the contract", id="a field too many"),
        pytest.param(
            {"product_id": [], "amount": {}},
            "product_id is '[]', no string; amount is '{}', no decimal(12,2)",
            id="two at once",
        ),
    ],
)
def test_a_cell_without_a_value_of_its_type_is_said_in_words(row: dict[str, Any], says: str | None) -> None:
    assert _error("kafka.pos_items", row) == says


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("2026-03-01T10:00:00.000000Z", True),
        ("2026-03-01T10:00:00+02:00", True),
        ("2026-03-01 10:00:00", False),
        ("2026-03-01T10:00:00", False),
        ("2026-02-30T10:00:00Z", False),
        ("2026-03-01T10:00:00+02:60", False),
    ],
)
def test_a_time_has_a_zone_and_exists(text: str, good: bool) -> None:
    row = {"window_start": text, "window_end": text, "product_id": "a", "total_amount": 1, "sales": 1}
    assert (_error("kafka.pos_final_windows", row) is None) == good


def test_times_far_from_now_are_kept() -> None:
    row = {"login_id": "a", "user_name": "A", "last_login": datetime(1, 1, 1), "last_device": None}
    sink = _sink("cassandra.test_db.users")
    frame = with_facts(frame_of([row], sink, list(sink.columns)), sink, None, behind_seconds=0, now_ms=0)
    assert frame["last_login"].iloc[0].year == 1
    assert frame["_ahead_seconds"].iloc[0] < 0


def test_windows_tell_their_length_and_how_far_off_the_grid_they_begin() -> None:
    sink, aggregate = _sink("cassandra.pos_sales.sliding"), PIPELINES["pos_sales"].queries["sliding"].aggregate
    assert aggregate is not None
    window = aggregate.window
    start = datetime(2026, 3, 1, 10, 5)
    rows = [
        {"window_start": start, "window_end": start.replace(minute=15), "product_id": "a"},
        {"window_start": start.replace(minute=6), "window_end": start.replace(minute=15), "product_id": "a"},
    ]
    now_ms = int(datetime(2026, 3, 1, 10, 15, tzinfo=UTC).timestamp() * 1000)
    frame = with_facts(frame_of(rows, sink, list(sink.columns)), sink, window, behind_seconds=1.5, now_ms=now_ms)
    assert list(frame["_window_start_to_window_end_seconds"]) == [600, 540]
    assert list(frame["_window_start_offset_seconds"]) == [0, 60]
    assert list(frame["_ahead_seconds"]) == [0, 0]
    assert list(frame["_behind_seconds"]) == [1.5, 1.5]


def test_no_rows_have_the_columns_all_the_same() -> None:
    sink = _sink("kafka.pos_items")
    frame = frame_of([], sink)
    assert set(frame.columns) == {*sink.columns, "_id", "_copies", "_batch", "_partition", "_offset", SCHEMA_ERROR}


def test_copies_are_counted_and_one_id_with_two_contents_stays_two() -> None:
    rows = [
        {"_id": "a", "x": 1, "_offset": 0},
        {"_id": "a", "x": 1, "_offset": 1},
        {"_id": "a", "x": 2, "_offset": 2},
        {"_id": "b", "x": 1, "_offset": 3},
    ]
    copies = [(row["_id"], row["x"], row["_copies"], row["_offset"]) for row in distinct(rows)]
    assert copies == [("a", 1, 2, 0), ("a", 2, 1, 2), ("b", 1, 1, 3)]


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (b'{"a": 1.10}', {"a": Decimal("1.10")}),
        (b'{"_id": 1}', {"id": 1}),
        (b"[1]", {"not_an_object": "b'[1]'"}),
        (b"{", {"not_an_object": "b'{'"}),
        (None, {"not_an_object": "None"}),
    ],
)
def test_a_record_cannot_pass_for_what_a_check_adds(value: bytes | None, row: dict[str, Any]) -> None:
    assert json_row(value) == row


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        pytest.param(b'{"a": "\\ud83d"}', "no_text", id="half of a surrogate pair"),
        pytest.param('{"\\uDE00": 1}', "no_text", id="the other half, in a name of a file's row"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', "not_an_object", id="bytes that are no UTF-8"),
        pytest.param(b"[" * 100_000, "not_an_object", id="too deep"),
    ],
)
def test_a_record_that_would_stop_a_check_is_a_row_that_names_the_fault(value: bytes | str, fault: str) -> None:
    assert json_row(value) == {fault: str(value)[:40]}
    assert _error("kafka.pos_items", json_row(value)) == f"{fault} is no column of the contract"


def test_a_number_beyond_every_decimal_is_a_text_and_a_pair_of_surrogates_is_one_sign() -> None:
    assert json_row(b'{"a": 1e1000000000000000000000}') == {"a": "1e1000000000000000000000"}
    assert json_row(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_a_batch_with_too_few_rows_is_named_and_in_a_file_one_with_too_many() -> None:
    window = BatchesStep(rows_out={"1": 2, "2": 2, "3": 1})
    files = pd.DataFrame({"_batch": [1, 1, 1, 2]})
    assert wrong_batches(window, files) == [
        WrongBatch(batch=1, expected=2, rows=3),
        WrongBatch(batch=2, expected=2, rows=1),
        WrongBatch(batch=3, expected=1, rows=0),
    ]
    topic = pd.DataFrame({"_batch": [1, 2, 3], "_copies": [4, 2, 1]})
    assert wrong_batches(window, topic) == []


def test_keys_and_values_are_exact_in_json() -> None:
    row = {"a": Decimal("1.10"), "b": pd.Timestamp("2026-01-01", tz="UTC"), "c": pd.NA, "d": pd.NaT, "e": b"\x00"}
    assert json_safe(row) == {"a": "1.10", "b": "2026-01-01T00:00:00+00:00", "c": None, "d": None, "e": "00"}
