"""`headrace checkpoint ...`: inspect, verify, snapshot, restore, prune and drill checkpoints.

Arguments are PIPELINE or PIPELINE.QUERY. Restore and prune show their plan and carry it out with --act ID (ADR 48).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from headrace.cli.common import (
    Json,
    console,
    deployed,
    pipelines_of,
    print_json,
    print_result,
    progress_bars,
    who,
)
from headrace.cli.plans import Act, approval, show
from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.checkpoints import compact, drill, inspect, prune, restore, snapshots, verify
from headrace.store.records import to_json

checkpoint = typer.Typer(no_args_is_help=True, help="Inspect, verify, snapshot, restore, prune and drill checkpoints.")

Specs = Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE[.QUERY]]...", help="Default: all.")]
Spec = Annotated[str, typer.Argument(metavar="PIPELINE.QUERY")]


@checkpoint.command("inspect")
def checkpoint_inspect(specs: Specs = None, as_json: Json = False) -> None:
    """Show generations, offsets, state, ledger and snapshots. Reads files only."""
    root = deployed().root
    queries = [inspect.inspect(root, pipeline.name, query) for pipeline, query in _named(specs)]
    rows = [
        (
            inspected.query,
            f"{one.generation}{' *' if one.generation == inspected.current else ''}",
            one.committed_batch,
            one.age_seconds,
            one.state_bytes,
            one.ledger_records,
            one.fingerprint,
            len([kept for kept in inspected.snapshots if kept.generation == one.generation]),
        )
        for inspected in queries
        for one in inspected.generations
    ]
    heads = ("query", "generation", "batch", "age s", "state bytes", "ledger records", "fingerprint", "snapshots")
    print_result(queries, heads, rows, as_json=as_json)
    kept = [(inspected.query, one.id, one.batch, one.reason) for inspected in queries for one in inspected.snapshots]
    if kept and not as_json:
        console.print(tables.plain(("query", "snapshot", "batch", "reason"), kept))


@checkpoint.command("verify")
def checkpoint_verify(
    specs: Specs = None,
    kafka: Annotated[bool, typer.Option(help="Also ask Kafka whether it still has the offsets.")] = True,
    as_json: Json = False,
) -> None:
    """Verify structure, Kafka's offsets and the sinks. Exit code 1 if there is a critical finding."""
    deployment = deployed()
    root = deployment.root
    bindings = deployment.bindings if kafka else None
    reports = [verify.verify(root, pipeline, query, bindings) for pipeline, query in _named(specs)]
    if as_json:
        print_json(reports)
    else:
        rows = [
            (report.query, finding.severity, finding.fault, f"{finding.where} {finding.what}", finding.runbook)
            for report in reports
            for finding in report.findings
        ]
        if rows:
            console.print(tables.plain(("query", "", "fault", "what", "runbook"), rows))
        sound = sum(report.sound for report in reports)
        console.print(f"{sound} of {len(reports)} checkpoints are sound.")
    if not all(report.sound for report in reports):
        raise typer.Exit(1)


@checkpoint.command("snapshot")
def checkpoint_snapshot(
    specs: Specs = None,
    generation: Annotated[int | None, typer.Option(min=1, help="Default: the current one.")] = None,
    reason: Annotated[str, typer.Option(help="The reason, recorded in the snapshot.")] = "by hand",
    as_json: Json = False,
) -> None:
    """Take a consistent snapshot of each query, running or not, with a hash of every file."""
    root = deployed().root
    wanted = _named(specs)
    if not specs:  # all queries that have committed a batch
        wanted = [(p, q) for p, q in wanted if inspect.has_batch(root, p.name, q)]
    taken = [
        snapshots.take(root, pipeline.name, query, reason=reason, number=generation).summary
        for pipeline, query in wanted
    ]
    rows = [(names.query_name(t.pipeline, t.query), t.id, t.batch, t.files, t.bytes) for t in taken]
    print_result(taken, ("query", "snapshot", "batch", "files", "bytes"), rows, as_json=as_json)


@checkpoint.command("restore")
def checkpoint_restore(
    context: typer.Context,
    spec: Spec,
    snapshot: Annotated[str, typer.Option("--from", metavar="SNAPSHOT", help="Default: the newest.")] = "",
    reset: Annotated[bool, typer.Option("--reset", help="Begin with empty state instead of a snapshot.")] = False,
    at: Annotated[
        datetime | None, typer.Option(help="With --reset: the broker time (UTC) to begin at. Default: the beginning.")
    ] = None,
    act: Act = "",
    reason: Annotated[str, typer.Option(help="The reason, recorded in the manifest.")] = "by hand",
    as_json: Json = False,
) -> None:
    """Restore a query from a snapshot, or reset it; always begins a new generation. Exit code 1 if it is blocked or refused."""
    deployment, (pipeline, query) = deployed(), _one(spec)
    launcher = deployment.launcher()
    if at and not reset:
        raise HeadraceError("--at needs --reset: a snapshot has its own offsets.")
    starting = int(at.replace(tzinfo=UTC).timestamp() * 1000) if at else None
    chosen = "" if reset else restore.choose(launcher.root, pipeline.name, query, snapshot).id
    if not act and reset:
        show(context, restore.plan_reset(launcher, pipeline, query, starting), as_json)
        return
    bindings = deployment.bindings
    if not act:
        show(context, restore.plan(launcher, pipeline, query, chosen, bindings), as_json, snapshot=chosen)
        return
    approved = approval(act, who(), reason)
    if reset:
        made = restore.reset(launcher, pipeline, query, approved, starting)
    else:
        made = restore.act(launcher, pipeline, query, approved, chosen, bindings)
    done = restore.verified(launcher, pipeline, made, act, bindings)
    _show(done, as_json)
    if not done.sound:
        raise typer.Exit(1)


@checkpoint.command("prune")
def checkpoint_prune(
    context: typer.Context,
    specs: Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Default: all.")] = None,
    generation_days: Annotated[
        float, typer.Option(min=0, help="Keep a generation for this many days after it ended.")
    ] = 14,
    snapshot_days: Annotated[float, typer.Option(min=0, help="Keep a snapshot for this many days.")] = 30,
    keep: Annotated[int, typer.Option(min=1, help="Number of snapshots of each query to keep regardless of age.")] = 3,
    trash_days: Annotated[float, typer.Option(min=0, help="Keep files in the trash for this many days.")] = 7,
    act: Act = "",
    as_json: Json = False,
) -> None:
    """Move old generations and snapshots to the trash, and delete what has been there long enough."""
    root = deployed().root
    retention = prune.Retention(generation_days, snapshot_days, keep, trash_days)
    pipelines = pipelines_of(specs).values()
    if not act:
        show(context, prune.plan(root, pipelines, retention), as_json)
        return
    done = prune.act(root, pipelines, retention, approval(act, who()))
    if as_json:
        print_json(done)
    else:
        console.print(f"{len(done.items)} folders were moved to the trash or deleted.")


@checkpoint.command("drill")
def checkpoint_drill(
    spec: Spec,
    snapshot: Annotated[str, typer.Option("--from", metavar="SNAPSHOT", help="Default: the newest.")] = "",
    as_json: Json = False,
) -> None:
    """Let Spark continue from a snapshot in a scratch folder and compare the result with the stream. Changes nothing else."""
    deployment, (pipeline, query) = deployed(starting=True), _one(spec)
    with progress_bars() as report:
        report(f"drill of {spec}", None)
        result = drill.drill(deployment, pipeline.name, query, snapshot)
    _show(result, as_json)


@checkpoint.command("compact")
def checkpoint_compact(
    specs: Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Compact small files: ledger records into segments, closed output directories into larger ones."""
    root = deployed().root
    merged = [row for pipeline in pipelines_of(specs).values() for row in compact.compact_queries(root, pipeline)]
    rows = [(row.query, row.ledger_records, row.directories, row.removed) for row in merged]
    heads = ("query", "records merged", "directories created", "directories removed")
    print_result(merged, heads, rows, as_json=as_json)


def _show(record: object, as_json: bool) -> None:
    rows = [
        (key, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)
        for key, value in to_json(record).items()
    ]
    print_result(record, ("", ""), rows, as_json=as_json)


def _named(specs: Sequence[str] | None) -> list[tuple[Pipeline, str]]:
    """Return (pipeline, query) for each argument; a pipeline stands for all its queries."""
    wanted: Iterable[str] = specs or list(pipelines_of())
    return [chosen for spec in wanted for chosen in _queries(spec)]


def _one(spec: str) -> tuple[Pipeline, str]:
    if "." not in spec:
        raise HeadraceError(f"{spec!r} names a pipeline, but one query is needed: write PIPELINE.QUERY.")
    return _queries(spec)[0]


def _queries(spec: str) -> list[tuple[Pipeline, str]]:
    name, _, query = spec.partition(".")
    pipeline = pipelines_of([name])[name]
    known = names.query_names(pipeline)
    if query and query not in known:
        raise HeadraceError(f"Unknown query {query!r} of {name}. Known queries: {', '.join(known)}.")
    return [(pipeline, query_name) for query_name in ([query] if query else known)]
