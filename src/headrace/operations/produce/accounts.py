"""Topic `logins`: `{login_id, login_at, device}`, and the directory of the users who may log in."""

from __future__ import annotations

from collections.abc import Iterator

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

UNKNOWN_USER = "unknown_user"
_DEVICES = ("web", "ios", "android", "tv")
_FIRST = ("Ada", "Bo", "Chidi", "Dana", "Emre", "Fatou", "Gil", "Hana", "Ines", "Jun", "Kofi", "Lena", "Minjun")
_LAST = ("Adeyemi", "Bauer", "Castro", "Dubois", "Eriksen", "Ferrari", "Garcia", "Haddad", "Ito", "Jansen", "Kim")


def user_directory(mix: Mix) -> list[dict[str, str]]:
    """Return the known users, `{login_id, user_name}` each. Load them before sending logins of the same mix."""
    return [
        {"login_id": _login_id(number), "user_name": f"{_FIRST[number % 13]} {_LAST[number // 13 % 11]}"}
        for number in range(mix.users)
    ]


def logins_drafts(mix: Mix, count: int, timeline: Timeline, rng: np.random.Generator) -> Iterator[Draft]:
    """Yield `count` logins: users by Zipf, mostly from their usual device, some users unknown, some devices missing."""
    eager = zipf(mix.users, mix.skew)
    order = rng.permutation(mix.users)

    def build(event: Floats) -> list[Made]:
        size = len(event)
        made: list[Made] = []
        for user, known, roll, time in zip(
            order[draw(eager, size, rng)].tolist(),
            (rng.random(size) >= mix.unknown_users).tolist(),
            rng.random(size).tolist(),
            milli_texts(event),
            strict=True,
        ):
            login_id = _login_id(user) if known else f"x{user:06d}"
            device = _DEVICES[user % 3 if roll < 0.8 else int(roll * 1000) % 4]
            device_field = "" if roll > 0.95 else f',"device":"{device}"'
            value = f'{{"login_id":"{login_id}","login_at":"{time}"{device_field}}}'
            made.append((login_id.encode(), value.encode(), NORMAL if known else UNKNOWN_USER))
        return made

    for planned in planned_blocks(count, timeline, ONLINE_HOURS, rng):
        yield Draft(planned, timeline.event_at(planned), build)


def _login_id(number: int) -> str:
    return f"u{number:06d}"
