"""What all tests of Spark semantics share."""

from __future__ import annotations

from pathlib import Path

import pytest

QUIET = (
    # PySpark 3.5 compares versions and closes the sockets of collected rows in its own ways: not about our code.
    "ignore:distutils Version classes:DeprecationWarning",
    "ignore:unclosed <socket.socket:ResourceWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let PySpark's own warnings pass, in this folder only."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for rule in QUIET:
                item.add_marker(pytest.mark.filterwarnings(rule))
