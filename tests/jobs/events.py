"""Seeded events for the replays: hot keys, exact borders, microseconds, late ones, refunds, refused records, silence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.support.replay import Event, Step

# Midnight, the end of a month and of a year, the 29th of February, and both nights in which European clocks are put over.
BORDERS = (
    datetime(2026, 1, 1),
    datetime(2024, 3, 1),
    datetime(2026, 5, 1),
    datetime(2026, 3, 29, 1),
    datetime(2026, 10, 25, 1),
    datetime(2026, 7, 14, 13),
)
MICRO = timedelta(microseconds=1)
# Refused by every source that the replays use; a time in 2030 would show if it moved a watermark.
REFUSED = (b"{", b"", b'{"product_id": "p1", "amount": "x", "create_date": "2030-01-01 00:00:00"}')


def sale(product: str, amount: str, moment: datetime) -> Event:
    return {"product_id": product, "amount": Decimal(amount), "create_date": moment}


def sales(rng: random.Random, steps: int, *, rows: int = 25) -> list[Step]:
    """Return `steps` steps of sales whose event time runs over a border, each up to 25 minutes behind the newest."""
    begin = rng.choice(BORDERS) - timedelta(minutes=2 * steps)
    played: list[Step] = []
    for step in range(steps):
        size = 0 if rng.random() < 0.15 else rng.randint(1, rows)
        now = begin + timedelta(minutes=4 * step)
        events: list[Event | bytes] = [
            sale(f"p{min(rng.randrange(8), rng.randrange(8))}", _amount(rng), _moment(rng, now)) for _ in range(size)
        ]
        events += rng.sample(REFUSED, rng.randrange(2))
        rng.shuffle(events)
        played.append({"pos": events})
    return played


def ads(rng: random.Random, steps: int, *, rows: int = 10) -> list[Step]:
    """Return impressions and clicks of few uuids, clicks often at the borders of the five minutes, sides often silent."""
    begin = rng.choice(BORDERS) - timedelta(minutes=2 * steps)
    waiting: list[tuple[int, str, Event]] = []
    for step in range(steps):
        now = begin + timedelta(minutes=3 * step)
        for _ in range(rng.randint(0, rows)):
            uuid, moment = f"u{rng.randrange(steps * rows // 2)}", _moment(rng, now, behind=12)
            impression = {"uuid": uuid, "create_date": moment, "ad_id": f"a{rng.randrange(2)}"}
            waiting += [(step, "impressions", impression)] * (2 if rng.random() < 0.1 else 1)
            if rng.random() < 0.7:
                gap = rng.choice((0, 300_000_000, -1, 300_000_001, rng.randint(-60_000_000, 400_000_000)))
                click = {"uuid": uuid, "create_date": moment + timedelta(microseconds=gap)}
                waiting.append((max(0, step + rng.randint(-1, 4)), "clicks", click))
    silent = {(topic, step) for topic in ("impressions", "clicks") for step in range(steps) if rng.random() < 0.2}
    played: list[dict[str, list[Event | bytes]]] = [{"impressions": [], "clicks": []} for _ in range(steps)]
    for step, topic, event in waiting:
        later = next((s for s in range(min(step, steps - 1), steps) if (topic, s) not in silent), None)
        if later is not None:
            played[later][topic].append(event)
    for events in played:
        events["clicks"] += rng.sample(REFUSED, rng.randrange(2))
        rng.shuffle(events["impressions"])
        rng.shuffle(events["clicks"])
    return list(played)


def pair(uuid: str, moment: datetime) -> Step:
    """Return a step with an impression and its click."""
    click: dict[str, Any] = {"uuid": uuid, "create_date": moment}
    return {"impressions": [click | {"ad_id": "a0"}], "clicks": [click]}


def quiet(count: int) -> Sequence[Step]:
    """Return steps without any record."""
    return [{}] * count


def _amount(rng: random.Random) -> str:
    return rng.choice(("0.10", "-0.10", "9999999999.99", f"{rng.randint(-99_999, 99_999) / 100:.2f}"))


def _moment(rng: random.Random, now: datetime, behind: float = 25) -> datetime:
    """Return a time up to `behind` minutes before now, mostly little; sometimes on a full five minutes or next to it."""
    moment = now - timedelta(minutes=behind * rng.random() ** 3)
    if rng.random() < 0.4:
        full = moment.replace(minute=moment.minute // 5 * 5, second=0, microsecond=0)
        return full + rng.choice((-MICRO, timedelta(), MICRO, timedelta(milliseconds=1)))
    return moment
