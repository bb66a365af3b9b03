"""`headrace batch ...`: batch views, reconciliation, repair, retention and lineage; and `headrace serve-query`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from headrace.cli_common import (
    Json,
    Names,
    ProjectFolder,
    console,
    pairs_of,
    pipelines_of,
    print_json,
    progress_bars,
    time_of,
    who,
)
from headrace.contract import views as contract
from headrace.contract.records import to_json
from headrace.errors import HeadraceError
from headrace.local import airflow_config, launcher
from headrace.local.settings import Settings
from headrace.operations import (
    batch_runs,
    batch_views,
    deployment,
    lineage,
    lineage_runs,
    rebuild,
    reconcile,
    reconcile_repair,
    retention,
    serve,
    tables,
)
from headrace.operations.batch_runs import BatchRun
from headrace.operations.deployment import Deployment

batch = typer.Typer(no_args_is_help=True, help="The batch layer: views over the archive, and whether all adds up.")
DIFFERS = 4
INCOMPLETE = 5

Run = Annotated[str, typer.Argument(help="A run of `headrace batch reconcile`.")]
One = Annotated[str, typer.Argument(metavar="PIPELINE")]


@batch.command("views")
def compute(
    names: Names = None,
    first: Annotated[str | None, typer.Option("--first", help="Backfill from this day, 2026-11-23.")] = None,
    last: Annotated[str | None, typer.Option("--last", help="Backfill up to and with this day.")] = None,
    as_json: Json = False,
) -> None:
    """Compute batch views: days that are closed and new or touched, or a backfill of named days.

    Exit code 5: the archive lacks records that Kafka has, so closed days may be left for the next run.
    """
    own = _starting()
    wanted = [name for name, found in pipelines_of(names).items() if names or contract.views(found)]
    with progress_bars() as report:
        reports = [_views(own, name, first, last, report) for name in wanted]
    if as_json:
        print_json(reports)
    else:
        rows = [(r["pipeline"], len(r["days"]), view, count, f"{r['seconds']:.0f} s", r["horizon"])
                for r in reports for view, count in r["rows"].items()]  # fmt: skip
        console.print(tables.plain(("pipeline", "days", "view", "rows", "took", "horizon"), rows))
        for line in (line for each in reports for line in batch_views.behind(each)):
            console.print(line, soft_wrap=True)
    if any(each["behind"] for each in reports):
        raise typer.Exit(INCOMPLETE)


@batch.command("status")
def status(names: Names = None, as_json: Json = False) -> None:
    """Show which days the batch views hold, and their horizon."""
    own = _written()
    found = [batch_views.status(own.root, p) for p in pipelines_of(names).values() if contract.views(p)]
    if as_json:
        print_json(found)
        return
    rows = [(s["pipeline"], len(s["days"]), min(s["days"], default=""), s["horizon"], s["tables"])
            for s in found]  # fmt: skip
    console.print(tables.plain(("pipeline", "days", "first", "horizon", "tables"), rows))


@batch.command("reconcile")
def check(
    names: Names = None,
    query: Annotated[list[str] | None, typer.Option(help="Only this query (may be repeated).")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Only the last so many days, and no totals.")] = None,
    tolerance: Annotated[str, typer.Option(help="By how much a sum may differ.")] = "0",
    as_json: Json = False,
) -> None:
    """Compare every sink with the archive: batch = speed + late.

    Exit code 4: something does not add up. Exit code 5: something could not be compared, or nothing was.
    """
    own = _starting()
    with progress_bars() as report:
        reports = [
            _execute(
                own,
                reconcile.plan(own, name, queries=query, days=days, tolerance=tolerance),
                f"reconcile {name}",
                report,
            )
            for name in pipelines_of(names)
            if names or reconcile.has_run(own.root, name)
        ]
    if as_json:
        print_json(reports)
    else:
        for each in reports:
            rows = [(a["query"], a["sink"], a["status"], a["compared"], a["late"], a["pending"], a["differing"])
                    for a in each["accounts"]]  # fmt: skip
            head = ("query", "sink", "status", "compared", "late", "pending", "differ")
            console.print(tables.plain(head, rows, title=f"{each['pipeline']}, run {each['run']}"))
            for account in each["accounts"]:
                if account["differing"] or account["note"]:
                    told = reconcile.words(account) if account["differing"] else account["note"]
                    console.print(f"{account['query']}: {told}", soft_wrap=True)
    if any(each["differing"] for each in reports):
        raise typer.Exit(DIFFERS)
    if any(reconcile.not_compared(each) for each in reports):
        raise typer.Exit(INCOMPLETE)


@batch.command("trend")
def trend(
    pipeline: One, limit: Annotated[int, typer.Option(min=1, help="Newest entries.")] = 40, as_json: Json = False
) -> None:
    """Show how reconciliations went over time."""
    found = reconcile.trend(_written().root, next(iter(pipelines_of([pipeline]))), limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (f"{r['at']:%m-%d %H:%M}", r["query"], r["sink"], r.get("status"), r["compared"], r["late"], r["differing"])
        for r in found
    ]
    console.print(tables.plain(("at", "query", "sink", "status", "compared", "late", "differ"), rows))


@batch.command("repair")
def repair(
    pipeline: One,
    run: Run,
    act: Annotated[str | None, typer.Option(metavar="FINGERPRINT", help="Carry out the plan that you saw.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a repair of a run's differences would write; with --act, write it. Then reconcile again."""
    own = _written()
    planned = reconcile_repair.plan(own, pipeline, run)
    if act is not None:
        done = reconcile_repair.act(own, pipeline, run, act)
        if as_json:
            print_json(done)
        else:
            again = " ".join(f"--query {name}" for name in reconcile_repair.queries_of(planned))
            console.print(f"{done['written']} rows written, {done['deleted']} deleted, {done['verified']} verified.")
            console.print(f"Now: headrace batch reconcile {pipeline} {again}")
        return
    if as_json:
        print_json(planned)
        return
    rows = planned["rows"]
    for row in rows:
        console.print(f"{reconcile_repair.words(row)}.", soft_wrap=True)
    for why in planned["refused"]:
        console.print(f"Not repaired: {why}.")
    if rows:
        console.print(
            f"Nothing was changed. To do it: headrace batch repair {pipeline} {run} --act {planned['fingerprint']}"
        )


@batch.command("rebuild")
def rebuild_query(
    pipeline: One,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    act: Annotated[str | None, typer.Option(metavar="FINGERPRINT", help="Carry out the plan that you saw.")] = None,
    reason: Annotated[str, typer.Option(help="Why; the generation keeps it.")] = "rebuilt from the archive",
    as_json: Json = False,
) -> None:
    """Show what a rebuild of a query from the archive would do; with --act, do it: a new generation, the stream stopped."""
    own = _starting()
    planned = rebuild.plan(own, pipeline, query)
    if act is None:
        if as_json:
            print_json(to_json(planned))
            return
        console.print(
            f"Generation {planned.number} of {pipeline}.{query}: {planned.archived} offsets from the archive, "
            f"then {planned.again} from Kafka."
        )
        for blocker in planned.blockers:
            console.print(f"Blocked: {blocker}.")
        if not planned.blockers:
            console.print(f"To do it: headrace batch rebuild {pipeline} {query} --act {planned.fingerprint}")
        return
    run = rebuild.prepare(own, replace(planned, fingerprint=act), by=who(), reason=reason)
    with progress_bars() as report:
        done = rebuild.finish(own, _execute(own, run, f"rebuild {query}", report))
    if as_json:
        print_json(done)
    else:
        console.print(f"Generation {done['generation']} is ready. Now: headrace stream start {pipeline}")


@batch.command("retention")
def guard(names: Names = None, as_json: Json = False) -> None:
    """Show how long until Kafka removes what a query has not read. Exit code 4 if records are lost or soon will be."""
    own = _written()
    reports = [retention.guard(own, name) for name in pipelines_of(names)]
    if as_json:
        print_json([to_json(report) for report in reports])
    else:
        rows = []
        for report in reports:
            seconds = report.least_left_seconds
            where = ", ".join(f"{place.query} {place.topic}/{place.partition}" for place in report.places)
            rows.append((report.pipeline, report.state, None if seconds is None else f"{seconds / 3600:.1f} h", where))
        console.print(tables.plain(("pipeline", "", "least time left", "where"), rows))
        for topic in sorted({topic for report in reports for topic in report.bounded_by_bytes}):
            console.print(f"{topic} is bounded by bytes too: Kafka may remove records before their time.")
    if any(report.state in ("LOST", "AT_RISK") for report in reports):
        raise typer.Exit(DIFFERS)


@batch.command("lineage")
def show_lineage(names: Names = None, as_json: Json = False) -> None:
    """Emit OpenLineage events of the streams and show what is read and written."""
    own = _written()
    for name in pipelines_of(names):
        lineage_runs.emit_streams(own, name)
    told = lineage.events(own.root)
    if as_json:
        print_json(told)
        return
    rows = [(e["job"]["name"], [d["name"] for d in e["inputs"]], [d["name"] for d in e["outputs"]])
            for e in told]  # fmt: skip
    console.print(tables.plain(("job", "reads", "writes"), rows))


def serve_query(
    pipeline: One,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    key: Annotated[list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="A key column's value.")] = None,
    since: Annotated[str | None, typer.Option(help="First event time, 2026-11-23 or 2026-11-23T10:00.")] = None,
    until: Annotated[str | None, typer.Option(help="Event time that it ends before; default now.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a query's rows: batch up to the horizon, speed after it. Times are UTC."""
    keys = pairs_of("--key", "COLUMN=VALUE", key)
    answer = serve.query(_written(), pipeline, query, keys, since=time_of(since), until=time_of(until))
    if as_json:
        print_json(answer.to_json_dict())
        return
    shown = answer.to_json_dict()
    columns = list(shown["rows"][0]) if shown["rows"] else []
    console.print(tables.plain(columns, [tuple(row.values()) for row in shown["rows"]]))
    console.print(f"{len(shown['rows'])} rows; batch up to {shown['horizon'] or 'nowhere yet'}, speed after it.")


def written_deployment() -> Deployment:
    """Return the deployment that `headrace up` wrote. Raises HeadraceError where it did not."""
    return deployment.load(airflow_config.deployment_file(Settings.load()))


_written = written_deployment


def _starting() -> Deployment:
    return launcher.write_deployment(Settings.load(), ProjectFolder.resolve())


def _views(own: Deployment, name: str, first: str | None, last: str | None, report: Any) -> dict[str, Any]:  # noqa: ANN401
    run = batch_views.plan(own, name, first=first, last=last)
    lineage_runs.start_views(own, name, run.run)
    try:
        told = _execute(own, run, f"views of {name}", report)
    except HeadraceError as error:
        lineage_runs.fail_views(own, name, run.run, str(error))
        raise
    lineage_runs.emit_views(own, told)
    return told


def _execute(own: Deployment, run: BatchRun, what: str, report: Any) -> dict[str, Any]:  # noqa: ANN401
    report(what, None)
    return batch_runs.execute(own, run, lambda stage, done: report(what, done))
