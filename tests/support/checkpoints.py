"""Handmade checkpoints in the format of Spark 3.5, for tests of the files alone, on any file system."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from headrace.contract.load import load_pipeline
from headrace.contract.model import FilesSink, Pipeline
from headrace.operations.drivers.interface import DEFAULT_START, Driver, StartSpec
from headrace.store import file_sink, generation, ledger, paths, small_files
from headrace.store.checkpoint_log import Offsets, commits_entry, offsets_entry, read_batch_range
from headrace.store.driver_files import CheckResult, ExitRecord
from headrace.store.generation import Generation

MINUTE_MS = 60_000
STATEFUL = {"state_partitions": 2, "mode": "update"}


def pos_sales() -> Pipeline:
    """Return the shipped pipeline that most of these tests use."""
    return load_pipeline(Path(__file__).resolve().parents[2] / "pipelines" / "pos_sales.yaml")


class Approver(TypedDict):
    """Who acts, and why."""

    by: str
    reason: str


@dataclass
class FakeLauncher:
    """A launcher that starts nothing: `living` are the drivers that it finds."""

    root: str
    living: list[Driver] = field(default_factory=list)

    def find(self, pipeline: str) -> list[Driver]:
        return [driver for driver in self.living if driver.pipeline == pipeline]

    def running(self) -> list[str]:
        return sorted({driver.pipeline for driver in self.living})

    def submit(self, pipeline: str, spec: StartSpec = DEFAULT_START) -> tuple[Driver, bool]:
        raise AssertionError("nothing is started here")

    def check(self, pipeline: str, spec: StartSpec = DEFAULT_START) -> CheckResult:
        raise AssertionError("nothing is checked here")

    def stop(self, pipeline: str, grace_seconds: float | None = None) -> bool | None:
        raise AssertionError("nothing is stopped here")

    def ended(self, pipeline: str) -> ExitRecord | None:
        return None

    def log_tail(self, pipeline: str, lines: int = 50) -> str:
        return ""


def put(path: str, content: str | bytes, *, crc: bool = False) -> None:
    """Write a file, and optionally the checksum file that Hadoop's local file system writes next to it."""
    data = content.encode() if isinstance(content, str) else content
    fs, inner = small_files.locate(path)
    folder, _, name = inner.rpartition("/")
    fs.makedirs(folder, exist_ok=True)
    fs.pipe_file(inner, data)
    if crc:
        sums = [zlib.crc32(data[start : start + 512]) for start in range(0, len(data), 512)]
        fs.pipe_file(f"{folder}/.{name}.crc", b"crc\0" + struct.pack(f">i{len(sums)}I", 512, *sums))


def begin(root: str, query: str = "tumbling", *, stateful: bool = True, pipeline: str = "pos_sales") -> Generation:
    """Begin a generation and write the files that Spark writes at its first start."""
    made = generation.begin(root, pipeline, query, STATEFUL if stateful else {"state_partitions": None})
    folder = made.paths(root).checkpoint
    put(f"{folder}/metadata", '{"id":"8e3f0f4e-1111-2222-3333-444455556666"}', crc=True)
    put(f"{folder}/sources/0/0", b'\0v1\n{"pos":{"0":0,"1":0}}')
    return made


def archived(root: str) -> None:
    """Write the metadata of the archive table of `pos`, with one batch."""
    noted = {"headrace-batch": "pos_sales.archive_pos/1/4", "headrace-offsets": '{"pos":{"0":50}}'}
    summary = {"snapshot-id": 7, "timestamp-ms": 1, "summary": noted}
    small_files.write_json(
        f"{paths.lake(root)}/pos_sales/archive_pos/metadata/v1.metadata.json",
        {"current-snapshot-id": 7, "snapshots": [summary]},
    )


def plan_batch(root: str, made: Generation, batch: int, ends: Offsets | None = None) -> None:
    """Write the offset log of a batch that takes 10 records of each of 2 partitions."""
    ends = ends or {"pos": {0: 10 * (batch + 1), 1: 10 * (batch + 1)}}
    metadata = {
        "batchWatermarkMs": batch * MINUTE_MS,
        "batchTimestampMs": 1,
        "conf": {"spark.sql.shuffle.partitions": "2"},
    }
    text = "\n".join(["v1", json.dumps(metadata), json.dumps(ends)])
    put(offsets_entry(made.paths(root).checkpoint, batch), text, crc=True)


def write_batch(root: str, made: Generation, batch: int, *, rows_out: int = 5) -> None:
    """Write what the driver writes for a planned batch: files, ledger."""
    paths = made.paths(root)
    if made.query == "files" and rows_out:
        put(f"{paths.files}/batch_id={batch}/part-0.json", f'{{"row":{batch}}}\n')
        put(f"{paths.files}/batch_id={batch}/{file_sink.COMPLETE_MARK}", "")
    batch_range = read_batch_range(paths.checkpoint, batch)
    now = time.time_ns() // 1_000_000
    name = f"{made.pipeline}.{made.query}"
    ledger.write(
        paths.ledger,
        ledger.make_record(name, made.number, batch_range, rows_out=rows_out, began_ms=now, written_ms=now),
    )


def commit(root: str, made: Generation, batch: int, *, stateful: bool = True, snapshot_every: int = 10) -> None:
    """Write state and commit of a batch."""
    folder = made.paths(root).checkpoint
    for partition in range(2 if stateful else 0):
        put(f"{folder}/state/0/{partition}/{batch + 1}.delta", b"delta of %d" % batch, crc=True)
        if (batch + 1) % snapshot_every == 0:
            put(f"{folder}/state/0/{partition}/{batch + 1}.snapshot", b"all up to %d" % batch, crc=True)
        put(f"{folder}/state/0/0/_metadata/schema", b"schema")
    put(commits_entry(folder, batch), f'v1\n{{"nextBatchWatermarkMs":{(batch + 1) * MINUTE_MS}}}', crc=True)


def run(root: str, made: Generation, batches: Iterable[int], *, stateful: bool = True) -> None:
    """Write complete batches."""
    for batch in batches:
        plan_batch(root, made, batch)
        write_batch(root, made, batch)
        commit(root, made, batch, stateful=stateful)


def purge(root: str, made: Generation, below: int) -> None:
    """Remove what Spark no longer keeps (minBatchesToRetain)."""
    folder = made.paths(root).checkpoint
    fs, inner = small_files.locate(folder)
    for path in fs.find(inner):
        name = path.rpartition("/")[2].lstrip(".").split(".")[0]
        parent = path[len(inner) :].split("/")[1]
        if name.isdigit() and parent in {"offsets", "commits", "state"} and int(name) < below:
            fs.rm_file(path)


def rows_of(root: str, made: Generation) -> list[int]:
    """Return the rows that a reader of the file sink sees, sorted."""
    numbers = []
    for directory in file_sink.directories(root, made.pipeline, made.query, made.number, made.lineage):
        fs, inner = small_files.locate(directory.path)
        for path in fs.glob(f"{inner}/part-*"):
            numbers += [int(json.loads(line)["row"]) for line in fs.cat_file(path).decode().splitlines()]
    return sorted(numbers)


def with_files() -> Pipeline:
    """Return pos_sales with one query, which writes files."""
    described = pos_sales()
    items = described.queries["items"].model_copy(update={"sinks": [FilesSink(kind="files")]})
    return described.model_copy(update={"queries": {"files": items}})
