"""How a driver ends, and what it tells while it runs: exit codes, heartbeat, metrics, and never a secret."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headrace.contract import names
from headrace.contract.exit_codes import Exit
from headrace.local.settings import Settings
from headrace.store.checkpoint_log import newest_batch
from tests.support import actual
from tests.support.drivers import Content, Stage, group_of, make_stage
from tests.support.expected import accepted

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

# "slow-2000" holds its batch for 2 seconds; "poison" ends the query. JVM only: no worker of Python may be asked.
SPOILT = """

def spoilt(TOPIC: DataFrame) -> DataFrame:
    wait = F.when(
        F.col("product_id").startswith("slow-"),
        F.expr("reflect('java.lang.Thread', 'sleep', cast(substring(product_id, 6) as bigint))"),
    )
    poison = F.when(F.col("product_id") == "poison", F.raise_error(F.lit("the well is poisoned")).cast("string"))
    return TOPIC.withColumn("_spoilt", F.concat_ws("", wait, poison)).where("length(_spoilt) < 9999").drop("_spoilt")
"""
GRACE_SECONDS = 60.0


def _make(platform: Settings, project: Path, folder: Path, suffix: str) -> Stage:
    """Make a pipeline with a query that tests can slow down or end by a record."""

    def with_spoilt(content: Content) -> None:
        queries = content["queries"]
        sink = queries["items"]["sinks"][0]
        queries["spoilt"] = queries["items"] | {"sinks": [sink | {"topic": f"pos_spoilt{suffix}"}]}

    return make_stage(
        platform,
        project,
        folder,
        "pos_sales",
        suffix=suffix,
        queries=("product_totals", "items"),
        trigger="200 milliseconds",
        edit=with_spoilt,
        transforms=SPOILT.replace("TOPIC", f"pos{suffix}"),
        grace_seconds=GRACE_SECONDS,
    )


@pytest.fixture(scope="module")
def stage(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The pipeline of the tests that leave it whole."""
    made = _make(platform, project, tmp_path_factory.mktemp("stop"), "_stop")
    yield made
    made.kill()


@pytest.fixture
def doomed(platform: Settings, project: Path, tmp_path: Path) -> Iterator[Stage]:
    """The pipeline of the test that ends with a checkpoint that cannot go on."""
    made = _make(platform, project, tmp_path, "_die")
    yield made
    made.kill()


@pytest.fixture
def running(stage: Stage) -> Iterator[Stage]:
    """The stage with a driver whose queries run and have nothing to do."""
    if not stage.launcher.find(stage.name):
        stage.start_and_wait()
        _sell(stage, "warm")
        stage.await_quiet()
    yield stage
    if stage.child is not None and stage.child.poll() is None:
        stage.await_quiet()


def _sell(stage: Stage, *products: str, key: str = "") -> None:
    """Send one sale of each product; with a `key`, in this order in one partition."""
    rows = [
        (product, f'{{"product_id": "{product}", "amount": 1.00, "create_date": "2026-03-01 10:00:00"}}')
        for product in products
    ]
    (topic,) = stage.pipeline.sources
    stage.send([(topic, (key or product).encode(), row.encode()) for product, row in rows])


def _planned(stage: Stage, query: str) -> tuple[int, int]:
    """Return the newest (planned, committed) batch of a query; -1 for none."""
    checkpoint = stage.generation(query).paths(stage.root).checkpoint
    newest = [newest_batch(checkpoint, log) for log in ("offsets", "commits")]
    return (-1 if newest[0] is None else newest[0], -1 if newest[1] is None else newest[1])


def _await_under_way(stage: Stage) -> int:
    """Wait until the driver says that a batch of `spoilt` runs; return its number."""

    def running() -> int | None:
        running_batches: dict[str, int | None] = {
            query["query"]: query["running_batch"] for query in stage.heartbeat()["queries"]
        }
        return running_batches[names.query_name(stage.name, "spoilt")]

    _, committed = _planned(stage, "spoilt")
    later: list[int] = []

    def shows_it() -> bool:
        batch = running()
        later.extend([batch] if batch is not None and batch > committed else [])
        return bool(later)

    stage.await_until(shows_it, "a slow batch is under way")
    return later[0]


def _require_each_once(stage: Stage) -> None:
    messages = stage.read("pos_stop")
    places = accepted(stage.pipeline.sources["pos_stop"], messages)
    for topic in ("pos_items_stop", "pos_spoilt_stop"):
        rows, _ = actual.distinct(stage.read(topic))
        assert rows.keys() == {actual.coordinates("pos_stop", place) for place in places}
    actual.require_archive(stage, "pos_stop", messages, places)
    actual.require_ledgers(stage)


def test_sigterm_lets_the_running_batch_finish(running: Stage) -> None:
    _sell(running, "slow-12000", "after", key="one partition")
    batch = _await_under_way(running)
    assert running.stop() == Exit.FINISHED
    assert _planned(running, "spoilt")[1] >= batch
    assert running.ledger("spoilt")[-1]["batch"] >= batch
    assert running.heartbeat()["exit"] == "FINISHED"
    taken = {int(partition): end for partition, (_, end) in running.ledger("spoilt")[-1]["offsets"]["pos_stop"].items()}
    # "after" may have come too late for the batch
    messages = [m for m in running.read("pos_stop") if m.offset < taken.get(m.partition, 0)]
    assert any(b"slow-12000" in (m.value or b"") for m in messages)
    rows, repeats = actual.distinct(running.read("pos_spoilt_stop"))
    assert rows.keys() == {actual.coordinates("pos_stop", (m.partition, m.offset)) for m in messages}
    assert repeats == 0


@pytest.mark.long(group="platform")
def test_a_batch_beyond_the_grace_time_is_cut_off_and_replayed_exactly(stage: Stage, running: Stage) -> None:
    assert running.stop() == Exit.FINISHED
    hasty = Stage(stage.settings, stage.pipeline, replace(stage.launcher, grace_seconds=1))
    hasty.start_and_wait()
    try:
        _sell(hasty, "slow-20000", "after", key="one partition")
        batch = _await_under_way(hasty)
        assert hasty.stop() == Exit.CUT_OFF
        assert _planned(hasty, "spoilt") == (batch, batch - 1)
        assert hasty.ledger("spoilt")[-1]["batch"] == batch - 1
    finally:
        hasty.kill()
    stage.start()
    stage.await_quiet()
    assert stage.stop() == Exit.FINISHED
    assert batch in [record["batch"] for record in stage.ledger("spoilt")]
    _require_each_once(stage)


@pytest.mark.long(group="platform")
def test_a_driver_that_has_nothing_to_do_still_beats(running: Stage) -> None:
    running.await_until(lambda: _is_current(running), "the heartbeat has the newest batches")
    first = running.heartbeat()
    running.await_until(lambda: running.heartbeat()["at_ms"] > first["at_ms"] + 5000, "two more heartbeats")
    later = running.heartbeat()
    assert [query["batch"] for query in later["queries"]] == [query["batch"] for query in first["queries"]]
    assert all(query["active"] and query["lag"] in (0, None) for query in later["queries"])
    assert later["exit"] is None


def _is_current(stage: Stage) -> bool:
    batches = {query["query"]: query["batch"] for query in stage.heartbeat()["queries"]}
    return all(
        batches[names.query_name(stage.name, query)] == _planned(stage, query)[1]
        for query in names.query_names(stage.pipeline)
    )


@pytest.mark.long(group="platform")
def test_the_metrics_endpoint_answers_with_every_query(running: Stage) -> None:
    running.await_until(lambda: all(q["batch"] is not None for q in running.heartbeat()["queries"]), "all have a batch")
    port = running.heartbeat()["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        lines = answer.read().decode().splitlines()
    for query in names.query_names(running.pipeline):
        label = f'{{query="{names.query_name(running.name, query)}"}}'
        values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines if label in line}
        assert values["headrace_query_active"] == 1
        assert values["headrace_query_batch_age_seconds"] >= 0
        assert values["headrace_query_generation"] == 1
        assert {
            "headrace_query_lag_offsets",
            "headrace_query_rows_in_total",
            "headrace_query_batches_total",
        } <= values.keys()


def _family_of(leader: int) -> list[psutil.Process]:
    """Return the living processes of a process group and their descendants, in whatever group those are."""
    family = group_of(leader)
    for member in list(family):
        with contextlib.suppress(psutil.NoSuchProcess):  # a Python worker that ended meanwhile
            family += member.children(recursive=True)
    return family


def test_no_password_is_in_an_argument_an_environment_a_log_or_a_file_of_the_driver(running: Stage) -> None:
    _sell(running, "poison-free")
    running.await_quiet()
    secrets = {
        path.read_text().strip()
        for path in (running.settings.home / "bindings").glob("*/*/password")
        if path.parent.parent.name in ("admin", running.name)
    }
    assert len(secrets) == 4
    assert running.child is not None
    texts: dict[str, str] = {}
    for process in _family_of(running.child.pid):
        try:
            texts[f"arguments of {process.pid}"] = " ".join(process.cmdline())
            texts[f"environment of {process.pid}"] = json.dumps(process.environ())
        except psutil.Error:  # a worker that ended meanwhile
            continue
    assert len(texts) >= 4
    folders = (Path(running.root), running.launcher.log_dir, running.launcher.run_dir, running.launcher.tmp_dir)
    # os.walk and not rglob, which fails at a folder that goes meanwhile
    paths = [Path(place) / name for folder in folders for place, _, files in os.walk(folder) for name in files]
    for path in filter(Path.is_file, paths):
        try:
            texts[str(path)] = path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            continue
    assert any(name.endswith("heartbeat.json") for name in texts)
    assert any("/offsets/" in name for name in texts)
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []


@pytest.mark.long(group="platform")
def test_a_query_that_dies_ends_the_driver_with_the_class_of_its_error(doomed: Stage) -> None:
    """A second writer's entry in the offset log, a state that is gone, a poisonous record: three classes, in turn."""
    doomed.start_and_wait()
    _sell(doomed, "fine")
    doomed.await_quiet()
    planned, _ = _planned(doomed, "items")
    log = Path(doomed.generation("items").paths(doomed.root).checkpoint) / "offsets"
    shutil.copy(log / str(planned), log / str(planned + 1))
    _sell(doomed, "contested")
    assert doomed.await_end() == Exit.DUPLICATE_WRITER, doomed.log[-6000:]
    assert doomed.heartbeat()["exit"] == "DUPLICATE_WRITER"
    (log / str(planned + 1)).unlink()

    state = Path(doomed.generation("product_totals").paths(doomed.root).checkpoint) / "state" / "0"
    state.rename(state.with_name("aside"))
    doomed.start()
    _sell(doomed, "remembered")
    assert doomed.await_end() == Exit.DAMAGED, doomed.log[-6000:]
    shutil.rmtree(state, ignore_errors=True)
    state.with_name("aside").rename(state)

    doomed.start()
    doomed.await_quiet()
    _sell(doomed, "poison")
    assert doomed.await_end() == Exit.TRANSIENT, doomed.log[-6000:]
    assert f" ERROR headrace.driver.runtime: {doomed.name}.spoilt ended: " in doomed.log
    assert "the well is poisoned" in doomed.log
    queries = {query["query"]: query for query in doomed.heartbeat()["queries"]}
    assert not any(query["active"] for query in queries.values()), "the other queries were not stopped"
    assert queries[f"{doomed.name}.spoilt"]["error"]
    sales = {product: sold for product, (_, sold) in actual.totals(doomed.table(doomed.name, "product_totals")).items()}
    sales.pop("poison", None)  # its batch may have been told to stop before it began
    assert sales == {"fine": 1, "contested": 1, "remembered": 1}
