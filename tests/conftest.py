"""Fixtures that several folders share. JVMs are started once a run and one after the other: there are 2 cores."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.support import interrupted

# No deadline, and no check that the data is made fast enough: a wall-clock assertion is a flake on a busy machine.
UNTIMED = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.register_profile("anywhere", UNTIMED)
hypothesis_settings.register_profile("ci", UNTIMED, derandomize=True)
hypothesis_settings.load_profile("ci" if os.environ.get("CI") else "anywhere")
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and a console that is made at import would keep that width

PROJECT = Path(__file__).resolve().parent.parent


AIRFLOW = "tests/airflow/"  # its files share one Airflow
FAILED = pytest.StashKey[bool]()
IN_ORDER = pytest.StashKey[Callable[[], None]]()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the guard that ends the servers of this run if it is interrupted or killed; a worker's controller has one."""
    if hasattr(config, "workerinput"):
        return
    stack = ExitStack()
    folder = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    config.stash[IN_ORDER] = stack.enter_context(interrupted.guard(folder))
    config.add_cleanup(stack.close)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Say to the guard that the run ends in order."""
    if IN_ORDER in session.config.stash and exitstatus not in (
        pytest.ExitCode.INTERRUPTED,
        pytest.ExitCode.INTERNAL_ERROR,
    ):
        session.config.stash[IN_ORDER]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make lanes (`--dist loadfile`): a worker runs a whole file, and one of them all that share the Airflow.

    Marks of pytest-xdist (`loadgroup`) would say the same; its release 3.8.0 does not read them under pytest 9.2.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Lanes(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return AIRFLOW if nodeid.startswith(AIRFLOW) else super()._split_scope(nodeid)

    return Lanes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first (Airflow, servers, sessions, the rest): what is left for the end of the lanes is short.

    The tests of one file on real servers come in the file's order: they share a pipeline that takes a minute to start, and
    build on what the tests before them left in it. pytest-randomly would shuffle them. One that fails runs once more
    (pytest-rerunfailures), and the summary names each rerun.
    """
    items.sort(key=_place)
    files: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        if item.get_closest_marker("platform"):
            item.add_marker(pytest.mark.flaky(reruns=1))
            files.setdefault(item.location[0], []).append(place)
    for places in files.values():
        steps = sorted((items[place] for place in places), key=lambda item: item.location[1] or 0)
        for place, step in zip(places, steps, strict=True):
            items[place] = step


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember whether this run of the test failed, for its teardown."""
    report = yield
    item.stash[FAILED] = report.failed or (call.when != "setup" and item.stash.get(FAILED, False))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Give a rerun fresh servers: end all fixtures of a test that failed and runs again, the session's too.

    pytest-rerunfailures alone would keep the fixtures of module and session.
    """
    if item.stash.get(FAILED, False) and item.get_closest_marker("flaky"):
        item.session._setupstate.teardown_exact(None)


def _place(item: pytest.Item) -> int:
    if item.location[0].startswith(AIRFLOW):
        return 0
    return next(
        (place for place, mark in enumerate(("platform", "spark", "slow"), 1) if item.get_closest_marker(mark)), 4
    )


@pytest.fixture(scope="session")
def project() -> Path:
    """The folder with pipelines/ and spark_jobs/."""
    return PROJECT


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed for this test, printed; HEADRACE_TEST_SEED repeats a run."""
    value = int(os.environ.get("HEADRACE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"\n{request.node.name}: HEADRACE_TEST_SEED={value}")
    return value


@pytest.fixture(scope="session")
def java_home() -> str:
    """The Java that the JVMs of this run use."""
    from headrace.local.java import find_java
    from headrace.local.settings import Settings

    return str(find_java(Settings.load()).home)


@pytest.fixture(scope="session")
def spark(java_home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One small Spark session for all tests of Spark semantics: 2 cores, no connector logged in, Iceberg in a tmp lake."""
    import sys

    from headrace.contract.load import load_pipeline
    from headrace.driver import session
    from headrace.local import class_archive, jars
    from headrace.local.java import find_java
    from headrace.local.settings import Settings
    from headrace.store import spark_conf

    scratch = tmp_path_factory.mktemp("spark")
    settings = Settings.load()
    java = find_java(settings)
    jars.ensure("spark", settings, java)
    class_archive.ensure(settings, java)
    os.environ.update(spark_conf.local_environment() | {"JAVA_HOME": java_home, "PYSPARK_PYTHON": sys.executable})
    os.environ["SPARK_LOCAL_DIRS"] = str(scratch)
    pipeline = load_pipeline(PROJECT / "pipelines" / "pos_sales.yaml")
    conf = spark_conf.spark_conf(pipeline, str(scratch / "lake")) | {
        "spark.master": "local[2]",
        "spark.driver.memory": "1g",
        # Two minutes of small tests: the JVM's second compiler would never pay off.
        "spark.driver.extraJavaOptions": f"{spark_conf.JAVA_OPTIONS} -XX:TieredStopAtLevel=1",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraClassPath": jars.spark_class_path(settings),
        "spark.driver.defaultJavaOptions": class_archive.java_options(settings, java),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }
    started = session.start("tests", conf)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An S3 API on loopback, ended with the run: the binding root that says how to reach it."""
    from tests.support.objects import s3_server

    with s3_server(tmp_path_factory.mktemp("objects")) as bindings:
        yield bindings


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A real Kafka and a real Cassandra on free ports, provisioned for all pipelines; ended with the run."""
    from headrace.contract.load import load_pipelines
    from headrace.local import platform as local
    from headrace.operations.provision.run import provision
    from tests.support.platform import local_settings

    settings = local_settings(tmp_path_factory.mktemp("home"))
    local.up(settings)
    try:
        pipelines = list(load_pipelines(PROJECT / "pipelines").values())
        provision(pipelines, settings.bindings(), settings.home / "bindings")
        yield settings
    finally:
        local.down(settings)
