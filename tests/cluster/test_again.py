"""Destroy while drivers run, and apply again on kept volumes: the drivers come back by themselves and continue exactly.

`tests/cluster/run` with AGAIN=1 runs this file twice, before the destroy and after the second apply. HEADRACE_AGAIN names the
file that takes what the first run saw to the second.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import cluster_streams as streams
from tests.support.cluster import KUBECONFIG, airflow_image
from tests.support.cluster_streams import BOTH, HEAD, Load, inside

FILE = Path(os.environ.get("HEADRACE_AGAIN", "/nowhere"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
    pytest.mark.skipif(str(FILE) == "/nowhere", reason="HEADRACE_AGAIN names no file"),
]
PATIENCE = 600.0
GENERATIONS = (
    HEAD
    + """
from headrace.store import generation
answer = {name: {query: generation.current(launcher.root, name, query).number for query in queries} for name, queries in {
    "web_events": ["files", "topic"], "pos_sales": ["product_totals", "leaderboard"]}.items()}
"""
)


def _sent(seconds: float) -> Load:
    """Send for some seconds and wait until the sinks are exact."""
    with streams.load(airflow_image(), seconds) as sending:
        pass
    return sending


def _await_drivers() -> None:
    """Wait until each pipeline has one driver; nobody but the supervisor starts them."""
    deadline, running = time.monotonic() + PATIENCE, None
    while time.monotonic() < deadline:
        running = inside(HEAD + "answer = launcher.running()")
        if set(running) == set(BOTH):
            return
        time.sleep(3)
    raise AssertionError(f"these drivers run after {PATIENCE:.0f} s: {running}")


@pytest.mark.skipif(FILE.exists(), reason="the platform was applied again")
def test_before_the_destroy_both_pipelines_run_and_their_sinks_are_exact() -> None:
    streams.start(*BOTH)
    load = _sent(20)
    seen = {"tag": load.tag, "sent": load.sent, "generations": inside(GENERATIONS), "drivers": streams.living(*BOTH)}
    FILE.write_text(json.dumps(seen))


@pytest.mark.skipif(not FILE.exists(), reason="the platform was not destroyed yet")
def test_after_the_second_apply_the_supervisor_starts_the_drivers_and_they_continue_exactly() -> None:
    seen: dict[str, Any] = json.loads(FILE.read_text())
    began = time.monotonic()
    _await_drivers()
    print(f"\ndrivers run {time.monotonic() - began:.0f} s after the second apply")
    assert streams.living(*BOTH).items().isdisjoint(seen["drivers"].items())
    _sent(20)
    streams.assert_exact(seen["tag"], seen["sent"])
    assert inside(GENERATIONS) == seen["generations"], "a query began a new generation instead of continuing"
