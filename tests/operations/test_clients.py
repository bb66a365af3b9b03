"""How the operator's tools reach Cassandra over TLS, and what the connector is told of the same binding."""

from __future__ import annotations

import random
import ssl
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra import ConsistencyLevel
from cassandra.cluster import ExecutionProfile
from cassandra.cqltypes import DateType

from headrace.access.bindings import CassandraBinding
from headrace.cluster import pki
from headrace.driver.session import cassandra_conf
from headrace.operations import clients
from headrace.operations.clients import cassandra_tls


def test_a_binding_without_authority_means_no_tls() -> None:
    assert cassandra_tls(None) is None
    binding = CassandraBinding(("127.0.0.1",), 9042, "datacenter1", "u", "p")
    assert not [key for key in cassandra_conf(binding) if "ssl" in key]


def test_a_tools_reads_see_what_was_written_at_local_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles: dict[object, ExecutionProfile] = {}

    class Cluster:
        def __init__(self, *_: object, execution_profiles: dict[object, ExecutionProfile], **__: object) -> None:
            profiles.update(execution_profiles)

        def connect(self) -> None:
            pass

        def shutdown(self) -> None:
            pass

    monkeypatch.setattr(clients, "Cluster", Cluster)
    with clients.log_in(CassandraBinding(("127.0.0.1",), 9042, "datacenter1", "u", "p")):
        pass
    assert [profile.consistency_level for profile in profiles.values()] == [ConsistencyLevel.LOCAL_QUORUM]


def test_the_bindings_authority_alone_is_trusted_and_names_are_not_asked(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text(pki.make_authority("test CA").certificate)
    context = cassandra_tls(ca)
    assert context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is False  # nodes are found by address
    certificates: list[Any] = context.get_ca_certs()  # typeshed knows nothing of their shape
    assert [
        dict(attribute[0] for attribute in certificate["subject"])["commonName"] for certificate in certificates
    ] == ["test CA"]


def test_the_connector_gets_a_java_store_and_ciphers_that_java_17_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_CASSANDRA_TRUSTSTORE", "/tmp/own.p12")
    binding = CassandraBinding(("c",), 9042, "datacenter1", "u", "p", tmp_path / "ca.crt")
    conf = {
        key.removeprefix("spark.cassandra.connection.ssl."): value for key, value in cassandra_conf(binding).items()
    }
    assert conf["enabled"] == "true"
    assert (conf["trustStore.path"], conf["trustStore.type"]) == ("/tmp/own.p12", "PKCS12")
    assert "TLS_AES_256_GCM_SHA384" in conf["enabledAlgorithms"]


def test_the_images_entry_point_makes_the_store_at_the_place_that_the_session_reads(project: Path) -> None:
    script = (project / "images" / "entrypoint.sh").read_text()
    assert "HEADRACE_CASSANDRA_TRUSTSTORE:-/tmp/cassandra-ca.p12" in script
    binding = CassandraBinding(("c",), 9042, "datacenter1", "u", "p", Path("ca.crt"))
    assert cassandra_conf(binding)["spark.cassandra.connection.ssl.trustStore.path"] == "/tmp/cassandra-ca.p12"


def test_a_row_as_a_dict_has_the_names_of_its_columns_also_if_they_are_keywords() -> None:
    profile = SimpleNamespace(execution_profile_clone_update=lambda _, row_factory: row_factory)
    factory = clients.as_dicts(profile)
    assert list(factory(["class", "from", "count"], [(1, 2, 3)])) == [{"class": 1, "from": 2, "count": 3}]


def test_a_time_is_read_as_cassandra_has_it_whatever_its_year(seed: int) -> None:
    """The driver computes with a float: of 9999-12-31 23:59:59.999 it makes .998993."""
    drawn, first, last = random.Random(seed), -62_135_596_800_000, 253_402_300_799_999
    for milliseconds in (first, -1, 0, last, *(drawn.randint(first, last) for _ in range(2_000))):
        read = DateType.deserialize(struct.pack(">q", milliseconds), 5)
        assert (clients.stored_time(read) - datetime(1970, 1, 1, tzinfo=UTC)) == timedelta(milliseconds=milliseconds)
