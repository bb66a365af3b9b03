"""Documents of a refresh: what is staged, what was begun, and the record of what was applied. The rules of `records` hold.

Times are milliseconds since 1970; a version is the time of the extract as text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Staged:
    """A snapshot in the stage. `place` is where it came from, `stage` the Parquet file, `sha256` the hash of the source file."""

    version: str
    extract_ms: int
    kind: str
    place: str
    stage: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Begun:
    """The newest refresh that began to write; it may not have finished. Without one, `version` is empty."""

    version: str = ""
    extract_ms: int = -1
    by: str = ""


@dataclass(frozen=True)
class RefreshRecord:
    """A refresh that was applied. `version` is empty if there was none.

    `inserts` to `newer` are those of the plan, `upserted` and `deleted` what was written. `approved_by` is "" if the plan needed
    no approval; `reasons` say why it needed one.
    """

    version: str = ""
    extract_ms: int = -1
    source: str = ""
    sha256: str = ""
    rows: int = 0
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    newer: int = 0
    upserted: int = 0
    deleted: int = 0
    plan: str = ""
    by: str = ""
    approved_by: str = ""
    reasons: tuple[str, ...] = ()
    at_ms: int = 0
