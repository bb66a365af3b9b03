"""All four pipelines as shipped, over generated events with every accident: each sink equals the oracle, to the cent.

Only their names are the tests' own: other tests use the shipped topics and tables, and take records out of them.

The events come in portions, so that late records meet a watermark that has passed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.access.bindings import read_kafka
from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from headrace.operations.dimensions import load_users
from headrace.operations.produce.accounts import user_directory
from headrace.operations.produce.mix import Mix
from headrace.operations.produce.send import send
from tests.support import actual
from tests.support.drivers import Stage, make_stage
from tests.support.events import stream
from tests.support.expected import FIVE_MINUTES, TEN_MINUTES, Oracle, final_watermark, micros

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

PORTIONS = 4
HOURS = 3
OWN = "_exact"
POS, QUICKSTART, LOGINS = (topic + OWN for topic in ("pos", "quickstart", "logins"))
SIZES = {"products": 40, "users": 100, "ads": 20}


@contextmanager
def _run(
    platform: Settings, project: Path, folder: Path, pipeline: str, seed: int, events: dict[str, int]
) -> Iterator[tuple[Stage, Oracle, dict[str, Any]]]:
    """Feed a pipeline in portions, wait until it has taken all, stop it; give stage, oracle and the records by topic."""
    stage = make_stage(platform, project, folder, pipeline, suffix=OWN)
    records = list(stream(seed, events, HOURS, OWN, **SIZES))
    if pipeline == "user_logins":
        load_users(platform.bindings(), stage.pipeline.dimensions["users" + OWN], user_directory(Mix(**SIZES)))
    portion = len(records) // PORTIONS + 1
    try:
        for begin in range(0, len(records), portion):
            send(records[begin : begin + portion], read_kafka(stage.admin), set(stage.pipeline.sources), paced=False)
            if begin == 0:
                stage.start()
            stage.await_quiet()
        topics = {topic: stage.read(topic) for topic in stage.pipeline.sources}
        oracle = Oracle(stage.pipeline.sources, topics)
        stage.await_quiet(_watermarks(stage, oracle))
        assert stage.stop() == 0
        yield stage, oracle, topics
    finally:
        stage.kill()


def _watermarks(stage: Stage, oracle: Oracle) -> dict[str, int]:
    """Return the watermark in milliseconds that each query must come to: the slowest of its sources holds it back."""
    return {
        name: min(
            final_watermark(stage.pipeline.sources[topic], oracle.rows[topic], delay)
            for topic, delay in query.watermark.items()
        )
        for name, query in stage.pipeline.queries.items()
        if query.watermark
    }


def test_pos_sales_equals_the_oracle_in_every_sink(
    platform: Settings, project: Path, tmp_path: Path, seed: int
) -> None:
    with _run(platform, project, tmp_path, "pos_sales", seed, {"pos": 3000}) as (stage, oracle, topics):
        ledgers = actual.require_ledgers(stage)
        actual.require_archive(stage, POS, topics[POS], oracle.rows[POS])

        items, _ = actual.distinct(stage.read("pos_items" + OWN))
        actual.same(
            {name: actual.row_of(stage.pipeline.queries["items"], actual.parse(m.value)) for name, m in items.items()},
            {
                actual.coordinates(POS, place): (row["product_id"], row["amount"])
                for place, row in oracle.rows[POS].items()
            },
            "pos_items",
        )
        totals = oracle.totals(POS)
        actual.same(actual.totals(stage.table("pos_sales" + OWN, "product_totals")), totals, "product_totals")
        actual.same(actual.totals(stage.table("pos_sales" + OWN, "leaderboard")), totals, "leaderboard")

        late_rows = 0
        for query, size in (("tumbling", FIVE_MINUTES), ("sliding", TEN_MINUTES)):
            speed = oracle.windows(POS, ledgers[query], size, FIVE_MINUTES)
            late = oracle.windows(POS, ledgers[query], size, FIVE_MINUTES, late=True)
            late_rows += sum(sales for _, sales in late.values())
            actual.same(actual.windows(stage.table("pos_sales" + OWN, query)), speed, query)
            batch = oracle.all_windows(POS, size, FIVE_MINUTES)
            zero, added = (Decimal(0), 0), {}
            for key in speed.keys() | late.keys():
                (total, sales), (late_total, late_sales) = speed.get(key, zero), late.get(key, zero)
                added[key] = (total + late_total, sales + late_sales)
            actual.same(added, batch, f"batch = speed + late of {query}")
        assert late_rows, "no record was late: the test tells nothing of the late rule"

        closed_ms = ledgers["final_windows"][-1]["watermark_ms"]
        closed = {
            key: sums
            for key, sums in oracle.windows(POS, ledgers["final_windows"], FIVE_MINUTES, FIVE_MINUTES).items()
            if key[1] <= closed_ms * 1000
        }
        sent = stage.read("pos_final_windows" + OWN)
        actual.same(actual.windows(actual.parse(m.value) for m in sent), closed, "pos_final_windows, each exactly once")


def test_web_events_equals_the_oracle_in_files_and_topic(
    platform: Settings, project: Path, tmp_path: Path, seed: int
) -> None:
    with _run(platform, project, tmp_path, "web_events", seed, {"quickstart": 1500}) as (stage, oracle, topics):
        actual.require_ledgers(stage)
        actual.require_archive(stage, QUICKSTART, topics[QUICKSTART], oracle.rows[QUICKSTART])
        wanted = {
            actual.coordinates(QUICKSTART, place): (
                row["city"].lower(),
                row["domain"],
                f"{row['domain']}:{row['event']}",
            )
            for place, row in oracle.rows[QUICKSTART].items()
        }
        query = stage.pipeline.queries["files"]
        transformed, _ = actual.distinct(stage.read("transformed" + OWN))
        actual.same(
            {name: actual.row_of(query, actual.parse(m.value)) for name, m in transformed.items()},
            wanted,
            "transformed",
        )
        rows = [actual.row_of(query, row) for row in actual.files(stage, "files")]
        actual.same(sorted(rows), sorted(wanted.values()), "files")


def test_user_logins_equals_the_oracle_in_users_and_dead_letters(
    platform: Settings, project: Path, tmp_path: Path, seed: int
) -> None:
    with _run(platform, project, tmp_path, "user_logins", seed, {"logins": 1500}) as (stage, oracle, topics):
        actual.require_ledgers(stage)
        known = {row["login_id"]: row for row in stage.table("test_db", "users" + OWN) if row["user_name"] is not None}
        logins = oracle.rows[LOGINS]
        matched = {place for place, row in logins.items() if row["login_id"] in known}
        assert len(matched) < len(logins), "no unknown user came"
        actual.require_archive(stage, LOGINS, topics[LOGINS], matched)
        letters, _ = actual.distinct(stage.read(dead_letter_topic(LOGINS)))
        unmatched = {
            name for name, letter in letters.items() if letter.header("headrace.reason") == "unmatched: login_id"
        }
        assert unmatched == {actual.coordinates(LOGINS, place) for place in logins.keys() - matched}

        # Each cell by itself: the newest that is known, at equal times the greater; Cassandra keeps milliseconds.
        newest = {
            login_id: (last_login // 1000, device)
            for login_id, last_login, device in oracle.sql(
                f"""SELECT login_id, max(login_at), arg_max(device, (login_at, device)) FILTER (device IS NOT NULL)
                FROM {LOGINS} GROUP BY 1"""
            )
            if login_id in known
        }
        wanted = {login_id: newest.get(login_id, (None, None)) for login_id in known}
        is_now = {
            login_id: (None if row["last_login"] is None else _milliseconds(row["last_login"]), row["last_device"])
            for login_id, row in known.items()
        }
        actual.same(is_now, wanted, "users")
        assert {row["login_id"] for row in stage.table("test_db", "users" + OWN)} == known.keys()


def test_ad_attribution_equals_the_oracle_in_table_and_topic(
    platform: Settings, project: Path, tmp_path: Path, seed: int
) -> None:
    events = {"impressions": 1500}
    with _run(platform, project, tmp_path, "ad_attribution", seed, events) as (stage, oracle, topics):
        ledgers = actual.require_ledgers(stage)
        for topic in ("impressions" + OWN, "clicks" + OWN):
            actual.require_archive(stage, topic, topics[topic], oracle.rows[topic])
            oracle.place(topic, ledgers["attributed" + OWN])
        watermark = ledgers["attributed" + OWN][-1]["watermark_ms"]
        # Rows at or below the watermark of the batch before are late. An impression without click leaves the state
        # once no click that is not late can still belong to it.
        rows = oracle.sql(
            f"""
            WITH i AS (SELECT * FROM impressions{OWN}_placed WHERE create_date > late_ms * 1000),
                 c AS (SELECT * FROM clicks{OWN}_placed WHERE create_date > late_ms * 1000)
            SELECT i.uuid, i.create_date, i.ad_id, c.create_date
            FROM i JOIN c ON i.uuid = c.uuid AND c.create_date BETWEEN i.create_date AND i.create_date + {FIVE_MINUTES}
            UNION ALL
            SELECT i.uuid, i.create_date, i.ad_id, NULL FROM i
            WHERE i.create_date < {watermark * 1000 - FIVE_MINUTES} AND NOT EXISTS (
              SELECT 1 FROM c
              WHERE i.uuid = c.uuid AND c.create_date BETWEEN i.create_date AND i.create_date + {FIVE_MINUTES})"""
        )
        assert any(row[3] is None for row in rows)
        assert any(row[3] is not None for row in rows)
        table = stage.table("ad_attribution" + OWN, "attributed" + OWN)
        actual.same(
            sorted(
                map(repr, ((r["impr_uuid"], _milliseconds(r["impr_date"]), r["ad_id"], _none_or_ms(r)) for r in table))
            ),
            sorted({repr((uuid, at // 1000, ad, None if c is None else c // 1000)) for uuid, at, ad, c in rows}),
            "attributed",
        )
        # Two equal records make two equal rows: the topic's identity, like the table's key, takes them as one.
        sent, _ = actual.distinct(stage.read("attributed" + OWN))
        actual.same(
            sorted(map(repr, (_attributed(actual.parse(m.value)) for m in sent.values()))),
            sorted({repr(row) for row in rows}),
            "topic attributed",
        )


def _attributed(row: dict[str, Any]) -> tuple[Any, ...]:
    click = row["click_date"]
    assert (row["click_key"] == "none") == (click is None)
    return row["impr_uuid"], actual.in_micros(row["impr_date"]), row["ad_id"], click and actual.in_micros(click)


def _none_or_ms(row: dict[str, Any]) -> int | None:
    return None if row["click_date"] is None else _milliseconds(row["click_date"])


def _milliseconds(moment: datetime) -> int:
    return micros(moment) // 1000
