"""CPU of a small batch: the driver of a pipeline at a low rate, next to other checkouts and Spark's own noop query.

    python bench/small_batch.py [--pipeline web_events] [--partitions 2] [--rate 50]
                                [--warm 120] [--seconds 120] [--repo NAME=FOLDER ...] [--java OPTIONS] [--json]

Real Kafka and Cassandra on free ports in a separate folder (bench/out/), stopped after the run. All drivers run at the
same time over the same topics, so other processes affect all of them equally. Details: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Producer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.smoke import _settings
from headrace.access.bindings import binding_root, read_kafka
from headrace.contract.load import load_pipeline
from headrace.driver import session, source
from headrace.local import platform
from headrace.local.launcher import starting_launcher
from headrace.local.settings import Settings
from headrace.operations.provision.run import provision
from headrace.store import paths, spark_conf

PROJECT = Path(__file__).resolve().parent.parent
OUT = PROJECT / "bench" / "out"
FLOOR = "noop"
START_TIMEOUT_SECONDS = 400
DRIVER, JVM, WORKERS = "Python driver", "JVM", "Python workers"


@dataclass(frozen=True)
class Sample:
    """A process tree at one moment: CPU seconds (user and system, including reaped children) by kind, batches by query."""

    cpu_s: dict[str, float]
    batches: dict[str, int]
    rss_mb: float


@dataclass(frozen=True)
class Line:
    """One driver over the measured time."""

    name: str
    cores: float
    batches: int
    ms_a_batch: float
    parts_ms_a_batch: dict[str, float]
    by_query: dict[str, int]
    rss_mb: float


def main() -> None:
    """Start servers and drivers, warm them up, measure all of them over the same seconds, print."""
    options = _options()
    if options.child:
        _child(*options.child)
        return

    settings = _settings()
    shutil.rmtree(settings.home, ignore_errors=True)
    try:
        platform.up(settings)
        result = measured(settings, options)
        (OUT / f"small-{time.strftime('%Y%m%dT%H%M%S')}.json").write_text(json.dumps(result, indent=1))
        print(json.dumps(result, indent=1) if options.json else _table(result))
    finally:
        platform.down(settings)
        if not options.keep:
            shutil.rmtree(settings.home, ignore_errors=True)


def measured(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """Start the drivers on servers that run, measure them and end them; returns what is printed as JSON."""
    started: dict[str, int] = {}
    try:
        pipeline = load_pipeline(PROJECT / "pipelines" / f"{options.pipeline}.yaml")
        wide = {
            topic: source.model_copy(update={"partitions": options.partitions})
            for topic, source in pipeline.sources.items()
        }
        provision([pipeline.model_copy(update={"sources": wide})], settings.bindings(), settings.home / "bindings")
        repos = {"here": PROJECT} | {name: Path(folder).resolve() for name, folder in options.repo}
        feed = Feed(settings, options)
        for name in [*repos, FLOOR]:
            started[name] = _start(settings, options, name, repos.get(name, PROJECT))
        _feed_until(feed, lambda: all(_wrote(settings.home, name, started[name], options.pipeline) for name in started))
        _feed_for(feed, options.warm)
        before = {name: _sample(settings.home, name, pid, options.pipeline) for name, pid in started.items()}
        began = time.monotonic()
        _feed_for(feed, options.seconds)
        seconds = time.monotonic() - began
        after = {name: _sample(settings.home, name, pid, options.pipeline) for name, pid in started.items()}
        return {
            "pipeline": options.pipeline, "partitions": options.partitions, "rate": options.rate,
            "warm_s": options.warm, "seconds": round(seconds),
            "load_at_end": os.getloadavg()[0], "java": options.java,
            "lines": [asdict(_line(name, before[name], after[name], seconds)) for name in started],
        }  # fmt: skip
    finally:
        for pid in started.values():
            _end(pid)


def _end(pid: int) -> None:
    """End a driver with all its processes; PySpark puts the JVM into a group of its own."""
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with suppress(psutil.Error):
                process.kill()
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class Feed:
    """Sends the records of a small shop to every topic of the pipeline, `rate` per second in total."""

    def __init__(self, settings: Settings, options: argparse.Namespace) -> None:

        sources = load_pipeline(PROJECT / "pipelines" / f"{options.pipeline}.yaml").sources
        self._topics, self._rate = sources, options.rate
        self._producer = Producer(read_kafka(settings.bindings()).client_config())
        self._chance = random.Random(17)

    def second(self) -> None:
        """Send one second's records in ten parts and wait until the second is over."""
        end = time.monotonic() + 1
        for part in range(10):
            for _ in range(max(1, self._rate // 10)):
                topic = self._chance.choice(list(self._topics))
                source = self._topics[topic]
                record = {name: self._value(name, str(column.type)) for name, column in source.columns.items()}
                self._producer.produce(topic, json.dumps(record).encode(), key=str(record[source.key]).encode())
            self._producer.poll(0)
            time.sleep(max(0.0, end - time.monotonic() - (9 - part) / 10))

    def _value(self, name: str, kind: str) -> object:
        now = time.time()
        if "timestamp" in kind:
            return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(now)) + f"{int(now % 1 * 1e6):06d}Z"
        if "decimal" in kind:
            return f"{self._chance.randrange(100, 10_000) / 100:.2f}"
        if kind.startswith(("int", "long", "bigint")):
            return self._chance.randrange(200)
        return f"{name}-{self._chance.randrange(200)}"


def _wrote(home: Path, name: str, pid: int, pipeline: str) -> bool:
    if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
        raise SystemExit(
            f"{name} ended, its log says:\n" + "\n".join((home / name / "log").read_text().splitlines()[-20:])
        )
    return bool(_beats(home, name, pipeline))


def _feed_for(feed: Feed, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        feed.second()


def _feed_until(feed: Feed, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(
                f"not every driver wrote a batch within {START_TIMEOUT_SECONDS} s: see {OUT}/home (--keep)"
            )
        feed.second()


def _start(settings: Settings, options: argparse.Namespace, name: str, repo: Path) -> int:
    """Start a driver (or the noop query) with the code of `repo`, in its own process group; return its id."""
    folder = settings.home / name
    folder.mkdir(parents=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(repo / "src"), str(PROJECT / "bench")]),
        "HEADRACE_HOME": str(settings.home),
        "HEADRACE_SPARK_UI_PORT_BASE": str(settings.spark_ui_port_base),
        "HEADRACE_AIRFLOW": "false",
    }
    if options.java is not None and name in ("here", FLOOR):
        environment["HEADRACE_DRIVER_JAVA_OPTIONS"] = options.java
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child", name, str(repo), options.pipeline],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=repo, start_new_session=True,
        )  # fmt: skip
    return child.pid


def _child(name: str, repo: str, pipeline: str) -> None:
    """Become the driver of a pipeline with the settings of its checkout, or run the noop query in this process."""
    settings = Settings.load()
    folder = settings.home / name
    child_launcher = replace(
        starting_launcher(settings, Path(repo)),
        root=str(folder / "storage"), run_dir=folder / "run", log_dir=folder, tmp_dir=folder / "tmp",
    )  # fmt: skip
    for place in (child_launcher.run_dir, child_launcher.tmp_dir / child_launcher.name(pipeline)):
        place.mkdir(parents=True, exist_ok=True)
    environment = child_launcher.driver_environment(pipeline) | {"PYTHONPATH": os.environ["PYTHONPATH"]}
    if name == FLOOR:
        os.environ.update(environment)
        _noop(folder, pipeline)
        return
    main = Path(repo) / "spark_jobs" / "main.py"
    os.execve(
        sys.executable, [sys.executable, str(main), pipeline, str(child_launcher.lock_file(pipeline))], environment
    )


def _noop(folder: Path, name: str) -> None:
    """Run Spark's cheapest query over the pipeline's first topic: Kafka to the built-in noop sink, every two seconds."""
    pipeline = load_pipeline(PROJECT / "pipelines" / f"{name}.yaml")
    conf = spark_conf.spark_conf(pipeline, str(folder / "lake")) | spark_conf.local_conf(pipeline, 0)
    spark = session.start("noop", conf | json.loads(os.environ["HEADRACE_SPARK_CONF"]))
    raw = source.stream(
        spark, pipeline, next(iter(pipeline.sources)), session.kafka_options(read_kafka(binding_root()))
    )
    writing = raw.writeStream.format("noop").queryName("noop").trigger(processingTime="2 seconds")
    query = writing.option("checkpointLocation", str(folder / "checkpoint")).start()
    while query.isActive:
        last = query.lastProgress
        (folder / "batches.new").write_text(json.dumps({"noop": last["batchId"] + 1 if last else 0}))
        (folder / "batches.new").replace(folder / "batches")
        time.sleep(1)


def _beats(home: Path, name: str, pipeline: str) -> dict[str, int]:
    """Return the number of batches of each query so far; empty until each has one."""
    place = home / name / "batches" if name == FLOOR else Path(paths.heartbeat(str(home / name / "storage"), pipeline))
    try:
        content = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    batches = content if name == FLOOR else {query["query"]: query["batches"] for query in content["queries"]}
    return batches if batches and all(batches.values()) else {}


def _sample(home: Path, name: str, pid: int, pipeline: str) -> Sample:
    cpu = {DRIVER: 0.0, JVM: 0.0, WORKERS: 0.0}
    rss = 0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):
            times = process.cpu_times()
            kind = DRIVER if process.pid == pid else JVM if "java" in process.name() else WORKERS
            seconds = times.user + times.system
            # The daemon's sum includes workers that ended; running children are counted separately.
            cpu[kind] += seconds + (times.children_user + times.children_system if kind == WORKERS else 0.0)
            rss += process.memory_info().rss
    return Sample(cpu, _beats(home, name, pipeline), rss / 2**20)


def _line(name: str, before: Sample, after: Sample, seconds: float) -> Line:
    spent = {kind: after.cpu_s[kind] - before.cpu_s[kind] for kind in after.cpu_s}
    by_query = {query: after.batches[query] - before.batches.get(query, 0) for query in after.batches}
    batches = sum(by_query.values())
    return Line(
        name,
        cores=round(sum(spent.values()) / seconds, 3),
        batches=batches,
        ms_a_batch=round(sum(spent.values()) / max(1, batches) * 1000, 1),
        parts_ms_a_batch={kind: round(value / max(1, batches) * 1000, 1) for kind, value in spent.items()},
        by_query=by_query,
        rss_mb=round(after.rss_mb),
    )


def _table(result: dict[str, Any]) -> str:
    heads = ["", "cores", "batches", "ms CPU per batch", JVM, WORKERS, DRIVER, "MB"]
    rows: list[Sequence[object]] = [
        (line["name"], line["cores"], line["batches"], line["ms_a_batch"],
         *(line["parts_ms_a_batch"][kind] for kind in (JVM, WORKERS, DRIVER)), line["rss_mb"])
        for line in result["lines"]
    ]  # fmt: skip
    widths = [max(len(str(row[i])) for row in [heads, *rows]) for i in range(len(heads))]
    return "\n".join(
        "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]
    )


def _pair(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not folder or not (Path(folder) / "spark_jobs" / "main.py").is_file():
        raise argparse.ArgumentTypeError(f"{text}: write NAME=FOLDER, where FOLDER is a checkout")
    return name, folder


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="web_events")
    parser.add_argument("--rate", type=int, default=50, help="records per second, over all topics of the pipeline")
    parser.add_argument(
        "--warm", type=float, default=120, help="warm-up after every query has written a batch, in seconds"
    )
    parser.add_argument("--seconds", type=float, default=120, help="measured time in seconds")
    parser.add_argument(
        "--repo",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="another checkout to compare with",
    )
    parser.add_argument("--partitions", type=int, default=2, help="partitions of each topic")
    parser.add_argument("--java", help="JVM options instead of HEADRACE_DRIVER_JAVA_OPTIONS, for this checkout")
    parser.add_argument("--keep", action="store_true", help="keep bench/out/home with the logs")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
