"""Reads what a check names, and nothing else, as a typed frame."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import repeat
from typing import Any

import pandas as pd

from headrace.contract import ledger, names, outputs, paths, storage
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import lake, topics
from headrace.operations.deployment import Deployment
from headrace.operations.quality import read_cassandra
from headrace.operations.quality.plan import Check
from headrace.operations.quality.rows import frame_of, with_facts
from headrace.operations.quality.sinks import CheckedSink

Rows = list[dict[str, Any]]


def read(deployment: Deployment, pipeline: Pipeline, sink: CheckedSink, check: Check) -> tuple[pd.DataFrame, bool]:
    """Return the check's rows with all columns that a suite may name, and whether they are a sample of the sink.

    Raises HeadraceError where the sink cannot be read.
    """
    found: list[str] | None = None
    sampled = False
    if sink.kind == "cassandra":
        rows, found, sampled = read_cassandra.read(deployment.bindings, sink, check.window)
    elif sink.kind == "kafka":
        rows = distinct(read_topic(deployment, sink, check.window))
    elif sink.kind == "files":
        rows = list(read_files(deployment.root, sink, check.window))
    else:
        rows, found = read_archive(deployment.root, sink, check.window)
    query = pipeline.queries.get(sink.query)
    window = query.aggregate.window if query and query.aggregate else None
    frame = with_facts(
        frame_of(rows, sink, found),
        sink,
        window,
        behind_seconds=check.parameters.get("behind_seconds", 0.0),
        now_ms=time.time_ns() // 1_000_000 if check.window["kind"] == "table" else int(check.parameters["now_ms"]),
    )
    return read_cassandra.with_references(deployment.bindings, pipeline, sink, frame, check.references), sampled


def expects_rows(deployment: Deployment, sink: CheckedSink, check: Check) -> bool:
    """Return whether a check that found no row should have: the ledger says so of its batches, or of the whole table."""
    if check.window["kind"] == "batches":
        return bool(check.parameters["rows_out"])
    lost = check.window["kind"] == "table" or read_cassandra.is_empty(deployment.bindings, sink)
    return bool(check.parameters["rows_min"]) and lost


def read_topic(deployment: Deployment, sink: CheckedSink, window: dict[str, Any]) -> Rows:
    """Return the records of the window's offset ranges that its generation's batches wrote, with `_id` and so on.

    Records of other batches that lie between them are left out. A value that is no JSON object has no columns.
    """
    topic = sink.place[0]
    rows: Rows = []
    ranges = {int(p): (start, end) for p, (start, end) in window["offsets"].items()}
    with topics.reader(deployment.bindings, topic, "quality") as consumer:
        for message in topics.between(consumer, topic, ranges):
            rows += _own_record(message, window)
    return rows


def _own_record(message: Any, window: dict[str, Any]) -> Rows:  # noqa: ANN401 - a confluent_kafka.Message
    headers = {key: (value or b"").decode(errors="replace") for key, value in message.headers() or []}
    batch = headers.get("headrace.batch", "")
    own = headers.get("headrace.generation") == str(window["generation"]) and batch.isdigit()
    if not own or not window["first"] <= int(batch) <= window["last"]:
        return []
    where = {"_partition": message.partition(), "_offset": message.offset()}
    return [_json_row(message.value()) | {"_id": headers.get("headrace.id"), "_batch": int(batch)} | where]


def distinct(rows: Rows) -> Rows:
    """Return the records without repeats, `_copies` says of how many: one id may come again, but saying the same."""
    found: dict[tuple[Any, str], dict[str, Any]] = {}
    for row in rows:
        content = json.dumps({k: v for k, v in row.items() if not k.startswith("_")}, sort_keys=True, default=str)
        first = found.setdefault((row["_id"], content), row | {"_copies": 0})
        first["_copies"] += 1
    return list(found.values())


def _json_row(value: bytes | str | None) -> dict[str, Any]:
    """Return a JSON object with exact numbers. Names that a check adds are not taken from a record."""
    try:
        parsed = json.loads(value or b"null", parse_float=Decimal)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        return {"not_an_object": str(value)[:40]}
    return {name.lstrip("_") or "unnamed": each for name, each in parsed.items()}


def read_files(root: str, sink: CheckedSink, window: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of finished batches with `_batch` and `_line` (file and line): never of one being written."""
    chosen = paths.generation_paths(root, sink.pipeline, sink.query, window["generation"])
    fs, _ = storage.locate(chosen.files)
    for each in outputs.valid(outputs.whole(chosen.files)):
        if each.last < window["first"] or each.first > window["last"]:
            continue
        batches = _batches(each, chosen.ledger)
        for path in sorted(fs.glob(f"{storage.locate(each.path)[1]}/part-*")):
            lines = fs.cat_file(path).decode(errors="replace").splitlines()
            part = path.rpartition("/")[2][:10]  # part-00000; what follows is random
            for number, line in enumerate(lines):
                batch = next(batches)
                if window["first"] <= batch <= window["last"]:
                    yield _json_row(line) | {"_batch": batch, "_line": f"{part}:{number}"}


def _batches(directory: outputs.Directory, folder: str) -> Iterator[int]:
    """Yield the batch of each row of a directory. Gathered rows stand in batch order, as many as the ledger says."""
    for batch in range(directory.first, directory.last):
        record = ledger.record(folder, batch)
        yield from repeat(batch, record["rows_out"] if record else 0)
    yield from repeat(directory.last)


def read_archive(root: str, sink: CheckedSink, window: dict[str, Any]) -> tuple[Rows, list[str]]:
    """Return the archive's rows in the window's offset ranges, and the names of the table's columns."""
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan, Or

    table = names.lake_table(sink.pipeline, sink.query)
    loaded = lake.load(root, table)
    if loaded is None:
        raise HeadraceError(
            f"The archive {table} is missing below {paths.lake(root)}: restore it from a backup; a restart of the pipeline "
            "would begin an empty one."
        )
    spans = [(int(p), start, end) for p, (start, end) in window["offsets"].items() if end > start]
    wanted = [
        And(EqualTo("partition", p), GreaterThanOrEqual("offset", start), LessThan("offset", end))
        for p, start, end in spans
    ]
    there = [field.name for field in loaded.schema().fields]
    if not wanted:
        return [], there
    row_filter = Or(*wanted) if len(wanted) > 1 else wanted[0]
    shown = [name for name in sink.columns if name in there]
    return loaded.scan(row_filter=row_filter, selected_fields=tuple(shown)).to_arrow().to_pylist(), there


def missing_batches(window: dict[str, Any], frame: pd.DataFrame, limit: int = 20) -> Sequence[dict[str, int]]:
    """Return the batches of a window that do not hold the rows that the ledger says: batch, expected, found.

    A topic may hold copies, of a batch that ran twice: there only too few are wrong.
    """
    if window["kind"] != "batches" or "_batch" not in frame:
        return []
    copies = frame.get("_copies", pd.Series(1, index=frame.index))
    there = copies.groupby(frame["_batch"]).sum()
    wrong = []
    for batch, expected in window["rows_out"].items():
        found = int(there.get(int(batch), 0))
        if found < expected or (found > expected and "_copies" not in frame):
            wrong.append({"batch": int(batch), "expected": expected, "found": found})
    return wrong[:limit]
