"""`headrace batch ...`: batch views, reconciliation, repair, retention and lineage; and `headrace serve-query`."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from headrace.cli.common import (
    Json,
    Names,
    console,
    pairs_of,
    pipelines_of,
    print_json,
    print_result,
    progress_bars,
    provisioned,
    time_of,
    who,
)
from headrace.cli.plans import Act, approval, show
from headrace.contract import batch_views as contract
from headrace.errors import HeadraceError
from headrace.operations import retention, tables
from headrace.operations.batch import job_runs, rebuild, reconcile, serve, view_plans
from headrace.operations.batch import repair as batch_repair
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.deployment import Deployment
from headrace.operations.lineage import graph, run_events
from headrace.store.job_reports import RebuildReport, ReconcileReport, ViewsReport
from headrace.store.records import Record

batch = typer.Typer(no_args_is_help=True, help="The batch layer: views over the archive, and reconciliation with it.")
DIFFERS = 4
INCOMPLETE = 5

Run = Annotated[str, typer.Argument(help="A run of `headrace batch reconcile`.")]
One = Annotated[str, typer.Argument(metavar="PIPELINE")]


@batch.command("views")
def compute(
    names: Names = None,
    first: Annotated[str | None, typer.Option("--first", help="First day to backfill, such as 2026-11-23.")] = None,
    last: Annotated[str | None, typer.Option("--last", help="Last day to backfill, inclusive.")] = None,
    as_json: Json = False,
) -> None:
    """Compute batch views: closed days that are new or have changed, or a backfill of the given days.

    Exit code 5: the archive lacks records that Kafka has, so closed days may be left for the next run.
    """
    deployment = provisioned(starting=True)
    chosen = [name for name, pipeline in pipelines_of(names).items() if names or contract.views(pipeline)]
    with progress_bars() as report:
        reports = [_views(deployment, name, first, last, report) for name in chosen]
    rows = [(r.pipeline, len(r.days), view, count, f"{r.seconds:.0f} s", r.horizon)
            for r in reports for view, count in r.rows.items()]  # fmt: skip
    print_result(reports, ("pipeline", "days", "view", "rows", "took", "horizon"), rows, as_json=as_json)
    if not as_json:
        for view_report in reports:
            for line in (*view_plans.behind(view_report), *view_plans.fewer(view_report)):
                console.print(line, soft_wrap=True)
    if any(view_report.behind for view_report in reports):
        raise typer.Exit(INCOMPLETE)


@batch.command("status")
def status(names: Names = None, as_json: Json = False) -> None:
    """Show the days in the batch views and their horizon."""
    deployment = provisioned()
    states = [view_plans.status(deployment.root, p) for p in pipelines_of(names).values() if contract.views(p)]
    rows = [(s.pipeline, len(s.days), min(s.days, default=""), s.horizon, s.tables) for s in states]
    print_result(states, ("pipeline", "days", "first", "horizon", "tables"), rows, as_json=as_json)


@batch.command("reconcile")
def check(
    names: Names = None,
    query: Annotated[list[str] | None, typer.Option(help="Only this query (repeatable).")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Only this number of recent days, without totals.")] = None,
    tolerance: Annotated[str, typer.Option(help="How much a sum may differ.")] = "0",
    new: Annotated[
        bool, typer.Option("--new", help="Compare only what is new or has changed since the last run with --new.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare every sink with the archive. The result over all records must equal the sink's rows plus the late records.

    Exit code 4: something differs. Exit code 5: something, or everything, could not be compared.
    """
    deployment = provisioned(starting=True)
    with progress_bars() as report:
        reports = [
            _execute(
                deployment,
                reconcile.plan(deployment, name, queries=query, days=days, tolerance=tolerance, only_new=new),
                ReconcileReport,
                f"reconcile {name}",
                report,
            )
            for name in pipelines_of(names)
            if names or reconcile.has_run(deployment.root, name)
        ]
    if as_json:
        print_json(reports)
    else:
        for reconciled in reports:
            rows = [
                (a.query, a.sink, a.status, a.compared, a.late, a.pending, a.differing) for a in reconciled.accounts
            ]
            head = ("query", "sink", "status", "compared", "late", "pending", "differ")
            console.print(tables.plain(head, rows, title=f"{reconciled.pipeline}, run {reconciled.run}"))
            for account in reconciled.accounts:
                if account.differing or account.note:
                    detail = reconcile.words(account) if account.differing else account.note
                    console.print(f"{account.query}: {detail}", soft_wrap=True)
    if any(reconciled.differing for reconciled in reports):
        raise typer.Exit(DIFFERS)
    if any(reconcile.not_compared(reconciled) for reconciled in reports):
        raise typer.Exit(INCOMPLETE)


@batch.command("trend")
def trend(
    pipeline: One,
    limit: Annotated[int, typer.Option(min=1, help="Number of newest entries.")] = 40,
    as_json: Json = False,
) -> None:
    """Show the results of reconciliations over time."""
    entries = reconcile.trend(provisioned().root, next(iter(pipelines_of([pipeline]))), limit)
    rows = [(f"{e.at:%m-%d %H:%M}", e.query, e.sink, e.status, e.compared, e.late, e.differing) for e in entries]
    print_result(entries, ("at", "query", "sink", "status", "compared", "late", "differ"), rows, as_json=as_json)


@batch.command("repair")
def repair(context: typer.Context, pipeline: One, run: Run, act: Act = "", as_json: Json = False) -> None:
    """Repair the rows that a reconciliation run found different. With --act, write them and read them again."""
    deployment = provisioned()
    if not act:
        show(context, batch_repair.plan(deployment, pipeline, run), as_json)
        return
    done = batch_repair.act(deployment, pipeline, run, approval(act, who()))
    if as_json:
        print_json(done)
    else:
        again = " ".join(f"--query {name}" for name in done.queries)
        console.print(f"{done.written} rows written, {done.deleted} deleted, {done.verified} verified.")
        console.print(f"Now: headrace batch reconcile {pipeline} {again}")


@batch.command("rebuild")
def rebuild_query(
    context: typer.Context,
    pipeline: One,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    act: Act = "",
    reason: Annotated[str, typer.Option(help="The reason, recorded in the generation.")] = "rebuilt from the archive",
    as_json: Json = False,
) -> None:
    """Rebuild a query from the archive: a new generation, with the stream stopped. Exit code 1 if it is blocked or refused."""
    deployment = provisioned(starting=True)
    if not act:
        show(context, rebuild.plan(deployment, pipeline, query), as_json)
        return
    run = rebuild.prepare(deployment, pipeline, query, approval(act, who(), reason))
    with progress_bars() as report:
        done = rebuild.finish(deployment, _execute(deployment, run, RebuildReport, f"rebuild {query}", report))
    if as_json:
        print_json(done)
    else:
        console.print(f"Generation {done.generation} is ready. Now: headrace stream start {pipeline}")


@batch.command("retention")
def guard(names: Names = None, as_json: Json = False) -> None:
    """Show when Kafka will delete records that a query has not read. Exit code 4 if records are lost or at risk."""
    deployment = provisioned()
    reports = [retention.guard(deployment, name) for name in pipelines_of(names)]
    if as_json:
        print_json(reports)
    else:
        rows = []
        for report in reports:
            seconds = report.least_left_seconds
            where = ", ".join(f"{place.query} {place.topic}/{place.partition}" for place in report.places)
            rows.append((report.pipeline, report.state, None if seconds is None else f"{seconds / 3600:.1f} h", where))
        console.print(tables.plain(("pipeline", "", "least time left", "where"), rows))
        for topic in sorted({topic for report in reports for topic in report.bounded_by_bytes}):
            console.print(f"{topic} is also limited by size: Kafka may delete records before their retention time.")
    if any(report.state in ("LOST", "AT_RISK") for report in reports):
        raise typer.Exit(DIFFERS)


@batch.command("lineage")
def show_lineage(names: Names = None, as_json: Json = False) -> None:
    """Emit OpenLineage events of the streams, and show what they read and write."""
    deployment = provisioned()
    for name in pipelines_of(names):
        run_events.emit_streams(deployment, name)
    events = graph.events(deployment.root)
    rows = [(e["job"]["name"], [d["name"] for d in e["inputs"]], [d["name"] for d in e["outputs"]])
            for e in events]  # fmt: skip
    print_result(events, ("job", "reads", "writes"), rows, as_json=as_json)


def serve_query(
    pipeline: One,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    key: Annotated[list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Value of a key column.")] = None,
    since: Annotated[str | None, typer.Option(help="First event time, such as 2026-11-23 or 2026-11-23T10:00.")] = None,
    until: Annotated[str | None, typer.Option(help="End of the event times, exclusive. Default: now.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows (page size). Default: all.")] = None,
    after: Annotated[
        str | None, typer.Option(help="Continue after the last row of the previous page: the value of its `next`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the rows of a query, sorted by key: from the batch view up to its horizon, then from the stream's table.

    Times are UTC.
    """
    keys = pairs_of("--key", "COLUMN=VALUE", key)
    answer = serve.query(
        provisioned(), pipeline, query, keys, since=time_of(since), until=time_of(until), limit=limit, after=after
    )
    shown = answer.to_json_dict()
    if as_json:
        print_json(shown)
        return
    columns = list(shown["rows"][0]) if shown["rows"] else []
    console.print(tables.plain(columns, [tuple(row.values()) for row in shown["rows"]]))
    console.print(f"{len(shown['rows'])} rows; batch up to {shown['horizon'] or 'nowhere yet'}, speed after it.")
    if shown["next"]:
        console.print(f"More rows: add --after {shlex.quote(shown['next'])}", markup=False, soft_wrap=True)


def _views(deployment: Deployment, name: str, first: str | None, last: str | None, report: Any) -> ViewsReport:  # noqa: ANN401
    run = view_plans.plan(deployment, name, first=first, last=last)
    run_events.start_views(deployment, name, run.run)
    try:
        result = _execute(deployment, run, ViewsReport, f"views of {name}", report)
    except HeadraceError as error:
        run_events.fail_views(deployment, name, run.run, str(error))
        raise
    run_events.emit_views(deployment, result)
    return result


def _execute(deployment: Deployment, run: BatchRun, kind: type[Record], what: str, report: Any) -> Record:  # noqa: ANN401
    report(what, None)
    return job_runs.execute(deployment, run, kind, lambda stage, done: report(what, done))
