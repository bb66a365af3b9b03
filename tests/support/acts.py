"""The records of plans that were carried out (`operations.plans.begin`)."""

from __future__ import annotations

from headrace.operations.plans import Act
from headrace.store import records, small_files


def acts(root: str) -> list[Act]:
    """Return the records below a storage root, oldest first."""
    read_acts = [records.read(Act, f"{root}/acts/{name}") for name in sorted(small_files.list_names(f"{root}/acts"))]
    return [act for act in read_acts if act]


def approvals(root: str) -> list[tuple[str, str, str]]:
    """Return kind, subject and approver of every plan that was carried out, oldest first."""
    return [(act.plan.kind, act.plan.subject, act.approval.approved_by) for act in acts(root)]
