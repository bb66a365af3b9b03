"""Rows that a sink cannot take: a dead letter each, with the reason and the record as it came; the others are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import kafka, limits
from headrace.driver import sinks
from headrace.store import ledger
from headrace.store.generation import Generation
from tests.support.sink_ends import Ends, load, record, records_frame, write_batch

pytestmark = pytest.mark.spark

SOURCE = """
name: refusing
owner: tests
description: Rows beyond the limits of a sink.
version: 1
sources:
  readings:
    key: id
    columns:
      id: {type: string, required: true}
      place: {type: string, required: true}
      note: {type: string}
      amount: {type: "decimal(12,2)"}
      at: {type: timestamp, required: true}
    event_time: {column: at}
"""
KAFKA = (
    SOURCE
    + """
queries:
  copied:
    sources: [readings]
    mode: append
    columns: &columns
      place: {type: string, required: true}
      note: {type: string}
      amount: {type: "decimal(12,2)"}
      at: {type: timestamp, required: true}
    sinks:
      - {kind: kafka, topic: copies, key: place}
"""
)
CASSANDRA = KAFKA.replace(
    "{kind: kafka, topic: copies, key: place}", "{kind: cassandra, partition_key: [place], writetime: at}"
)
CLUSTERED = KAFKA.replace(
    "{kind: kafka, topic: copies, key: place}",
    "{kind: cassandra, partition_key: [place, at], clustering_key: [note], writetime: at}",
).replace("note: {type: string}", "note: {type: string, required: true}")
AT = "2026-03-01 10:00:00"
LETTERS = "readings_dead_letters"
HEADERS = [("trace", b"\xff\x00"), ("headrace.id", b"mine"), ("none", None)]


def copied(readings: DataFrame) -> DataFrame:
    return readings


def _wrote(ends: Ends) -> list[Any]:
    return [json.loads(message.value or b"")["place"] for message in ends.topics.get("copies", [])] + [
        row["place"] for rows in ends.tables.values() for row in rows
    ]


def _write(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, folder: Path, text: str, transform: Any, *bad: dict[str, Any]
) -> tuple[Ends, list[str]]:
    """Write the bad rows among two good ones; the good ones are written, and the reasons of the others are returned."""
    good = {"id": "g", "place": "north", "note": "n", "amount": "1.00", "at": AT}
    given = [
        record(**good),
        *(record(HEADERS, b"\xfe", **(good | fields)) for fields in bad),
        record(**good | {"place": "south"}),
    ]
    ends = write_batch(spark, monkeypatch, folder, load(folder, text), "copied", transform, given)
    assert sorted(_wrote(ends)) == ["north", "south"]
    letters = sorted(ends.topics.get(LETTERS, []), key=lambda letter: int(letter.header("headrace.offset")))
    assert [letter.header(sinks.HEADER_ID) for letter in letters] == [f"readings/0/{n + 1}" for n in range(len(bad))]
    assert [(letter.key, letter.value) for letter in letters] == [given[n + 1][:2] for n in range(len(bad))]
    for letter in letters:
        assert letter.headers[-3:] == [("trace", b"\xff\x00"), ("record.headrace.id", b"mine"), ("none", None)]
        assert letter.header("headrace.query") == "refusing.copied"
    return ends, [letter.header(sinks.HEADER_REASON) for letter in letters]


def test_an_empty_partition_key_is_a_dead_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, reasons = _write(spark, monkeypatch, tmp_path, CASSANDRA, copied, {"place": ""})
    assert reasons == ["not_written: place is empty, but Cassandra accepts no empty partition key"]


def test_a_key_part_that_the_transform_left_null_or_empty_is_a_dead_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def trimmed(readings: DataFrame) -> DataFrame:
        return readings.withColumn("place", F.when(F.col("place") != "?", F.trim("place")))

    _, reasons = _write(spark, monkeypatch, tmp_path, CASSANDRA, trimmed, {"place": " "}, {"place": "?"})
    assert reasons == [
        "not_written: place is empty, but Cassandra accepts no empty partition key",
        "not_written: place is required, but the transform returned null",
    ]


def test_keys_at_cassandras_limit_are_written_and_those_beyond_are_dead_letters(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def grown(readings: DataFrame) -> DataFrame:
        return readings.withColumn("place", F.expr("if(place = 'é', repeat(place, 32768), place)"))

    _, reasons = _write(spark, monkeypatch, tmp_path, CASSANDRA, grown, {"place": "é"})
    assert reasons == ["not_written: the partition key (place) has 65536 bytes, Cassandra accepts 65535"]

    def to_the_limit(readings: DataFrame) -> DataFrame:
        return readings.withColumn("note", F.expr("repeat('x', if(note = 'n', 65535, 65536))"))

    _, reasons = _write(spark, monkeypatch, tmp_path, CLUSTERED, to_the_limit, {"note": "more"})
    assert reasons == ["not_written: the clustering key (note) has 65536 bytes, Cassandra accepts 65535"]

    def composite(readings: DataFrame) -> DataFrame:
        """A time counts as 24 bytes, and each of the two parts takes 3 more."""
        return readings.withColumn("place", F.expr("repeat('x', if(note = 'more', 65506, 65505))"))

    given = [record(id="g", place="p", note=note, at=AT) for note in ("fits", "more")]
    pipeline = load(tmp_path, CLUSTERED)
    ends = write_batch(spark, monkeypatch, tmp_path, pipeline, "copied", composite, given)
    assert [len(row["place"]) for row in ends.tables["refusing.copied"]] == [65_505]
    (letter,) = ends.topics[LETTERS]
    assert letter.header(sinks.HEADER_REASON) == (
        "not_written: the partition key (place, at) has 65536 bytes, Cassandra accepts 65535"
    )


def test_a_row_beyond_a_mutation_is_a_dead_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, (reason,) = _write(spark, monkeypatch, tmp_path, CASSANDRA, copied, {"note": "x" * 4_100_000})
    assert reason.startswith("not_written: the row has 4100")
    assert reason.endswith(f" bytes, Cassandra accepts {limits.CASSANDRA_ROW_BYTES}")


def test_a_record_beyond_a_request_is_a_dead_letter_as_it_was_read(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A transform may make a record longer than it came, and JSON writes one character as six."""

    def longer(readings: DataFrame) -> DataFrame:
        return readings.withColumn("note", F.expr("if(note = 'big', repeat(char(31), 700000), note)"))

    _, (reason,) = _write(spark, monkeypatch, tmp_path, KAFKA, longer, {"note": "big"})
    assert reason.startswith("not_written: the record of topic copies has 4200")


def test_a_time_beyond_the_year_9999_is_a_dead_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def later(readings: DataFrame) -> DataFrame:
        return readings.withColumn("at", F.expr("at + if(note = 'n', interval 0 years, interval 9000 years)"))

    _, reasons = _write(spark, monkeypatch, tmp_path, KAFKA, later, {"note": "late"})
    assert reasons == ["not_written: at is not in the years 1 to 9999"]

    def days(readings: DataFrame) -> DataFrame:
        moved = "date_add(date'2026-03-01', case note when 'n' then 0 when 'late' then 3000000 else -750000 end)"
        return readings.withColumn("day", F.expr(moved))

    text = KAFKA.replace("      at: {type: timestamp, required: true}\n    sinks", "      day: {type: date}\n    sinks")
    _, reasons = _write(spark, monkeypatch, tmp_path, text, days, {"note": "late"}, {"note": "early"})
    assert reasons == ["not_written: day is not in the years 1 to 9999"] * 2


def test_a_text_that_a_transform_cannot_parse_as_a_time_is_a_dead_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Spark ended the query at "2026-3-1", which only its older parser took."""

    def parsed(readings: DataFrame) -> DataFrame:
        return readings.withColumn("at", F.expr("if(note = 'n', at, to_timestamp(note, 'yyyy-MM-dd'))"))

    _, reasons = _write(spark, monkeypatch, tmp_path, KAFKA, parsed, {"note": "2026-3-1"}, {"note": "soon"})
    assert reasons == ["not_written: at is required, but the transform returned null"] * 2


def test_a_number_beyond_its_column_is_a_dead_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def multiplied(readings: DataFrame) -> DataFrame:
        return readings.withColumn("amount", F.col("amount") * 100)

    _, reasons = _write(spark, monkeypatch, tmp_path, KAFKA, multiplied, {"amount": "9999999999.99"})
    assert reasons == ["not_written: amount does not fit decimal(12,2)"]


def test_rows_of_one_record_are_one_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def twice(readings: DataFrame) -> DataFrame:
        both = F.explode(F.expr("if(place = '', array('', ''), array(place))"))
        return readings.withColumn("place", both)

    _, reasons = _write(spark, monkeypatch, tmp_path, CASSANDRA, twice, {"place": ""})
    assert len(reasons) == 1


def test_a_letter_too_large_is_cut_and_tells_its_length(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """C04: a record of 5 MB, of which Kafka got 20 kB, stopped every query."""
    generation = Generation("refusing", "archive_readings", 1, 0, {})
    batch, ends = sinks.Batch("refusing.archive_readings", generation, 0), Ends()
    monkeypatch.setattr(sinks, "_send", ends.send)
    fits = limits.KAFKA_RECORD_BYTES - 1
    given = [(b"k", b"x" * 5_000_000, [("h", b"1")]), (b"k", b"x" * fits, []), (b"k" * 5_000_000, b"v", []),
             (None, None, [("h", b"y" * 5_000_000)])]  # fmt: skip
    frame = records_frame(spark, "readings", given).selectExpr("*", "'wrong_type: x' AS reason")
    sinks.write_dead_letters(frame.withColumn("id", sinks.coordinates()), "readings", batch, {})
    long, uncut, key, headers = ends.topics[LETTERS]
    assert long.header(sinks.HEADER_CUT) == "key of 1 bytes, value of 5000000 bytes, headers of 18 bytes"
    assert long.key == b"k"
    assert long.value == b"x" * (limits.KAFKA_RECORD_BYTES - 2 * limits.LETTER_KEY_BYTES)
    assert ("h", b"1") in long.headers
    assert (uncut.key, uncut.value) == given[1][:2]
    assert sinks.HEADER_CUT not in dict(uncut.headers)
    assert (key.key, key.value) == (b"k" * limits.LETTER_KEY_BYTES, b"v")
    assert (headers.key, headers.value) == (None, None)
    assert "h" not in dict(headers.headers)
    for letter in (long, key, headers):
        assert letter.header("headrace.offset").isdigit()
        size = sum(len(k) + len(v or b"") for k, v in [("", letter.key), ("", letter.value), *letter.headers])
        assert size < kafka.WRITTEN_RECORD_BYTES


TOTALS = (
    SOURCE.replace("place: {type: string, required: true}", "place: {type: string, required: true, max_distinct: 9}")
    + """
queries:
  totals:
    sources: [readings]
    mode: update
    late: include
    aggregate: {keys: [place]}
    columns:
      place: {type: string, required: true}
      total: {type: "decimal(22,2)", required: true}
    sinks:
      - {kind: cassandra, partition_key: [place]}
"""
)


def test_a_total_whose_key_is_empty_is_a_dead_letter_with_the_row(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """C06: one such group ended the pipeline."""

    def totals(readings: DataFrame) -> DataFrame:
        return readings.groupBy("place").agg(F.sum("amount").alias("total"))

    given = [record(id="r", place=place, amount="3.00", at=AT) for place in ("north", "", "south")]
    ends = write_batch(spark, monkeypatch, tmp_path, load(tmp_path, TOTALS), "totals", totals, given, number=7)
    assert sorted(row["place"] for row in ends.tables["refusing.totals"]) == ["north", "south"]
    (letter,) = ends.topics[LETTERS]
    assert (letter.key, json.loads(letter.value or b"")) == (None, {"place": "", "total": 3.0})
    assert letter.header(sinks.HEADER_ID).startswith("refusing.totals/1/7/")
    assert (
        letter.header(sinks.HEADER_REASON)
        == "not_written: place is empty, but Cassandra accepts no empty partition key"
    )
    assert "headrace.offset" not in dict(letter.headers)


def test_a_total_that_overflowed_is_a_dead_letter_with_the_row(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One record ended the pipeline. The table keeps the former total, and the next one that fits is written again."""
    text = TOTALS.replace("decimal(22,2)", "decimal(12,2)")

    def totals(readings: DataFrame) -> DataFrame:
        return readings.groupBy("place").agg(F.sum("amount").cast("decimal(12,2)").alias("total"))

    amounts = [("north", "9999999999.99"), ("north", "0.01"), ("south", "9999999999.99")]
    given = [record(id="r", place=place, amount=amount, at=AT) for place, amount in amounts]
    ends = write_batch(spark, monkeypatch, tmp_path, load(tmp_path, text), "totals", totals, given, number=7)
    assert [row["place"] for row in ends.tables["refusing.totals"]] == ["south"]
    (letter,) = ends.topics[LETTERS]
    assert (letter.key, json.loads(letter.value or b"")["place"]) == (None, "north")
    assert letter.header(sinks.HEADER_ID).startswith("refusing.totals/1/7/")
    assert letter.header(sinks.HEADER_REASON) == "not_written: total is required, but the transform returned null"
    (entry,) = ledger.read(Generation("refusing", "totals", 1, 1_000_000, {}).paths(str(tmp_path)).ledger)
    assert (entry["rows_out"], entry["refused"]) == (1, 1)


MATCHED = (
    SOURCE
    + """
dimensions:
  devices:
    keyspace: refusing_db
    table: devices
    key: [id]
    columns:
      id: {type: string, required: true}
      allowed: {type: boolean}
queries:
  copied:
    sources: [readings]
    dimensions: [devices]
    mode: append
    matched: allowed
    columns:
      place: {type: string, required: true}
      at: {type: timestamp, required: true}
    sinks:
      - {kind: kafka, topic: copies, key: place}
"""
)


def test_a_row_that_does_not_match_keeps_the_key_bytes_headers_and_value_of_its_record(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """C29, and D01: where `matched` is null the record was in neither half."""
    devices = spark.createDataFrame([("yes", True), ("no", False), ("null", None)], "id string, allowed boolean")

    def joined(readings: DataFrame, devices: DataFrame) -> DataFrame:
        return readings.join(devices, "id", "left")

    given = [record(id="yes", place="a", at=AT)] + [
        record(HEADERS, key, id=name, place="b", at=AT)
        for name, key in (("no", None), ("null", b"tenant-7"), ("stranger", b"\xff"))
    ]
    ends = write_batch(
        spark, monkeypatch, tmp_path, load(tmp_path, MATCHED), "copied", joined, given, {"devices": devices}
    )
    assert _wrote(ends) == ["a"]
    letters = sorted(ends.topics[LETTERS], key=lambda letter: int(letter.header("headrace.offset")))
    assert [(letter.key, letter.value) for letter in letters] == [row[:2] for row in given[1:]]
    assert {letter.header(sinks.HEADER_REASON) for letter in letters} == {"unmatched: id"}
    assert all(("trace", b"\xff\x00") in letter.headers for letter in letters)
