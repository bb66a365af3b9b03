"""What the Streams page shows: every pipeline and query with its verdict, from the files that all tools share.

`plugins/streams_page.py` serves it behind Airflow's login. Nothing is asked of Kafka and nothing is done here: the
verdicts are the supervisor's, with their age. Templates escape everything; no binding is read, so no secret can show.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt

from headrace.contract.files import pipeline_files
from headrace.contract.load import Folder, by_name, read_folder
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import drivers, intent, page_quality, streams, supervision
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import Launcher
from headrace.operations.supervision import GRAVITY, Verdict

SUPERVISED_SECONDS = 180
"""Two passes and a little: an older verdict is shown as old."""

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def overview(deployment: Deployment) -> list[dict[str, Any]]:
    """Return every pipeline with its queries, the gravest verdict first, as plain JSON values.

    Ages are in seconds, durations in milliseconds, times in milliseconds since 1970, lag in offsets. A pipeline whose
    files cannot be read is UNKNOWN with the reason; it does not hide the others.
    """
    launcher = deployment.launcher()
    described = _described(deployment.project)
    found = [_pipeline(launcher, pipeline) for pipeline in described.pipelines.values()]
    strays = streams.strays(launcher, described.pipelines, described.broken)
    found += [_stray(launcher, name, reason) for name, reason in strays.items()]
    return sorted(found, key=lambda each: -GRAVITY.index(each["verdict"]))


def checked(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the checks of every sink, by pipeline (`page_quality.checks`): the first page of the Data Docs."""
    pipelines = _described(deployment.project).pipelines.values()
    return [each for pipeline in pipelines for each in page_quality.checks(deployment.root, pipeline)]


def log_tail(deployment: Deployment, pipeline: str, lines: int) -> str:
    """Return the end of the newest driver's log. Raises HeadraceError for a pipeline that there is not."""
    described = _described(deployment.project)
    launcher = deployment.launcher()
    if pipeline not in streams.strays(launcher, described.pipelines, described.broken):
        by_name(described.pipelines, pipeline)
    return launcher.log_tail(pipeline, lines)


def runbook(deployment: Deployment, verdict: str) -> str:
    """Return a verdict's runbook as HTML; raw HTML in it is escaped. Raises HeadraceError where there is none."""
    known = {each: supervision.runbook(each) for each in get_args(Verdict) if supervision.runbook(each)}
    path = deployment.project / known.get(verdict, "")
    if verdict not in known or not path.is_file():
        raise HeadraceError(f"There is no runbook for {verdict!r}: there are runbooks for {', '.join(known)}.")
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(path.read_text()))


def render(template: str, **values: object) -> str:
    """Return a template of `pages/` as HTML; values are escaped."""
    return _templates.get_template(template).render(**values)


def _pipeline(launcher: Launcher, pipeline: Pipeline) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": pipeline.name, "owner": pipeline.owner, "description": pipeline.description}
    shown["quality"] = page_quality.checks(launcher.root, pipeline)
    try:
        return shown | _state(launcher, pipeline)
    except (HeadraceError, OSError) as error:
        return shown | _unknown(f"its files cannot be read: {error}")


def _unknown(reason: str) -> dict[str, Any]:
    """Return the state of a pipeline of which nothing is known but a reason."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("supervised_ms", "runbook", "wanted", "driver", "spark_ui", "restarts_left", "next_start_ms", "last_action")
    )
    return nothing | {"verdict": "UNKNOWN", "reason": reason, "stale": False, "outcome": None, "queries": []}


def _stray(launcher: Launcher, name: str, reason: str) -> dict[str, Any]:
    """Return a pipeline whose file does not load or is gone: UNKNOWN, with the queries of its last heartbeat."""
    shown: dict[str, Any] = {"name": name, "owner": "", "description": "", "quality": []}
    try:
        rows = streams.stray_rows(launcher, name, reason)
    except (HeadraceError, OSError) as error:
        return shown | _unknown(f"{reason}; {error}")
    driver = {"state": rows[0].driver, "where": "", "detail": rows[0].detail}
    return shown | _unknown(reason) | {"driver": driver, "queries": [_query(row) for row in rows]}


def _state(launcher: Launcher, pipeline: Pipeline) -> dict[str, Any]:
    root, name = launcher.root, pipeline.name
    told: Mapping[str, Any] = supervision.read(root, name) or {}
    wish, beat, outcome = intent.read(root, name), drivers.heartbeat(root, name), drivers.outcome(root, name)
    rows = streams.rows(launcher, [pipeline])
    state = rows[0].driver if rows else "UNKNOWN"
    address = str((beat or {}).get("ui") or "")
    at_ms = told.get("at_ms")
    return {
        "verdict": told.get("verdict", "UNKNOWN"),
        "reason": told.get("reason", "no supervisor has looked at it yet"),
        "runbook": told.get("runbook") and Path(told["runbook"]).stem,
        "supervised_ms": at_ms,
        "stale": at_ms is not None and time.time() - at_ms / 1000 > SUPERVISED_SECONDS,
        "wanted": {
            "want": wish.want,
            "by": wish.by,
            "reason": wish.reason,
            "at_ms": wish.at_ms,
            "release": wish.release,
        },
        "driver": {"state": state, "where": (told.get("driver") or {}).get("where", ""), "detail": rows[0].detail},
        "spark_ui": address if state == "RUNNING" and address.startswith(("http://", "https://")) else None,
        "restarts_left": told.get("restarts_left"),
        "next_start_ms": told.get("next_start_ms") or None,
        "last_action": told.get("last_action"),
        "outcome": outcome and {key: outcome.get(key) for key in ("exit", "error", "at_ms")},
        "queries": [_query(row) for row in rows],
    }


def _query(row: streams.QueryRow) -> dict[str, Any]:
    late = row.batch_duration_ms is not None and row.trigger_ms is not None and row.batch_duration_ms > row.trigger_ms
    return row.to_json_dict() | {"query": row.query.partition(".")[2], "slower_than_trigger": late}


def _described(project: Path) -> Folder:
    folder = project / "pipelines"
    return _loaded(folder, tuple((path.name, _changed_ns(path)) for path in pipeline_files(folder)))


@lru_cache(maxsize=1)
def _loaded(folder: Path, stamps: tuple[tuple[str, int], ...]) -> Folder:
    """Return what the pipeline files hold; read again once one comes, goes or changes. The page is asked often."""
    del stamps
    return read_folder(folder)


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a link that leads nowhere
        return 0


def _ago(at_ms: int | None) -> str:
    """Return how long ago a time was, in words."""
    return "" if not at_ms else f"{_span(time.time() - at_ms / 1000)} ago"


def _span(seconds: float | None) -> str:
    """Return a length of time in its two largest units."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = divmod(int(seconds // 60), 60)[::-1], int(seconds // 3600)
    if hours < 1:
        return f"{minutes[0]} min"
    return f"{hours} h {minutes[0]} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _clock(at_ms: int | None) -> str:
    """Return a time in UTC, to the second."""
    return "" if not at_ms else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _milliseconds(value: float | None) -> str:
    return "" if value is None else _span(value / 1000)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


_templates.filters |= {"ago": _ago, "span": _span, "clock": _clock, "milliseconds": _milliseconds, "number": _number}
