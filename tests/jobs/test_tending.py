"""Who commits to an archive table: its own writer, and nothing beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyspark
import pytest
from pyspark.sql import SparkSession

from headrace.batch import orphan_files
from headrace.batch.finite_job import Job
from headrace.contract import names
from headrace.contract.job_files import UpkeepSpec
from headrace.contract.load import load_pipeline
from headrace.driver import archive_table, iceberg_maintenance, sinks, writer
from headrace.store import archive_notes, paths, small_files
from headrace.store.generation import Generation


def appended(spark: SparkSession, name: str, batches: range) -> None:
    """Append batches of one record each, as the archive query does."""
    archive_table.create(spark, name, "pos")
    for number in batches:
        rows = spark.sql(
            f"SELECT CAST('k' AS BINARY) key, CAST('{number}' AS BINARY) value, "
            "CAST(NULL AS ARRAY<STRUCT<key: STRING, value: BINARY>>) headers, 'pos' topic, 0 `partition`, "
            f"CAST({number} AS BIGINT) `offset`, TIMESTAMP '2026-03-01 12:00:00' timestamp, CAST(NULL AS STRING) reason"
        )
        batch = sinks.Batch(
            "q", Generation(name, "q", 1, 0, {}), number, {"pos": {0: number}}, {"pos": {0: number + 1}}
        )
        sinks.append_archive(rows, names.archive_table(name, "pos"), batch, "id")


def root_of(spark: SparkSession) -> str:
    lake = spark.conf.get("spark.sql.catalog.lake.warehouse")
    assert lake is not None
    assert paths.lake(str(Path(lake).parent)) == lake
    return str(Path(lake).parent)


def versions(root: str, name: str) -> list[str]:
    folder = paths.archive_metadata(root, name, "archive_pos")
    return sorted(file for file in small_files.list_names(folder) if file.endswith(".metadata.json"))


@pytest.mark.spark
def test_upkeep_commits_nothing_beside_a_writer_and_the_writer_makes_few_files_of_many(spark: SparkSession) -> None:
    root, name = root_of(spark), "tended"
    appended(spark, name, range(8))
    before, note = versions(root, name), archive_notes.newest(root, name, "archive_pos")
    pipeline: Any = SimpleNamespace(name=name)
    job = Job(spark, pipeline, {}, root, Path(root) / "none", "run")
    report = orphan_files.run(job, UpkeepSpec())
    assert "archive_pos" in report.tables
    assert versions(root, name) == before, "two processes would commit to one table"

    done = iceberg_maintenance.maintain(spark, root, name, "archive_pos", expire_days=0)
    assert done["files_rewritten"] == 8
    assert archive_notes.newest(root, name, "archive_pos") == note, "the note of what the archive has was expired"
    appended(spark, name, range(8, 9))
    rows = spark.table(names.archive_table(name, "pos")).select("offset").collect()
    assert sorted(row.offset for row in rows) == list(range(9))


def test_an_archive_on_a_disk_is_tended_by_its_writer_and_by_a_replay_of_the_batch_that_should_have(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = writer.Counters()
    seen: list[bool] = []

    def maintain(*_: object) -> dict[str, int]:
        seen.append(counters.maintaining)
        return {}

    monkeypatch.setattr(iceberg_maintenance, "maintain", maintain)
    monkeypatch.setattr(sinks, "newest_note", lambda *_: archive_notes.Note("", {}))
    monkeypatch.setattr(sinks, "not_archived", lambda *_: None)  # a replay finds that all is archived
    pipeline = load_pipeline(project / "pipelines" / "pos_sales.yaml")
    write = writer.archive_write(pipeline, "pos", "/data", {}, "id", counters)
    frame: Any = SimpleNamespace(sparkSession=None)
    for number in (998, 999, 1000, 1999):
        write(frame, sinks.Batch("q", Generation("p", "q", 1, 0, {}), number))
    assert seen == [True, True]
    assert not counters.maintaining


SLOW = """
public class SlowFs extends com.globalmentor.apache.hadoop.fs.BareLocalFileSystem {
  public boolean rename(org.apache.hadoop.fs.Path from, org.apache.hadoop.fs.Path to) throws java.io.IOException {
    if (to.getName().endsWith(".metadata.json")) {
      try { Thread.sleep(2000); } catch (InterruptedException e) { throw new java.io.IOException(e); }
    }
    return super.rename(from, to);
  }
}
"""

BESIDE = """
import json, pathlib, sys
from types import SimpleNamespace
from headrace.batch import orphan_files
from headrace.contract.job_files import UpkeepSpec
from headrace.driver import session
from headrace.batch.finite_job import Job

conf, root, name, folder = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
spark = session.start("beside", conf)
job = Job(spark, SimpleNamespace(name=name), {}, root, folder, "run")
rounds = 0
while not (folder / "end").exists():
    orphan_files.run(job, UpkeepSpec())
    rounds += 1
    (folder / "rounds").write_text(str(rounds))
spark.stop()
"""


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_commit_is_lost_to_upkeep_in_another_process_whose_renames_are_slow(
    spark: SparkSession, java_home: str, tmp_path: Path
) -> None:
    root, name = root_of(spark), "raced"
    appended(spark, name, range(6))
    jars = spark.conf.get("spark.driver.extraClassPath")
    lib = Path(pyspark.__file__).parent / "jars" / "*"
    (tmp_path / "SlowFs.java").write_text(SLOW)
    compiler = shutil.which("javac", path=f"{java_home}/bin") or shutil.which("javac")
    if compiler is None:
        pytest.skip("no javac")
    subprocess.run(
        [compiler, "--release", "17", "-cp", f"{jars}:{lib}", "-d", str(tmp_path), str(tmp_path / "SlowFs.java")],
        check=True,
    )
    conf = {key: value for key, value in spark.sparkContext.getConf().getAll() if not key.startswith("spark.app")}
    for gone in ("spark.driver.port", "spark.executor.id"):
        conf.pop(gone, None)
    conf |= {"spark.hadoop.fs.file.impl": "SlowFs", "spark.driver.extraClassPath": f"{tmp_path}:{jars}"}
    script = tmp_path / "beside.py"
    script.write_text(BESIDE)
    argv = [sys.executable, str(script), json.dumps(conf), root, name, str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        other = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        seen = tmp_path / "rounds"
        number, deadline = 6, time.monotonic() + 480
        while not (seen.exists() and int(seen.read_text() or 0) >= 2 and number >= 14):
            assert other.poll() is None, (tmp_path / "log").read_text()[-4000:]
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-4000:]
            appended(spark, name, range(number, number + 1))
            number += 1
            if number == 10:
                iceberg_maintenance.maintain(spark, root, name, "archive_pos")
        (tmp_path / "end").touch()
        assert other.wait(480) == 0, (tmp_path / "log").read_text()[-4000:]
    finally:
        other.kill()
    rows = spark.table(names.archive_table(name, "pos")).select("offset").collect()
    assert sorted(row.offset for row in rows) == list(range(number))
