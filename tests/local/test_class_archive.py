"""The archive of Spark's classes: used by a driver's JVM, made once, never used cut, and no driver's start depends on it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.local import class_archive, jars
from headrace.local.java import Java, child_environment, find_java
from headrace.local.settings import Settings
from headrace.store import spark_conf

START = """
import sys
from pyspark.sql import SparkSession
options, class_path = sys.argv[1:]
conf = {"spark.driver.defaultJavaOptions": options, "spark.driver.extraClassPath": class_path, "spark.ui.enabled": "false"}
spark = SparkSession.builder.config(map=conf).master("local[1]").getOrCreate()
assert spark.range(100).selectExpr("sum(id)").first()[0] == 4950
spark.stop()
"""


@pytest.fixture
def java() -> Java:
    return find_java(Settings.load())


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(jars, "spark_class_path", lambda _settings: "")
    return Settings.load(home=tmp_path / "home", cache=tmp_path / "cache")


def _rehearsal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, code: int = 0) -> Path:
    """Let something else stand for the rehearsal; return the file that has a line for each of its runs."""
    program, runs = tmp_path / "program", tmp_path / "runs"
    runs.touch()
    program.write_text(f'#!/bin/sh\necho run >> {runs}\nprintf "{content}" > "$3"\nexit {code}\n')
    program.chmod(0o700)
    monkeypatch.setattr(class_archive.sys, "executable", str(program))  # type: ignore[attr-defined]
    return runs


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_a_driver_takes_its_classes_from_the_archive(java: Java, tmp_path: Path) -> None:
    settings, log = Settings.load(), tmp_path / "classes.log"
    options = class_archive.java_options(settings, java)
    assert options
    environment = dict(child_environment(java)) | spark_conf.local_environment() | {"PYSPARK_PYTHON": sys.executable}
    subprocess.run(
        [sys.executable, "-c", START, f"{options} -Xlog:class+load:file={log}", jars.spark_class_path(settings)],
        env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    mapped = sum(line.endswith("shared objects file (top)") for line in log.read_text().splitlines())
    assert mapped > 5_000, "a JVM without it loads them from the jars"


def test_it_is_made_once_and_again_for_other_jars(
    settings: Settings, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _rehearsal(monkeypatch, tmp_path, "classes")
    for _ in range(2):
        class_archive.ensure(settings, java)
    first = class_archive.find(settings, java)
    assert first is not None
    assert f'"-XX:SharedArchiveFile={first}"' in class_archive.java_options(settings, java)
    assert runs.read_text() == "run\n"
    jar = jars.folder("spark", settings) / jars.read_list("spark")[0].file_name
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"another")
    assert class_archive.find(settings, java) is None
    class_archive.ensure(settings, java)
    assert runs.read_text() == "run\nrun\n"
    assert not first.exists(), "the one that holds no longer is removed"


def test_a_cut_archive_is_never_used_and_is_made_again(
    settings: Settings, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rehearsal(monkeypatch, tmp_path, "classes")
    class_archive.ensure(settings, java)
    made = class_archive.find(settings, java)
    assert made is not None
    os.truncate(made, 3)
    assert class_archive.find(settings, java) is None
    assert class_archive.java_options(settings, java) == ""
    class_archive.ensure(settings, java)
    assert class_archive.find(settings, java) == made


def test_drivers_go_without_where_it_cannot_be_made(
    settings: Settings, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _rehearsal(monkeypatch, tmp_path, "half of", code=1)
    with caplog.at_level(logging.WARNING):
        class_archive.ensure(settings, java)
    assert "drivers start more slowly without" in caplog.text
    assert class_archive.java_options(settings, java) == ""
    assert [path.suffix for path in (settings.cache / "classes").iterdir() if path.name != ".lock"] == [".log"]


def test_drivers_go_without_where_the_cache_cannot_be_written(
    settings: Settings, java: Java, caplog: pytest.LogCaptureFixture
) -> None:
    settings.cache.mkdir()
    (settings.cache / "classes").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        class_archive.ensure(settings, java)
    assert "drivers start more slowly without" in caplog.text


def test_a_java_without_an_archive_of_its_own_is_left_alone(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _rehearsal(monkeypatch, tmp_path, "classes")
    class_archive.ensure(settings, Java(tmp_path, "17", "test"))
    assert runs.read_text() == ""
