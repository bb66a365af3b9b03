"""Words that refusals share."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def choices(given: str, allowed: Iterable[str]) -> str:
    """Return "allowed: a, b; did you mean 'b'?" for a word that is not among the allowed ones."""
    words = list(allowed)
    near = get_close_matches(given, words, n=1)
    return f"allowed: {', '.join(words) or 'none'}" + (f"; did you mean {near[0]!r}?" if near else "")


def listed(words: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last
