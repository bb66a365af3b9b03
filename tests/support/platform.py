"""Settings for tests that need the local platform: free ports, small heaps, a separate home, the user's jar cache."""

from __future__ import annotations

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


def free_ports(count: int) -> list[int]:
    """Return different ports that are currently free.

    They are below the range of outgoing connections, so a server that is killed and restarted finds its port still free.
    """
    ports: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(range(20_000, 32_000), 2_000):
            if len(ports) == count:
                break
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def local_settings(home: Path, **values: Any) -> Settings:
    """Return settings for a platform in `home`, without Airflow; `values` override them."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    small = {"home": home, "airflow": False, "kafka_heap": "256m", "cassandra_heap": "384m", "start_timeout_s": 400}
    return Settings.load(**({**small, **ports} | values))
