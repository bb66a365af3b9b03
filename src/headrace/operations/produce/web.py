"""Topic `quickstart`: what visitors do on our sites, `{city, domain, event}`, without event time."""

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
    planned_blocks,
    zipf,
)

# Cities in various spellings, which `lower(city)` of the pipeline unifies.
_CITIES = (
    ("Seoul", "SEOUL", "seoul"),
    ("Busan", "BUSAN"),
    ("London", "LONDON", "london"),
    ("New York", "NEW YORK", "new york"),
    ("São Paulo", "SÃO PAULO"),
    ("Zürich", "zürich"),
    ("Tokyo", "tokyo"),
    ("Nairobi", "NAIROBI"),
    ("서울",),
    ("Lagos", "lagos"),
)
_DOMAINS = ("shop.example.com", "news.example.org", "maps.example.net", "mail.example.com", "play.example.org")

# A visit is a random walk: previous action -> next action with cumulative probability; "" = the visitor leaves.
_NEXT = {
    "": ((1.0, "view"),),
    "view": ((0.45, "view"), (0.72, "click"), (1.0, "")),
    "click": ((0.40, "view"), (0.65, "cart"), (1.0, "")),
    "cart": ((0.35, "buy"), (0.65, "view"), (1.0, "")),
    "buy": ((0.20, "view"), (1.0, "")),
}
_VISITORS = 64  # concurrent visits


def quickstart_drafts(mix: Mix, count: int, timeline: Timeline, rng: np.random.Generator) -> Iterator[Draft]:
    """Yield `count` events of concurrent visits; the key is the domain."""
    busy_domains = zipf(len(_DOMAINS), mix.skew)
    busy_cities = zipf(len(_CITIES), mix.skew)
    visits = [("", "", "")] * _VISITORS  # city, domain, last event

    def build(event: Floats) -> list[Made]:
        size = len(event)
        made: list[Made] = []
        for visitor, roll, where, spelling, site in zip(
            rng.integers(0, _VISITORS, size).tolist(),
            rng.random(size).tolist(),
            draw(busy_cities, size, rng).tolist(),
            rng.integers(0, 6, size).tolist(),
            draw(busy_domains, size, rng).tolist(),
            strict=True,
        ):
            city, domain, last = visits[visitor]
            done = next(name for bound, name in _NEXT[last] if roll < bound)
            if not done:  # the visitor left, and another one arrives
                last = ""
                done = "view"
            if not last:
                city, domain = _CITIES[where][spelling % len(_CITIES[where])], _DOMAINS[site]
            visits[visitor] = (city, domain, done)
            value = f'{{"city":"{city}","domain":"{domain}","event":"{done}"}}'
            made.append((domain.encode(), value.encode(), NORMAL))
        return made

    for planned in planned_blocks(count, timeline, ONLINE_HOURS, rng):
        yield Draft(planned, timeline.event_at(planned), build)
