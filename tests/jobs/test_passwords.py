"""What we write for Java is what Java reads: passwords of any characters, by Kafka's own reader and by Java's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from headrace.access import credentials
from headrace.access.bindings import KafkaBinding
from headrace.contract.names import LAKE_CATALOG
from headrace.driver import session
from headrace.errors import HeadraceError

ALPHABET = [*"\"\\'$%;={}#!:@/ \t\n\r\f\b\v\a0127anrtxu", "ä", "ß", "€", "漢", "😀", "\u2028", "\x7f", "\x85"]
FIXED = [
    'pa"ss\\word',
    "\\",
    '"',
    '\\"',
    " both ends ",
    "\\101",
    "${java.home}",
    "a;b",
    "//no comment",
    "/*",
    "two\nlines",
]


def some_passwords(seed: int) -> list[str]:
    dice = random.Random(seed)
    return [*FIXED, *("".join(dice.choices(ALPHABET, k=dice.randint(1, 12))) for _ in range(200))]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_kafka_reads_the_login_that_the_binding_holds(spark: SparkSession, seed: int, mechanism: str) -> None:
    jvm = spark._jvm
    for password in some_passwords(seed):
        binding = KafkaBinding("b:9092", "SASL_SSL", mechanism, f"user {password}", password)
        line = session.kafka_options(binding)["kafka.sasl.jaas.config"]
        value = jvm.org.apache.kafka.common.config.types.Password(line)
        context = jvm.org.apache.kafka.common.security.JaasContext.loadClientContext({"sasl.jaas.config": value})
        (entry,) = context.configurationEntries()
        options = entry.getOptions()
        assert (options["username"], options["password"]) == (f"user {password}", password), seed


def test_java_reads_the_properties_that_were_written(spark: SparkSession, seed: int) -> None:
    for password in some_passwords(seed):
        line = credentials.jaas("plain.PlainLoginModule", username="u", password=password)
        text = credentials.properties({"sasl.jaas.config": line, "last": password})
        read = spark._jvm.java.util.Properties()
        read.load(spark._jvm.java.io.ByteArrayInputStream(text.encode("ascii")))
        assert (read.getProperty("sasl.jaas.config"), read.getProperty("last")) == (line, password), seed


def test_a_key_of_the_object_store_that_hadoop_would_change_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "object-store"
    folder.mkdir()
    (folder / "accessKey").write_text("ops")
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path))
    warehouse = f"spark.sql.catalog.{LAKE_CATALOG}.warehouse"
    shared, conf = str(spark.conf.get(warehouse)), {warehouse: "s3a://bucket/lake"}
    try:
        (folder / "secretKey").write_text('any $ {other} \\ "key" ä ${not.a.variable}')
        assert session.start("tests", conf) is not None
        (folder / "secretKey").write_text("${java.home}")
        with pytest.raises(
            HeadraceError, match=r"fs\.s3a\.secret\.key contains a \$\{variable\} that Hadoop substitutes"
        ) as caught:
            session.start("tests", conf)
    finally:
        spark.conf.set(warehouse, shared)  # the session is also that of other tests
    assert "java.home" not in str(caught.value)
