"""Settings for tests that need the local platform: free ports, small heaps, a separate home, the user's jar cache."""

from __future__ import annotations

import os
import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from headrace.local.settings import Settings

_PORTS = (
    "kafka_port",
    "kafka_controller_port",
    "cassandra_port",
    "cassandra_storage_port",
    "cassandra_jmx_port",
    "spark_ui_port_base",
    "airflow_port",
)
_GIVEN: set[int] = set()
"""What `free_ports` has returned in this process: a server may not have bound it yet."""


def free_ports(count: int) -> list[int]:
    """Return different ports that are currently free.

    They are below the range of outgoing connections, so a server that is killed and restarted finds its port still free.
    No port is returned twice, and each worker of pytest-xdist has its own ports: a server binds later than it is asked for.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    candidates = [port for port in range(20_000 + worker, 32_000, workers) if port not in _GIVEN]
    ports: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(candidates, len(candidates)):
            if len(ports) == count:
                break
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    assert len(ports) == count, f"only {len(ports)} of {count} ports are free"
    _GIVEN.update(ports)
    return ports


def local_settings(home: Path, **values: Any) -> Settings:
    """Return settings for a platform in `home`, without Airflow; `values` override them.

    `up` does not look at the free memory: what another worker's servers use at this moment says nothing about a test.
    """
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    small = {"home": home, "airflow": False, "kafka_heap": "256m", "cassandra_heap": "384m", "start_timeout_s": 400}
    small["min_free_memory_mb"] = 0
    return Settings.load(**({**small, **ports} | values))
