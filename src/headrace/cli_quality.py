"""`headrace quality run|show|accept|trend|quarantine|docs`: run the suites, and what they found."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from headrace.cli_batch import written_deployment
from headrace.cli_common import Json, Names, console, milliseconds_of, pipelines_of, print_json, progress_bars, who
from headrace.contract import paths, storage
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.quality import duty
from headrace.operations.quality.status import exit_code
from headrace.operations.quality.store import failed_words
from headrace.operations.quality.summary import Summary, coverage_words, stale_words
from headrace.operations.quality.windows import iso

quality = typer.Typer(no_args_is_help=True, help="Expectations on every sink: run them, see what they found.")

Sink = Annotated[
    str, typer.Argument(help="Such as kafka.pos_items, cassandra.pos_sales.tumbling or stage.user_logins.users.")
]
_HEAD = ("sink", "", "looked at", "window", "failed")
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
    since: Annotated[str | None, typer.Option(help="Check again from 2026-11-23T10:00 (UTC) on.")] = None,
    docs: Annotated[bool, typer.Option(help="Build the Data Docs afterwards.")] = True,
    as_json: Json = False,
) -> None:
    """Check what is new in every sink since the last check.

    Exit codes: 0 what was looked at passed, or warned; 1 a critical finding is new or open; 3 a sink could not be read;
    4 a stream is behind what its pipeline promises; 5 no sink had anything to look at.
    """
    own, since_ms = written_deployment(), milliseconds_of(since)
    found: list[dict[str, Any]] = []
    with progress_bars() as report:
        for name in pipelines_of(names):
            checks = duty.plan_checks(own, name, since_ms=since_ms)
            found += duty.run_checks(own, name, checks, lambda _, share, name=name: report(f"{name}", share))  # type: ignore[misc]
        if docs:
            report("Data Docs", None)
            duty.build_docs(own)
    if as_json:
        print_json(found)
    else:
        console.print(tables.plain(_HEAD, [_line(each) for each in found]))
    code = exit_code(each["status"] for each in found)
    if code:
        raise typer.Exit(code)


@quality.command()
def show(sink: Sink, as_json: Json = False) -> None:
    """Show the newest check of a sink: each failed expectation, why it is there, and rows that broke it."""
    own = written_deployment()
    duty.require_suite(own, sink)
    latest = storage.read_json(paths.quality_latest(own.root, sink))
    if latest is None:
        raise HeadraceError(f"{sink} was never checked: run `headrace quality run`.")
    if as_json:
        print_json(latest)
        return
    latest = {**_DEFAULTS, **latest}
    console.print(tables.plain(_HEAD, [_line(latest)]))
    for each in latest["failed"]:
        console.print(Text(printable(each["expectation"]), style="bold"), f"{each['severity']}: {each['why']}")
        told = (
            each["error"] or f"{each['unexpected']} rows ({each['percent']} %)"
            if each["unexpected"]
            else each["observed"]
        )
        console.print(f"  found: {told}")
        for row in each["examples"]:
            console.print(f"  {row}")
    for batch in latest["batches"]:
        console.print(f"  batch {batch['batch']}: {batch['found']} rows, the ledger says {batch['expected']}")
    for each in latest["open"]:
        told = ", ".join(one["expectation"] for one in each["expectations"])
        console.print(
            f"open finding {each['id']} since {iso(each['found_at_ms'])}, {printable(each['window']['name'])}: {told}",
            soft_wrap=True, markup=False,
        )  # fmt: skip


@quality.command()
def accept(
    sink: Sink,
    reason: Annotated[str, typer.Option(help="Why the rows may stay as they are. It is kept, with who accepted.")],
    finding: Annotated[
        list[str] | None, typer.Option(help="Only this finding (may be repeated); default: all open.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Accept the open critical findings of a sink: the next check opens its gate."""
    accepted = duty.accept(written_deployment(), sink, finding or [], by=who(), reason=reason)
    if as_json:
        print_json(accepted)
        return
    for each in accepted:
        told = f"Accepted {each['id']} of {sink} ({each['window']['name']}) as {each['by']}: {each['reason']}"
        console.print(printable(told), soft_wrap=True, markup=False)


@quality.command()
def trend(
    sink: Annotated[str | None, typer.Argument(help="Default: the newest check of all sinks.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Checks of the sink, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show how the checks of a sink went over time."""
    own = written_deployment()
    if sink is not None:
        duty.require_suite(own, sink)
    found = duty.trend(own, None if sink is None else [sink], limit if sink else 1)
    if as_json:
        print_json(found)
        return
    rows = [
        (name, each["checked_at"], _coloured(each["status"]), tables.number(each["rows"]), each["window"],
         f"{each['critical']} critical, {each['warnings']} warnings" if each["failed"] else "")
        for name, series in found.items()
        for each in series
    ]  # fmt: skip
    console.print(tables.plain(("sink", "checked", "", "rows", "what was checked", "failed"), rows))


@quality.command()
def quarantine(
    sink: Sink,
    window: Annotated[str | None, typer.Option(help="As `trend` shows it; default: the newest check.")] = None,
    as_json: Json = False,
) -> None:
    """Show the rows that broke an expectation, by key."""
    from headrace.operations.quality import store

    own = written_deployment()
    duty.require_suite(own, sink)
    latest = storage.read_json(paths.quality_latest(own.root, sink)) or {"window": {"name": ""}}
    rows = store.quarantined(own.bindings, sink, window or latest["window"]["name"])
    if as_json:
        print_json(rows)
        return
    shown = [(row["expectation"], row["severity"], row["row_key"], row["row"]) for row in rows]
    console.print(tables.plain(("expectation", "severity", "key", "row"), shown))


@quality.command()
def docs() -> None:
    """Build the Data Docs of all kept checks and print where they are."""
    console.print(duty.build_docs(written_deployment()), soft_wrap=True)


_DEFAULTS = Summary("", "", "", "NOTHING", {}, 0).to_json_dict()
"""For a summary that an earlier release wrote."""


def _line(summary: dict[str, Any]) -> tuple[object, ...]:
    window, told = summary["window"], failed_words(summary)
    covered = coverage_words(summary["coverage"]) or f"{summary['rows']:,} rows"
    if summary["status"] == "STALE":
        told.append(stale_words(summary["stale"]))
    return summary["sink"], _coloured(summary["status"]), covered, window.get("reason") or window["name"], told


def _coloured(status: str) -> Text:
    return Text(printable(status), style=_COLOURS.get(status, ""))
