"""A pipeline that comes later on a real cluster ($HEADRACE_KUBECONFIG): its two files in new images, and nothing else.

Slow: Airflow starts anew twice. HEADRACE_LATER_TAG is of images made of tests/cluster/later.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.support import cluster_streams as streams
from tests.support import howto
from tests.support.cluster import KUBECONFIG, helm_upgrade, restored
from tests.support.cluster_airflow import airflow
from tests.support.cluster_streams import HEAD, inside

TAG = os.environ.get("HEADRACE_LATER_TAG", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
    pytest.mark.skipif(not TAG, reason="HEADRACE_LATER_TAG names no images"),
]
IMAGES = {"base": ("image",), "airflow": ("image", "sparkImage")}

_SEND = (
    HEAD
    + """
import pathlib
from headrace.access.bindings import read_kafka
from headrace.operations.produce.run import produce_file
path = pathlib.Path("/tmp/readings.ndjson")
path.write_text({text!r})
answer = produce_file(read_kafka(loaded.bindings), loaded.pipelines(), path, "fridge_readings", rate=None).acknowledged
"""
)
_WARMEST = (
    HEAD
    + """
from headrace.operations.clients import cassandra_session
with cassandra_session(loaded.bindings) as session:
    answer = [[str(value) for value in row] for row in session.execute(
        "SELECT fridge_id, window_start, warmest, readings FROM fridges.warmest")]
"""
)


def test_a_pipeline_that_comes_later_runs_from_its_two_files_and_no_other_driver_is_touched(
    stopped_at_the_end: None,
) -> None:
    streams.start("web_events")
    before = streams.living("web_events")
    with restored(*IMAGES) as values:
        began = time.monotonic()
        for chart, installed in values.items():
            helm_upgrade(chart, chart, values=_with_images(chart, installed))
        print(f"\nimages with a pipeline more: rolled out in {time.monotonic() - began:.0f} s")
        streams.start("fridges")
        readings = howto.printed("readings.ndjson")
        assert inside(_SEND.format(text=readings)) == len(readings.splitlines())
        deadline = time.monotonic() + streams.PATIENCE
        while not (rows := inside(_WARMEST)) and time.monotonic() < deadline:
            time.sleep(3)
        print(f"its first row is there after {time.monotonic() - began:.0f} s")
        assert rows == [["f1", "2026-03-01 10:00:00", "9.25", "2"]]
        with airflow() as api:
            assert api.run("stream_stop", {"pipelines": ["fridges"]}, 400)[1] == "success"
    assert streams.living("web_events") == before


def _with_images(chart: str, values: dict[str, Any]) -> dict[str, Any]:
    return values | {key: values[key] | {"tag": TAG} for key in IMAGES[chart]}
