"""`headrace provision`: plan or create what the pipelines need in Kafka and Cassandra."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.common import (
    Json,
    Names,
    console,
    deployed,
    errors,
    folder,
    print_json,
    print_result,
    startable_pipelines,
    this_machine,
)
from headrace.errors import HeadraceError

CHANGES = 2  # exit code of --plan if something would change, as in `terraform plan -detailed-exitcode`


def provision(
    names: Names = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only show what would change. Exit code 0: nothing, 1: error, 2: changes."),
    ] = False,
    consent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Allow the data loss or adoption that --plan shows for this topic. Repeatable."
        ),
    ] = None,
    retire: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE",
            help="Remove users, rights and bindings of a pipeline whose file is gone. Data stays. Needs --consent PIPELINE.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create the topics, tables, users and permissions that the pipelines declare. Safe to repeat."""
    from headrace.operations.provision import changes, retirement
    from headrace.operations.provision import run as provisioning

    settings = this_machine("provision", "The provisioning Job of chart airflow does this: docs/howto/deploy.md.")
    consented, root = consent or [], settings.home / "bindings"
    if retire:
        if names:
            raise HeadraceError("--retire takes one pipeline whose file is gone, and no other pipeline names.")
        changes.check_consents(consented, [retire])
        content = folder()
        known = {*content.pipelines, *content.broken}
        open_plan = retirement.planned(retire, known, deployed().launcher(), settings.bindings(), root)
    else:
        pipelines = list(startable_pipelines(names).values())
        changes.check_consents(consented, provisioning.consentable(pipelines))
        open_plan = provisioning.planned(pipelines, settings.bindings(), root)
        _name_leftovers(retirement.leftovers(root, {*folder().pipelines, *folder().broken}))
    with open_plan as planned:
        if not plan:
            planned.carry_out(consented)
    if plan:
        if as_json:
            print_json(changes.as_json(planned, consented))
        else:
            console.print("\n".join(changes.lines(planned, consented)), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(CHANGES if planned.changes else 0)
    if as_json or planned.changes:
        rows = [(change.pipeline, str(change)) for change in planned.changes]
        print_result(planned.changes, ("pipeline", "done"), rows, as_json=as_json)
    else:
        console.print(f"Nothing of {retire} is left." if retire else "Everything exists as the pipelines declare it.")


def _name_leftovers(names: list[str]) -> None:
    for name in names:
        errors.print(
            f"{name} has users and rights but no pipeline file. To see what can be removed: "
            f"`headrace provision --retire {name} --plan`.",
            soft_wrap=True,
        )
