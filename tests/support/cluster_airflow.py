"""Airflow on a real cluster: its REST API through a port-forward, as the admin."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.local.airflow_client import Airflow, connect
from tests.support.charts import tool
from tests.support.cluster import KUBECONFIG, namespace, secret


@contextmanager
def airflow() -> Iterator[Airflow]:
    """Give a login; the port-forward ends with it."""
    where = ["--kubeconfig", KUBECONFIG, "-n", namespace("airflow")]
    command = [tool("kubectl"), *where, "port-forward", "service/airflow-api", ":8080"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            assert forward.stdout is not None
            line = forward.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, line
            with connect(
                f"http://127.0.0.1:{found[1]}", "admin", secret("airflow", "airflow")["admin-password"]
            ) as api:
                yield api
        finally:
            forward.terminate()
