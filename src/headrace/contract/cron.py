"""Cron schedules in pipeline files: five fields, in UTC."""

from __future__ import annotations

import re

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_PART = re.compile(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?")


def cron_problem(text: str) -> str:
    """Return what is wrong with a schedule, or "". Accepts numbers, `*`, lists, ranges and steps, but no day or month names."""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        return f"it needs five fields, not {len(fields)}"
    for field, (name, least, most) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            match = _PART.fullmatch(part)
            numbers = [int(number) for number in match.groups()[:2] if number] if match else []
            if not match or numbers != sorted(numbers) or not all(least <= number <= most for number in numbers):
                return f"{part[:20]!r} is not valid as {name} ({least} to {most})"
            if match[3] and not int(match[3]):
                return f"the step of {part[:20]!r} is 0"
    return ""
