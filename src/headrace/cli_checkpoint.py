"""`headrace checkpoint ...`: look at checkpoints, verify, keep, restore, prune and drill them.

Everything is named PIPELINE or PIPELINE.QUERY. What changes something shows its plan first and needs --act.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from headrace.cli_common import (
    Json,
    ProjectFolder,
    console,
    launcher,
    pipelines_of,
    print_json,
    progress_bars,
    starting_launcher,
    who,
)
from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.contract.records import to_json
from headrace.errors import HeadraceError
from headrace.local.launcher import write_deployment
from headrace.local.settings import Settings
from headrace.operations import tables, upkeep
from headrace.operations.checkpoints import drill, inspect, prune, restore, snapshots, verify

checkpoint = typer.Typer(no_args_is_help=True, help="Look at checkpoints, verify, keep, restore, prune and drill them.")

Specs = Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE[.QUERY]]...", help="Default: all.")]
Spec = Annotated[str, typer.Argument(metavar="PIPELINE.QUERY")]
Act = Annotated[bool, typer.Option("--act", help="Carry it out; without it only the plan is shown.")]


@checkpoint.command("inspect")
def checkpoint_inspect(specs: Specs = None, as_json: Json = False) -> None:
    """Show generations, offsets, state, ledger and snapshots; reads files only."""
    root = launcher(Settings.load()).root
    found = [inspect.inspect(root, pipeline.name, query) for pipeline, query in _named(specs)]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["query"],
            f"{one['generation']}{' *' if one['generation'] == each['current'] else ''}",
            one["committed_batch"],
            one["age_seconds"],
            one["state_bytes"],
            one["ledger_records"],
            one["fingerprint"],
            len([kept for kept in each["snapshots"] if kept["generation"] == one["generation"]]),
        )
        for each in found
        for one in each["generations"]
    ]
    heads = ("query", "generation", "batch", "age s", "state bytes", "ledger records", "fingerprint", "snapshots")
    console.print(tables.plain(heads, rows))
    kept = [(each["query"], one["id"], one["batch"], one["reason"]) for each in found for one in each["snapshots"]]
    if kept:
        console.print(tables.plain(("query", "snapshot", "batch", "reason"), kept))


@checkpoint.command("verify")
def checkpoint_verify(
    specs: Specs = None,
    kafka: Annotated[bool, typer.Option(help="Also ask Kafka whether it holds the offsets.")] = True,
    as_json: Json = False,
) -> None:
    """Verify structure, Kafka's offsets and the sinks; exit code 1 if something critical is found."""
    settings = Settings.load()
    root = launcher(settings).root
    bindings = settings.bindings() if kafka else None
    reports = [verify.verify(root, pipeline, query, bindings) for pipeline, query in _named(specs)]
    if as_json:
        print_json([each.to_json_dict() for each in reports])
    else:
        rows = [
            (each.query, one.severity, one.fault, f"{one.where} {one.what}", one.runbook)
            for each in reports
            for one in each.findings
        ]
        if rows:
            console.print(tables.plain(("query", "", "fault", "what", "runbook"), rows))
        sound = sum(each.sound for each in reports)
        console.print(f"{sound} of {len(reports)} checkpoints are sound.")
    if not all(each.sound for each in reports):
        raise typer.Exit(1)


@checkpoint.command("snapshot")
def checkpoint_snapshot(
    specs: Specs = None,
    generation: Annotated[int | None, typer.Option(min=1, help="Default: the current one.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the snapshot.")] = "by hand",
    as_json: Json = False,
) -> None:
    """Take a consistent cut of each query, running or not, with a hash of every file."""
    root = launcher(Settings.load()).root
    wanted = _named(specs)
    if not specs:  # all: those that have something to keep
        wanted = [(p, q) for p, q in wanted if inspect.has_batch(root, p.name, q)]
    taken = [
        snapshots.take(root, pipeline.name, query, reason=reason, number=generation).summary()
        for pipeline, query in wanted
    ]
    if as_json:
        print_json(taken)
    else:
        rows = [
            (names.query_name(t["pipeline"], t["query"]), t["id"], t["batch"], t["files"], t["bytes"]) for t in taken
        ]
        console.print(tables.plain(("query", "snapshot", "batch", "files", "bytes"), rows))


@checkpoint.command("restore")
def checkpoint_restore(
    spec: Spec,
    snapshot: Annotated[str, typer.Option("--from", metavar="SNAPSHOT", help="Default: the newest.")] = "",
    reset: Annotated[bool, typer.Option("--reset", help="Begin with empty state instead of a snapshot.")] = False,
    at: Annotated[
        datetime | None, typer.Option(help="With --reset: the broker time (UTC) to begin at; default: the beginning.")
    ] = None,
    act: Act = False,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the manifest.")] = "by hand",
    as_json: Json = False,
) -> None:
    """Restore a query from a snapshot, or reset it: always a new generation. Exit code 1 if something stands in the way."""
    settings = Settings.load()
    own, (pipeline, query) = launcher(settings), _one(spec)
    if at and not reset:
        raise HeadraceError("--at goes with --reset: a snapshot has its own offsets.")
    if reset:
        starting = int(at.replace(tzinfo=UTC).timestamp() * 1000) if at else None
        planned = restore.plan_reset(own, pipeline, query, starting)
    else:
        planned = restore.plan(own, pipeline, query, snapshot or None, settings.bindings())
    done: dict[str, Any] = to_json(planned) | {"acted": False}
    if act:
        made = restore.act(own, pipeline, planned, by=who(), reason=reason, bindings=settings.bindings())
        report = verify.verify(own.root, pipeline, query, settings.bindings())
        done |= {"acted": True, "sound": report.sound, "generation": made.number}
    _show(done, as_json)
    if planned.blockers or done.get("sound") is False:
        raise typer.Exit(1)


@checkpoint.command("prune")
def checkpoint_prune(
    specs: Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Default: all.")] = None,
    generation_days: Annotated[float, typer.Option(min=0, help="Days since the next generation began.")] = 14,
    snapshot_days: Annotated[float, typer.Option(min=0, help="Days that a snapshot is kept.")] = 30,
    keep: Annotated[int, typer.Option(min=1, help="Snapshots of each query that stay whatever their age.")] = 3,
    trash_days: Annotated[float, typer.Option(min=0, help="Days in the trash.")] = 7,
    act: Act = False,
    as_json: Json = False,
) -> None:
    """Move old generations and snapshots to the trash, and empty what has been there long enough."""
    root = launcher(Settings.load()).root
    retention = prune.Retention(generation_days, snapshot_days, keep, trash_days)
    pipelines = list(pipelines_of(specs).values())
    planned = prune.plan(root, pipelines, retention)
    if act:
        planned = prune.act(root, pipelines, retention, planned.fingerprint)
    if as_json:
        print_json(to_json(planned) | {"bytes": planned.bytes, "acted": act})
        return
    rows = [("deleted" if each.delete else "to the trash", each.path, each.bytes, each.why) for each in planned.items]
    console.print(tables.plain(("", "folder", "bytes", "why"), rows) if rows else "There is nothing to take away.")
    for sentence in planned.kept:
        console.print(f"Stays: {sentence}.", highlight=False, soft_wrap=True)
    if rows and not act:
        console.print("This is the plan: carry it out with --act.")


@checkpoint.command("drill")
def checkpoint_drill(
    spec: Spec,
    snapshot: Annotated[str, typer.Option("--from", metavar="SNAPSHOT", help="Default: the newest.")] = "",
    as_json: Json = False,
) -> None:
    """Let Spark go on from a snapshot in a scratch folder and compare with what the stream did. Touches nothing else."""
    settings = Settings.load()
    starting_launcher(settings)  # says in words what is missing: Java, jars
    pipeline, query = _one(spec)
    deployment = write_deployment(settings, ProjectFolder.resolve())
    with progress_bars() as report:
        report(f"drill of {spec}", None)
        told = drill.drill(deployment, pipeline.name, query, snapshot)
    _show(told, as_json)


@checkpoint.command("gather")
def checkpoint_gather(
    specs: Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Gather small files: ledger records into segments, closed output directories into larger ones."""
    root = launcher(Settings.load()).root
    told = [row for pipeline in pipelines_of(specs).values() for row in upkeep.gather(root, pipeline)]
    if as_json:
        print_json(told)
    else:
        rows = [(row["query"], row["ledger_records"], row["directories"], row["removed"]) for row in told]
        console.print(tables.plain(("query", "records gathered", "directories made", "directories removed"), rows))


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    rows = [
        (key, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value) for key, value in told.items()
    ]
    console.print(tables.plain(("", ""), rows))


def _named(specs: Sequence[str] | None) -> list[tuple[Pipeline, str]]:
    """Return (pipeline, query) of everything that is named; a pipeline stands for all its queries."""
    wanted: Iterable[str] = specs or list(pipelines_of())
    return [found for spec in wanted for found in _queries(spec)]


def _one(spec: str) -> tuple[Pipeline, str]:
    if "." not in spec:
        raise HeadraceError(f"{spec!r} names a whole pipeline: say PIPELINE.QUERY.")
    return _queries(spec)[0]


def _queries(spec: str) -> list[tuple[Pipeline, str]]:
    name, _, query = spec.partition(".")
    pipeline = pipelines_of([name])[name]
    known = names.query_names(pipeline)
    if query and query not in known:
        raise HeadraceError(f"There is no query {query!r} in {name}: there is {', '.join(known)}.")
    return [(pipeline, each) for each in ([query] if query else known)]
