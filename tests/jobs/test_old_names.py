"""The platform's columns got a prefix: what an older release wrote goes on, and a transform with an old name is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import Pipeline
from headrace.contract.platform_columns import KAFKA_TIMESTAMP, OLD_NAMES, RAW, SOURCE
from headrace.driver import check, queries
from headrace.driver.spark_plan import SOURCE as ALIAS
from tests.jobs.conftest import ROCKSDB
from tests.jobs.test_declared import FUEL, PUMP, SALES, TABLE

pytestmark = pytest.mark.spark

OLD = OLD_NAMES[KAFKA_TIMESTAMP]
PROVIDER = "spark.sql.streaming.stateStore.providerClass"
TEXT = {"type": "string", "required": True}


def rows_of(spark: SparkSession, folder: Path, *columns: str) -> DataFrame:
    """Return a stream of (shop, time) as decoding makes it: a frame of Python workers, with these names."""

    def named(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.RecordBatch.from_arrays([batch.column(n) for n in range(len(columns))], names=list(columns))

    raw = spark.readStream.schema("shop string, at timestamp, second timestamp").parquet(str(folder))
    ddl = ", ".join(f"{name} {'timestamp' if n else 'string'}" for n, name in enumerate(columns))
    return raw.mapInArrow(named, ddl).alias(ALIAS)


def last_seen(name: str) -> Callable[[DataFrame], DataFrame]:
    """Return a transform over the platform's time: in a key, in a value, and in an expression."""

    def transform(sales: DataFrame) -> DataFrame:
        newest = F.max(name).alias("newest")
        return sales.groupBy("shop", F.col(name), F.to_date(name).alias("day")).agg(
            newest, F.last(name), F.count(F.lit(1))
        )

    return transform


def run(frame: DataFrame, folder: Path) -> dict[str, int]:
    """Take what waits, and return how many sales of each shop there are in the newest totals."""
    counts: dict[str, int] = {}
    query = (
        frame.writeStream.outputMode("update")
        .option("checkpointLocation", str(folder / "checkpoint"))
        .trigger(availableNow=True)
        .foreachBatch(lambda rows, _: counts.update({row["shop"]: row["count(1)"] for row in rows.collect()}))
        .start()
    )
    query.awaitTermination()
    return counts


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
def test_totals_over_the_time_of_kafka_go_on_from_an_older_release(
    spark: SparkSession, tmp_path: Path, store: str
) -> None:
    folder, at = tmp_path / "in", datetime(2026, 3, 1, tzinfo=UTC)
    settings = {"spark.sql.shuffle.partitions": "2"} | ({PROVIDER: ROCKSDB} if store == "rocksdb" else {})
    before = {key: spark.conf.get(key, None) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    given = spark.createDataFrame(
        [("a", at, at), ("a", at, at), ("b", at, at)], "shop string, at timestamp, second timestamp"
    )
    try:
        given.coalesce(1).write.mode("append").parquet(str(folder))
        old = last_seen(OLD)(rows_of(spark, folder, "shop", OLD))
        assert run(old, tmp_path) == {"a": 2, "b": 1}
        given.coalesce(1).write.mode("append").parquet(str(folder))
        new = last_seen(KAFKA_TIMESTAMP)(rows_of(spark, folder, "shop", KAFKA_TIMESTAMP))
        assert run(new, tmp_path) == {"a": 4, "b": 2}
    finally:
        for key, value in before.items():
            spark.conf.unset(key) if value is None else spark.conf.set(key, value)


def test_the_marks_of_a_plan_have_the_names_that_older_releases_wrote(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    old = queries.plan_marks(last_seen(OLD)(rows_of(spark, tmp_path / "in", "shop", OLD)))
    assert OLD in str(old["plan"])
    assert OLD in str(old["state_inputs"])
    new = rows_of(spark, tmp_path / "in", "shop", KAFKA_TIMESTAMP)
    assert queries.plan_marks(last_seen(KAFKA_TIMESTAMP)(new)) == old
    again = new.withColumnRenamed(KAFKA_TIMESTAMP, "other")
    assert queries.plan_marks(last_seen("other")(again)) != old


def test_a_users_time_and_that_of_kafka_are_different_inputs_of_a_state(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    both = rows_of(spark, tmp_path / "in", "shop", OLD, KAFKA_TIMESTAMP)
    assert queries.plan_marks(last_seen(OLD)(both)) != queries.plan_marks(last_seen(KAFKA_TIMESTAMP)(both))


def described(**columns: Any) -> Pipeline:
    topic = {"kind": "kafka", "topic": "out", "key": "pump"}
    rows = {"sources": ["sales"], "mode": "append", "columns": {"pump": PUMP, **columns}, "sinks": [topic, TABLE]}
    source = SALES | {"columns": SALES["columns"] | columns}
    return Pipeline.model_validate(FUEL | {"sources": {"sales": source}, "queries": {"q": rows}})


@pytest.mark.parametrize(
    "read",
    [
        lambda sales, name: sales.select("pump", name, SOURCE),
        lambda sales, name: sales.select("pump", sales[name], SOURCE),
        lambda sales, name: sales.select("pump", getattr(sales, name), SOURCE),
        lambda sales, name: sales.where(f"{name} IS NOT NULL"),
    ],
)
@pytest.mark.parametrize("name", [SOURCE, KAFKA_TIMESTAMP])
def test_a_transform_that_reads_a_column_by_its_old_name_is_refused_with_the_new_one(
    spark: SparkSession, read: Callable[[DataFrame, str], DataFrame], name: str
) -> None:
    old = OLD_NAMES[name]
    (fault,) = check.differences(spark, described(), {"q": lambda sales: read(sales, old)})
    assert fault == (
        f"The transform of fuel.q cannot be planned: the platform's column {old} is now {name}; select {name} (ADR 51), "
        f"or declare a column {old} in the source."
    )


def test_a_declared_column_with_an_old_name_is_the_users(spark: SparkSession) -> None:
    columns = dict.fromkeys(OLD_NAMES.values(), TEXT)
    mine = [*columns, "pump"]
    assert check.differences(spark, described(**columns), {"q": lambda sales: sales.select(*mine, SOURCE)}) == []
    (fault,) = check.differences(spark, described(**columns), {"q": lambda sales: sales.select(*mine)})
    assert f"a Kafka sink identifies its rows by {SOURCE}, but the result lacks it" in fault


def test_an_error_about_another_column_is_not_taken_for_an_old_name(spark: SparkSession) -> None:
    made = lambda sales: sales.withColumn(OLD_NAMES[RAW], F.lit(1)).select("rew")  # noqa: E731
    (fault,) = check.differences(spark, described(), {"q": made})
    assert "UNRESOLVED_COLUMN" in fault
    assert "`rew`" in fault
