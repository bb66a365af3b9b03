"""The content of the Streams page: every pipeline and query with its verdict, from the files that all tools share.

`plugins/streams_page.py` serves it behind Airflow's login. It sends no request to Kafka and changes nothing: the verdicts are
the supervisor's, with their age. Templates escape all values. No binding is read, so no secret can appear.
"""

from __future__ import annotations

import time
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
from headrace.operations.supervisor import memory
from headrace.operations.supervisor.memory import GRAVITY, Supervision, Verdict
from headrace.orchestration import page_quality
from headrace.store import driver_files, records
from headrace.store.records import Json

SUPERVISED_SECONDS = 180
"""A little longer than two passes: an older verdict is shown as stale."""

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def overview(deployment: Deployment) -> list[Json]:
    """Return every pipeline with its queries, the most severe verdict first, as plain JSON values.

    Ages are in seconds, durations in milliseconds, times in milliseconds since 1970, lag in offsets. A pipeline whose
    files cannot be read is UNKNOWN, with the reason, and does not hide the others.
    """
    launcher = deployment.launcher()
    described = _described(deployment.project)
    shown = [_pipeline(launcher, pipeline) for pipeline in described.pipelines.values()]
    strays = streams.strays(launcher, described.pipelines, described.broken)
    shown += [_stray(launcher, name, reason) for name, reason in strays.items()]
    return sorted(shown, key=lambda pipeline: -GRAVITY.index(pipeline["verdict"]))


def checked(deployment: Deployment) -> list[Json]:
    """Return the checks of every sink, by pipeline (`page_quality.checks`): the first page of the Data Docs."""
    pipelines = _described(deployment.project).pipelines.values()
    return [check for pipeline in pipelines for check in page_quality.checks(deployment.root, pipeline)]


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


def _pipeline(launcher: Launcher, pipeline: Pipeline) -> Json:
    shown: Json = {"name": pipeline.name, "owner": pipeline.owner, "description": pipeline.description}
    shown["quality"] = page_quality.checks(launcher.root, pipeline)
    try:
        return shown | _state(launcher, pipeline)
    except (HeadraceError, OSError) as error:
        return shown | _unknown(f"its files cannot be read: {error}")


def _unknown(reason: str) -> Json:
    """Return the state of a pipeline of which only the reason for its unknown state is known."""
    fields = _nothing() | dict.fromkeys(("wanted", "driver", "spark_ui"))
    return fields | {"verdict": "UNKNOWN", "reason": reason, "stale": False, "outcome": None, "queries": []}


def _nothing() -> Json:
    """Return the fields of an unknown supervision."""
    return dict.fromkeys(("supervised_ms", "runbook", "restarts_left", "next_start_ms", "last_action"))


def _stray(launcher: Launcher, name: str, reason: str) -> Json:
    """Return a pipeline whose file does not load or is missing: UNKNOWN, with the queries of its last heartbeat."""
    shown: Json = {"name": name, "owner": "", "description": "", "quality": []}
    try:
        rows = streams.stray_rows(launcher, name, reason)
    except (HeadraceError, OSError) as error:
        return shown | _unknown(f"{reason}; {error}")
    driver = {"state": rows[0].driver, "where": "", "detail": rows[0].detail}
    return shown | _unknown(reason) | {"driver": driver, "queries": [_query(row) for row in rows]}


def _state(launcher: Launcher, pipeline: Pipeline) -> Json:
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
    driver = {
        "state": state,
        "where": newest.driver.where if newest and newest.driver else "",
        "detail": rows[0].detail,
    }
    return {
        **_verdict(newest),
        "wanted": {
            "want": desired.want,
            "by": desired.by,
            "reason": desired.reason,
            "at_ms": desired.at_ms,
            "release": desired.release,
        },
        "driver": driver,
        "spark_ui": address if state == "RUNNING" and address.startswith(("http://", "https://")) else None,
        "outcome": record and {"exit": record.exit, "error": record.error, "at_ms": record.at_ms},
        "queries": [_query(row) for row in rows],
    }


def _verdict(newest: Supervision | None) -> Json:
    """Return the supervisor's verdict on a pipeline, or UNKNOWN if no supervisor has made a pass over it."""
    if newest is None:
        return _nothing() | {
            "verdict": "UNKNOWN",
            "reason": "no supervisor has made a pass over it yet",
            "stale": False,
        }
    return {
        "verdict": newest.verdict,
        "reason": newest.reason,
        "runbook": newest.runbook and Path(newest.runbook).stem,
        "supervised_ms": newest.at_ms,
        "stale": time.time() - newest.at_ms / 1000 > SUPERVISED_SECONDS,
        "restarts_left": newest.restarts_left,
        "next_start_ms": newest.next_start_ms or None,
        "last_action": records.to_json(newest.last_action) if newest.last_action else None,
    }


def _query(row: streams.QueryRow) -> Json:
    late = row.batch_duration_ms is not None and row.trigger_ms is not None and row.batch_duration_ms > row.trigger_ms
    return row.to_json_dict() | {"query": row.query.partition(".")[2], "slower_than_trigger": late}


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
