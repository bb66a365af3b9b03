"""Airflow on a real cluster: its REST API through a port-forward, as the admin."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.airflow_client import Airflow
from tests.support.charts import tool
from tests.support.cluster import KUBECONFIG, namespace, secret


@contextmanager
def airflow() -> Iterator[Airflow]:
    """Yield a login; the port-forward ends with the block."""
    where = ["--kubeconfig", KUBECONFIG, "-n", namespace("airflow")]
    command = [tool("kubectl"), *where, "port-forward", "service/airflow-api", ":8080"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            assert forward.stdout is not None
            line = forward.stdout.readline()
            match = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert match, line
            with Airflow.connect(
                f"http://127.0.0.1:{match[1]}", "admin", secret("airflow", "airflow")["admin-password"]
            ) as api:
                yield api
        finally:
            forward.terminate()
