"""Checks before anything starts."""

from __future__ import annotations

from headrace.local.settings import Settings


def require(settings: Settings) -> None:
    """Raise for the first failed check."""
