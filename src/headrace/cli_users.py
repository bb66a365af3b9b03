"""`headrace users status|plan|refresh`: the dimensions that come from a directory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli_batch import written_deployment
from headrace.cli_common import Json, console, print_json, progress_bars, who
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.deployment import Deployment
from headrace.operations.users import duty

users = typer.Typer(no_args_is_help=True, help="Refresh the users (any dimension) from their directory.")

Dimension = Annotated[str | None, typer.Argument(help="PIPELINE.DIMENSION; default: the only one there is.")]


@users.command()
def status(as_json: Json = False) -> None:
    """Show for each refreshed dimension what is applied and which snapshots wait."""
    own = written_deployment()
    found = {f"{pipeline}.{name}": duty.status(own, pipeline, name) for pipeline, name in duty.dimensions(own)}
    if as_json:
        print_json(found)
        return
    rows = [
        (name, each["applied"].get("version", "nothing yet"), tables.number(each["applied"].get("rows")),
         each["complete"], each["unfinished"])
        for name, each in found.items()
    ]  # fmt: skip
    console.print(tables.plain(("dimension", "applied", "rows", "complete snapshots", "without their mark"), rows))


@users.command()
def plan(dimension: Dimension = None, as_json: Json = False) -> None:
    """Show what a refresh would write; writes nothing to the table."""
    own = written_deployment()
    pipeline, name = _chosen(own, dimension)
    snapshot = duty.pick(own, pipeline, name)
    if "skip" in snapshot:
        _tell(snapshot, as_json)
        return
    staged = duty.stage(own, pipeline, name, snapshot)
    duty.check(own, pipeline, name, staged)
    planned = duty.plan(own, pipeline, name, staged)
    if as_json:
        print_json(planned)
    else:
        console.print(planned["text"], soft_wrap=True)


@users.command()
def refresh(
    dimension: Dimension = None,
    approve: Annotated[bool, typer.Option("--approve", help="Also where the plan needs an approval.")] = False,
    as_json: Json = False,
) -> None:
    """Refresh from the newest complete snapshot; nothing happens where none is newer than what is applied."""
    own = written_deployment()
    pipeline, name = _chosen(own, dimension)
    with progress_bars() as bars:

        def report(done: int, total: int) -> None:
            bars(f"{name} written", done / total if total else 1.0)

        bars(f"{name} compared", None)
        told = duty.refresh(own, pipeline, name, by=who(), approve=approve, report=report)
    _tell(told, as_json)


def _tell(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
    elif "skip" in told:
        console.print(told["skip"], soft_wrap=True)
    else:
        console.print(
            f"Version {told['version']}: {told['inserts']} new, {told['updates']} changed, {told['deletes']} deleted."
        )


def _chosen(own: Deployment, dimension: str | None) -> tuple[str, str]:
    there = {f"{pipeline}.{name}": (pipeline, name) for pipeline, name in duty.dimensions(own)}
    if dimension is None and len(there) == 1:
        return next(iter(there.values()))
    if dimension not in there:
        known = f"Dimensions with a refresh: {', '.join(there) or 'none'}."
        raise HeadraceError(
            f"Unknown dimension {dimension!r}. {known}" if dimension else f"Name the dimension. {known}"
        )
    return there[dimension]
