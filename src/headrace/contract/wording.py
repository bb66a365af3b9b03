"""Text helpers for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def printable(text: str, keep: str = "") -> str:
    r"""Return text with every character that a terminal or a log might interpret escaped: control, format and unassigned ones.

    A line feed becomes `\n`, ESC `\x1b`, a right-to-left override `\u202e`, as in `repr`. Characters in `keep` stay. Markup
    is not escaped: code that displays the text must not interpret any (CVE-2021-25743 is a terminal that did).
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def code_span(text: str) -> str:
    """Return text as a Markdown code span (CommonMark 6.1), so no link, image or HTML in it is interpreted."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {printable(text)} {fence}" if "`" in text else f"`{printable(text)}`"


def choices(given: str, allowed: Iterable[str]) -> str:
    """Return "allowed: a, b; did you mean 'b'?" for a value that is not allowed."""
    values = list(allowed)
    near = get_close_matches(given, values, n=1)
    return f"allowed: {', '.join(values) or 'none'}" + (f"; did you mean {near[0]!r}?" if near else "")


def first_line(error: object) -> str:
    """Return the first line of an error's text, at most 300 characters; its type where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def listed(items: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *head, last = items
    return f"{', '.join(head)} and {last}" if head else last
