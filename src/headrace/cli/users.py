"""`headrace users status|plan|refresh`: the dimensions that come from a directory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli.common import Json, console, print_json, progress_bars, provisioned, who
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.deployment import Deployment
from headrace.operations.dimensions import duty

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
        print_json(states)
        return
    rows = [
        (name, state["applied"].get("version", "nothing yet"), tables.number(state["applied"].get("rows")),
         state["complete"], state["unfinished"])
        for name, state in states.items()
    ]  # fmt: skip
    console.print(tables.plain(("dimension", "applied", "rows", "complete snapshots", "incomplete snapshots"), rows))


@users.command()
def plan(dimension: Dimension = None, as_json: Json = False) -> None:
    """Show what a refresh would write, without writing to the table."""
    deployment = provisioned()
    pipeline, name = _chosen(deployment, dimension)
    snapshot = duty.pick(deployment, pipeline, name)
    if "skip" in snapshot:
        _show_result(snapshot, as_json)
        return
    staged = duty.stage(deployment, pipeline, name, snapshot)
    duty.check(deployment, pipeline, name, staged)
    planned = duty.plan(deployment, pipeline, name, staged)
    if as_json:
        print_json(planned)
    else:
        console.print(planned["text"], soft_wrap=True)


@users.command()
def refresh(
    dimension: Dimension = None,
    approve: Annotated[bool, typer.Option("--approve", help="Also apply a plan that needs approval.")] = False,
    as_json: Json = False,
) -> None:
    """Refresh from the newest complete snapshot. Does nothing if it is not newer than the applied one."""
    deployment = provisioned()
    pipeline, name = _chosen(deployment, dimension)
    with progress_bars() as bars:

        def report(done: int, total: int) -> None:
            bars(f"writing {name}", done / total if total else 1.0)

        bars(f"comparing {name}", None)
        result = duty.refresh(deployment, pipeline, name, by=who(), approve=approve, report=report)
    _show_result(result, as_json)


def _show_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    elif "skip" in result:
        console.print(result["skip"], soft_wrap=True)
    else:
        console.print(
            f"Version {result['version']}: {result['inserts']} new, {result['updates']} changed, {result['deletes']} deleted."
        )


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
