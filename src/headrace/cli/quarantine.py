"""`headrace dead-letters find|quarantine`: the record that ends a query, and how the query passes over it (ADR 49)."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer

from headrace.cli import plans
from headrace.cli.common import Json, console, pipelines_of, print_json, print_result, progress_bars, provisioned, who
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.dead_letters import find as search
from headrace.operations.dead_letters import quarantine as operation
from headrace.store import quarantine as kept
from headrace.store.records import to_json

One = Annotated[str, typer.Argument(metavar="PIPELINE")]
Query = Annotated[str | None, typer.Option(help="A query of the pipeline, by its short name.")]


def find(
    pipeline: One,
    query: Query = None,
    limit: Annotated[int, typer.Option(min=1, help="Stop after this number of records.")] = search.LIMIT,
    as_json: Json = False,
) -> None:
    """Find the records on which a crashed query's transform fails. The driver must be stopped; nothing is changed.

    Without --query, searches in every query with a batch that was planned and not committed.
    """
    described = pipelines_of([pipeline])[pipeline]
    deployment = provisioned(starting=True)
    wanted = (
        [query]
        if query
        else [q for q in described.queries if search.planned_batch(deployment.root, pipeline, q) is not None]
    )
    reports = []
    with progress_bars() as report:
        for chosen in wanted:
            shown = partial(_show, report, chosen)
            reports.append(search.find(deployment, described, chosen, limit, shown))
    if as_json:
        print_json([to_json(f) | {"command": search.quarantine_command(pipeline, f)} for f in reports])
        return
    if not reports:
        none = "has a batch that was planned and not committed: no record ended a driver."
        console.print(f"No query of {pipeline} {none}", soft_wrap=True)
    rows = [(f.query, r.topic, r.partition, r.offset, r.error) for f in reports for r in f.records]
    if rows:
        console.print(tables.plain(("query", "topic", "partition", "offset", "error"), rows))
    for result in reports:
        console.print(search.words(result), soft_wrap=True)
        if command := search.quarantine_command(pipeline, result):
            console.print(f"Correct the transform, or pass over them: {command}", soft_wrap=True)


def quarantine(
    context: typer.Context,
    pipeline: One,
    query: Query = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC:PARTITION:FIRST-LAST", help="Offsets that the query passes over (repeatable)."),
    ] = None,
    reason: Annotated[str, typer.Option(help="The reason, in the dead letters.")] = operation.REASON,
    release: Annotated[bool, typer.Option("--release", help="Take the offsets out of the quarantine.")] = False,
    act: plans.Act = "",
    as_json: Json = False,
) -> None:
    """Pass over records on which a query's transform fails: each becomes a dead letter of the query.

    Without --offsets, shows the quarantine. Only shows the plan unless --act is given.
    """
    described = pipelines_of([pipeline])[pipeline]
    deployment = provisioned()
    if not offsets:
        _list(kept.read(deployment.root, pipeline), as_json)
        return
    if query is None:
        raise HeadraceError("--offsets needs --query: only that query passes over them.")
    ranges = [kept.parse_range(text) for text in offsets]
    if not act:
        planned = (
            operation.plan_release(deployment, described, query, ranges)
            if release
            else operation.plan(deployment, described, query, ranges, reason)
        )
        plans.show(context, planned, as_json)
        return
    approval = plans.approval(act, by=who(), reason=reason)
    if release:
        operation.release(deployment, described, query, ranges, approval)
    else:
        operation.act(deployment, described, query, ranges, reason, approval)
    if as_json:
        print_json(kept.read(deployment.root, pipeline))
    else:
        done = "out of" if release else "in"
        texts = ", ".join(map(str, ranges))
        console.print(f"{texts}: {done} the quarantine of {pipeline}.{query}. Now: headrace stream start {pipeline}")


def _show(report: Any, query: str, stage: str, done: float | None) -> None:  # noqa: ANN401 - of `progress_bars`
    report(f"{query}: {stage}", done)


def _list(quarantine: kept.Quarantine, as_json: bool) -> None:
    rows = [
        (e.query, str(e), e.reason, e.by, f"{datetime.fromtimestamp(e.at_ms / 1000, UTC):%Y-%m-%d %H:%M}", _lines(e))
        for e in quarantine.entries
    ]
    heads = ("query", "offsets", "reason", "approved by", "at", "generations")
    print_result(quarantine, heads, rows, as_json=as_json)


def _lines(entry: kept.Entry) -> str:
    return f"from {entry.since}" + ("" if entry.until is None else f", before {entry.until}")
