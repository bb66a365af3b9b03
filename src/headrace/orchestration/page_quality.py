"""The quality part of the Streams page: the newest checks of each sink, and the Data Docs.

It only reads files, so the page is as fast without Cassandra. Great Expectations' pages load styles and scripts from the
internet and contain values of records. The page shows only their text, tables and links between them, in its own frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from typing import ClassVar

from headrace.contract.checked_sinks import suites_of
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.quality import trend
from headrace.operations.quality.docs import page_of
from headrace.store import paths, small_files

SHOWN = 20
"""The number of shown checks of one sink."""

HOME = "index.html"
"""The first page is ours, because Great Expectations fills its first page by a script from the internet."""

_SEGMENT = r"/(?!\.)[A-Za-z0-9_.-]+"
_PAGE = re.compile(rf"(validations|expectations)({_SEGMENT})+\.html")
_LINK = re.compile(r"[A-Za-z0-9_./#-]+")
_TAGS = re.compile(
    "a|b|br|caption|code|dd|div|dl|dt|em|h[1-6]|hr|li|ol|p|pre|small|span|strong|table|tbody|td|th|thead|tr|ul"
)
_VOID = re.compile("area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr")
_DROPPED = {"script", "style", "template", "noscript", "iframe", "object", "svg"}
# Great Expectations shows only by an icon whether an expectation was met; the font of the icons is on the internet.
_ICONS = {"fa-check-circle": "✔ ", "fa-times": "✘ ", "fa-exclamation-triangle": "⚠ "}


@dataclass(frozen=True)
class ShownCheck:
    """One check: `why` says why nothing was checked, `page` is its page of the Data Docs, or ""."""

    checked_at_ms: int
    status: str
    window: str
    rows: int
    failed: tuple[str, ...]
    coverage: str
    why: str
    page: str


@dataclass(frozen=True)
class SinkChecks:
    """The checks of a sink, oldest first, at most SHOWN. `reason` says why they are missing if their file cannot be read."""

    COMPUTED: ClassVar = ("newest",)
    sink: str
    checks: tuple[ShownCheck, ...] = ()
    reason: str | None = None

    @property
    def newest(self) -> ShownCheck | None:
        """Return the newest check, None without any."""
        return self.checks[-1] if self.checks else None


def checks(root: str, pipeline: Pipeline) -> list[SinkChecks]:
    """Return the checks of each suite of a pipeline."""
    return [checks_of(root, sink) for sink in suites_of(pipeline)]


def checks_of(root: str, sink: str) -> SinkChecks:
    """Return the checks of one sink or stage."""
    try:
        return SinkChecks(sink, tuple(_shown(sink, point) for point in trend.read(root, sink)[:SHOWN][::-1]))
    except (HeadraceError, OSError, TypeError, ValueError, OverflowError) as error:
        return SinkChecks(sink, reason=f"trend not available: {error}")


def _shown(sink: str, point: trend.TrendPoint) -> ShownCheck:
    page = page_of(sink, point.window, point.checked_at_ms) if point.report else ""
    said = (point.failed, point.coverage, point.reason)
    return ShownCheck(point.checked_at_ms, point.status, point.window, point.rows, *said, page)


def data_docs(root: str, place: str) -> str:
    """Return a page of the Data Docs as HTML without scripts, styles and external addresses.

    `place` is relative to the first page. Raises HeadraceError for any other path, and if the page does not exist.
    """
    text = small_files.read_text(f"{paths.quality_docs(root)}/{place}") if _PAGE.fullmatch(place) else None
    if text is None:
        raise HeadraceError(
            f"Unknown page {place!r} of the Data Docs: the DAG `quality`, or `headrace quality docs`, builds them."
        )
    reader = _Sections()
    reader.feed(text)
    reader.close()
    return "".join(reader.kept)


class _Sections(HTMLParser):
    """Keeps the sections of a page of Great Expectations, by a closed list of tags. Texts are escaped."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.kept: list[str] = []
        self._open: list[tuple[str, bool]] = []  # tags below the outermost section, and whether each is shown
        self._dropped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        classes = attributes.get("class", "").split()
        if not self._open and "ge-section" not in classes:
            return
        if not self._dropped:
            self.kept += [text for name, text in _ICONS.items() if name in classes]
        shown = _TAGS.fullmatch(tag) is not None and not self._dropped
        if shown:
            self.kept.append(f"<{tag}{_attributes(tag, attributes)}>")
        if not _VOID.fullmatch(tag):
            self._open.append((tag, shown))
            self._dropped += tag in _DROPPED

    def handle_endtag(self, tag: str) -> None:
        if tag not in {name for name, _ in self._open}:
            return
        while True:  # unclosed inner tags end with it
            name, shown = self._open.pop()
            self._dropped -= name in _DROPPED
            if shown:
                self.kept.append(f"</{name}>")
            if name == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._open and not self._dropped:
            self.kept.append(escape(data))


def _attributes(tag: str, attributes: dict[str, str]) -> str:
    href, anchor = attributes.get("href", ""), attributes.get("id", "")
    kept = f' href="{href}"' if tag == "a" and _LINK.fullmatch(href) and not href.startswith("/") else ""
    return kept + (f' id="{anchor}"' if re.fullmatch(r"[A-Za-z0-9_-]+", anchor) else "")
