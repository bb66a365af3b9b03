"""How every command shows a plan (ADR 48): its id, items and blockers, and last the exact command that carries it out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from headrace.cli.common import console, print_json
from headrace.operations import plans
from headrace.operations.plans import Approval, Plan

Act = Annotated[
    str, typer.Option("--act", metavar="ID", help="Carry out the plan with this id; without it the plan is only shown.")
]
NOT_REPEATED = ("act", "as_json")


def show(context: typer.Context, plan: Plan, as_json: bool, **pinned: Any) -> None:  # noqa: ANN401
    """Print a plan, and as last line the command that carries it out: the given one, with the values of `pinned` and --act.

    Raises Exit with code 1 if something blocks the plan.
    """
    if as_json:
        print_json(plan)
    else:
        for line in _lines(plan):
            console.print(line, soft_wrap=True)
        if plan.items and not plan.blockers:
            command = command_line(context, **pinned)
            console.print(f"Nothing was changed. To carry it out: {command} --act {plan.id}", soft_wrap=True)
    if plan.blockers:
        raise typer.Exit(1)


def approval(act: str, by: str, reason: str = "") -> Approval:
    """Return the approval that --act is: the person who types it approves the plan and carries it out."""
    return Approval(act, by=by, approved_by=by, reason=reason)


def command_line(context: typer.Context, **pinned: Any) -> str:  # noqa: ANN401
    """Return the command line that is being carried out, without --act and --json; `pinned` replaces values of parameters."""
    path: list[str] = []
    group: Any = context  # click's own class of contexts above this one
    while group.parent:
        path.insert(0, str(group.info_name))
        group = group.parent
    words = [word for parameter in context.command.params for word in _words(parameter, {**context.params, **pinned})]
    return shlex.join(["headrace", *path, *words])


def _words(parameter: Any, values: dict[str, Any]) -> Iterator[str]:  # noqa: ANN401 - click's Parameter
    value = values.get(parameter.name)
    if parameter.name in NOT_REPEATED or value in (None, "", (), []) or value == parameter.default:
        return
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if parameter.param_type_name == "argument":
            yield str(one)
        elif one is False:
            yield parameter.secondary_opts[0]
        else:
            yield from [parameter.opts[0]] if one is True else [parameter.opts[0], str(one)]


def _lines(plan: Plan) -> Iterator[str]:
    if plan.items:
        yield f"Plan {plan.id}: {plan.kind} of {plan.subject}"
    elif not plan.blockers:
        yield f"There is nothing to do for the {plan.kind} of {plan.subject}."
    yield from (f"  {item}" for item in plan.items[: plans.SHOWN])
    if len(plan.items) > plans.SHOWN:
        yield f"  and {len(plan.items) - plans.SHOWN} more: --json prints all"
    yield from plan.notes
    yield from (f"Blocked: {blocker}." for blocker in plan.blockers)
