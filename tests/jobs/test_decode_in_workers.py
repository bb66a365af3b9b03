"""The decoder inside Spark's Arrow workers: the one thing about it that needs a JVM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from headrace.contract.platform_columns import RAW as RAW_COLUMN
from headrace.contract.platform_columns import SOURCE
from headrace.driver import decode, source
from tests.driver.decode_data import GOOD, KAFKA_TIME, POS, batch
from tests.driver.test_decode_kinds import ACCEPTED, REFUSED

pytestmark = pytest.mark.spark
RAW = (
    "key binary, value binary, headers array<struct<key:string,value:binary>>, topic string, partition int, "
    "`offset` bigint, timestamp timestamp"
)
WITH_RAW = (*decode.USUAL, RAW_COLUMN)
SMALL = [v for v, _ in [*REFUSED.values(), *ACCEPTED.values()] if v is None or len(v) < 20_000]


def raw_frame(spark: Any, values: Sequence[bytes | None]) -> Any:
    rows = [(b"k", value, [("trace", b"\xff")], "pos", 3, i, KAFKA_TIME) for i, value in enumerate(values)]
    return spark.createDataFrame(rows, RAW)


def test_a_worker_accepts_what_the_decoder_accepts(spark: Any) -> None:
    accepted = source.accepted(raw_frame(spark, SMALL), POS, WITH_RAW)
    rows = accepted.selectExpr("*", "unix_micros(create_date) AS micros").orderBy(f"{SOURCE}.offset").collect()
    (expected,) = decode.accepted([batch(SMALL)], POS, WITH_RAW)
    for name in ("product_id", "amount", RAW_COLUMN):
        assert [row[name] for row in rows] == expected.column(name).to_pylist()
    assert [row[SOURCE].asDict() for row in rows] == expected.column(SOURCE).to_pylist()
    assert [row["micros"] for row in rows] == expected.column("create_date").view("int64").to_pylist()


def test_a_worker_judges_what_the_decoder_judges(spark: Any) -> None:
    judged = source.judged(raw_frame(spark, SMALL), POS).orderBy("offset").collect()
    (expected,) = decode.judged([batch(SMALL)], POS)
    assert [row["reason"] for row in judged] == expected.column("reason").to_pylist()
    assert [None if row["value"] is None else bytes(row["value"]) for row in judged] == SMALL
    assert {(row["headers"][0]["key"], bytes(row["headers"][0]["value"])) for row in judged} == {("trace", b"\xff")}


def test_an_empty_frame_stays_empty(spark: Any) -> None:
    assert source.accepted(raw_frame(spark, [GOOD]).where("false"), POS).count() == 0


def test_a_worker_has_no_archive_to_read_again_before_each_task(spark: Any) -> None:
    def archives(rows: Any) -> Any:
        import sys

        return [path for path in (*sys.path, *sys.path_importer_cache) if path.endswith((".zip", ".jar"))]

    assert spark.sparkContext.parallelize([0], 1).mapPartitions(archives).collect() == []
