"""Reads files and archives as a step names them, and makes typed frames of any sink's rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

import pandas as pd

from headrace.contract import names
from headrace.contract.checked_sinks import SCHEMA_ERROR, CheckedSink
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import lake
from headrace.operations.deployment import Deployment
from headrace.operations.quality import read_cassandra
from headrace.operations.quality.plan import Check
from headrace.operations.quality.read_topic import STRANGER, json_row, strangers
from headrace.operations.quality.rows import frame_of, with_facts
from headrace.operations.quality.summary import WrongBatch
from headrace.operations.quality.windows import BatchesStep, StepWindow, TableWindow
from headrace.store import file_sink, ledger, paths, small_files
from headrace.store.records import Row


def frame(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    window: StepWindow,
    rows: list[Row],
    columns: Sequence[str] | None,
) -> pd.DataFrame:
    """Return the rows of a step's window with all columns that a suite may name. `columns` are the columns that the sink has."""
    others = [at for at, _ in strangers(rows)]
    query = pipeline.queries.get(sink.query)
    made = with_facts(
        frame_of(rows, sink, columns),
        sink,
        query.aggregate.window if query and query.aggregate else None,
        behind_seconds=check.parameters.get("behind_seconds", 0.0),
        now_ms=time.time_ns() // 1_000_000 if isinstance(window, TableWindow) else int(check.parameters["now_ms"]),
    )
    if others:
        errors = made.loc[others, SCHEMA_ERROR]
        made.loc[others, SCHEMA_ERROR] = [f"{STRANGER}; {text}" if text else STRANGER for text in errors]
    return read_cassandra.with_references(deployment.bindings, pipeline, sink, made, check.references)


def read_files(root: str, sink: CheckedSink, window: BatchesStep) -> Iterator[Row]:
    """Yield the rows of finished batches with `_batch` and `_line` (file and line), never of a batch that is being written."""
    chosen = paths.generation_paths(root, sink.pipeline, sink.query, window.generation)
    fs, _ = small_files.locate(chosen.files)
    for directory in file_sink.valid(file_sink.complete(chosen.files)):
        if directory.last < window.first or directory.first > window.last:
            continue
        batches = _batches(directory, chosen.ledger)
        for path in sorted(fs.glob(f"{small_files.locate(directory.path)[1]}/part-*")):
            lines = fs.cat_file(path).decode(errors="replace").splitlines()
            part = path.rpartition("/")[2][:10]  # part-00000; the rest of the name is random
            for number, line in enumerate(lines):
                batch = next(batches)
                if window.first <= batch <= window.last:
                    yield json_row(line) | {"_batch": batch, "_line": f"{part}:{number}"}


def _batches(directory: file_sink.Directory, folder: str) -> Iterator[int]:
    """Yield the batch of each row of a directory. Compacted rows are in batch order, with the counts of the ledger."""
    if directory.first < directory.last:
        for record in ledger.stream(folder, directory.first):
            if record["batch"] >= directory.last:
                break
            yield from repeat(record["batch"], record["rows_out"])
    yield from repeat(directory.last)


def read_archive(root: str, sink: CheckedSink, spans: Mapping[str, Sequence[int]]) -> tuple[list[Row], list[str]]:
    """Return the archive's rows in offset ranges (partition -> [start, end)), and the names of the table's columns."""
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan, Or

    table = names.lake_table(sink.pipeline, sink.query)
    loaded = lake.load(root, table)
    if loaded is None:
        raise HeadraceError(
            f"The archive {table} is missing below {paths.lake(root)}: restore it from a backup; a restart of the pipeline "
            "would begin an empty one."
        )
    wanted = [
        And(EqualTo("partition", int(p)), GreaterThanOrEqual("offset", start), LessThan("offset", end))
        for p, (start, end) in spans.items()
        if end > start
    ]
    columns = [field.name for field in loaded.schema().fields]
    if not wanted:
        return [], columns
    row_filter = Or(*wanted) if len(wanted) > 1 else wanted[0]
    shown = [name for name in sink.columns if name in columns]
    return loaded.scan(row_filter=row_filter, selected_fields=tuple(shown)).to_arrow().to_pylist(), columns


def wrong_batches(window: StepWindow, frame: pd.DataFrame, limit: int = 20) -> list[WrongBatch]:
    """Return the batches of a window whose row count differs from the ledger.

    A topic may contain copies from a batch that ran twice: there only a smaller count is wrong.
    """
    if not isinstance(window, BatchesStep) or "_batch" not in frame:
        return []
    copies = frame.get("_copies", pd.Series(1, index=frame.index))
    rows_of = copies.groupby(frame["_batch"]).sum().to_dict()
    counts = [WrongBatch(int(batch), rows, int(rows_of.get(int(batch), 0))) for batch, rows in window.rows_out.items()]
    wrong = [
        count
        for count in counts
        if count.rows < count.expected or (count.rows > count.expected and "_copies" not in frame)
    ]
    return wrong[:limit]
