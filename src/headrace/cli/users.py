"""`headrace users status|refresh`: the dimensions that come from a directory."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.common import Json, console, print_json, progress_bars, provisioned, who
from headrace.cli.plans import Act, approval, show
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.deployment import Deployment
from headrace.operations.dimensions import duty
from headrace.store.records import to_json

users = typer.Typer(no_args_is_help=True, help="Refresh the users (or any dimension) from their directory.")

Dimension = Annotated[str | None, typer.Argument(help="PIPELINE.DIMENSION. Default: the only one, if there is one.")]


@users.command()
def status(as_json: Json = False) -> None:
    """Show the applied version of each refreshed dimension and the waiting snapshots."""
    deployment = provisioned()
    states = {
        f"{pipeline}.{name}": duty.status(deployment, pipeline, name) for pipeline, name in duty.dimensions(deployment)
    }
    if as_json:
        none: dict[str, object] = {"applied": {}}
        print_json({name: to_json(now) | ({} if now.applied.version else none) for name, now in states.items()})
        return
    rows = [
        (name, now.applied.version or "nothing yet", tables.number(now.applied.rows if now.applied.version else None),
         now.complete, now.unfinished)
        for name, now in states.items()
    ]  # fmt: skip
    console.print(tables.plain(("dimension", "applied", "rows", "complete snapshots", "incomplete snapshots"), rows))


@users.command()
def refresh(
    context: typer.Context,
    dimension: Dimension = None,
    act: Act = "",
    as_json: Json = False,
) -> None:
    """Refresh from the newest complete snapshot. Nothing to do if it is not newer than the applied one."""
    deployment = provisioned()
    pipeline, name = _chosen(deployment, dimension)
    with progress_bars() as bars:

        def report(done: int, total: int) -> None:
            bars(f"writing {name}", done / total if total else 1.0)

        bars(f"comparing {name}", None)
        if act:
            record = duty.refresh(deployment, pipeline, name, approval(act, who()), report=report)
        else:
            planned = duty.prepare(deployment, pipeline, name).plan
    if not act:
        show(context, planned, as_json)
    elif as_json:
        print_json(record)
    else:
        rows = f"{record.inserts} new, {record.updates} changed, {record.deletes} deleted"
        console.print(f"Version {record.version}: {rows}.")


def _chosen(deployment: Deployment, dimension: str | None) -> tuple[str, str]:
    known_dimensions = {f"{pipeline}.{name}": (pipeline, name) for pipeline, name in duty.dimensions(deployment)}
    if dimension is None and len(known_dimensions) == 1:
        return next(iter(known_dimensions.values()))
    if dimension not in known_dimensions:
        known = f"Dimensions with a refresh: {', '.join(known_dimensions) or 'none'}."
        raise HeadraceError(
            f"Unknown dimension {dimension!r}. {known}" if dimension else f"Name the dimension. {known}"
        )
    return known_dimensions[dimension]
