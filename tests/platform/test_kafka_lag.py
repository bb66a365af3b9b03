"""Lag for Kafka's own tools: each query's group stands where its checkpoint does, and nothing is ever read back from it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from headrace.contract import names
from headrace.local import jars, kafka
from headrace.local.java import child_environment, find_java
from headrace.local.settings import Settings
from headrace.operations.clients import kafka_admin
from headrace.store.checkpoint_log import newest_batch, read_batch_range
from tests.support import actual
from tests.support.drivers import Stage, group_offsets, make_stage
from tests.support.events import stream
from tests.support.expected import Oracle

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900), pytest.mark.long(group="platform")]

TOPIC = "pos_lag"
TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


def _as_the_tool_says(settings: Settings) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Return group -> partition -> (current offset, log end, lag), as kafka-consumer-groups.sh prints them."""
    java = find_java(settings)
    command = shlex.split(kafka.console_consumer(settings, java, jars.ensure("kafka", settings, java), TOPIC))
    where = command[command.index("--bootstrap-server") : command.index("--topic")]
    done = subprocess.run(
        [*command[:2], TOOL, *where, "--describe", "--all-groups"],
        env=child_environment(java), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    groups: dict[str, dict[str, tuple[int, int, int]]] = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] == TOPIC:
            group, _, partition, current, end, lag = words[:6]
            groups.setdefault(group, {})[partition] = (int(current), int(end), int(lag))
    return groups


def _checkpoint(stage: Stage, query: str, back: int = 0) -> dict[str, int]:
    """Return partition -> offset after the newest batch that is committed, or after one `back` of it."""
    folder = stage.generation(query).paths(stage.root).checkpoint
    newest = newest_batch(folder)
    assert newest is not None
    end = read_batch_range(folder, max(0, newest - back)).end[TOPIC]
    return {str(partition): offset for partition, offset in end.items()}


def _require_exact(stage: Stage) -> None:
    topics = {TOPIC: stage.read(TOPIC)}
    rows = Oracle(stage.pipeline.sources, topics).rows[TOPIC]
    items, _ = actual.distinct(stage.read("pos_items_lag"))
    assert items.keys() == {actual.coordinates(TOPIC, place) for place in rows}
    actual.require_archive(stage, TOPIC, topics[TOPIC], rows)


def test_kafkas_own_tool_sees_each_querys_lag_and_a_deleted_group_changes_nothing(
    platform: Settings, project: Path, tmp_path: Path, seed: int
) -> None:
    events = [(r.topic, r.key, r.value) for r in stream(seed, {"pos": 900}, hours=2, suffix="_lag", products=10)]
    stage = make_stage(platform, project, tmp_path, "pos_sales", suffix="_lag", queries=["items"], trigger="1 second")
    groups = {query: names.consumer_group(stage.name, query) for query in names.query_names(stage.pipeline)}
    try:
        stage.start_and_wait()
        for burst in range(0, 300, 60):  # while batches run: within one batch of the checkpoint
            stage.send(events[burst : burst + 60])
            stage.await_quiet()
            for query, group in groups.items():
                before, after = _checkpoint(stage, query, 1), _checkpoint(stage, query)
                shown = group_offsets(stage.admin, group)[TOPIC]
                assert all(before[p] <= shown[p] <= after[p] for p in after), (query, before, shown, after)
        stage.await_until(
            lambda: all(group_offsets(stage.admin, group)[TOPIC] == stage.ends(TOPIC) for group in groups.values()),
            "the groups stand at the end",
        )
        assert stage.stop() == 0

        stage.send(events[300:600])  # nobody reads: all of it is lag
        lags = _as_the_tool_says(platform)
        for query, group in groups.items():
            wanted = {
                partition: (taken, stage.ends(TOPIC)[partition], stage.ends(TOPIC)[partition] - taken)
                for partition, taken in _checkpoint(stage, query).items()
            }
            assert lags[group] == wanted
            assert sum(lag for _, _, lag in wanted.values()) == 300

        admin = kafka_admin(stage.admin)  # kept: a client that is collected never answers
        for future in admin.delete_consumer_groups(list(groups.values())).values():
            future.result(120)
        known = admin.list_consumer_groups().result(120).valid
        assert not set(groups.values()) & {listed.group_id for listed in known}
        stage.start_and_wait()
        stage.send(events[600:])
        stage.await_quiet()
        assert stage.stop() == 0
        _require_exact(stage)
        actual.require_ledgers(stage)  # the groups are back, at the end
    finally:
        stage.kill()
