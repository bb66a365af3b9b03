"""Every command shows a plan in one way: the id, the items, what blocks it, and last the command that carries it out."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from headrace.cli import plans as cli
from headrace.operations.plans import Item, Plan

PLAN = Plan("restore", "pos_sales.tumbling", (Item("begin", "generation 2"),), notes=("Mind the totals.",))


def run(plan: Plan, *words: str) -> tuple[int, str]:
    app, group = typer.Typer(), typer.Typer()
    app.add_typer(group, name="checkpoint")

    @group.command("restore")
    def restore(
        context: typer.Context,
        spec: str,
        snapshot: Annotated[str, typer.Option("--from")] = "",
        at: datetime | None = None,
        names: Annotated[list[str] | None, typer.Option("--name")] = None,
        keep: int = 3,
        again: bool = False,
        kafka: bool = True,
        act: cli.Act = "",
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        cli.show(context, plan, as_json, snapshot=snapshot or "newest")

    @group.command("other")
    def other() -> None:
        """Exist, so that the group has two commands."""

    result = CliRunner().invoke(app, ["checkpoint", "restore", *words])
    return result.exit_code, result.stdout


def test_the_last_line_is_the_given_command_with_what_was_chosen_and_the_id() -> None:
    words = [
        "pos_sales.tumbling",
        "--at",
        "2026-11-23T10:00:00",
        "--name",
        "a b",
        "--name",
        "c",
        "--again",
        "--no-kafka",
    ]
    code, output = run(PLAN, *words)
    assert code == 0
    head, item, note, last = output.splitlines()
    assert (head, item, note) == (
        f"Plan {PLAN.id}: restore of pos_sales.tumbling",
        "  begin generation 2",
        "Mind the totals.",
    )
    assert last.endswith(
        "headrace checkpoint restore pos_sales.tumbling --from newest --at '2026-11-23 10:00:00' --name 'a b' --name c "
        f"--again --no-kafka --act {PLAN.id}"
    )


def test_a_blocked_plan_names_what_blocks_it_and_no_command() -> None:
    code, output = run(replace(PLAN, blockers=("its driver runs",)), "pos_sales.tumbling")
    assert code == 1
    assert output.splitlines()[-1] == "Blocked: its driver runs."
    assert "--act" not in output


def test_a_plan_without_items_says_so_and_is_no_fault() -> None:
    code, output = run(replace(PLAN, items=()), "pos_sales.tumbling")
    assert code == 0
    assert output.splitlines() == ["There is nothing to do for the restore of pos_sales.tumbling.", "Mind the totals."]


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, blockers=("its driver runs",))])
def test_json_holds_the_plan_with_its_id(plan: Plan) -> None:
    code, output = run(plan, "pos_sales.tumbling", "--json")
    assert code == len(plan.blockers)
    document = json.loads(output)
    assert document["id"] == plan.id
    assert document["items"] == [{"action": "begin", "target": "generation 2", "detail": "", "note": ""}]
    assert document["blockers"] == list(plan.blockers)


def test_the_terminal_lists_the_first_items_of_a_long_plan() -> None:
    many = replace(PLAN, items=tuple(Item("send", f"orders/0/{number}") for number in range(60)))
    _, output = run(many, "pos_sales.tumbling")
    assert "  send orders/0/49\n  and 10 more: --json prints all\n" in output
