"""What each sink of each pipeline must contain, as SQL over the records in Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from chaos import read
from chaos.load import USERS

if TYPE_CHECKING:
    from chaos.check import Checker, Difference

MICROS = 1_000_000
ISO = "%Y-%m-%d %H:%M:%S.%g"
CLICK_MICROS = 300 * MICROS
"""How long after its impression a click counts."""

MARGIN_MICROS = MICROS
"""Closer than this to the watermark, an impression without a click may have its row or not."""


def _json(name: str) -> str:
    return f"json_extract_string(text, '$.{name}')"


def _pos_sales(checker: Checker) -> Iterator[Difference]:
    for topic in ("pos_items", "pos_final_windows"):
        checker.load(topic)
    checker.db.execute(
        f"""CREATE OR REPLACE TABLE sales AS SELECT part, off, {_json("product_id")} AS product,
        {_json("amount")}::DECIMAL(12,2) AS amount,
        epoch_us({_json("create_date")}::TIMESTAMP) AS sold_us FROM pos WHERE kind = 'good'"""
    )
    yield checker.compare(
        "pos_sales pos_items",
        "SELECT 'pos/' || part || '/' || off AS k, product || ' ' || amount AS v FROM sales",
        f"SELECT id AS k, {_json('product_id')} || ' ' || {_json('amount')}::DECIMAL(12,2) AS v FROM pos_items",
        repeats=True,
    )
    wanted = "SELECT product AS k, sum(amount)::DECIMAL(22,2) || ' ' || count(*) AS v FROM sales GROUP BY product"
    columns: tuple[str, ...] = ("product_id", "total_amount", "sales")
    for name in ("product_totals", "leaderboard"):
        checker.table(name, f"SELECT {', '.join(columns)} FROM pos_sales.{name}", columns)
        present = f"SELECT product_id AS k, total_amount::DECIMAL(22,2) || ' ' || sales AS v FROM {name}"
        yield checker.compare(f"pos_sales {name}", wanted, present)
    columns = ("window_start", *columns)
    present = "left(window_start, 19) || ' ' || product_id AS k, total_amount::DECIMAL(22,2) || ' ' || sales AS v"
    for name, size in (("tumbling", 5), ("sliding", 10)):
        checker.table(name, f"SELECT {', '.join(columns)} FROM pos_sales.{name}", columns)
        checker.taken("pos_sales", name)
        yield checker.compare(f"pos_sales {name}", _window_sums(size), f"SELECT {present} FROM {name}")
    closed_ms = checker.taken("pos_sales", "final_windows")
    start = f"strftime({_json('window_start')}::TIMESTAMP, '%Y-%m-%d %H:%M:%S')"
    final = f"""SELECT {start} || ' ' || {_json("product_id")} AS k,
        {_json("total_amount")}::DECIMAL(22,2) || ' ' || {_json("sales")} AS v FROM pos_final_windows"""
    yield checker.compare("pos_sales pos_final_windows", _window_sums(5, closed_ms * 1000), final, repeats=True)


def _window_sums(size: int, closed: int | None = None) -> str:
    """Return the query of the rows due in a window, from `taken`.

    `size` is in minutes; `closed`: only windows that end at or before it (microseconds).
    """
    span, slide = size * 60 * MICROS, 5 * 60 * MICROS
    only = "" if closed is None else f"WHERE start + {span} <= {closed}"
    return f"""
        WITH pairs AS (
          SELECT s.*, (sold_us // {slide} - back) * {slide} AS start, t.late_ms FROM sales s
          JOIN taken t ON s.part = t.part AND s.off >= t.first AND s.off < t.past, range({size // 5}) AS r(back))
        SELECT strftime(make_timestamp(start), '%Y-%m-%d %H:%M:%S') || ' ' || product AS k,
               sum(amount)::DECIMAL(22,2) || ' ' || count(*) AS v
        FROM (SELECT * FROM pairs WHERE start + {span} > late_ms * 1000) {only} GROUP BY start, product"""


def _web_events(checker: Checker) -> Iterator[Difference]:
    checker.load("transformed")
    event = f"lower({_json('city')}) || ' ' || {_json('domain')} || ':' || {_json('event')}"
    row = f"{_json('lower_city')} || ' ' || {_json('behavior')}"
    wanted = f"SELECT 'quickstart/' || part || '/' || off AS k, {event} AS v FROM quickstart WHERE kind = 'good'"
    present = f"SELECT id AS k, {row} AS v FROM transformed"
    yield checker.compare("web_events transformed", wanted, present, repeats=True)
    by_city = f"SELECT v AS k, 1 AS v FROM ({wanted})"  # the city contains the record's number, so it is unique
    lines = read.lines(checker.storage, "web_events", "files")
    checker.keep("lines", pa.table({"text": pa.array(lines, pa.string())}))
    yield checker.compare("web_events files", by_city, f"SELECT {row} AS k, '1' AS v FROM lines", stays="")


def _sensors(checker: Checker) -> Iterator[Difference]:
    columns = ("sensor_id", "read_at", "celsius")
    checker.table("readings", f"SELECT {', '.join(columns)} FROM sensors.history", columns)
    yield checker.compare(
        "sensors history",
        f"""SELECT {_json("sensor_id")} || ' ' || strftime({_json("read_at")}::TIMESTAMP, '{ISO}') AS k,
        {_json("celsius")}::DECIMAL(5,2)::VARCHAR AS v FROM sensor_readings WHERE kind = 'good'""",
        "SELECT sensor_id || ' ' || left(read_at, 23) AS k, celsius::DECIMAL(5,2)::VARCHAR AS v FROM readings",
    )


def _user_logins(checker: Checker) -> Iterator[Difference]:
    """Each known user has its name, and its newest login if there is one; nobody else has a row."""
    columns = ("login_id", "user_name", "last_login", "last_device")
    checker.table("users", f"SELECT {', '.join(columns)} FROM test_db.users", columns)
    user = _json("login_id")
    yield checker.compare(
        "user_logins users",
        f"""SELECT k, max(v) AS v FROM (
        SELECT 'u' || n || ' User ' || n AS k, ' ' AS v FROM range({USERS}) AS r(n) UNION ALL
        SELECT {user} || ' User ' || substr({user}, 2), strftime({_json("login_at")}::TIMESTAMP, '{ISO}') || ' ' ||
        {_json("device")} FROM logins WHERE kind = 'good') GROUP BY k""",
        """SELECT login_id || ' ' || user_name AS k,
        CASE last_login WHEN 'None' THEN ' ' ELSE left(last_login, 23) || ' ' || last_device END AS v FROM users""",
        stays="greatest",
    )


def _ad_attribution(checker: Checker) -> Iterator[Difference]:
    """Each impression that came in time, with each click of its five minutes that came in time, or with none.

    A restore may match an impression that was once written without a click; that row stays (ADR 0013).
    """
    checker.load("attributed")
    closed = checker.taken("ad_attribution", "attributed") * 1000
    for topic, name in (("impressions", "shown"), ("clicks", "clicked")):
        checker.db.execute(
            f"""CREATE OR REPLACE TABLE {name} AS SELECT {_json("uuid")} AS uuid, {_json("ad_id")} AS ad, moment FROM
            (SELECT *, {_json("create_date")}::TIMESTAMP AS moment FROM {topic} WHERE kind = 'good') s JOIN taken t
            ON t.topic = '{topic}' AND s.part = t.part AND s.off >= t.first AND s.off < t.past
            WHERE epoch_us(moment) > t.late_ms * 1000"""
        )
    key = f"s.uuid || ' ' || strftime(s.moment, '{ISO}') || ' ' || s.ad || ' '"
    matched = f"""SELECT {key} || strftime(c.moment, '%Y-%m-%dT%H:%M:%S.%f') AS k, strftime(c.moment, '{ISO}') AS v FROM shown s
        JOIN clicked c ON s.uuid = c.uuid AND c.moment BETWEEN s.moment AND s.moment + INTERVAL 5 MINUTES"""
    alone = f"""SELECT {key} || 'none' AS k, 'None' AS v, epoch_us(s.moment) + {CLICK_MICROS} AS due_us FROM shown s
        WHERE NOT EXISTS (FROM clicked c WHERE s.uuid = c.uuid AND c.moment BETWEEN s.moment AND s.moment + INTERVAL 5 MINUTES)"""
    columns = ("impr_uuid", "impr_date", "ad_id", "click_key", "click_date")
    checker.table("attributions", f"SELECT {', '.join(columns)} FROM ad_attribution.attributed", columns)
    table = """SELECT impr_uuid || ' ' || left(impr_date, 23) || ' ' || ad_id || ' ' || click_key AS k,
        left(click_date, 23) AS v FROM attributions"""
    records = f"""SELECT {_json("impr_uuid")} || ' ' || strftime({_json("impr_date")}::TIMESTAMP, '{ISO}') || ' ' ||
        {_json("ad_id")} || ' ' || {_json("click_key")} AS k,
        coalesce(strftime({_json("click_date")}::TIMESTAMP, '{ISO}'), 'None') AS v FROM attributed"""
    restored = read.is_restored(checker.storage, "ad_attribution", "attributed")
    for sink, present in (("table", table), ("attributed", records)):
        may = f"due_us <= {closed} + {MARGIN_MICROS} AND k IN (SELECT k FROM ({present}))"
        wanted = f"{matched} UNION ALL SELECT k, v FROM ({alone}) WHERE due_us < {closed} - {MARGIN_MICROS} OR ({may})"
        if restored:
            older = f"SELECT {key} || 'none' AS k, 'None' AS v FROM shown s"
            wanted += f" UNION (SELECT k, v FROM ({older}) WHERE k IN (SELECT k FROM ({present})))"
        yield checker.compare(f"ad_attribution {sink}", wanted, present, repeats=sink == "attributed")


SINKS: dict[str, Callable[[Checker], Iterator[Difference]]] = {
    "pos_sales": _pos_sales,
    "web_events": _web_events,
    "sensors": _sensors,
    "user_logins": _user_logins,
    "ad_attribution": _ad_attribution,
}
