"""Spark's history server on a real cluster shows what drivers wrote for it ($HEADRACE_KUBECONFIG; `history_server = true`).

Slow: it reads the logs of every driver of the story. It runs after the four pipelines have run once (test_dags.py).
"""

from __future__ import annotations

import json
import time

import pytest

from tests.support.cluster import KUBECONFIG, kubectl, namespace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
]
_APPLICATIONS = (
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:18080/api/v1/applications').read().decode())"
)


def _shown() -> set[str]:
    done = kubectl("exec", "-n", namespace("spark"), "deploy/spark-history", "-c", "history", "--", "python3", "-c",
                   _APPLICATIONS)  # fmt: skip
    return {str(application["name"]) for application in json.loads(done.stdout)}


def test_the_history_server_shows_every_pipelines_driver() -> None:
    if kubectl("get", "deployment", "spark-history", "-n", namespace("spark"), check=False).returncode:
        pytest.skip("installed without history_server = true")
    deadline = time.monotonic() + 300
    wanted = {"web_events", "pos_sales", "user_logins", "ad_attribution"}
    while not wanted <= (shown := _shown()):
        assert time.monotonic() < deadline, shown
        time.sleep(5)
