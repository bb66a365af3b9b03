"""The rows of a file sink by batch, also where batches were gathered into one directory."""

from __future__ import annotations

import json
from pathlib import Path

from headrace.contract.checked_sinks import sinks_of
from headrace.contract.load import load_pipelines
from headrace.operations.quality.read import read_files
from headrace.operations.quality.windows import BatchesStep
from headrace.store import ledger, paths
from headrace.store.checkpoint_log import BatchRange

PROJECT = Path(__file__).resolve().parents[3]


def test_gathered_rows_keep_their_batches_and_a_covered_directory_is_not_read_twice(tmp_path: Path) -> None:
    pipeline = load_pipelines(PROJECT / "pipelines")["web_events"]
    (sink,) = [candidate for candidate in sinks_of(pipeline) if candidate.kind == "files"]
    written = paths.generation_paths(str(tmp_path), sink.pipeline, sink.query, 1)
    sizes = {0: 2, 1: 0, 2: 3, 3: 1}
    rows = {batch: [{"domain": f"d{batch}-{number}"} for number in range(size)] for batch, size in sizes.items()}
    gathered = [row for batch in (0, 1, 2) for row in rows[batch]]
    for name, content in (("batch_id=0-2", gathered), ("batch_id=2", rows[2]), ("batch_id=3", rows[3])):
        folder = Path(written.files) / name
        folder.mkdir(parents=True)
        (folder / "part-00000.json").write_text("".join(json.dumps(row) + "\n" for row in content))
    for batch, size in sizes.items():
        taken = BatchRange(batch, {}, {}, 0, 0)
        ledger.write(written.ledger, ledger.make_record("q", 1, taken, rows_out=size, began_ms=0, written_ms=0))
    window = BatchesStep(generation=1, first=1, last=3)
    rows_read = [(row["_batch"], row["domain"]) for row in read_files(str(tmp_path), sink, window)]
    assert rows_read == [(batch, row["domain"]) for batch in (2, 3) for row in rows[batch]]
