"""From the runs of all rounds to medians and ratios, a Markdown table and a plot (SVG)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

FLOOR = "parse"


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of one figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        every = sorted(values)
        return cls(statistics.median(every), every[0], every[-1])

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass(frozen=True)
class Line:
    """One engine with one workload over all rounds."""

    workload: str
    engine: str
    cpu: Spread
    load: Spread
    ratio: Spread | None
    wall: Spread
    rss: Spread
    checked: str


def cpu_per_million(run: Mapping[str, Any]) -> float:
    """Return CPU seconds of a million events more: what a load costs whatever its size is not in it."""
    return float(run["cpu_s"] - run["small_cpu_s"]) / float(run["events"] - run["small_events"]) * 1e6


def lines(rounds: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return one line an engine, in the order of the first round.

    A ratio is that of one engine and the floor in the same round: machines differ from day to day.
    """
    named: dict[tuple[str, str], list[tuple[Mapping[str, Any], float | None]]] = {}
    for each in rounds:
        floor = next((cpu_per_million(run) for run in each["runs"] if run["engine"] == FLOOR), None)
        for run in each["runs"]:
            ratio = cpu_per_million(run) / floor if floor else None
            named.setdefault((run["workload"], run["engine"]), []).append((run, ratio))
    return [
        Line(
            workload, engine,
            cpu=Spread.of(cpu_per_million(run) for run, _ in runs),
            load=Spread.of(run["cpu_s"] for run, _ in runs),
            ratio=Spread.of(known) if (known := [ratio for _, ratio in runs if ratio is not None]) else None,
            wall=Spread.of(run["wall_s"] for run, _ in runs),
            rss=Spread.of(run["peak_rss_mb"] for run, _ in runs),
            checked=runs[-1][0]["checked"],
        )
        for (workload, engine), runs in named.items()
    ]  # fmt: skip


def small_batches(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Return milliseconds of CPU of a noop batch and of ours, and what all outputs cost in the time of one noop batch.

    The last is a ratio of cores: all queries of the driver beside Spark's one noop query over the same records.
    """
    pairs = []
    for each in rounds:
        if each.get("small"):
            by_name = {line["name"]: line for line in each["small"]["lines"]}
            pairs.append((by_name["here"], by_name["noop"]))
    if not pairs:
        return {}
    return {
        "noop query, ms a batch": Spread.of(noop["ms_a_batch"] for _, noop in pairs),
        "ours, ms a batch of one output": Spread.of(here["ms_a_batch"] for here, _ in pairs),
        "ours / noop, one output": Spread.of(here["ms_a_batch"] / noop["ms_a_batch"] for here, noop in pairs),
        "ours / noop, all three outputs": Spread.of(here["cores"] / noop["cores"] for here, noop in pairs),
    }


def markdown(result: Mapping[str, Any], engines: Mapping[str, str]) -> str:
    """Return the tables of a result; `engines` says what each engine is."""
    heads = (
        "CPU s / million events",
        "ratio to the floor",
        "CPU s of the load",
        "wall s",
        "peak RSS MB",
        "output checked",
    )
    rows = [f"| workload | engine | {' | '.join(heads)} |", "|---|---|---|---|---|---|---|---|"]
    rows += [
        f"| {line.workload} | {engines.get(line.engine, line.engine)} | {line.cpu} | {line.ratio or '-'} | "
        f"{line.load.median:.1f} | {line.wall.median:.1f} | {line.rss.median:,.0f} | {line.checked} |"
        for line in lines(result["rounds"])
    ]
    small = small_batches(result["rounds"])
    if small:
        rows += [
            "",
            "| small batches | figure |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in small.items()),
        ]
    machine = result["machine"]
    place = (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, load {machine['load']} at the end"
    )
    rounds = f"{result['events']:,} events, {len(result['rounds'])} round(s)"
    rows += ["", f"{result['date']}, commit {result['commit']}, {rounds}, {place}."]
    return "\n".join(rows)


BAR, LEFT, WIDTH = 22, 330, 420
_COLORS = {"read": "#8a8f98", "P1": "#3b78b5", "P3": "#c4722f"}


def svg(result: Mapping[str, Any], engines: Mapping[str, str]) -> str:
    """Return bars of the median CPU of a million events, with a line from minimum to maximum."""
    every = lines(result["rounds"])
    scale = WIDTH / max(line.cpu.most for line in every)
    height = BAR * len(every) + 50
    size = f'width="{LEFT + WIDTH + 80}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">CPU seconds of a million events, warm ({escape(result["date"])})</text>',
    ]
    for place, line in enumerate(every):
        top, color = 34 + place * BAR, _COLORS.get(line.workload, "#555555")
        middle = top + BAR / 2 - 2
        label = escape(f"{line.workload}: {engines.get(line.engine, line.engine)}")
        least, most = (f"{LEFT + value * scale:.1f}" for value in (line.cpu.least, line.cpu.most))
        parts += [
            f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{label}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{line.cpu.median * scale:.1f}" height="{BAR - 6}" fill="{color}"/>',
            f'<line x1="{least}" x2="{most}" y1="{middle}" y2="{middle}" stroke="black"/>',
            f'<text x="{LEFT + line.cpu.most * scale + 6:.1f}" y="{middle + 4}">{line.cpu.median:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
