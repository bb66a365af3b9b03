"""Settings for tests that need the local platform: free ports, small heaps, a home of their own, the user's jar cache."""

from __future__ import annotations

import socket
from contextlib import ExitStack
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
)


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def local_settings(home: Path, **values: Any) -> Settings:
    """Return settings for a platform in `home`; `values` win."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    return Settings.load(**({"home": home, "kafka_heap": "256m", "cassandra_heap": "384m", **ports} | values))
