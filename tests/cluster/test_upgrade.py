"""A bad release on a real cluster: refused before anything is stopped, or rolled back by itself ($HEADRACE_KUBECONFIG).

Slow: JVMs start in pods, and a missing image is looked for. HEADRACE_BAD_IMAGE is made of tests/cluster/bad.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.support import cluster_streams as streams
from tests.support.cluster import KUBECONFIG, airflow_image, get, helm_upgrade, namespace
from tests.support.cluster_airflow import airflow
from tests.support.cluster_streams import BOTH, HEAD, QUERIES, inside, load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
]
NAME = "web_events"
BAD_IMAGE = os.environ.get("HEADRACE_BAD_IMAGE", "")


@pytest.fixture(scope="module", autouse=True)
def running(stopped_at_the_end: None) -> None:
    """The pipelines run, and the load's sales are summed too."""
    streams.start(*BOTH)


def test_an_image_that_does_not_exist_is_refused_and_the_driver_runs_on() -> None:
    before = streams.living(NAME)
    with airflow() as api:
        began = time.monotonic()
        form = {"pipeline": NAME, "release": "localhost/headrace-spark:absent"}
        run, state = api.run("stream_upgrade", form, 900)
        states = api.task_states("stream_upgrade", run)
        print(f"\nmissing image: {state} after {time.monotonic() - began:.0f} s, {states}")
        assert state == "failed"
        assert states["check"] == "failed"
        assert states["stop"] == "upstream_failed"
        log = api.task_log("stream_upgrade", run, "check")
    assert "localhost/headrace-spark:absent" in log
    assert "Nothing was stopped" in log
    assert streams.living(NAME) == before
    assert not [
        pod["metadata"]["name"] for pod in get("pods", "-n", namespace("spark"))["items"]
        if pod["metadata"]["name"].endswith("-check")
    ]  # fmt: skip


@pytest.mark.skipif(not BAD_IMAGE, reason="HEADRACE_BAD_IMAGE names no image")
def test_a_release_that_fails_in_its_first_batch_is_rolled_back_by_itself_without_loss() -> None:
    before = streams.living(NAME)
    with load(airflow_image()), airflow() as api:
        began = time.monotonic()
        run, state = api.run("stream_upgrade", {"pipeline": NAME, "release": BAD_IMAGE, "minutes": 5}, 1200)
        states = api.task_states("stream_upgrade", run)
        print(f"\nbad release: {state} after {time.monotonic() - began:.0f} s, {states}")
        assert states["check"] == states["snapshot"] == states["roll_back"] == "success"
        assert "failed" in {states["start"], states["watch"]}
        assert states["keep"] == "upstream_failed"
        assert state == "failed"
    assert streams.living(NAME) != before
    releases = inside(HEAD + f"answer = [driver.release for driver in launcher.find({NAME!r})]")
    assert releases == [""]


SIZE = "driver.pipelineConf.pos_sales.spark\\.driver\\.memoryOverheadFactor"


@pytest.fixture
def size_of_before() -> Iterator[None]:
    """The size is Spark's own again afterwards: null takes nothing away with --reuse-values."""
    yield
    helm_upgrade("airflow", "airflow", "--set-string", f"{SIZE}=0.1")


@pytest.mark.usefixtures("size_of_before")
def test_a_changed_size_of_one_pipelines_driver_restarts_that_driver_alone_and_loses_nothing() -> None:
    before = streams.living(*BOTH)
    with load(airflow_image()):
        since = streams.now_ms()
        helm_upgrade("airflow", "airflow", "--set-string", f"{SIZE}=0.15")
        print(f"\nhelm upgrade took {(streams.now_ms() - since) / 1000:.0f} s")
        back = streams.back(since, "pos_sales", before=before, replaced=True, queries=QUERIES)
        took = (back["pos_sales"]["all_ms"] - since) / 1000
        print(f"pos_sales with another size {took:.0f} s after helm upgrade began")
    assert streams.living("web_events")["web_events"] == before["web_events"]
