"""Fixtures of pipeline files (`tests/contract`)."""

from __future__ import annotations

from tests.contract.conftest import broken, good, pipelines  # noqa: F401 - fixtures
