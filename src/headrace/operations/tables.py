"""Rich tables for the output of commands; each a pure function of rows.

Cells are shown literally: `literal` is the only place where a value becomes terminal text, and no markup, emoji code or
escape sequence in it is interpreted. A cell of several lines is a list of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from headrace.contract.wording import printable
from headrace.operations.produce.rows import OddRows
from headrace.operations.produce.summary import SendSummary
from headrace.operations.streams import QueryRow

_new = partial(Table, box=box.SIMPLE, title_justify="left", header_style="bold", pad_edge=False)
WIDE = 130  # width of a terminal that fits every column of a query
_COLOURS = {
    "RUNNING": "green",
    "STARTING": "yellow",
    "SILENT": "red",
    "DEAD": "red",
    "CRASHED": "red",
    "HEALTHY": "green",
    "LAGGING": "yellow",
    "TOO_MANY_KEYS": "yellow",
    "STALLED": "red",
    "MISSING": "red",
    "CRASH_LOOP": "red",
    "DUPLICATE": "red",
    "UNKNOWN": "magenta",
}


def queries(rows: Iterable[QueryRow], title: str = "", *, width: int = WIDE) -> Table:
    """Return one line per query: driver, verdict, generation, batch, rows, lag, ages, watermark; fewer columns if narrow."""
    table = _new(title=title or None)
    table.add_column("query", no_wrap=True)
    rows = list(rows)
    # If only one of the two fits: the verdict says more, once a supervisor has run.
    judged = any(row.verdict for row in rows)
    states = {"driver": width >= WIDE or not judged, "verdict": judged}
    for name in states:
        if states[name]:
            table.add_column(name, no_wrap=True)
    shown = [name for name in _QUERY_CELLS if width >= WIDE or name not in _ONLY_WIDE]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.query,
            *(coloured(getattr(row, name)) for name in states if states[name]),
            *(_QUERY_CELLS[name](row) for name in shown),
        )
    return table


_QUERY_CELLS: dict[str, Callable[[QueryRow], str]] = {
    "gen": lambda row: number(row.generation),
    "batch": lambda row: number(row.batch),
    "rows in": lambda row: number(row.rows_in),
    "rows out": lambda row: number(row.rows_out),
    "lag": lambda row: number(row.lag),
    "batch age": lambda row: seconds(row.batch_age),
    "took": lambda row: seconds(None if row.batch_duration_ms is None else row.batch_duration_ms / 1000),
    "running": lambda row: row.running,
    "zero lag in": lambda row: seconds(row.caught_up_seconds) if row.lag else "",
    "watermark": lambda row: clock(row.watermark_ms),
    "state": lambda row: number(row.state_rows) if row.state_rows else "",
}
_ONLY_WIDE = {"gen", "batch", "took", "running", "zero lag in", "state", "rows out", "watermark"}


def verdicts(rows: Sequence[QueryRow]) -> Table:
    """Return one line per reason: the queries, their desired state, restarts left, and the reason of the verdict."""
    table = _new()
    for name in ("query", "verdict", "wanted"):
        table.add_column(name, no_wrap=True)
    table.add_column("left", justify="right")
    table.add_column("because", overflow="fold")
    for _, same in groupby(rows, key=lambda row: (row.pipeline, row.verdict, row.reason)):
        first, *others = same
        who = f"{first.pipeline} ({len(others) + 1})" if others else first.query
        table.add_row(who, coloured(first.verdict), first.wanted, number(first.restarts_left), literal(first.reason))
    return table


def plain(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """Return a table whose cells and headings are shown by `literal`; headings too, because a query's columns are user data."""
    table = _new(title=literal(title) if title else None)
    for column in columns:
        table.add_column(literal(column))
    for row in rows:
        table.add_row(*map(literal, row))
    return table


def literal(cell: object) -> Text:
    """Return a cell's text: empty for None, one line per item of a list, a Text (a coloured state) unchanged."""
    if isinstance(cell, Text):
        return cell
    lines = cell if isinstance(cell, list | tuple) else [] if cell is None else [cell]
    return Text("\n".join(printable(str(line)) for line in lines))


def first_rows(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Return a few rows of each sink: sink name -> rows."""
    table = _new("sink", "first rows")
    for sink, rows in results.items():
        lines = [", ".join(f"{k}={_cell(v)}" for k, v in row.items()) for row in rows]
        table.add_row(sink, literal(lines) if lines else Text("none yet", style="dim"))
    return table


def produced(summary: SendSummary) -> Table:
    """Return one line per topic: what was sent, what Kafka acknowledged, and at which offsets."""
    title = f"{summary.acknowledged:,} records acknowledged in {summary.elapsed:.1f} s"
    if summary.paced:
        title += f"; at most {summary.max_lateness:.1f} s behind the plan"
    table = _new("topic", title=title)
    for name in ("sent", "acknowledged", "failed", "bytes"):
        table.add_column(name, justify="right")
    table.add_column("partition: offsets")
    for topic, account in sorted(summary.topics.items()):
        ranges = (f"{p}: {account.first_offsets[p]:,}-{last:,}" for p, last in sorted(account.last_offsets.items()))
        counts = (number(count) for count in (account.sent, account.acknowledged, account.failed, account.bytes))
        table.add_row(topic, *counts, "  ".join(ranges))
    return table


def odd_rows(odd: OddRows) -> list[str]:
    """Return the report on malformed rows: how many, what happened to them, and the first few."""
    lines = []
    if odd.refused:
        lines.append(
            f"{odd.refused:,} malformed rows were sent unchanged; the contract refuses them: headrace dead-letters list"
        )
    if odd.left:
        lines.append(f"{odd.left:,} rows could not be sent and were left out.")
    more = odd.refused + odd.left - len(odd.named)
    return [*lines, *(f"  {named}" for named in odd.named), *([f"  and {more:,} more"] if lines and more > 0 else [])]


def coloured(state: str) -> Text:
    """Return a state as text in its colour."""
    return Text(printable(state), style=_COLOURS.get(state, ""))


def number(value: int | None) -> str:
    """Return an integer with thousands separators; empty for None."""
    return "" if value is None else f"{value:,}"


def seconds(value: float | None) -> str:
    """Return a duration in seconds; empty for None."""
    return "" if value is None else f"{value:.1f} s"


def clock(milliseconds: int | None) -> str:
    """Return a time of day in UTC; empty for None."""
    return "" if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%H:%M:%S")


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.strftime("%H:%M") if value.second == 0 else value.strftime("%H:%M:%S")
    return str(value)
