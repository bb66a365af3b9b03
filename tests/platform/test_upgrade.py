"""Upgrades of a real driver: a good release stays, a bad one is rolled back by itself, an unsafe one stops nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.contract.load import load_pipeline
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.drivers import control, desired_state, upgrade
from headrace.orchestration import tasks
from headrace.store import driver_files
from tests.support.drivers import Stage, make_stage

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1500)]

# Appended to the transforms of a release: what makes it bad. JVM only.
CRASHES = """

def tumbling(TOPIC: DataFrame) -> DataFrame:
    return _windowed(TOPIC.where(F.expr("raise_error('bad release') IS NULL")), F.window("create_date", "5 minutes"))
"""
STALLS = """

def tumbling(TOPIC: DataFrame) -> DataFrame:
    slow = F.expr("reflect('java.lang.Thread', 'sleep', 600000L) IS NULL OR amount > 0")
    return _windowed(TOPIC.where(slow), F.window("create_date", "5 minutes"))
"""
CHANGES_A_KEY = """

def tumbling(TOPIC: DataFrame) -> DataFrame:
    return _windowed(TOPIC.withColumn("product_id", F.upper("product_id")), F.window("create_date", "5 minutes"))
"""
LOSES_A_COLUMN = """

def tumbling(TOPIC: DataFrame) -> DataFrame:
    return _windowed(TOPIC, F.window("create_date", "5 minutes")).withColumnRenamed("total_amount", "total")
"""
HAS_ANOTHER_TYPE = """

def tumbling(TOPIC: DataFrame) -> DataFrame:
    sums = _windowed(TOPIC, F.window("create_date", "5 minutes"))
    return sums.withColumn("total_amount", F.col("total_amount").cast("double"))
"""
GOOD = """

def tumbling(TOPIC: DataFrame) -> DataFrame:
    return _windowed(TOPIC.where("amount > -1000000"), F.window("create_date", "5 minutes"))
"""


@pytest.fixture(scope="module")
def stage(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """`tumbling` with a driver that was started as an operator does."""
    folder = tmp_path_factory.mktemp("upgrade")
    made = make_stage(
        platform, project, folder, "pos_sales", suffix="_up", queries=["tumbling"], trigger="200 milliseconds"
    )
    tasks.start(made.launcher, made.name, by="a test", reason="test")
    yield made
    made.launcher.stop(made.name, 0)


@pytest.fixture
def release(stage: Stage, tmp_path: Path) -> Callable[[str], str]:
    """Makes a release: the stage's tree with something appended to its transforms."""

    def make(appended: str) -> str:
        tree = tmp_path / "release"
        shutil.copytree(stage.launcher.project, tree)
        jobs = tree / "spark_jobs" / f"{stage.name}.py"
        jobs.write_text(jobs.read_text() + appended.replace("TOPIC", "pos_up"))
        return str(tree)

    return make


def _sell(stage: Stage, count: int) -> None:
    value = b'{"product_id": "p", "amount": 1.00, "create_date": "2026-03-01 10:00:00"}'
    stage.send([("pos_up", b"p", value)] * count)


def _sold(stage: Stage) -> int:
    return sum(row["sales"] for row in stage.table(stage.name, "tumbling", "sales"))


def _await_sold(stage: Stage, count: int) -> None:
    deadline = time.monotonic() + 300
    while _sold(stage) != count:
        assert time.monotonic() < deadline, f"{_sold(stage)} of {count}\n{stage.log[-3000:]}"
        time.sleep(0.5)


def _upgrade(stage: Stage, release: str, *, seconds: float = 120, feed: int = 0) -> upgrade.Upgraded:
    """Upgrade while `feed` records wait for the check, and as many for the new release."""

    def report(step: str) -> None:
        if step in {"check", "start"}:
            _sell(stage, feed)

    described = load_pipeline(stage.launcher.project / "pipelines" / f"{stage.name}.yaml")
    return upgrade.run(
        stage.launcher,
        described,
        by="a test",
        release=release,
        old=described,
        batches=1,
        seconds=seconds,
        report=report,
    )


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        pytest.param(
            CHANGES_A_KEY,
            r"tumbling: .*state_inputs\.product_id.*upper\(product_id\).*Nothing was stopped.*--new-generation tumbling",
            id="changes a key",
        ),
        pytest.param(
            LOSES_A_COLUMN,
            r"pos_sales_up\.tumbling: .* lacks column total_amount \(decimal\(22,2\)\).*Nothing was stopped",
            id="loses a column",
            marks=pytest.mark.long(group="platform"),
        ),
        pytest.param(
            HAS_ANOTHER_TYPE,
            r"pos_sales_up\.tumbling: .* column total_amount is declared as decimal\(22,2\).*double.*Nothing was stopped",
            id="has another type",
            marks=pytest.mark.long(group="platform"),
        ),
    ],
)
def test_a_release_that_no_driver_can_run_is_refused_before_anything_is_stopped(
    stage: Stage, release: Callable[[str], str], bad: str, why: str
) -> None:
    before = stage.launcher.find(stage.name)
    with pytest.raises(HeadraceError, match=why):
        _upgrade(stage, release(bad))
    assert stage.launcher.find(stage.name) == before
    assert desired_state.read(stage.root, stage.name).release == ""


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(CRASHES, id="crashes"),
        pytest.param(STALLS, id="stalls", marks=pytest.mark.long(group="platform")),
    ],
)
def test_a_bad_release_is_rolled_back_by_itself_and_the_sinks_stay_exact(
    stage: Stage, release: Callable[[str], str], bad: str
) -> None:
    sold = _sold(stage)
    with pytest.raises(
        HeadraceError, match=r"was rolled back to the deployment, which runs again from its checkpoint: "
    ):
        _upgrade(stage, release(bad), seconds=25, feed=20)
    (living,) = stage.launcher.find(stage.name)
    assert living.release == ""
    desired = desired_state.read(stage.root, stage.name)
    assert (desired.want, desired.release) == ("RUNNING", "")
    assert desired.held_until_ms <= desired.at_ms, "the supervisor is held off no longer"
    _await_sold(stage, sold + 40)


@pytest.mark.long(group="platform")
def test_a_good_release_is_kept_and_is_what_a_restart_runs(stage: Stage, release: Callable[[str], str]) -> None:
    sold, place = _sold(stage), release(GOOD)
    done = _upgrade(stage, place, feed=20)
    assert done.new == place
    _await_sold(stage, sold + 40)
    driver, new = control.restart(stage.launcher, stage.name, by="a test", reason="test")
    assert new
    control.await_queries(stage.launcher, driver, new=new)
    (living,) = stage.launcher.find(stage.name)
    assert living.release == desired_state.read(stage.root, stage.name).release == place
    assert driver_files.heartbeat(stage.root, stage.name) is not None
