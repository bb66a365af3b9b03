"""One property over contract and suite, both ways, for every type (C19): what the contract accepts passes the suite of a sink
that holds it unchanged, and a row that passes the suite is a record that the contract accepts.

Slow: Great Expectations takes 7 seconds to import.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from headrace.contract.checked_sinks import CheckedSink, sinks_of
from headrace.contract.model import Pipeline
from headrace.driver.decode import MAX_KEY_TEXT, make_decoder
from headrace.operations.quality.read_topic import json_row
from headrace.operations.quality.rows import frame_of, with_facts
from headrace.operations.quality.suites import suites
from headrace.operations.quality.validate import CRITICAL, Outcome, validate
from headrace.store.records import Row
from tests.driver.decode_data import KAFKA_TIME, WIDE, reasons, rows
from tests.driver.decode_maker import Maker
from tests.operations.quality.frames import PARAMETERS
from tests.support.expectations import import_great_expectations

pytestmark = pytest.mark.slow

OF_A_SOURCE = ("the key is empty", f"at most {MAX_KEY_TEXT}", "is before 1970")
RECORDS = 1_000  # an outcome names as many rows
COLUMNS = {name: {"type": column.type, "required": column.required} for name, column in WIDE.columns.items()}
PIPELINE = Pipeline.model_validate({
    "name": "copies",
    "owner": "tests",
    "description": "Records of every type, unchanged.",
    "version": 1,
    "sources": {"wide": {"key": "name", "columns": COLUMNS}},
    "queries": {
        "copied": {
            "sources": ["wide"],
            "mode": "append",
            "columns": COLUMNS,
            "sinks": [{"kind": "kafka", "topic": "copies", "key": "name"}, {"kind": "files"}],
        }
    },
})  # fmt: skip
SINKS: dict[str, CheckedSink] = {sink.kind: sink for sink in sinks_of(PIPELINE) if sink.query == "copied"}


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    import_great_expectations()


def _refused(sink: CheckedSink, given: list[Row]) -> tuple[list[Outcome], set[int]]:
    """Judge rows by the suite of a sink; return the critical expectations that fail, and the numbers of the rows they name."""
    more: dict[str, Row] = {
        "kafka": {"_id": "", "_copies": 1, "_batch": 0, "_partition": 0},
        "files": {"_batch": 0},
    }
    numbered = {"kafka": ("_offset", "_id"), "files": ("_line",)}[sink.kind]
    placed = [row | more[sink.kind] | dict.fromkeys(numbered, number) for number, row in enumerate(given)]
    now_ms = int(KAFKA_TIME.timestamp() * 1000)
    frame = with_facts(frame_of(placed, sink), sink, None, behind_seconds=0, now_ms=now_ms)
    outcomes, _ = validate(suites(PIPELINE)[sink.name], frame, sink.key, PARAMETERS | {"rows_out": len(given)})
    failed = [outcome for outcome in outcomes if outcome.severity == CRITICAL and not outcome.success]
    return failed, {int(row[sink.key[-1]]) for outcome in failed for row in outcome.rows}


def _written(row: dict[str, Any]) -> bytes:
    """Return a row as Spark writes it to a topic or file: numbers as numbers, times in ISO form with microseconds."""
    return _object({name: _text(value) for name, value in row.items()})


def _object(cells: dict[str, str]) -> bytes:
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in cells.items())}}}".encode()


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return json.dumps(value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0"))
    return json.dumps(value.isoformat() if isinstance(value, date) else value)


@pytest.mark.parametrize("kind", SINKS)
def test_what_the_contract_accepts_passes_the_suite(kind: str, seed: int) -> None:
    maker = Maker(random.Random(seed))
    given = [maker.record(WIDE) for _ in range(RECORDS)]
    accepted = list(rows(make_decoder(WIDE), given).values())
    assert len(accepted) > RECORDS // 4
    failed, _ = _refused(SINKS[kind], [json_row(_written(row)) for row in accepted])
    assert [(outcome.text, outcome.rows[:3]) for outcome in failed] == []


@pytest.mark.parametrize("kind", SINKS)
def test_what_passes_the_suite_the_contract_accepts(kind: str, seed: int) -> None:
    """Each row is one that the contract gives, with any JSON in one of its cells.

    Rules of a source alone: its key is neither empty nor long, and no time is before 1970, where a window may begin.
    """
    chance = random.Random(seed)
    maker = Maker(chance)
    given: list[Row] = []
    for row in rows(make_decoder(WIDE), [maker.record(WIDE) for _ in range(2 * RECORDS)]).values():
        name, column = chance.choice(list(WIDE.columns.items()))
        maker.calm = chance.random() < 0.5
        given.append(json_row(_object({one: _text(value) for one, value in row.items()} | {name: maker.value(column)})))
    failed, refused = _refused(SINKS[kind], given[:RECORDS])
    passed = [row for number, row in enumerate(given[:RECORDS]) if number not in refused]
    assert failed
    assert len(passed) > RECORDS // 10
    judged = reasons(make_decoder(WIDE), [_written(row) for row in passed])
    wrong = [
        (reason, row)
        for reason, row in zip(judged, passed, strict=True)
        if reason is not None and not reason.endswith(OF_A_SOURCE)
    ]
    assert wrong[:5] == []
