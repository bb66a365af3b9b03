"""One plan for destructive work (ADR 48): computed from the present situation, shown with its id, carried out by its id.

Restore, prune, rebuild, repair, replay, refresh and the quarantine of offsets each have a function that returns a `Plan` and
changes nothing, and one that acts. The second computes the plan again and calls `begin` before its first change; a refresh
calls `require` and keeps its own record of what it did.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

from headrace.contract.wording import code_span
from headrace.errors import HeadraceError
from headrace.store import paths, records
from headrace.store.records import Json

Kind = Literal["restore", "reset", "prune", "rebuild", "repair", "replay", "refresh", "quarantine"]
SHOWN = 50
"""The number of items that a text for a person lists."""


@dataclass(frozen=True)
class Item:
    """One step of a plan: what is done (`action`), to what (`target`), and what exactly (`detail`).

    All three are part of the plan's id. `note` is for a person and is not: an age or a size that changes without effect.
    """

    action: str
    target: str
    detail: str = ""
    note: str = ""

    def __str__(self) -> str:
        """Return the item as one line of text."""
        rest = ", ".join(part for part in (self.detail, self.note) if part)
        return f"{self.action} {self.target}" + (f": {rest}" if rest else "")


@dataclass(frozen=True)
class Plan:
    """What one operation would do now. Nothing is done while there are `blockers`, each with its remedy.

    `subject` is what is changed, such as a query or a topic. `notes` are for a person and not part of the id.
    """

    COMPUTED: ClassVar = ("id",)

    kind: Kind
    subject: str
    items: tuple[Item, ...]
    blockers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Return the plan's id, 12 hexadecimal digits: the same as long as the situation is the same."""
        items = [(item.action, item.target, item.detail) for item in self.items]
        return records.short_id([self.kind, self.subject, items, self.blockers])[:12]


@dataclass(frozen=True)
class Approval:
    """Which plan is to be carried out, by whom, and who approved it ("": code decided, such as the rollback of an upgrade)."""

    plan: str
    by: str
    approved_by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Act:
    """The record of a plan that was carried out. `at_ms` is when it began, in milliseconds since 1970."""

    plan: Plan
    approval: Approval
    at_ms: int


def require(plan: Plan, approved: str) -> None:
    """Raise HeadraceError unless the current plan is the approved one and nothing blocks it."""
    if plan.blockers:
        raise HeadraceError(f"The {plan.kind} of {plan.subject} is blocked: {'; '.join(plan.blockers)}.")
    if plan.id != approved:
        now = f"it is plan {plan.id} now" if plan.items else "there is nothing to do now"
        raise HeadraceError(
            f"The situation changed since plan {approved} for the {plan.kind} of {plan.subject}: {now}. Nothing was changed. "
            "Run the command without --act (or trigger the DAG again) to see the current plan."
        )


def begin(root: str, plan: Plan, approval: Approval) -> None:
    """Record who carries out the current plan and who approved it. Call it before the first change.

    Raises HeadraceError, and records nothing, unless the plan is the approved one and nothing blocks it (`require`).
    """
    require(plan, approval.plan)
    now = time.time_ns() // 1_000_000
    records.write(paths.act(root, now, plan.id), Act(plan, approval, now))


def for_approval(plan: Plan) -> Json:
    """Return {plan, words}: the plan's id, and the plan in Markdown for the person who approves it in Airflow.

    Raises HeadraceError if something blocks the plan, or if there is nothing to do.
    """
    require(plan, plan.id)
    if not plan.items:
        raise HeadraceError(" ".join([f"There is nothing to do for the {plan.kind} of {plan.subject}.", *plan.notes]))
    more = [f"- and {len(plan.items) - SHOWN} more"] if len(plan.items) > SHOWN else []
    items = "\n".join([*(f"- {code_span(str(item))}" for item in plan.items[:SHOWN]), *more])
    head = f"Plan `{plan.id}`: {plan.kind} of {code_span(plan.subject)}"
    return {"plan": plan.id, "words": "\n\n".join([head, items, *map(code_span, plan.notes)])}
