"""`make bench` and `make bench-quick`: Headrace beside its peers on one Kafka, every output checked.

    python -m bench.beside [--quick] [--events N] [--rounds N] [--engines ...] [--no-small] [--into FILE]

How, and what is measured: bench/README.md. Results go to bench/out/ as JSON, Markdown and SVG.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from confluent_kafka.admin import AdminClient, NewTopic

from bench import events, flink_peer, java_peers, measure, oracle, report, small_batch, smoke, spark_peers
from headrace.access.bindings import KafkaBinding, read_kafka
from headrace.local import platform
from headrace.local.settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
OUT = PROJECT / "bench" / "out"
SMALLER = 4  # so many times fewer events has the smaller load
READ, P1, P3 = "read", "P1", "P3"


@dataclass(frozen=True)
class Engine:
    """One engine with one workload. `output` is the topic that it writes; empty: it writes none.

    `warm` is how many large loads it does before the measured ones: a load of a bare consumer takes a second, in which
    the JVM's compilers are not done.
    """

    workload: str
    title: str
    output: str = ""
    quick: bool = True
    warm: int = 1


ENGINES = {
    "bare": Engine(READ, "(a) Java consumer", warm=4),
    "parse": Engine(READ, "(b) Java consumer and Jackson: the floor", warm=4),
    "spark_noop": Engine(READ, "(g) Spark, noop query"),
    "project": Engine(P1, "Java consumer, Jackson, producer", "bench_project", warm=3),
    "ours_items": Engine(P1, "(h) Headrace, pos_sales.items", "pos_items"),
    "ours_windows": Engine(P3, "(h) Headrace, pos_sales.final_windows", "pos_final_windows"),
    "kafka_streams": Engine(P3, "(d) Kafka Streams, RocksDB, commit 5 s", "bench_streams", quick=False),
    "flink": Engine(P3, "(e) PyFlink SQL, heap, checkpoint 5 s", "bench_flink", quick=False),
    "textbook": Engine(P3, "(f) the document's code, 200,000 offsets a batch", "bench_textbook", quick=False),
    "as_written": Engine(P3, "(f) the document's code, one batch", "bench_as_written", quick=False),
}
TITLES = {name: engine.title for name, engine in ENGINES.items()}


@dataclass(frozen=True)
class Load:
    """A topic that is drained, and its events (product, cents, seconds), the closing ones included."""

    topic: str
    loaded: pa.Table

    @property
    def events(self) -> int:
        """Return how many events the topic has."""
        return int(self.loaded.num_rows)

    def check(self, workload: str, said: dict[str, Any], output: pa.Table | None) -> str:
        """Return what equals the oracle. Raises WrongOutputError."""
        if output is None:
            return oracle.require_totals(said, self.loaded)
        require = oracle.require_items if workload == P1 else oracle.require_windows
        return require(output, self.loaded)


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    settings: Settings
    binding: KafkaBinding
    java: java_peers.JavaPeers
    small: Load
    large: Load

    def peer(self, name: str, folder: Path) -> measure.Peer:
        """Start the process of an engine."""
        output = ENGINES[name].output or "-"
        if name in ("bare", "parse", "project"):
            command, environment = self.java.command("Drain", name, output), self.java.environment()
        elif name == "kafka_streams":
            command, environment = self.java.command("Windows", output, str(folder)), self.java.environment()
        elif name == "flink":
            command = flink_peer.command(self.settings, self.binding, output, folder)
            environment = flink_peer.environment(self.settings)
        else:
            command = spark_peers.command(name, output, folder)
            environment = spark_peers.environment(self.settings, folder)
        return measure.Peer(command, environment, folder / "log")

    def run(self, name: str) -> dict[str, Any]:
        """Warm an engine by large loads, then measure the small one and the large one, each with its output checked.

        Raises SystemExit where an output is wrong.
        """
        engine, folder = ENGINES[name], self.settings.home / "peers" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with self.peer(name, folder) as peer:
            for _ in range(engine.warm):
                self.drain(peer, name, self.large)
            _, small = self.drain(peer, name, self.small)
            checked, large = self.drain(peer, name, self.large)
        return {
            "engine": name, "workload": engine.workload, "checked": checked,
            "events": self.large.events, "cpu_s": round(large.cpu_s, 2),
            "small_events": self.small.events, "small_cpu_s": round(small.cpu_s, 2),
            "wall_s": round(large.wall_s, 2), "peak_rss_mb": round(max(small.peak_rss_mb, large.peak_rss_mb)),
        }  # fmt: skip

    def drain(self, peer: measure.Peer, name: str, load: Load) -> tuple[str, measure.Cost]:
        """Let an engine do one load; return what was compared and the cost."""
        engine = ENGINES[name]
        starts = oracle.ends(engine.output, self.binding) if engine.output else {}
        rows = oracle.windows(load.loaded) if engine.workload == P3 else load.events
        said, cost = peer.load(load.topic, load.events, rows)
        try:
            output = oracle.read(engine.output, starts, self.binding) if engine.output else None
            return load.check(engine.workload, said, output), cost
        except oracle.WrongOutputError as error:
            raise SystemExit(f"{name} is wrong, its figures do not count: {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the servers, load, run all rounds, write and print the result; end everything that was started."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("The bench was stopped."))  # so that servers end
    settings = smoke._settings()
    shutil.rmtree(settings.home, ignore_errors=True)
    result = _earlier(options)
    try:
        platform.up(settings)
        bench = _prepared(settings, options.events)
        for _ in range(options.rounds):
            result["rounds"].append({"round": len(result["rounds"]) + 1, "runs": [], "small": None})
            for _ in _round(bench, options, result["rounds"][-1]):  # a round that breaks off keeps what it has
                result |= {"date": time.strftime("%Y-%m-%d"), "machine": _machine()}
                _write(result, options.into)
    finally:
        platform.down(settings)
        if not options.keep:
            shutil.rmtree(settings.home, ignore_errors=True)
    print(report.markdown(result, TITLES))


def _prepared(settings: Settings, count: int) -> Bench:
    binding = read_kafka(settings.bindings())
    topics = [NewTopic(engine.output, events.PARTITIONS, 1) for engine in ENGINES.values() if engine.output]
    admin = AdminClient(binding.client_config())  # its requests end with it
    for made in admin.create_topics(topics).values():
        made.result(30)
    loads = [Load("bench_small", oracle.table(count // SMALLER)), Load("bench_large", oracle.table(count))]
    for load in loads:
        events.load(load.topic, load.events - events.PARTITIONS, binding, close=True)
    return Bench(settings, binding, java_peers.prepare(settings, binding, settings.home / "peers"), *loads)


def _round(bench: Bench, options: argparse.Namespace, taken: dict[str, Any]) -> Iterator[None]:
    """Run every engine once, then the small batches; yield after each one, when its figures are in `taken`."""
    for name in options.engines:
        run = bench.run(name)
        taken["runs"].append(run)
        _say(
            f"round {taken['round']}: {run['workload']} {TITLES[name]}: {report.cpu_per_million(run):.2f} CPU s a million, "
            f"{run['wall_s']:.1f} s, {run['peak_rss_mb']} MB; {run['checked']}"
        )
        yield
    if options.small:
        seconds = ["--warm", str(options.warm), "--seconds", str(options.seconds)]
        taken["small"] = small_batch.measured(bench.settings, small_batch._options(seconds))
        for name in ("here", small_batch.FLOOR):
            shutil.rmtree(bench.settings.home / name, ignore_errors=True)
        yield


def _earlier(options: argparse.Namespace) -> dict[str, Any]:
    """Return the result that this call adds rounds to: a new one, or that of --into. Raises SystemExit where they differ."""
    fresh = {"commit": _commit(), "events": options.events, "rounds": []}
    if not options.into.is_file():
        return fresh
    kept: dict[str, Any] = json.loads(options.into.read_text())
    if any(kept[name] != fresh[name] for name in ("commit", "events")):
        raise SystemExit(f"{options.into} is of another commit or another number of events: name another file.")
    return kept


def _write(result: dict[str, Any], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result, indent=1))
    place.with_suffix(".md").write_text(report.markdown(result, TITLES) + "\n")
    place.with_suffix(".svg").write_text(report.svg(result, TITLES))


def _machine() -> dict[str, Any]:
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"cpu": smoke._cpu(), "cores": os.cpu_count(), "memory_gib": memory, "load": round(os.getloadavg()[0], 1)}


def _commit() -> str:
    """Return the newest commit that changed what is measured, with a mark where there are changes without a commit."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments, "--", "src", "spark_jobs", "pipelines", "bench"]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()

    return git("log", "-1", "--format=%h") + ("-dirty" if git("status", "--porcelain") else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 M events, one round, the floor and Headrace only")
    parser.add_argument("--events", type=int, help="events that are loaded before the first run (default: 4 M)")
    parser.add_argument("--rounds", type=int, help="how often every engine runs, in turns (default: 5)")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, help="default: all, with --quick those of the quick form"
    )
    parser.add_argument("--no-small", dest="small", action="store_false", help="leave the small batches out")
    parser.add_argument("--warm", type=float, default=60, help="small batches: seconds before the measured ones")
    parser.add_argument("--seconds", type=float, default=60, help="small batches: seconds that are measured")
    parser.add_argument("--into", type=Path, help="JSON file; where it exists, rounds are added to it")
    parser.add_argument("--keep", action="store_true", help="keep bench/out/home with the logs")
    options = parser.parse_args(arguments)
    options.events = options.events or (1_000_000 if options.quick else 4_000_000)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.engines = options.engines or [name for name, engine in ENGINES.items() if engine.quick or not options.quick]
    options.into = options.into or OUT / f"bench-{time.strftime('%Y%m%dT%H%M%S')}.json"
    return options


if __name__ == "__main__":
    main()
