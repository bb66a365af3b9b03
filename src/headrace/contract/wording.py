"""Words that refusals share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def printable(text: str, keep: str = "") -> str:
    r"""Return text with all that a terminal or a log would act on as escapes: control, format and unassigned characters.

    A line feed becomes `\n`, ESC `\x1b`, a right-to-left override `\u202e`, as `repr` writes them. `keep` names characters
    that stay. Markup is not touched: what shows the text must not read any (CVE-2021-25743 is a terminal that did).
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def code_span(text: str) -> str:
    """Return text as a code span of Markdown (CommonMark 6.1): no link, image or HTML in it is one."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {printable(text)} {fence}" if "`" in text else f"`{printable(text)}`"


def choices(given: str, allowed: Iterable[str]) -> str:
    """Return "allowed: a, b; did you mean 'b'?" for a word that is not among the allowed ones."""
    words = list(allowed)
    near = get_close_matches(given, words, n=1)
    return f"allowed: {', '.join(words) or 'none'}" + (f"; did you mean {near[0]!r}?" if near else "")


def listed(words: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last
