"""Faults that an operator puts right: each runs the commands that the platform prints, exactly as printed.

A story takes the ground, the load, the checker and a random number generator. BrokenError: the platform did what it must
not do, or did not print its remedy. Any other error: the fault was not caused.
"""

from __future__ import annotations

import random
import re
import shlex
import time
from collections.abc import Callable

from confluent_kafka.admin import AdminClient, NewTopic

from chaos import quiet, read
from chaos.check import Checker
from chaos.ground import PIPELINES, Ground
from chaos.load import Load

Story = Callable[[Ground, Load, Checker, random.Random], None]
END_SECONDS = 300.0  # a deadline, not a measurement


class BrokenError(Exception):
    """The platform did something wrong."""


def _make_topic_again(ground: Ground, load: Load, checker: Checker, rng: random.Random) -> None:
    """Delete a topic and make it again while its driver runs.

    The driver ends before it skips a record and names the command that begins with the new topic.
    """
    pipeline = rng.choice(ground.pipelines)
    topic = rng.choice(PIPELINES[pipeline])
    load.pause()
    try:
        stuck, differences, _ = quiet.compared_now(ground, checker)
        if stuck or differences:
            raise BrokenError(f"before the topic was deleted: {stuck} {differences}")
        before = _reached(ground, pipeline, topic)
        client = AdminClient(read.kafka_config(ground.admin))
        partitions = len(client.list_topics(topic, 120).topics[topic].partitions)
        client.delete_topics([topic], operation_timeout=60)[topic].result(120)
        quiet.wait_until(lambda: topic not in client.list_topics(timeout=120).topics, END_SECONDS, f"{topic} is gone")
        if rng.random() < 0.5:  # at once, so that no query sees the topic missing
            client.create_topics([NewTopic(topic, partitions)])[topic].result(120)
        else:
            time.sleep(rng.uniform(0, 8))
            ground.must("provision", pipeline)
        checker.begin_again(pipeline)
        load.renew()
    finally:
        load.resume()
    command = _printed(ground, pipeline, r"stream start \S+ --new-generation all --rows keep")
    if (after := _reached(ground, pipeline, topic)) != before:
        raise BrokenError(f"the old generation read the new topic {topic}: {before} before, {after} now")
    _run(ground, command)


def _reached(ground: Ground, pipeline: str, topic: str) -> dict[str, dict[int, int]]:
    """Return query -> partition -> offset up to which the query has read a topic."""
    queries = [query for query, topics in quiet.QUERIES[pipeline].items() if topic in topics]
    return {query: read.reached(ground.storage, pipeline, query, topic) for query in queries}


def _restore(ground: Ground, load: Load, checker: Checker, rng: random.Random) -> None:
    """Go back to a snapshot of a query that has read more since then, with the command that the plan prints."""
    pipeline = rng.choice(ground.pipelines)
    name = f"{pipeline}.{rng.choice(sorted(quiet.QUERIES[pipeline]))}"
    ground.must("checkpoint", "snapshot", name)
    time.sleep(rng.uniform(2, 15))
    ground.must("stream", "stop", pipeline)
    try:
        plan = ground.must("checkpoint", "restore", name, "--reason", "chaos")
        _run(ground, plan.rpartition("To carry it out: headrace ")[2].strip())
    finally:
        ground.headrace("stream", "start", pipeline)


def _printed(ground: Ground, pipeline: str, pattern: str) -> str:
    """Wait until no driver of a pipeline runs and its status prints a command. Returns it. Raises BrokenError."""
    printed: list[str] = []
    status = ""

    def is_printed() -> bool:
        nonlocal status
        status = ground.headrace("stream", "status", pipeline, "--json").stdout
        printed[:] = re.findall(f"headrace ({pattern})", status)
        return bool(printed) and not ground.driver(pipeline)

    try:
        quiet.wait_until(is_printed, END_SECONDS, f"{pipeline} has ended and its status prints `headrace {pattern}`")
    except TimeoutError as error:
        raise BrokenError(f"{error}: {status[-2000:]}") from error
    return printed[0]


def _run(ground: Ground, command: str) -> None:
    """Run a printed command. Raises BrokenError if it fails."""
    done = ground.headrace(*shlex.split(command))
    if done.returncode:
        raise BrokenError(f"`headrace {command}` exited with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")


STORIES: dict[str, Story] = {"topic made again": _make_topic_again, "restore": _restore}
