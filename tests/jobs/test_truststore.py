"""The trust store of a PEM bundle, as a JVM reads it."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from headrace.access import truststore
from headrace.cluster.pki import make_authority


def test_a_jvm_trusts_every_certificate_of_the_store_and_a_second_write_replaces_the_first(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = tmp_path / "ca.p12"
    for names in (["first"], ["old", "new"]):
        truststore.write(path, "".join(make_authority(name).certificate for name in names).encode())
    jvm = spark._jvm
    assert jvm is not None
    store = jvm.java.security.KeyStore.getInstance("PKCS12")
    password = spark.sparkContext._gateway.new_array(jvm.char, len(truststore.PASSWORD))
    for place, letter in enumerate(truststore.PASSWORD):
        password[place] = letter
    store.load(jvm.java.io.FileInputStream(str(path)), password)
    aliases = list(jvm.java.util.Collections.list(store.aliases()))
    assert len(aliases) == 2
    assert all(store.isCertificateEntry(alias) for alias in aliases)
    assert list(tmp_path.iterdir()) == [path]
