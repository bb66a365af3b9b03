"""Topics `impressions` {uuid, create_date, ad_id} and `clicks` {uuid, create_date}.

Both derive from the same impressions, generated twice from the same seed. So each topic is a pure function of the mix, and
neither waits for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from headrace.operations.produce.mix import Mix
from headrace.operations.produce.record import NORMAL
from headrace.operations.produce.timeline import (
    ONLINE_HOURS,
    Draft,
    Floats,
    Made,
    Timeline,
    draw,
    milli_texts,
    planned_blocks,
    zipf,
)

ORPHAN_CLICK = "orphan_click"
SLOW_CLICK = "slow_click"
_CLICK_WINDOW = 300.0  # seconds after the impression in which the pipeline attributes a click
_SLOWEST = 900.0


@dataclass(frozen=True)
class _Showings:
    planned: Floats
    event: Floats
    uuids: list[str]
    ads: list[int]


def impressions_drafts(mix: Mix, count: int, timeline: Timeline, rng: np.random.Generator) -> Iterator[Draft]:
    """Yield `count` impressions; the key is the uuid."""
    for showing in _showings(mix, count, timeline, rng):
        yield Draft(showing.planned, showing.event, _impressions(showing))


def clicks_drafts(
    mix: Mix, count: int, timeline: Timeline, showings_rng: np.random.Generator, rng: np.random.Generator
) -> Iterator[Draft]:
    """Yield the clicks on `count` impressions, in time order, if they happen before the plan ends.

    `showings_rng` must be seeded as for `impressions_drafts`. Delays are log-normal (median 20 s, within 5 minutes),
    a share is later than the 5 minutes that count, and a share has a uuid without an impression.
    """
    waiting: list[tuple[float, str, str]] = []  # (event time, uuid, kind) of future clicks
    for showing in _showings(mix, count, timeline, showings_rng):
        waiting += _clicks(mix, showing, rng)
        waiting.sort()
        reached = float(showing.event[-1])
        due = [click for click in waiting if click[0] <= reached]
        waiting = waiting[len(due) :]
        yield from _click_drafts(due, timeline)
    yield from _click_drafts([click for click in waiting if click[0] <= timeline.end], timeline)


def _showings(mix: Mix, count: int, timeline: Timeline, rng: np.random.Generator) -> Iterator[_Showings]:
    popular = zipf(mix.ads, mix.skew)
    for planned in planned_blocks(count, timeline, ONLINE_HOURS, rng):
        size = len(planned)
        uuids = _uuids(size, rng)
        yield _Showings(planned, timeline.event_at(planned), uuids, draw(popular, size, rng).tolist())


def _impressions(showing: _Showings) -> Callable[[Floats], list[Made]]:
    def build(event: Floats) -> list[Made]:
        return [
            (uuid.encode(), f'{{"uuid":"{uuid}","create_date":"{time}","ad_id":"ad-{ad:04d}"}}'.encode(), NORMAL)
            for uuid, ad, time in zip(showing.uuids, showing.ads, milli_texts(event), strict=True)
        ]

    return build


def _clicks(mix: Mix, showing: _Showings, rng: np.random.Generator) -> list[tuple[float, str, str]]:
    size = len(showing.uuids)
    clicked = np.flatnonzero(rng.random(size) < mix.click_through)
    slow = rng.random(len(clicked)) < mix.slow_clicks
    quick_delay = np.minimum(rng.lognormal(np.log(20.0), 1.0, len(clicked)), _CLICK_WINDOW)
    delay = np.where(slow, rng.uniform(_CLICK_WINDOW + 1, _SLOWEST, len(clicked)), quick_delay)
    # Truncated to milliseconds first, so that a click whose bytes lie within the window is also labelled so.
    at = np.floor(showing.event[clicked] * 1000) / 1000 + np.floor(delay * 1000) / 1000
    clicks = [
        (time, showing.uuids[which], SLOW_CLICK if late else NORMAL)
        for time, which, late in zip(at.tolist(), clicked.tolist(), slow.tolist(), strict=True)
    ]
    orphans = int(rng.poisson(len(clicked) * mix.orphan_clicks / (1 - mix.orphan_clicks)))
    times = rng.uniform(showing.event[0], showing.event[-1], orphans).tolist()
    return clicks + [(time, uuid, ORPHAN_CLICK) for time, uuid in zip(times, _uuids(orphans, rng), strict=True)]


def _click_drafts(clicks: list[tuple[float, str, str]], timeline: Timeline) -> Iterator[Draft]:
    if not clicks:
        return

    def build(event: Floats) -> list[Made]:
        return [
            (uuid.encode(), f'{{"uuid":"{uuid}","create_date":"{time}"}}'.encode(), kind)
            for (_, uuid, kind), time in zip(clicks, milli_texts(event), strict=True)
        ]

    event = np.array([time for time, _, _ in clicks])
    yield Draft(timeline.planned_at(event), event, build)


def _uuids(count: int, rng: np.random.Generator) -> list[str]:
    digits = rng.bytes(16 * count).hex()
    return [
        f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-4{digits[at + 13 : at + 16]}"
        f"-a{digits[at + 17 : at + 20]}-{digits[at + 20 : at + 32]}"
        for at in range(0, 32 * count, 32)
    ]
