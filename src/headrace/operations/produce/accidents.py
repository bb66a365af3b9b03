"""Simulated faults: late, delayed, repeated and malformed records, with the shares of the mix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from headrace.operations.produce.mix import Mix
from headrace.operations.produce.record import Record
from headrace.operations.produce.timeline import Draft, Floats, Made

LATE, DELAYED, DUPLICATE, MALFORMED = "late", "delayed", "duplicate", "malformed"
_FATES = (MALFORMED, DUPLICATE, LATE, DELAYED)  # anything beyond their shares is a normal record
_UNHARMED = len(_FATES)

# Seconds behind the current event time. Late: a window of 5 minutes with a watermark of 10 (`pos_sales`, our longest)
# is closed after 15. Delayed: within the shortest watermark, 5 minutes (`ad_attribution`).
LATE_BY = (960.0, 3600.0)
DELAYED_BY = (30.0, 240.0)

_REPEAT_WITHIN = 1000  # a duplicate repeats one of this many previous records

# Key and event-time column of each generated topic; a test compares them with the pipelines.
KEYS = {"quickstart": "domain", "pos": "product_id", "logins": "login_id", "impressions": "uuid", "clicks": "uuid"}
EVENT_TIMES = {"pos": "create_date", "logins": "login_at", "impressions": "create_date", "clicks": "create_date"}

_Spoil = Callable[[str, bytes], bytes | None]


def _with(column_of: Callable[[str], str], replacement: object) -> _Spoil:
    """Return a spoiler that sets a column, or drops it if the replacement is the Ellipsis."""

    def spoil(topic: str, value: bytes) -> bytes:
        row = json.loads(value)
        row[column_of(topic)] = replacement
        kept = {name: cell for name, cell in row.items() if cell is not ...}
        return json.dumps(kept, ensure_ascii=False).encode()

    return spoil


def _amount(_topic: str) -> str:
    return "amount"


SPOILERS: dict[str, _Spoil] = {
    "cut_off": lambda _, value: value[: len(value) // 2],
    "not_an_object": lambda _, value: b"[" + value + b"]",
    "not_utf8": lambda _, value: value.replace(b'"', b'"\xff\xfe', 1),
    "empty_value": lambda *_: b"",
    "null_value": lambda *_: None,
    "missing_key": _with(KEYS.__getitem__, ...),
    "wrong_type": _with(KEYS.__getitem__, 42),
    "missing_time": _with(EVENT_TIMES.__getitem__, ...),
    "bad_time": _with(EVENT_TIMES.__getitem__, "2026-02-30 25:61:00"),
    "far_future": _with(EVENT_TIMES.__getitem__, "2099-12-31 23:59:59"),
    "overflow_amount": _with(_amount, 123456789012.5),
    "inexact_amount": _with(_amount, 1.005),
    "amount_in_words": _with(_amount, "twelve"),
}


def spoilers_of(topic: str) -> list[str]:
    """Return the kinds of malformed records that a topic can have."""
    kinds = list(SPOILERS)
    if topic not in EVENT_TIMES:
        kinds = [kind for kind in kinds if kind not in {"missing_time", "bad_time", "far_future"}]
    return kinds if topic == "pos" else [kind for kind in kinds if "amount" not in kind]


def finish(topic: str, drafts: Iterator[Draft], mix: Mix, rng: np.random.Generator) -> Iterator[Record]:
    """Turn drafts into records and apply the simulated faults of the mix.

    A faulty record replaces a normal one, so numbers and rates stay as planned. The first record of a topic is always normal
    (it cannot be late or repeat anything). Without event time nothing is late.
    """
    timed = topic in EVENT_TIMES
    shares = [mix.malformed, mix.duplicates, mix.late if timed else 0.0, mix.delayed if timed else 0.0]
    bounds = np.cumsum(shares)
    kinds = cycle(spoilers_of(topic))
    before: list[Made] = []
    for draft in drafts:
        size = len(draft.planned)
        fates = np.searchsorted(bounds, rng.random(size), side="right")
        if not before:
            fates[0] = _UNHARMED
        made = before + draft.build(draft.event - _behind(fates, rng))
        repeats = rng.random(size)
        for index in np.flatnonzero(fates != _UNHARMED).tolist():
            at = len(before) + index
            made[at] = _strike(topic, _FATES[fates[index]], made, at, float(repeats[index]), kinds)
        fresh = made[len(before) :]
        yield from [
            Record(topic, key, value, planned, kind)
            for (key, value, kind), planned in zip(fresh, draft.planned.tolist(), strict=True)
        ]
        before = made[-_REPEAT_WITHIN:]


def _behind(fates: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    late = rng.uniform(*LATE_BY, len(fates))
    delayed = rng.uniform(*DELAYED_BY, len(fates))
    return np.select([fates == _FATES.index(LATE), fates == _FATES.index(DELAYED)], [late, delayed], 0.0)


def _strike(topic: str, fate: str, made: list[Made], at: int, repeat: float, kinds: Iterator[str]) -> Made:
    key, value, kind = made[at]
    if fate == DUPLICATE:
        first = max(0, at - _REPEAT_WITHIN)
        key, value, kind = made[first + int(repeat * (at - first))]
        # A repeated malformed record is malformed, and is labelled so.
        return key, value, kind if kind.startswith(MALFORMED) else DUPLICATE
    if fate == MALFORMED:
        spoiler = next(kinds)
        spoiled = SPOILERS[spoiler](topic, value or b"")
        return None if spoiler == "missing_key" else key, spoiled, f"{MALFORMED}:{spoiler}"
    return key, value, fate
