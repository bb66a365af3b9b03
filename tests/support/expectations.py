"""Great Expectations in tests: imported once, with its own warnings."""

from __future__ import annotations

import warnings


def import_great_expectations() -> None:
    """Import it as a user's process does: on Python 3.11 it imports a deprecated module (sre_constants)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations  # noqa: F401
