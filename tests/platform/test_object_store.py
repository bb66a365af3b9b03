"""A driver whose storage root is an object store: killed (SIGKILL, Python and JVM) in the windows of a batch, and exact.

Checkpoint, state, ledger, heartbeat, JSON files and the Iceberg archive are all in a bucket behind a real S3 API, which
checks each signature. `HEADRACE_TEST_SEED` repeats a run.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from headrace.access.bindings import ROOT_VARIABLE, read_object_store
from headrace.access.object_store import SCHEME
from headrace.local import jars
from headrace.local.settings import Settings
from headrace.store import file_sink, small_files, trees
from headrace.store.checkpoint_log import newest_batch
from tests.support import actual, crash
from tests.support.crashing import ENTRY_POINT, run_into, variables
from tests.support.drivers import Content, Stage, make_stage
from tests.support.events import Feeder, stream
from tests.support.expected import FIVE_MINUTES, Oracle, final_watermark
from tests.support.objects import BUCKET, give
from tests.support.servers import Watch

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1800), pytest.mark.long(group="outages")]

SUFFIX = "_objects"
TOPIC = f"pos{SUFFIX}"
KILLS = (
    (crash.MID_FILES, "files"),
    (crash.STATE_COMMIT, "tumbling"),
    (crash.MID_SINK, f"archive_{TOPIC}"),
    (crash.AFTER_LEDGER, "files"),
)


def _with_files(content: Content) -> None:
    items = content["queries"]["items"]
    content["queries"]["files"] = items | {"sinks": [{"kind": "files"}]}


def _spark_home(folder: Path) -> Path:
    """Return a home of Spark with a folder for executors' files of its own: they go below it, and pyspark is shared."""
    home = folder / "spark"
    home.mkdir()
    for entry in jars.pyspark_jars().parent.iterdir():
        (home / entry.name).symlink_to(entry)
    return home


@pytest.fixture
def stage(
    platform: Settings, object_store: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    made = make_stage(
        platform,
        project,
        tmp_path,
        "pos_sales",
        suffix=SUFFIX,
        queries=("items", "tumbling"),
        trigger="500 milliseconds",
        edit=_with_files,
        transforms="\n\nfiles = items\n",
        root=f"{SCHEME}{BUCKET}/platform",
        main=ENTRY_POINT,
        environment=variables(tmp_path / "plan.json") | {"SPARK_HOME": str(_spark_home(tmp_path))},
        conf={  # an executor that is a process of its own, as on a cluster: it has no binding
            "spark.master": "local-cluster[1,2,600]",
            "spark.executor.memory": "600m",
            "spark.executor.extraClassPath": jars.spark_class_path(platform),
            "spark.executor.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Duser.timezone=UTC",
        },
    )
    give(object_store, made.launcher.bindings / made.name)
    monkeypatch.setenv(ROOT_VARIABLE, str(object_store))
    yield made
    made.kill()


def _leave_half(stage: Stage) -> None:
    """Leave of the files' next batch what a kill leaves right before the mark, and more: a row that is nobody's."""
    files = stage.generation("files").paths(stage.root)
    committed = newest_batch(files.checkpoint)
    half = f"{files.files}/batch_id={0 if committed is None else committed + 1}"
    trees.remove_file(f"{half}/{file_sink.COMPLETE_MARK}")
    small_files.write_text(f"{half}/part-half.json", '{"product_id": "half", "amount": 1}\n')
    assert half not in [directory.path for directory in file_sink.complete(files.files)]


def test_a_driver_on_an_object_store_that_is_killed_loses_and_doubles_nothing(
    stage: Stage, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    plan = tmp_path / "plan.json"
    events = stream(seed, {"pos": 60_000}, hours=24, suffix=SUFFIX, products=30)
    secret = read_object_store(stage.launcher.bindings / stage.name).secret_key.encode()
    with Feeder(stage.admin, events, burst=12) as feeder:
        for point, query in KILLS:
            wanted = {"point": point, "query": query, "skip": dice.randrange(2), "delay_ms": dice.randrange(400)}
            print(f"{wanted}, {feeder.sent} records sent")
            run_into(stage, plan, wanted)
            _leave_half(stage)
    with Watch() as watch:
        stage.start_and_wait()
    topics = {TOPIC: stage.read(TOPIC)}
    oracle = Oracle(stage.pipeline.sources, topics)
    rows = oracle.rows[TOPIC]
    delay = stage.pipeline.queries["tumbling"].watermark[TOPIC]
    stage.await_quiet({"tumbling": final_watermark(stage.pipeline.sources[TOPIC], rows, delay)})
    assert stage.stop() == 0, stage.log[-3000:]
    assert len(topics[TOPIC]) == feeder.sent
    ledgers = actual.require_ledgers(stage)
    actual.require_archive(stage, TOPIC, topics[TOPIC], rows)
    items = stage.pipeline.queries["items"]
    sold = sorted((row["product_id"], row["amount"]) for row in rows.values())
    actual.same(sorted(actual.row_of(items, row) for row in actual.files(stage, "files")), sold, "files")
    speed = oracle.windows(TOPIC, ledgers["tumbling"], FIVE_MINUTES, FIVE_MINUTES)
    actual.same(actual.windows(stage.table(stage.name, "tumbling")), speed, "tumbling")
    assert " maintained " in stage.log, "the archive's writer never did its upkeep"
    executors = "".join(path.read_text() for path in (tmp_path / "spark" / "work").rglob("stderr"))
    assert "Running task" in executors
    assert secret.decode() not in executors
    assert len(secret) > 20
    assert secret.decode() not in stage.log
    assert not any(secret in text for text in watch.texts), "a command line or an environment has the secret key"
