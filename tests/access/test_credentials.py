"""A password is itself wherever it is written: in bindings, addresses and texts that hide it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from headrace.access import bindings, credentials
from headrace.cluster.bootstrap import airflow_secrets
from headrace.contract.load import load_pipeline
from headrace.driver import session
from headrace.errors import HeadraceError
from headrace.store import spark_conf

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
ODD = "pa\"ss\\word; $HOME %s 'x' ä€😀 #{}@:/?&"
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}


def quoted_texts(line: str) -> list[str]:
    """Return the quoted texts of a line as `java.io.StreamTokenizer` reads them, by which Kafka reads JAAS text (JaasConfig)."""
    texts, rest = [], iter(line)
    for char in rest:
        if char == '"':
            texts.append(_until_quote(rest))
    return texts


def _until_quote(rest: Iterator[str]) -> str:
    text = ""
    for char in rest:
        if char == '"':
            return text
        assert char not in "\n\r", "a line end ends the text"
        if char == "\\":
            char = next(rest)
            assert char not in "01234567abftv", "an octal number or a control character"
            char = {"n": "\n", "r": "\r"}.get(char, char)
        text += char
    raise AssertionError("the text does not end")


def properties_of(text: str) -> dict[str, str]:
    """Return what `java.util.Properties.load` reads of lines that have no continuation."""
    properties = {}
    for line in text.encode("latin-1").decode("latin-1").splitlines():
        key, _, value = line.partition("=")
        plain = re.sub(
            r"\\(?:u([0-9a-f]{4})|(.))",
            lambda match: chr(int(match[1], 16)) if match[1] else ESCAPES.get(match[2], match[2]),
            value.lstrip(" \t\f"),
        )
        properties[key] = plain.encode("utf-16-be", "surrogatepass").decode("utf-16-be")
    return properties


@given(ANY_TEXT, ANY_TEXT)
def test_a_login_line_gives_user_and_password_back(user: str, password: str) -> None:
    line = credentials.jaas("scram.ScramLoginModule", username=user, password=password)
    assert quoted_texts(line) == [user, password]
    assert line.startswith('org.apache.kafka.common.security.scram.ScramLoginModule required username="')
    assert line.endswith('";')


@given(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0\x0b\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1
    )
)
def test_a_properties_file_gives_the_password_back(password: str) -> None:
    text = credentials.properties({"first": password, "second": "x"})
    assert properties_of(text) == {"first": password, "second": "x"}


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_spark_is_given_the_login_that_the_binding_holds(mechanism: str) -> None:
    binding = bindings.KafkaBinding("b:9092", "SASL_SSL", mechanism, "ops", ODD)
    assert quoted_texts(session.kafka_options(binding)["kafka.sasl.jaas.config"]) == ["ops", ODD]


@given(ANY_TEXT)
def test_a_database_address_gives_the_password_back(password: str) -> None:
    url = make_url(credentials.postgres_url("airflow", password, "db:5432/airflow"))
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "airflow", password, "db", 5432, "airflow",
    )  # fmt: skip


@given(ANY_TEXT)
def test_airflows_configuration_gives_the_database_address_back(password: str) -> None:
    address = credentials.postgres_url("airflow", password, "db:5432/airflow")
    config = ConfigParser()
    config.read_string(airflow_secrets(address)["airflow.cfg"])
    assert config["database"]["sql_alchemy_conn"] == address


@pytest.mark.parametrize("password", ["hush", ODD, "  hush hush  ", "\thush", "carriage\rreturn", "two\nlines"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_binding_gives_the_password_back_whatever_its_characters(tmp_path: Path, password: str, end: str) -> None:
    values = {"contactPoints": " a , b ", "port": "9042\n", "localDatacenter": "dc1 ", "username": "ops\n"}
    bindings.write_binding(tmp_path / "cassandra", values | {"password": password + end})
    read = bindings.read_cassandra(tmp_path)
    assert (read.password, read.username, read.local_datacenter) == (password, "ops", "dc1")
    assert bindings.read_password(tmp_path / "cassandra" / "password") == password


@pytest.mark.parametrize("password", [" hush", "\thush"])
def test_a_kafka_password_that_librdkafka_would_change_is_refused(tmp_path: Path, password: str) -> None:
    values = {"bootstrapServers": "localhost:1", "securityProtocol": "SASL_SSL", "username": "ops"}
    bindings.write_binding(tmp_path / "kafka", values | {"password": password})
    with pytest.raises(HeadraceError, match=r"kafka/password begins with white space, which librdkafka strips. Give "):
        bindings.read_kafka(tmp_path)


def test_a_binding_that_is_no_text_is_refused_by_its_file(tmp_path: Path) -> None:
    bindings.write_binding(tmp_path / "kafka", {"bootstrapServers": "b:9092", "securityProtocol": "SASL_SSL"})
    (tmp_path / "kafka" / "password").write_bytes("für".encode("latin-1"))
    with pytest.raises(HeadraceError, match=r"kafka/password is not UTF-8 text. Write it as UTF-8\.$"):
        bindings.read_kafka(tmp_path)


@pytest.mark.parametrize("password", ["hush", 'hu"sh', "hu\\sh", 'hush\\"hush', ODD, 'ends in "', "ends in \\"])
def test_no_part_of_a_password_is_left_where_a_login_line_is_hidden(project: Path, password: str) -> None:
    conf = spark_conf.spark_conf(load_pipeline(project / "pipelines" / "pos_sales.yaml"), "/tmp/lake")
    line = credentials.jaas("scram.ScramLoginModule", username="ops", password=password)
    for key in ("spark.redaction.string.regex", "spark.sql.redaction.string.regex"):
        assert re.sub(conf[key], "*", f"options: {line} next").endswith('username="ops" *; next')
