"""Late records on many days, then the serving view on a real Cassandra: p50 and p95 of one key and of a page.

    python bench/serving.py [--days 400] [--records 1000000] [--products 500] [--rounds 100]

An archive of POS records of the last days; the batch views of all of them; then one late record on each day, and the views
again (the figure of late records). Cassandra holds the windows since the horizon. Requests go through an open session, as
`Serving` has it; `once` is a request with a session for it alone, without Python's start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from cassandra.concurrent import execute_concurrent_with_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import batch
from bench.smoke import _settings
from headrace.batch import views
from headrace.contract.job_files import ViewsSpec
from headrace.contract.load import load_pipeline
from headrace.driver import archive_table
from headrace.local import platform
from headrace.local.settings import Settings
from headrace.operations.batch import serve
from headrace.operations.batch.serve import Answer, Serving
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.provision.run import provision

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def main() -> None:
    """Create the views, print the time of late records, then that of requests."""
    options = _options()
    shutil.rmtree(batch.OUT, ignore_errors=True)
    settings = _settings()
    shutil.rmtree(settings.home, ignore_errors=True)
    try:
        _views(options)
        _serve(options, settings)
        print(f"load {os.getloadavg()[0]:.1f}")
    finally:
        platform.down(settings)
        shutil.rmtree(batch.OUT, ignore_errors=True)
        shutil.rmtree(settings.home, ignore_errors=True)


def _views(options: argparse.Namespace) -> None:
    batch.START, batch.WEEK = int((TODAY - timedelta(days=options.days)).timestamp()), options.days * 86_400
    job, clock = batch._start(options.heap), batch.Clock()
    try:
        batch._archive(job.spark, options.records, options.products)
        clock.begin()
        spec = ViewsSpec(closed_until=str(TODAY.date()))
        report = views.run(job, spec)
        clock.lap("views", f"{len(report.days)} days")
        _late(job.spark, options)
        clock.begin()
        report = views.run(job, spec)
        clock.lap("views", f"late on {len(report.days)} days")
    finally:
        job.spark.stop()


def _late(spark: archive_table.SparkSession, options: argparse.Namespace) -> None:
    """Append one record for the noon of each day, which arrives today."""
    first = (options.records + 1) // 2
    value = (
        """concat('{"product_id":"product-7","amount":1.00,"create_date":"', """
        f"""date_format(timestamp_seconds({batch.START} + id * 86400 + 43200), 'yyyy-MM-dd HH:mm:ss'), '"}}')"""
    )
    spark.range(0, options.days, 1, 1).selectExpr(
        "CAST(NULL AS BINARY) key", f"CAST({value} AS BINARY) value",
        "CAST(NULL AS ARRAY<STRUCT<key: STRING, value: BINARY>>) headers", "'pos' topic", "0 `partition`",
        f"{first} + id AS `offset`", f"timestamp_seconds({batch.START + batch.WEEK}) AS timestamp", "CAST(NULL AS STRING) reason",
    ).writeTo("lake.pos_sales.archive_pos").append()  # fmt: skip


def _serve(options: argparse.Namespace, settings: Settings) -> None:
    platform.up(settings)
    pipeline = load_pipeline(batch.PROJECT / "pipelines" / "pos_sales.yaml")
    provision([pipeline], settings.bindings(), settings.home / "bindings")
    folders = {name: settings.home / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    drivers = LocalDrivers(**folders, environment={})
    deployment = Deployment(project=batch.PROJECT, root=str(batch.OUT), bindings=settings.bindings(), drivers=drivers)
    now = TODAY + timedelta(hours=24)
    with serve.opened(deployment) as serving:
        _speed_rows(serving, options.products, now)
        key, day = {"product_id": "product-7"}, TODAY - timedelta(days=1)
        print(f"{'request':46s} {'rows':>6s} {'first':>8s} {'p50':>8s} {'p95':>8s} ms")
        _measure(
            "one window of a key, batch",
            options.rounds,
            lambda: serving.query(
                "pos_sales",
                "tumbling",
                key,
                since=day + timedelta(hours=12),
                until=day + timedelta(hours=12, minutes=5),
            ),
        )
        _measure(
            "one window of a key, speed",
            options.rounds,
            lambda: serving.query(
                "pos_sales",
                "tumbling",
                key,
                since=TODAY + timedelta(hours=1),
                until=TODAY + timedelta(hours=1, minutes=5),
            ),
        )
        _measure(
            "total of a key, both layers",
            options.rounds,
            lambda: serving.query("pos_sales", "product_totals", key, until=now),
        )
        _measure(
            "two days of a key, both layers",
            options.rounds,
            lambda: serving.query("pos_sales", "tumbling", key, since=day, until=now),
        )
        for where, since in (("batch", TODAY - timedelta(days=options.days - 1)), ("speed", TODAY)):
            page = serving.query("pos_sales", "tumbling", since=since, until=now, limit=500)
            _measure(
                f"page of 500 windows of a range, {where}",
                options.rounds,
                lambda since=since, page=page: serving.query(
                    "pos_sales", "tumbling", since=since, until=now, limit=500, after=page.next
                ),
            )
        _measure("page of 100 totals", options.rounds, lambda: serving.query(
            "pos_sales", "product_totals", until=now, limit=100))  # fmt: skip
    one = {"since": TODAY + timedelta(hours=1), "until": TODAY + timedelta(hours=1, minutes=5)}
    _measure("total of a key, once", 5, lambda: serve.query(deployment, "pos_sales", "product_totals", key, until=now))
    _measure("one window of a key, once", 5, lambda: serve.query(deployment, "pos_sales", "tumbling", key, **one))


def _speed_rows(serving: Serving, products: int, now: datetime) -> None:
    session = serving.speed.session
    text = "INSERT INTO pos_sales.tumbling (window_start, window_end, product_id, total_amount, sales) VALUES (?, ?, ?, ?, ?)"
    five, starts = timedelta(minutes=5), int((now - TODAY) / timedelta(minutes=5))
    rows = [
        (TODAY + five * n, TODAY + five * (n + 1), f"product-{p}", Decimal(p), 1)
        for n in range(starts)
        for p in range(products)
    ]
    execute_concurrent_with_args(session, session.prepare(text), rows, concurrency=200)
    print(f"Cassandra holds {len(rows)} windows since the horizon", flush=True)


def _measure(what: str, rounds: int, ask: Callable[[], Answer]) -> None:
    taken = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        answer = ask()
        taken.append((time.perf_counter() - begun) * 1000)
    rest = sorted(taken[1:])
    print(f"{what:46s} {len(answer.rows):6d} {taken[0]:8.1f} {statistics.median(rest):8.1f} {rest[int(len(rest) * 0.95)]:8.1f}",
          flush=True)  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--products", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--heap", default="1536m", help="heap of the Spark JVM")
    return parser.parse_args()


if __name__ == "__main__":
    main()
