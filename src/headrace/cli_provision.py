"""`headrace provision`: what the pipelines need in Kafka and Cassandra, shown or made."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli_common import Json, Names, console, errors, folder, launcher, print_json, startable_pipelines
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations import tables

CHANGES = 2  # exit code of --plan where something would change, as of `terraform plan -detailed-exitcode`


def provision(
    names: Names = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only show what would change. Exit code 0: nothing, 1: an error, 2: something."),
    ] = False,
    consent: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="This topic may lose data or be adopted, as --plan shows. May be repeated."),
    ] = None,
    retire: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE",
            help="Remove users, rights and bindings of a pipeline whose file is gone. Data stays. Asks for --consent PIPELINE.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make topics, tables, users and rights as the pipelines declare them; safe to repeat."""
    from headrace.operations import provision as provisioning
    from headrace.operations import provision_plan, provision_retire

    settings, consented, root = Settings.load(), consent or [], Settings.load().home / "bindings"
    if retire:
        if names:
            raise HeadraceError("--retire takes one pipeline whose file is gone, and no other names beside it.")
        provision_plan.check_consents(consented, [retire])
        found = folder()
        known = {*found.pipelines, *found.broken}
        open_plan = provision_retire.planned(retire, known, launcher(settings), settings.bindings(), root)
    else:
        pipelines = list(startable_pipelines(names).values())
        provision_plan.check_consents(consented, provisioning.consentable(pipelines))
        open_plan = provisioning.planned(pipelines, settings.bindings(), root)
        _name_leftovers(provision_retire.leftovers(root, {*folder().pipelines, *folder().broken}))
    with open_plan as planned:
        if not plan:
            planned.carry_out(consented)
    if plan:
        if as_json:
            print_json(provision_plan.as_json(planned, consented))
        else:
            console.print(
                "\n".join(provision_plan.lines(planned, consented)), markup=False, highlight=False, soft_wrap=True
            )
        raise typer.Exit(CHANGES if planned.changes else 0)
    if as_json:
        print_json([change.to_json_dict() for change in planned.changes])
    elif planned.changes:
        rows = [(change.pipeline, str(change)) for change in planned.changes]
        console.print(tables.plain(("pipeline", "done"), rows))
    else:
        console.print(f"Nothing of {retire} is left." if retire else "Everything is there as the pipelines declare it.")


def _name_leftovers(names: list[str]) -> None:
    for name in names:
        errors.print(
            f"{name} has users and rights and no pipeline file. To see what can go: "
            f"`headrace provision --retire {name} --plan`.",
            soft_wrap=True,
        )
