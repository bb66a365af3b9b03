"""The stateless queries of web_events and user_logins, replayed: each accepted record once, in its batch, in any order."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession

from headrace.contract.load import load_pipeline
from spark_jobs import user_logins, web_events
from tests.support.frames import frame
from tests.support.replay import Input, Job, encode, micros, replay

pytestmark = pytest.mark.spark


def test_both_legs_of_web_events_give_each_accepted_record_once_in_its_batch(
    spark: SparkSession, project: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    pipeline = load_pipeline(project / "pipelines" / "web_events.yaml")
    given = Input(tmp_path / "input", pipeline)
    for _ in range(4):
        events: list[Any] = [
            {
                "city": rng.choice(("Zürich", "ŁÓDŹ", "São Paulo", "東京", "", "NEW YORK")),
                "domain": rng.choice(("a.example", "B.Example", "a:b")),
                "event": rng.choice(("view", "CLICK", "", "a:b")),
            }
            for _ in range(rng.randrange(20))
        ]
        given.lay([{"quickstart": [*events, b"{", b'{"city": "x"}']}])
    by_query = replay(spark, given, {n: Job(n, getattr(web_events, n)) for n in ("files", "topic")}, tmp_path)
    sql, oracle = "SELECT lower($city), $domain, $domain || ':' || $event", duckdb.connect()
    for replayed in by_query.values():
        for batch in replayed.batches:
            expected = [
                (*oracle.execute(sql, dict(r.event)).fetchall()[0], (r.topic, r.partition, r.offset))
                for r in given.records
                if r.step in batch.steps and r.event
            ]
            assert Counter(batch.rows) == Counter(expected), f"batch {batch.number}"


def test_each_login_comes_out_once_known_or_not_with_its_bytes(
    spark: SparkSession, project: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    pipeline = load_pipeline(project / "pipelines" / "user_logins.yaml")
    names = {"ann": "Ann", "bob": "Bob", "left": None}
    users = frame(spark, "login_id string, user_name string", list(names.items()))
    given = Input(tmp_path / "input", pipeline)
    begin = datetime(2025, 12, 31, 23, 59)
    for _ in range(3):
        events = [
            {
                "login_id": rng.choice(("ann", "bob", "left", "ghost")),
                "login_at": begin + timedelta(microseconds=rng.randrange(120_000_000)),
                "device": rng.choice((None, "web", "ios")),
            }
            for _ in range(10)
        ]
        given.lay([{"logins": events}])
    job = Job("last_login", user_logins.last_login, dimensions={"users": users})
    replayed = replay(spark, given, {"last_login": job}, tmp_path)["last_login"]
    expected = [
        (
            r.event["login_id"],
            micros(r.event["login_at"]),
            r.event["device"],
            names.get(r.event["login_id"]) is not None,
            (r.topic, r.partition, r.offset),
            bytearray(encode(r.event)),
        )
        for r in given.records
        if r.event
    ]
    assert sorted(replayed.rows(), key=str) == sorted(expected, key=str)
    assert [len(batch.rows) for batch in replayed.batches] == [10, 10, 10]
