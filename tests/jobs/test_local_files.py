"""What Spark does to files on this machine costs no process of its own (ADR 0016)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.spark

# Two batches of a stateful query, then files of a batch: everything that makes, renames and lists files.
PROGRAM = """
    import sys
    from pathlib import Path
    from headrace.contract.load import load_pipeline
    from headrace.driver import session
    from headrace.store import spark_conf

    folder, jars = Path(sys.argv[1]), sys.argv[2]
    pipeline = load_pipeline(Path("pipelines/pos_sales.yaml"))
    conf = spark_conf.spark_conf(pipeline, str(folder / "lake")) | spark_conf.local_conf(pipeline, 0) | {
        "spark.ui.enabled": "false", "spark.driver.memory": "512m", "spark.driver.extraClassPath": jars,
    }
    spark = session.start("files", conf)
    counted = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 10).load().groupBy("value").count()
    query = (counted.writeStream.outputMode("update").option("checkpointLocation", str(folder / "checkpoint"))
        .foreachBatch(lambda rows, batch: rows.write.json(str(folder / "files" / str(batch)))).start())
    while (query.lastProgress or {"batchId": 0})["batchId"] < 2:
        assert query.isActive, query.exception()
        query.awaitTermination(0.2)
    query.stop()
    print(sorted(path.name for path in (folder / "checkpoint" / "state" / "0" / "0").glob("[0-9]*")))
"""
STUB = """#!/bin/sh
case "$(/usr/bin/readlink /proc/$PPID/exe)" in */java) echo "$0 $*" >> {seen};; esac
exec /usr/bin/{name} "$@"
"""


def test_batches_of_a_stateful_query_start_no_process_for_their_files(
    project: Path, java_home: str, tmp_path: Path
) -> None:
    from headrace.local import jars
    from headrace.local.settings import Settings
    from headrace.store import spark_conf

    stubs, seen = tmp_path / "bin", tmp_path / "seen"
    stubs.mkdir()
    for name in ("chmod", "readlink", "ls", "stat"):
        (stubs / name).write_text(STUB.format(seen=seen, name=name))
        (stubs / name).chmod(0o755)
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    class_path = os.pathsep.join(map(str, jars.spark_jars(Settings.load())))
    done = subprocess.run(
        [sys.executable, program, tmp_path, class_path],
        cwd=project,
        env=os.environ
        | spark_conf.local_environment()
        | {"JAVA_HOME": java_home, "PATH": f"{stubs}:{os.environ['PATH']}", "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2.delta" in done.stdout
    assert not seen.exists(), seen.read_text()
