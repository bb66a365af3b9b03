"""The content of the Streams page: every pipeline and query with its verdict, from the files that all tools share.

`plugins/streams_page.py` serves it behind Airflow's login. It sends no request to Kafka and changes nothing: the verdicts are
the supervisor's, with their age. Templates escape all values. No binding is read, so no secret can appear.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import get_args

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt

from headrace.contract.files import pipeline_files
from headrace.contract.load import Folder, by_name, read_folder
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import streams
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.interface import Launcher
from headrace.operations.supervisor import history, memory
from headrace.operations.supervisor.memory import GRAVITY, Action, Supervision, Verdict
from headrace.orchestration import page_quality
from headrace.orchestration.pictures import Pictures, pictures
from headrace.store import driver_files

SUPERVISED_SECONDS = 180
"""A little longer than two passes: an older verdict is shown as stale."""

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class PageQuery(streams.QueryRow):
    """A query with its short name."""

    COMPUTED = (*streams.QueryRow.COMPUTED, "slower_than_trigger")

    @property
    def slower_than_trigger(self) -> bool:
        """Return whether the newest batch took longer than its trigger."""
        took, every = self.batch_duration_ms, self.trigger_ms
        return took is not None and every is not None and took > every


@dataclass(frozen=True)
class Wanted:
    """The desired state, as far as it is shown."""

    want: str
    by: str
    reason: str
    at_ms: int
    release: str


@dataclass(frozen=True)
class ShownDriver:
    """What the driver does, where it runs, and how that is known."""

    state: str
    where: str
    detail: str


@dataclass(frozen=True)
class End:
    """How the newest driver ended."""

    exit: str
    error: str
    at_ms: int


@dataclass(frozen=True)
class Card:
    """One pipeline. Durations are in milliseconds, times in milliseconds since 1970. None: not known.

    `reason` gives the reason for the verdict, which is `stale` if no supervisor has renewed it. `outcome` is the newest end.
    """

    name: str
    owner: str = ""
    description: str = ""
    quality: tuple[page_quality.SinkChecks, ...] = ()
    verdict: Verdict = "UNKNOWN"
    reason: str = ""
    runbook: str | None = None
    supervised_ms: int | None = None
    stale: bool = False
    restarts_left: int | None = None
    next_start_ms: int | None = None
    last_action: Action | None = None
    wanted: Wanted | None = None
    driver: ShownDriver | None = None
    spark_ui: str | None = None
    outcome: End | None = None
    queries: tuple[PageQuery, ...] = ()


def overview(deployment: Deployment) -> list[Card]:
    """Return every pipeline with its queries, the most severe verdict first.

    A pipeline whose files cannot be read is UNKNOWN, with the reason, and does not hide the others.
    """
    launcher = deployment.launcher()
    described = _described(deployment.project)
    shown = [_pipeline(launcher, pipeline) for pipeline in described.pipelines.values()]
    strays = streams.strays(launcher, described.pipelines, described.broken)
    shown += [_stray(launcher, name, reason) for name, reason in strays.items()]
    return sorted(shown, key=lambda card: -GRAVITY.index(card.verdict))


def drawn(deployment: Deployment, cards: Iterable[Card]) -> dict[str, Pictures]:
    """Return the pictures of the pipelines whose files load, by name: their flow, and their queries' last hour."""
    pipelines, until_ms = described(deployment), time.time_ns() // 1_000_000
    return {
        card.name: pictures(
            pipelines[card.name],
            {query.query: query.verdict for query in card.queries},
            history.read(deployment.root, card.name).points,
            until_ms,
        )
        for card in cards
        if card.name in pipelines
    }


def described(deployment: Deployment) -> dict[str, Pipeline]:
    """Return the pipelines whose files load, by name."""
    return dict(_described(deployment.project).pipelines)


def checked(deployment: Deployment) -> list[page_quality.SinkChecks]:
    """Return the checks of every sink, by pipeline (`page_quality.checks`): the first page of the Data Docs."""
    return [
        check for pipeline in described(deployment).values() for check in page_quality.checks(deployment.root, pipeline)
    ]


def log_tail(deployment: Deployment, pipeline: str, lines: int) -> str:
    """Return the end of the newest driver's log. Raises HeadraceError for an unknown pipeline."""
    described = _described(deployment.project)
    launcher = deployment.launcher()
    if pipeline not in streams.strays(launcher, described.pipelines, described.broken):
        by_name(described.pipelines, pipeline)
    return launcher.log_tail(pipeline, lines)


def runbook(deployment: Deployment, verdict: str) -> str:
    """Return a verdict's runbook as HTML; raw HTML in it is escaped. Raises HeadraceError for a verdict without one."""
    known = {name: memory.runbook(name) for name in get_args(Verdict) if memory.runbook(name)}
    path = deployment.project / known.get(verdict, "")
    if verdict not in known or not path.is_file():
        raise HeadraceError(f"Unknown runbook {verdict!r}. Known runbooks: {', '.join(known)}.")
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(path.read_text()))


def render(template: str, **values: object) -> str:
    """Return a template of `pages/` as HTML; values are escaped."""
    return _templates.get_template(template).render(**values)


def _pipeline(launcher: Launcher, pipeline: Pipeline) -> Card:
    quality = tuple(page_quality.checks(launcher.root, pipeline))
    card = Card(pipeline.name, pipeline.owner, pipeline.description, quality)
    try:
        return _with_state(launcher, pipeline, card)
    except (HeadraceError, OSError) as error:
        return replace(card, reason=f"its files cannot be read: {error}")


def _stray(launcher: Launcher, name: str, reason: str) -> Card:
    """Return a pipeline whose file does not load or is missing: UNKNOWN, with the queries of its last heartbeat."""
    try:
        rows = streams.stray_rows(launcher, name, reason)
    except (HeadraceError, OSError) as error:
        return Card(name, reason=f"{reason}; {error}")
    driver = ShownDriver(rows[0].driver, "", rows[0].detail)
    return Card(name, reason=reason, driver=driver, queries=_queries(rows))


def _with_state(launcher: Launcher, pipeline: Pipeline, card: Card) -> Card:
    root, name = launcher.root, pipeline.name
    newest = memory.read(root, name)
    desired, heartbeat, record = (
        desired_state.read(root, name),
        driver_files.heartbeat(root, name),
        driver_files.exit_record(root, name),
    )
    rows = streams.rows(launcher, [pipeline])
    state = rows[0].driver if rows else "UNKNOWN"
    address = (heartbeat.ui if heartbeat else None) or ""
    return replace(
        _with_verdict(card, newest),
        wanted=Wanted(desired.want, desired.by, desired.reason, desired.at_ms, desired.release),
        driver=ShownDriver(state, newest.driver.where if newest and newest.driver else "", rows[0].detail),
        spark_ui=address if state == "RUNNING" and address.startswith(("http://", "https://")) else None,
        outcome=End(record.exit, record.error, record.at_ms) if record else None,
        queries=_queries(rows),
    )


def _with_verdict(card: Card, newest: Supervision | None) -> Card:
    """Return the card with the supervisor's verdict, or UNKNOWN if no supervisor has made a pass over the pipeline."""
    if newest is None:
        return replace(card, reason="no supervisor has made a pass over it yet")
    return replace(
        card,
        verdict=newest.verdict,
        reason=newest.reason,
        runbook=newest.runbook and Path(newest.runbook).stem,
        supervised_ms=newest.at_ms,
        stale=time.time() - newest.at_ms / 1000 > SUPERVISED_SECONDS,
        restarts_left=newest.restarts_left,
        next_start_ms=newest.next_start_ms or None,
        last_action=newest.last_action,
    )


def _queries(rows: Iterable[streams.QueryRow]) -> tuple[PageQuery, ...]:
    return tuple(PageQuery(**vars(row) | {"query": row.query.partition(".")[2]}) for row in rows)


def _described(project: Path) -> Folder:
    folder = project / "pipelines"
    return _loaded(folder, tuple((path.name, _changed_ns(path)) for path in pipeline_files(folder)))


@lru_cache(maxsize=1)
def _loaded(folder: Path, stamps: tuple[tuple[str, int], ...]) -> Folder:
    """Return the content of the pipeline files. Cached until a file is added, removed or changed: requests are frequent."""
    del stamps
    return read_folder(folder)


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a broken link
        return 0


def _ago(at_ms: int | None) -> str:
    """Return the age of a time as text."""
    return "" if not at_ms else f"{_span(time.time() - at_ms / 1000)} ago"


def _span(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds // 60), 60)
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _clock(at_ms: int | None) -> str:
    """Return a time in UTC, to the second."""
    return "" if not at_ms else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _milliseconds(value: float | None) -> str:
    return "" if value is None else _span(value / 1000)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


_templates.filters |= {"ago": _ago, "span": _span, "clock": _clock, "milliseconds": _milliseconds, "number": _number}
