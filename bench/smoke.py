"""CPU per event of `pos_sales.tumbling`: the source document's code as written against ours, side by side.

    python bench/smoke.py [--sizes 500000,2000000] [--rounds 2] [--variants ...] [--sinks ...] [--heap 1g] [--json]

Real Kafka and Cassandra on free ports in a separate folder (bench/out/), stopped after the run. What is measured and
what is not: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import events
from headrace.access.bindings import read_kafka
from headrace.contract.load import load_pipeline
from headrace.local import jars, platform
from headrace.local.java import child_environment, find_java
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session
from headrace.operations.provision.run import provision
from headrace.store import spark_conf

PROJECT = Path(__file__).resolve().parent.parent
OUT = PROJECT / "bench" / "out"
VARIANTS = {
    "as_written": "the document's code, one batch as large as the backlog",
    "textbook": "the same with maxOffsetsPerTrigger=200000",
    "ours": "our decoder, transform and session settings",
}
SAMPLE_SECONDS = 0.25
DRAIN_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Drain:
    """One drain: CPU seconds (user + sys) of its entire process tree, wall seconds of the query, rows and batches."""

    variant: str
    sink: str
    events: int
    cpu_s: float
    wall_s: float
    rows: int
    batches: int


def main() -> None:
    """Set up, check, measure, print."""
    options = _options()
    sizes = sorted(int(size) for size in options.sizes.split(","))
    settings = _settings()
    shutil.rmtree(settings.home, ignore_errors=True)
    try:
        platform.up(settings)
        _say(options, f"Kafka and Cassandra are running; {len(sizes)} topics are filled")
        pipeline = load_pipeline(PROJECT / "pipelines" / "pos_sales.yaml")
        provision([pipeline], settings.bindings(), settings.home / "bindings")
        width = {size: events.load(_topic(size), size, read_kafka(settings.bindings())) / size for size in sizes}
        for variant in options.variants:
            _check(settings, options, variant, sizes[0])
        drains = []
        for turn in range(options.rounds):
            for size in sizes:
                for sink in options.sinks:
                    for variant in options.variants:
                        drains.append(_drain(settings, options, variant, sink, size))
                        _say(options, f"round {turn + 1}: {_sentence(drains[-1])}")
        result = _summary(drains, sizes, width)
        OUT.mkdir(exist_ok=True)
        (OUT / f"smoke-{time.strftime('%Y%m%dT%H%M%S')}.json").write_text(json.dumps(result, indent=1))
        print(json.dumps(result, indent=1) if options.json else _table(result, sizes))
    finally:
        platform.down(settings)
        shutil.rmtree(settings.home, ignore_errors=True)


def _drain(settings: Settings, options: argparse.Namespace, variant: str, sink: str, size: int) -> Drain:
    """Run one drain in its own process and return its cost; the Cassandra table is emptied before and checked after."""
    folder = settings.home / "drain"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if sink == "cassandra":
        with cassandra_session(settings.bindings()) as session:
            session.execute("TRUNCATE pos_sales.tumbling")
    report, cpu = _measured(settings, options, variant, sink, size, folder)
    if report["rows"] != size:
        raise SystemExit(f"{variant} read {report['rows']} of {size} events: see {folder.parent}/drain.log")
    if sink == "cassandra":
        with cassandra_session(settings.bindings()) as session:
            rows = session.execute("SELECT window_start, product_id, total_amount FROM pos_sales.tumbling").all()
        written = {(int(r.window_start.timestamp()), r.product_id): int(r.total_amount * 100) for r in rows}
        _require_equal(variant, size, written)
    return Drain(variant, sink, size, round(cpu, 2), round(report["wall_s"], 2), report["rows"], report["batches"])


def _measured(
    settings: Settings, options: argparse.Namespace, variant: str, sink: str, size: int, folder: Path
) -> tuple[dict[str, Any], float]:
    """Start the process, sample its tree until it reports, read the tree a last time, and let it exit."""
    with (settings.home / "drain.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, str(PROJECT / "bench" / "drain.py"), variant, sink, _topic(size), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=_environment(settings, options, folder), start_new_session=True,
        )  # fmt: skip
        assert child.stdin
        assert child.stdout
        tree = psutil.Process(child.pid)
        spent: dict[tuple[int, float], float] = {}
        try:
            os.set_blocking(child.stdout.fileno(), False)
            deadline = time.monotonic() + DRAIN_TIMEOUT_SECONDS
            while not (line := child.stdout.readline()).startswith("{"):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{variant}/{sink} did not drain {size} events: {_tail(settings)}")
                _sample(tree, spent)
                time.sleep(SAMPLE_SECONDS)
            _sample(tree, spent)
            child.stdin.write("\n")
            child.stdin.flush()
            child.wait(60)
        finally:
            for process in _family(tree):
                process.kill()
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
    return json.loads(line), sum(spent.values())


def _sample(tree: psutil.Process, spent: dict[tuple[int, float], float]) -> None:
    """Record user + sys seconds of each process of the tree. Workers that end between two samples lose at most one interval.

    Python workers are counted this way because no process waits for them: they are in no parent's rusage.
    """
    for process in [tree, *_family(tree)]:
        try:
            times = process.cpu_times()
            spent[process.pid, process.create_time()] = times.user + times.system
        except psutil.Error:
            continue


def _family(tree: psutil.Process) -> list[psutil.Process]:
    try:
        return tree.children(recursive=True)
    except psutil.Error:
        return []


def _check(settings: Settings, options: argparse.Namespace, variant: str, size: int) -> None:
    """Drain the smaller topic into files and compare every window's sum with DuckDB's over the same events."""
    folder = settings.home / "check"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _measured(settings, options, variant, "check", size, folder)
    sums = duckdb.sql(
        "SELECT epoch(window_start)::BIGINT AS started, product_id, arg_max(total_amount, batch) * 100 AS cents "
        f"FROM read_parquet('{folder}/rows/*/*.parquet', hive_partitioning = true) GROUP BY ALL"
    )
    assert sums is not None
    newest = sums.fetchall()
    _require_equal(variant, size, {(started, product): int(cents) for started, product, cents in newest})
    _say(options, f"{variant}: {len(newest)} window sums of {size} events equal DuckDB's")


def _require_equal(variant: str, size: int, actual: dict[tuple[int, str], int]) -> None:
    wanted = events.expected(size)
    sums = dict(
        zip(
            zip(wanted["started"].to_pylist(), wanted["product_id"].to_pylist(), strict=True),
            wanted["cents"].to_pylist(),
            strict=True,
        )
    )
    if actual != sums:
        raise SystemExit(
            f"{variant} is wrong: {len(set(actual.items()) ^ set(sums.items()))} sums of {size} events differ"
        )


def _environment(settings: Settings, options: argparse.Namespace, folder: Path) -> dict[str, str]:
    java = find_java(settings)
    conf = {
        "spark.master": f"local[{options.cores}]",
        "spark.driver.memory": options.heap,
        "spark.driver.host": settings.host,
        "spark.driver.bindAddress": settings.host,
        "spark.driver.extraClassPath": os.pathsep.join(map(str, jars.spark_jars(settings))),
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    return child_environment(java) | spark_conf.local_environment() | {
        "BENCH_CONF": json.dumps(conf | dict(pair.split("=", 1) for pair in options.conf)),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(path for path in (os.environ.get("PYTHONPATH"),) if path),
        "SERVICE_BINDING_ROOT": str(settings.bindings()),
        "SPARK_LOCAL_DIRS": str(folder),
        "TMPDIR": str(folder),
    }  # fmt: skip


def _summary(drains: list[Drain], sizes: list[int], width: dict[int, float]) -> dict[str, Any]:
    """Return the drains and, per variant and sink, median CPU by size and its slope in microseconds per event."""
    lines: list[dict[str, Any]] = []
    for variant, sink in dict.fromkeys((d.variant, d.sink) for d in drains):
        cpu = {
            n: statistics.median(d.cpu_s for d in drains if (d.variant, d.sink, d.events) == (variant, sink, n))
            for n in sizes
        }
        small, large = sizes[0], sizes[-1]
        slope = (cpu[large] - cpu[small]) / (large - small) * 1e6 if large > small else None
        lines.append({
            "variant": variant, "sink": sink, "cpu_s": {str(n): round(s, 1) for n, s in cpu.items()},
            "events_per_cpu_s": round(large / cpu[large]), "us_per_event_warm": round(slope, 2) if slope else None,
        })  # fmt: skip
    return {
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30)},
        "load_at_end": os.getloadavg()[0],
        "bytes_an_event": round(width[sizes[-1]], 1),
        "lines": lines,
        "ratios_warm": {
            f"{line['sink']}: ours / {other['variant']}": round(
                line["us_per_event_warm"] / other["us_per_event_warm"], 3
            )
            for line in lines
            for other in lines
            if line["variant"] == "ours" != other["variant"]
            and line["sink"] == other["sink"]
            and line["us_per_event_warm"]
        },
        "drains": [asdict(drain) for drain in drains],
    }


def _table(result: dict[str, Any], sizes: list[int]) -> str:
    heads = [
        "variant",
        "sink",
        *(f"CPU s, {size / 1e6:g} M" for size in sizes),
        "events / CPU s",
        "us CPU / event, warm",
    ]
    rows = [
        [line["variant"], line["sink"], *(f"{line['cpu_s'][str(size)]:.1f}" for size in sizes),
         f"{line['events_per_cpu_s']:,}", f"{line['us_per_event_warm']}"]
        for line in result["lines"]
    ]  # fmt: skip
    widths = [max(len(str(row[i])) for row in [heads, *rows]) for i in range(len(heads))]
    text = ["  ".join(str(cell).rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [heads, *rows]]
    text += [f"{name} = {ratio:.2f}" for name, ratio in result["ratios_warm"].items()]
    machine = result["machine"]
    text.append(
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, load {result['load_at_end']:.1f}"
    )
    return "\n".join(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2000000,8000000", help="events in the preloaded topics, comma-separated")
    parser.add_argument("--rounds", type=int, default=2, help="number of interleaved measurements")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--sinks", nargs="+", choices=["noop", "cassandra"], default=["noop", "cassandra"])
    parser.add_argument("--heap", default="1g", help="heap of the Spark JVM, the same for all variants")
    parser.add_argument("--cores", type=int, default=2, help="local[N]")
    parser.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="an additional Spark setting")
    parser.add_argument("--json", action="store_true", help="print the complete result as JSON")
    return parser.parse_args()


def _settings() -> Settings:
    names = ("kafka_port", "kafka_controller_port", "cassandra_port", "cassandra_storage_port", "cassandra_jmx_port")
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in names]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports: dict[str, Any] = {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}
    return Settings.load(home=OUT / "home", airflow=False, kafka_heap="512m", cassandra_heap="512m", **ports)


def _topic(size: int) -> str:
    return f"bench_pos_{size}"


def _sentence(drain: Drain) -> str:
    return (
        f"{drain.variant} -> {drain.sink}, {drain.events:,} events: {drain.cpu_s:.1f} CPU s, {drain.wall_s:.1f} s, "
        f"{drain.batches} batches"
    )


def _say(options: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


def _tail(settings: Settings) -> str:
    return "\n".join((settings.home / "drain.log").read_text(errors="replace").splitlines()[-25:])


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "an unknown CPU"


if __name__ == "__main__":
    main()
