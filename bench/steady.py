"""All pipelines at a steady rate: what their drivers cost, and how old a record is when a sink has it.

    .venv/bin/python -m bench.steady [--rate 200] [--warm 120] [--seconds 120] [--idle 60] [--json]

`headrace produce` sends the mix of the demo to all topics. CPU is user and system time of the drivers with their JVMs and Python
workers, without Kafka and Cassandra. The age of a record is the time from the producer's timestamp until the ledger of a query
says that the batch with it is written to all sinks. A last span has no records, for the cost of an idle platform.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import psutil
from confluent_kafka import Consumer, TopicPartition

from bench import measure
from bench.commands import HEADRACE, PROJECT, lags, platform, run, settings_of
from headrace.access.bindings import read_kafka
from headrace.contract.load import load_pipelines
from headrace.contract.names import query_names
from headrace.local.launcher import launcher
from headrace.operations.waiting import poll
from headrace.store import generation, ledger

HOME = PROJECT / "bench" / "out" / "steady"
START_SECONDS = 600
Times = dict[tuple[str, str], tuple[list[int], list[int]]]
"""(topic, partition) -> the offsets of its records, and their timestamps in milliseconds since 1970."""


def main() -> None:
    """Start everything, measure under load and idle, print."""
    options = _options()
    with platform(HOME) as environment:
        span = options.warm + options.seconds + START_SECONDS
        feed = subprocess.Popen(
            [HEADRACE, "produce", "--rate", str(options.rate), "--duration", str(span), "--json"],
            env=environment, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            run(environment, "stream", "start")
            _await(lambda: _settled(environment, options.rate), "every query keeps up")
            time.sleep(options.warm)
            since_ms = _now_ms()
            loaded = _cores(options.seconds)
            until_ms = _now_ms()
        finally:
            feed.kill()
            feed.wait()
        _await(lambda: not any(lags(environment)), "everything is processed")
        time.sleep(40)  # an archive waits up to 30 s for records
        idle = _cores(options.idle)
        result = {
            "rate": options.rate, "seconds": options.seconds, "load_at_end": round(os.getloadavg()[0], 1),
            "cores": loaded, "idle_cores": idle, "batches": batches(since_ms, until_ms), "age_s": ages(since_ms, until_ms),
        }  # fmt: skip
        print(json.dumps(result, indent=1) if options.json else _table(result))
        run(environment, "stream", "stop")


def drivers() -> dict[str, psutil.Process]:
    """Return the running drivers of this bench by their pipeline."""
    found_by_name = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if str(HOME) in " ".join(words) and any(word.endswith("spark_jobs/main.py") for word in words):
                place = next(number for number, word in enumerate(words) if word.endswith("main.py"))
                found_by_name[words[place + 1]] = process
    return found_by_name


def _cores(seconds: float) -> dict[str, float]:
    """Return how many cores each driver uses over a span of time, sampled each second."""
    began, roots = time.monotonic(), drivers()
    first = {process: spent for root in roots.values() for process, spent in _spent(root)}
    newest: dict[str, dict[psutil.Process, float]] = {name: {} for name in roots}
    while (took := time.monotonic() - began) < seconds:
        for name, root in roots.items():
            newest[name].update(_spent(root))
        time.sleep(1)
    return {
        name: round(sum(spent - first.get(process, 0) for process, spent in parts.items()) / took, 3)
        for name, parts in newest.items()
    }


def _spent(root: psutil.Process) -> Iterator[tuple[psutil.Process, float]]:
    """Yield each process of a tree with its user and system seconds."""
    for process in measure.tree(root):
        with suppress(psutil.Error):
            yield process, sum(process.cpu_times()[:2])


def ages(since_ms: int, until_ms: int) -> dict[str, dict[str, float]]:
    """Return for each query the median, 95th percentile and maximum of the age of its records, in seconds.

    The records are those whose timestamp is between both times (milliseconds since 1970).
    """
    pipelines = load_pipelines(PROJECT / "pipelines").values()
    times = _timestamps([topic for pipeline in pipelines for topic in pipeline.sources])
    result = {}
    for pipeline in pipelines:
        for query in query_names(pipeline):
            waited = sorted(_waited(pipeline.name, query, times, since_ms, until_ms))
            if waited:
                percentile = statistics.quantiles(waited, n=20)[-1] if len(waited) > 1 else waited[0]
                values = {"p50": statistics.median(waited), "p95": percentile, "max": waited[-1]}
                result[f"{pipeline.name}.{query}"] = {name: round(value, 2) for name, value in values.items()}
    return result


def batches(since_ms: int, until_ms: int) -> dict[str, int]:
    """Return how many batches the queries of each pipeline wrote in a span of time."""
    return {
        name: sum(
            since_ms <= record["written_ms"] < until_ms
            for query in query_names(pipeline)
            for record in _ledger(name, query)
        )
        for name, pipeline in load_pipelines(PROJECT / "pipelines").items()
    }


def _ledger(pipeline: str, query: str) -> list[ledger.BatchRecord]:
    """Return the ledger of a query's generation."""
    root = launcher(settings_of(HOME), PROJECT).root
    chosen = generation.current(root, pipeline, query)
    return ledger.read(chosen.paths(root).ledger) if chosen else []


def _waited(pipeline: str, query: str, times: Times, since_ms: int, until_ms: int) -> Iterator[float]:
    """Yield the age of each record of a time span, in seconds, when its batch was written."""
    for record in _ledger(pipeline, query):
        for topic, parts in record["offsets"].items():
            for partition, (start, end) in parts.items():
                offsets, stamps = times[topic, partition]
                for stamp in stamps[bisect_left(offsets, start) : bisect_left(offsets, end)]:
                    if since_ms <= stamp < until_ms:
                        yield (record["written_ms"] - stamp) / 1000


def _timestamps(topics: list[str]) -> Times:
    """Read the timestamp of every record of some topics."""
    client = Consumer(
        read_kafka(settings_of(HOME).bindings()).client_config()
        | {"group.id": "headrace.bench.steady", "enable.auto.commit": False, "enable.partition.eof": False}
    )
    times: Times = defaultdict(lambda: ([], []))
    try:
        listed = client.list_topics(timeout=30).topics
        parts = [TopicPartition(topic, number, 0) for topic in topics for number in listed[topic].partitions]
        left = {(part.topic, part.partition): client.get_watermark_offsets(part, 30)[1] for part in parts}
        client.assign(parts)
        left = {place: end for place, end in left.items() if end}
        while left:
            for message in client.consume(10_000, 5):
                place = message.topic(), message.partition()
                offsets, stamps = times[place[0], str(place[1])]
                offsets.append(message.offset())
                stamps.append(message.timestamp()[1])
                if message.offset() + 1 >= left.get(place, 0):
                    left.pop(place, None)
    finally:
        client.close()
    return times


def _settled(environment: dict[str, str], rate: float) -> bool:
    """Return whether all drivers run and no query is more than ten seconds behind."""
    waiting = lags(environment)
    return len(drivers()) == len(load_pipelines(PROJECT / "pipelines")) and bool(waiting) and max(waiting) < 10 * rate


def _await(condition: Callable[[], bool], what: str) -> None:
    if not poll(condition, START_SECONDS, 2):
        sys.exit(f"the bench waited {START_SECONDS} s until {what}; the drivers' logs are in {HOME}/logs")


def _table(result: Mapping[str, Any]) -> str:
    lines = [f"{result['rate']} records/s for {result['seconds']} s, load {result['load_at_end']} at the end", ""]
    lines += ["| driver | cores | cores when idle | batches | CPU ms a batch |", "|---|---|---|---|---|"]
    made = result["batches"]
    for name, cores in result["cores"].items():
        cost_ms = 1000 * cores * result["seconds"] / max(made[name], 1)
        lines.append(
            f"| {name} | {cores:.3f} | {result['idle_cores'].get(name, 0):.3f} | {made[name]} | {cost_ms:.0f} |"
        )
    total, idle, count = sum(result["cores"].values()), sum(result["idle_cores"].values()), sum(made.values())
    lines.append(
        f"| all | {total:.3f} | {idle:.3f} | {count} | {1000 * total * result['seconds'] / max(count, 1):.0f} |"
    )
    lines += ["", "| query | age of a record: median s | p95 s | maximum s |", "|---|---|---|---|"]
    for name, age in result["age_s"].items():
        lines.append(f"| {name} | {age['p50']:.1f} | {age['p95']:.1f} | {age['max']:.1f} |")
    return "\n".join(lines)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--warm", type=float, default=120)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--idle", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
