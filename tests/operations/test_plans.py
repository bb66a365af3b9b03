"""One plan for destructive work: its id, the comparison with the current plan, and the record of who approved it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.plans import Approval, Item, Plan
from headrace.store import records
from tests.support.acts import acts

PLAN = Plan("prune", "all pipelines", (Item("move to the trash", "snapshots/a", "", "31.2 days old"),))
BLOCKED = replace(PLAN, blockers=("its driver runs (process 7): headrace stream stop pos_sales",))


def test_the_id_is_the_same_for_the_same_work_whatever_its_notes_say() -> None:
    later = replace(PLAN, items=(replace(PLAN.items[0], note="31.3 days old"),), notes=("Kept: b.",))
    assert later.id == PLAN.id
    assert len(PLAN.id) == 12
    assert int(PLAN.id, 16)


@pytest.mark.parametrize(
    "changed",
    [
        replace(PLAN, kind="repair"),
        replace(PLAN, subject="pos_sales"),
        replace(PLAN, items=()),
        replace(PLAN, items=(replace(PLAN.items[0], action="delete"),)),
        replace(PLAN, items=(replace(PLAN.items[0], target="snapshots/b"),)),
        replace(PLAN, items=(replace(PLAN.items[0], detail="1 file"),)),
        replace(PLAN, items=PLAN.items * 2),
        BLOCKED,
    ],
)
def test_the_id_is_another_for_other_work(changed: Plan) -> None:
    assert changed.id != PLAN.id


def test_a_plan_is_the_same_after_json() -> None:
    document = json.loads(json.dumps(records.to_json(BLOCKED)))
    assert document["id"] == BLOCKED.id
    assert records.from_json(Plan, document) == BLOCKED


def test_who_carries_out_a_plan_and_who_approved_it_is_recorded_when_it_begins(tmp_path: Path) -> None:
    approval = Approval(PLAN.id, by="scheduled (Airflow)", approved_by="mia (Airflow)", reason="disk")
    plans.begin(str(tmp_path), PLAN, approval)
    (act,) = acts(str(tmp_path))
    assert (act.plan, act.approval) == (PLAN, approval)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            replace(PLAN, items=PLAN.items * 2),
            r"The situation changed since plan .* it is plan [0-9a-f]{12} now\. Nothing",
        ),
        (replace(PLAN, items=()), r"The situation changed since plan .* there is nothing to do now\."),
        (BLOCKED, r"The prune of all pipelines is blocked: its driver runs .* headrace stream stop pos_sales\."),
    ],
)
def test_another_plan_than_the_approved_one_is_refused_and_nothing_is_recorded(
    now: Plan, message: str, tmp_path: Path
) -> None:
    with pytest.raises(HeadraceError, match=message) as refused:
        plans.begin(str(tmp_path), now, Approval(PLAN.id, by="a test"))
    assert refused.value.exit_code == 1, "as the command line documents for a refusal"
    assert acts(str(tmp_path)) == []


def test_a_blocked_plan_is_not_begun_with_its_own_id_either(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="blocked"):
        plans.begin(str(tmp_path), BLOCKED, Approval(BLOCKED.id, by="a test"))


def test_the_person_who_approves_sees_the_id_each_item_and_the_notes() -> None:
    many = replace(PLAN, items=tuple(Item("send", f"orders/0/{n}") for n in range(60)), notes=("2 letters left out.",))
    shown = plans.for_approval(many)
    assert shown["plan"] == many.id
    assert f"Plan `{many.id}`: prune of `all pipelines`" in shown["words"]
    assert "- `send orders/0/49`\n- and 10 more\n\n`2 letters left out.`" in shown["words"]
    assert "`move to the trash snapshots/a: 31.2 days old`" in plans.for_approval(PLAN)["words"]


@pytest.mark.parametrize(("plan", "message"), [(BLOCKED, "blocked"), (replace(PLAN, items=()), "nothing to do")])
def test_nobody_is_asked_to_approve_what_cannot_or_need_not_be_done(plan: Plan, message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        plans.for_approval(plan)
