"""What Spark logs of its own accord has no password of ours, also where it logs events whole.

Slow: a JVM of its own, for the settings are read when it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.contract.load import load_pipelines
from headrace.store.spark_conf import local_environment, spark_conf

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent.parent
CANARY = "canary-4711"
JOB = """
import json, sys
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("local[1]")
for key, value in json.loads(sys.argv[1]).items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel("INFO")
spark.range(3).count()
spark.stop()
"""
# Every event takes as long as that. On a busy node one takes a second, which is when Spark logs it by default.
SLOW = {"spark.ui.enabled": "false", "spark.scheduler.listenerbus.logSlowEvent.threshold": "0ms"}


def _logged(conf: dict[str, str], folder: Path) -> str:
    settings = SLOW | {"spark.cassandra.auth.password": CANARY, "spark.sql.warehouse.dir": str(folder)} | conf
    command = [sys.executable, "-c", JOB, json.dumps(settings)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | local_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.long(group="outages")
def test_an_event_that_takes_long_is_not_logged_with_the_settings_of_its_job(tmp_path: Path) -> None:
    conf = spark_conf(load_pipelines(ROOT / "pipelines")["web_events"], str(tmp_path))
    key = "spark.scheduler.listenerbus.logSlowEvent"
    assert CANARY in _logged({}, tmp_path)
    assert CANARY not in _logged({key: conf[key]}, tmp_path)
