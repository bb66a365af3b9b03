"""`headrace quality run|show|accept|trend|quarantine|docs`: run the expectation suites and show their results."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from headrace.cli.common import (
    Json,
    Names,
    console,
    milliseconds_of,
    pipelines_of,
    print_json,
    progress_bars,
    provisioned,
    who,
)
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.quality import duty
from headrace.operations.quality.status import exit_code
from headrace.operations.quality.store import failed_words
from headrace.operations.quality.summary import Summary, coverage_words, stale_words
from headrace.operations.quality.windows import iso
from headrace.store import paths, small_files

quality = typer.Typer(no_args_is_help=True, help="Expectations on every sink: run them, show their results.")

Sink = Annotated[
    str, typer.Argument(help="Such as kafka.pos_items, cassandra.pos_sales.tumbling or stage.user_logins.users.")
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
    summaries: list[dict[str, Any]] = []
    with progress_bars() as report:
        for name in pipelines_of(names):
            checks = duty.plan_checks(deployment, name, since_ms=since_ms)
            summaries += duty.run_checks(deployment, name, checks, lambda _, share, name=name: report(name, share))  # type: ignore[misc]
        if docs:
            report("Data Docs", None)
            duty.build_docs(deployment)
    if as_json:
        print_json(summaries)
    else:
        console.print(tables.plain(_HEAD, [_line(summary) for summary in summaries]))
    code = exit_code(summary["status"] for summary in summaries)
    if code:
        raise typer.Exit(code)


@quality.command()
def show(sink: Sink, as_json: Json = False) -> None:
    """Show the newest check of a sink: each failed expectation, its purpose, and the rows that violate it."""
    deployment = provisioned()
    duty.require_suite(deployment, sink)
    latest = small_files.read_json(paths.quality_latest(deployment.root, sink))
    if latest is None:
        raise HeadraceError(f"{sink} has not been checked yet. Run `headrace quality run`.")
    if as_json:
        print_json(latest)
        return
    latest = {**_DEFAULTS, **latest}
    console.print(tables.plain(_HEAD, [_line(latest)]))
    for entry in latest["failed"]:
        console.print(Text(printable(entry["expectation"]), style="bold"), f"{entry['severity']}: {entry['why']}")
        observed = (
            entry["error"] or f"{entry['unexpected']} rows ({entry['percent']} %)"
            if entry["unexpected"]
            else entry["observed"]
        )
        console.print(f"  found: {observed}")
        for row in entry["examples"]:
            console.print(f"  {row}")
    for batch in latest["batches"]:
        console.print(f"  batch {batch['batch']}: {batch['found']} rows, but {batch['expected']} in the ledger")
    for entry in latest["open"]:
        failed = ", ".join(expectation["expectation"] for expectation in entry["expectations"])
        console.print(
            f"open finding {entry['id']} since {iso(entry['found_at_ms'])}, {printable(entry['window']['name'])}: {failed}",
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
    accepted = duty.accept(provisioned(), sink, finding or [], by=who(), reason=reason)
    if as_json:
        print_json(accepted)
        return
    for entry in accepted:
        message = f"Accepted {entry['id']} of {sink} ({entry['window']['name']}) as {entry['by']}: {entry['reason']}"
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
        duty.require_suite(deployment, sink)
    history = duty.trend(deployment, None if sink is None else [sink], limit if sink else 1)
    if as_json:
        print_json(history)
        return
    rows = [
        (name, check["checked_at"], _coloured(check["status"]), tables.number(check["rows"]), check["window"],
         f"{check['critical']} critical, {check['warnings']} warnings" if check["failed"] else "")
        for name, series in history.items()
        for check in series
    ]  # fmt: skip
    console.print(tables.plain(("sink", "checked", "", "rows", "window", "failed"), rows))


@quality.command()
def quarantine(
    sink: Sink,
    window: Annotated[str | None, typer.Option(help="As shown by `trend`. Default: the newest check.")] = None,
    as_json: Json = False,
) -> None:
    """Show the rows that violate an expectation, by key."""
    from headrace.operations.quality import store

    deployment = provisioned()
    duty.require_suite(deployment, sink)
    latest = small_files.read_json(paths.quality_latest(deployment.root, sink)) or {"window": {"name": ""}}
    rows = store.quarantined(deployment.bindings, sink, window or latest["window"]["name"])
    if as_json:
        print_json(rows)
        return
    shown = [(row["expectation"], row["severity"], row["row_key"], row["row"]) for row in rows]
    console.print(tables.plain(("expectation", "severity", "key", "row"), shown))


@quality.command()
def docs() -> None:
    """Build the Data Docs of all stored checks and print their path."""
    console.print(duty.build_docs(provisioned()), soft_wrap=True)


_DEFAULTS = Summary("", "", "", "NOTHING", {}, 0).to_json_dict()
"""Defaults for a summary that an earlier release wrote."""


def _line(summary: dict[str, Any]) -> tuple[object, ...]:
    window, failures = summary["window"], failed_words(summary)
    covered = coverage_words(summary["coverage"]) or f"{summary['rows']:,} rows"
    if summary["status"] == "STALE":
        failures.append(stale_words(summary["stale"]))
    return summary["sink"], _coloured(summary["status"]), covered, window.get("reason") or window["name"], failures


def _coloured(status: str) -> Text:
    return Text(printable(status), style=_COLOURS.get(status, ""))
