"""Selects the snapshot to refresh from: the newest complete file in the drop folder, or the SQL table as it is now.

A file is named `<any name>-<extract time>.csv`, `.csv.gz` or `.parquet`, with the time as 20261123T070500Z (UTC). It is
complete once `<file>.done` (the mark) exists next to it. The mark may contain JSON with `rows` and `sha256`, which the
file must then match. A file without a mark is still being written and is not read.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from headrace.contract.model import Pipeline, Refresh
from headrace.errors import HeadraceError
from headrace.operations.dimensions.documents import Begun, RefreshRecord
from headrace.store import paths, records, small_files

VERSION = "%Y%m%dT%H%M%SZ"
_NAMED = re.compile(r"^.+-(\d{8}T\d{6}Z)\.(csv|csv\.gz|parquet)$")
DONE = ".done"
# Clocks differ; a later time than this is wrong, and would hide real changes until then.
MAX_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True)
class DirectorySnapshot:
    """One snapshot. `version` is its extract time as text, `extract_ms` the same in milliseconds since 1970."""

    version: str
    extract_ms: int
    kind: Literal["csv", "parquet", "sql"]
    place: str
    rows: int | None = None
    sha256: str | None = None


def settings(pipeline: Pipeline, dimension: str) -> Refresh:
    """Return the dimension's refresh settings. Raises HeadraceError if it has none."""
    declared = pipeline.dimensions.get(dimension)
    if declared is None or declared.refresh is None:
        raise HeadraceError(
            f"pipelines/{pipeline.name}.yaml has no dimensions.{dimension}.refresh. Add it (docs/howto/refresh-users.md)."
        )
    return declared.refresh


def applied(root: str, pipeline: str, dimension: str) -> RefreshRecord:
    """Return the record of the newest completed refresh; one without a version if there was none."""
    return records.read(RefreshRecord, f"{paths.refresh(root, pipeline, dimension)}/applied.json") or RefreshRecord()


def begun(root: str, pipeline: str, dimension: str) -> Begun:
    """Return the newest refresh that began to write; its version is empty if there is none."""
    return records.read(Begun, f"{paths.refresh(root, pipeline, dimension)}/begun.json") or Begun()


def pick(root: str, pipeline: Pipeline, dimension: str) -> DirectorySnapshot | str:
    """Return the snapshot to refresh from, or the reason why there is none.

    Never a snapshot as old as the applied one or older: it describes an outdated state.
    """
    refresh = settings(pipeline, dimension)
    if refresh.source == "sql":
        now_ms = time.time_ns() // 1_000_000
        # Taken before the query runs, from our clock, which the table's other writers use too.
        return DirectorySnapshot(version_of(now_ms), now_ms, "sql", refresh.table or "")
    complete, waiting = in_drop(root, pipeline.name, dimension)
    folder = paths.refresh_drop(root, pipeline.name, dimension)
    unfinished = f"; not read because {DONE} is missing: {', '.join(waiting)}" if waiting else ""
    if not complete:
        return f"There is no complete snapshot in {folder}{unfinished}."
    newest, before = complete[-1], applied(root, pipeline.name, dimension)
    if newest.extract_ms <= before.extract_ms:
        return f"{newest.version}, the newest snapshot in {folder}, is not newer than applied {before.version}{unfinished}."
    if newest.extract_ms > (time.time() + MAX_AHEAD.total_seconds()) * 1000:
        raise HeadraceError(
            f"{newest.place} claims to have been extracted in the future, so its rows would override every later change. "
            "Correct the time in its name (UTC)."
        )
    return newest


def in_drop(root: str, pipeline: str, dimension: str) -> tuple[list[DirectorySnapshot], list[str]]:
    """Return the complete snapshots in the drop folder, oldest first, and the names of those without a mark."""
    folder = paths.refresh_drop(root, pipeline, dimension)
    listed = small_files.list_names(folder)
    complete, waiting = [], []
    for name in listed:
        match = _NAMED.match(name)
        if not match or name.startswith("."):
            continue
        if f"{name}{DONE}" not in listed:
            waiting.append(name)
            continue
        complete.append(_snapshot(f"{folder}/{name}", match[1], match[2]))
    return sorted(complete, key=lambda snapshot: snapshot.extract_ms), waiting


def _snapshot(place: str, version: str, kind: str) -> DirectorySnapshot:
    try:
        at = datetime.strptime(version, VERSION).replace(tzinfo=UTC)
    except ValueError as error:
        raise HeadraceError(f"{place} has no time in its name ({error}). Write it as 20261123T070500Z.") from error
    mark = _mark(place)
    return DirectorySnapshot(
        version,
        int(at.timestamp() * 1000),
        "parquet" if kind == "parquet" else "csv",
        place,
        mark.get("rows"),
        mark.get("sha256"),
    )


def _mark(place: str) -> Mapping[str, Any]:
    """Return the content of a snapshot's mark: `rows` and `sha256`, or nothing. Raises HeadraceError for anything else."""
    text = (small_files.read_text(f"{place}{DONE}") or "").strip()
    try:
        content = json.loads(text or "{}")
    except ValueError:
        content = None
    kinds = {"rows": int, "sha256": str}
    if not isinstance(content, dict) or not all(type(value) is kinds.get(name) for name, value in content.items()):
        raise HeadraceError(
            f'{place}{DONE} is neither empty nor JSON such as {{"rows": 100000, "sha256": "..."}}. Write the mark again.'
        )
    return content


def version_of(milliseconds: int) -> str:
    """Return a time in the form of a version."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime(VERSION)
