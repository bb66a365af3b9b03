"""What the cluster's tests share: pipelines that run from one file to the next, and end with the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import KUBECONFIG
from tests.support.cluster_streams import stop_all


@pytest.fixture(scope="session")
def stopped_at_the_end() -> Iterator[None]:
    """For whoever starts pipelines: a driver takes a minute until it works, so none is stopped between two files."""
    yield
    if KUBECONFIG:
        stop_all()
