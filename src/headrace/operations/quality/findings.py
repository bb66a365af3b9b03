"""Critical findings that stay open until a person accepts them or a later check shows them repaired.

Each sink has one file: the `open` findings, and the newest `closed` ones with how, by whom, why and when. A finding lists the
expectations that one window broke. It is repaired when the same window, read again, meets them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.errors import HeadraceError
from headrace.store import paths, small_files

CLOSED_KEPT = 200
REPAIRED, ACCEPTED = "repaired", "accepted"

Finding = dict[str, Any]


def read(root: str, sink: str) -> dict[str, list[Finding]]:
    """Return {"open": [...], "closed": [...]}, oldest first. Raises HeadraceError if the file is broken."""
    content = small_files.read_json(paths.quality_findings(root, sink)) or {}
    return {"open": list(content.get("open", [])), "closed": list(content.get("closed", []))}


def make(sink: str, window: Mapping[str, Any], failed: Sequence[Mapping[str, Any]], at_ms: int) -> Finding:
    """Return the finding of a window whose critical expectations `failed`; the same window gives the same id."""
    place = window["kind"] if window["kind"] == "table" else window["name"]
    return {
        "id": hashlib.sha256(f"{sink}/{place}".encode()).hexdigest()[:10],
        "window": dict(window),
        "found_at_ms": at_ms,
        "expectations": [
            {name: each[name] for name in ("id", "expectation", "why", "unexpected", "error", "examples")}
            for each in failed
        ],
    }


def opened(known: Mapping[str, Sequence[Finding]], new: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Return the findings with new ones added. A finding that is already open keeps the time when it was first found.

    A finding that a person accepted stays accepted while the same window breaks no further expectation. A table is one
    window.
    """
    open_findings = {each["id"]: each for each in known["open"]}
    accepted = {each["id"]: each for each in known["closed"] if each["how"] == ACCEPTED}
    for each in new:
        if each["id"] in accepted and not _is_worse(accepted[each["id"]], each):
            continue
        first = open_findings.get(each["id"], each)["found_at_ms"]
        open_findings[each["id"]] = {**each, "found_at_ms": first}
    return {"open": list(open_findings.values()), "closed": list(known["closed"])}


def _is_worse(accepted: Finding, finding: Finding) -> bool:
    """Return whether a finding has an expectation that was not accepted, or more rows that break one."""
    rows = {each["id"]: each["unexpected"] for each in accepted["expectations"]}
    return any(each["unexpected"] > rows.get(each["id"], -1) for each in finding["expectations"])


def closed(
    known: Mapping[str, Sequence[Finding]], ids: Iterable[str], how: str, *, by: str, reason: str, at_ms: int
) -> dict[str, list[Finding]]:
    """Return the findings with those of `ids` closed."""
    closing = set(ids)
    closed_now = [
        {**each, "how": how, "by": by, "reason": reason, "at_ms": at_ms}
        for each in known["open"]
        if each["id"] in closing
    ]
    kept = [each for each in known["open"] if each["id"] not in closing]
    return {"open": kept, "closed": [*known["closed"], *closed_now][-CLOSED_KEPT:]}


def write(root: str, sink: str, content: Mapping[str, Sequence[Finding]]) -> None:
    """Replace a sink's findings."""
    small_files.write_json(paths.quality_findings(root, sink), content)


def accept(root: str, sink: str, ids: Sequence[str], *, by: str, reason: str) -> list[Finding]:
    """Accept open findings of a sink (all of them if `ids` is empty) and return them.

    Raises HeadraceError for a reason of fewer than three characters, and for an id that is not open.
    """
    if len(reason.strip()) < 3:
        raise HeadraceError("An acceptance needs a reason of at least three characters: --reason 'TEXT'.")
    known = read(root, sink)
    open_ids = [each["id"] for each in known["open"]]
    for each in ids:
        if each not in open_ids:
            raise HeadraceError(
                f"{sink} has no open finding {each!r}. Open findings: {', '.join(open_ids) or 'none'}. "
                f"`headrace quality show {sink}` lists them."
            )
    if not open_ids:
        raise HeadraceError(f"{sink} has no open finding, so there is nothing to accept.")
    now_ms = time.time_ns() // 1_000_000
    chosen = list(ids) or open_ids
    updated = closed(known, chosen, ACCEPTED, by=by, reason=reason.strip(), at_ms=now_ms)
    write(root, sink, updated)
    return [each for each in updated["closed"] if each["id"] in set(chosen) and each["at_ms"] == now_ms]
