"""The jar cache, with small files for jars and a function for the download."""

from __future__ import annotations

import hashlib
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from cryptography.x509.oid import NameOID

from headrace.errors import HeadraceError
from headrace.local import jars, trust
from headrace.local.java import Java, find_java
from headrace.local.java import wheel_home as java_of_the_wheel
from headrace.local.settings import Settings

CONTENT = {"one": b"first jar", "two": b"second jar"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    lists = tmp_path / "lists"
    lists.mkdir()
    lines = [f"{hashlib.sha256(data).hexdigest()} org.example:{name}:1.0" for name, data in CONTENT.items()]
    for set_name in jars.ROOTS:
        (lists / f"{set_name}.txt").write_text("# a comment\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(jars, "LISTS", lists)
    return Settings.load(home=tmp_path / "home", cache=tmp_path / "cache")


@pytest.fixture
def java(tmp_path: Path) -> Java:
    return Java(tmp_path, "17", "test")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace Maven and Ivy; returns the list of what was asked for."""
    asked: list[list[str]] = []

    def command(_maven: str, wanted: list[jars.Jar], _work: Path, lib: Path) -> list[str]:
        asked.append([jar.artifact for jar in wanted])
        script = "; ".join(f"printf '{CONTENT[jar.artifact].decode()}' > '{lib}/{jar.file_name}'" for jar in wanted)
        return ["sh", "-c", script]

    monkeypatch.setattr(shutil, "which", lambda _name: "mvn")
    monkeypatch.setattr(jars, "maven_command", command)
    return asked


def test_a_jar_is_fetched_once(settings: Settings, java: Java, downloads: list[list[str]]) -> None:
    first = jars.ensure("kafka", settings, java)
    assert jars.ensure("kafka", settings, java) == first
    assert [path.read_bytes() for path in first] == list(CONTENT.values())
    assert downloads == [["one", "two"]]


def test_a_half_written_cache_is_completed_and_only_what_is_missing_is_fetched(
    settings: Settings, java: Java, downloads: list[list[str]]
) -> None:
    one, two = jars.ensure("kafka", settings, java)
    one.write_bytes(CONTENT["one"][:3])
    assert jars.ensure("kafka", settings, java) == [one, two]
    two.unlink()
    jars.ensure("kafka", settings, java)
    assert downloads == [["one", "two"], ["one"], ["two"]]
    assert one.read_bytes() == CONTENT["one"]


def test_a_jar_that_differs_from_the_list_is_refused_and_never_reaches_the_cache(
    settings: Settings, java: Java, downloads: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENT, "two", b"something else")
    with pytest.raises(
        HeadraceError, match=r"1 downloaded kafka jar\(s\) .* differ from the committed SHA-256 list \(two-1.0.jar\)"
    ):
        jars.ensure("kafka", settings, java)
    assert not list(settings.cache.rglob("*.jar"))


def test_a_failed_download_is_one_sentence_and_leaves_nothing_half_done(
    settings: Settings, java: Java, downloads: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "maven_command", lambda *_: ["sh", "-c", "echo '[ERROR] no route to host'; exit 3"])
    with pytest.raises(
        HeadraceError, match=r"cannot be downloaded \(sh exited with code 3: \[ERROR\] no route to host\)\. Check"
    ):
        jars.ensure("kafka", settings, java)
    assert [path.suffix for path in (settings.cache / "jars").iterdir() if path.is_file()] == [".lock"]
    assert not list(settings.cache.rglob("*.jar"))


def test_two_at_once_fetch_once(settings: Settings, java: Java, downloads: list[list[str]]) -> None:
    threads = [threading.Thread(target=jars.ensure, args=("kafka", settings, java)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == [["one", "two"]]


def test_a_cache_that_cannot_be_written_is_one_sentence(
    settings: Settings, java: Java, downloads: list[list[str]]
) -> None:
    settings.cache.write_text("a file where a folder should be")
    with pytest.raises(HeadraceError, match=r"jar cache .* cannot be written \(Not a directory\).*HEADRACE_CACHE"):
        jars.ensure("kafka", settings, java)


def test_spark_jars_are_checked_before_they_are_used_and_never_fetched_behind_ones_back(
    settings: Settings, java: Java, downloads: list[list[str]]
) -> None:
    with pytest.raises(HeadraceError, match=r"2 of 2 Spark jars are missing or damaged .* Run `headrace up`"):
        jars.spark_jars(settings)
    paths = jars.ensure("spark", settings, java)
    assert jars.spark_jars(settings) == paths
    paths[0].write_bytes(b"tampered")
    with pytest.raises(HeadraceError, match="1 of 2"):
        jars.spark_jars(settings)


def test_a_changed_list_gets_a_folder_of_its_own(settings: Settings) -> None:
    before = jars.folder("kafka", settings)
    path = jars.LISTS / "kafka.txt"
    path.write_text(path.read_text().replace(":1.0", ":1.1"))
    assert jars.folder("kafka", settings) != before


def test_both_tools_get_every_jar_alone_and_with_its_classifier(
    settings: Settings, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [jars.Jar("0" * 64, "io.netty", "epoll", "4.1", kind) for kind in ("", "linux-x86_64")]
    jars.maven_command("mvn", wanted, tmp_path, tmp_path / "lib")
    pom = (tmp_path / "pom.xml").read_text()
    assert pom.count("<artifactId>*</artifactId>") == 2
    assert "<classifier>linux-x86_64</classifier>" in pom
    command = jars.ivy_command(wanted, tmp_path, tmp_path / "lib", settings, java)
    descriptor = (tmp_path / "ivy.xml").read_text()
    assert descriptor.count("<dependency ") == 1
    assert descriptor.count("<artifact ") == 2
    assert 'transitive="false"' in descriptor
    assert 'm:classifier="linux-x86_64"' in descriptor
    assert "-settings" not in command


@pytest.mark.parametrize("set_name", sorted(jars.ROOTS))
def test_the_committed_list_holds_every_root_and_no_line_twice(set_name: str) -> None:
    listed = jars.read_list(set_name)
    names = [jar.file_name for jar in listed]
    assert len(names) == len(set(names))
    assert all(len(jar.sha256) == 64 for jar in listed)
    assert {root[:3] for root in jars.ROOTS[set_name]} <= {(jar.group, jar.artifact, jar.version) for jar in listed}


def test_the_spark_list_brings_no_second_copy_of_what_pyspark_has() -> None:
    modules = {jars._module(path.name) for path in jars.pyspark_jars().glob("*.jar")}
    assert not modules & {jar.artifact for jar in jars.read_list("spark")}


def test_the_wheels_java_gets_the_certificates_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A company")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=9))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    bundle.write_bytes(certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setattr(trust, "wheel_home", lambda: tmp_path)
    options = trust.trust_store_options(tmp_path, Java(tmp_path, "17", "test"))
    assert f"-Djavax.net.ssl.trustStore={tmp_path / 'trust.p12'}" in options
    loaded = pkcs12.load_pkcs12((tmp_path / "trust.p12").read_bytes(), b"changeit")
    assert [entry.certificate for entry in loaded.additional_certs] == [certificate]


def test_the_machines_own_java_keeps_its_own_certificates(tmp_path: Path) -> None:
    assert trust.trust_store_options(tmp_path, Java(tmp_path, "17", "test")) == []


@pytest.mark.slow
def test_ivy_on_the_wheels_java_fetches_what_the_list_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow because it downloads: a few small jars, one of them with a classifier, without Maven."""
    small = {"jopt-simple", "pcollections", "jffi"}
    chosen = [jar for name in ("kafka", "cassandra") for jar in jars.read_list(name) if jar.artifact in small]
    lines = {jar.file_name: str(jar) for jar in chosen}
    (tmp_path / "kafka.txt").write_text("\n".join(lines.values()) + "\n")
    monkeypatch.setattr(jars, "LISTS", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    settings = Settings.load(home=tmp_path / "home", cache=tmp_path / "cache", java_home=java_of_the_wheel())
    paths = jars.ensure("kafka", settings, find_java(settings))
    assert sorted(path.name for path in paths) == sorted(lines)
    assert any("native" in path.name for path in paths)
    assert all(path.exists() for path in paths)
