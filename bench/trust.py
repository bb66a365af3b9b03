"""What the trust layer costs, with the commands of a user on a real Kafka and Cassandra: refresh, quality, views, reconciliation.

    .venv/bin/python -m bench.trust refresh [--users 100000 1000000]
    .venv/bin/python -m bench.trust quality [--events 1800000]
    .venv/bin/python -m bench.trust day [--events 5000000]

`refresh`: a directory of users, of whom 1 % have another name the next day. `quality`: an hour of events for all four pipelines,
which the drivers process first. `day`: a day of sales that `pos_sales` has processed; its views, then a reconciliation of all
sinks. Each line has wall and CPU seconds and the peak of resident memory of the command with all its processes (pages that
processes share count for each). Neither the drivers nor the servers are in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from bench import measure
from bench.commands import HEADRACE, PROJECT, lags, platform, run, settings_of
from headrace.access.bindings import read_kafka
from headrace.contract.load import load_pipelines
from headrace.operations.produce import run as producing
from headrace.operations.produce.mix import DEMO_RATES, Mix

HOME = PROJECT / "bench" / "out" / "trust"
SAMPLE_SECONDS = 0.2


def main() -> None:
    """Start the platform, measure one part, and remove everything."""
    options = _options()
    with platform(HOME, kafka_heap="512m", cassandra_heap="1g") as environment:
        parts = {"refresh": _refresh, "quality": _quality, "day": _day}
        parts[options.part](environment, options)
        print(f"load {os.getloadavg()[0]:.1f}", flush=True)


def _refresh(environment: dict[str, str], options: argparse.Namespace) -> None:
    drop = HOME / "storage" / "refresh" / "user_logins" / "users" / "drop"
    drop.mkdir(parents=True)
    now = datetime.now(UTC) - timedelta(hours=1)
    for number, users in enumerate(options.users or [100_000, 1_000_000]):
        for what, changed in (("first", 0), ("1 % changed", 100)):
            at = now + timedelta(minutes=2 * number + bool(changed))
            _snapshot(drop / f"users-{at:%Y%m%dT%H%M%SZ}.csv", users, changed)
            plan, _ = _measured(f"refresh, {users:,} users, {what}: plan", environment, "users", "refresh", "--json")
            _measured(
                f"refresh, {users:,} users, {what}: act", environment, "users", "refresh", "--act", plan["id"], "--json"
            )


def _snapshot(path: Path, users: int, changed: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(("login_id", "user_name"))
        for user in range(users):
            new = " the Second" if changed and user % changed == 0 else ""
            rows.writerow((f"login-{user}", f"User Number {user}{new}"))
    Path(f"{path}.done").touch()


def _quality(environment: dict[str, str], options: argparse.Namespace) -> None:
    events = options.events or 1_800_000
    share = events / sum(DEMO_RATES.values())
    mix = Mix(events={topic: round(rate * share) for topic, rate in DEMO_RATES.items()}, duration=3600.0)
    _processed(environment, mix, datetime.now(UTC) - timedelta(hours=1), [])
    summaries, _ = _measured(
        "quality, every sink", environment, "quality", "run", "--no-docs", "--json", codes=(0, 1, 4)
    )
    for summary in summaries:
        print(f"  {summary['sink']}: {summary['status']}, {json.dumps(summary.get('coverage'))}", flush=True)
    _measured(
        "quality, again: nothing is new", environment, "quality", "run", "--no-docs", "--json", codes=(0, 1, 4, 5)
    )


def _day(environment: dict[str, str], options: argparse.Namespace) -> None:
    events = options.events or 5_000_000
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    closing = Mix(events={"pos": 1000}, duration=60.0, since=timedelta(0), seed=2)
    mix = Mix(events={"pos": events}, duration=86_400.0, since=timedelta(0))
    _processed(environment, mix, midnight - timedelta(days=1), ["pos_sales"])
    _processed(environment, closing, datetime.now(UTC) - timedelta(minutes=2), ["pos_sales"])
    _measured("views of a day", environment, "batch", "views", "pos_sales", "--json")
    for what in ("a new day", "the next run: nothing is new"):
        reports, _ = _measured(
            f"reconciliation, {what}", environment, "batch", "reconcile", "pos_sales", "--new", "--json"
        )
        for report in reports if isinstance(reports, list) else [reports]:
            for account in report["accounts"]:
                print(f"  {account['query']} {account['sink']}: {account['compared']} compared, {account['differing']} differ, "
                      f"{account['pending']} pending", flush=True)  # fmt: skip


def _processed(environment: dict[str, str], mix: Mix, start: datetime, pipelines: list[str]) -> None:
    """Produce a mix and wait until the drivers have processed it; then stop them."""
    began = time.monotonic()
    pipelines_known = load_pipelines(PROJECT / "pipelines")
    summary = producing.produce_generated(
        read_kafka(settings_of(HOME).bindings()), pipelines_known, mix, None, None, start
    )
    print(f"{summary.sent:,} records are produced after {time.monotonic() - began:.0f} s", flush=True)
    run(environment, "stream", "start", *pipelines)
    while True:
        waiting = lags(environment, *pipelines)
        print(f"  {time.monotonic() - began:.0f} s, lag of all queries {sum(waiting)}", flush=True)
        if waiting and not any(waiting):
            break
        time.sleep(10)
    time.sleep(40)  # the archive waits up to 30 s for records
    run(environment, "stream", "stop", *pipelines)


def _measured(
    what: str, environment: dict[str, str], *words: str, codes: tuple[int, ...] = (0,)
) -> tuple[Any, measure.Cost]:
    began, peak = time.monotonic(), 0.0
    spent: dict[psutil.Process, float] = {}
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen([HEADRACE, *words], env=environment, cwd=PROJECT, stdout=output)
        root = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, measure.rss_mb(root))
            for process in measure.tree(root):
                with suppress(psutil.Error):
                    spent[process] = sum(process.cpu_times()[:2])
            time.sleep(SAMPLE_SECONDS)
        output.seek(0)
        text = output.read().decode()
    if child.returncode not in codes:
        sys.exit(f"headrace {' '.join(words)} ended with {child.returncode}: {text[-2000:]}")
    cost = measure.Cost(sum(spent.values()), time.monotonic() - began, peak)
    print(f"{what:50s} {cost.wall_s:7.1f} s wall {cost.cpu_s:7.1f} s CPU {cost.peak_rss_mb:7.0f} MB", flush=True)
    return json.loads(text), cost


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("refresh", "quality", "day"))
    parser.add_argument("--users", type=int, nargs="+")
    parser.add_argument("--events", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
