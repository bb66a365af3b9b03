"""The environment of a driver: what a launcher writes, its entry point reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contract.driver_environment import DriverEnvironment
from headrace.errors import HeadraceError
from tests.conftest import PROJECT

FULL = DriverEnvironment(
    "s3a://b/p", "/project/pipelines", ("items", "sliding"), "r1", "i1", "/releases/2", 12.5, "0.0.0.0", 9108,
    {"spark.master": "local[1]"}, 4050, True,
)  # fmt: skip


@pytest.mark.parametrize("environment", [FULL, DriverEnvironment()])
def test_what_is_written_is_read(environment: DriverEnvironment) -> None:
    assert DriverEnvironment.from_env(environment.to_env()) == environment


def test_a_variable_that_is_not_set_has_its_default_and_one_of_a_newer_release_is_ignored() -> None:
    read = DriverEnvironment.from_env({"HEADRACE_STORAGE_ROOT": "/data", "HEADRACE_NEWER": "1"})
    assert read == DriverEnvironment(storage_root="/data")


def test_the_variables_are_those_that_releases_before_this_type_read() -> None:
    assert FULL.to_env() == {
        "HEADRACE_STORAGE_ROOT": "s3a://b/p",
        "HEADRACE_PIPELINES": "/project/pipelines",
        "HEADRACE_NEW_GENERATIONS": "items sliding",
        "HEADRACE_REQUEST": "r1",
        "HEADRACE_LIFE": "i1",
        "HEADRACE_RELEASE": "/releases/2",
        "HEADRACE_GRACE_SECONDS": "12.5",
        "HEADRACE_METRICS_HOST": "0.0.0.0",
        "HEADRACE_METRICS_PORT": "9108",
        "HEADRACE_SPARK_CONF": '{"spark.master": "local[1]"}',
        "HEADRACE_SPARK_UI_PORT": "4050",
        "HEADRACE_CHECK_ONLY": "1",
    }


def test_a_start_that_is_no_check_never_inherits_one() -> None:
    assert DriverEnvironment.from_env(FULL.to_env() | DriverEnvironment().to_env()).check_only is False


@pytest.mark.parametrize(
    ("name", "text"),
    [("HEADRACE_GRACE_SECONDS", "soon"), ("HEADRACE_SPARK_CONF", "[1]"), ("HEADRACE_SPARK_CONF", "{")],
)
def test_a_value_of_the_wrong_kind_is_refused_by_the_name_of_its_variable(name: str, text: str) -> None:
    with pytest.raises(HeadraceError, match=name):
        DriverEnvironment.from_env({name: text})


def test_the_variables_are_spelled_in_one_module_alone() -> None:
    spelled = [
        str(path.relative_to(PROJECT))
        for folder in ("src", "spark_jobs", "dags")
        for path in sorted(Path(PROJECT / folder).rglob("*.py"))
        if any(f'"{name}"' in path.read_text() for name in FULL.to_env())
    ]
    assert spelled == ["src/headrace/contract/driver_environment.py"]
