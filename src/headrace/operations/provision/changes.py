"""A provisioning plan: each change with the step that carries it out, what it may lose, and whether there is consent.

Planning only reads. A plan is carried out only if every change in it is harmless or has consent (ADR 0035).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from headrace.contract.wording import choices
from headrace.errors import HeadraceError

Action = Literal["add", "change", "remove"]
SIGNS: dict[Action, str] = {"add": "+", "change": "~", "remove": "-"}
RIGHT: dict[Action, str] = {"add": "right", "remove": "right revoked"}


class RefusedError(HeadraceError):
    """Provisioning that must not or cannot be carried out; trying again does not help."""


@dataclass(frozen=True)
class Change:
    """One object to create, change or remove: for which pipeline (or producer), its kind (topic, table, right ...), its name.

    `detail` says what differs. `risk` says what may be lost: the change needs consent. `refusal` says why it is impossible.
    """

    pipeline: str
    kind: str
    name: str
    action: Action = "add"
    detail: str = ""
    risk: str = ""
    refusal: str = ""

    def __str__(self) -> str:
        text = f"{SIGNS[self.action]} {self.kind} {self.name}" + (f": {self.detail}" if self.detail else "")
        return f"{text} ({self.refusal or self.risk})" if self.refusal or self.risk else text


@dataclass(frozen=True)
class ProvisionStep:
    """Carries a change out. Without a change it runs each time and is not reported: it re-applies the existing state."""

    change: Change | None
    apply: Callable[[], None]


@dataclass(frozen=True)
class ProvisionPlan:
    """Steps in order of execution. `retires` is the pipeline that the plan retires, if it is such a plan."""

    steps: Sequence[ProvisionStep]
    retires: str = ""

    @property
    def changes(self) -> list[Change]:
        """Return the changes, in order; empty if everything is as declared."""
        return [step.change for step in self.steps if step.change]

    def needing_consent(self, consented: Collection[str] = ()) -> list[Change]:
        """Return the changes that may lose something and have no consent."""
        return [change for change in self.changes if change.risk and (self.retires or change.name) not in consented]

    def carry_out(self, consented: Collection[str] = ()) -> list[Change]:
        """Carry all steps out and return the changes. Raises RefusedError, before the first step, if that is not allowed."""
        if impossible := [change.refusal for change in self.changes if change.refusal]:
            raise RefusedError(" ".join(impossible))
        if asking := self.needing_consent(consented):
            reasons = "; ".join(f"{item.kind} {item.name}: {item.detail} {item.risk}".strip() for item in asking)
            lost = f"{self.retires} would lose its logins" if self.retires else "data may be lost"
            raise ConsentNeededError(f"Nothing was changed, because {lost}: {reasons}.", asking, self.retires)
        for step in self.steps:
            step.apply()
        return self.changes


class ConsentNeededError(RefusedError):
    """A plan that may lose data without consent. `message` says what; the error's text adds the command."""

    def __init__(self, message: str, changes: Sequence[Change], retires: str = "") -> None:
        self.message, self.names = message, sorted({change.name for change in changes})
        super().__init__(f"{message} If that is intended: `{consent_command(changes, retires)}`.")


def consent_command(changes: Sequence[Change], retires: str = "") -> str:
    """Return the command line that carries these changes out."""
    if retires:
        return f"headrace provision --retire {retires} --consent {retires}"
    pipelines = sorted({change.pipeline for change in changes})
    options = (f"--consent {name}" for name in sorted({change.name for change in changes}))
    return " ".join(("headrace provision", *pipelines, *options))


def check_consents(consented: Collection[str], known: Collection[str]) -> None:
    """Raise HeadraceError for consent to a name that no pipeline declares."""
    for name in consented:
        if name not in known:
            raise HeadraceError(f"Unknown name in --consent: {name!r}; {choices(name, sorted(known))}.")


def lines(plan: ProvisionPlan, consented: Collection[str] = ()) -> list[str]:
    """Return the plan as text: the changes of each pipeline, their count, and the command that consents if needed."""
    shown: list[str] = []
    for pipeline in dict.fromkeys(change.pipeline for change in plan.changes):
        shown += [f"{pipeline}:", *(f"  {item}" for item in plan.changes if item.pipeline == pipeline)]
    counts = counted(plan)
    shown.append(f"Plan: {counts['add']} to add, {counts['change']} to change, {counts['remove']} to remove.")
    impossible = sum(bool(change.refusal) for change in plan.changes)
    if impossible:
        shown.append(f"Impossible: {impossible}. Correct the pipeline files first.")
    elif asking := plan.needing_consent(consented):
        shown.append(f"Need consent: {len(asking)}. If that is intended: `{consent_command(asking, plan.retires)}`.")
    return shown


def counted(plan: ProvisionPlan) -> dict[str, int]:
    """Return the number of changes of each action."""
    return {action: sum(change.action == action for change in plan.changes) for action in SIGNS}


def as_json(plan: ProvisionPlan, consented: Collection[str] = ()) -> dict[str, object]:
    """Return the plan as plain JSON values. `command` is empty if nothing needs consent."""
    asking = plan.needing_consent(consented)
    return {
        "changes": [asdict(change) for change in plan.changes],
        **counted(plan),
        "consent": sorted({change.name for change in asking}),
        "command": consent_command(asking, plan.retires) if asking else "",
    }
