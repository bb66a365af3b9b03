"""`headrace quality run|show|accept|trend|quarantine|docs`: run the expectation suites and show their results."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from headrace.cli.common import (
    Json,
    Names,
    console,
    milliseconds_of,
    pipelines_of,
    print_json,
    print_result,
    progress_bars,
    provisioned,
    who,
)
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.quality import tasks
from headrace.operations.quality.status import exit_code
from headrace.operations.quality.summary import Summary, coverage_words, failed_words, stale_words
from headrace.operations.quality.windows import iso
from headrace.store import paths, records, small_files

quality = typer.Typer(no_args_is_help=True, help="Expectations on every sink: run them, show their results.")

Sink = Annotated[
    str,
    typer.Argument(
        help="Name of a sink or stage, such as kafka.pos_items, cassandra.pos_sales.tumbling or stage.user_logins.users."
    ),
]
_HEAD = ("sink", "", "checked", "window", "failed")
_COLOURS = {
    "PASSED": "green",
    "WARNED": "yellow",
    "FAILED": "red",
    "UNREADABLE": "magenta",
    "STALE": "blue",
    "NOTHING": "dim",
}


@quality.command()
def run(
    names: Names = None,
    since: Annotated[
        str | None, typer.Option(help="Check again from this time, such as 2026-11-23T10:00 (UTC).")
    ] = None,
    docs: Annotated[bool, typer.Option(help="Build the Data Docs afterwards.")] = True,
    as_json: Json = False,
) -> None:
    """Check what is new in every sink since the last check.

    Exit codes: 0 everything checked passed or only warned; 1 a critical finding is new or open; 3 a sink could not be read;
    4 a stream is behind its service level objective; 5 no sink had anything to check.
    """
    deployment, since_ms = provisioned(), milliseconds_of(since)
    summaries: list[Summary] = []
    with progress_bars() as report:
        for name in pipelines_of(names):
            checks = tasks.plan_checks(deployment, name, since_ms=since_ms)
            summaries += tasks.run_checks(deployment, name, checks, lambda _, share, name=name: report(name, share))  # type: ignore[misc]
        if docs:
            report("Data Docs", None)
            tasks.build_docs(deployment)
    print_result(summaries, _HEAD, [_line(summary) for summary in summaries], as_json=as_json)
    code = exit_code(summary.status for summary in summaries)
    if code:
        raise typer.Exit(code)


@quality.command()
def show(sink: Sink, as_json: Json = False) -> None:
    """Show the newest check of a sink: each failed expectation, its purpose, and the rows that violate it."""
    deployment = provisioned()
    tasks.require_suite(deployment, sink)
    document = small_files.read_json(paths.quality_latest(deployment.root, sink))
    if document is None:
        raise HeadraceError(f"{sink} has not been checked yet. Run `headrace quality run`.")
    if as_json:
        print_json(document)
        return
    latest = records.from_json(Summary, document)
    console.print(tables.plain(_HEAD, [_line(latest)]))
    for entry in latest.failed:
        console.print(Text(printable(entry.expectation), style="bold"), f"{entry.severity}: {entry.why}")
        broken = f"{entry.unexpected} rows ({entry.percent} %)" if entry.unexpected else entry.observed
        console.print(f"  found: {entry.error or broken}")
        for row in entry.examples:
            console.print(f"  {row}")
    for batch in latest.batches:
        console.print(f"  batch {batch.batch}: {batch.rows} rows, but {batch.expected} in the ledger")
    for finding in latest.open:
        failed = ", ".join(expectation.expectation for expectation in finding.expectations)
        console.print(
            f"open finding {finding.id} since {iso(finding.found_at_ms)}, {printable(finding.window.name)}: {failed}",
            soft_wrap=True, markup=False,
        )  # fmt: skip


@quality.command()
def accept(
    sink: Sink,
    reason: Annotated[str, typer.Option(help="Why the rows may stay. Recorded with the user's name.")],
    finding: Annotated[
        list[str] | None, typer.Option(help="Only this finding (repeatable). Default: all open findings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Accept the open critical findings of a sink, so that the next check opens its gate."""
    accepted = tasks.accept(provisioned(), sink, finding or [], by=who(), reason=reason)
    if as_json:
        print_json(accepted)
        return
    for entry in accepted:
        message = f"Accepted {entry.id} of {sink} ({entry.window.name}) as {entry.by}: {entry.reason}"
        console.print(printable(message), soft_wrap=True, markup=False)


@quality.command()
def trend(
    sink: Annotated[str | None, typer.Argument(help="Default: the newest check of all sinks.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of checks of the sink, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the results of a sink's checks over time."""
    deployment = provisioned()
    if sink is not None:
        tasks.require_suite(deployment, sink)
    history = tasks.trend(deployment, None if sink is None else [sink], limit if sink else 1)
    rows = [
        (name, check.checked_at, _coloured(check.status), tables.number(check.rows), check.window,
         f"{check.critical} critical, {check.warnings} warnings" if check.failed else "")
        for name, series in history.items()
        for check in series
    ]  # fmt: skip
    print_result(history, ("sink", "checked", "", "rows", "window", "failed"), rows, as_json=as_json)


@quality.command()
def quarantine(
    sink: Sink,
    window: Annotated[str | None, typer.Option(help="As shown by `trend`. Default: the newest check.")] = None,
    as_json: Json = False,
) -> None:
    """Show the rows that violate an expectation, by key."""
    from headrace.operations.quality import store

    deployment = provisioned()
    tasks.require_suite(deployment, sink)
    latest = records.read(Summary, paths.quality_latest(deployment.root, sink)) or Summary()
    rows = store.quarantined(deployment.bindings, sink, window or latest.window.name)
    shown = [(row.expectation, row.severity, row.row_key, row.row) for row in rows]
    print_result(rows, ("expectation", "severity", "key", "row"), shown, as_json=as_json)


@quality.command()
def docs() -> None:
    """Build the Data Docs of all stored checks and print their path."""
    console.print(tasks.build_docs(provisioned()), soft_wrap=True)


def _line(summary: Summary) -> tuple[object, ...]:
    window, failures = summary.window, failed_words(summary)
    covered = coverage_words(summary.coverage) or f"{summary.rows:,} rows"
    if summary.status == "STALE":
        failures.append(stale_words(summary.stale))
    return summary.sink, _coloured(summary.status), covered, window.reason or window.name, failures


def _coloured(status: str) -> Text:
    return Text(printable(status), style=_COLOURS.get(status, ""))
