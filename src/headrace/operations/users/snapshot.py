"""Which snapshot is refreshed from: the newest complete file of the drop folder, or the SQL table as it is now.

A file is `<any name>-<extract time>.csv`, `.csv.gz` or `.parquet`, the time as 20261123T070500Z (UTC). It is complete when
`<file>.done` stands beside it; that may hold JSON with `rows` and `sha256`, and then the file must keep them. A file
without it is being written and is not read.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from headrace.contract import paths, storage
from headrace.contract.model import Pipeline, Refresh
from headrace.errors import HeadraceError

VERSION = "%Y%m%dT%H%M%SZ"
_NAMED = re.compile(r"^.+-(\d{8}T\d{6}Z)\.(csv|csv\.gz|parquet)$")
DONE = ".done"
# Clocks differ; what is later than this was given a wrong time, and would hide real changes until then.
MAX_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True)
class Snapshot:
    """One snapshot. `version` is its extract time as text, `extract_ms` the same in milliseconds since 1970."""

    version: str
    extract_ms: int
    kind: Literal["csv", "parquet", "sql"]
    place: str
    rows: int | None = None
    sha256: str | None = None

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `Snapshot(**...)` takes them back."""
        return asdict(self)


def settings(pipeline: Pipeline, dimension: str) -> Refresh:
    """Return the dimension's refresh settings. Raises HeadraceError where it has none."""
    declared = pipeline.dimensions.get(dimension)
    if declared is None or declared.refresh is None:
        raise HeadraceError(
            f"pipelines/{pipeline.name}.yaml has no dimensions.{dimension}.refresh: add it (docs/howto/refresh-users.md)."
        )
    return declared.refresh


def applied(root: str, pipeline: str, dimension: str) -> dict[str, Any]:
    """Return the record of the newest refresh that was carried out; empty where there was none."""
    found = storage.read_json(f"{paths.refresh(root, pipeline, dimension)}/applied.json")
    return dict(found) if found else {}


def begun(root: str, pipeline: str, dimension: str) -> dict[str, Any]:
    """Return {"version", "extract_ms"} of the newest refresh that began to write, whether it ended or not; empty without one."""
    found = storage.read_json(f"{paths.refresh(root, pipeline, dimension)}/begun.json")
    return dict(found) if found else {}


def pick(root: str, pipeline: Pipeline, dimension: str) -> Snapshot | str:
    """Return the snapshot to refresh from, or the sentence that says why there is none.

    Never one that is as old as the applied one or older: late, it says what was true before.
    """
    own = settings(pipeline, dimension)
    if own.source == "sql":
        now_ms = time.time_ns() // 1_000_000
        # Before the query runs, by our clock: the clock that the table's other writers go by.
        return Snapshot(version_of(now_ms), now_ms, "sql", own.table or "")
    complete, waiting = in_drop(root, pipeline.name, dimension)
    folder = paths.refresh_drop(root, pipeline.name, dimension)
    unfinished = f"; without {DONE}, so not read: {', '.join(waiting)}" if waiting else ""
    if not complete:
        return f"There is no complete snapshot in {folder}{unfinished}."
    newest, before = complete[-1], applied(root, pipeline.name, dimension)
    if newest.extract_ms <= before.get("extract_ms", -1):
        return f"{newest.version} is the newest snapshot in {folder} and {before['version']} is applied{unfinished}."
    if newest.extract_ms > (time.time() + MAX_AHEAD.total_seconds()) * 1000:
        raise HeadraceError(
            f"{newest.place} says that it was extracted in the future: its rows would win over every later change; "
            "correct the time in its name (UTC)."
        )
    return newest


def in_drop(root: str, pipeline: str, dimension: str) -> tuple[list[Snapshot], list[str]]:
    """Return the complete snapshots of the drop folder, oldest first, and the names of those without their mark."""
    folder = paths.refresh_drop(root, pipeline, dimension)
    listed = storage.list_names(folder)
    complete, waiting = [], []
    for name in listed:
        match = _NAMED.match(name)
        if not match or name.startswith("."):
            continue
        if f"{name}{DONE}" not in listed:
            waiting.append(name)
            continue
        complete.append(_snapshot(f"{folder}/{name}", match[1], match[2]))
    return sorted(complete, key=lambda each: each.extract_ms), waiting


def _snapshot(place: str, version: str, kind: str) -> Snapshot:
    try:
        at = datetime.strptime(version, VERSION).replace(tzinfo=UTC)
    except ValueError as error:
        raise HeadraceError(f"{place} has no time in its name ({error}): write it as 20261123T070500Z.") from error
    said = _mark(place)
    return Snapshot(
        version,
        int(at.timestamp() * 1000),
        "parquet" if kind == "parquet" else "csv",
        place,
        said.get("rows"),
        said.get("sha256"),
    )


def _mark(place: str) -> Mapping[str, Any]:
    """Return what the mark of a snapshot says: `rows` and `sha256`, or nothing. Raises HeadraceError for another content."""
    text = (storage.read_text(f"{place}{DONE}") or "").strip()
    try:
        said = json.loads(text or "{}")
    except ValueError:
        said = None
    kinds = {"rows": int, "sha256": str}
    if not isinstance(said, dict) or not all(type(each) is kinds.get(name) for name, each in said.items()):
        raise HeadraceError(
            f'{place}{DONE} is neither empty nor JSON such as {{"rows": 100000, "sha256": "..."}}: write the mark again.'
        )
    return said


def version_of(milliseconds: int) -> str:
    """Return a time as versions are written."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime(VERSION)
